//! Events that are sent once more, and events that are erased.

use super::*;
use crate::domain::erasure::Erasures;
use crate::domain::event_record::EventRecord;
use crate::domain::resend::Resend;
use crate::ports::target::Delivery;

/// A target that notes the run of each delivery, and answers by the script, at the end of which it
/// accepts.
#[derive(Clone, Default)]
struct Noting {
    seen: Arc<Mutex<Vec<Option<String>>>>,
    failures: Arc<Mutex<Vec<u16>>>,
}

impl Target for Noting {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.push(delivery.resend.map(str::to_owned));
        match self.failures.lock().expect("not poisoned").pop() {
            Some(status) => fail(FailureCause::Status(status)).into_inner(),
            None => deliver().into_inner(),
        }
    }

    fn address(&self) -> String {
        "a test".to_owned()
    }
}

type Relay = Arc<Processor<FakePorts<Noting>>>;

fn relay() -> Relay {
    Arc::new(over(FakeQueue::default(), Noting::default()))
}

fn seen(relay: &Relay) -> Vec<Option<String>> {
    relay
        .ports
        .target
        .seen
        .lock()
        .expect("not poisoned")
        .clone()
}

fn fails_with(relay: &Relay, statuses: &[u16]) {
    *relay.ports.target.failures.lock().expect("not poisoned") = statuses.to_vec();
}

fn resend_of(run: &str) -> Resend {
    Resend {
        run: run.to_owned(),
        by: "an operator".to_owned(),
        why: Some("the target lost it".to_owned()),
    }
}

fn resent(run: &str, receive_count: u32) -> ReceivedMessage {
    let mut received = record("event", receive_count);
    received.message = received.message.with_resend(&resend_of(run));
    received.message_id = format!("event-of-{run}");
    received
}

