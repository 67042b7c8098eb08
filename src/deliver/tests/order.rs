//! The order of conversations: the line of a group, and an event that leaves it.

use super::*;
use crate::domain::circuit::Probed;
use crate::ports::target::{Delivery, OutOfOrder};

const PATIENCE: Duration = Duration::from_mins(2);

/// The deliveries that a target has seen, with their marks.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Delivered>>>);

/// The name of an event, and its mark.
type Delivered = (String, Option<OutOfOrder>);

impl Seen {
    fn all(&self) -> Vec<Delivered> {
        self.0.lock().expect("not poisoned").clone()
    }

    fn names(&self) -> Vec<String> {
        self.all().into_iter().map(|(name, _)| name).collect()
    }
}

/// A target that takes a second for each event, and answers by its name.
struct Named<F>(F, Seen);

impl<F: Fn(&str) -> Outcome + Send + Sync + 'static> Target for Named<F> {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let name = delivery.event.id.to_string();
        let outcome = self.0(&name);
        if matches!(outcome, Outcome::Delivered { .. }) {
            let mut seen = self.1.0.lock().expect("not poisoned");
            seen.push((name, delivery.order));
        }
        outcome
    }

    fn address(&self) -> String {
        "named".to_owned()
    }
}

type Ordered<F> = Arc<Processor<FakePorts<Named<F>>>>;

/// A processor that keeps the order, over a target that answers by the name of an event.
fn in_order<F>(answer: F) -> (Ordered<F>, Seen)
where
    F: Fn(&str) -> Outcome + Send + Sync + 'static,
{
    let seen = Seen::default();
    let mut processor = over(FakeQueue::default(), Named(answer, seen.clone()));
    processor.ports.ordered = Some(FakeQueue::default());
    let order = Order {
        patience: PATIENCE,
        request_time: Duration::from_secs(10),
    };
    (Arc::new(processor.with_order(Some(order))), seen)
}

