//! The port to the messages that Genesys Cloud sent, whatever became of them: Genesys's book.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::ports::delivery_log::{DeliveryLogError, Failed, Unreadable, Window};

/// All messages that Genesys Cloud has for the webhooks of the relay.
pub trait SentMessages: Send + Sync + 'static {
    /// Progress inside a window.
    type Place: Default + Clone + PartialEq + Send + Sync + Serialize + DeserializeOwned;

    /// Reads the next part of a window. The first place is the default one.
    ///
    /// Every message of the window is in some part, once. An error is never an empty part. Ends by
    /// `deadline`.
    fn read_sent(
        &self,
        window: Window,
        place: Self::Place,
        deadline: Instant,
    ) -> impl Future<Output = Result<SentPart<Self::Place>, DeliveryLogError>> + Send;
}

/// A part of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentPart<P> {
    /// The entries of this part.
    pub entries: Vec<SentEntry>,
    /// True for the answer about one conversation, false for a list of them.
    pub is_conversation: bool,
    /// Calls that this part took, without those that were repeated.
    pub calls: u64,
    /// True if the log is read again from its beginning: what was read before no longer counts.
    pub starts_again: bool,
    /// Beginning of the next part; `None` after the last.
    pub next: Option<P>,
}

/// An entry of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentEntry {
    /// A message to the webhook.
    Sent(Box<SentMessage>),
    /// A message that came from the customer.
    Inbound,
    /// A message of an integration that is not the relay's.
    OfOtherIntegration,
    /// An entry that cannot be read, or that exists no longer.
    Unreadable(Unreadable),
    /// An entry that cannot be fetched now, and the cause.
    Unavailable(String),
}

/// A message to the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Its id in Genesys Cloud.
    pub message_id: String,
    pub conversation_id: String,
    /// Its `messageStatus`, if it has one.
    pub status: Option<String>,
    /// The webhook's payload, made again as for the recovery.
    pub payload: Failed,
}
