//! The transitions between the states of an [`EventRecord`], all of them.

mod bulk;
mod claim;
mod dead;
mod forget;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{
    Attempt, CHECK_LIFE, Death, EventRecord, LIFE, OperatorAction, State, StateName, Waiting,
};
use crate::domain::conversation::conversation_id;
use crate::domain::event::{Event, EventId, Source};
use crate::domain::failure::Reason;
use crate::domain::text::excerpt_of;

/// Upper bound on the attempts, and on the actions, that a record keeps.
const REMEMBERED: usize = 20;

/// Upper bound on the answer that an attempt keeps once it is not the newest, in bytes.
const OLD_RESPONSE_BYTES: usize = 256;

/// Upper bound on the kept webhook id, which must fit an index and an item.
const MAX_ORIGIN_BYTES: usize = 256;

pub use self::bulk::BulkReplay;
pub use self::claim::{Claim, ClaimRequest, ClaimResult, Finished};
pub(crate) use self::dead::restored;
pub use self::dead::{DeadLetterEvidence, DeadLetterStatus, DeadRecord};
pub use self::forget::{Forgetting, Unforgettable};

/// A conditional write from one state of an event to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub(crate) next: EventRecord,
    pub(crate) guard: Guard,
}

impl Transition {
    /// The record after the write.
    pub fn next(&self) -> &EventRecord {
        &self.next
    }

    /// The condition of the write.
    pub fn guard(&self) -> Guard {
        self.guard
    }
}

/// The condition of a [`Transition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// No record.
    Absent,
    /// The record of this revision.
    Unchanged(Uuid),
}

/// All transitions: from (`None` is no record), to, and their cause. The diagram in
/// `ARCHITECTURE.md` is made of it.
pub const TRANSITIONS: [(Option<StateName>, StateName, &str); 35] = {
    use StateName::{Archived, Dead, Delivered, Discarded, Erased, InProgress, Queued, Retrying};
    [
        (None, InProgress, "claim"),
        (None, Queued, "recover"),
        (Some(Queued), InProgress, "claim"),
        (Some(Retrying), InProgress, "claim when it is time"),
        (Some(InProgress), InProgress, "claim when the lease is over"),
        (Some(Dead), InProgress, "claim after a replay"),
        (Some(Archived), InProgress, "claim"),
        (Some(InProgress), Retrying, "failed"),
        (Some(InProgress), Delivered, "delivered"),
        (Some(InProgress), Dead, "refused, exhausted, crashed"),
        (None, Delivered, "delivered late"),
        (Some(Queued), Delivered, "delivered late"),
        (Some(Retrying), Delivered, "delivered late"),
        (Some(Dead), Delivered, "delivered late, discard of a resend"),
        (Some(Archived), Delivered, "delivered late"),
        (Some(Discarded), Delivered, "delivered late"),
        (Some(Delivered), Delivered, "body noted"),
        (Some(Discarded), Discarded, "body noted"),
        (None, Dead, "reconcile, restore"),
        (Some(Queued), Dead, "reconcile"),
        (Some(Retrying), Dead, "reconcile"),
        (Some(Archived), Dead, "restore, reconcile"),
        (Some(Dead), Dead, "replay, reconcile, restore"),
        (Some(Dead), Archived, "archive"),
        (Some(Dead), Discarded, "discard"),
        (Some(Delivered), InProgress, "claim after a resend"),
        (Some(Delivered), Dead, "reconcile after a resend"),
        (None, Erased, "erase"),
        (Some(Queued), Erased, "erase"),
        (Some(InProgress), Erased, "erase"),
        (Some(Retrying), Erased, "erase"),
        (Some(Delivered), Erased, "erase"),
        (Some(Dead), Erased, "erase"),
        (Some(Archived), Erased, "erase"),
        (Some(Discarded), Erased, "erase"),
    ]
};

impl EventRecord {
    /// Records an event that was fetched and sent to the queue: one without a record, or with an
    /// expired one (`forgotten`).
    ///
    /// It is written after the send. If the processor claimed the event first, the write is lost,
    /// as it should be.
    pub fn queued(event: &Event, forgotten: Option<&Self>, act: OperatorAction) -> Transition {
        let mut next = Self::of(event, State::Queued, act.at);
        next.remember_act(act);
        Transition {
            next,
            guard: unchanged(forgotten),
        }
    }

    /// Records that an event is erased, of which the table holds `found`. `None` if it is erased
    /// already.
    ///
    /// The record keeps what tells a late copy apart: the id and the digest of the body. All that a
    /// sender, the target or an operator wrote goes.
    pub fn erased(
        event_id: &EventId,
        source: Source,
        received_at: Timestamp,
        found: Option<&Self>,
        act: OperatorAction,
    ) -> Option<Transition> {
        let now = act.at;
        let Some(found) = found.filter(|found| !found.is_expired(now)) else {
            let mut next = Self::new(event_id, source, None, received_at, State::Erased, now);
            next.history.push(act);
            return Some(Transition {
                next,
                guard: unchanged(found),
            });
        };
        if found.state == State::Erased {
            return None;
        }
        let next = Self {
            digest: found.digest.clone(),
            first_seen_at: found.first_seen_at,
            history: vec![act],
            ..Self::new(
                event_id,
                found.source,
                None,
                found.received_at,
                State::Erased,
                now,
            )
        };
        Some(found.transition(next, State::Erased, now))
    }

