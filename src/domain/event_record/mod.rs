//! The life of one event as the events table keeps it: its states, and the transitions between
//! them.
//!
//! An [`EventRecord`] cannot be made or changed from outside. The table writes a [`Transition`]
//! only, and only `transition` makes those: a transition that is not in [`TRANSITIONS`] cannot be
//! written.

#[cfg(test)]
mod tests;
mod transition;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::domain::event::{BodyDigest, Event, EventId, Source};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::json::Json;
use crate::domain::text::excerpt_of;

pub(crate) use self::transition::restored;
pub use self::transition::{
    BulkReplay, Claim, ClaimRequest, ClaimResult, DeadLetterEvidence, DeadLetterStatus, DeadRecord,
    Finished, Forgetting, Guard, TRANSITIONS, Transition, Unforgettable,
};

/// The lifetime of a record after its last change: one day longer than SQS keeps a dead letter.
pub const LIFE: SignedDuration = SignedDuration::from_hours(15 * 24);

/// The lifetime of the record of a check event.
pub const CHECK_LIFE: SignedDuration = SignedDuration::from_hours(1);

/// Upper bound on the kept headers. API Gateway accepts 10 KiB; a message that was sent by hand has
/// no bound.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Upper bound on names from a body.
const MAX_NAME_BYTES: usize = 256;

/// Replays of an event before an operator must use `force`.
pub const REPLAY_CEILING: u32 = 5;

/// The delivery record of one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event's id.
    pub event_id: EventId,
    /// A value that differs after every write. The revision of a claim is its owner.
    pub(crate) revision: Uuid,
    #[serde(flatten)]
    pub state: State,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(rename = "origin", default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// The [conversation](crate::domain::conversation::conversation_id) that it tells of. The index
    /// of conversations has the records with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// The time at which the relay first received it.
    #[serde(serialize_with = "fixed_width")]
    pub received_at: Timestamp,
    /// The digest of its body, unless the id covers the body. Absent until a body with a digest has
    /// come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<BodyDigest>,
    /// The time at which this record was created.
    pub first_seen_at: Timestamp,
    /// The time of the last write.
    pub last_seen_at: Timestamp,
    /// Attempts at the event, all in all.
    pub attempts_made: u32,
    /// Attempts since it was last claimed from nothing, from the dead letters or from the archive.
    #[serde(rename = "round")]
    pub attempts_since_claim: u32,
    pub replays_made: u32,
    /// The newest ended attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// Actions of operators, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<OperatorAction>,
    /// Details for operators, kept once the event has died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// Set while later events of its conversation wait for this one, which failed and is retried in
    /// its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Names of the resends that have delivered it, or were discarded, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resent: Vec<String>,
    /// The name of the resend that delivers it. Set from its claim until it is delivered: the event
    /// was delivered before, and only a message of a resend may deliver it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend: Option<String>,
    /// The time to live. DynamoDB deletes late, so this is compared wherever a record is read.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Fetched from Genesys Cloud, sent to the queue and not claimed yet.
    Queued,
    /// Claimed: a worker is delivering it.
    InProgress(DeliveryLease),
    /// The last attempt failed, and a retry will come.
    Retrying {
        /// The earliest time of the retry.
        #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
        next_attempt_at: Timestamp,
    },
    /// The target has it.
    Delivered,
    /// In the dead-letter queue, or on its way there or back.
    Dead(Dead),
    /// In the archive.
    Archived {
        /// The reason of its death.
        #[serde(flatten)]
        death: Death,
        /// The object that holds it.
        archived_to: String,
    },
    /// Discarded by an operator.
    Discarded(Death),
    /// Erased: the record knows the event by its id and digest, and nothing of its content.
    Erased,
}

/// The right to deliver an event until a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryLease {
    /// The end of the lease. The function that holds it has ended by then.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub lease_until: Timestamp,
    /// True at the last receive: if this lease ends with nothing recorded, the event is dead.
    pub last: bool,
    /// True if the event was claimed in its place in the order of its conversation.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ordered: bool,
}

