//! Failures: the cause of a failed delivery, and the reason for which an event is dead.
//!
//! The reason is stored in two forms: [`Reason`] is the JSON of a message attribute and of the
//! archive, `Death` is a part of a table item and has neither answer nor attempt. As JSON, the
//! two share one field name only, `reason`: the others differ (`detail` and `error`, `statusCode`
//! and `status_code`, `at` and `dead_at`). One type would lose answer and attempt on its way
//! through the table, so there are two, and each converts into the other.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::text::excerpt;

/// The cause of a failed delivery; [`crate::domain::retry::retry_decision`] tells which are
/// retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// An HTTP status other than 2xx.
    Status(u16),
    /// No answer in time. The target may have the event all the same.
    TimedOut,
    /// No connection, or it broke.
    Connection,
    /// The relay could not send, for a reason of its own that may pass.
    NotSent,
    /// The relay has no credentials that the target accepts: the secret or a token is missing, or
    /// the target answered them with this status. Says nothing about the event.
    Credentials(Option<u16>),
    /// The bound on the target's rate left no room in this invocation. Says nothing about the event.
    Postponed,
    /// The target, or a check before it, will never accept this event.
    Refused,
}

impl FailureCause {
    /// The HTTP status, if the target answered with one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Credentials(status) => status,
            Self::TimedOut | Self::Connection | Self::NotSent | Self::Postponed | Self::Refused => {
                None
            }
        }
    }
}

/// The reason for which a message is in the dead-letter queue, as the message carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The kind of reason.
    pub reason: ReasonKind,
    /// A description for operators.
    pub detail: String,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The beginning of the target's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The number of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The time of the failure.
    pub at: Timestamp,
    /// Time at which the message was sent once more, since it had not arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resent_at: Option<Timestamp>,
}

impl Reason {
    /// A reason without an answer of the target. A long text is cut.
    pub fn new(reason: ReasonKind, detail: &str, at: Timestamp) -> Self {
        Self {
            reason,
            detail: excerpt(detail),
            status_code: None,
            response: None,
            attempt: None,
            at,
            resent_at: None,
        }
    }
}

/// A kind of reason. A message that SQS's own redrive has moved carries none; the events table has
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReasonKind {
    /// The target refused the event, or the queue refused it from EventBridge, in a way that no
    /// retry can change.
    Permanent,
    /// The last allowed attempt failed: ours, or EventBridge's to reach the queue.
    Exhausted,
    /// The processor ended during the last attempt.
    Crashed,
    /// The body, or the message around it, cannot be read.
    Malformed,
    /// An item fetched from Genesys Cloud that is not a known event.
    Unreadable,
    /// SQS moved the message, and the processor recorded no attempt.
    Unknown,
}

impl ReasonKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Permanent,
        Self::Exhausted,
        Self::Crashed,
        Self::Malformed,
        Self::Unreadable,
        Self::Unknown,
    ];

    /// The name that messages, records and requests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Exhausted => "exhausted",
            Self::Crashed => "crashed",
            Self::Malformed => "malformed",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}
