//! Observations of a running relay: queues, records, logs, and the target.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName,
};
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::domain::event_record::EventRecord;
use genesys_relay::ports::events_table::EventsTable as _;
use local::stack::Function;
use local::target::ReceivedRequest;
use local::wait;
use serde_json::{Value, json};

use super::Relay;

/// Item of the events table.
pub(crate) type Item = HashMap<String, AttributeValue>;

impl Relay {
    /// Numbers of messages in the events queue and in the dead-letter queue.
    pub(crate) async fn held(&self) -> Result<(u32, u32)> {
        let counts = self.stack.queue_counts().await?;
        Ok((counts.events.total(), counts.dead_letters.total()))
    }

    /// Reads the whole dead-letter queue, and makes its messages visible again.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Message>> {
        self.messages(self.stack.output("DeadLetterQueueUrl")?)
            .await
    }

    /// Reads all visible messages of a queue, and makes them visible again.
    pub(crate) async fn messages(&self, queue: &str) -> Result<Vec<Message>> {
        let (sqs, mut letters) = (self.stack.sqs(), Vec::new());
        loop {
            let request = sqs.receive_message().queue_url(queue);
            let request = request.max_number_of_messages(10).wait_time_seconds(0);
            let request = request.visibility_timeout(600);
            let received = request
                .message_attribute_names("All")
                .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
                .send()
                .await?;
            match received.messages.unwrap_or_default() {
                received if received.is_empty() => break,
                received => letters.extend(received),
            }
        }
        for letters in letters.chunks(10) {
            let mut request = sqs.change_message_visibility_batch().queue_url(queue);
            for (number, letter) in letters.iter().enumerate() {
                let entry =
                    ChangeMessageVisibilityBatchRequestEntry::builder().id(number.to_string());
                let receipt = letter.receipt_handle.clone();
                let entry = entry.set_receipt_handle(receipt).visibility_timeout(0);
                request = request.entries(entry.build()?);
            }
            let failed = request.send().await?.failed;
            ensure!(failed.is_empty(), "not visible again: {failed:?}");
        }
        Ok(letters)
    }

    /// Shows an event to an operator.
    pub(crate) async fn show(&self, id: &str) -> Result<Value> {
        self.replay(json!({ "action": "show", "eventId": id }))
            .await
    }

    pub(crate) fn table(&self) -> Result<DynamoDb> {
        let name = self.stack.output("EventsTableName")?.to_owned();
        Ok(DynamoDb::new(self.stack.config(), name))
    }

    /// All items of the events table, by key.
    pub(crate) async fn items(&self) -> Result<BTreeMap<String, Item>> {
        let table = self.stack.output("EventsTableName")?;
        let request = self.stack.dynamodb().scan().table_name(table);
        let mut pages = request.into_paginator().items().send();
        let mut items = BTreeMap::new();
        while let Some(item) = pages.try_next().await? {
            let key = item.get("event_id").and_then(|key| key.as_s().ok());
            items.insert(key.context("an item without a key")?.clone(), item);
        }
        Ok(items)
    }

    pub(crate) async fn record(&self, id: &str) -> Result<Option<EventRecord>> {
        Ok(self.table()?.get(&id.parse()?).await?)
    }

    /// Contents of the lines that a function has logged. A line appears when its invocation ends.
    pub(crate) async fn log(&self, function: Function) -> Result<Vec<Value>> {
        let lines = self.stack.log_lines(function, 0).await?;
        Ok(lines.into_iter().map(|line| line.content).collect())
    }

    /// Waits for `times` lines of a function's log that `wanted` accepts, and returns the first.
    pub(crate) async fn until_logged(
        &self,
        function: Function,
        times: usize,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let what = format!("{function:?} logs {times} times: {what}");
        wait::until(&what, || async {
            let mut lines = self.log(function).await?;
            lines.retain(&wanted);
            Ok((lines.len() >= times).then(|| lines.swap_remove(0)))
        })
        .await
    }

    /// Waits until the processor has said this `times` times, about any event.
    pub(crate) async fn until_said(&self, text: &str, times: usize) -> Result<()> {
        let is_it = |line: &Value| {
            let mut said = ["message", "error"]
                .iter()
                .map(|field| line[field].as_str());
            said.any(|said| said.is_some_and(|said| said.contains(text)))
        };
        let wait = self.until_logged(Function::Processor, times, text, is_it);
        wait.await.map(drop)
    }

    /// Waits until a delivery is at the target that `is_it` accepts.
    pub(crate) async fn until_at_target(
        &self,
        is_it: impl Fn(&ReceivedRequest) -> bool,
    ) -> Result<()> {
        let any = |requests: &[ReceivedRequest]| requests.iter().any(&is_it);
        let wait = self.target.until("a delivery is at the target", any);
        wait.await.map(drop)
    }

    /// Statuses of the target for the deliveries of an event, in their order.
    pub(crate) fn answers(&self, id: &str) -> Vec<Option<u16>> {
        let requests = self.target.requests_of(id).into_iter();
        requests
            .map(|request| request.answer.and_then(|answer| answer.status))
            .collect()
    }

    /// Number of 2xx answers of the target, by event id.
    pub(crate) fn deliveries(&self) -> BTreeMap<String, usize> {
        let mut deliveries = BTreeMap::new();
        for request in self.target.requests() {
            let status = request.answer.and_then(|answer| answer.status);
            if status.is_some_and(|status| (200..300).contains(&status)) {
                *deliveries.entry(request.event_id).or_default() += 1;
            }
        }
        deliveries
    }

    /// Checks that the target accepted just these events, each once.
    #[track_caller]
    pub(crate) fn assert_delivered_once(&self, ids: &[impl AsRef<str>]) {
        let expected = ids.iter().map(|id| (id.as_ref().to_owned(), 1));
        assert_eq!(self.deliveries(), expected.collect());
    }
}

/// Most memory that any process of a function has had, in bytes.
pub(crate) fn peak_memory(relay: &Relay, function: Function) -> Result<u64> {
    let peak = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let pids = relay.stack.pids_of(function)?;
    // A process that has ended in the meantime has none.
    Ok(pids.into_iter().filter_map(peak).max().unwrap_or_default() * 1024)
}

/// Name given to [`webhook`], as the target received it.
pub(crate) fn name_of(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = body["payload"]["name"].as_str();
    name.unwrap_or_default().to_owned()
}

/// Names of the events that the target accepted, in order of names.
pub(crate) fn accepted_names(relay: &Relay) -> Vec<String> {
    let requests = relay.target.requests().into_iter();
    let accepted = requests.filter(|request| {
        let answer = request.answer.as_ref();
        answer.is_some_and(|answer| answer.status == Some(200))
    });
    let mut names: Vec<_> = accepted.map(|request| name_of(&request.body)).collect();
    names.sort();
    names
}

/// Checks fields of a JSON value: by name, or by pointer where the name begins with a slash.
#[track_caller]
#[expect(
    clippy::needless_pass_by_value,
    reason = "each caller writes it in place"
)]
pub(crate) fn assert_has(actual: &Value, expected: Value) {
    for (name, value) in expected.as_object().expect("an object") {
        let found = match name.strip_prefix('/') {
            Some(_) => actual.pointer(name),
            None => actual.get(name),
        };
        assert_eq!(found.unwrap_or(&Value::Null), value, "{name} of {actual}");
    }
}
