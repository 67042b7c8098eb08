//! Delivers a batch of events: every record on its own, all at the same time, each to an end that SQS is told of.

mod attempts;
mod probe;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::domain::event::Event;
use crate::domain::message::{Message, Stamp};
use crate::domain::retry::Schedule;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::queue::{QueueError, ReceiptHandle, Sender, VisibilityTimeout};
use crate::ports::target::{Cause, Failure, Target};
use crate::runtime::logging::display_chain;

pub use self::attempts::AttemptCounter;

/// What still runs is aborted this long before the invocation ends, so that the rest can be reported.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// The answer is given this long before the invocation ends, whatever SQS does: without an answer the whole batch
/// comes back, delivered records included.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// A claim outlives its invocation by this much, for clocks that differ.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// The use case, over its ports.
pub struct Processor<E, D, W, T, C> {
    /// The queue the records came from.
    pub events: E,
    /// Where events go that can never be delivered.
    pub dead_letters: D,
    /// Who is at which event, and what became of it.
    pub table: W,
    /// Where events are delivered.
    pub target: T,
    /// When to try again, and how often.
    pub schedule: Schedule,
    /// Dates what is recorded.
    pub clock: C,
    /// Spreads retries, so that events that failed together do not come back together.
    pub rng: Mutex<fastrand::Rng>,
    /// What the attempts came to, for the breaker and for people.
    pub attempts: AttemptCounter,
}

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct ReceivedMessage {
    /// SQS's name for the message, by which its failure is reported.
    pub message_id: String,
    /// What its visibility is changed by.
    pub receipt: Option<ReceiptHandle>,
    /// How often it has been received, this time included (`ApproximateReceiveCount`).
    pub receive_count: u32,
    /// When SQS took it (`SentTimestamp`).
    pub sent_at: Timestamp,
    /// What it holds.
    pub message: Message,
}

impl ReceivedMessage {
    /// What SQS knows of its message.
    pub fn stamp(&self) -> Stamp<'_> {
        Stamp { sent_at: self.sent_at, message_id: Some(&self.message_id) }
    }
}

/// What SQS is to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposition {
    /// Delete it: it was delivered, or is durable in the dead-letter queue.
    Delete,
    /// Show it again at that time.
    RetryAt(Instant),
}

