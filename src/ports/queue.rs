//! The ports to the two queues: what the use cases need of SQS, and no more.

use std::future::Future;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::domain::message::{Message, Stamp};
use crate::domain::queue_depth::QueueDepth;
use crate::ports::service::ServiceError;

/// The name of one receive of one message; a later receive has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReceiptHandle(pub String);

impl ReceiptHandle {
    /// The handle of a test event that was written by hand and has none.
    pub fn absent() -> Self {
        Self(String::new())
    }

    /// Returns whether SQS gave no handle, so that there is nothing to change or delete by it.
    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message that was received and is hidden from other consumers.
#[derive(Debug, Clone)]
pub struct ReceivedMessage {
    /// The message itself.
    pub message: Message,
    /// The handle to delete it or change its visibility by.
    pub receipt: ReceiptHandle,
    /// The time at which SQS accepted it (`SentTimestamp`).
    pub sent_at: Timestamp,
    /// The id that SQS gave it.
    pub message_id: String,
    /// The number of receives, this one included (`ApproximateReceiveCount`).
    pub receive_count: u32,
    /// True if it comes from the FIFO queue, which holds its group back for as long as it is
    /// hidden.
    pub is_ordered: bool,
}

impl ReceivedMessage {
    /// The facts that SQS knows about its message.
    pub fn stamp(&self) -> Stamp<'_> {
        Stamp {
            sent_at: self.sent_at,
            message_id: Some(&self.message_id),
        }
    }
}

/// Returns whether the queue at a URL or ARN is a FIFO queue: the name of each ends so
/// (`CreateQueue`).
pub fn is_fifo(url_or_arn: &str) -> bool {
    url_or_arn.rsplit('.').next() == Some("fifo")
}

/// `ReceiveMessage`: at most ten at a time.
pub const RECEIVED_AT_ONCE: usize = 10;

/// `SendMessageBatch`: the longest time for which a new message is hidden (`DelaySeconds`).
pub const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// The deduplication id with which a message is sent to a FIFO queue, a new one for each send.
///
/// It is never the event's id: for five minutes SQS drops what comes under an id that it knows,
/// also another body, and a replay. The processor recognises duplicates.
pub fn deduplication_id(_message: &Message) -> String {
    Uuid::new_v4().to_string()
}

/// A queue that messages are sent to.
pub trait Sender: Send + Sync + 'static {
    /// Sends one message. `Ok` means that it is durable.
    fn send(&self, message: &Message) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Sends messages, in as few calls as SQS allows; one result per message, in order.
    fn send_all(
        &self,
        messages: &[Message],
    ) -> impl Future<Output = Vec<Result<(), ServiceError>>> + Send;

    /// Sends messages as [`send_all`](Self::send_all) does, each of which can be received after a
    /// delay: whole seconds, rounded up, and at most [`LONGEST_DELAY`].
    fn send_delayed(
        &self,
        messages: &[(Message, Duration)],
    ) -> impl Future<Output = Vec<Result<(), ServiceError>>> + Send;
}

/// A queue whose visibility timeouts can be changed.
pub trait VisibilityTimeout: Send + Sync + 'static {
    /// Sets the time from now until each message can be received again, rounded up to whole
    /// seconds; one result per message, in order.
    ///
    /// It holds for this receive only (`ChangeMessageVisibility`).
    fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> impl Future<Output = Vec<Result<(), ServiceError>>> + Send;
}

/// A queue that messages are received from directly.
pub trait Receiver: VisibilityTimeout {
    /// Receives up to `most` messages, ten at the most, and hides them for `visibility`, waiting up
    /// to `wait` for the first.
    fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<ReceivedMessage>, ServiceError>> + Send;

    /// Deletes messages; one result per message, in order.
    fn delete(
        &self,
        receipts: &[ReceiptHandle],
    ) -> impl Future<Output = Vec<Result<(), ServiceError>>> + Send;
}

/// A queue whose messages can be counted.
pub trait Countable: Send + Sync + 'static {
    /// Counts without receiving.
    fn depth(&self) -> impl Future<Output = Result<QueueDepth, ServiceError>> + Send;

    /// The age of its oldest message, if known.
    fn age(&self) -> impl Future<Output = Result<Option<Duration>, ServiceError>> + Send {
        std::future::ready(Ok(None))
    }
}

/// A dead-letter queue that SQS itself can move back (`StartMessageMoveTask`).
pub trait Redrive: Send + Sync + 'static {
    /// Starts to move everything to the events queue, at most `rate` messages a second.
    fn start_move(
        &self,
        rate: Option<u32>,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// The newest task, running or not; SQS keeps the last ten.
    fn latest_move(&self) -> impl Future<Output = Result<Option<MoveTask>, ServiceError>> + Send;

    /// Cancels a running task. What it moved stays moved.
    fn cancel_move(&self, handle: &str) -> impl Future<Output = Result<(), ServiceError>> + Send;
}

/// A message move task, as SQS reports it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveTask {
    /// `RUNNING`, `COMPLETED`, `CANCELLING`, `CANCELLED` or `FAILED`.
    pub status: String,
    /// Messages moved so far.
    pub moved: u64,
    /// Messages to move at its start, if SQS says.
    pub to_move: Option<u64>,
    /// Messages a second at most, if a limit was set.
    pub rate_per_second: Option<u32>,
    /// The error.
    pub failure: Option<String>,
    /// The time of its start.
    pub started_at: Option<Timestamp>,
    /// The handle to cancel it by; only a running task has one.
    #[serde(skip)]
    pub handle: Option<String>,
}

/// The clock of SQS and that of a function differ by at most so much.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(10);

impl MoveTask {
    /// Returns whether it is still running, so that nothing else may receive from the queue.
    pub fn is_active(&self) -> bool {
        matches!(self.status.as_str(), "RUNNING" | "CANCELLING")
    }

    /// Returns whether it may have started at `time` or later, by another clock than that.
    pub fn may_have_started_since(&self, time: Timestamp) -> bool {
        self.started_at
            .is_none_or(|at| at.saturating_add(CLOCKS_DIFFER).is_ok_and(|at| at >= time))
    }
}
