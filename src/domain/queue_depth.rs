//! The depth of a queue.

/// The approximate number of messages in a queue, as SQS counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueDepth {
    /// Can be received now.
    pub visible: u64,
    /// Received and not yet deleted or returned.
    pub in_flight: u64,
    /// Sent with a delay that is not over.
    pub delayed: u64,
}

impl QueueDepth {
    /// The sum.
    pub fn total(self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}
