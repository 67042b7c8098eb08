//! The mark of a message that sends a delivered event once more.

use serde::{Deserialize, Serialize};

/// The run that sends an event once more, as the message attribute `resend` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The name of the run. Each run delivers an event once.
    pub run: String,
    /// The requester, for the history of the record.
    pub by: String,
    /// The reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