/// A message of the ordered queue.
fn ordered(name: &str, conversation: &str, receive_count: u32) -> ReceivedMessage {
    let mut received = record(name, receive_count);
    received.is_ordered = true;
    received.message.body = format!(r#"{{"conversationId":"{conversation}","name":"{name}"}}"#);
    received.message.group = Some(conversation.to_owned());
    received
}

fn batch(names: &[&str], receive_count: u32) -> Vec<ReceivedMessage> {
    let conversation = |name: &str| name[..1].to_owned();
    let message = |name: &&str| ordered(name, &conversation(name), receive_count);
    names.iter().map(message).collect()
}

fn accepted() -> Outcome {
    Outcome::Delivered { status: Some(200) }
}

fn unauthorized() -> Outcome {
    let cause = FailureCause::Credentials(Some(401));
    Outcome::Failed(DeliveryFailure::new(cause, "as the test says"))
}

/// The target asks for a retry after this time.
fn asks_for(retry_after: Duration) -> Outcome {
    let failure = DeliveryFailure::new(FailureCause::Status(429), "as the test says");
    Outcome::Failed(DeliveryFailure {
        retry_after: Some(retry_after),
        ..failure
    })
}

/// The target accepts only a2, and asks for a retry of all others after this time.
fn accepts_only_a2(retry_after: Duration) -> impl Fn(&str) -> Outcome + Send + Sync {
    move |name| {
        if name == "a2" {
            accepted()
        } else {
            asks_for(retry_after)
        }
    }
}

/// The target answers one after another, whatever the event.
fn in_turn(answers: Vec<Outcome>) -> impl Fn(&str) -> Outcome + Send + Sync {
    let answers = Mutex::new(answers);
    move |_| answers.lock().expect("not poisoned").remove(0)
}

fn failed(status: u16) -> Outcome {
    let cause = FailureCause::Status(status);
    Outcome::Failed(DeliveryFailure::new(cause, "as the test says"))
}

/// The changes of visibility in the ordered queue, by message.
fn delays<F>(processor: &Ordered<F>) -> Vec<(String, Duration)>
where
    F: Fn(&str) -> Outcome + Send + Sync + 'static,
{
    let queue = processor.ports.ordered.as_ref().expect("an ordered queue");
    let changes = queue.visibility_changes().into_iter();
    changes.map(|(receipt, delay)| (receipt.0, delay)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_delivered_one_after_another_beside_others() {
    let (processor, seen) = in_order(|_| accepted());
    let began = Instant::now();
    let batch = batch(&["a1", "b1", "a2", "b2", "a3"], 1);
    assert!(processor.process(batch, a_minute()).await.is_empty());
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    let of = |conversation| {
        let names = seen.names().into_iter();
        names
            .filter(|name| name.starts_with(conversation))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of('a'), of('b')),
        (
            vec!["a1".to_owned(), "a2".to_owned(), "a3".to_owned()],
            vec!["b1".to_owned(), "b2".to_owned()]
        )
    );
    assert!(seen.all().iter().all(|(_, mark)| mark.is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_its_conversation_and_no_other() {
    let (processor, seen) = in_order(|name| {
        if name == "a2" {
            failed(503)
        } else {
            accepted()
        }
    });
    let kept = processor
        .process(batch(&["a1", "a2", "a3", "a4", "b1", "b2"], 1), a_minute())
        .await;
    assert_eq!(kept, ["a2", "a3", "a4"]);
    assert_eq!(seen.names(), ["a1", "b1", "b2"]);
    let delays = delays(&processor);
    let first = delays[0].1;
    assert!((1..=3).contains(&first.as_secs()), "{delays:?}");
    assert_eq!(
        delays,
        ["a2", "a3", "a4"].map(|name| (name.to_owned(), first))
    );
    assert!(processor.ports.events.visibility_changes().is_empty());
    let attempted = processor.ports.table.records();
    assert_eq!(attempted.len(), 4, "those behind were not claimed");
    let (waiting, more) = processor
        .ports
        .table
        .waiting(10, FakeClock.now())
        .await
        .expect("read");
    assert!(!more && waiting.len() == 1);
    let waits = waiting[0].waiting.as_ref().expect("a conversation waits");
    assert_eq!(
        (waiting[0].event_id.as_str(), waits.conversation.as_str()),
        ("a2", "a")
    );
}

#[tokio::test(start_paused = true)]
async fn receives_without_an_attempt_do_not_make_a_dead_letter() {
    let (processor, seen) = in_order(|_| accepted());
    let kept = processor.process(batch(&["a1"], 400), a_minute()).await;
    assert!(kept.is_empty());
    assert_eq!(seen.names(), ["a1"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_exhaust_an_event_and_its_conversation_goes_on() {
    let (processor, seen) = in_order(|name| {
        if name == "a1" {
            failed(503)
        } else {
            accepted()
        }
    });
    for receive in 1..=3 {
        let kept = processor
            .process(batch(&["a1", "a2"], receive), a_minute())
            .await;
        assert_eq!(kept, ["a1", "a2"], "receive {receive}");
        tokio::time::advance(delays(&processor).pop().expect("a delay").1).await;
    }
    assert!(
        processor
            .process(batch(&["a1", "a2"], 4), a_minute())
            .await
            .is_empty()
    );
    assert_eq!(seen.names(), ["a2"]);
    let dead = processor.ports.dead_letters.messages();
    let reason = dead[0].reason(FakeClock.now()).expect("a reason");
    assert_eq!(
        (dead.len(), reason.reason, reason.attempt),
        (1, ReasonKind::Exhausted, Some(4))
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_does_not_stop_its_conversation() {
    let (processor, seen) = in_order(|name| {
        if name == "a1" {
            failed(404)
        } else {
            accepted()
        }
    });
    assert!(
        processor
            .process(batch(&["a1", "a2"], 1), a_minute())
            .await
            .is_empty()
    );
    assert_eq!(seen.names(), ["a2"]);
    assert_eq!(processor.ports.dead_letters.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_leaves_its_place_when_the_patience_ends() {
    let (processor, seen) = in_order(|name| {
        if name == "a1" {
            failed(503)
        } else {
            accepted()
        }
    });
    // More attempts than the patience has room for.
    let schedule =
        Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10).expect("a schedule");
    let mut processor = Arc::into_inner(processor).expect("not shared");
    processor.backoff = schedule.into();
    let processor = Arc::new(processor);
    let (mut began, mut receive) = (None, 0);
    loop {
        receive += 1;
        let kept = processor
            .process(batch(&["a1", "a2"], receive), a_minute())
            .await;
        if kept.is_empty() {
            break;
        }
        began.get_or_insert_with(Instant::now);
        tokio::time::advance(delays(&processor).pop().expect("a delay").1).await;
    }
    let waited = began.expect("a failure").elapsed();
    assert!(
        waited >= PATIENCE && waited <= PATIENCE + Duration::from_secs(5),
        "{waited:?}"
    );
    assert_eq!(seen.names(), ["a2"], "the conversation goes on");
    let late = processor.ports.events.messages();
    assert_eq!((late.len(), late[0].event_id()), (1, Some("a1")));
    let record = processor
        .ports
        .table
        .record(&"a1".parse().expect("an id"))
        .expect("a record");
    assert_eq!(
        (record.state.name(), record.waiting),
        (StateName::Retrying, None)
    );
    assert!(processor.ports.dead_letters.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_asks_for_more_than_the_patience_gets_it_elsewhere() {
    let (processor, seen) = in_order(accepts_only_a2(Duration::from_mins(5)));
    assert!(
        processor
            .process(batch(&["a1", "a2"], 1), a_minute())
            .await
            .is_empty()
    );
    assert_eq!(seen.names(), ["a2"]);
    assert_eq!(processor.ports.events.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_waits_until_the_copy_of_an_event_is_durable() {
    let (processor, seen) = in_order(accepts_only_a2(Duration::from_mins(50)));
    processor.ports.events.fail();
    let kept = processor.process(batch(&["a1", "a2"], 1), a_minute()).await;
    assert_eq!(kept, ["a1", "a2"]);
    assert!(seen.names().is_empty());
    let delay = delays(&processor)[0].1;
    assert!(delay <= Duration::from_secs(3), "{delay:?}");
    processor.ports.events.fail_times(0);
    let again = processor.process(batch(&["a1", "a2"], 2), a_minute()).await;
    assert!(again.is_empty(), "the copy is sent then");
    assert_eq!(seen.names(), ["a2"]);
    assert_eq!(processor.ports.events.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_place_until_its_copy_is_durable() {
    let (processor, _) = in_order(|_| failed(503));
    processor.ports.events.fail();
    let used_up = ordered("a1", "a", 900);
    assert_eq!(
        processor.process(vec![used_up.clone()], a_minute()).await,
        ["a1"]
    );
    processor.ports.events.fail_times(0);
    assert!(
        processor
            .process(vec![used_up], a_minute())
            .await
            .is_empty()
    );
    assert_eq!(processor.ports.events.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_credentials_never_cost_an_event_its_place() {
    let (processor, _) = in_order(|_| unauthorized());
    let sent_at = FakeClock.now();
    for receive in 1..=20 {
        let mut batch = batch(&["a1", "a2"], receive);
        batch[0].sent_at = sent_at;
        let kept = processor.process(batch, a_minute()).await;
        assert_eq!(kept, ["a1", "a2"], "receive {receive}");
        tokio::time::advance(delays(&processor).pop().expect("a delay").1).await;
    }
    assert!(processor.ports.events.messages().is_empty());
    assert!(processor.ports.dead_letters.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_the_invocation_is_not_attempted() {
    let (processor, seen) = in_order(|_| accepted());
    let deadline = Instant::now() + Duration::from_secs(15);
    let kept = processor
        .process(batch(&["a1", "a2", "a3", "a4"], 1), deadline)
        .await;
    assert_eq!((seen.names().len(), kept.len()), (3, 1));
    assert_eq!(delays(&processor), [("a4".to_owned(), Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_holds_its_conversation_back_and_no_other() {
    let (processor, seen) = in_order(|name| {
        assert_ne!(name, "a1", "this event makes the target panic");
        accepted()
    });
    let kept = processor
        .process(batch(&["a1", "a2", "b1"], 1), a_minute())
        .await;
    assert_eq!(kept, ["a1", "a2"]);
    assert_eq!(seen.names(), ["b1"]);
    let delays = delays(&processor);
    assert_eq!(delays[0].1, delays[1].1);
    assert!(
        delays[0].1 > Duration::from_mins(1),
        "its lease holds until then: {delays:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_ends_its_worker_leaves_its_place() {
    let (processor, seen) = in_order(|name| {
        assert_ne!(name, "a1", "this event makes the target panic");
        accepted()
    });
    for receive in 1.. {
        let kept = processor
            .process(batch(&["a1", "a2"], receive), a_minute())
            .await;
        if kept.is_empty() {
            break;
        }
        assert!(receive < 5, "it leaves after the patience");
        tokio::time::advance(delays(&processor).pop().expect("a delay").1).await;
    }
    assert_eq!(seen.names(), ["a2"]);
    assert_eq!(processor.ports.events.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_conversation_is_marked_in_the_standard_queue() {
    let (processor, seen) = in_order(|_| accepted());
    let mut late = ordered("a1", "a", 1);
    late.is_ordered = false;
    let batch = vec![late, record("x", 1)];
    assert!(processor.process(batch, a_minute()).await.is_empty());
    assert_eq!(
        seen.all(),
        [
            ("a1".to_owned(), Some(OutOfOrder::Late)),
            ("x".to_owned(), None)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_says_so_in_either_queue() {
    for is_ordered in [true, false] {
        let (processor, seen) = in_order(|_| accepted());
        let mut received = ordered("a1", "a", 1);
        let event = received
            .message
            .to_event(received.stamp())
            .expect("an event");
        let dead = dead_and_replayed(&processor.ports.table, &event).await;
        assert_eq!(dead, StateName::Dead);
        received.is_ordered = is_ordered;
        received.message_id = "replayed".to_owned();
        assert!(
            processor
                .process(vec![received], a_minute())
                .await
                .is_empty()
        );
        assert_eq!(seen.all(), [("a1".to_owned(), Some(OutOfOrder::Replayed))]);
    }
}

/// Kills an event and replays it, as far as its record goes.
async fn dead_and_replayed(table: &FakeTable, event: &Event) -> StateName {
    let now = FakeClock.now();
    let request = ClaimRequest {
        event,
        message_id: "first",
        sent_at: now,
        bulk: None,
        resend: None,
        last: false,
        conversation: None,
        lease_until: now,
        now,
    };
    let ClaimResult::Claimed(claim) = Claim::on(None, request) else {
        panic!("not new");
    };
    table.write(claim.transition()).await.expect("claimed");
    let attempt = Attempt {
        at: now,
        duration_ms: Some(1),
        status: Some(404),
        error: None,
        response: None,
    };
    let death = Death {
        reason: ReasonKind::Permanent,
        error: "as the test says".to_owned(),
        status_code: Some(404),
        dead_at: now,
    };
    let dead = claim.dead(attempt, death, None, Context::default());
    table.write(&dead).await.expect("dead");
    let record = table.only_record();
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&record, now) else {
        panic!("not dead: {record:?}");
    };
    let act = OperatorAction {
        action: "replay".to_owned(),
        at: now,
        by: "an operator".to_owned(),
        why: None,
    };
    table.write(&dead.replayed(act)).await.expect("replayed");
    table.only_record().state.name()
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_event_that_left_is_marked() {
    let answers = vec![asks_for(Duration::from_mins(5)), accepted()];
    let (processor, seen) = in_order(in_turn(answers));
    assert!(
        processor
            .process(batch(&["a1"], 1), a_minute())
            .await
            .is_empty()
    );
    tokio::time::advance(Duration::from_mins(6)).await;
    let mut duplicate = ordered("a1", "a", 1);
    duplicate.message_id = "duplicate".to_owned();
    assert!(
        processor
            .process(vec![duplicate], a_minute())
            .await
            .is_empty()
    );
    assert_eq!(seen.all(), [("a1".to_owned(), Some(OutOfOrder::Late))]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_attempts_the_first_event_of_a_conversation_in_its_place() {
    let (processor, seen) = in_order(|_| failed(503));
    let mut processor = Arc::into_inner(processor).expect("not shared");
    let queue = FakeQueue::fifo();
    processor.ports.ordered = Some(queue.clone());
    for name in ["a1", "a2"] {
        queue
            .send(&ordered(name, "a", 1).message)
            .await
            .expect("sent");
    }
    for _ in 0..3 {
        let probed = processor.probe(None, a_minute()).await.expect("probed");
        let Probed::Failed { event_id, .. } = probed else {
            panic!("{probed:?}")
        };
        assert_eq!(event_id, "a1");
        tokio::time::advance(Duration::from_mins(1)).await;
    }
    assert!(seen.names().is_empty());
    assert_eq!((queue.messages().len(), queue.removed()), (2, 0));
    assert!(processor.ports.events.messages().is_empty());
    let record = processor.ports.table.only_record();
    assert!(record.waiting.is_some() && record.attempts_since_claim == 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_takes_what_is_new_in_the_standard_queue_first() {
    let (processor, seen) = in_order(|_| accepted());
    let mut processor = Arc::into_inner(processor).expect("not shared");
    let queue = FakeQueue::fifo();
    processor.ports.ordered = Some(queue.clone());
    queue
        .send(&ordered("a1", "a", 1).message)
        .await
        .expect("sent");
    let standard = &processor.ports.events;
    standard.send(&record("x", 1).message).await.expect("sent");
    for expected in ["x", "a1"] {
        let probed = processor.probe(None, a_minute()).await.expect("probed");
        assert_eq!(
            probed,
            Probed::Delivered {
                event_id: expected.to_owned()
            }
        );
    }
    assert_eq!(seen.names(), ["x", "a1"]);
    assert!(queue.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_place_does_not_come_back_by_a_failure() {
    let answers = vec![asks_for(Duration::from_mins(5)), failed(503), accepted()];
    let (processor, seen) = in_order(in_turn(answers));
    let again = |name: &str| {
        let mut again = ordered("a1", "a", 1);
        again.message_id = name.to_owned();
        vec![again]
    };
    // It leaves, a duplicate of it fails in line, and another one is accepted.
    for (name, wait) in [("first", 6), ("second", 1), ("third", 0)] {
        let kept = processor.process(again(name), a_minute()).await;
        assert!(kept.is_empty(), "{name} holds nothing back");
        tokio::time::advance(Duration::from_mins(wait)).await;
    }
    assert_eq!(seen.all(), [("a1".to_owned(), Some(OutOfOrder::Late))]);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_event_that_waits_elsewhere_holds_nothing_back() {
    let (processor, seen) = in_order(accepts_only_a2(Duration::from_mins(5)));
    let kept = processor.process(batch(&["a1"], 1), a_minute()).await;
    assert!(kept.is_empty());
    let mut duplicate = batch(&["a1", "a2"], 1);
    duplicate[0].message_id = "duplicate".to_owned();
    let kept = processor.process(duplicate, a_minute()).await;
    assert!(kept.is_empty());
    assert_eq!(seen.names(), ["a2"]);
    assert_eq!(processor.ports.events.messages().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_place_while_its_loss_is_not_recorded() {
    let (processor, seen) = in_order(accepts_only_a2(Duration::from_mins(5)));
    processor.ports.table.fail_after(1, 1);
    let kept = processor.process(batch(&["a1", "a2"], 1), a_minute()).await;
    assert_eq!(kept, ["a1", "a2"]);
    assert!(seen.names().is_empty() && processor.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn hours_of_bad_credentials_do_not_use_up_the_patience() {
    let (processor, _) = in_order(in_turn(vec![unauthorized(), unauthorized(), failed(503)]));
    let sent_at = FakeClock.now();
    for receive in 1..=3 {
        let mut batch = batch(&["a1"], receive);
        batch[0].sent_at = sent_at;
        let kept = processor.process(batch, a_minute()).await;
        assert_eq!(kept, ["a1"], "receive {receive}");
        tokio::time::advance(Duration::from_hours(1)).await;
    }
    assert!(processor.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_was_probed_for_too_long_leaves_its_place_to_the_next() {
    for (answer, leaves) in [(failed(503), true), (unauthorized(), false)] {
        let (processor, _) = in_order(move |_| answer.clone());
        let mut processor = Arc::into_inner(processor).expect("not shared");
        let queue = FakeQueue::fifo();
        processor.ports.ordered = Some(queue.clone());
        for name in ["a1", "a2"] {
            let message = ordered(name, "a", 1).message;
            queue.send(&message).await.expect("sent");
        }
        let mut probed = Vec::new();
        for _ in 0..6 {
            let outcome = processor.probe(None, a_minute()).await.expect("probed");
            let Probed::Failed { event_id, .. } = outcome else {
                panic!("{outcome:?}")
            };
            probed.push(event_id);
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        assert_eq!(probed[..5], ["a1"; 5].map(str::to_owned));
        assert_eq!(probed[5], if leaves { "a2" } else { "a1" });
        let copies = processor.ports.events.messages().len();
        assert_eq!(copies, usize::from(leaves));
    }
}

#[tokio::test(start_paused = true)]
async fn a_resend_has_its_place_in_its_conversation() {
    let fails = Arc::new(Mutex::new(true));
    let failing = Arc::clone(&fails);
    let (processor, seen) = in_order(move |name| {
        let fails = name == "a1" && *failing.lock().expect("not poisoned");
        if fails {
            fail(FailureCause::Status(503)).into_inner()
        } else {
            deliver().into_inner()
        }
    });
    *fails.lock().expect("not poisoned") = false;
    processor.process(batch(&["a1", "a2"], 1), a_minute()).await;
    *fails.lock().expect("not poisoned") = true;
    let resend = crate::domain::resend::Resend {
        run: "one".to_owned(),
        by: "an operator".to_owned(),
        why: None,
    };
    let sent_again = |receive_count| {
        let mut batch = batch(&["a1", "a2"], receive_count);
        for received in &mut batch {
            received.message = received.message.clone().with_resend(&resend);
        }
        batch
    };
    // The first fails, and holds the second back.
    assert_eq!(
        processor.process(sent_again(1), a_minute()).await,
        ["a1", "a2"]
    );
    *fails.lock().expect("not poisoned") = false;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(
        processor
            .process(sent_again(2), a_minute())
            .await
            .is_empty()
    );
    let unmarked = |name: &str| (name.to_owned(), None);
    assert_eq!(seen.all(), ["a1", "a2", "a1", "a2"].map(unmarked));
}
