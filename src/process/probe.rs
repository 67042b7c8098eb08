//! Lets one event through to a target that may be away.
//!
//! It is an attempt like any other, but for this: whatever the target says, the event stays in the queue if it was not
//! taken, and the receive that it has cost is given back. A target that is away answers 404 to everything, or lets every
//! event use up its receives; neither says anything about the event.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::settle::Begun;
use super::{Processor, Record, Settlement};
use crate::clock::Clock;
use crate::events_table::{EventsTable, Written};
use crate::logging::chain;
use crate::message::Message;
use crate::metrics;
use crate::queue::{QueueError, ReceiptHandle, Received, Receiver, Sender};
use crate::target::Target;

/// How many events are looked at until one is due.
const LOOKS: usize = 5;

/// A receive looks at all servers of the queue, and waits so long for a message.
const WAIT: Duration = Duration::from_secs(1);

/// What came of letting an event through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Probed {
    /// The target has it.
    Delivered {
        /// The event.
        event_id: String,
    },
    /// The target does not have it; it waits in the queue, as if it were new there.
    Failed {
        /// The event.
        event_id: String,
        /// What went wrong.
        error: String,
    },
    /// None was due.
    Nothing,
}

impl<E, D, W, T, C> Processor<E, D, W, T, C>
where
    E: Sender + Receiver,
    D: Sender,
    W: EventsTable,
    T: Target,
    C: Clock,
{
    /// Lets one event of the queue through, if one is due, and says what came of it.
    ///
    /// # Errors
    /// When the queue does not hand out anything. Nothing is lost by that.
    pub async fn probe(&self, deadline: Instant) -> Result<Probed, QueueError> {
        let hidden = deadline.saturating_duration_since(Instant::now());
        for _ in 0..LOOKS {
            let Some(received) = self.events.receive(1, hidden, WAIT).await?.pop() else { break };
            let Received { message, receipt, sent_at, message_id, receive_count } = received;
            let is_used_up = self.schedule.is_last(receive_count);
            // It will be as new in the queue, and so it is not its last time, nor the nth.
            let record = Record { message_id, receipt: Some(receipt.clone()), receive_count: 1, sent_at, message };
            match self.begin(&record, deadline).await {
                Begun::Ended(Settlement::Done) => self.forget(receipt).await,
                Begun::Ended(Settlement::Again(_)) if is_used_up => self.renew(&record, receipt).await,
                Begun::Ended(Settlement::Again(at)) => self.set_visibility(&[(&record, at)]).await,
                Begun::Claimed(event, claim) => {
                    let event_id = event.id.to_string();
                    let (attempt, outcome) = self.attempt(&event, &claim, deadline).await;
                    let Err(failure) = outcome else {
                        if self.record_delivery(&record, &event, &claim, attempt, deadline).await == Settlement::Done {
                            self.forget(receipt).await;
                        }
                        return Ok(Probed::Delivered { event_id });
                    };
                    // It says nothing about the event, which may be the only one to see by.
                    let delay = self.delay(1, failure.retry_after);
                    let (now, at) = (self.clock.now(), Instant::now() + delay);
                    let step = claim.retrying(attempt, now + delay, now);
                    metrics::RETRIED.add(1);
                    self.log_failure(&record, Some(&event), &failure, Settlement::Again(at));
                    match self.table.write(&step).await {
                        Ok(Written::Done | Written::Lost(_)) => {}
                        Err(error) => {
                            tracing::error!(%event_id, error = chain(&error), "how the attempt went is not recorded");
                        }
                    }
                    // Also where somebody else was faster: a copy of what is delivered is told from it by its record.
                    self.renew(&record, receipt).await;
                    return Ok(Probed::Failed { event_id, error: failure.detail });
                }
            }
        }
        Ok(Probed::Nothing)
    }

    /// Puts a new message in place of one that has used up receives. Until the new one is durable the old one stays.
    async fn renew(&self, record: &Record, receipt: ReceiptHandle) {
        let message: Message = record.message.clone().with_identity(record.stamp());
        match self.events.send(&message).await {
            Ok(()) => self.forget(receipt).await,
            Err(error) => tracing::warn!(
                event_id = message.event_id(),
                message_id = record.message_id,
                error = chain(&error),
                "an event that was let through could not be put back as new, and has used up a receive"
            ),
        }
    }

    /// Deletes a message. What comes back all the same is known by its record.
    async fn forget(&self, receipt: ReceiptHandle) {
        if let Some(Err(error)) = self.events.delete(&[receipt]).await.pop() {
            tracing::warn!(error = chain(&error), "a message that is done with comes back");
        }
    }
}
