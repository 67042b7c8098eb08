//! The queues in Amazon SQS.

mod batch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageAttributeValue, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
    MessageSystemAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use jiff::Timestamp;
use uuid::Uuid;

use self::batch::{Confirmed, in_batches};
use super::cloudwatch::QueueMetrics;
use super::failed;
use crate::domain::message::{Attribute, AttributeValue, Message};
use crate::domain::queue_depth::QueueDepth;
use crate::domain::trace::TraceHeader;
use crate::ports::queue::{
    Countable, LONGEST_DELAY, MoveTask, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver,
    Redrive, Sender, VisibilityTimeout, deduplication_id, is_fifo,
};
use crate::ports::service::{Service, ServiceError};

/// `ListMessageMoveTasks` knows the last ten; the newest comes first.
const NEWEST: i32 = 1;

/// Amazon SQS: one client, from which every queue of a function is made.
#[derive(Debug, Clone)]
pub struct Sqs(Client);

impl Sqs {
    /// Builds the client.
    pub fn new(config: &SdkConfig) -> Self {
        Self(Client::new(config))
    }

    /// The queue at `url`.
    pub fn queue(&self, url: String) -> SqsQueue {
        SqsQueue {
            client: self.0.clone(),
            is_fifo: is_fifo(&url),
            url,
            metrics: None,
        }
    }

    /// The queue at `url`, whose age CloudWatch knows.
    pub fn queue_with_age(&self, url: String, config: &SdkConfig) -> SqsQueue {
        SqsQueue {
            metrics: Some(QueueMetrics::new(config, &url)),
            ..self.queue(url)
        }
    }

    /// The move tasks from a dead-letter queue to the events queue, both by ARN.
    pub fn redrive(&self, source_arn: String, destination_arn: String) -> SqsRedrive {
        SqsRedrive {
            client: self.0.clone(),
            source_arn,
            destination_arn,
        }
    }
}

/// One queue, by its URL.
///
/// A FIFO queue keeps the order of each message group. Every message that is sent to it needs a
/// group.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    url: String,
    is_fifo: bool,
    metrics: Option<QueueMetrics>,
}