fn runs(names: &[Option<&str>]) -> Vec<Option<String>> {
    names.iter().map(|name| name.map(str::to_owned)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_run_delivers_a_delivered_event_once_more() {
    let relay = relay();
    for received in [
        record("event", 1),
        // An ordinary duplicate, a resend, a copy of its message, and another run.
        record("event", 1),
        resent("one", 1),
        resent("one", 1),
        resent("two", 1),
        resent("one", 1),
        record("event", 2),
    ] {
        assert!(receive(&relay, received).await.is_empty());
    }
    assert_eq!(seen(&relay), runs(&[None, Some("one"), Some("two")]));
    let record = relay.ports.table.only_record();
    assert_eq!((record.state, record.resend), (State::Delivered, None));
    assert_eq!(record.resent, ["one", "two"]);
    let acts: Vec<_> = record
        .history
        .iter()
        .map(|act| (act.action.as_str(), act.by.as_str()))
        .collect();
    assert_eq!(acts, [("resend", "an operator"); 2]);
}

#[tokio::test(start_paused = true)]
async fn only_a_message_of_a_resend_delivers_during_a_resend() {
    let relay = relay();
    receive(&relay, record("event", 1)).await;
    fails_with(&relay, &[503]);
    assert_eq!(receive(&relay, resent("one", 1)).await, ["event-of-one"]);
    tokio::time::advance(Duration::from_hours(1)).await;
    // A late copy of the event itself: the target has it.
    assert!(receive(&relay, record("event", 3)).await.is_empty());
    assert_eq!(seen(&relay).len(), 2);
    let record = relay.ports.table.only_record();
    assert_eq!(record.state.name(), StateName::Retrying);
    assert!(receive(&relay, resent("one", 2)).await.is_empty());
    assert_eq!(relay.ports.table.only_record().resent, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn resend_that_fails_for_good_is_a_dead_letter_that_can_be_replayed() {
    let relay = relay();
    receive(&relay, record("event", 1)).await;
    fails_with(&relay, &[404]);
    assert!(receive(&relay, resent("one", 1)).await.is_empty());
    let [dead] = relay.ports.dead_letters.messages().try_into().expect("one");
    assert_eq!(dead.resend().expect("readable"), Some(resend_of("one")));
    let found = relay.ports.table.only_record();
    assert_eq!(found.state.name(), StateName::Dead);
    // Another copy of the event is none of it.
    assert!(receive(&relay, record("event", 1)).await.is_empty());
    assert_eq!(seen(&relay).len(), 2);
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&found, FakeClock.now())
    else {
        panic!("not dead")
    };
    let act = OperatorAction {
        action: "replay".to_owned(),
        at: FakeClock.now(),
        by: "an operator".to_owned(),
        why: None,
    };
    relay
        .ports
        .table
        .write(&dead.replayed(act))
        .await
        .expect("written");
    let again = ReceivedMessage {
        message_id: "replayed".to_owned(),
        ..resent("one", 1)
    };
    assert!(receive(&relay, again).await.is_empty());
    assert_eq!(seen(&relay), runs(&[None, Some("one"), Some("one")]));
    assert_eq!(relay.ports.table.only_record().resent, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn two_runs_at_once_both_deliver() {
    let relay = relay();
    receive(&relay, record("event", 1)).await;
    fails_with(&relay, &[503]);
    assert_eq!(receive(&relay, resent("one", 1)).await, ["event-of-one"]);
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(receive(&relay, resent("two", 1)).await.is_empty());
    assert!(receive(&relay, resent("one", 2)).await.is_empty());
    assert!(receive(&relay, resent("one", 3)).await.is_empty());
    assert_eq!(
        seen(&relay),
        runs(&[None, Some("one"), Some("two"), Some("one")])
    );
}

#[tokio::test(start_paused = true)]
async fn resend_of_a_forgotten_event_is_delivered_once() {
    let relay = relay();
    for _ in 0..2 {
        assert!(receive(&relay, resent("one", 1)).await.is_empty());
    }
    assert_eq!(seen(&relay), runs(&[Some("one")]));
}

#[tokio::test(start_paused = true)]
async fn unreadable_mark_of_a_resend_is_a_malformed_dead_letter() {
    let relay = relay();
    let mut received = record("event", 1);
    let mark = Attribute::text("no JSON");
    received
        .message
        .attributes
        .insert(attribute::RESEND.to_owned(), mark);
    assert!(receive(&relay, received).await.is_empty());
    let [dead] = relay.ports.dead_letters.messages().try_into().expect("one");
    let reason = dead.reason(FakeClock.now()).expect("a reason");
    assert_eq!(reason.reason, ReasonKind::Malformed);
    assert!(reason.detail.contains("resend"), "{}", reason.detail);
    assert!(seen(&relay).is_empty());
}

/// Records that the event is erased, as an operator's run does.
async fn erase(relay: &Relay) {
    let id = "event".parse().expect("an id");
    let found = relay.ports.table.record(&id);
    let act = OperatorAction {
        action: "erase".to_owned(),
        at: FakeClock.now(),
        by: "an operator".to_owned(),
        why: None,
    };
    let source = crate::domain::event::Source::Generic;
    let erased = EventRecord::erased(&id, source, FakeClock.now(), found.as_ref(), act);
    relay
        .ports
        .table
        .write(&erased.expect("not erased yet"))
        .await
        .expect("written");
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_an_erased_event_is_not_delivered() {
    let relay = relay();
    receive(&relay, record("event", 1)).await;
    erase(&relay).await;
    relay
        .ports
        .table
        .keep_body(&"event".parse().expect("an id"), b"{}", FakeClock.now())
        .await
        .expect("kept");
    for received in [record("event", 1), record("event", 3), resent("one", 1)] {
        assert!(receive(&relay, received).await.is_empty());
    }
    assert_eq!(seen(&relay).len(), 1);
    assert!(relay.ports.table.kept_bodies().is_empty());
    let record = relay.ports.table.only_record();
    assert_eq!(record.state, State::Erased);
    assert!(record.attempts.is_empty() && record.context.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_erased_during_its_attempt_stays_erased() {
    for status in [None, Some(503), Some(404)] {
        let relay = relay();
        receive(&relay, record("other", 1)).await;
        let gate = Arc::clone(&relay);
        // Claimed, and erased before the outcome is recorded.
        if let Some(status) = status {
            fails_with(&relay, &[status]);
        }
        let (mut event, deadline) = (record("event", 1), a_minute());
        event.message.body = "{}".to_owned();
        let claimed = gate.begin(&event, false, deadline).await;
        let super::super::attempt::ClaimOutcome::Claimed(of, claim) = claimed else {
            panic!("not claimed")
        };
        erase(&relay).await;
        let (attempt, outcome) = relay.attempt(&of, &claim, deadline).await;
        let disposition = match outcome {
            Ok(()) => {
                relay
                    .record_delivery(&event, &of, &claim, attempt, deadline)
                    .await
            }
            Err(failure) => {
                relay
                    .record_failure(&event, &of, &claim, attempt, &failure, deadline)
                    .await
            }
        };
        assert_eq!(disposition, super::super::backoff::Disposition::Delete);
        let id = "event".parse().expect("an id");
        let record = relay.ports.table.record(&id).expect("a record");
        assert_eq!(record.state, State::Erased, "{status:?}");
        assert!(relay.ports.table.kept_bodies().is_empty());
        assert!(relay.ports.dead_letters.messages().is_empty());
    }
}

fn of_conversation(name: &str, received_at: Timestamp, receive_count: u32) -> ReceivedMessage {
    let mut received = record(name, receive_count);
    received.message.body = r#"{"conversationId":"c1"}"#.to_owned();
    received.sent_at = received_at;
    let at = Attribute::text(received_at.to_string());
    received
        .message
        .attributes
        .insert(attribute::RECEIVED_AT.to_owned(), at);
    received
}

#[tokio::test(start_paused = true)]
async fn waiting_events_of_an_erased_conversation_are_dropped() {
    let relay = relay();
    let before = FakeClock.now();
    tokio::time::advance(Duration::from_secs(20)).await;
    let mut erasures = Erasures::default();
    erasures.note(Some("c1"), FakeClock.now()).expect("room");
    relay
        .ports
        .table
        .save_erasures(&erasures)
        .await
        .expect("saved");
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(
        receive(&relay, of_conversation("old", before, 1))
            .await
            .is_empty()
    );
    assert!(seen(&relay).is_empty());
    assert_eq!(relay.ports.table.only_record().state, State::Erased);
    // Its sender's clock is ahead.
    let mut ahead = of_conversation("ahead", FakeClock.now() + Duration::from_hours(1), 1);
    ahead.sent_at = before;
    assert!(receive(&relay, ahead).await.is_empty());
    assert!(seen(&relay).is_empty());
    // The conversation goes on, and what comes now is delivered.
    assert!(
        receive(&relay, of_conversation("new", FakeClock.now(), 1))
            .await
            .is_empty()
    );
    assert!(
        receive(&relay, of_conversation("new", FakeClock.now(), 2))
            .await
            .is_empty()
    );
    assert_eq!(seen(&relay).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn young_events_are_delivered_without_a_look_at_the_erasures() {
    let relay = relay();
    // The claim and the delivery: no third call.
    relay.ports.table.fail_after(2, usize::MAX);
    let young = of_conversation("young", FakeClock.now(), 1);
    assert!(receive(&relay, young).await.is_empty());
    assert_eq!(seen(&relay).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn event_waits_while_the_erasures_cannot_be_read() {
    let relay = relay();
    relay.ports.table.fail_after(0, 1);
    assert_eq!(receive(&relay, record("event", 1)).await, ["event"]);
    assert!(seen(&relay).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_drop_spares_another_event_under_the_same_id() {
    let relay = relay();
    let before = FakeClock.now();
    let body = |conversation: &str| {
        format!(
            r#"{{"id":"m1","conversationId":"{conversation}","channel":{{"id":"i1","platform":"Open"}},"type":"Text"}}"#
        )
    };
    let message = |conversation: &str| {
        let mut received = of_conversation("shared", before, 1);
        received.message.body = body(conversation);
        received
    };
    assert!(receive(&relay, message("c2")).await.is_empty());
    let mut erasures = Erasures::default();
    tokio::time::advance(Duration::from_secs(20)).await;
    erasures.note(Some("c1"), FakeClock.now()).expect("room");
    relay
        .ports
        .table
        .save_erasures(&erasures)
        .await
        .expect("saved");
    assert!(receive(&relay, message("c1")).await.is_empty());
    assert_eq!(seen(&relay).len(), 1);
    let states: Vec<_> = relay
        .ports
        .table
        .records()
        .into_iter()
        .map(|record| (record.event_id.to_string() == "shared", record.state))
        .collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert!(states.contains(&(true, State::Delivered)) && states.contains(&(false, State::Erased)));
}

#[tokio::test(start_paused = true)]
async fn discarded_resend_leaves_a_delivered_event_for_another_run() {
    let relay = relay();
    receive(&relay, record("event", 1)).await;
    fails_with(&relay, &[404]);
    assert!(receive(&relay, resent("one", 1)).await.is_empty());
    let found = relay.ports.table.only_record();
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&found, FakeClock.now())
    else {
        panic!("not dead")
    };
    let act = OperatorAction {
        action: "discard".to_owned(),
        at: FakeClock.now(),
        by: "an operator".to_owned(),
        why: None,
    };
    relay
        .ports
        .table
        .write(&dead.discarded(act))
        .await
        .expect("written");
    assert_eq!(relay.ports.table.only_record().state, State::Delivered);
    // A late copy of the discarded resend, and another run.
    assert!(receive(&relay, resent("one", 2)).await.is_empty());
    assert!(receive(&relay, resent("two", 1)).await.is_empty());
    assert_eq!(seen(&relay), runs(&[None, Some("one"), Some("two")]));
}
