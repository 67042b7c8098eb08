//! Delivers a batch of events: every record on its own, all at the same time, each to an end that SQS is told of.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock::Clock;
use crate::event::Event;
use crate::events_table::{EventsTable, TableError, Written};
use crate::logging::chain;
use crate::message::Message;
use crate::queue::{QueueError, ReceiptHandle, Sender, VisibilityTimeout};
use crate::reason::{Reason, ReasonKind, excerpt};
use crate::record::{Attempt, Claim, ClaimRequest, Claiming, Context, State, Transition};
use crate::retry::{Disposition, Schedule, disposition};
use crate::target::{Cause, Delivery, Failure, Outcome, Target};

/// Deliveries end this long before the invocation does, so that their outcome can still be recorded and told to SQS.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// What still runs is aborted this long before the invocation ends, so that the rest can be reported.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// That a delivery was made is not tried to be recorded any more this long before the invocation ends.
const RECORD_TIME: Duration = Duration::from_millis(1750);

/// The answer is given this long before the invocation ends, whatever SQS does: without an answer the whole batch
/// comes back, delivered records included.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// A claim outlives its invocation by this much, for clocks that differ.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// How often a claim is tried that others keep changing under our hands.
const CLAIM_ROUNDS: usize = 3;

/// How long an event is left alone that others keep changing under our hands.
const CONTENDED: SignedDuration = SignedDuration::from_secs(1);

