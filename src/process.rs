//! Delivers a batch of events: every record on its own, all at the same time, each to an end that SQS is told of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::event::Event;
use crate::logging::chain;
use crate::message::Message;
use crate::queue::{QueueError, ReceiptHandle, Sender, VisibilityTimeout};
use crate::reason::{Reason, ReasonKind, excerpt};
use crate::retry::{Disposition, Schedule, disposition};
use crate::target::{Cause, Delivery, Failure, Outcome, Target};

/// Deliveries end this long before the invocation does, so that their outcome can still be told to SQS.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// What still runs is aborted this long before the invocation ends, so that the rest can be reported.
const REPORT_TIME: Duration = Duration::from_millis(1500);

/// The answer is given this long before the invocation ends, whatever SQS does: without an answer the whole batch
/// comes back, delivered records included.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// The use case, over its ports.
pub struct Processor<E, D, T, C> {
    /// The queue the records came from.
    pub events: E,
    /// Where events go that can never be delivered.
    pub dead_letters: D,
    /// Where events are delivered.
    pub target: T,
    /// When to try again, and how often.
    pub schedule: Schedule,
    /// Dates the reasons.
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

impl<E, D, T, C> Processor<E, D, T, C>
where
    E: VisibilityTimeout,
    D: Sender,
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
            let deliver_by = deadline - SETTLE_TIME;
            let task = tasks.spawn(async move { processor.settle(&records[position], deliver_by).await });
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
            let settlement = self.again(record, None);
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
                let settlement = self.bury(record, None, ReasonKind::Malformed, &failure).await;
                self.log_failure(record, None, &failure, settlement);
                return settlement;
            }
        };
        let attempt = record.receive_count;
        let started = Instant::now();
        let outcome = self.target.deliver(Delivery { event: &event, attempt, deadline }).await;
        let failure = match outcome {
            Outcome::Delivered { status } => {
                tracing::info!(
                    event_id = %event.id,
                    source = %event.source,
                    attempt,
                    status,
                    duration_ms = millis(started.elapsed()),
                    age_ms = self.clock.now().as_millisecond() - event.received_at.as_millisecond(),
                    "delivered"
                );
                return Settlement::Done;
            }
            Outcome::Failed(failure) => failure,
        };
        let settlement = match disposition(failure.cause) {
            Disposition::Permanent => self.bury(record, Some(&event), ReasonKind::Permanent, &failure).await,
            // SQS's redrive attaches nothing, and would leave the reason of an earlier death on a replayed message.
            Disposition::Retry if self.schedule.is_last(record.receive_count) && record.message.has_reason() => {
                self.bury(record, Some(&event), ReasonKind::Exhausted, &failure).await
            }
            Disposition::Retry => self.again(record, failure.retry_after),
        };
        self.log_failure(record, Some(&event), &failure, settlement);
        settlement
    }

    /// Sends the message to the dead-letter queue with its reason. Only then may SQS delete it here.
    async fn bury(&self, record: &Record, event: Option<&Event>, kind: ReasonKind, failure: &Failure) -> Settlement {
        let reason = Reason {
            reason: kind,
            detail: excerpt(&failure.detail),
            status_code: failure.cause.status(),
            response: failure.response.as_deref().map(excerpt),
            attempt: Some(record.receive_count),
            at: self.clock.now(),
        };
        let mut message = record.message.clone().with_reason(&reason);
        if let Some(event) = event {
            message = message.with_identity(event);
        }
        match self.dead_letters.send(&message).await {
            Ok(()) => Settlement::Done,
            Err(error) => {
                tracing::error!(
                    event_id = record.message.event_id(),
                    message_id = record.message_id,
                    error = chain(&error),
                    "the dead-letter queue did not take the event; it stays in the events queue"
                );
                self.again(record, None)
            }
        }
    }

    /// When SQS shows the record again: after its backoff, or at once when SQS is to move it to the dead letters.
    fn again(&self, record: &Record, retry_after: Option<Duration>) -> Settlement {
        let now = Instant::now();
        if self.schedule.is_last(record.receive_count) {
            return Settlement::Again(now);
        }
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        Settlement::Again(now + self.schedule.delay(record.receive_count, retry_after, &mut rng))
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
    use crate::testing::{FakeClock, FakeQueue, FakeTarget};

    type Fake<F> = Arc<Processor<FakeQueue, FakeQueue, FakeTarget<F>, FakeClock>>;

    fn processor<F, O>(answer: F) -> Fake<F>
    where
        F: Fn(Event, u32) -> O + Send + Sync + 'static,
        O: Future<Output = Outcome> + Send,
    {
        Arc::new(Processor {
            events: FakeQueue::default(),
            dead_letters: FakeQueue::default(),
            target: FakeTarget(answer),
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

    #[tokio::test(start_paused = true)]
    async fn a_failed_record_comes_again_after_its_backoff() {
        let processor = processor(|_, _| fail(Cause::Status(503)));
        let records = vec![record("first", 1), record("second", 2), record("third", 3)];
        assert_eq!(processor.process(records, a_minute()).await, ["first", "second", "third"]);
        let delays: Vec<u64> = processor.events.visibility_changes().iter().map(|(_, delay)| delay.as_secs()).collect();
        assert!((2..=3).contains(&delays[0]) && (4..=5).contains(&delays[1]) && (8..=9).contains(&delays[2]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backoff_counts_from_the_attempt_not_from_the_end_of_the_batch() {
        let processor = processor(|event: Event, _| async move {
            if is(&event, "slow") {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            fail(Cause::TimedOut).await
        });
        processor.process(vec![record("fast", 3), record("slow", 3)], a_minute()).await;
        let delays: Vec<u64> = processor.events.visibility_changes().iter().map(|(_, delay)| delay.as_secs()).collect();
        assert!((6..=7).contains(&delays[0]) && (8..=9).contains(&delays[1]), "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_attempt_sqs_may_move_the_record_at_once() {
        let processor = processor(|_, _| fail(Cause::Connection));
        assert_eq!(processor.process(vec![record("last", 4)], a_minute()).await, ["last"]);
        assert_eq!(processor.events.visibility_changes()[0].1, Duration::ZERO);
        assert!(processor.dead_letters.messages().is_empty(), "SQS moves it");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_reason_does_not_outlive_a_later_death() {
        let processor = processor(|_, _| fail(Cause::Status(500)));
        let mut replayed = record("replayed", 4);
        let reason = Reason {
            reason: ReasonKind::Permanent,
            detail: String::new(),
            status_code: Some(404),
            response: None,
            attempt: Some(1),
            at: Timestamp::UNIX_EPOCH,
        };
        replayed.message = replayed.message.with_reason(&reason);
        assert!(processor.process(vec![replayed], a_minute()).await.is_empty());
        let reason = processor.dead_letters.messages()[0].reason().expect("a reason");
        assert_eq!((reason.reason, reason.status_code), (ReasonKind::Exhausted, Some(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_is_acknowledged_only_when_its_dead_letter_is_durable() {
        let processor = processor(|_, _| fail(Cause::Status(410)));
        processor.dead_letters.fail();
        assert_eq!(processor.process(vec![record("refused", 1)], a_minute()).await, ["refused"]);
        processor.dead_letters.fail_times(0);
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
            target: FakeTarget(|event: Event, _| if is(&event, "fine") { deliver() } else { fail(Cause::TimedOut) }),
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
}
