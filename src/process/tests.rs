//! The use case over stand-ins, on virtual time.

mod identity;
mod probe;

use std::collections::BTreeMap;

use super::*;
use crate::events_table::Written;
use crate::message::{Attribute, attribute};
use crate::reason::ReasonKind;
use crate::record::{Act, Attempt, Claim, ClaimRequest, Claiming, Context, Death, Finding, State, StateName};
use crate::target::Outcome;
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
        attempts: AttemptCounter::default(),
    })
}

fn record(name: &str, receive_count: u32) -> Record {
    Record {
        message_id: name.to_owned(),
        receipt: Some(ReceiptHandle(name.to_owned())),
        receive_count,
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
    assert!(processor.table.body(&record.event_id, FakeClock.now()).await.expect("read").is_some());
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
async fn a_dead_letter_and_its_record_say_how_the_target_answered() {
    let processor = processor(|_, attempt| async move {
        let failure = Failure::new(Cause::Status(if attempt == 1 { 503 } else { 422 }), "as the test says");
        Outcome::Failed(Failure { response: Some(format!("answer {attempt}")), ..failure })
    });
    processor.process(vec![record("event", 1)], a_minute()).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(processor.process(vec![record("event", 2)], a_minute()).await.is_empty());
    let now = FakeClock.now();
    let reason = processor.dead_letters.messages()[0].reason(now).expect("a reason");
    assert_eq!((reason.reason, reason.status_code, reason.attempt), (ReasonKind::Permanent, Some(422), Some(2)));
    assert_eq!(
        (reason.detail.as_str(), reason.response.as_deref(), reason.at),
        ("as the test says", Some("answer 2"), now)
    );
    let record = processor.table.only_record();
    let told = |attempt: &Attempt| (attempt.status, attempt.error.clone(), attempt.response.clone());
    let expected = [(503, "answer 1"), (422, "answer 2")]
        .map(|(status, answer)| (Some(status), Some("as the test says".to_owned()), Some(answer.to_owned())));
    assert_eq!(record.attempts.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(
        processor.table.body(&record.event_id, FakeClock.now()).await.expect("read").as_deref(),
        Some(&br#"{"name":"event"}"#[..])
    );
}

#[tokio::test(start_paused = true)]
async fn the_reason_counts_the_attempts_of_the_whole_life() {
    let processor = processor(|_, attempt| fail(Cause::Status(if attempt < 5 { 503 } else { 404 })));
    receive_until_done(&processor, "event", 4).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    let moved = Record { message_id: "moved".to_owned(), ..record("event", 1) };
    assert!(processor.process(vec![moved], a_minute()).await.is_empty());
    let reason = processor.dead_letters.messages()[0].reason(FakeClock.now()).expect("a reason");
    assert_eq!(reason.attempt, Some(5));
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_letter_queue_does_not_take_comes_back_after_the_backoff_of_its_receive() {
    for (body, receive_count, delays) in
        [(r#"{"name":"refused"}"#, 1, 2..=3), ("no json", 1, 2..=3), ("no json", 3, 8..=9), ("no json", 4, 0..=0)]
    {
        let processor = processor(|_, _| fail(Cause::Status(404)));
        processor.dead_letters.fail();
        let mut record = record("refused", receive_count);
        record.message.body = body.to_owned();
        assert_eq!(processor.process(vec![record], a_minute()).await, ["refused"]);
        let (_, delay) = processor.events.visibility_changes().pop().expect("a change");
        assert!(delays.contains(&delay.as_secs()), "{body} at receive {receive_count}: {delay:?}");
    }
}

/// A target that uses all the time that it is given.
struct Slow;

impl Target for Slow {
    async fn deliver(&self, delivery: crate::target::Delivery<'_>) -> Outcome {
        tokio::time::sleep_until(delivery.deadline).await;
        deliver().await
    }

    fn address(&self) -> String {
        "a test".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_uses_all_its_time_leaves_enough_to_record_the_delivery() {
    let processor = Arc::new(Processor {
        events: FakeQueue::default(),
        dead_letters: FakeQueue::default(),
        table: FakeTable::default(),
        target: Slow,
        schedule: Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 4).expect("a schedule"),
        clock: FakeClock,
        rng: Mutex::default(),
        attempts: AttemptCounter::default(),
    });
    // The first tries to record it fail.
    processor.table.fail_after(1, 3);
    assert!(processor.process(vec![record("event", 1)], a_minute()).await.is_empty());
    assert_eq!(processor.table.only_record().state, State::Delivered);
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
    let (_, delay) = processor.events.visibility_changes().pop().expect("a change");
    assert!(Instant::now() + delay >= deadline + LEASE_PAST_DEADLINE, "not before its lease is over: {delay:?}");
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
        target: FakeTarget::new(|event: Event, _| if is(&event, "fine") { deliver() } else { fail(Cause::TimedOut) }),
        schedule: Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 4).expect("a schedule"),
        clock: FakeClock,
        rng: Mutex::default(),
        attempts: AttemptCounter::default(),
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

/// How far one event gets with a target that answers so, one after the other.
async fn fates(answers: &'static [(Cause, Option<u64>)]) -> (StateName, usize) {
    let processor = processor(move |_, attempt| {
        let (cause, retry_after) = answers[attempt as usize - 1];
        let retry_after = retry_after.map(Duration::from_secs);
        std::future::ready(Outcome::Failed(Failure { retry_after, ..Failure::new(cause, "as the test says") }))
    });
    receive_until_done(&processor, "event", u32::try_from(answers.len()).expect("few")).await;
    let record = processor.table.only_record();
    (record.state.name(), record.attempts.len())
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_final_only_where_nothing_can_be_in_progress() {
    use Cause::{Connection, Status, TimedOut};
    assert_eq!(fates(&[(Status(409), None)]).await, (StateName::Dead, 1));
    assert_eq!(fates(&[(Status(423), None)]).await, (StateName::Dead, 1));
    assert_eq!(fates(&[(Status(503), Some(1)), (Status(409), None)]).await, (StateName::Dead, 2), "it was answered");
    assert_eq!(fates(&[(Status(409), Some(0)), (Status(409), Some(2))]).await, (StateName::Retrying, 2));
    assert_eq!(fates(&[(TimedOut, None), (Status(409), None), (Status(423), None)]).await, (StateName::Retrying, 3));
    assert_eq!(fates(&[(Connection, None), (Status(423), None)]).await, (StateName::Retrying, 2));
    assert_eq!(fates(&[(TimedOut, None), (Status(404), None)]).await, (StateName::Dead, 2));
}

#[tokio::test(start_paused = true)]
async fn a_crash_leaves_an_attempt_without_an_answer() {
    let processor = processor(|_, attempt| async move {
        if attempt == 1 {
            std::future::pending::<()>().await;
        }
        fail(Cause::Status(409)).await
    });
    let crash = tokio::spawn({
        let processor = Arc::clone(&processor);
        async move { processor.process(vec![record("event", 1)], a_minute()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash.abort();
    tokio::time::advance(Duration::from_mins(1) + LEASE_PAST_DEADLINE).await;
    assert_eq!(processor.process(vec![record("event", 2)], a_minute()).await, ["event"]);
    assert_eq!(processor.table.only_record().state.name(), StateName::Retrying);
}

/// A tool that moves messages and drops their attributes.
#[tokio::test(start_paused = true)]
async fn what_a_message_has_lost_comes_back_from_its_record() {
    let body = r#"{"id":"m1","channel":{"id":"c1","platform":"Open","time":"2026-01-15T12:00:00Z"},"type":"Text","text":"Hi",
        "direction":"Outbound"}"#;
    let message = Message { body: body.to_owned(), ..record("event", 1).message };
    let bare = || Record { message: message.clone(), ..record("event", 1) };
    let sent = Event {
        content_type: Some("application/vnd.example+json".to_owned()),
        headers: [("x-hub-signature-256".to_owned(), "sha256=abc".to_owned())].into(),
        ..message.to_event(Timestamp::UNIX_EPOCH).expect("readable")
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let processor = processor({
        let seen = Arc::clone(&seen);
        move |event: Event, attempt| {
            seen.lock().expect("not poisoned").push((event.content_type, event.headers));
            if attempt == 1 { fail(Cause::Status(404)) } else { deliver() }
        }
    });
    let whole = Record { message: Message::from_event(sent.clone()), ..record("whole", 1) };
    assert!(processor.process(vec![whole], a_minute()).await.is_empty());
    tokio::time::advance(Duration::from_hours(2)).await;
    assert!(processor.process(vec![bare()], a_minute()).await.is_empty());
    assert_eq!(processor.table.only_record().state, State::Delivered);
    assert_eq!(*seen.lock().expect("not poisoned"), vec![(sent.content_type, sent.headers); 2]);
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

/// Claims the event of a record as another worker whose clock is far ahead, so that any lease is over for it.
async fn overtake<F>(processor: &Fake<F>, name: &str) -> (Claim, Attempt) {
    let found = processor.table.only_record();
    let copy = record(name, 1);
    let event = copy.message.to_event(copy.sent_at).expect("readable");
    let now = FakeClock.now() + Duration::from_mins(10);
    let request = ClaimRequest {
        event: &event,
        message_id: "copy",
        sent_at: now,
        bulk: None,
        last: false,
        lease_until: now + Duration::from_mins(1),
        now,
    };
    let Claiming::Free(claim) = Claim::on(Some(&found), request) else { panic!("not free") };
    assert_eq!(processor.table.write(claim.transition()).await.expect("written"), Written::Done);
    (claim, Attempt { at: now, duration_ms: None, status: Some(503), error: None, response: None })
}

/// What the other worker makes of it: a dead event, which an operator may have discarded.
async fn die<F>(processor: &Fake<F>, claim: &Claim, attempt: Attempt, is_discarded: bool) {
    let (now, error) = (attempt.at, "as the test says".to_owned());
    let death = Death { reason: ReasonKind::Permanent, error, status_code: None, dead_at: now };
    let step = claim.dead(attempt, death, None, Context::default());
    processor.table.write(&step).await.expect("written");
    let Some(Finding::Dead(dead)) = Finding::recorded(step.next(), now) else { panic!("not dead") };
    if is_discarded {
        let act = Act { action: "discard".to_owned(), at: now, by: "a test".to_owned(), why: None };
        processor.table.write(&dead.discarded(act)).await.expect("written");
    }
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
    let (claim, attempt) = overtake(&processor, "event").await;
    processor.table.write(&claim.delivered(attempt)).await.expect("written");
    assert!(slow.await.expect("no panic").is_empty(), "acknowledged: it is delivered");
    assert_eq!(processor.table.only_record().state, State::Delivered);
    assert!(processor.dead_letters.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_what_was_discarded_meanwhile_is_acknowledged() {
    let processor = processor(|_, _| async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        fail(Cause::Status(503)).await
    });
    let slow = tokio::spawn({
        let processor = Arc::clone(&processor);
        async move { processor.process(vec![record("event", 1)], a_minute()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (claim, attempt) = overtake(&processor, "event").await;
    die(&processor, &claim, attempt, true).await;
    assert!(slow.await.expect("no panic").is_empty());
    assert_eq!(processor.table.only_record().state.name(), StateName::Discarded);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_recorded_over_whatever_came_after_its_lease() {
    let (failed, dead, discarded, forgotten) = (1, 2, 3, 4);
    for meanwhile in 0..=forgotten {
        let processor = processor(|_, _| async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            deliver().await
        });
        let slow = tokio::spawn({
            let processor = Arc::clone(&processor);
            async move { processor.process(vec![record("event", 1)], a_minute()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (claim, attempt) = overtake(&processor, "event").await;
        let now = attempt.at;
        if meanwhile == failed {
            processor.table.write(&claim.retrying(attempt, now, now)).await.expect("written");
        } else if meanwhile == dead || meanwhile == discarded {
            die(&processor, &claim, attempt, meanwhile == discarded).await;
        } else if meanwhile == forgotten {
            processor.table.delete_expired(Timestamp::MAX);
        }
        assert!(slow.await.expect("no panic").is_empty(), "acknowledged");
        let record = processor.table.only_record();
        assert_eq!(record.state, State::Delivered);
        assert_eq!(record.attempts_made, if meanwhile == forgotten { 1 } else { 2 });
        assert_eq!(record.attempts.last().and_then(|attempt| attempt.status), Some(200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_others_keep_from_being_written_is_none() {
    for (overtaken, deliveries) in [(0, 2), (1, 2), (2, 2), (3, 1), (usize::MAX, 1)] {
        let processor = processor(|_, _| fail(Cause::Status(503)));
        processor.process(vec![record("event", 1)], a_minute()).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        processor.table.overtake(overtaken);
        assert_eq!(processor.process(vec![record("event", 2)], a_minute()).await, ["event"]);
        assert_eq!(processor.target.deliveries(), deliveries, "overtaken {overtaken} times");
        if deliveries == 1 {
            assert_eq!(processor.events.visibility_changes()[1].1, Duration::from_secs(1));
            assert_eq!(processor.table.only_record().attempts_made, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_recorded_is_tried_again_only_when_its_lease_is_over() {
    let lease = Duration::from_mins(1) + LEASE_PAST_DEADLINE;
    for (status, retry_after, receive_count, delay) in [
        (503, None, 1, lease),
        (404, None, 1, lease),
        (429, Some(lease + Duration::from_secs(1)), 1, lease + Duration::from_secs(1)),
        (503, None, 4, Duration::ZERO),
    ] {
        let processor = processor(move |_, _| async move {
            let failure = Failure::new(Cause::Status(status), "as the test says");
            Outcome::Failed(Failure { retry_after, ..failure })
        });
        // The claim is written, and nothing after that; a later receive is looked up before.
        processor.table.fail_after(if receive_count == 1 { 1 } else { 2 }, usize::MAX);
        assert_eq!(processor.process(vec![record("event", receive_count)], a_minute()).await, ["event"]);
        assert_eq!(processor.events.visibility_changes()[0].1, delay, "{status} at receive {receive_count}");
        assert!(processor.dead_letters.messages().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_starts_its_backoff_anew_and_counts_on() {
    let told = Arc::<Mutex<Vec<u32>>>::default();
    let processor = processor({
        let told = Arc::clone(&told);
        move |_, attempt| {
            told.lock().expect("not poisoned").push(attempt);
            fail(Cause::Status(503))
        }
    });
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
    assert_eq!(*told.lock().expect("not poisoned"), [1, 2, 3, 4, 5], "the target is told of its whole life");
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_delivered_event_is_gone_whatever_crashed() {
    for calls in 0..5 {
        let processor = processor(|_, attempt| if attempt == 1 { fail(Cause::Status(404)) } else { deliver() });
        processor.process(vec![record("replayed", 1)], a_minute()).await;
        let id = processor.table.only_record().event_id;
        assert_eq!(processor.table.kept_bodies(), [id]);
        tokio::time::advance(Duration::from_mins(5)).await;
        processor.table.halt_after(calls);
        let again = || vec![Record { message_id: "moved".to_owned(), ..record("replayed", 1) }];
        let doomed = tokio::spawn({
            let processor = Arc::clone(&processor);
            let records = again();
            async move { processor.process(records, Instant::now() + Duration::from_mins(1)).await }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        doomed.abort();
        processor.table.resume();
        // What was not acknowledged comes again.
        tokio::time::advance(Duration::from_mins(10)).await;
        processor.process(vec![Record { receive_count: 2, ..again().remove(0) }], a_minute()).await;
        assert_eq!(processor.table.only_record().state, State::Delivered, "{calls}");
        assert_eq!(processor.table.kept_bodies(), [], "{calls}");
    }
}
