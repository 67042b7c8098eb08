//! One suite that every queue passes: the stand-in that other tests use, and SQS on the local AWS.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_sqs::types::QueueAttributeName::{
    DeduplicationScope, FifoQueue, FifoThroughputLimit, QueueArn, RedrivePolicy,
};
use genesys_relay::adapters::aws::sqs::Sqs;
use genesys_relay::domain::event::{Event, Source};
use genesys_relay::domain::message::Message;
use genesys_relay::ports::queue::{Countable, ReceivedMessage, Receiver, Redrive, Sender, is_fifo};
use genesys_relay::testing::FakeQueue;
use local::stack::{Stack, StackOptions};

const HIDDEN: Duration = Duration::from_mins(10);
const MAX_RECEIVES: u32 = 3;
const AT_ONCE: Duration = Duration::ZERO;
const SHORTLY: Duration = Duration::from_secs(1);

fn message(name: &str) -> Message {
    Message {
        body: format!("{{\"name\":\"{name}\"}}"),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    }
}

async fn receive_all<Q: Receiver>(queue: &Q, visibility: Duration) -> Result<Vec<ReceivedMessage>> {
    let mut all = Vec::new();
    loop {
        let more = queue.receive(10, visibility, SHORTLY).await?;
        if more.is_empty() {
            return Ok(all);
        }
        all.extend(more);
    }
}

