//! The use case over stand-ins, on virtual time.

mod claims;
mod identity;
mod journal;
mod order;
mod probe;
mod resend;
mod uncounted;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::domain::event::Event;
use crate::domain::event_record::{
    Attempt, Claim, ClaimRequest, ClaimResult, Context, DeadLetterStatus, Death, OperatorAction,
    State, StateName,
};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::message::{Attribute, Message, attribute};
use crate::domain::retry::Schedule;
use crate::ports::clock::Clock as _;
use crate::ports::events_table::{EventsTable as _, Written};
use crate::ports::queue::{ReceiptHandle, ReceivedMessage, Receiver as _, Sender as _};
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::ports::target::{DeliveryFailure, FailureCause, Outcome, Target};
use crate::testing::{FakeClock, FakePorts, FakeQueue, FakeTable, FakeTarget};

type Fake = Arc<Processor<FakePorts<FakeTarget>>>;

fn processor<O>(answer: impl Fn(Event, u32) -> O + Send + Sync + 'static) -> Fake
where
    O: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(over(FakeQueue::default(), FakeTarget::new(answer)))
}

fn over<T: Target>(events: FakeQueue, target: T) -> Processor<FakePorts<T>> {
    let (dead_letters, table) = (FakeQueue::default(), FakeTable::default());
    let schedule =
        Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 4).expect("a schedule");
    let backoff = Backoff::with_rng(schedule, fastrand::Rng::with_seed(7));
    Processor::new(
        Ports {
            events,
            ordered: None,
            dead_letters,
            journal: None,
            table,
            target,
            clock: FakeClock,
        },
        backoff,
    )
}

fn record(name: &str, receive_count: u32) -> ReceivedMessage {
    ReceivedMessage {
        message_id: name.to_owned(),
        receipt: ReceiptHandle(name.to_owned()),
        receive_count,
        is_ordered: false,
        sent_at: Timestamp::UNIX_EPOCH,
        message: Message {
            body: format!("{{\"name\":\"{name}\"}}"),
            attributes: BTreeMap::from([(attribute::EVENT_ID.to_owned(), Attribute::text(name))]),
            group: None,
            trace: None,
        },
    }
}

fn a_minute() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

fn is(event: &Event, name: &str) -> bool {
    event.body == format!("{{\"name\":\"{name}\"}}").as_bytes()
}

