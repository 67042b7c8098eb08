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

    /// Adds the depth of a FIFO queue.
    ///
    /// SQS counts a message behind one in flight as visible, and hands it out only once that one is
    /// back or deleted. So while any is in flight, all count as in flight.
    #[must_use]
    pub(crate) fn with_ordered(self, ordered: Self) -> Self {
        let (visible, behind) = match ordered.in_flight {
            0 => (ordered.visible, 0),
            _ => (0, ordered.visible),
        };
        Self {
            visible: self.visible + visible,
            in_flight: self.in_flight + ordered.in_flight + behind,
            delayed: self.delayed + ordered.delayed,
        }
    }
}
