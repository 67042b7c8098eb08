//! Why an event is dead: the reason that its message carries, in words that fit anywhere.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::is_allowed;

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
}

/// The kinds of reasons that a message itself can carry.
///
/// SQS's own redrive attaches nothing, so a message that was moved after its last attempt carries none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReasonKind {
    /// The target refused the event in a way that trying again cannot mend.
    Permanent,
    /// The last allowed attempt failed.
    Exhausted,
    /// The body, or the message around it, cannot be read.
    Malformed,
}

/// `text` cut to [`MAX_EXCERPT_BYTES`], with what SQS, a terminal or a log would trip over replaced.
pub fn excerpt(text: &str) -> String {
    let mut excerpt = String::new();
    for c in text.chars() {
        let c = if c.is_control() || !is_allowed(c) { ' ' } else { c };
        if excerpt.len() + c.len_utf8() > MAX_EXCERPT_BYTES {
            break;
        }
        excerpt.push(c);
    }
    excerpt
}