#[track_caller]
fn assert_done<E: Debug>(results: &[Result<(), E>]) {
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Makes these messages visible after this time.
async fn show<Q: Receiver>(queue: &Q, messages: &[ReceivedMessage], after: Duration) {
    let changes = messages.iter().map(|one| (one.receipt.clone(), after));
    assert_done(&queue.change_visibility(&changes.collect::<Vec<_>>()).await);
}

async fn a_queue_keeps_its_contract<Q: Sender + Receiver + Countable>(queue: Q) -> Result<()> {
    // What is sent can be received, whole, and is hidden meanwhile.
    let messages: Vec<_> = (0..25).map(|number| message(&number.to_string())).collect();
    assert_done(&queue.send_all(&messages).await);
    assert_eq!(queue.depth().await?.visible, 25);
    let received = receive_all(&queue, HIDDEN).await?;
    let bodies: BTreeSet<_> = received.iter().map(|one| &one.message.body).collect();
    assert_eq!(received.len(), 25);
    assert_eq!(
        bodies,
        messages.iter().map(|message| &message.body).collect()
    );
    assert!(queue.receive(10, HIDDEN, AT_ONCE).await?.is_empty());
    let depth = queue.depth().await?;
    assert_eq!((depth.visible, depth.in_flight, depth.total()), (0, 25, 25));

    // A deleted message is gone; a released one comes back at once, with another receipt.
    let (deleted, kept) = received.split_at(20);
    let receipts: Vec<_> = deleted.iter().map(|one| one.receipt.clone()).collect();
    assert_done(&queue.delete(&receipts).await);
    show(&queue, kept, AT_ONCE).await;
    let again = receive_all(&queue, HIDDEN).await?;
    assert_eq!(again.len(), 5);
    for one in &again {
        assert!(kept.iter().all(|before| before.receipt != one.receipt));
        assert!(kept.iter().any(|before| before.sent_at == one.sent_at));
    }

    // A visibility timeout that expires brings a message back.
    show(&queue, &again, SHORTLY).await;
    let mut back = 0;
    while back < 5 {
        let wait = Duration::from_secs(10);
        let received = queue.receive(10, HIDDEN, wait).await?.len();
        ensure!(received > 0, "only {back} have come back");
        back += received;
    }
    assert_eq!(back, 5);
    Ok(())
}

/// A message of a group.
fn of_group(name: &str) -> Message {
    Message {
        group: Some(format!("group-{}", &name[..1])),
        ..message(name)
    }
}

/// Names of the messages of one group, in the order of their receipt.
fn names_of(group: &str, received: &[ReceivedMessage]) -> Vec<String> {
    let name = |one: &ReceivedMessage| one.message.body.split('"').nth(3).map(str::to_owned);
    let names = received.iter().filter_map(name);
    names.filter(|name| name.starts_with(group)).collect()
}

async fn a_fifo_queue_keeps_its_contract<Q: Sender + Receiver>(queue: Q) -> Result<()> {
    for name in ["a1", "b1", "a2", "c1", "a3", "b2"] {
        queue.send(&of_group(name)).await?;
    }
    // Each group comes in its order; one receive may have several groups.
    let first = receive_all(&queue, HIDDEN).await?;
    assert_eq!(names_of("a", &first), ["a1", "a2", "a3"]);
    assert_eq!(names_of("b", &first), ["b1", "b2"]);
    assert_eq!(names_of("c", &first), ["c1"]);
    assert!(
        first
            .iter()
            .all(|one| one.is_ordered && one.receive_count == 1)
    );
    assert!(first.iter().all(
        |one| one.message.group == of_group(&names_of("", std::slice::from_ref(one))[0]).group
    ));

    // A group waits for its messages in flight; the others do not.
    for name in ["a4", "d1"] {
        queue.send(&of_group(name)).await?;
    }
    let free = receive_all(&queue, HIDDEN).await?;
    assert_eq!(names_of("", &free), ["d1"]);
    let (a, others): (Vec<_>, Vec<_>) = first
        .into_iter()
        .partition(|one| !names_of("a", std::slice::from_ref(one)).is_empty());
    let receipts = others.iter().chain(&free).chain(&a[..1]);
    let receipts: Vec<_> = receipts.map(|one| one.receipt.clone()).collect();
    assert_done(&queue.delete(&receipts).await);
    assert!(receive_all(&queue, HIDDEN).await?.is_empty());

    // All of it that is visible again comes again from the first on, and each has cost a receive.
    show(&queue, &a[1..], AT_ONCE).await;
    let again = receive_all(&queue, HIDDEN).await?;
    assert_eq!(names_of("", &again), ["a2", "a3", "a4"]);
    let counts: Vec<_> = again.iter().map(|one| one.receive_count).collect();
    assert_eq!(counts, [2, 2, 1]);

    // The receipt of an earlier receive deletes nothing.
    assert!(queue.delete(&[a[1].receipt.clone()]).await[0].is_err());
    // One that is visible while others of its group are not comes alone, if at all.
    show(&queue, &again[..1], AT_ONCE).await;
    let alone = receive_all(&queue, HIDDEN).await?;
    assert!(
        names_of("", &alone).iter().all(|name| name == "a2"),
        "{alone:?}"
    );
    show(&queue, &again[1..], AT_ONCE).await;
    show(&queue, &alone, AT_ONCE).await;
    let whole = receive_all(&queue, HIDDEN).await?;
    assert_eq!(names_of("", &whole), ["a2", "a3", "a4"]);
    let receipts: Vec<_> = whole.iter().map(|one| one.receipt.clone()).collect();
    assert_done(&queue.delete(&receipts).await);

    // What is sent twice comes twice: the relay tells duplicates apart, not SQS.
    let twice = [of_group("e1"), of_group("e1")];
    assert_done(&queue.send_all(&twice).await);
    queue.send(&twice[0]).await?;
    assert_eq!(receive_all(&queue, HIDDEN).await?.len(), 3);
    Ok(())
}

/// Messages received `MAX_RECEIVES` times go to a FIFO dead-letter queue, in the order of their
/// group.
async fn fifo_redrive_keeps_its_contract<Q: Sender + Receiver>(
    ordered: Q,
    dead_letters: Q,
) -> Result<()> {
    for name in ["a1", "a2"] {
        ordered.send(&of_group(name)).await?;
    }
    let mut last = Vec::new();
    for _ in 0..MAX_RECEIVES {
        last = receive_all(&ordered, HIDDEN).await?;
        assert_eq!(names_of("a", &last), ["a1", "a2"]);
        show(&ordered, &last, AT_ONCE).await;
    }
    ordered.send(&of_group("a3")).await?;
    let left = receive_all(&ordered, HIDDEN).await?;
    assert_eq!(names_of("a", &left), ["a3"]);
    let dead = receive_all(&dead_letters, HIDDEN).await?;
    let whole = |received: &[ReceivedMessage]| -> Vec<_> {
        let parts = |one: &ReceivedMessage| (one.message_id.clone(), one.message.clone());
        received.iter().map(parts).collect()
    };
    assert_eq!(whole(&dead), whole(&last));
    Ok(())
}

/// Receives the one message that there is so often, and shows it again each time.
async fn receive_times<Q: Receiver>(queue: &Q, times: u32) -> Result<ReceivedMessage> {
    let mut last = None;
    for _ in 0..times {
        let [received] = &receive_all(queue, HIDDEN).await?[..] else {
            bail!("not one message")
        };
        show(queue, std::slice::from_ref(received), AT_ONCE).await;
        last = Some(received.clone());
    }
    last.context("no receive")
}

/// A message received `MAX_RECEIVES` times from the events queue goes to the dead letters, and a
/// move task brings it back.
async fn redrive_keeps_its_contract<Q: Sender + Receiver>(
    events: Q,
    dead_letters: Q,
    redrive: impl Redrive,
) -> Result<()> {
    ensure!(
        redrive.latest_move().await?.is_none(),
        "there was no move task yet"
    );
    events.send(&message("redriven")).await?;
    let sent_at = receive_times(&events, MAX_RECEIVES).await?.sent_at;
    // It moves at the receive after the last one, as it was, and as old as it was.
    assert!(receive_all(&events, HIDDEN).await?.is_empty());
    let dead = receive_times(&dead_letters, 2).await?;
    assert_eq!((dead.message, dead.sent_at), (message("redriven"), sent_at));

    redrive.start_move(None).await?;
    for _ in 0..600 {
        let task = redrive.latest_move().await?;
        if task.is_some_and(|task| task.status == "COMPLETED") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let task = redrive.latest_move().await?.context("a move task")?;
    assert_eq!(
        (task.status.as_str(), task.moved, task.handle),
        ("COMPLETED", 1, None)
    );
    assert!(receive_all(&dead_letters, HIDDEN).await?.is_empty());
    // It is a new message, and its receive count starts again: so it moves once more.
    let back = receive_times(&events, MAX_RECEIVES).await?;
    assert_eq!(back.message, message("redriven"));
    assert!(back.sent_at >= sent_at);
    assert!(receive_all(&events, HIDDEN).await?.is_empty());
    assert_eq!(receive_all(&dead_letters, HIDDEN).await?.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_keeps_the_contract() -> Result<()> {
    a_queue_keeps_its_contract(FakeQueue::default()).await
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_redrives_as_it_should() -> Result<()> {
    let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
    let dead_letters = dead_letters.moving_to(&events);
    let events = events.redriving_to(&dead_letters, MAX_RECEIVES);
    redrive_keeps_its_contract(events, dead_letters.clone(), dead_letters).await
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_keeps_the_order_of_each_group() -> Result<()> {
    a_fifo_queue_keeps_its_contract(FakeQueue::fifo()).await?;
    for seed in 0..20 {
        let queue = FakeQueue::fifo();
        queue.disorder(seed);
        a_fifo_queue_keeps_its_contract(queue).await?;
    }
    let dead_letters = FakeQueue::fifo();
    let ordered = FakeQueue::fifo().redriving_to(&dead_letters, MAX_RECEIVES);
    fifo_redrive_keeps_its_contract(ordered, dead_letters).await
}

#[tokio::test(start_paused = true)]
async fn the_stand_in_refuses_what_a_fifo_queue_does() {
    let queue = FakeQueue::fifo();
    assert!(queue.send(&message("no group")).await.is_err());
    let delayed = [(of_group("a1"), SHORTLY)];
    assert!(queue.send_delayed(&delayed).await[0].is_err());
    assert!(queue.messages().is_empty());
}

/// Creates a queue, a FIFO queue if its name says so, and returns its URL and its ARN.
async fn create(stack: &Stack, name: &str, policy: Option<String>) -> Result<(String, String)> {
    let mut request = stack.sqs().create_queue().queue_name(name);
    if let Some(policy) = policy {
        request = request.attributes(RedrivePolicy, policy);
    }
    if is_fifo(name) {
        request = request
            .attributes(FifoQueue, "true")
            .attributes(DeduplicationScope, "messageGroup")
            .attributes(FifoThroughputLimit, "perMessageGroupId");
    }
    let url = request.send().await?.queue_url.context("a URL")?;
    let request = stack.sqs().get_queue_attributes().queue_url(&url);
    let attributes = request.attribute_names(QueueArn).send().await?.attributes;
    let arn = attributes.unwrap_or_default().remove(&QueueArn);
    Ok((url, arn.context("an ARN")?))
}

#[tokio::test]
async fn sqs_keeps_the_contract() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let sqs = Sqs::new(stack.config());
    attributes_and_group_come_back_as_they_were(sqs.queue(create(&stack, "whole", None).await?.0))
        .await?;
    a_queue_keeps_its_contract(sqs.queue(create(&stack, "contract", None).await?.0)).await?;

    let ordered = create(&stack, "contract.fifo", None).await?.0;
    a_fifo_queue_keeps_its_contract(sqs.queue(ordered)).await?;

    let policy = |arn: &str| {
        format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{MAX_RECEIVES}}}"#)
    };
    let (dead_letters, arn) = create(&stack, "contract-dead-letters.fifo", None).await?;
    let (ordered, _) = create(&stack, "contract-ordered.fifo", Some(policy(&arn))).await?;
    fifo_redrive_keeps_its_contract(sqs.queue(ordered), sqs.queue(dead_letters)).await?;

    let (dead_letters, dead_letters_arn) = create(&stack, "contract-dead-letters", None).await?;
    let policy = policy(&dead_letters_arn);
    let (events, events_arn) = create(&stack, "contract-events", Some(policy)).await?;
    let redrive = sqs.redrive(dead_letters_arn, events_arn);
    redrive_keeps_its_contract(sqs.queue(events), sqs.queue(dead_letters), redrive).await
}

async fn attributes_and_group_come_back_as_they_were<Q: Sender + Receiver>(queue: Q) -> Result<()> {
    let event = Event {
        id: "an-event".parse()?,
        source: Source::Webhook,
        received_at: "2026-01-15T12:00:00.123Z".parse()?,
        content_type: Some("application/json".to_owned()),
        headers: [("traceparent".to_owned(), "00-a-b-01".to_owned())].into(),
        body: "{\"text\":\"\u{FFFE} 😀\"}".into(),
        webhook_id: None,
        is_copy: false,
    };
    queue.send(&Message::from_event(event.clone())).await?;
    let received = queue.receive(10, HIDDEN, SHORTLY).await?;
    let [received] = &received[..] else {
        bail!("not one message")
    };
    assert_eq!(received.message, Message::from_event(event.clone()));
    assert_eq!(received.message.to_event(received.sent_at)?, event);
    Ok(())
}
