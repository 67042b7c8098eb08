//! Dead letters of the ordered queue, on their way into the one dead-letter queue.
//!
//! SQS moves what it has handed out too often into a dead-letter queue of the same kind, which no
//! list shows and no other run receives from.

use tokio::time::Instant;

use super::{Sweep, release_messages};
use crate::dead_letters::api::DEFAULT_MAX_MESSAGES;
use crate::dead_letters::ports::{OrderedQueues, PortTypes};
use crate::domain::message::{Message, Stamp};
use crate::ports::queue::{Countable, ReceiptHandle, ReceivedMessage, Receiver, Sender};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

impl<T: PortTypes> Sweep<'_, T> {
    /// Brings the dead letters of the ordered queue into the dead-letter queue, within half of the
    /// time of the run. Returns a lower bound on those that are left.
    ///
    /// A message is deleted once its copy is durable. A crash in between leaves both, with one id.
    pub(super) async fn bring_over(&mut self) -> u64 {
        let Some(OrderedQueues { dead_letters, .. }) = &self.ports.ordered else {
            return 0;
        };
        let left = self.state.stop_at.saturating_duration_since(Instant::now());
        let mut held = Vec::new();
        let outcome = self
            .bring_all(dead_letters, Instant::now() + left / 2, &mut held)
            .await;
        release_messages(dead_letters, &held, self.state.run.deadline).await;
        outcome.unwrap_or_else(|error| {
            let error = format!(
                "the dead letters of the ordered queue: {}",
                display_chain(&error)
            );
            self.state.report.fail(None, &error);
            1
        })
    }

    async fn bring_all(
        &mut self,
        dead_letters: &T::DeadLetters,
        stop_at: Instant,
        held: &mut Vec<ReceiptHandle>,
    ) -> Result<u64, ServiceError> {
        let depth = dead_letters.depth().await?;
        if depth.total() == 0 {
            return Ok(0);
        }
        let mut brought = 0;
        while brought < DEFAULT_MAX_MESSAGES && Instant::now() < stop_at {
            let received = self.receive(dead_letters, stop_at).await?;
            if received.is_empty() {
                return Ok(depth.in_flight + held.len() as u64);
            }
            let (messages, receipts): (Vec<_>, Vec<_>) = received.into_iter().map(copy).unzip();
            let sent = self.ports.dead_letters.send_all(&messages).await;
            let mut done = Vec::new();
            for ((message, receipt), sent) in messages.iter().zip(receipts).zip(sent) {
                match sent {
                    Ok(()) => {
                        tracing::info!(
                            event_id = message.event_id(),
                            run = %self.state.run.id,
                            "brought a dead letter of the ordered queue into the dead-letter queue"
                        );
                        done.push(receipt);
                    }
                    Err(error) => {
                        held.push(receipt);
                        self.state
                            .report
                            .fail(message.event_id(), &display_chain(&error));
                    }
                }
            }
            brought += u32::try_from(done.len()).unwrap_or(u32::MAX);
            if done.is_empty() {
                break;
            }
            for result in dead_letters.delete(&done).await {
                result?;
            }
        }
        Ok(1)
    }
}

/// The message as it goes into the dead-letter queue. Its event keeps its id and the time of its
/// receipt, which the copy would take from SQS if they were nowhere else.
fn copy(
    ReceivedMessage {
        message,
        receipt,
        sent_at,
        message_id,
        ..
    }: ReceivedMessage,
) -> (Message, ReceiptHandle) {
    let stamp = Stamp {
        sent_at,
        message_id: Some(&message_id),
    };
    (message.with_identity(stamp), receipt)
}