/// Writes a time so that the texts of times are in their order, as an index has them.
fn fixed_width<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The reason and time of an event's death, as the table holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The kind of reason.
    pub reason: ReasonKind,
    /// A description for operators.
    pub error: String,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The time of death.
    pub dead_at: Timestamp,
}

/// A dead event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dead {
    /// The reason and time.
    #[serde(flatten)]
    pub death: Death,
    /// The message that the relay moves itself; SQS moves all others. If it comes again, it is only
    /// moved again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The time of the last replay. The event stays dead until it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// True if its message is believed to be in the dead-letter queue; lists show it then.
    #[serde(default)]
    pub listed: bool,
}

/// One ended attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The time of its end.
    pub at: Timestamp,
    /// The duration of the delivery, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the target's answer: 1 KiB of the newest, 256 bytes of those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// An action of an operator or a schedule on an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorAction {
    /// `replay`, `archive`, `restore`, `discard`, `reconcile` or `recover`.
    pub action: String,
    /// The time of the action.
    pub at: Timestamp,
    /// The name.
    pub by: String,
    /// The reason, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl OperatorAction {
    /// The erasure of the event's conversation, which also covers what is found later.
    pub(crate) fn of_erasure(at: Timestamp) -> Self {
        Self {
            action: "erase".to_owned(),
            at,
            by: "erasure of its conversation".to_owned(),
            why: None,
        }
    }
}

/// A conversation that waits for one of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The [`ConversationKey`](crate::domain::conversation::ConversationKey).
    pub conversation: String,
    /// The end of the first attempt that failed.
    pub since: Timestamp,
    /// The same without failures of the relay's own credentials, after each of which it begins again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
}

/// Details of a dead event for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The webhook's name, where the body gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_name: Option<String>,
    /// The target's address; absent without an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The `Content-Type` it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The request headers that were kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Context {
    /// Reads the details from an event that goes to `target`.
    pub fn of(event: &Event, target: Option<String>) -> Self {
        let body = Json::parse(&event.body).ok();
        let name = body.and_then(|body| {
            let name = body.as_object()?.get("webhookName")?;
            name.as_str().map(|name| excerpt_of(&name, MAX_NAME_BYTES))
        });
        let mut room = MAX_HEADER_BYTES;
        let mut fits = |name: &str, value: &str| {
            let left = room.checked_sub(name.len() + value.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        Self {
            webhook_name: name,
            target,
            content_type: event
                .content_type
                .as_deref()
                .map(|text| excerpt_of(text, MAX_NAME_BYTES)),
            headers: event
                .headers
                .clone()
                .into_iter()
                .filter(|(name, value)| fits(name, value))
                .collect(),
        }
    }
}

/// The part of a record that the dead-letter index holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The event's id.
    pub event_id: EventId,
    /// The state of the event.
    #[serde(flatten)]
    pub state: State,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(rename = "origin", default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// The time at which the relay first received it.
    #[serde(serialize_with = "fixed_width")]
    pub received_at: Timestamp,
    /// Attempts at the event, all in all.
    pub attempts_made: u32,
    /// Replays of the event.
    pub replays_made: u32,
    /// The time to live.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub expires_at: Timestamp,
}

/// The name of a [`State`], as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StateName {
    Queued,
    InProgress,
    Retrying,
    Delivered,
    Dead,
    Archived,
    Discarded,
    Erased,
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl StateName {
    /// The name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Retrying => "RETRYING",
            Self::Delivered => "DELIVERED",
            Self::Dead => "DEAD",
            Self::Archived => "ARCHIVED",
            Self::Discarded => "DISCARDED",
            Self::Erased => "ERASED",
        }
    }
}

