//! The port to what Genesys Cloud knows of events that it failed to deliver.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::future::Future;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::domain::event::SenderKey;

/// Why a delivery log could not be read. The source says which call failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryLogError {
    /// The log refuses the relay's credentials, or the stack's secret has none.
    #[error(transparent)]
    Credentials(Box<dyn StdError + Send + Sync>),
    /// The relay's credentials lack a permission.
    #[error(transparent)]
    Forbidden(Box<dyn StdError + Send + Sync>),
    /// The read could not end before its deadline. A later run can continue.
    #[error(transparent)]
    OutOfTime(Box<dyn StdError + Send + Sync>),
    /// The log did not answer, refused the read, or sent an answer that cannot be used.
    #[error(transparent)]
    Failed(Box<dyn StdError + Send + Sync>),
}

/// A part of the time line of Genesys Cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From this time on.
    pub from: Timestamp,
    /// Up to, and without, this time.
    pub to: Timestamp,
}

impl Window {
    /// Whether a time lies in it.
    pub fn holds(&self, time: Timestamp) -> bool {
        (self.from..self.to).contains(&time)
    }
}

/// Something that tells what was not delivered.
pub trait DeliveryLog: Send + Sync + 'static {
    /// How far the reading of a window has come.
    type Place: Default + Clone + PartialEq + Send + Serialize + DeserializeOwned;

    /// What it is called, in requests and in the table.
    fn name(&self) -> &'static str;

    /// The longest window that is worth reading at once, in seconds.
    fn longest_span(&self) -> u32;

    /// Where a later run can go on in the same window; `None` where it has to begin anew, with a shorter window.
    fn resume(&self, place: Self::Place) -> Option<Self::Place>;

    /// Reads the next part of a window. The first place is the default one.
    ///
    /// Whatever belongs to the window is in some part of it, also what nobody understands. An error is never an empty
    /// part. It ends by `deadline`.
    fn read(
        &self,
        window: Window,
        place: Self::Place,
        deadline: Instant,
    ) -> impl Future<Output = Result<Part<Self::Place>, DeliveryLogError>> + Send;
}

/// A part of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<P> {
    /// What it holds.
    pub entries: Vec<Entry>,
    /// Where the next part begins; `None` after the last.
    pub next: Option<P>,
}

/// What the log has in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An event that did not arrive.
    Failed(Failed),
    /// Something that cannot be understood, or that is there no more.
    Unreadable(Unreadable),
    /// Something that cannot be had now, and why. The window is not done without it.
    Unavailable(String),
    /// Something that was not for us, or needs no recovery, and why.
    Skipped(String),
}

/// An event that did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Which delivery it was, as the log names it, for people.
    pub delivery: String,
    /// What names the delivery at each reading, and no other delivery, where nothing tells its event apart.
    pub entry: String,
    /// When Genesys Cloud had the event, as far as it says.
    pub at: Option<Timestamp>,
    /// The webhook's body: byte for byte where the log has it as text, and else as the log has written it anew.
    pub body: Vec<u8>,
    /// Whether the log has written the body anew, so that an id with a time is all that it has in common with the webhook's.
    pub is_copy: bool,
    /// The `Content-Type` that it was sent with.
    pub content_type: Option<String>,
    /// The headers that are kept with an event, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What the sender gave to tell its events apart.
    pub sender_key: Option<SenderKey>,
    /// What else an operator may want to know: the status that the endpoint answered with, and its URL.
    pub note: String,
}

/// Something that cannot be understood, or that is there no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// What it is called. Everything else about it may change between two readings.
    pub name: String,
    /// All of it, as it was read, without credentials.
    pub whole: String,
    /// What is wrong with it.
    pub problem: String,
    /// The webhook or integration that it belongs to, as far as that is known.
    pub webhook_id: Option<String>,
}
