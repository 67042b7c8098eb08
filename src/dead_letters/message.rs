//! A message of the dead-letter queue, on its way from there to its next place.

use jiff::Timestamp;

use crate::domain::event::{Event, EventId};
use crate::domain::event_record::{DeadLetterEvidence, DeadRecord, EventRecord};
use crate::domain::failure::Reason;
use crate::domain::message::{Message, Stamp};
use crate::domain::resend::Resend;
use crate::ports::archive::Archived;
use crate::ports::queue::{ReceiptHandle, ReceivedMessage};

/// A message of the dead-letter queue, read as far as possible.
pub(super) struct DeadLetterMessage {
    pub(super) event_id: EventId,
    pub(super) received_at: Timestamp,
    /// The event; `None` where the body or an attribute is unreadable.
    event: Option<Event>,
    pub(super) reason: Option<Reason>,
    /// The run that sends the event once more, if the message is of one.
    resend: Option<Resend>,
    pub(super) message: Message,
    /// Time at which SQS took the message.
    pub(super) sent_at: Timestamp,
}

impl DeadLetterMessage {
    /// Reads a received message. The receipt stays apart: only the run that received the message
    /// has one.
    pub(super) fn open(received: ReceivedMessage) -> (Self, ReceiptHandle) {
        let ReceivedMessage {
            message,
            receipt,
            sent_at,
            message_id,
            ..
        } = received;
        (
            Self::new(
                message,
                Stamp {
                    sent_at,
                    message_id: Some(&message_id),
                },
            ),
            receipt,
        )
    }

    pub(super) fn new(message: Message, stamp: Stamp<'_>) -> Self {
        let sent_at = stamp.sent_at;
        let event = message.to_event(stamp).ok();
        let (event_id, received_at) = match &event {
            Some(event) => (event.id.clone(), event.received_at),
            None => message.identity(stamp),
        };
        Self {
            event_id,
            received_at,
            event,
            reason: message.reason(sent_at),
            // An unreadable mark makes the message unreadable: the processor says so.
            resend: message.resend().ok().flatten(),
            message,
            sent_at,
        }
    }

    /// The event, where one can be read from the message.
    pub(super) fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// Keeps the id under which the message was read before.
    pub(super) fn under(self, id: &EventId) -> Self {
        if self.event_id == *id {
            return self;
        }
        let (message, reason) = (self.message.named(id), self.reason);
        Self {
            reason,
            ..Self::new(message, self.sent_at.into())
        }
    }

    /// Takes an id of its own if the record `found` shows that its id belongs to another body.
    /// Returns the id it had.
    pub(super) fn tell_apart(
        &mut self,
        found: Option<&EventRecord>,
        now: Timestamp,
    ) -> Option<EventId> {
        let event = self.event.as_mut()?;
        let id = found?.other_event(event, now)?;
        event.id = id.clone();
        self.message = self.message.clone().named(&id);
        Some(std::mem::replace(&mut self.event_id, id))
    }

    /// The message as the event's record is compared with it.
    pub(super) fn evidence(&self) -> DeadLetterEvidence<'_> {
        DeadLetterEvidence {
            event_id: &self.event_id,
            received_at: self.received_at,
            sent_at: self.sent_at,
            reason: self.reason.as_ref(),
            event: self.event.as_ref(),
            resend: self.resend.as_ref().map(|resend| resend.run.as_str()),
        }
    }

    /// The body as the relay received it, or as SQS has it.
    pub(super) fn body(&self) -> &[u8] {
        self.event
            .as_ref()
            .map_or(self.message.body.as_bytes(), |event| &event.body)
    }

    /// The message as it goes back into the events queue, under the id of its record.
    pub(super) fn as_replayed(&self, record: &EventRecord) -> Message {
        self.message
            .clone()
            .without_reason()
            .with_identity(self.sent_at)
            .named(&record.event_id)
    }

    /// The message as the journal keeps it, of an event that was delivered; `None` for a resend.
    pub(super) fn as_delivered(&self) -> Option<Message> {
        let message = self.message.clone().without_reason();
        let message = message.with_identity(self.sent_at).named(&self.event_id);
        self.resend.is_none().then_some(message)
    }

    /// The message as the archive keeps it.
    pub(super) fn as_archived(&self, dead: &DeadRecord, now: Timestamp) -> Archived {
        let (id, death) = (dead.record().event_id.clone(), dead.death().clone());
        Archived::of(&self.message, id, self.sent_at, Some(death.into()), now)
    }
}
