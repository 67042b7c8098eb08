//! A message of the dead-letter queue in a run's hands.

use jiff::Timestamp;

use crate::archive::{Archived, ArchivedAttribute};
use crate::event::{Event, EventId};
use crate::message::Message;
use crate::queue::ReceiptHandle;
use crate::reason::Reason;
use crate::record::{DeadRecord, Letter};

/// A dead letter, as far as it can be read.
pub(in crate::replay) struct Opened {
    pub(in crate::replay) event_id: EventId,
    pub(super) received_at: Timestamp,
    /// Nothing where the message is none.
    event: Option<Event>,
    pub(in crate::replay) reason: Option<Reason>,
    pub(super) message: Message,
    pub(super) receipt: ReceiptHandle,
    pub(super) sent_at: Timestamp,
}

impl Opened {
    pub(in crate::replay) fn new(message: Message, receipt: ReceiptHandle, sent_at: Timestamp) -> Self {
        let event = message.to_event(sent_at).ok();
        let (event_id, received_at) = match &event {
            Some(event) => (event.id.clone(), event.received_at),
            None => message.identity(sent_at),
        };
        Self { event_id, received_at, event, reason: message.reason(sent_at), message, receipt, sent_at }
    }

    pub(in crate::replay) fn letter(&self) -> Letter<'_> {
        Letter {
            event_id: &self.event_id,
            received_at: self.received_at,
            sent_at: self.sent_at,
            reason: self.reason.as_ref(),
            event: self.event.as_ref(),
        }
    }

    /// The body as it came to the relay, or as SQS has it.
    pub(in crate::replay) fn body(&self) -> &[u8] {
        self.event.as_ref().map_or(self.message.body.as_bytes(), |event| &event.body)
    }
}

/// A dead letter that a run acts on.
pub(in crate::replay) struct Taken {
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
