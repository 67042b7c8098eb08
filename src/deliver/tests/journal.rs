//! Delivered events on their way to the journal.

use super::*;

fn journalling<O>(answer: impl Fn(Event, u32) -> O + Send + Sync + 'static) -> (Fake, FakeQueue)
where
    O: Future<Output = Outcome> + Send + 'static,
{
    let journal = FakeQueue::default();
    let mut processor = over(FakeQueue::default(), FakeTarget::new(answer));
    processor.ports.journal = Some(journal.clone());
    (Arc::new(processor), journal)
}

fn ids(queue: &FakeQueue) -> Vec<String> {
    let messages = queue.messages();
    let ids = messages.iter().filter_map(Message::event_id);
    ids.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn delivered_events_alone_are_journalled_with_their_identity() {
    let (processor, journal) = journalling(|event, _| async move {
        if is(&event, "fine") {
            deliver().await
        } else {
            fail(FailureCause::Status(503)).await
        }
    });
    let reason = Reason::new(ReasonKind::Exhausted, "as the test says", FakeClock.now());
    let mut fine = record("fine", 1);
    fine.message = fine.message.with_reason(&reason);
    let body = fine.message.body.clone();
    let kept = processor
        .process(vec![fine, record("bad", 1)], a_minute())
        .await;
    assert_eq!(kept, ["bad"]);
    let [message] = journal.messages().try_into().expect("one");
    assert_eq!((message.event_id(), &message.body), (Some("fine"), &body));
    assert!(message.attributes.contains_key(attribute::RECEIVED_AT));
    assert!(!message.attributes.contains_key(attribute::REASON));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_fails_or_hangs_changes_no_delivery() {
    let (processor, journal) = journalling(|_, _| deliver());
    journal.fail();
    assert!(receive(&processor, record("one", 1)).await.is_empty());
    let (processor, journal) = journalling(|_, _| deliver());
    journal.delay_sends(Duration::from_hours(1));
    assert!(receive(&processor, record("one", 1)).await.is_empty());
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
    assert_eq!(processor.ports.target.deliveries(), 1);
}

/// The breaker's function ends while the journal's queue does not answer.
#[tokio::test(start_paused = true)]
async fn probe_deletes_its_message_after_the_journal_has_the_event() {
    let (processor, journal) = journalling(|_, _| deliver());
    let queue = processor.ports.events.clone();
    let message = record("one", 1).message;
    queue.send(&message).await.expect("sent");
    journal.delay_sends(Duration::from_secs(2));
    let probe = processor.probe(None, a_minute());
    let killed = tokio::time::timeout(Duration::from_secs(1), probe).await;
    assert!(killed.is_err() && journal.messages().is_empty());
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
    assert_eq!(queue.messages(), [message]);
    journal.delay_sends(Duration::ZERO);
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(receive(&processor, record("one", 2)).await.is_empty());
    assert_eq!(ids(&journal), ["one"]);
}

/// A worker that ends after the delivery is recorded has sent nothing to the journal.
#[tokio::test(start_paused = true)]
async fn event_that_comes_again_after_a_crash_is_journalled_once_more() {
    let (processor, journal) = journalling(|_, _| deliver());
    processor.process(vec![record("one", 1)], a_minute()).await;
    assert_eq!(ids(&journal), ["one"]);
    // Another worker, which knows nothing of the first one's journal.
    assert!(receive(&processor, record("one", 2)).await.is_empty());
    assert_eq!(ids(&journal), ["one", "one"]);
    // A message that came after the delivery is an ordinary duplicate.
    let mut duplicate = record("one", 1);
    duplicate.sent_at = FakeClock.now() + SignedDuration::from_secs(1);
    assert!(receive(&processor, duplicate).await.is_empty());
    assert_eq!(ids(&journal).len(), 2);
    assert_eq!(processor.ports.target.deliveries(), 1);
}

/// The worker ends after the delivery is recorded, at the last receive. SQS moves the message to the
/// dead letters, and a move task brings it back before a sweep has seen it.
#[tokio::test(start_paused = true)]
async fn delivered_event_that_a_move_task_brings_back_is_journalled() {
    let (processor, journal) = journalling(|_, _| deliver());
    let mut received = record("one", 4);
    received.message = received.message.with_identity(FakeClock.now());
    processor.process(vec![received.clone()], a_minute()).await;
    assert_eq!(ids(&journal), ["one"]);
    tokio::time::advance(Duration::from_hours(1)).await;
    let moved = ReceivedMessage {
        message_id: "moved".to_owned(),
        receive_count: 1,
        sent_at: FakeClock.now(),
        ..received
    };
    assert!(receive(&processor, moved).await.is_empty());
    assert_eq!(ids(&journal), ["one", "one"]);
    assert_eq!(processor.ports.target.deliveries(), 1);
}

#[tokio::test(start_paused = true)]
async fn event_with_an_id_of_its_own_is_journalled_under_it() {
    let (processor, journal) = journalling(|_, _| deliver());
    let body = |text: &str| {
        format!(
            r#"{{"id":"m1","channel":{{"id":"i1","platform":"Open","time":"2026-01-15T12:00:00Z"}},"type":"Text","text":"{text}"}}"#
        )
    };
    for text in ["one", "two"] {
        let mut received = record("shared", 1);
        received.message.body = body(text);
        assert!(receive(&processor, received).await.is_empty());
    }
    let ids = ids(&journal);
    assert_eq!(processor.ports.target.deliveries(), 2);
    assert!(
        ids.len() == 2 && ids[0] == "shared" && ids[1] != "shared",
        "{ids:?}"
    );
}