impl SqsQueue {
    /// Opens the connection that the first send will use, and goes once through what a send goes
    /// through.
    ///
    /// It sends a batch without entries, which SQS refuses (`EmptyBatchRequest`): nothing can come
    /// of it.
    pub async fn warm_up(&self) -> Result<(), ServiceError> {
        match self
            .client
            .send_message_batch()
            .queue_url(&self.url)
            .set_entries(Some(Vec::new()))
            .send()
            .await
        {
            Err(error)
                if !error
                    .as_service_error()
                    .is_some_and(SendMessageBatchError::is_empty_batch_request) =>
            {
                Err(failed(Service::Sqs)(error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Sender for SqsQueue {
    async fn send(&self, message: &Message) -> Result<(), ServiceError> {
        let request = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(&message.body)
            .set_message_group_id(message.group.clone())
            .set_message_deduplication_id(self.deduplication_id(message))
            .set_message_attributes(Some(to_sdk_attributes(message)?))
            .set_message_system_attributes(
                message.trace.as_ref().map(system_attributes).transpose()?,
            );
        request.send().await.map(drop).map_err(failed(Service::Sqs))
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        if self.is_fifo {
            return self.send_in_order(messages).await;
        }
        let messages: Vec<_> = messages.iter().map(|message| (message, None)).collect();
        self.send_batches(&messages).await
    }

    async fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        let delayed = messages.iter().map(|(message, delay)| {
            let delay = seconds((*delay).min(LONGEST_DELAY));
            // SQS refuses one on a message of a FIFO queue.
            (message, (!self.is_fifo).then_some(delay))
        });
        self.send_batches(&delayed.collect::<Vec<_>>()).await
    }
}

impl SqsQueue {
    /// The id that a send to a FIFO queue needs, the same over the SDK's own retries of the call.
    fn deduplication_id(&self, message: &Message) -> Option<String> {
        self.is_fifo.then(|| deduplication_id(message))
    }

    /// Sends messages to a FIFO queue so that each group keeps its order.
    ///
    /// A batch call can fail in part. So no call has two messages of a group, and one that is not
    /// confirmed ends its group: those behind it fail without being sent.
    async fn send_in_order(&self, messages: &[Message]) -> Vec<Result<(), ServiceError>> {
        let mut results = vec![Ok(()); messages.len()];
        let mut rest: Vec<usize> = (0..messages.len()).collect();
        while !rest.is_empty() {
            let mut groups = HashSet::new();
            let (heads, behind): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|position| groups.insert(&messages[*position].group));
            let batch: Vec<_> = heads.iter().map(|head| (&messages[*head], None)).collect();
            let sent = self.send_batches(&batch).await;
            rest = behind;
            for (head, result) in heads.into_iter().zip(sent) {
                if let Err(error) = &result {
                    let group = &messages[head].group;
                    rest.retain(|behind| {
                        let is_of_group = messages[*behind].group == *group;
                        if is_of_group {
                            results[*behind] = Err(error.clone());
                        }
                        !is_of_group
                    });
                }
                results[head] = result;
            }
        }
        results
    }

    /// Sends messages, each with its `DelaySeconds`.
    async fn send_batches(
        &self,
        messages: &[(&Message, Option<i32>)],
    ) -> Vec<Result<(), ServiceError>> {
        let entry = |id: String, (message, delay): &(&Message, Option<i32>)| {
            SendMessageBatchRequestEntry::builder()
                .id(id)
                .set_delay_seconds(*delay)
                .message_body(&message.body)
                .set_message_group_id(message.group.clone())
                .set_message_deduplication_id(self.deduplication_id(message))
                .set_message_attributes(Some(to_sdk_attributes(message)?))
                .build()
                .map_err(cannot_build)
        };
        let call = |entries| {
            let request = self.client.send_message_batch().queue_url(&self.url);
            let call = request.set_entries(Some(entries)).send();
            async {
                let output = call.await.map_err(failed(Service::Sqs))?;
                let ids = output.successful.into_iter().map(|entry| entry.id);
                Ok(Confirmed::new(ids, output.failed))
            }
        };
        in_batches(messages, |(message, _)| message.size(), entry, call).await
    }
}

impl VisibilityTimeout for SqsQueue {
    async fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> Vec<Result<(), ServiceError>> {
        let entry = |id: String, (receipt, visibility): &(ReceiptHandle, Duration)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(&receipt.0)
                .visibility_timeout(seconds(*visibility))
                .build()
                .map_err(cannot_build)
        };
        let call = |entries| {
            let request = self
                .client
                .change_message_visibility_batch()
                .queue_url(&self.url);
            let call = request.set_entries(Some(entries)).send();
            async {
                let output = call.await.map_err(failed(Service::Sqs))?;
                let ids = output.successful.into_iter().map(|entry| entry.id);
                Ok(Confirmed::new(ids, output.failed))
            }
        };
        in_batches(changes, |_| 0, entry, call).await
    }
}

impl Receiver for SqsQueue {
    async fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<ReceivedMessage>, ServiceError> {
        let output = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(most.min(RECEIVED_AT_ONCE)).unwrap_or(1))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait))
            .set_receive_request_attempt_id(self.is_fifo.then(|| Uuid::new_v4().to_string()))
            .send()
            .await
            .map_err(failed(Service::Sqs))?;
        output
            .messages
            .unwrap_or_default()
            .into_iter()
            .map(|message| from_sdk(message, self.is_fifo))
            .collect()
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), ServiceError>> {
        let entry = |id: String, receipt: &ReceiptHandle| {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(&receipt.0);
            entry.build().map_err(cannot_build)
        };
        let call = |entries| {
            let request = self.client.delete_message_batch().queue_url(&self.url);
            let call = request.set_entries(Some(entries)).send();
            async {
                let output = call.await.map_err(failed(Service::Sqs))?;
                let ids = output.successful.into_iter().map(|entry| entry.id);
                Ok(Confirmed::new(ids, output.failed))
            }
        };
        in_batches(receipts, |_| 0, entry, call).await
    }
}

impl Countable for SqsQueue {
    async fn depth(&self) -> Result<QueueDepth, ServiceError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .set_attribute_names(Some(names.to_vec()));
        let attributes = request
            .send()
            .await
            .map_err(failed(Service::Sqs))?
            .attributes
            .unwrap_or_default();
        let [visible, in_flight, delayed] = names.map(|name| {
            let count = attributes.get(&name).and_then(|count| count.parse().ok());
            count.ok_or_else(|| Service::Sqs.unreadable(format!("the queue's {name} is missing")))
        });
        Ok(QueueDepth {
            visible: visible?,
            in_flight: in_flight?,
            delayed: delayed?,
        })
    }

    async fn age(&self) -> Result<Option<Duration>, ServiceError> {
        match &self.metrics {
            Some(metrics) => metrics.age().await,
            None => Ok(None),
        }
    }
}

/// SQS's own way back from a dead-letter queue.
///
/// The destination is always named: messages that were *sent* to a dead-letter queue have no
/// recorded source, and a move task without a destination cannot place them
/// (`StartMessageMoveTask`).
#[derive(Debug, Clone)]
pub struct SqsRedrive {
    client: Client,
    source_arn: String,
    destination_arn: String,
}

