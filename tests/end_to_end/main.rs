//! The whole relay: the repository's template on a local AWS, the functions as real binaries, a
//! target that misbehaves.
//!
//! Each test starts a stack of its own, so that they run side by side.

mod acknowledgement;
mod api;
mod archive;
mod breaker;
mod dead_letters;
mod delivery;
mod duplicates;
mod eventbridge;
mod faults;
mod hostile;
mod ledger;
mod load;
mod metrics;
mod operating;
mod permissions;
mod recovery;
mod replay;
mod soak;
mod upgrade;
mod watch;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName,
    SendMessageBatchRequestEntry,
};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::domain::circuit::{Circuit, State};
use genesys_relay::ports::events_table::EventsTable as _;
use jiff::Timestamp;
use local::faulty_proxy::FaultyProxy;
use local::genesys::Webhook;
use local::genesys_cloud::GenesysCloud;
use local::stack::{Function, FunctionError, Service, Stack, StackOptions};
use local::target::{Behaviour, Target};
use local::wait;
use serde_json::{Value, json};

/// Webhooks that are under way to ingest at the same time.
const SENDERS: usize = 16;

/// A stack, its target, and the Genesys Cloud that it can recover from.
struct Relay {
    stack: Stack,
    target: Target,
    genesys: GenesysCloud,
}

impl Relay {
    /// Starts a relay with the template's defaults but for `parameters`.
    async fn start(behaviour: Behaviour, parameters: &[(&str, u32)]) -> Result<Self> {
        Self::start_with(behaviour, parameters, "none").await
    }

    /// The same, with a recovery from this source, which runs by hand only.
    async fn start_with(
        behaviour: Behaviour,
        parameters: &[(&str, u32)],
        recovery_source: &str,
    ) -> Result<Self> {
        Self::start_through(&[], behaviour, parameters, recovery_source).await
    }

    /// The same, with functions that reach these services only through proxies.
    async fn start_through(
        ways: &[(Service, &Arc<FaultyProxy>)],
        behaviour: Behaviour,
        parameters: &[(&str, u32)],
        recovery_source: &str,
    ) -> Result<Self> {
        let (target, genesys) = (
            Target::start(behaviour).await?,
            GenesysCloud::start().await?,
        );
        // Most tests have targets that fail, and look at what becomes of each event.
        let options = StackOptions::new(target.url())
            .set("Breaker", "off")
            .recovering_from(&genesys.url(), recovery_source, &recovery::IDS);
        let options = options.set("RecoveryRateMinutes", 1440);
        let options = parameters
            .iter()
            .fold(options, |options, (name, value)| options.set(*name, value));
        let options = ways.iter().fold(options, |options, (service, proxy)| {
            options.through(*service, proxy)
        });
        Ok(Self {
            stack: Stack::start(options).await?,
            target,
            genesys,
        })
    }

    /// Sends a webhook as Genesys would, and gives the id under which it was accepted.
    async fn accept(&self, webhook: &Webhook) -> Result<String> {
        let (status, answer) = webhook.send(&self.stack.webhook_url()?).await?;
        anyhow::ensure!(status == 200, "not accepted: {status} {answer}");
        Ok(answer["eventId"].as_str().context("an eventId")?.to_owned())
    }

    /// Sends many webhooks, some at the same time, and gives their ids in the order of the
    /// webhooks.
    async fn accept_all(&self, webhooks: impl IntoIterator<Item = Webhook>) -> Result<Vec<String>> {
        let accept = |webhook: Webhook| async move { self.accept(&webhook).await };
        stream::iter(webhooks)
            .map(accept)
            .buffered(SENDERS)
            .try_collect()
            .await
    }

    /// Puts bodies into the dead-letter queue as a person would, so that nothing is known of them.
    async fn send_to_dead_letters(&self, bodies: &[String]) -> Result<()> {
        for bodies in bodies.chunks(10) {
            let entry = |(number, body): (usize, &String)| {
                SendMessageBatchRequestEntry::builder()
                    .id(number.to_string())
                    .message_body(body)
                    .build()
            };
            let entries = bodies
                .iter()
                .enumerate()
                .map(entry)
                .collect::<Result<Vec<_>, _>>()?;
            let request = self
                .stack
                .sqs()
                .send_message_batch()
                .queue_url(self.stack.output("DeadLetterQueueUrl")?);
            let failed = request.set_entries(Some(entries)).send().await?.failed;
            anyhow::ensure!(failed.is_empty(), "not sent: {failed:?}");
        }
        Ok(())
    }

    /// Kills all processes of a function, as a crash would, and says how many there were.
    async fn kill(&self, function: Function) -> Result<usize> {
        let pids = self.stack.pids_of(function)?;
        for pid in &pids {
            // One that has ended by itself in the meantime is as dead.
            Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(Stdio::null())
                .status()?;
        }
        wait::until("they have ended", || async {
            let left = self.stack.pids_of(function)?;
            Ok((!pids.iter().any(|pid| left.contains(pid))).then_some(pids.len()))
        })
        .await
    }

