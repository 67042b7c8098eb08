//! Accounts of the same events by the table, the queues and the target, for comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_sqs::types::Message;
use fastrand::Rng;
use jiff::Timestamp;
use local::stack::Function;
use local::target::ReceivedRequest;
use local::wait;
use serde::Deserialize;

use crate::relay::Relay;

/// Error in the record of an attempt that crashed.
pub(crate) const CRASHED: &str = "the processor ended before it could record this attempt";

/// Number of the attempt, over the event's whole life, that a delivery belongs to.
pub(crate) fn attempt_of(request: &ReceivedRequest) -> usize {
    let attempt = request
        .headers
        .get("x-relay-attempt")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    attempt.unwrap_or_default()
}

/// A kill, some time between the two.
#[derive(Debug, Clone)]
pub(crate) struct Kill {
    pub(crate) function: Function,
    pub(crate) before: Timestamp,
    pub(crate) after: Timestamp,
}

impl Kill {
    /// True where it can have ended an attempt that began at `at` and had this much time.
    pub(crate) fn can_have_ended(&self, at: Timestamp, time: Duration) -> bool {
        at <= self.after && self.before <= at + time
    }
}

/// Kills one process of a function that is there, if there is one, and says when.
pub(crate) fn kill_one(relay: &Relay, function: Function, rng: &mut Rng) -> Result<Option<Kill>> {
    let Some(pid) = rng.choice(relay.stack.pids_of(function)?) else {
        return Ok(None);
    };
    let before = Timestamp::now();
    let killed = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status()?
        .success();
    Ok(killed.then(|| Kill {
        function,
        before,
        after: Timestamp::now(),
    }))
}

/// Waits for a condition for as long as deliveries arrive, however slow the machine is.
pub(crate) async fn until(
    relay: &Relay,
    what: &str,
    is_so: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    loop {
        let before = relay.target.requests().len();
        let outcome = wait::until(what, || async { Ok(is_so().await?.then_some(())) }).await;
        if outcome.is_ok() || relay.target.requests().len() == before {
            return outcome;
        }
    }
}

/// Number of invocations of the processor that ended like this, by the log of the emulator.
pub(crate) fn ended(relay: &Relay, how: &str) -> Result<usize> {
    let log = std::fs::read_to_string(relay.stack.emulator().log_file())?;
    let mark = format!(
        "Lambda {}: {how}",
        relay.stack.function_name(Function::Processor)?
    );
    Ok(log.lines().filter(|line| line.contains(&mark)).count())
}

/// Observations of one event.
#[derive(Debug, Deserialize)]
pub(crate) struct Kept {
    pub(crate) event_id: String,
    pub(crate) state: String,
    pub(crate) attempts_made: usize,
    #[serde(default)]
    pub(crate) attempts: Vec<KeptAttempt>,
    pub(crate) reason: Option<String>,
}

impl Kept {
    /// Number of recorded deliveries.
    pub(crate) fn deliveries(&self) -> usize {
        self.attempts
            .iter()
            .filter(|attempt| attempt.status == Some(200))
            .count()
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct KeptAttempt {
    /// Its end; of one that crashed, its beginning.
    pub(crate) at: Timestamp,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

pub(crate) async fn records(relay: &Relay) -> Result<BTreeMap<String, Kept>> {
    let mut records = BTreeMap::new();
    for (key, item) in relay.items().await? {
        // Kept bodies, leases, and the breaker with what it goes by: no event's id has such a
        // character.
        if item.contains_key("state") && !key.contains('#') {
            let record: Kept = serde_dynamo::from_item(item)?;
            records.insert(record.event_id.clone(), record);
        }
    }
    Ok(records)
}

/// The events whose messages lie in the dead-letter queue.
pub(crate) async fn dead_letters(relay: &Relay) -> Result<BTreeSet<String>> {
    let id = |message: Message| {
        Some(
            message
                .message_attributes?
                .get("event_id")?
                .string_value()?
                .to_owned(),
        )
    };
    relay
        .dead_letters()
        .await?
        .into_iter()
        .map(|message| id(message).context("an event id"))
        .collect()
}

/// The attempts that the target answered with 2xx, by event.
pub(crate) fn answered(relay: &Relay) -> BTreeMap<String, BTreeSet<usize>> {
    let mut answered: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for request in relay.target.requests() {
        if request
            .answer
            .as_ref()
            .is_some_and(|answer| answer.status == Some(200))
        {
            answered
                .entry(request.event_id.clone())
                .or_default()
                .insert(attempt_of(&request));
        }
    }
    answered
}
