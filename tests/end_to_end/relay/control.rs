//! Changes of a running relay: crashes, settings, schedules, messages by hand.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_lambda::types::{Environment, EventSourceMappingConfiguration};
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use genesys_relay::domain::circuit::{Circuit, State};
use genesys_relay::ports::events_table::EventsTable as _;
use jiff::Timestamp;
use local::stack::Function;
use local::wait;

use super::Relay;

/// True once the parent of a process hears of its end, which is after its last thread.
fn has_ended(pid: u32) -> bool {
    let is_zombie = |stat: String| {
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with('Z'));
        state.unwrap_or_default()
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map(Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    threads.map_or(true, |threads| threads <= 1) && stat.map_or(true, is_zombie)
}

impl Relay {
    /// Puts bodies into the dead-letter queue as a person would, so that nothing is known of them.
    pub(crate) async fn send_to_dead_letters(
        &self,
        bodies: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let bodies: Vec<_> = bodies.into_iter().collect();
        for bodies in bodies.chunks(10) {
            let mut request = self.stack.sqs().send_message_batch();
            request = request.queue_url(self.stack.output("DeadLetterQueueUrl")?);
            for (number, body) in bodies.iter().enumerate() {
                let entry = SendMessageBatchRequestEntry::builder().id(number.to_string());
                request = request.entries(entry.message_body(body).build()?);
            }
            let failed = request.send().await?.failed;
            ensure!(failed.is_empty(), "not sent: {failed:?}");
        }
        Ok(())
    }

    /// Kills all processes of a function, as a crash would, and returns their number.
    pub(crate) async fn kill(&self, function: Function) -> Result<usize> {
        let pids = self.stack.pids_of(function)?;
        for pid in &pids {
            // A process may have ended by itself in the meantime.
            let mut kill = Command::new("kill");
            kill.args(["-KILL", &pid.to_string()])
                .stderr(Stdio::null())
                .status()?;
        }
        wait::until("they have ended", || async {
            Ok(pids.iter().all(|pid| has_ended(*pid)).then_some(pids.len()))
        })
        .await
    }

    /// Changes the longest duration of an invocation of a function.
    pub(crate) async fn set_timeout(&self, function: Function, seconds: i32) -> Result<()> {
        let request = self.stack.lambda().update_function_configuration();
        let name = self.stack.function_name(function)?;
        request.function_name(name).timeout(seconds).send().await?;
        Ok(())
    }

    /// Sets or removes an environment variable of a function.
    pub(crate) async fn set_variable(
        &self,
        function: Function,
        name: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let (lambda, of) = (self.stack.lambda(), self.stack.function_name(function)?);
        let configuration = lambda.get_function_configuration().function_name(of);
        let environment = configuration.send().await?.environment;
        let mut variables = environment
            .and_then(|all| all.variables)
            .unwrap_or_default();
        variables.remove(name);
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        let environment = Environment::builder().set_variables(Some(variables));
        let request = lambda.update_function_configuration().function_name(of);
        request.environment(environment.build()).send().await?;
        Ok(())
    }

    /// Returns events of killed processors after this time instead of six times their time-out. It
    /// must be longer than a lease.
    pub(crate) async fn set_visibility(&self, seconds: u32) -> Result<()> {
        let queues = [self.stack.output("QueueUrl")?].into_iter();
        for queue in queues.chain(self.stack.ordered_queue()) {
            let request = self.stack.sqs().set_queue_attributes().queue_url(queue);
            request
                .attributes(QueueAttributeName::VisibilityTimeout, seconds.to_string())
                .send()
                .await?;
        }
        Ok(())
    }

    /// Runs a copy of a schedule of the template once and now.
    pub(crate) async fn run_schedule(&self, original: &str, name: &str) -> Result<()> {
        self.stack.aws().schedule_now(original, name).await
    }

    /// The event source mappings of the queues.
    pub(crate) async fn mappings(&self) -> Result<Vec<EventSourceMappingConfiguration>> {
        let mappings = self.stack.lambda().list_event_source_mappings();
        let mappings = mappings.send().await?.event_source_mappings;
        Ok(mappings.unwrap_or_default())
    }

    /// Disables or enables the event source mappings.
    pub(crate) async fn set_delivering(&self, enabled: bool) -> Result<()> {
        for mapping in self.mappings().await? {
            let request = self.stack.lambda().update_event_source_mapping();
            let request = request.uuid(mapping.uuid.context("an id")?);
            request.enabled(enabled).send().await?;
        }
        Ok(())
    }

    /// Waits until the event source mappings are disabled.
    pub(crate) async fn until_not_delivering(&self) -> Result<()> {
        wait::until("the mappings are disabled", || async {
            let mappings = self.mappings().await?;
            let is_off = |mapping: &EventSourceMappingConfiguration| {
                mapping.state.as_deref() == Some("Disabled")
            };
            Ok(mappings.iter().all(is_off).then_some(()))
        })
        .await
    }

    /// Empties the dead-letter queue, of hidden messages too.
    pub(crate) async fn purge(&self) -> Result<()> {
        let queue = self.stack.output("DeadLetterQueueUrl")?;
        let request = self.stack.sqs().purge_queue().queue_url(queue);
        request.send().await?;
        Ok(())
    }

    /// Sets the state of the breaker and the time of its last run.
    pub(crate) async fn save_circuit(&self, state: State, last_run_at: Timestamp) -> Result<()> {
        let circuit = Circuit {
            state,
            ..Circuit::closed(last_run_at)
        };
        Ok(self.table()?.save_circuit(&circuit).await?)
    }

    /// Deletes the lease of a killed run, which would otherwise expire with the run's time.
    pub(crate) async fn end_lease(&self, of: &str) -> Result<()> {
        let table = self.stack.output("EventsTableName")?;
        let request = self.stack.dynamodb().delete_item().table_name(table);
        let key = AttributeValue::S(format!("lease#{of}"));
        request.key("event_id", key).send().await?;
        Ok(())
    }
}
