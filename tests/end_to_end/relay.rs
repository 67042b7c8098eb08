//! A relay under test, with its target and the Genesys Cloud that it can recover from.

mod control;
mod observe;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use local::faulty_proxy::FaultyProxy;
use local::genesys::Webhook;
use local::genesys_cloud::GenesysCloud;
use local::stack::{Function, FunctionError, QueueCounts, Service, Stack, StackOptions};
use local::target::{Answer, Behaviour, ReceivedRequest, Target};
use local::wait;
use serde_json::{Value, json};

pub(crate) use self::observe::{Item, accepted_names, assert_has, name_of, peak_memory};
use crate::recovery;

/// Webhooks in flight to ingest at the same time. More start more of its processes at once, and
/// none of them in time on a busy machine.
const SENDERS: usize = 4;

/// Times that a sender asks again at most. On a busy machine ingest may not be able to check a
/// webhook in time; asked again, it must.
const MAX_RETRIES: usize = 10;

/// Copies of dead letters that retries of senders leave at most.
const MAX_COPIES: usize = 20;

/// Errors of a run that another run, or a move, excludes.
const BUSY: [&str; 2] = ["Busy", "Moving"];

/// Retries after a second.
pub(crate) const RETRIES: [(&str, &str); 2] =
    [("BackoffBaseSeconds", "1"), ("BackoffCapSeconds", "1")];

/// Retries after a second, and leases that end ten seconds after a claim.
pub(crate) const QUICK: [(&str, &str); 3] =
    [RETRIES[0], RETRIES[1], ("ProcessorTimeoutSeconds", "5")];

/// A target that refuses every event for good.
pub(crate) const REFUSED: Behaviour = Behaviour::Status {
    code: 404,
    retry_after: None,
};

/// A stack, its target, and the Genesys Cloud that it can recover from.
pub(crate) struct Relay {
    pub(crate) stack: Stack,
    pub(crate) target: Target,
    pub(crate) genesys: GenesysCloud,
}

impl Relay {
    /// Starts a relay with the template's defaults but for `parameters`. Without a breaker, since
    /// most tests have targets that fail; its recovery runs by hand only.
    pub(crate) async fn start(behaviour: Behaviour, parameters: &[(&str, &str)]) -> Result<Self> {
        Self::start_through(&[], behaviour, parameters).await
    }

    /// The same, with functions that reach these services only through proxies.
    pub(crate) async fn start_through(
        ways: &[(Service, &Arc<FaultyProxy>)],
        behaviour: Behaviour,
        parameters: &[(&str, &str)],
    ) -> Result<Self> {
        let target = Target::start(behaviour).await?;
        let mut options = StackOptions::new(target.url());
        for (service, proxy) in ways {
            options = options.through(*service, proxy);
        }
        Self::start_with(target, options, parameters).await
    }

    /// The same with a target that is there already, and options that lead to it.
    pub(crate) async fn start_with(
        target: Target,
        options: StackOptions,
        parameters: &[(&str, &str)],
    ) -> Result<Self> {
        let genesys = GenesysCloud::start().await?;
        let mut options = options
            .set("Breaker", "off")
            .recovering_from(&genesys.url(), "none", &recovery::IDS)
            .set("RecoveryRateMinutes", 1440);
        for (name, value) in parameters {
            options = options.set(*name, value);
        }
        let stack = Stack::start(options).await?;
        Ok(Self {
            stack,
            target,
            genesys,
        })
    }

    /// Sends a webhook once, and returns the status and the answer.
    pub(crate) async fn send(&self, webhook: &Webhook) -> Result<(u16, Value)> {
        webhook.send(&self.stack.webhook_url()?).await
    }

    /// Sends a webhook until it is accepted, as Genesys does, and returns its id: on a busy machine
    /// ingest may not be able to check it in time.
    pub(crate) async fn accept(&self, webhook: &Webhook) -> Result<String> {
        let requests = AtomicUsize::new(0);
        wait::until("the webhook is accepted", || async {
            let (status, answer) = self.send(webhook).await?;
            let retries = requests.fetch_add(1, Ordering::Relaxed);
            let is_retried = status >= 500 && retries < MAX_RETRIES;
            ensure!(status == 200 || is_retried, "refused: {status} {answer}");
            Ok(answer["eventId"].as_str().map(str::to_owned))
        })
        .await
    }

