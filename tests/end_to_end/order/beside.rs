//! Processors beside each other, each with a batch of several conversations.
//!
//! Lambda runs as many invocations for a FIFO queue as it has groups, up to the mapping's maximum.
//! The mapping of the local AWS runs one at a time, so this test takes its place.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use futures_util::future::try_join_all;
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Map, Value, json};

use super::conversations::{Conversations, Tally};
use super::{NEVER_LATE, start};
use crate::relay::{QUICK, Relay};

const PROCESSORS: usize = 6;
const CONVERSATIONS: usize = 30;
const MESSAGES: usize = 6;

/// A message as an event source mapping hands it over.
fn record(message: &Message, queue_arn: &str) -> Value {
    let system = message.attributes.iter().flatten();
    let system: Map<_, _> = system
        .map(|(name, value)| (name.as_str().to_owned(), json!(value)))
        .collect();
    let own = message.message_attributes.iter().flatten();
    let own: Map<_, _> = own
        .map(|(name, value)| {
            let value = json!({ "stringValue": value.string_value, "dataType": value.data_type });
            (name.clone(), value)
        })
        .collect();
    json!({
        "messageId": message.message_id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "attributes": system,
        "messageAttributes": own,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
    })
}

/// The event source mapping of the ordered queue.
struct Mapping<'a> {
    relay: &'a Relay,
    queue: &'a str,
    queue_arn: String,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl<'a> Mapping<'a> {
    async fn of(relay: &'a Relay) -> Result<Self> {
        let queue = relay.stack.ordered_queue().context("an ordered queue")?;
        let request = relay.stack.sqs().get_queue_attributes().queue_url(queue);
        let request = request.attribute_names(QueueAttributeName::QueueArn);
        let mut attributes = request.send().await?.attributes.unwrap_or_default();
        let queue_arn = attributes.remove(&QueueAttributeName::QueueArn);
        Ok(Self {
            relay,
            queue,
            queue_arn: queue_arn.context("an ARN")?,
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        })
    }

    async fn receive(&self) -> Result<Vec<Message>> {
        let request = self.relay.stack.sqs().receive_message();
        let request = request.queue_url(self.queue).max_number_of_messages(10);
        let received = request
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .send()
            .await?;
        Ok(received.messages.unwrap_or_default())
    }

    /// Invokes the processor with a batch, and deletes what it does not report.
    async fn hand_over(&self, batch: &[Message]) -> Result<()> {
        let records = batch.iter().map(|message| record(message, &self.queue_arn));
        let event = json!({ "Records": records.collect::<Vec<_>>() });
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_running.fetch_max(running, Ordering::Relaxed);
        let answer = self.relay.stack.invoke(Function::Processor, &event).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        let answer = answer??;
        let failures = answer["batchItemFailures"].as_array();
        let failures = failures.context("a batch response")?;
        let is_kept = |message: &&Message| {
            let mut kept = failures.iter().map(|failure| &failure["itemIdentifier"]);
            kept.any(|id| id.as_str() == message.message_id.as_deref())
        };
        for message in batch.iter().filter(|message| !is_kept(message)) {
            let request = self.relay.stack.sqs().delete_message();
            let receipt = message.receipt_handle.clone();
            let request = request.queue_url(self.queue).set_receipt_handle(receipt);
            request.send().await?;
        }
        Ok(())
    }

    /// Hands over one batch after the other until the queue is empty.
    async fn run(&self) -> Result<()> {
        wait::until("the ordered queue is empty", || async {
            loop {
                let batch = self.receive().await?;
                if batch.is_empty() {
                    break;
                }
                self.hand_over(&batch).await?;
            }
            let left = self.relay.stack.count(self.queue).await?;
            Ok((left.total() == 0).then_some(()))
        })
        .await
    }
}

#[tokio::test]
async fn processors_beside_each_other_keep_every_order() -> Result<()> {
    let relay = start("conversation", &[&QUICK[..], &NEVER_LATE].concat()).await?;
    relay.set_delivering(false).await?;
    relay.target.behave(Behaviour::Fail(10));
    let sent = Conversations::send(&relay, "beside", CONVERSATIONS, 0..MESSAGES).await?;
    let mapping = Mapping::of(&relay).await?;
    try_join_all((0..PROCESSORS).map(|_| mapping.run())).await?;
    relay.until_empty().await?;
    let expected = Tally {
        conversations: CONVERSATIONS,
        ..Tally::default()
    };
    let tally = sent.tally(&relay)?;
    ensure!(tally == expected, "{tally}");
    let most = mapping.most_running.into_inner();
    ensure!(most > 1, "no two processors ran at the same time");
    eprintln!("up to {most} processors beside each other: {tally}");
    Ok(())
}