    /// The same for an event that is there, so that a record without a digest takes its.
    pub fn erased_event(
        event: &Event,
        found: Option<&Self>,
        act: OperatorAction,
    ) -> Option<Transition> {
        let mut erased = Self::erased(&event.id, event.source, event.received_at, found, act)?;
        erased.next.digest = erased.next.digest.or_else(|| event.digest());
        Some(erased)
    }

    /// A new record of an event.
    fn of(event: &Event, state: State, now: Timestamp) -> Self {
        Self {
            digest: event.digest(),
            conversation_id: conversation_id(event),
            ..Self::new(
                &event.id,
                event.source,
                event.webhook_id.as_deref(),
                event.received_at,
                state,
                now,
            )
        }
    }

    fn new(
        event_id: &EventId,
        source: Source,
        webhook_id: Option<&str>,
        received_at: Timestamp,
        state: State,
        now: Timestamp,
    ) -> Self {
        Self {
            event_id: event_id.clone(),
            revision: Uuid::new_v4(),
            state,
            source,
            webhook_id: webhook_id.map(|webhook_id| excerpt_of(webhook_id, MAX_ORIGIN_BYTES)),
            conversation_id: None,
            received_at,
            digest: None,
            first_seen_at: now,
            last_seen_at: now,
            attempts_made: 0,
            attempts_since_claim: 0,
            replays_made: 0,
            attempts: Vec::new(),
            history: Vec::new(),
            context: None,
            waiting: None,
            resent: Vec::new(),
            resend: None,
            expires_at: now + life(source),
        }
    }

    /// From this record to `next`, in `state`.
    fn transition(&self, next: Self, state: State, now: Timestamp) -> Transition {
        debug_assert!(
            TRANSITIONS
                .iter()
                .any(|(from, to, _)| *from == Some(self.state.name()) && *to == state.name()),
            "{} to {} is no transition",
            self.state.name(),
            state.name()
        );
        let waiting = match state {
            State::InProgress(_) | State::Retrying { .. } => next.waiting,
            State::Queued
            | State::Delivered
            | State::Dead(_)
            | State::Archived { .. }
            | State::Discarded(_)
            | State::Erased => None,
        };
        let next = Self {
            revision: Uuid::new_v4(),
            waiting,
            state,
            last_seen_at: now,
            expires_at: now + life(next.source),
            ..next
        };
        Transition {
            next,
            guard: Guard::Unchanged(self.revision),
        }
    }

    fn leave_the_dead(&mut self) {
        self.replays_made += 1;
        self.attempts_since_claim = 0;
    }

    fn remember_attempt(&mut self, attempt: Attempt) {
        if let Some(response) = self
            .attempts
            .last_mut()
            .and_then(|newest| newest.response.as_mut())
        {
            *response = excerpt_of(response, OLD_RESPONSE_BYTES);
        }
        self.attempts.push(attempt);
        let forgotten = self.attempts.len().saturating_sub(REMEMBERED);
        self.attempts.drain(..forgotten);
    }

    /// Notes that a conversation waits for the event since this time or longer, or that none does.
    fn wait_since(&mut self, since: Timestamp, conversation: Option<&str>) {
        let before = self.waiting.take();
        self.waiting = conversation.map(|conversation| Waiting {
            conversation: conversation.to_owned(),
            failing_since: before.as_ref().and_then(|waiting| waiting.failing_since),
            since: before.map_or(since, |waiting| waiting.since),
        });
    }

    /// Notes since when the event or the target is the reason that a conversation waits, or that it
    /// is not.
    fn fail_since(&mut self, since: Option<Timestamp>) {
        if let Some(waiting) = &mut self.waiting {
            waiting.failing_since = since.map(|since| waiting.failing_since.unwrap_or(since));
        }
    }

    fn remember_act(&mut self, act: OperatorAction) {
        self.history.push(act);
        let forgotten = self.history.len().saturating_sub(REMEMBERED);
        self.history.drain(..forgotten);
    }
}

impl From<Reason> for Death {
    fn from(reason: Reason) -> Self {
        Self {
            reason: reason.reason,
            error: reason.detail,
            status_code: reason.status_code,
            dead_at: reason.at,
        }
    }
}

/// The lifetime of a record after its last change.
fn life(source: Source) -> SignedDuration {
    match source {
        Source::OpenMessaging | Source::Webhook | Source::EventBridge | Source::Generic => LIFE,
        Source::Check => CHECK_LIFE,
    }
}

fn unchanged(found: Option<&EventRecord>) -> Guard {
    found.map_or(Guard::Absent, |found| Guard::Unchanged(found.revision))
}

/// The attempt of a worker that claimed at `since` and recorded nothing.
fn crashed(since: Timestamp) -> Attempt {
    Attempt {
        at: since,
        duration_ms: None,
        status: None,
        error: Some("the processor ended before it could record this attempt".to_owned()),
        response: None,
    }
}