    /// Sends many webhooks, some at the same time, and returns their ids in the same order.
    pub(crate) async fn accept_all(
        &self,
        webhooks: impl IntoIterator<Item = Webhook>,
    ) -> Result<Vec<String>> {
        let accept = |webhook: Webhook| async move { self.accept(&webhook).await };
        stream::iter(webhooks)
            .map(accept)
            .buffered(SENDERS)
            .try_collect()
            .await
    }

    /// Sends events that the target refuses, and waits until only their dead letters are left.
    pub(crate) async fn accept_dead(
        &self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Vec<String>> {
        let webhooks = names.into_iter().map(|name| webhook(name.as_ref()));
        let ids = self.accept_all(webhooks).await?;
        self.until_all_dead(ids.len()).await?;
        Ok(ids)
    }

    /// Waits until the queues hold a dead letter of each of these events and nothing else. The
    /// copy that a sender's retry has left is removed.
    pub(crate) async fn until_all_dead(&self, count: usize) -> Result<()> {
        for _ in 0..MAX_COPIES {
            let are_there = |counts: QueueCounts| {
                let dead = counts.dead_letters;
                (counts.events.total(), dead.in_flight) == (0, 0) && dead.visible as usize >= count
            };
            let what = format!("{count} events are dead");
            let counts = self.stack.until_queues(&what, are_there).await?;
            let surplus = counts.dead_letters.visible as usize - count;
            if surplus == 0 {
                return Ok(());
            }
            ensure!(surplus <= MAX_COPIES, "{surplus} dead letters too many");
            self.replay(json!({ "action": "reconcile" })).await?;
        }
        bail!("reconcile does not remove copies of dead letters")
    }

    /// Waits until neither queue holds a message.
    pub(crate) async fn until_empty(&self) -> Result<()> {
        self.until_dead(0).await
    }

    /// Waits until the queues hold `count` dead letters and nothing else.
    pub(crate) async fn until_dead(&self, count: u32) -> Result<()> {
        let what = format!("{count} dead letters are all that is left");
        let is_so = |counts: QueueCounts| {
            let dead = counts.dead_letters;
            counts.events.total() == 0 && (dead.visible, dead.total()) == (count, count)
        };
        self.stack.until_queues(&what, is_so).await.map(drop)
    }

    /// Invokes the replay function, which must succeed.
    pub(crate) async fn replay(&self, request: Value) -> Result<Value> {
        Ok(self.stack.invoke(Function::Replay, &request).await??)
    }

    /// Invokes the replay function, which must fail with an error of this type.
    pub(crate) async fn replay_fails(
        &self,
        request: Value,
        error_type: &str,
    ) -> Result<FunctionError> {
        let Err(error) = self.stack.invoke(Function::Replay, &request).await? else {
            bail!("{request} was carried out");
        };
        ensure!(error.0["errorType"] == error_type, "{request}: {error}");
        Ok(error)
    }

    /// Invokes a function until no other run, and no move, is in its way.
    pub(crate) async fn until_free(&self, function: Function, request: &Value) -> Result<Value> {
        wait::until("no other run is in progress", || async {
            match self.stack.invoke(function, request).await? {
                Ok(report) => Ok(Some(report)),
                Err(error) if BUSY.iter().any(|kind| error.0["errorType"] == *kind) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

/// A webhook of the tutorials' envelope, told from others by `name`.
pub(crate) fn webhook(name: &str) -> Webhook {
    let body = json!({
        "webhookId": "11111111-2222-4333-8444-555555555555",
        "webhookName": "orders",
        "payload": { "name": name },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::with_shared_secret(body.to_string())
}

/// Treats the first delivery of each event so, and accepts all others.
pub(crate) fn at_first(answer: Answer) -> Behaviour {
    Behaviour::script(move |request: &ReceivedRequest| match request.nth {
        1 => answer.clone(),
        _ => Answer::status(200),
    })
}

/// An answer of this status after half a minute, longer than any processor here waits.
pub(crate) fn hanging(status: u16) -> Answer {
    Answer {
        delay: Duration::from_secs(30),
        ..Answer::status(status)
    }
}
