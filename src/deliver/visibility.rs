//! Changes of visibility timeouts.

use std::time::Duration;

use tokio::time::Instant;

use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::ports::queue::{ReceiptHandle, ReceivedMessage, VisibilityTimeout};
use crate::runtime::logging::display_chain;

impl<T: PortTypes> Processor<T> {
    /// Makes each message visible again at its time, in its queue. What SQS does not accept is tried
    /// once more.
    ///
    /// Called after everything else: a short delay could otherwise end while the batch is still
    /// running.
    pub(super) async fn set_visibility(&self, kept: &[(&ReceivedMessage, Instant)]) {
        let (ordered, standard): (Vec<_>, Vec<_>) =
            kept.iter().partition(|(received, _)| received.is_ordered);
        for (queue, kept) in [
            (Some(&self.ports.events), standard),
            (self.ports.ordered.as_ref(), ordered),
        ] {
            if let (Some(queue), false) = (queue, kept.is_empty()) {
                set_visibility(queue, &kept).await;
            }
        }
    }
}

async fn set_visibility(events: &impl VisibilityTimeout, kept: &[(&ReceivedMessage, Instant)]) {
    let now = Instant::now();
    let mut open: Vec<(&ReceivedMessage, Duration)> = kept
        .iter()
        .filter(|(received, _)| !received.receipt.is_absent())
        .map(|(received, at)| (*received, at.saturating_duration_since(now)))
        .collect();
    for is_last_try in [false, true] {
        let changes: Vec<(ReceiptHandle, Duration)> = open
            .iter()
            .map(|(received, delay)| (received.receipt.clone(), *delay))
            .collect();
        let results = events.change_visibility(&changes).await;
        let mut failed = Vec::new();
        for (change, result) in open.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(error) if error.is_transient() && !is_last_try => failed.push(change),
                Err(error) => tracing::warn!(
                    event_id = change.0.message.event_id(),
                    message_id = change.0.message_id,
                    error = display_chain(&error),
                    "failed to change a visibility timeout; the message comes back after the queue's own"
                ),
            }
        }
        if failed.is_empty() {
            return;
        }
        open = failed;
    }
}
