//! A message of the dead-letter queue in a run's hands.

use jiff::Timestamp;

use crate::domain::event::{Event, EventId};
use crate::domain::event_record::{DeadLetterEvidence, DeadRecord, EventRecord};
use crate::domain::failure::Reason;
use crate::domain::message::{Message, Stamp};
use crate::ports::archive::{Archived, ArchivedAttribute};
use crate::ports::queue::{ReceiptHandle, ReceivedMessage};

/// A dead letter, as far as it can be read.
pub(in crate::dead_letters) struct Opened {
    pub(in crate::dead_letters) event_id: EventId,
    pub(super) received_at: Timestamp,
    /// Nothing where the message is none.
    event: Option<Event>,
    pub(in crate::dead_letters) reason: Option<Reason>,
    pub(in crate::dead_letters) message: Message,
    pub(super) receipt: ReceiptHandle,
    pub(super) sent_at: Timestamp,
}

impl From<ReceivedMessage> for Opened {
    fn from(received: ReceivedMessage) -> Self {
        let ReceivedMessage { message, receipt, sent_at, message_id, .. } = received;
        Self::new(message, receipt, Stamp { sent_at, message_id: Some(&message_id) })
    }
}

impl Opened {
    pub(in crate::dead_letters) fn new(message: Message, receipt: ReceiptHandle, stamp: Stamp<'_>) -> Self {
        let sent_at = stamp.sent_at;
        let event = message.to_event(stamp).ok();
        let (event_id, received_at) = match &event {
            Some(event) => (event.id.clone(), event.received_at),
            None => message.identity(stamp),
        };
        Self { event_id, received_at, event, reason: message.reason(sent_at), message, receipt, sent_at }
    }

    /// The same under this id, which it had where it was read before.
    pub(in crate::dead_letters) fn under(self, id: &EventId) -> Self {
        if self.event_id == *id {
            return self;
        }
        let (message, reason) = (self.message.named(id), self.reason);
        Self { reason, ..Self::new(message, self.receipt, self.sent_at.into()) }
    }

    /// Takes an id of its own if another body had its id first, of which the table holds `found`. Returns the one it had.
    pub(in crate::dead_letters) fn tell_apart(
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

    pub(in crate::dead_letters) fn letter(&self) -> DeadLetterEvidence<'_> {
        DeadLetterEvidence {
            event_id: &self.event_id,
            received_at: self.received_at,
            sent_at: self.sent_at,
            reason: self.reason.as_ref(),
            event: self.event.as_ref(),
        }
    }

    /// The body as it came to the relay, or as SQS has it.
    pub(in crate::dead_letters) fn body(&self) -> &[u8] {
        self.event.as_ref().map_or(self.message.body.as_bytes(), |event| &event.body)
    }
}

/// A dead letter that a run acts on.
pub(in crate::dead_letters) struct Taken {
    pub(super) message: Message,
    pub(super) receipt: ReceiptHandle,
    pub(super) sent_at: Timestamp,
    pub(super) dead: DeadRecord,
}

impl Taken {
    pub(super) fn event_id(&self) -> &str {
        self.dead.record().event_id.as_str()
    }

    /// As the archive has it.
    pub(super) fn archived(&self, now: Timestamp) -> Archived {
        let record = self.dead.record();
        let attributes = &self.message.attributes;
        Archived {
            event_id: record.event_id.clone(),
            archived_at: now,
            sent_at: self.sent_at,
            reason: self.dead.death().clone().into(),
            body: self.message.body.clone(),
            attributes: attributes.iter().map(|(name, value)| (name.clone(), ArchivedAttribute::of(value))).collect(),
            group: self.message.group.clone(),
        }
    }
}