    /// Changes how long an invocation of a function may take.
    async fn set_timeout(&self, function: Function, seconds: i32) -> Result<()> {
        let request = self.stack.lambda().update_function_configuration();
        request
            .function_name(self.stack.function_name(function)?)
            .timeout(seconds)
            .send()
            .await?;
        Ok(())
    }

    /// Stops what takes from the events queue, or lets it go on.
    async fn set_delivering(&self, enabled: bool) -> Result<()> {
        let mappings = self
            .stack
            .lambda()
            .list_event_source_mappings()
            .send()
            .await?;
        let mapping = mappings
            .event_source_mappings()
            .first()
            .context("a mapping")?;
        let id = mapping.uuid().context("an id")?;
        self.stack
            .lambda()
            .update_event_source_mapping()
            .uuid(id)
            .enabled(enabled)
            .send()
            .await?;
        Ok(())
    }

    /// Waits until neither queue holds anything.
    async fn until_empty(&self) -> Result<()> {
        self.stack
            .until_queues("both queues are empty", |counts| {
                counts.events.total() + counts.dead_letters.total() == 0
            })
            .await?;
        Ok(())
    }

    /// Waits until all that is left are `count` dead letters.
    async fn until_dead(&self, count: u32) -> Result<()> {
        let what = format!("{count} dead letters are all that is left");
        self.stack
            .until_queues(&what, |counts| {
                counts.events.total() == 0 && counts.dead_letters.visible == count
            })
            .await?;
        Ok(())
    }

    /// All that lies in the dead-letter queue, with its attributes. It is received, and shown again
    /// at once.
    async fn dead_letters(&self) -> Result<Vec<Message>> {
        let (sqs, queue) = (self.stack.sqs(), self.stack.output("DeadLetterQueueUrl")?);
        let mut letters = Vec::new();
        loop {
            let request = sqs
                .receive_message()
                .queue_url(queue)
                .max_number_of_messages(10)
                .wait_time_seconds(0);
            let request = request
                .visibility_timeout(600)
                .message_attribute_names("All");
            let request =
                request.message_system_attribute_names(MessageSystemAttributeName::MessageGroupId);
            match request.send().await?.messages.unwrap_or_default() {
                received if received.is_empty() => break,
                received => letters.extend(received),
            }
        }
        for letters in letters.chunks(10) {
            let entry = |(number, letter): (usize, &Message)| {
                let entry =
                    ChangeMessageVisibilityBatchRequestEntry::builder().id(number.to_string());
                entry
                    .set_receipt_handle(letter.receipt_handle.clone())
                    .visibility_timeout(0)
                    .build()
            };
            let entries = letters
                .iter()
                .enumerate()
                .map(entry)
                .collect::<Result<Vec<_>, _>>()?;
            let request = sqs
                .change_message_visibility_batch()
                .queue_url(queue)
                .set_entries(Some(entries));
            let failed = request.send().await?.failed;
            anyhow::ensure!(failed.is_empty(), "not shown again: {failed:?}");
        }
        Ok(letters)
    }

    /// Invokes the replay function, which has to answer.
    async fn replay(&self, request: Value) -> Result<Value> {
        Ok(self.stack.invoke(Function::Replay, &request).await??)
    }

    /// Invokes the replay function, which has to fail with an error of this type.
    async fn replay_fails(&self, request: Value, error_type: &str) -> Result<FunctionError> {
        let Err(error) = self.stack.invoke(Function::Replay, &request).await? else {
            anyhow::bail!("{request} was carried out");
        };
        anyhow::ensure!(error.0["errorType"] == error_type, "{request}: {error}");
        Ok(error)
    }

    /// Has the breaker be in this state, and have looked at this time for the last time.
    async fn save_circuit(&self, state: State, last_run_at: Timestamp) -> Result<()> {
        let table = DynamoDb::new(
            self.stack.config(),
            self.stack.output("EventsTableName")?.to_owned(),
        );
        let circuit = Circuit {
            state,
            ..Circuit::closed(last_run_at)
        };
        Ok(table.save_circuit(&circuit).await?)
    }

    /// All that is known of an event.
    async fn show(&self, id: &str) -> Result<Value> {
        self.replay(json!({ "action": "show", "eventId": id }))
            .await
    }

    /// Number of 2xx answers of the target, by event id.
    fn deliveries(&self) -> BTreeMap<String, usize> {
        let mut deliveries = BTreeMap::new();
        for request in self.target.requests() {
            if request
                .answer
                .and_then(|answer| answer.status)
                .is_some_and(|status| (200..300).contains(&status))
            {
                *deliveries.entry(request.event_id).or_default() += 1;
            }
        }
        deliveries
    }
}

/// A webhook of the tutorials' envelope, told from others by `name`.
fn webhook(name: &str) -> Webhook {
    let body = json!({
        "webhookId": "11111111-2222-4333-8444-555555555555",
        "webhookName": "orders",
        "payload": { "name": name },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::with_shared_secret(body.to_string())
}

/// The name given to [`webhook`], as the target received it.
fn name_of(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["payload"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
