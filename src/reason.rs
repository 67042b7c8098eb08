//! Why an event is dead: the reason that its message carries, in words that fit anywhere.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::is_allowed;
use crate::record::Death;

/// The longest detail or response excerpt that a [`Reason`] keeps, in bytes.
pub const MAX_EXCERPT_BYTES: usize = 1024;

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

impl From<Death> for Reason {
    fn from(death: Death) -> Self {
        let Death { reason, error, status_code, dead_at } = death;
        Self { reason, detail: error, status_code, response: None, attempt: None, at: dead_at, resent_at: None }
    }
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

/// `text` cut to [`MAX_EXCERPT_BYTES`], with what SQS, a terminal or a log would trip over replaced.
pub fn excerpt(text: &str) -> String {
    excerpt_of(text, MAX_EXCERPT_BYTES)
}

/// [`excerpt`], cut to `most` bytes.
pub(crate) fn excerpt_of(text: &str, most: usize) -> String {
    let mut excerpt = String::new();
    for c in text.chars() {
        let c = if c.is_control() || !is_allowed(c) { ' ' } else { c };
        if excerpt.len() + c.len_utf8() > most {
            break;
        }
        excerpt.push(c);
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_as_long_as_fits_and_ends_between_characters() {
        for (text, most, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("abü", 3, "ab"),
            ("aü", 3, "aü"),
            ("ü", 1, ""),
            ("a\u{7}b\u{FFFE}", 9, "a b "),
        ] {
            assert_eq!(excerpt_of(text, most), expected, "{text:?}");
        }
        assert_eq!(excerpt(&"x".repeat(2000)).len(), 1024);
    }
}
