//! Delivers a batch of events: every record on its own, all at the same time, each to an end that SQS is told of.

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::{Act, Finding, StateName};
    use crate::testing::{FakeClock, FakeQueue, FakeTable, FakeTarget};

    type Fake<F> = Arc<Processor<FakeQueue, FakeQueue, FakeTable, FakeTarget<F>, FakeClock>>;

    fn processor<F, O>(answer: F) -> Fake<F>
    where
        F: Fn(Event, u32) -> O + Send + Sync + 'static,
        O: Future<Output = Outcome> + Send,
    {
        Arc::new(Processor {
            events: FakeQueue::default(),
            dead_letters: FakeQueue::default(),
            table: FakeTable::default(),
            target: FakeTarget::new(answer),
            schedule: Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 4).expect("a schedule"),
            clock: FakeClock,
            rng: Mutex::new(fastrand::Rng::with_seed(7)),
        })
    }

    fn record(name: &str, receive_count: u32) -> Record {
        Record {
            message_id: name.to_owned(),
            receipt: Some(ReceiptHandle(name.to_owned())),
            receive_count,
            sent_at: Timestamp::UNIX_EPOCH,
            message: Message { body: format!("{{\"name\":\"{name}\"}}"), attributes: BTreeMap::new(), group: None },
        }
    }

    fn a_minute() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn is(event: &Event, name: &str) -> bool {
        event.body == format!("{{\"name\":\"{name}\"}}").as_bytes()
    }

    fn fail(cause: Cause) -> std::future::Ready<Outcome> {
        std::future::ready(Outcome::Failed(Failure::new(cause, "as the test says")))
    }

    fn deliver() -> std::future::Ready<Outcome> {
        std::future::ready(Outcome::Delivered { status: Some(200) })
    }

    #[tokio::test(start_paused = true)]
    async fn the_records_of_a_batch_are_delivered_at_the_same_time() {
        let processor = processor(|_, _| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            deliver().await
        });
        let started = Instant::now();
        let records = (0..10).map(|n| record(&n.to_string(), 1)).collect();
        assert!(processor.process(records, a_minute()).await.is_empty());
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    /// Gives a record to the processor again and again, each time when SQS would show it, and returns the delays.
    async fn receive_until_done<F, O>(processor: &Fake<F>, name: &str, receives: u32) -> Vec<u64>
    where
        F: Fn(Event, u32) -> O + Send + Sync + 'static,
        O: Future<Output = Outcome> + Send,
    {
        let mut delays = Vec::new();
        for receive_count in 1..=receives {
            if processor.process(vec![record(name, receive_count)], a_minute()).await.is_empty() {
                break;
            }
            let (_, delay) = processor.events.visibility_changes().pop().expect("a change");
            delays.push(delay.as_secs());
            tokio::time::advance(delay).await;
        }
        delays
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_record_comes_again_after_its_backoff() {
        let processor = processor(|_, _| fail(Cause::Status(503)));
        let delays = receive_until_done(&processor, "down", 4).await;
        assert!(matches!(delays[..], [2..=3, 4..=5, 8..=9, 0]), "{delays:?}");
        let record = processor.table.only_record();
        let State::Dead(dead) = &record.state else { panic!("{record:?}") };
        assert_eq!((dead.death.reason, dead.death.status_code), (ReasonKind::Exhausted, Some(503)));
        assert_eq!((record.attempts_made, record.attempts.len()), (4, 4));
        assert!(processor.table.body(&record.event_id).await.expect("read").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backoff_counts_from_the_attempt_not_from_the_end_of_the_batch() {
        let processor = processor(|event: Event, attempt| async move {
            if is(&event, "slow") && attempt == 2 {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            fail(Cause::TimedOut).await
        });
        processor.process(vec![record("fast", 1), record("slow", 1)], a_minute()).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        processor.process(vec![record("fast", 2), record("slow", 2)], a_minute()).await;
        let changes = processor.events.visibility_changes();
        let delays: Vec<u64> = changes[2..].iter().map(|(_, delay)| delay.as_secs()).collect();
        assert!((2..=3).contains(&delays[0]) && (4..=5).contains(&delays[1]), "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_attempt_sqs_may_move_the_record_at_once() {
        let processor = processor(|_, _| fail(Cause::Connection));
        assert_eq!(processor.process(vec![record("last", 4)], a_minute()).await, ["last"]);
        assert_eq!(processor.events.visibility_changes()[0].1, Duration::ZERO);
        assert!(processor.dead_letters.messages().is_empty(), "SQS moves it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_is_acknowledged_only_when_its_dead_letter_is_durable() {
        let processor = processor(|_, _| fail(Cause::Status(410)));
        processor.dead_letters.fail();
        assert_eq!(processor.process(vec![record("refused", 1)], a_minute()).await, ["refused"]);
        processor.dead_letters.fail_times(0);
        assert_eq!(processor.table.only_record().state.name(), StateName::Dead, "recorded before it is sent");
        assert!(processor.process(vec![record("refused", 2)], a_minute()).await.is_empty());
        let dead = processor.dead_letters.messages();
        assert_eq!((dead.len(), dead[0].body.as_str()), (1, "{\"name\":\"refused\"}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_fails_its_own_record_only() {
        let processor = processor(|event: Event, _| async move {
            assert!(!is(&event, "panics"), "as the test says");
            deliver().await
        });
        let records = vec![record("before", 1), record("panics", 1), record("after", 1)];
        assert_eq!(processor.process(records, a_minute()).await, ["panics"]);
        assert!(processor.events.visibility_changes()[0].1 >= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn when_time_runs_out_the_rest_is_aborted_and_reported() {
        let processor = processor(|event: Event, _| async move {
            if is(&event, "hangs") {
                // Ignores its deadline, as a target of one's own might.
                std::future::pending::<()>().await;
            }
            deliver().await
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        let kept = processor.process(vec![record("hangs", 1), record("quick", 1)], deadline).await;
        assert_eq!(kept, ["hangs"]);
        assert!(Instant::now() <= deadline);
        assert_eq!(Arc::strong_count(&processor), 1, "no task is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_visibility_that_fails_in_part_is_tried_again_in_that_part() {
        let processor = processor(|_, _| fail(Cause::TimedOut));
        processor.events.fail_times(1);
        let kept = processor.process(vec![record("one", 1), record("two", 1)], a_minute()).await;
        assert_eq!(kept, ["one", "two"]);
        let changed: Vec<_> = processor.events.visibility_changes().into_iter().map(|(receipt, _)| receipt.0).collect();
        assert_eq!(changed, ["two", "one"], "each once, the failed one last");
    }

    /// A queue that never answers.
    struct Silent;

    impl VisibilityTimeout for Silent {
        async fn change_visibility(&self, _: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), QueueError>> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_in_time_even_when_sqs_gives_none() {
        let processor = Arc::new(Processor {
            events: Silent,
            dead_letters: FakeQueue::default(),
            table: FakeTable::default(),
            target: FakeTarget::new(
                |event: Event, _| if is(&event, "fine") { deliver() } else { fail(Cause::TimedOut) },
            ),
            schedule: Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 4).expect("a schedule"),
            clock: FakeClock,
            rng: Mutex::default(),
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(processor.process(vec![record("fine", 1), record("late", 1)], deadline).await, ["late"]);
        assert!(Instant::now() < deadline, "time is left for the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_letter_says_itself_who_its_event_is() {
        let processor = processor(|_, _| fail(Cause::Refused));
        let record = record("pasted", 1);
        let event = record.message.to_event(record.sent_at).expect("readable");
        processor.process(vec![record], a_minute()).await;
        let dead = processor.dead_letters.messages().remove(0);
        assert_eq!(dead.to_event(FakeClock.now()).expect("readable").id, event.id);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_visibility_that_fails_loses_nothing() {
        let processor = processor(|_, _| fail(Cause::TimedOut));
        processor.events.fail();
        assert_eq!(processor.process(vec![record("kept", 1)], a_minute()).await, ["kept"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_asks_for_time_gets_it() {
        let processor = processor(|_, _| async {
            let failure = Failure::new(Cause::Status(429), "slow down");
            Outcome::Failed(Failure { retry_after: Some(Duration::from_mins(2)), ..failure })
        });
        processor.process(vec![record("throttled", 1)], a_minute()).await;
        assert_eq!(processor.events.visibility_changes()[0].1, Duration::from_mins(2));
    }

    /// A target that takes everything.
    fn fine() -> Fake<impl Fn(Event, u32) -> std::future::Ready<Outcome>> {
        processor(|_, _| deliver())
    }

    #[tokio::test(start_paused = true)]
    async fn a_duplicate_is_acknowledged_and_not_delivered() {
        let processor = fine();
        let copy = || Record { message_id: "copy".to_owned(), ..record("event", 1) };
        assert!(processor.process(vec![record("event", 1)], a_minute()).await.is_empty());
        assert!(processor.process(vec![copy(), record("event", 2)], a_minute()).await.is_empty());
        assert_eq!(processor.target.deliveries(), 1);
        assert_eq!(processor.table.only_record().state, State::Delivered);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_copies_at_once_one_is_delivered_and_the_other_waits() {
        let processor = processor(|_, _| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            deliver().await
        });
        let copy = Record { message_id: "copy".to_owned(), ..record("event", 1) };
        assert_eq!(processor.process(vec![record("event", 1), copy], a_minute()).await, ["copy"]);
        let lease = Duration::from_mins(1) + LEASE_PAST_DEADLINE;
        let (_, delay) = processor.events.visibility_changes().pop().expect("a change");
        assert_eq!(delay, lease.checked_sub(Duration::from_secs(1)).expect("longer"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_comes_before_its_time_waits_for_it() {
        let processor = processor(|_, _| fail(Cause::Status(503)));
        processor.process(vec![record("event", 1)], a_minute()).await;
        let (_, backoff) = processor.events.visibility_changes().pop().expect("a change");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(processor.process(vec![record("event", 2)], a_minute()).await, ["event"]);
        let (_, left) = processor.events.visibility_changes().pop().expect("a change");
        assert_eq!(left, backoff.checked_sub(Duration::from_millis(500)).expect("longer"));
        assert_eq!(processor.table.only_record().attempts_made, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_crashed_is_waited_for_and_then_followed() {
        let processor = processor(|_, attempt| async move {
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            deliver().await
        });
        let crash = tokio::spawn({
            let processor = Arc::clone(&processor);
            async move { processor.process(vec![record("event", 1)], a_minute()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        crash.abort();
        assert_eq!(processor.process(vec![record("event", 2)], a_minute()).await, ["event"], "the lease stands");
        tokio::time::advance(Duration::from_mins(1) + LEASE_PAST_DEADLINE).await;
        assert!(processor.process(vec![record("event", 3)], a_minute()).await.is_empty());
        let record = processor.table.only_record();
        assert_eq!((record.state, record.attempts_made), (State::Delivered, 2));
        assert!(record.attempts[0].error.as_ref().is_some_and(|error| error.contains("ended before")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_on_the_last_receive_is_a_death() {
        let processor = processor(|_, _| std::future::pending::<Outcome>());
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(processor.process(vec![record("event", 4)], deadline).await, ["event"]);
        assert_eq!(processor.events.visibility_changes()[0].1, Duration::ZERO, "SQS moves it");
        let record = processor.table.only_record();
        assert_eq!(record.state.death(FakeClock.now()), None, "the lease stands");
        tokio::time::advance(Duration::from_secs(10)).await;
        let death = record.state.death(FakeClock.now()).expect("dead");
        assert_eq!(death.reason, ReasonKind::Crashed);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_table_nothing_is_delivered_and_nothing_acknowledged() {
        let processor = fine();
        processor.table.fail();
        for receive_count in 1..=4 {
            assert_eq!(processor.process(vec![record("event", receive_count)], a_minute()).await, ["event"]);
        }
        let delays: Vec<_> = processor.events.visibility_changes().iter().map(|(_, delay)| delay.as_secs()).collect();
        assert!(matches!(delays[..], [2..=3, 4..=5, 8..=9, 0]), "{delays:?}");
        assert_eq!(processor.target.deliveries(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_cannot_be_recorded_is_acknowledged_on_the_last_receive_only() {
        for (receive_count, kept) in [(1, 1), (4, 0)] {
            let processor = fine();
            // A first receive is claimed with one call; a later one is looked up before.
            processor.table.fail_after(if receive_count == 1 { 1 } else { 2 }, usize::MAX);
            let deadline = Instant::now() + Duration::from_secs(20);
            let answer = processor.process(vec![record("event", receive_count)], deadline).await;
            assert_eq!(answer.len(), kept, "receive {receive_count}");
            assert_eq!(processor.target.deliveries(), 1);
            if let Some((_, delay)) = processor.events.visibility_changes().pop() {
                assert!(delay >= LEASE_PAST_DEADLINE, "not before the lease is over: {delay:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_falters_once_costs_no_second_delivery() {
        let processor = fine();
        processor.table.fail_after(1, 3);
        assert!(processor.process(vec![record("event", 1)], a_minute()).await.is_empty());
        assert_eq!(processor.target.deliveries(), 1);
        assert_eq!(processor.table.only_record().state, State::Delivered);
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_the_lease_does_not_overwrite_what_came_after() {
        let processor = processor(|_, attempt| async move {
            if attempt == 1 {
                tokio::time::sleep(Duration::from_secs(40)).await;
                return fail(Cause::Status(404)).await;
            }
            deliver().await
        });
        let slow = tokio::spawn({
            let processor = Arc::clone(&processor);
            async move { processor.process(vec![record("event", 1)], a_minute()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The first one's lease is as good as over for somebody whose clock is far ahead.
        let found = processor.table.only_record();
        let record_of_copy = Record { message_id: "copy".to_owned(), ..record("event", 1) };
        let event = record_of_copy.message.to_event(record_of_copy.sent_at).expect("readable");
        let now = FakeClock.now() + Duration::from_mins(10);
        let request = ClaimRequest {
            event: &event,
            message_id: "copy",
            last: false,
            lease_until: now + Duration::from_mins(1),
            now,
        };
        let Claiming::Free(claim) = Claim::on(Some(&found), request) else { panic!("not free") };
        assert_eq!(processor.table.write(claim.transition()).await.expect("written"), Written::Done);
        let attempt = Attempt { at: now, duration_ms: None, status: Some(200), error: None, response: None };
        processor.table.write(&claim.delivered(attempt)).await.expect("written");
        assert!(slow.await.expect("no panic").is_empty(), "acknowledged: it is delivered");
        assert_eq!(processor.table.only_record().state, State::Delivered);
        assert!(processor.dead_letters.messages().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_replayed_event_starts_its_backoff_anew_and_counts_on() {
        let processor = processor(|_, _| fail(Cause::Status(503)));
        receive_until_done(&processor, "event", 4).await;
        let dead = processor.table.only_record();
        let Some(Finding::Dead(dead)) = Finding::recorded(&dead, FakeClock.now()) else { panic!("{dead:?}") };
        let act = Act { action: "replay".to_owned(), at: FakeClock.now(), by: "a test".to_owned(), why: None };
        processor.table.write(&dead.replayed(act)).await.expect("written");
        let replayed = Record { message_id: "replayed".to_owned(), ..record("event", 1) };
        processor.process(vec![replayed], a_minute()).await;
        let (_, delay) = processor.events.visibility_changes().pop().expect("a change");
        assert!((2..=3).contains(&delay.as_secs()), "{delay:?}");
        let record = processor.table.only_record();
        assert_eq!((record.attempts_made, record.round, record.replays_made), (5, 1, 1));
    }
}
