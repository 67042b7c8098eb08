//! The port to a log of events that Genesys Cloud failed to deliver.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::future::Future;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::domain::event::{EventId, Identity, SenderKey};
use crate::domain::json::Json;

/// Failure to read a delivery log. The source names the failed call, and says what to do.
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

impl DeliveryLogError {
    /// The type of the error in the answer of a function.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "Credentials",
            Self::Forbidden(_) => "Forbidden",
            Self::OutOfTime(_) | Self::Failed(_) => "GenesysError",
        }
    }
}

/// A part of the time line of Genesys Cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Beginning, included.
    pub from: Timestamp,
    /// End, excluded.
    pub to: Timestamp,
}

impl Window {
    /// True if a time lies in the window.
    pub fn holds(&self, time: Timestamp) -> bool {
        (self.from..self.to).contains(&time)
    }
}

/// A log of failed deliveries.
pub trait DeliveryLog: Send + Sync + 'static {
    /// Progress inside a window.
    type Place: Default + Clone + PartialEq + Send + Serialize + DeserializeOwned;

    /// Name of the log, in log lines and in the table.
    fn name(&self) -> &'static str;

    /// Length of the longest useful window, in seconds.
    fn longest_span(&self) -> u32;

    /// Place where a later run can continue in the same window; `None` where it must begin again,
    /// with a shorter window.
    fn resume(&self, place: Self::Place) -> Option<Self::Place>;

    /// Reads the next part of a window. The first place is the default one.
    ///
    /// Every entry of the window is in some part of it, readable or not. An error is never an empty
    /// part. Ends by `deadline`.
    fn read(
        &self,
        window: Window,
        place: Self::Place,
        deadline: Instant,
    ) -> impl Future<Output = Result<Part<Self::Place>, DeliveryLogError>> + Send;

    /// Reads one entry by its id, whatever its status. Ends by `deadline`.
    fn fetch(
        &self,
        id: &str,
        _deadline: Instant,
    ) -> impl Future<Output = Result<Entry, DeliveryLogError>> + Send {
        let problem = format!(
            "the log {:?} cannot fetch {id:?} by its id; ask for a span of time instead",
            self.name()
        );
        std::future::ready(Err(DeliveryLogError::Failed(problem.into())))
    }
}

/// A part of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<P> {
    /// Entries of this part, in the order of the log.
    pub entries: Vec<Entry>,
    /// Beginning of the next part; `None` after the last.
    pub next: Option<P>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An event that did not arrive.
    Failed(Failed),
    /// An entry that cannot be read, or that exists no longer.
    Unreadable(Unreadable),
    /// An entry that cannot be fetched now, and the cause. The window must be read again.
    Unavailable(String),
    /// An entry of another relay, or one that needs no recovery, and the cause.
    Skipped(String),
}

/// An event that did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Name of the delivery in the log, for operators.
    pub delivery: String,
    /// Identity of the delivery, the same at each reading, for an event without an identity of its
    /// own.
    pub entry: String,
    /// Time of the event in Genesys Cloud, if it is known.
    pub at: Option<Timestamp>,
    /// The webhook's body: byte for byte where the log has it as text, and otherwise as the log has
    /// rewritten it.
    pub body: Vec<u8>,
    /// True if the log has rewritten the body, which then shares only an id and a time with the
    /// webhook's.
    pub is_copy: bool,
    /// `Content-Type` of the delivery.
    pub content_type: Option<String>,
    /// The headers that are kept with an event, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Idempotency key of the sender.
    pub sender_key: Option<SenderKey>,
    /// Details for an operator: the status that the endpoint answered with, and its URL.
    pub note: String,
}

impl Failed {
    /// The identity of a fetched event, which is the webhook's own, and why its body is no event, if
    /// it is none.
    pub(crate) fn identity(&self, now: Timestamp) -> (Identity, Option<String>) {
        // An event without an identity must keep its id from run to run; a body that the log
        // rewrites may differ each time.
        let lone = || {
            let exact = if self.is_copy {
                &[][..]
            } else {
                &self.body[..]
            };
            EventId::of_fetched(&[b"event", self.entry.as_bytes(), exact])
        };
        match Json::parse(&self.body) {
            Ok(json) => {
                let key = self.sender_key.as_ref();
                (Identity::of_fetched(json, self.at, now, key, lone), None)
            }
            Err(error) => (Identity::of_malformed(lone()), Some(error.to_string())),
        }
    }
}

/// An entry that cannot be read, or that exists no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Name of the entry. Everything else about it may change between two readings.
    pub name: String,
    /// The whole entry as it was read, without credentials.
    pub whole: String,
    /// Its fault.
    pub problem: String,
    /// Its webhook or integration, if that is known.
    pub webhook_id: Option<String>,
}
