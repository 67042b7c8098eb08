//! One suite that every queue passes: the stand-in that other tests use, and SQS on the local AWS.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_sqs::types::QueueAttributeName::{QueueArn, RedrivePolicy};
use genesys_relay::adapters::aws::sqs::Sqs;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::queue::{Countable, ReceivedMessage, Receiver, Redrive, Sender};
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

async fn a_queue_keeps_its_contract<Q: Sender + Receiver + Countable>(queue: Q) -> Result<()> {
    // What is sent can be received, whole, and is hidden meanwhile.
    let messages: Vec<_> = (0..25).map(|number| message(&number.to_string())).collect();
    assert!(queue.send_all(&messages).await.iter().all(Result::is_ok));
    assert_eq!(queue.depth().await?.visible, 25);
    let received = receive_all(&queue, HIDDEN).await?;
    let mut bodies: Vec<_> = received
        .iter()
        .map(|received| received.message.body.clone())
        .collect();
    bodies.sort();
    let mut expected: Vec<_> = messages
        .iter()
        .map(|message| message.body.clone())
        .collect();
    expected.sort();
    assert_eq!(bodies, expected);
    assert!(queue.receive(10, HIDDEN, AT_ONCE).await?.is_empty());
    let depth = queue.depth().await?;
    assert_eq!((depth.visible, depth.in_flight, depth.total()), (0, 25, 25));

    // What is deleted is gone; what is released comes back at once, with another receipt.
    let (deleted, kept) = received.split_at(20);
    let receipts: Vec<_> = deleted
        .iter()
        .map(|received| received.receipt.clone())
        .collect();
    assert!(queue.delete(&receipts).await.iter().all(Result::is_ok));
    let changes: Vec<_> = kept
        .iter()
        .map(|received| (received.receipt.clone(), AT_ONCE))
        .collect();
    assert!(
        queue
            .change_visibility(&changes)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let again = receive_all(&queue, HIDDEN).await?;
    assert_eq!(again.len(), 5);
    assert!(
        again
            .iter()
            .all(|received| kept.iter().all(|before| before.receipt != received.receipt))
    );
    assert!(
        again
            .iter()
            .all(|received| kept.iter().any(|before| before.sent_at == received.sent_at))
    );

    // A visibility timeout that runs out brings a message back.
    let changes: Vec<_> = again
        .iter()
        .map(|received| (received.receipt.clone(), SHORTLY))
        .collect();
    assert!(
        queue
            .change_visibility(&changes)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let mut back = 0;
    while back < 5 {
        let received = queue
            .receive(10, HIDDEN, Duration::from_secs(10))
            .await?
            .len();
        ensure!(received > 0, "only {back} have come back");
        back += received;
    }
    assert_eq!(back, 5);
    Ok(())
}

/// Receives the one message that there is so often, and shows it again each time.
async fn receive_times<Q: Receiver>(queue: &Q, times: u32) -> Result<ReceivedMessage> {
    let mut last = None;
    for _ in 0..times {
        let [received] = &receive_all(queue, HIDDEN).await?[..] else {
            bail!("not one message")
        };
        let shown = queue
            .change_visibility(&[(received.receipt.clone(), AT_ONCE)])
            .await;
        ensure!(shown.iter().all(Result::is_ok), "{shown:?}");
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
    assert!(
        receive_all(&events, HIDDEN).await?.is_empty(),
        "it moves at the receive after the last one"
    );
    let dead = receive_times(&dead_letters, 2).await?;
    assert_eq!(
        (dead.message, dead.sent_at),
        (message("redriven"), sent_at),
        "as it was, and as old as it was"
    );

    redrive.start_move(None).await?;
    for _ in 0..600 {
        if redrive
            .latest_move()
            .await?
            .is_some_and(|task| task.status == "COMPLETED")
        {
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
    let back = receive_times(&events, MAX_RECEIVES).await?;
    assert_eq!(back.message, message("redriven"));
    assert!(
        back.sent_at >= sent_at,
        "it is a new message, and its receive count starts again"
    );
    assert!(receive_all(&events, HIDDEN).await?.is_empty());
    assert_eq!(
        receive_all(&dead_letters, HIDDEN).await?.len(),
        1,
        "so it moves once more"
    );
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

#[tokio::test]
async fn sqs_redrives_as_it_should() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let create = async |name: &str, redrive_policy: Option<String>| -> Result<(String, String)> {
        let request = stack.sqs().create_queue().queue_name(name);
        let request =
            request.set_attributes(redrive_policy.map(|policy| [(RedrivePolicy, policy)].into()));
        let url = request.send().await?.queue_url.context("a URL")?;
        let attributes = stack
            .sqs()
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueArn)
            .send()
            .await?;
        let arn = attributes
            .attributes
            .and_then(|mut all| all.remove(&QueueArn))
            .context("an ARN")?;
        Ok((url, arn))
    };
    let (dead_letters_url, dead_letters_arn) = create("contract-dead-letters", None).await?;
    let policy = format!(
        r#"{{"deadLetterTargetArn":"{dead_letters_arn}","maxReceiveCount":{MAX_RECEIVES}}}"#
    );
    let (events_url, events_arn) = create("contract-events", Some(policy)).await?;
    let sqs = Sqs::new(stack.config());
    let redrive = sqs.redrive(dead_letters_arn, events_arn);
    redrive_keeps_its_contract(sqs.queue(events_url), sqs.queue(dead_letters_url), redrive).await
}

#[tokio::test]
async fn sqs_keeps_the_contract() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let url = stack.output("DeadLetterQueueUrl")?.to_owned();
    a_queue_keeps_its_contract(Sqs::new(stack.config()).queue(url)).await
}

#[tokio::test]
async fn sqs_gives_attributes_and_group_back_as_they_were() -> Result<()> {
    let stack = Stack::start(StackOptions::new("http://127.0.0.1:9/")).await?;
    let queue = Sqs::new(stack.config()).queue(stack.output("DeadLetterQueueUrl")?.to_owned());
    let event = genesys_relay::domain::event::Event {
        id: "an-event".parse()?,
        source: genesys_relay::domain::event::Source::Webhook,
        received_at: "2026-01-15T12:00:00.123Z".parse()?,
        content_type: Some("application/json".to_owned()),
        headers: [("traceparent".to_owned(), "00-a-b-01".to_owned())].into(),
        body: "{\"text\":\"\u{FFFE} 😀\"}".into(),
        webhook_id: None,
        is_copy: false,
    };
    queue.send(&Message::from_event(event.clone())).await?;
    let received = queue
        .receive(10, HIDDEN, SHORTLY)
        .await?
        .pop()
        .expect("a message");
    assert_eq!(received.message, Message::from_event(event.clone()));
    assert_eq!(received.message.to_event(received.sent_at)?, event);
    Ok(())
}
