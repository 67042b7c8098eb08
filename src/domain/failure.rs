//! Why an event is dead: the reason that its message carries, in words that fit anywhere.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a message lies in the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The kind of reason.
    pub reason: ReasonKind,
    /// What happened, for a person to read.
    pub detail: String,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The beginning of the target's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Which attempt it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When it happened.
    pub at: Timestamp,
    /// When the message was sent once more, since it had not arrived when it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resent_at: Option<Timestamp>,
}

/// Why an event is dead. A message that SQS's own redrive has moved carries none; the events table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReasonKind {
    /// The target refused the event, or the queue refused it from EventBridge, in a way that trying again cannot mend.
    Permanent,
    /// The last allowed attempt failed: ours, or EventBridge's to reach the queue.
    Exhausted,
    /// The processor ended during the last attempt.
    Crashed,
    /// The body, or the message around it, cannot be read.
    Malformed,
    /// An event that was fetched from Genesys, and that nobody understands.
    Unreadable,
    /// Nobody knows: SQS moved it without a word from the processor.
    Unknown,
}

impl ReasonKind {
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
