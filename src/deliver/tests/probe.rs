//! A probe with one event.

use serde_json::json;

use super::*;
use crate::domain::circuit::Probed;
use crate::domain::message::Message;

/// A processor with one event in its queue, received so often already.
async fn with_one_event<O>(
    receives: u32,
    answer: impl Fn(Event, u32) -> O + Send + Sync + 'static,
) -> Fake
where
    O: Future<Output = Outcome> + Send + 'static,
{
    FakeClock::start_over();
    let processor = processor(answer);
    let message = Message {
        body: r#"{"name":"event"}"#.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    processor.ports.events.send(&message).await.expect("sent");
    for _ in 0..receives {
        processor.ports.events.hand_out(1, Duration::ZERO);
    }
    processor
}

/// The receive count of the one message in the queue.
fn receives(processor: &Fake) -> u32 {
    let records = processor.ports.events.hand_out(10, Duration::ZERO);
    assert_eq!(records.len(), 1, "{records:?}");
    records[0].receive_count
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_target_takes_is_done() {
    let processor = with_one_event(0, |_, _| deliver()).await;
    let probed = processor.probe(None, a_minute()).await.expect("probed");
    let record = processor.ports.table.only_record();
    assert_eq!(
        probed,
        Probed::Delivered {
            event_id: record.event_id.to_string()
        }
    );
    assert_eq!(record.state, State::Delivered);
    assert!(processor.ports.events.messages().is_empty());
    assert_eq!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Nothing
    );
}

#[tokio::test(start_paused = true)]
async fn no_answer_of_the_target_kills_an_event_or_costs_it_a_receive() {
    // Also where it was its last receive: four are allowed.
    for (cause, before) in [
        (FailureCause::Status(503), 0),
        (FailureCause::Status(404), 0),
        (FailureCause::TimedOut, 3),
        (FailureCause::Refused, 3),
    ] {
        let processor = with_one_event(before, move |_, _| fail(cause)).await;
        let probed = processor.probe(None, a_minute()).await.expect("probed");
        assert!(
            matches!(&probed, Probed::Failed { error, .. } if error == "as the test says"),
            "{probed:?}"
        );
        let record = processor.ports.table.only_record();
        assert_eq!(
            (record.state.name(), record.attempts.len()),
            (StateName::Retrying, 1),
            "{cause:?}"
        );
        assert_eq!(receives(&processor), 1, "{cause:?}");
        assert!(
            processor.ports.dead_letters.messages().is_empty(),
            "{cause:?}"
        );
    }
}

/// Puts so many more events into the queue.
async fn send(processor: &Fake, names: impl Iterator<Item = String>) {
    for name in names {
        let message = record(&name, 1).message;
        processor.ports.events.send(&message).await.expect("sent");
    }
}

/// The target takes `fine` and nothing else.
fn only_fine(event: &Event) -> std::future::Ready<Outcome> {
    if is(event, "fine") {
        deliver()
    } else {
        fail(FailureCause::Status(500))
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_never_attempted_comes_first_wherever_it_waits() {
    for disorder in [false, true] {
        let processor = with_one_event(0, |event, _| only_fine(&event)).await;
        send(&processor, (0..29).map(|number| number.to_string())).await;
        for _ in 0..30 {
            assert!(matches!(
                processor.probe(None, a_minute()).await.expect("probed"),
                Probed::Failed { .. }
            ));
        }
        if disorder {
            processor.ports.events.disorder(1);
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        send(&processor, std::iter::once("fine".to_owned())).await;
        assert!(matches!(
            processor.probe(None, a_minute()).await.expect("probed"),
            Probed::Delivered { .. }
        ));
        assert!(
            processor
                .ports
                .table
                .records()
                .iter()
                .all(|record| record.attempts_made == 1),
            "each once before any twice"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_one_probe_looks_at_are_looked_at_in_turn() {
    let processor = with_one_event(0, |event, _| only_fine(&event)).await;
    send(&processor, (0..149).map(|number| number.to_string())).await;
    let records = processor.ports.events.hand_out(1000, Duration::ZERO);
    processor.process(records, a_minute()).await;
    tokio::time::advance(Duration::from_mins(5)).await;
    send(&processor, std::iter::once("fine".to_owned())).await;
    assert!(matches!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Failed { .. }
    ));
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(matches!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Delivered { .. }
    ));
}

/// SQS moves a message to the dead letters for having been received, whatever for.
#[tokio::test(start_paused = true)]
async fn to_be_looked_at_costs_an_event_no_more_than_half_of_its_receives() {
    let processor = with_one_event(0, |_, _| fail(FailureCause::TimedOut)).await;
    send(&processor, (0..9).map(|number| number.to_string())).await;
    for _ in 0..40 {
        processor.probe(None, a_minute()).await.expect("probed");
        tokio::time::advance(Duration::from_mins(1)).await;
    }
    let received = processor.ports.events.hand_out(100, Duration::ZERO);
    assert_eq!(received.len(), 10);
    // Four are allowed, and this is one more.
    assert!(
        received.iter().all(|record| record.receive_count <= 2),
        "{received:?}"
    );
    assert!(processor.ports.dead_letters.messages().is_empty());
}

/// Then the target is there, and it is the event that it does not take.
#[tokio::test(start_paused = true)]
async fn a_failure_counts_where_the_target_has_taken_another_event_since_the_last() {
    for (cause, state) in [
        (FailureCause::Status(500), StateName::Retrying),
        (FailureCause::Status(404), StateName::Dead),
    ] {
        let processor = with_one_event(1, move |_, _| fail(cause)).await;
        processor.probe(None, a_minute()).await.expect("probed");
        tokio::time::advance(Duration::from_mins(1)).await;
        let before = FakeClock.now() - Duration::from_mins(2);
        processor
            .probe(Some(before), a_minute())
            .await
            .expect("probed");
        assert_eq!(
            processor.ports.table.only_record().state.name(),
            StateName::Retrying,
            "nothing was taken since"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        let since = FakeClock.now() - Duration::from_secs(10);
        assert!(matches!(
            processor
                .probe(Some(since), a_minute())
                .await
                .expect("probed"),
            Probed::Failed { .. }
        ));
        assert_eq!(processor.ports.table.only_record().state.name(), state);
        if state == StateName::Dead {
            assert_eq!(processor.ports.dead_letters.messages().len(), 1);
        } else {
            tokio::time::advance(Duration::from_mins(1)).await;
            assert_eq!(
                receives(&processor),
                2,
                "it was received once by the probe, and once here"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_only_probes_attempt_dies_of_it_where_the_target_takes_others() {
    let processor = with_one_event(0, |_, _| fail(FailureCause::Status(500))).await;
    for _ in 0..5 {
        processor
            .probe(Some(FakeClock.now()), a_minute())
            .await
            .expect("probed");
        tokio::time::advance(Duration::from_mins(1)).await;
    }
    let record = processor.ports.table.only_record();
    assert_eq!(
        (record.state.name(), record.attempts_made),
        (StateName::Dead, 5),
        "the first says nothing yet"
    );
}

#[tokio::test(start_paused = true)]
async fn it_keeps_its_id_and_its_time_though_its_message_is_another() {
    let processor = with_one_event(0, |_, _| fail(FailureCause::TimedOut)).await;
    let (received_at, sent_at) = processor
        .ports
        .events
        .held(|message, at| (message.identity(at).1, at))
        .remove(0);
    tokio::time::advance(Duration::from_hours(1)).await;
    processor.probe(None, a_minute()).await.expect("probed");
    let (after, later) = processor
        .ports
        .events
        .held(|message, sent_at| (message.identity(sent_at), sent_at))
        .remove(0);
    assert_eq!(
        after,
        (processor.ports.table.only_record().event_id, received_at)
    );
    assert!(later > sent_at, "the message is a new one");
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_waits_for_its_backoff() {
    let processor = with_one_event(0, |_, _| fail(FailureCause::TimedOut)).await;
    processor.probe(None, a_minute()).await.expect("probed");
    let deadline = Instant::now() + Duration::from_secs(1);
    assert_eq!(
        processor.probe(None, deadline).await.expect("probed"),
        Probed::Nothing,
        "it is not due"
    );
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(matches!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Failed { .. }
    ));
    assert_eq!(processor.ports.table.only_record().attempts_made, 2);
}

#[tokio::test(start_paused = true)]
async fn delivered_event_is_no_probe_of_the_target() {
    let processor = with_one_event(0, |_, _| deliver()).await;
    processor.probe(None, a_minute()).await.expect("probed");
    let again = Message {
        body: r#"{"name":"event"}"#.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    let again = again.named(&processor.ports.table.only_record().event_id);
    processor.ports.events.send(&again).await.expect("sent");
    assert_eq!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Nothing
    );
    assert!(
        processor.ports.events.messages().is_empty(),
        "a duplicate goes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_takes_nothing_back_keeps_the_event_and_one_that_gives_nothing_is_an_error() {
    let queue = FakeQueue::default();
    let breaks = queue.clone();
    let target = FakeTarget::new(move |_, _| {
        breaks.fail_times(1);
        fail(FailureCause::TimedOut)
    });
    let processor = over(queue.clone(), target);
    let message = Message {
        body: "{}".to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    queue.send(&message).await.expect("sent");
    assert!(matches!(
        processor.probe(None, a_minute()).await.expect("probed"),
        Probed::Failed { .. }
    ));
    assert_eq!(queue.messages().len(), 1, "the old message is still there");
    queue.fail();
    assert!(processor.probe(None, a_minute()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_by_the_minute_and_written_now_and_then() {
    FakeClock::start_over();
    let processor = processor(|event, _| {
        if is(&event, "fine") {
            deliver()
        } else {
            fail(FailureCause::Status(404))
        }
    });
    let minutes = [crate::domain::attempts::minute_of(FakeClock.now())];
    processor
        .process(vec![record("fine", 1), record("refused", 1)], a_minute())
        .await;
    receive(&processor, record("another", 1)).await;
    let counted = processor
        .ports
        .table
        .attempts(&minutes)
        .await
        .expect("read")
        .remove(0);
    assert_eq!(
        (counted.delivered, counted.failed, counted.failing_events()),
        (1, 1, 1),
        "not yet the second batch"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    receive(&processor, record("fine", 1)).await;
    let counted = processor
        .ports
        .table
        .attempts(&minutes)
        .await
        .expect("read")
        .remove(0);
    assert_eq!(
        (counted.delivered, counted.failed, counted.failing_events()),
        (1, 2, 2),
        "a duplicate is no attempt"
    );
}

/// Lambda froze the process right after, and thaws it for a batch an hour later.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_in_their_minute_whenever_they_are_written() {
    FakeClock::start_over();
    let processor = processor(|_, _| fail(FailureCause::Status(503)));
    receive(&processor, record("one", 1)).await;
    receive(&processor, record("another", 1)).await;
    let then = crate::domain::attempts::minute_of(FakeClock.now());
    tokio::time::advance(Duration::from_hours(1)).await;
    receive(&processor, record("third", 1)).await;
    let counted = processor
        .ports
        .table
        .attempts(&[then, crate::domain::attempts::minute_of(FakeClock.now())])
        .await
        .expect("read");
    assert_eq!(
        counted
            .iter()
            .map(|attempts| attempts.failed)
            .collect::<Vec<_>>(),
        [2, 1]
    );
}

#[tokio::test(start_paused = true)]
async fn a_table_that_does_not_take_the_count_holds_up_nothing() {
    let processor = processor(|_, _| deliver());
    // The erasures are read, the claim and the delivery are written, and nothing after that.
    processor.ports.table.fail_after(3, usize::MAX);
    let deadline = a_minute();
    assert_eq!(
        processor.process(vec![record("fine", 1)], deadline).await,
        Vec::<String>::new()
    );
    let processor = super::processor(|_, _| deliver());
    processor.ports.table.halt_after(3);
    assert_eq!(
        processor.process(vec![record("fine", 1)], deadline).await,
        Vec::<String>::new()
    );
    assert!(
        Instant::now() < deadline - Duration::from_secs(55),
        "the answer does not wait for it"
    );
}

/// The body of an event of a check, which would be delivered without the target.
fn check_body(name: &str) -> String {
    let check = json!({ "run": uuid::Uuid::nil(), "name": name, "attempts": ["deliver"] });
    json!({ "genesysRelayCheck": check }).to_string()
}

#[tokio::test(start_paused = true)]
async fn check_events_are_left_and_another_is_probed() {
    let processor = with_one_event(0, |_, _| fail(FailureCause::Status(503))).await;
    // Before the event and behind it.
    let events = &processor.ports.events;
    let ordinary = events.hand_out(1, Duration::ZERO).remove(0);
    events.delete(&[ordinary.receipt]).await;
    let bodies = [check_body("1"), ordinary.message.body, check_body("2")];
    for body in bodies {
        let message = Message {
            body,
            attributes: BTreeMap::new(),
            group: None,
            trace: None,
        };
        events.send(&message).await.expect("sent");
    }
    let probed = processor.probe(None, a_minute()).await.expect("probed");
    assert!(matches!(probed, Probed::Failed { .. }), "{probed:?}");
    assert_eq!(processor.ports.table.only_record().attempts_made, 1);
    assert_eq!(events.messages().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn check_events_alone_never_close_the_breaker() {
    let processor = with_one_event(0, |_, _| deliver()).await;
    let events = &processor.ports.events;
    let ordinary = events.hand_out(1, Duration::ZERO).remove(0);
    events.delete(&[ordinary.receipt]).await;
    let body = check_body("1");
    let message = Message {
        body,
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    events.send(&message).await.expect("sent");
    // More often than a message may be received.
    for _ in 0..10 {
        let probed = processor.probe(None, a_minute()).await.expect("probed");
        assert_eq!(probed, Probed::Nothing);
        tokio::time::advance(Duration::from_mins(1)).await;
    }
    assert_eq!(processor.ports.table.records(), []);
    assert_eq!(events.messages().len(), 1);
}