impl<E, D, W, T, C> Processor<E, D, W, T, C>
where
    E: VisibilityTimeout,
    D: Sender,
    W: EventsTable,
    T: Target,
    C: Clock,
{
    /// Delivers the records, and returns the message ids of those that SQS must keep.
    ///
    /// By `deadline` no task is left: whatever a frozen function had under way would wake in the next invocation.
    /// A record that panics fails alone.
    pub async fn process(self: &Arc<Self>, records: Vec<ReceivedMessage>, deadline: Instant) -> Vec<String> {
        let records = Arc::new(records);
        let settlements = self.settle_all(&records, deadline).await;
        let kept: Vec<(&ReceivedMessage, Instant)> = records
            .iter()
            .zip(settlements)
            .filter_map(|(record, settlement)| match settlement {
                Disposition::Delete => None,
                Disposition::RetryAt(at) => Some((record, at)),
            })
            .collect();
        let (visibility_set, ()) = tokio::join!(
            timeout_at(deadline - ANSWER_TIME, self.set_visibility(&kept)),
            self.attempts.write(&self.table, deadline - ANSWER_TIME)
        );
        if visibility_set.is_err() {
            // The messages come back after the queue's own visibility timeout: later, but not lost.
            tracing::warn!(records = kept.len(), "no time left to set when records are tried again");
        }
        kept.into_iter().map(|(record, _)| record.message_id.clone()).collect()
    }

    async fn settle_all(self: &Arc<Self>, records: &Arc<Vec<ReceivedMessage>>, deadline: Instant) -> Vec<Disposition> {
        let mut tasks = JoinSet::new();
        let mut positions = HashMap::new();
        for position in 0..records.len() {
            let (processor, records) = (Arc::clone(self), Arc::clone(records));
            // On the heap, since a task is moved around, and this one is as large as all that it calls.
            let task = tasks.spawn(Box::pin(async move { processor.settle(&records[position], deadline).await }));
            positions.insert(task.id(), position);
        }
        // Until its task says otherwise, a record is one that ran out of time.
        let mut settlements: Vec<Result<Disposition, &str>> =
            vec![Err("the invocation ran out of time"); records.len()];
        let mut note = |joined: Result<(Id, Disposition), JoinError>| {
            let (id, settlement) = match joined {
                Ok((id, settlement)) => (id, Ok(settlement)),
                Err(error) if error.is_panic() => (error.id(), Err("the delivery panicked")),
                Err(_) => return,
            };
            if let Some(&position) = positions.get(&id) {
                settlements[position] = settlement;
            }
        };
        while let Ok(Some(joined)) = timeout_at(deadline - REPORT_TIME, tasks.join_next_with_id()).await {
            note(joined);
        }
        tasks.abort_all();
        while let Some(joined) = tasks.join_next_with_id().await {
            note(joined);
        }
        let unfinished = |record: &ReceivedMessage, detail: &str| {
            // Its lease may stand, and would turn away whoever comes before its end.
            let settlement = self.again_at(record, deadline + LEASE_PAST_DEADLINE);
            self.log_failure(record, None, &Failure::new(Cause::NotSent, detail), settlement);
            settlement
        };
        let pairs = settlements.into_iter().zip(records.iter());
        pairs.map(|(settlement, record)| settlement.unwrap_or_else(|detail| unfinished(record, detail))).collect()
    }

    /// When SQS shows the record again: after its backoff, or at once when SQS is to move it to the dead letters.
    fn again(&self, record: &ReceivedMessage, attempt: u32, retry_after: Option<Duration>) -> Disposition {
        self.again_at(record, Instant::now() + self.delay(attempt, retry_after))
    }

    fn again_at(&self, record: &ReceivedMessage, at: Instant) -> Disposition {
        if self.schedule.is_last(record.receive_count) {
            return Disposition::RetryAt(Instant::now());
        }
        Disposition::RetryAt(at)
    }

    fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.schedule.delay(attempt, retry_after, &mut rng)
    }

    /// Tells SQS last of all: a short delay could otherwise run out while the batch is still at work.
    async fn set_visibility(&self, kept: &[(&ReceivedMessage, Instant)]) {
        let now = Instant::now();
        let mut open: Vec<(&ReceivedMessage, ReceiptHandle, Duration)> = Vec::new();
        for (record, at) in kept {
            if let Some(receipt) = &record.receipt {
                open.push((record, receipt.clone(), at.saturating_duration_since(now)));
            }
        }
        for last in [false, true] {
            let changes: Vec<_> = open.iter().map(|(_, receipt, delay)| (receipt.clone(), *delay)).collect();
            let results = self.events.change_visibility(&changes).await;
            let mut again = Vec::new();
            for (change, result) in open.into_iter().zip(results) {
                match result {
                    Ok(()) => {}
                    Err(QueueError::Unavailable(_)) if !last => again.push(change),
                    Err(error) => tracing::warn!(
                        event_id = change.0.message.event_id(),
                        message_id = change.0.message_id,
                        error = display_chain(&error),
                        "a record is tried again after the queue's visibility timeout instead of its backoff"
                    ),
                }
            }
            if again.is_empty() {
                return;
            }
            open = again;
        }
    }

    /// One line for each failure, with what happens next.
    fn log_failure(&self, record: &ReceivedMessage, event: Option<&Event>, failure: &Failure, settlement: Disposition) {
        let (next, delay) = match settlement {
            Disposition::Delete => ("dead letter", None),
            Disposition::RetryAt(_) if self.schedule.is_last(record.receive_count) => ("redrive", None),
            Disposition::RetryAt(at) => ("retry", Some(at.saturating_duration_since(Instant::now()))),
        };
        tracing::warn!(
            event_id = event.map(|event| event.id.as_str()).or_else(|| record.message.event_id()),
            source = event.map(|event| event.source.as_str()),
            message_id = record.message_id,
            attempt = record.receive_count,
            status = failure.cause.status(),
            error = failure.detail,
            next,
            delay_ms = delay.map(millis),
            "delivery failed"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