/// Between two tries to record a delivery.
const RECORD_PAUSE: Duration = Duration::from_millis(200);

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
}

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct Record {
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

/// What SQS is to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settlement {
    /// Delete it: it was delivered, or is durable in the dead-letter queue.
    Done,
    /// Show it again at that time.
    Again(Instant),
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
    pub async fn process(self: &Arc<Self>, records: Vec<Record>, deadline: Instant) -> Vec<String> {
        let records = Arc::new(records);
        let settlements = self.settle_all(&records, deadline).await;
        let kept: Vec<(&Record, Instant)> = records
            .iter()
            .zip(settlements)
            .filter_map(|(record, settlement)| match settlement {
                Settlement::Done => None,
                Settlement::Again(at) => Some((record, at)),
            })
            .collect();
        if timeout_at(deadline - ANSWER_TIME, self.set_visibility(&kept)).await.is_err() {
            // The messages come back after the queue's own visibility timeout: later, but not lost.
            tracing::warn!(records = kept.len(), "no time left to set when records are tried again");
        }
        kept.into_iter().map(|(record, _)| record.message_id.clone()).collect()
    }

    async fn settle_all(self: &Arc<Self>, records: &Arc<Vec<Record>>, deadline: Instant) -> Vec<Settlement> {
        let mut tasks = JoinSet::new();
        let mut positions = HashMap::new();
        for position in 0..records.len() {
            let (processor, records) = (Arc::clone(self), Arc::clone(records));
            let task = tasks.spawn(async move { processor.settle(&records[position], deadline).await });
            positions.insert(task.id(), position);
        }
        // Until its task says otherwise, a record is one that ran out of time.
        let mut settlements: Vec<Result<Settlement, &str>> = vec![Err("the invocation ran out of time"); records.len()];
        let mut note = |joined: Result<(Id, Settlement), JoinError>| {
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
        let unfinished = |record: &Record, detail: &str| {
            // Its lease may stand, and would turn away whoever comes before its end.
            let settlement = self.again_at(record, deadline + LEASE_PAST_DEADLINE);
            self.log_failure(record, None, &Failure::new(Cause::NotSent, detail), settlement);
            settlement
        };
        let pairs = settlements.into_iter().zip(records.iter());
        pairs.map(|(settlement, record)| settlement.unwrap_or_else(|detail| unfinished(record, detail))).collect()
    }

    async fn settle(&self, record: &Record, deadline: Instant) -> Settlement {
        let event = match record.message.to_event(record.sent_at) {
            Ok(event) => event,
            Err(error) => {
                let failure = Failure::new(Cause::Refused, chain(&error));
                let reason = self.reason(ReasonKind::Malformed, &failure, None);
                let settlement = self.bury(record, &reason).await;
                self.log_failure(record, None, &failure, settlement);
                return settlement;
            }
        };
        match self.claim(record, &event, deadline).await {
            Ok(Claiming::Free(claim)) => self.deliver(record, &event, &claim, deadline).await,
            Ok(Claiming::Finished(state)) => {
                tracing::info!(event_id = %event.id, message_id = record.message_id, %state, "duplicate");
                Settlement::Done
            }
            Ok(Claiming::NotBefore(time)) => {
                let left = Duration::try_from(time.duration_since(self.clock.now())).unwrap_or_default();
                let settlement = self.again_at(record, Instant::now() + left);
                let failure =
                    Failure::new(Cause::NotSent, "it is being delivered already, or waits for its next attempt");
                self.log_failure(record, Some(&event), &failure, settlement);
                settlement
            }
            Ok(Claiming::Dead(death)) => {
                let reason = Reason::from(death);
                let settlement = self.bury(record, &reason).await;
                self.log_failure(record, Some(&event), &Failure::new(Cause::Refused, reason.detail), settlement);
                settlement
            }
            Err(error) => {
                let settlement = self.again(record, record.receive_count, None);
                let failure = Failure::new(Cause::NotSent, chain(&error));
                self.log_failure(record, Some(&event), &failure, settlement);
                settlement
            }
        }
    }

    /// Claims the event, in one write where it is new.
    async fn claim(&self, record: &Record, event: &Event, deadline: Instant) -> Result<Claiming, TableError> {
        let mut found = match record.receive_count {
            // Most likely nobody has seen it before: the write will tell.
            ..=1 => None,
            _ => self.table.get(&event.id).await?.map(Box::new),
        };
        let now = self.clock.now();
        let request = ClaimRequest {
            event,
            message_id: &record.message_id,
            last: self.schedule.is_last(record.receive_count),
            lease_until: now + (deadline + LEASE_PAST_DEADLINE).saturating_duration_since(Instant::now()),
            now,
        };
        for _ in 0..CLAIM_ROUNDS {
            let claiming = Claim::on(found.as_deref(), request);
            let Claiming::Free(claim) = &claiming else { return Ok(claiming) };
            match self.table.write(claim.transition()).await? {
                Written::Done => return Ok(claiming),
                Written::Lost(instead) => found = instead,
            }
        }
        Ok(Claiming::NotBefore(now + CONTENDED))
    }

    async fn deliver(&self, record: &Record, event: &Event, claim: &Claim, deadline: Instant) -> Settlement {
        let started = Instant::now();
        let delivery = Delivery { event, attempt: claim.attempt(), deadline: deadline - SETTLE_TIME };
        let outcome = self.target.deliver(delivery).await;
        let attempt = Attempt {
            at: self.clock.now(),
            duration_ms: Some(millis(started.elapsed())),
            status: None,
            error: None,
            response: None,
        };
        match outcome {
            Outcome::Delivered { status } => {
                tracing::info!(
                    event_id = %event.id,
                    source = %event.source,
                    attempt = claim.attempt(),
                    status,
                    duration_ms = attempt.duration_ms,
                    age_ms = attempt.at.as_millisecond() - event.received_at.as_millisecond(),
                    "delivered"
                );
                self.record_delivery(record, event, claim, Attempt { status, ..attempt }, deadline).await
            }
            Outcome::Failed(failure) => {
                let attempt = Attempt {
                    status: failure.cause.status(),
                    error: Some(excerpt(&failure.detail)),
                    response: failure.response.clone(),
                    ..attempt
                };
                let settlement = self.record_failure(record, event, claim, attempt, &failure, deadline).await;
                self.log_failure(record, Some(event), &failure, settlement);
                settlement
            }
        }
    }

    /// Records that the target has the event, as long as there is time. Only then may SQS forget the message.
    async fn record_delivery(
        &self,
        record: &Record,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        deadline: Instant,
    ) -> Settlement {
        let write = async {
            let mut step = claim.delivered(attempt.clone());
            loop {
                match self.table.write(&step).await {
                    Ok(Written::Done) => return,
                    Ok(Written::Lost(found)) => match claim.delivered_late(attempt.clone(), found.as_deref()) {
                        Some(late) => step = late,
                        None => return,
                    },
                    Err(error) => {
                        tracing::warn!(event_id = %event.id, error = chain(&error), "a delivery is not recorded yet");
                    }
                }
                sleep(RECORD_PAUSE).await;
            }
        };
        if timeout_at(deadline - RECORD_TIME, write).await.is_ok() {
            return Settlement::Done;
        }
        if self.schedule.is_last(record.receive_count) {
            // Kept, it would be a dead letter, and a replay would deliver it again.
            tracing::error!(event_id = %event.id, "delivered for the last time, and not recorded");
            return Settlement::Done;
        }
        tracing::error!(event_id = %event.id, "delivered, and not recorded: the target will get it again");
        Settlement::Again(deadline + LEASE_PAST_DEADLINE)
    }

    async fn record_failure(
        &self,
        record: &Record,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &Failure,
        deadline: Instant,
    ) -> Settlement {
        let number = Some(claim.attempt());
        match disposition(failure.cause) {
            Disposition::Permanent => {
                let reason = self.reason(ReasonKind::Permanent, failure, number);
                let context = Context::of(event, Some(self.target.address()));
                let step = claim.dead(attempt, reason.clone().into(), Some(&record.message_id), context);
                let otherwise = self.again(record, claim.round(), None);
                self.keep_body(event).await;
                match self.write(event, &step, otherwise, deadline).await {
                    None => self.bury(record, &reason).await,
                    Some(settlement) => settlement,
                }
            }
            Disposition::Retry if self.schedule.is_last(record.receive_count) => {
                let reason = self.reason(ReasonKind::Exhausted, failure, number);
                let context = Context::of(event, Some(self.target.address()));
                let step = claim.dead(attempt, reason.into(), None, context);
                let redrive = Settlement::Again(Instant::now());
                self.keep_body(event).await;
                match self.write(event, &step, redrive, deadline).await {
                    Some(Settlement::Done) => Settlement::Done,
                    None | Some(Settlement::Again(_)) => redrive,
                }
            }
            Disposition::Retry => {
                let delay = self.delay(claim.round(), failure.retry_after);
                let (now, at) = (self.clock.now(), Instant::now() + delay);
                let step = claim.retrying(attempt, now + delay, now);
                self.write(event, &step, Settlement::Again(at), deadline).await.unwrap_or(Settlement::Again(at))
            }
        }
    }

    /// Keeps the body of an event that dies.
    async fn keep_body(&self, event: &Event) {
        match self.table.keep_body(&event.id, &event.body, self.clock.now()).await {
            Ok(true) => {}
            Ok(false) => tracing::info!(event_id = %event.id, "the body is too large to be kept beside its record"),
            // The message itself has it: that is no reason to hold the event up.
            Err(error) => tracing::warn!(event_id = %event.id, error = chain(&error), "the body is not kept"),
        }
    }

    /// Writes a step. `None` stands for success; else it says what to do, `otherwise` while somebody else is at the event.
    async fn write(
        &self,
        event: &Event,
        step: &Transition,
        otherwise: Settlement,
        deadline: Instant,
    ) -> Option<Settlement> {
        match self.table.write(step).await {
            Ok(Written::Done) => None,
            Ok(Written::Lost(Some(instead))) if matches!(instead.state, State::Delivered | State::Discarded(_)) => {
                tracing::info!(event_id = %event.id, state = %instead.state.name(), "somebody else was faster");
                Some(Settlement::Done)
            }
            Ok(Written::Lost(_)) => {
                tracing::warn!(event_id = %event.id, "the lease ran out, and somebody else is at the event");
                Some(otherwise)
            }
            Err(error) => {
                tracing::error!(event_id = %event.id, error = chain(&error), "how the attempt went is not recorded");
                let lease = deadline + LEASE_PAST_DEADLINE;
                let Settlement::Again(at) = otherwise else { return Some(otherwise) };
                Some(Settlement::Again(at.max(lease)))
            }
        }
    }

    fn reason(&self, kind: ReasonKind, failure: &Failure, attempt: Option<u32>) -> Reason {
        Reason {
            reason: kind,
            detail: excerpt(&failure.detail),
            status_code: failure.cause.status(),
            response: failure.response.as_deref().map(excerpt),
            attempt,
            at: self.clock.now(),
        }
    }

    /// Sends the message to the dead-letter queue with its reason. Only then may SQS delete it here.
    async fn bury(&self, record: &Record, reason: &Reason) -> Settlement {
        let message = record.message.clone().with_identity(record.sent_at).with_reason(reason);
        match self.dead_letters.send(&message).await {
            Ok(()) => Settlement::Done,
            Err(error) => {
                tracing::error!(
                    event_id = record.message.event_id(),
                    message_id = record.message_id,
                    error = chain(&error),
                    "the dead-letter queue did not take the event; it stays in the events queue"
                );
                self.again(record, record.receive_count, None)
            }
        }
    }

    /// When SQS shows the record again: after its backoff, or at once when SQS is to move it to the dead letters.
    fn again(&self, record: &Record, attempt: u32, retry_after: Option<Duration>) -> Settlement {
        self.again_at(record, Instant::now() + self.delay(attempt, retry_after))
    }

    fn again_at(&self, record: &Record, at: Instant) -> Settlement {
        if self.schedule.is_last(record.receive_count) {
            return Settlement::Again(Instant::now());
        }
        Settlement::Again(at)
    }

    fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.schedule.delay(attempt, retry_after, &mut rng)
    }

    /// Tells SQS last of all: a short delay could otherwise run out while the batch is still at work.
    async fn set_visibility(&self, kept: &[(&Record, Instant)]) {
        let now = Instant::now();
        let mut open: Vec<(&Record, ReceiptHandle, Duration)> = Vec::new();
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
                        error = chain(&error),
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
    fn log_failure(&self, record: &Record, event: Option<&Event>, failure: &Failure, settlement: Settlement) {
        let (next, delay) = match settlement {
            Settlement::Done => ("dead letter", None),
            Settlement::Again(_) if self.schedule.is_last(record.receive_count) => ("redrive", None),
            Settlement::Again(at) => ("retry", Some(at.saturating_duration_since(Instant::now()))),
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