impl Redrive for SqsRedrive {
    async fn start_move(&self, rate: Option<u32>) -> Result<(), ServiceError> {
        let request = self
            .client
            .start_message_move_task()
            .source_arn(&self.source_arn)
            .destination_arn(&self.destination_arn)
            .set_max_number_of_messages_per_second(
                rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX)),
            );
        request.send().await.map(drop).map_err(failed(Service::Sqs))
    }

    async fn latest_move(&self) -> Result<Option<MoveTask>, ServiceError> {
        let request = self
            .client
            .list_message_move_tasks()
            .source_arn(&self.source_arn)
            .max_results(NEWEST);
        let newest = request
            .send()
            .await
            .map_err(failed(Service::Sqs))?
            .results
            .unwrap_or_default()
            .into_iter()
            .next();
        Ok(newest.map(|task| MoveTask {
            status: task.status.unwrap_or_default(),
            moved: count(task.approximate_number_of_messages_moved),
            to_move: task
                .approximate_number_of_messages_to_move
                .and_then(|count| u64::try_from(count).ok()),
            rate_per_second: task
                .max_number_of_messages_per_second
                .and_then(|rate| u32::try_from(rate).ok()),
            failure: task.failure_reason,
            started_at: Timestamp::from_millisecond(task.started_timestamp).ok(),
            handle: task.task_handle,
        }))
    }

    async fn cancel_move(&self, handle: &str) -> Result<(), ServiceError> {
        let request = self.client.cancel_message_move_task().task_handle(handle);
        request.send().await.map(drop).map_err(failed(Service::Sqs))
    }
}

type SdkAttributes = std::collections::HashMap<String, MessageAttributeValue>;

fn to_sdk_attributes(message: &Message) -> Result<SdkAttributes, ServiceError> {
    let attribute = |(name, attribute): (&String, &Attribute)| {
        let value = MessageAttributeValue::builder().data_type(&attribute.data_type);
        let value = match &attribute.value {
            AttributeValue::Text(text) => value.string_value(text),
            AttributeValue::Binary(bytes) => value.binary_value(Blob::new(bytes.clone())),
        };
        Ok((name.clone(), value.build().map_err(cannot_build)?))
    };
    message.attributes.iter().map(attribute).collect()
}

type SystemAttributes =
    std::collections::HashMap<MessageSystemAttributeNameForSends, MessageSystemAttributeValue>;

fn system_attributes(trace: &TraceHeader) -> Result<SystemAttributes, ServiceError> {
    let value = MessageSystemAttributeValue::builder()
        .data_type("String")
        .string_value(trace.as_str());
    Ok([(
        MessageSystemAttributeNameForSends::AwsTraceHeader,
        value.build().map_err(cannot_build)?,
    )]
    .into())
}

fn from_sdk(
    message: aws_sdk_sqs::types::Message,
    is_ordered: bool,
) -> Result<ReceivedMessage, ServiceError> {
    let mut attributes = BTreeMap::new();
    for (name, value) in message.message_attributes.unwrap_or_default() {
        let data_type = value.data_type;
        let value = match (value.string_value, value.binary_value) {
            (Some(text), _) => AttributeValue::Text(text),
            (None, Some(bytes)) => AttributeValue::Binary(bytes.into_inner()),
            (None, None) => {
                return Err(
                    Service::Sqs.unreadable(format!("the message attribute {name} has no value"))
                );
            }
        };
        attributes.insert(name, Attribute { data_type, value });
    }
    let mut system = message.attributes.unwrap_or_default();
    let sent_at = system
        .get(&MessageSystemAttributeName::SentTimestamp)
        .and_then(|millis| Timestamp::from_millisecond(millis.parse().ok()?).ok())
        .ok_or_else(|| Service::Sqs.unreadable("a message has no SentTimestamp"))?;
    let receive_count = system
        .get(&MessageSystemAttributeName::ApproximateReceiveCount)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| Service::Sqs.unreadable("a message has no ApproximateReceiveCount"))?;
    let receipt = message
        .receipt_handle
        .ok_or_else(|| Service::Sqs.unreadable("a message has no receipt handle"))?;
    let message_id = message
        .message_id
        .ok_or_else(|| Service::Sqs.unreadable("a message has no id"))?;
    Ok(ReceivedMessage {
        message: Message {
            body: message.body.unwrap_or_default(),
            attributes,
            group: system.remove(&MessageSystemAttributeName::MessageGroupId),
            trace: None,
        },
        receipt: ReceiptHandle(receipt),
        sent_at,
        message_id,
        receive_count,
        is_ordered,
    })
}

/// Whole seconds, rounded up: a message shown early would come before its time.
fn seconds(duration: Duration) -> i32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn cannot_build(error: BuildError) -> ServiceError {
    Service::Sqs.refused(error)
}
