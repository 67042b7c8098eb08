//! Messages of erased events, which a sweep takes off the dead-letter queue.

use super::Sweep;
use super::state::Purpose;
use crate::dead_letters::erase::{Verdict, tombstone};
use crate::dead_letters::message::DeadLetterMessage;
use crate::dead_letters::ports::PortTypes;
use crate::domain::event::Source;
use crate::domain::event_record::{EventRecord, OperatorAction, State, StateName};
use crate::ports::queue::{ReceiptHandle, Receiver};
use crate::ports::service::ServiceError;
use crate::runtime::logging::{audit, display_chain};
use crate::runtime::metrics;

impl<T: PortTypes> Sweep<'_, T> {
    /// Deals with a message if the sweep erases: it leaves all others as they are. Another sweep
    /// drops a message of a conversation that is erased. Returns the message otherwise.
    pub(super) async fn erase_or_leave(
        &mut self,
        message: DeadLetterMessage,
        receipt: ReceiptHandle,
        found: Option<&EventRecord>,
    ) -> Option<(DeadLetterMessage, ReceiptHandle)> {
        let (event, body) = (message.event(), &message.message.body);
        let Purpose::Erase(erasing) = &mut self.state.purpose else {
            let is_erased = found.is_some_and(|found| found.state == State::Erased);
            let erasures = &self.state.erasures;
            if is_erased || !event.is_some_and(|event| erasures.cover(event, message.sent_at)) {
                return Some((message, receipt));
            }
            // It waited in a queue of events when its conversation was erased, and SQS has moved it.
            self.erase(&message, receipt, found).await;
            return None;
        };
        match erasing.judge(&message.event_id, event, body, message.sent_at) {
            Verdict::Erase => self.erase(&message, receipt, found).await,
            Verdict::Leave => self.state.hold(receipt),
            Verdict::Unknown => {
                erasing.note_unknown();
                self.state.hold(receipt);
            }
        }
        None
    }

    /// Records that the event of a message is erased, deletes its kept body, and only then the
    /// message. A crash in between leaves the message, and the next run finds it.
    async fn erase(
        &mut self,
        message: &DeadLetterMessage,
        receipt: ReceiptHandle,
        found: Option<&EventRecord>,
    ) {
        if let Err(error) = self.erase_message(message, &receipt, found).await {
            let id = message.event_id.as_str();
            self.state.report.fail(Some(id), &display_chain(&error));
            self.state.cut_short = true;
            self.state.hold(receipt);
        }
    }

    async fn erase_message(
        &mut self,
        message: &DeadLetterMessage,
        receipt: &ReceiptHandle,
        found: Option<&EventRecord>,
    ) -> Result<(), ServiceError> {
        let (ports, run, id) = (self.ports, self.state.run, &message.event_id);
        let is_asked = if let Purpose::Erase(erasing) = &mut self.state.purpose {
            erasing.note(ports, run, std::slice::from_ref(id)).await?;
            true
        } else {
            false
        };
        tombstone(ports, run, id, found, |found, act| {
            let act = if is_asked {
                act
            } else {
                OperatorAction::of_erasure(act.at)
            };
            match message.event() {
                Some(event) => EventRecord::erased_event(event, found, act),
                None => EventRecord::erased(id, Source::Generic, message.received_at, found, act),
            }
        })
        .await?;
        let receipts = std::slice::from_ref(receipt);
        if let Some(Err(error)) = self.ports.dead_letters.delete(receipts).await.pop() {
            return Err(error);
        }
        if !is_asked {
            metrics::ERASED.add(1);
            let state = StateName::Erased;
            audit!("remove", run.requester, run = %run.id, event_id = %id, %state, "removed a copy");
            self.state.report.removed += 1;
        }
        Ok(())
    }
}