fn fail(cause: FailureCause) -> std::future::Ready<Outcome> {
    std::future::ready(Outcome::Failed(DeliveryFailure::new(
        cause,
        "as the test says",
    )))
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

/// Gives one record to the processor, and returns the ids of the messages that SQS must keep.
async fn receive<T: Target>(
    processor: &Arc<Processor<FakePorts<T>>>,
    received: ReceivedMessage,
) -> Vec<String> {
    processor.process(vec![received], a_minute()).await
}

/// The same for the record of `event`, in a task.
fn start(processor: &Fake) -> JoinHandle<Vec<String>> {
    let processor = Arc::clone(processor);
    tokio::spawn(async move { receive(&processor, record("event", 1)).await })
}

/// Gives a record to the processor again and again, each time when SQS would show it, and returns
/// the delays.
async fn receive_until_done(processor: &Fake, name: &str, receives: u32) -> Vec<u64> {
    let mut delays = Vec::new();
    for receive_count in 1..=receives {
        if receive(processor, record(name, receive_count))
            .await
            .is_empty()
        {
            break;
        }
        let (_, delay) = processor
            .ports
            .events
            .visibility_changes()
            .pop()
            .expect("a change");
        delays.push(delay.as_secs());
        tokio::time::advance(delay).await;
    }
    delays
}

#[tokio::test(start_paused = true)]
async fn a_failed_record_comes_again_after_its_backoff() {
    let processor = processor(|_, _| fail(FailureCause::Status(503)));
    let delays = receive_until_done(&processor, "down", 4).await;
    assert!(matches!(delays[..], [2..=3, 4..=5, 8..=9, 0]), "{delays:?}");
    let record = processor.ports.table.only_record();
    let State::Dead(dead) = &record.state else {
        panic!("{record:?}")
    };
    assert_eq!(
        (dead.death.reason, dead.death.status_code),
        (ReasonKind::Exhausted, Some(503))
    );
    assert_eq!((record.attempts_made, record.attempts.len()), (4, 4));
    assert!(
        processor
            .ports
            .table
            .body(&record.event_id, FakeClock.now())
            .await
            .expect("read")
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_backoff_counts_from_the_attempt_not_from_the_end_of_the_batch() {
    let processor = processor(|event: Event, attempt| async move {
        if is(&event, "slow") && attempt == 2 {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        fail(FailureCause::TimedOut).await
    });
    processor
        .process(vec![record("fast", 1), record("slow", 1)], a_minute())
        .await;
    tokio::time::advance(Duration::from_secs(5)).await;
    processor
        .process(vec![record("fast", 2), record("slow", 2)], a_minute())
        .await;
    let changes = processor.ports.events.visibility_changes();
    let delays: Vec<u64> = changes[2..]
        .iter()
        .map(|(_, delay)| delay.as_secs())
        .collect();
    assert!(
        (2..=3).contains(&delays[0]) && (4..=5).contains(&delays[1]),
        "{delays:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_last_attempt_sqs_may_move_the_record_at_once() {
    let processor = processor(|_, _| fail(FailureCause::Connection));
    assert_eq!(receive(&processor, record("last", 4)).await, ["last"]);
    assert_eq!(
        processor.ports.events.visibility_changes()[0].1,
        Duration::ZERO
    );
    assert!(
        processor.ports.dead_letters.messages().is_empty(),
        "SQS moves it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_acknowledged_only_when_its_dead_letter_is_durable() {
    let processor = processor(|_, _| fail(FailureCause::Status(410)));
    processor.ports.dead_letters.fail();
    assert_eq!(receive(&processor, record("refused", 1)).await, ["refused"]);
    processor.ports.dead_letters.fail_times(0);
    assert_eq!(
        processor.ports.table.only_record().state.name(),
        StateName::Dead,
        "recorded before it is sent"
    );
    assert!(receive(&processor, record("refused", 2)).await.is_empty());
    let dead = processor.ports.dead_letters.messages();
    assert_eq!(
        (dead.len(), dead[0].body.as_str()),
        (1, "{\"name\":\"refused\"}")
    );
    let now = FakeClock.now();
    assert_eq!(
        dead[0].reason(now).expect("a reason").resent_at,
        Some(now),
        "long after its death, perhaps"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_and_its_record_say_how_the_target_answered() {
    let processor = processor(|_, attempt| async move {
        let failure = DeliveryFailure::new(
            FailureCause::Status(if attempt == 1 { 503 } else { 422 }),
            "as the test says",
        );
        Outcome::Failed(DeliveryFailure {
            response: Some(format!("answer {attempt}")),
            ..failure
        })
    });
    receive(&processor, record("event", 1)).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(receive(&processor, record("event", 2)).await.is_empty());
    let now = FakeClock.now();
    let reason = processor.ports.dead_letters.messages()[0]
        .reason(now)
        .expect("a reason");
    assert_eq!(
        (reason.reason, reason.status_code, reason.attempt),
        (ReasonKind::Permanent, Some(422), Some(2))
    );
    assert_eq!(
        (
            reason.detail.as_str(),
            reason.response.as_deref(),
            reason.at
        ),
        ("as the test says", Some("answer 2"), now)
    );
    let record = processor.ports.table.only_record();
    let told = |attempt: &Attempt| {
        (
            attempt.status,
            attempt.error.clone(),
            attempt.response.clone(),
        )
    };
    let expected = [(503, "answer 1"), (422, "answer 2")].map(|(status, answer)| {
        (
            Some(status),
            Some("as the test says".to_owned()),
            Some(answer.to_owned()),
        )
    });
    assert_eq!(
        record.attempts.iter().map(told).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(
        processor
            .ports
            .table
            .body(&record.event_id, FakeClock.now())
            .await
            .expect("read")
            .as_deref(),
        Some(&br#"{"name":"event"}"#[..])
    );
}

#[tokio::test(start_paused = true)]
async fn the_reason_counts_the_attempts_of_the_whole_life() {
    let processor =
        processor(|_, attempt| fail(FailureCause::Status(if attempt < 5 { 503 } else { 404 })));
    receive_until_done(&processor, "event", 4).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    let moved = ReceivedMessage {
        message_id: "moved".to_owned(),
        ..record("event", 1)
    };
    assert!(receive(&processor, moved).await.is_empty());
    let reason = processor.ports.dead_letters.messages()[0]
        .reason(FakeClock.now())
        .expect("a reason");
    assert_eq!(reason.attempt, Some(5));
}

#[tokio::test(start_paused = true)]
async fn event_refused_by_the_dead_letter_queue_waits_its_backoff() {
    for (body, receive_count, delays) in [
        (r#"{"name":"refused"}"#, 1, 2..=3),
        ("no json", 1, 2..=3),
        ("no json", 3, 8..=9),
        ("no json", 4, 0..=0),
    ] {
        let processor = processor(|_, _| fail(FailureCause::Status(404)));
        processor.ports.dead_letters.fail();
        let mut record = record("refused", receive_count);
        record.message.body = body.to_owned();
        assert_eq!(receive(&processor, record).await, ["refused"]);
        let (_, delay) = processor
            .ports
            .events
            .visibility_changes()
            .pop()
            .expect("a change");
        assert!(
            delays.contains(&delay.as_secs()),
            "{body} at receive {receive_count}: {delay:?}"
        );
    }
}

/// A target that uses all the time that it is given.
struct Slow;

impl Target for Slow {
    async fn deliver(&self, delivery: crate::ports::target::Delivery<'_>) -> Outcome {
        tokio::time::sleep_until(delivery.deadline).await;
        deliver().await
    }

    fn address(&self) -> String {
        "a test".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_uses_all_its_time_leaves_enough_to_record_the_delivery() {
    let processor = Arc::new(over(FakeQueue::default(), Slow));
    // The erasures are read and it is claimed; the first tries to record it fail.
    processor.ports.table.fail_after(2, 3);
    assert!(receive(&processor, record("event", 1)).await.is_empty());
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_own_record_only() {
    let processor = processor(|event: Event, _| async move {
        assert!(!is(&event, "panics"), "as the test says");
        deliver().await
    });
    let records = vec![record("before", 1), record("panics", 1), record("after", 1)];
    assert_eq!(processor.process(records, a_minute()).await, ["panics"]);
    assert!(processor.ports.events.visibility_changes()[0].1 >= Duration::from_secs(2));
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
    let kept = processor
        .process(vec![record("hangs", 1), record("quick", 1)], deadline)
        .await;
    assert_eq!(kept, ["hangs"]);
    assert!(Instant::now() <= deadline);
    let (_, delay) = processor
        .ports
        .events
        .visibility_changes()
        .pop()
        .expect("a change");
    assert!(
        Instant::now() + delay >= deadline + LEASE_PAST_DEADLINE,
        "not before its lease is over: {delay:?}"
    );
    assert_eq!(Arc::strong_count(&processor), 1, "no task is left");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_visibility_that_fails_in_part_is_tried_again_in_that_part() {
    let processor = processor(|_, _| fail(FailureCause::TimedOut));
    processor.ports.events.fail_times(1);
    let kept = processor
        .process(vec![record("one", 1), record("two", 1)], a_minute())
        .await;
    assert_eq!(kept, ["one", "two"]);
    let changed: Vec<_> = processor
        .ports
        .events
        .visibility_changes()
        .into_iter()
        .map(|(receipt, _)| receipt.0)
        .collect();
    assert_eq!(changed, ["two", "one"], "each once, the failed one last");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_in_time_even_when_sqs_gives_none() {
    let target = FakeTarget::new(|event: Event, _| {
        if is(&event, "fine") {
            deliver()
        } else {
            fail(FailureCause::TimedOut)
        }
    });
    let events = FakeQueue::default();
    events.delay_changes(Duration::MAX);
    let processor = Arc::new(over(events, target));
    let deadline = Instant::now() + Duration::from_secs(5);
    assert_eq!(
        processor
            .process(vec![record("fine", 1), record("late", 1)], deadline)
            .await,
        ["late"]
    );
    assert!(Instant::now() < deadline, "time is left for the answer");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_says_itself_who_its_event_is() {
    let processor = processor(|_, _| fail(FailureCause::Refused));
    let record = record("pasted", 1);
    let event = record.message.to_event(record.sent_at).expect("readable");
    receive(&processor, record).await;
    let dead = processor.ports.dead_letters.messages().remove(0);
    assert_eq!(
        dead.to_event(FakeClock.now()).expect("readable").id,
        event.id
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_visibility_that_fails_loses_nothing() {
    let processor = processor(|_, _| fail(FailureCause::TimedOut));
    processor.ports.events.fail();
    assert_eq!(receive(&processor, record("kept", 1)).await, ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_asks_for_time_gets_it() {
    let processor = processor(|_, _| async {
        let failure = DeliveryFailure::new(FailureCause::Status(429), "slow down");
        Outcome::Failed(DeliveryFailure {
            retry_after: Some(Duration::from_mins(2)),
            ..failure
        })
    });
    receive(&processor, record("throttled", 1)).await;
    assert_eq!(
        processor.ports.events.visibility_changes()[0].1,
        Duration::from_mins(2)
    );
}

/// The state of an event after these answers of the target.
async fn states_after(answers: &'static [(FailureCause, Option<u64>)]) -> (StateName, usize) {
    let processor = processor(move |_, attempt| {
        let (cause, retry_after) = answers[attempt as usize - 1];
        let retry_after = retry_after.map(Duration::from_secs);
        std::future::ready(Outcome::Failed(DeliveryFailure {
            retry_after,
            ..DeliveryFailure::new(cause, "as the test says")
        }))
    });
    receive_until_done(
        &processor,
        "event",
        u32::try_from(answers.len()).expect("few"),
    )
    .await;
    let record = processor.ports.table.only_record();
    (record.state.name(), record.attempts.len())
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_final_only_where_nothing_can_be_in_progress() {
    use FailureCause::{Connection, Status, TimedOut};
    assert_eq!(
        states_after(&[(Status(409), None)]).await,
        (StateName::Dead, 1)
    );
    assert_eq!(
        states_after(&[(Status(423), None)]).await,
        (StateName::Dead, 1)
    );
    assert_eq!(
        states_after(&[(Status(503), Some(1)), (Status(409), None)]).await,
        (StateName::Dead, 2),
        "it was answered"
    );
    assert_eq!(
        states_after(&[(Status(409), Some(0)), (Status(409), Some(2))]).await,
        (StateName::Retrying, 2)
    );
    assert_eq!(
        states_after(&[(TimedOut, None), (Status(409), None), (Status(423), None)]).await,
        (StateName::Retrying, 3)
    );
    assert_eq!(
        states_after(&[(Connection, None), (Status(423), None)]).await,
        (StateName::Retrying, 2)
    );
    assert_eq!(
        states_after(&[(TimedOut, None), (Status(404), None)]).await,
        (StateName::Dead, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_leaves_an_attempt_without_an_answer() {
    let processor = processor(|_, attempt| async move {
        if attempt == 1 {
            std::future::pending::<()>().await;
        }
        fail(FailureCause::Status(409)).await
    });
    let crash = start(&processor);
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash.abort();
    tokio::time::advance(Duration::from_mins(1) + LEASE_PAST_DEADLINE).await;
    assert_eq!(receive(&processor, record("event", 2)).await, ["event"]);
    assert_eq!(
        processor.ports.table.only_record().state.name(),
        StateName::Retrying
    );
}

/// A tool that moves messages and drops their attributes.
#[tokio::test(start_paused = true)]
async fn lost_attributes_are_restored_from_the_record() {
    let body = r#"{"id":"m1","channel":{"id":"c1","platform":"Open","time":"2026-01-15T12:00:00Z"},"type":"Text","text":"Hi",
        "direction":"Outbound"}"#;
    let message = Message {
        body: body.to_owned(),
        ..record("event", 1).message
    };
    let bare = || ReceivedMessage {
        message: message.clone(),
        ..record("event", 1)
    };
    let sent = Event {
        content_type: Some("application/vnd.example+json".to_owned()),
        headers: [("x-hub-signature-256".to_owned(), "sha256=abc".to_owned())].into(),
        ..message.to_event(Timestamp::UNIX_EPOCH).expect("readable")
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let processor = processor({
        let seen = Arc::clone(&seen);
        move |event: Event, attempt| {
            seen.lock()
                .expect("not poisoned")
                .push((event.content_type, event.headers));
            if attempt == 1 {
                fail(FailureCause::Status(404))
            } else {
                deliver()
            }
        }
    });
    let whole = ReceivedMessage {
        message: Message::from_event(sent.clone()),
        ..record("whole", 1)
    };
    assert!(receive(&processor, whole).await.is_empty());
    tokio::time::advance(Duration::from_hours(2)).await;
    assert!(receive(&processor, bare()).await.is_empty());
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
    assert_eq!(
        *seen.lock().expect("not poisoned"),
        vec![(sent.content_type, sent.headers); 2]
    );
}

/// A target that takes everything.
fn fine() -> Fake {
    processor(|_, _| deliver())
}
