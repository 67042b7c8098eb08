//! A fetched entry as the message that it becomes: an event for the queue, or a dead letter.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::domain::event::{Event, EventId, Identity, Source};
use crate::domain::event_record::{
    DeadLetterEvidence, DeadLetterStatus, EventRecord, OperatorAction, Transition,
};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::message::{MAX_MESSAGE_BYTES, Message};
use crate::domain::text::excerpt;
use crate::ports::delivery_log::{Failed, Unreadable};

/// A fetched event or unreadable entry, and its message. The relay may know it already.
pub(super) struct Candidate {
    pub(super) message: Message,
    pub(super) found: Found,
}

/// The part of a candidate that is recorded.
pub(super) struct Found {
    pub(super) event: Event,
    /// Cause of death, if it cannot be delivered.
    pub(super) reason: Option<Reason>,
    /// Name and outcome of the delivery.
    pub(super) note: String,
    /// The id that another body had first, where this one got an id of its own.
    pub(super) shared: Option<EventId>,
}

impl Candidate {
    /// An event that did not arrive. It has the id of the webhook itself, so that an event which
    /// did arrive is recognised.
    pub(super) fn of(failed: Failed, now: Timestamp) -> Self {
        let (identity, problem) = failed.identity(now);
        let Failed {
            delivery,
            entry: _,
            at,
            body,
            is_copy,
            content_type,
            headers,
            sender_key: _,
            note,
        } = failed;
        let note = excerpt(&format!("delivery {delivery}: {note}"));
        let received_at = at.unwrap_or(now);
        let Identity {
            id,
            source,
            webhook_id,
        } = identity;
        let event = Event {
            id,
            source,
            received_at,
            content_type,
            headers,
            body,
            webhook_id,
            is_copy,
        };
        let reason = problem.map(|problem| Reason::new(ReasonKind::Malformed, &problem, now));
        Self::fitting(event, reason, note, now)
    }

    /// Takes an id of its own, and returns it, where the table knows its id of another body.
    pub(super) fn tell_apart(
        &mut self,
        records: &BTreeMap<EventId, EventRecord>,
        now: Timestamp,
    ) -> Option<EventId> {
        let event = &mut self.found.event;
        let id = records.get(&event.id)?.other_event(event, now)?;
        self.found.shared = Some(std::mem::replace(&mut event.id, id.clone()));
        self.message = self.message.clone().named(&id);
        Some(id)
    }

    /// An unreadable entry, whole.
    pub(super) fn of_unreadable(unreadable: Unreadable, now: Timestamp) -> Self {
        let Unreadable {
            name,
            whole,
            problem,
            webhook_id,
        } = unreadable;
        let event = Event {
            id: EventId::of_fetched(&[name.as_bytes()]),
            source: Source::Generic,
            received_at: now,
            content_type: Some("application/json".to_owned()),
            headers: BTreeMap::new(),
            body: whole.into_bytes(),
            webhook_id,
            is_copy: false,
        };
        // Not by its name, which may be the whole of it.
        let note = excerpt(&problem);
        Self::fitting(
            event,
            Some(Reason::new(ReasonKind::Unreadable, &problem, now)),
            note,
            now,
        )
    }

    /// Turns an event that is too large for SQS into a dead letter with the beginning of its body.
    /// The dead letter has an id of its own: it must not pass for the event when it is replayed.
    fn fitting(event: Event, why: Option<Reason>, note: String, now: Timestamp) -> Self {
        let message = Message::from_event(event.clone());
        let size = message.size();
        if size <= MAX_MESSAGE_BYTES {
            let message = why.iter().fold(message, Message::with_reason);
            return Self {
                message,
                found: Found {
                    event,
                    reason: why,
                    note,
                    shared: None,
                },
            };
        }
        let problem = format!(
            "the event {} makes a message of {size} bytes, and at most {MAX_MESSAGE_BYTES} fit; the message holds its \
             beginning, and its record the whole, if that packs into 256 KiB",
            event.id
        );
        let why = Reason::new(ReasonKind::Unreadable, &problem, now);
        let beginning = excerpt(&String::from_utf8_lossy(&event.body)).into_bytes();
        let id = EventId::of_fetched(&[b"too large", event.id.as_str().as_bytes()]);
        let event = Event {
            id,
            headers: BTreeMap::new(),
            content_type: None,
            ..event
        };
        let message = Message::from_event(Event {
            body: beginning,
            ..event.clone()
        });
        let message = message.with_reason(&why);
        Self {
            message,
            found: Found {
                event,
                reason: Some(why),
                note,
                shared: None,
            },
        }
    }
}

impl Found {
    /// The step that records it as queued or dead. `forgotten` is its expired record, which the
    /// table may still hold.
    pub(super) fn step(
        &self,
        forgotten: Option<&EventRecord>,
        act: OperatorAction,
    ) -> Option<Transition> {
        let Some(reason) = &self.reason else {
            return Some(EventRecord::queued(&self.event, forgotten, act));
        };
        let letter = DeadLetterEvidence {
            event_id: &self.event.id,
            received_at: self.event.received_at,
            sent_at: act.at,
            reason: Some(reason),
            event: Some(&self.event),
            resend: None,
        };
        match DeadLetterStatus::of(&letter, forgotten, act.at) {
            DeadLetterStatus::Unrecorded(dead) => Some(dead.noted(act).transition().clone()),
            DeadLetterStatus::Dead(_)
            | DeadLetterStatus::Finished(_)
            | DeadLetterStatus::UnderWay => None,
        }
    }
}