impl State {
    pub fn name(&self) -> StateName {
        match self {
            Self::Queued => StateName::Queued,
            Self::InProgress(_) => StateName::InProgress,
            Self::Retrying { .. } => StateName::Retrying,
            Self::Delivered => StateName::Delivered,
            Self::Dead(_) => StateName::Dead,
            Self::Archived { .. } => StateName::Archived,
            Self::Discarded(_) => StateName::Discarded,
            Self::Erased => StateName::Erased,
        }
    }

    /// The death of the event, if it is dead.
    ///
    /// An expired lease on the last attempt is a death too: its worker crashed.
    pub fn death(&self, now: Timestamp) -> Option<Death> {
        match self {
            Self::Dead(dead) => Some(dead.death.clone()),
            Self::InProgress(lease) if lease.last && lease.lease_until <= now => Some(Death {
                reason: ReasonKind::Crashed,
                error:
                    "the processor ended during the last attempt, or could not record its outcome"
                        .to_owned(),
                status_code: None,
                dead_at: lease.lease_until,
            }),
            Self::InProgress(_)
            | Self::Queued
            | Self::Retrying { .. }
            | Self::Delivered
            | Self::Archived { .. }
            | Self::Discarded(_)
            | Self::Erased => None,
        }
    }

    /// Returns whether an operator may still need the body: not after a delivery, an archive, a
    /// discard or an erasure.
    pub fn may_need_body(&self) -> bool {
        match self {
            Self::Queued | Self::InProgress(_) | Self::Retrying { .. } | Self::Dead(_) => true,
            Self::Delivered | Self::Archived { .. } | Self::Discarded(_) | Self::Erased => false,
        }
    }

    /// Returns whether the dead-letter index holds the record.
    pub fn is_indexed(&self) -> bool {
        match self {
            Self::Dead(dead) => dead.listed,
            Self::InProgress(lease) => lease.last,
            Self::Queued
            | Self::Retrying { .. }
            | Self::Delivered
            | Self::Archived { .. }
            | Self::Discarded(_)
            | Self::Erased => false,
        }
    }

    /// Returns whether no message may deliver the event any more, but one of a resend.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Delivered | Self::Discarded(_) | Self::Erased)
    }
}

impl EventRecord {
    /// Returns whether the record counts as deleted, although DynamoDB still has it.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// The id for an event that has this record's id and another body; `None` if it is the same
    /// event.
    ///
    /// A record of an older version, or of a copy that the recovery fetched, has no digest and
    /// matches any body.
    pub fn other_event(&self, event: &Event, now: Timestamp) -> Option<EventId> {
        let own = self.digest.as_ref().filter(|_| !self.is_expired(now))?;
        event
            .digest()
            .filter(|digest| digest != own)
            .map(|digest| self.event_id.with_body(&digest))
    }

    /// Returns whether a body may be kept that is not needed: the event was dead, and is delivered,
    /// discarded or archived; or it was erased, which leaves no trace of a death.
    pub fn has_surplus_body(&self) -> bool {
        (self.context.is_some() || self.state == State::Erased) && !self.state.may_need_body()
    }

    /// The part that the index holds.
    pub fn summary(&self) -> Summary {
        let state = match self.state.clone() {
            // These are not projected.
            State::Dead(dead) => State::Dead(Dead {
                message_id: None,
                listed: false,
                ..dead
            }),
            state => state,
        };
        Summary {
            event_id: self.event_id.clone(),
            state,
            source: self.source,
            webhook_id: self.webhook_id.clone(),
            received_at: self.received_at,
            attempts_made: self.attempts_made,
            replays_made: self.replays_made,
            expires_at: self.expires_at,
        }
    }
}

impl From<Death> for Reason {
    fn from(death: Death) -> Self {
        let Death {
            reason,
            error,
            status_code,
            dead_at,
        } = death;
        Self {
            detail: error,
            status_code,
            ..Self::new(reason, "", dead_at)
        }
    }
}
