//! The ports to the two queues: what the use cases need of SQS, and no more.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::message::Message;
use crate::domain::queue_depth::QueueDepth;

/// Why a call to a queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue did not answer, throttled or failed: the same call may succeed later.
    #[error("the queue is unavailable")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The queue refused the call: the same call fails again until somebody changes something.
    #[error("the queue refused the request")]
    Refused(#[source] Box<dyn StdError + Send + Sync>),
}

/// Names one receive of one message; a later receive has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReceiptHandle(pub String);

/// A message in hand.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message itself.
    pub message: Message,
    /// What to delete or release it by.
    pub receipt: ReceiptHandle,
    /// When SQS took it (`SentTimestamp`).
    pub sent_at: Timestamp,
    /// SQS's name for it.
    pub message_id: String,
    /// How often it has been received, this time included (`ApproximateReceiveCount`).
    pub receive_count: u32,
}

/// `ReceiveMessage`: at most ten at a time.
pub const RECEIVED_AT_ONCE: usize = 10;

/// A queue that messages are sent to.
pub trait Sender: Send + Sync + 'static {
    /// Sends one message. `Ok` means that it is durable.
    fn send(&self, message: &Message) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Sends many, in as few calls as SQS allows; one result per message, in order.
    fn send_all(&self, messages: &[Message]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// A queue whose messages come back when they are not done.
pub trait VisibilityTimeout: Send + Sync + 'static {
    /// Sets when each message can be received again, from now, rounded up to whole seconds; one result per message, in
    /// order.
    ///
    /// It holds for this receive only (`ChangeMessageVisibility`).
    fn change_visibility(
        &self,
        changes: &[(ReceiptHandle, Duration)],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// A queue that messages are taken from by hand.
pub trait Receiver: VisibilityTimeout {
    /// Receives up to `most` messages, ten at the most, and hides them for `visibility`, waiting up to `wait` for the first.
    fn receive(
        &self,
        most: usize,
        visibility: Duration,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Received>, QueueError>> + Send;

    /// Deletes messages; one result per message, in order.
    fn delete(&self, receipts: &[ReceiptHandle]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// A queue whose messages can be counted.
pub trait Countable: Send + Sync + 'static {
    /// Counts without receiving.
    fn depth(&self) -> impl Future<Output = Result<QueueDepth, QueueError>> + Send;

    /// How old its oldest message is, as far as that is known.
    fn age(&self) -> impl Future<Output = Result<Option<Duration>, QueueError>> + Send {
        std::future::ready(Ok(None))
    }
}

/// A dead-letter queue that SQS itself can move back (`StartMessageMoveTask`).
pub trait Redrive: Send + Sync + 'static {
    /// Starts to move everything to the events queue, at most `rate` messages a second.
    fn start_move(&self, rate: Option<u32>) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// The newest task, running or not; SQS keeps the last ten.
    fn latest_move(&self) -> impl Future<Output = Result<Option<MoveTask>, QueueError>> + Send;

    /// Cancels a running task. What it moved stays moved.
    fn cancel_move(&self, handle: &str) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// A message move task, as SQS reports it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveTask {
    /// `RUNNING`, `COMPLETED`, `CANCELLING`, `CANCELLED` or `FAILED`.
    pub status: String,
    /// How many it has moved.
    pub moved: u64,
    /// How many there were to move when it started, if SQS says.
    pub to_move: Option<u64>,
    /// Messages a second at most, if a limit was set.
    pub rate_per_second: Option<u32>,
    /// Why it failed.
    pub failure: Option<String>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// What to cancel it by; only a running task has one.
    #[serde(skip)]
    pub handle: Option<String>,
}

impl MoveTask {
    /// Whether it is still at work, so that nothing else may take from the queue.
    pub fn is_active(&self) -> bool {
        matches!(self.status.as_str(), "RUNNING" | "CANCELLING")
    }
}
