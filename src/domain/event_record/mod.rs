//! The life of one event as the events table keeps it: its states, and the only steps between them.
//!
//! Nobody outside can make a [`EventRecord`] or change one. The table takes a [`Transition`] only, and only `step.rs` makes
//! those: a step that is not in [`STEPS`] cannot be written.

mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::event::{BodyDigest, Event, EventId, Source};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::json::Json;
use crate::domain::text::excerpt_of;

pub(crate) use self::step::restored;
pub use self::step::{
    BulkReplay, Claim, ClaimRequest, ClaimResult, DeadLetterStatus, DeadRecord, Finished, Guard, Letter, STEPS,
    Transition,
};

/// How long a record lives after its last change: one day longer than SQS keeps a dead letter.
pub const LIFE: SignedDuration = SignedDuration::from_hours(15 * 24);

/// Where bodies name their conversation, the commonest first.
const CONVERSATIONS: [&[&str]; 3] =
    [&["conversationId"], &["payload", "conversationId"], &["detail", "eventBody", "conversationId"]];

/// Headers are kept up to this size. API Gateway lets 10 KiB through; a message that somebody sent by hand has no bound.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Names from a body are kept up to this length.
const MAX_NAME_BYTES: usize = 256;

/// How often an event leaves the dead letters before an operator has to insist.
pub const REPLAY_CEILING: u32 = 5;

/// What is known of one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event's id.
    pub event_id: EventId,
    /// Differs after every write. That of a claim is its owner.
    pub(crate) revision: Uuid,
    /// Where the event stands.
    #[serde(flatten)]
    pub state: State,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(rename = "origin", default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// When the relay first received it.
    pub received_at: Timestamp,
    /// The digest of its body, where the id alone does not tell that. Absent before a body has come that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<BodyDigest>,
    /// When this record was begun.
    pub first_seen_at: Timestamp,
    /// When it was last written.
    pub last_seen_at: Timestamp,
    /// Attempts in the event's whole life.
    pub attempts_made: u32,
    /// Attempts since it was last claimed from nothing, from the dead letters or from the archive.
    #[serde(rename = "round")]
    pub attempts_since_claim: u32,
    /// How often it has left the dead letters.
    pub replays_made: u32,
    /// The newest attempts that have ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What operators did, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<OperatorAction>,
    /// What an operator needs to know beside; kept from the first death on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// When it is forgotten. DynamoDB deletes late, so this is compared wherever a record is read.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub expires_at: Timestamp,
}

/// Where an event stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Fetched from Genesys Cloud and sent into the queue. Nobody has claimed it yet.
    Queued,
    /// Somebody is delivering it.
    InProgress(DeliveryLease),
    /// The last attempt failed, and another will come.
    Retrying {
        /// Not before this time.
        #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
        next_attempt_at: Timestamp,
    },
    /// The target has it.
    Delivered,
    /// It lies in the dead-letter queue, or is on its way there or back.
    Dead(Dead),
    /// It lies in the archive.
    Archived {
        /// Why it had died.
        #[serde(flatten)]
        death: Death,
        /// The object that holds it.
        archived_to: String,
    },
    /// Somebody decided that it is not needed.
    Discarded(Death),
}

/// The right to deliver an event, for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryLease {
    /// When it ends by itself. The function that holds it has ended by then.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub lease_until: Timestamp,
    /// Whether SQS hands the message out for the last time: when this lease ends without a word, the event is dead.
    pub last: bool,
}

/// Why and when an event died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The kind of reason.
    pub reason: ReasonKind,
    /// What happened, for a person to read.
    pub error: String,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// When it died.
    pub dead_at: Timestamp,
}

/// A dead event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dead {
    /// Why and when.
    #[serde(flatten)]
    pub death: Death,
    /// The message that we are to move ourselves; SQS moves all others. Brought again, it is only moved again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// When it was last sent back into the queue. It stays dead until somebody claims it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// Whether its message is believed to lie in the dead-letter queue, so that lists show it.
    #[serde(default)]
    pub listed: bool,
}

/// One attempt to deliver, after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// How long the delivery took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The target's HTTP status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of the target's answer: 1 KiB of the newest, 256 bytes of those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// What an operator, or a schedule, did with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorAction {
    /// `replay`, `archive`, `restore`, `discard`, `reconcile` or `recover`.
    pub action: String,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Why, as far as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What else an operator needs to know of a dead event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The webhook's name, where the body gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_name: Option<String>,
    /// The conversation, where the body names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Where it was to be delivered; unknown for what never came so far.
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
    /// What `event` tells, which goes to `target`.
    pub fn of(event: &Event, target: Option<String>) -> Self {
        let body = Json::parse(&event.body).ok();
        let text = |path: &[&str]| {
            let mut value = body?;
            for name in path {
                value = value.as_object()?.get(name)?;
            }
            value.as_str().map(|text| excerpt_of(&text, MAX_NAME_BYTES))
        };
        let mut room = MAX_HEADER_BYTES;
        let mut fits = |name: &str, value: &str| {
            let left = room.checked_sub(name.len() + value.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        Self {
            webhook_name: text(&["webhookName"]),
            conversation_id: CONVERSATIONS.into_iter().find_map(text),
            target,
            content_type: event.content_type.as_deref().map(|text| excerpt_of(text, MAX_NAME_BYTES)),
            headers: event.headers.clone().into_iter().filter(|(name, value)| fits(name, value)).collect(),
        }
    }
}

/// What the dead-letter index holds of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The event's id.
    pub event_id: EventId,
    /// Where the event stands.
    #[serde(flatten)]
    pub state: State,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(rename = "origin", default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// When the relay first received it.
    pub received_at: Timestamp,
    /// Attempts in the event's whole life.
    pub attempts_made: u32,
    /// How often it has left the dead letters.
    pub replays_made: u32,
    /// When it is forgotten.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub expires_at: Timestamp,
}

/// The name of a [`State`], as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "those of the states")]
pub enum StateName {
    Queued,
    InProgress,
    Retrying,
    Delivered,
    Dead,
    Archived,
    Discarded,
}

impl fmt::Display for StateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl StateName {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Retrying => "RETRYING",
            Self::Delivered => "DELIVERED",
            Self::Dead => "DEAD",
            Self::Archived => "ARCHIVED",
            Self::Discarded => "DISCARDED",
        }
    }
}

impl State {
    /// Its name.
    pub fn name(&self) -> StateName {
        match self {
            Self::Queued => StateName::Queued,
            Self::InProgress(_) => StateName::InProgress,
            Self::Retrying { .. } => StateName::Retrying,
            Self::Delivered => StateName::Delivered,
            Self::Dead(_) => StateName::Dead,
            Self::Archived { .. } => StateName::Archived,
            Self::Discarded(_) => StateName::Discarded,
        }
    }

    /// Why the event is dead, if it is.
    ///
    /// A lease on the last attempt that has run out is a death as well: whoever held it crashed.
    pub fn death(&self, now: Timestamp) -> Option<Death> {
        match self {
            Self::Dead(dead) => Some(dead.death.clone()),
            Self::InProgress(lease) if lease.last && lease.lease_until <= now => Some(Death {
                reason: ReasonKind::Crashed,
                error: "the processor ended during the last attempt, or could not record how it went".to_owned(),
                status_code: None,
                dead_at: lease.lease_until,
            }),
            Self::InProgress(_)
            | Self::Queued
            | Self::Retrying { .. }
            | Self::Delivered
            | Self::Archived { .. }
            | Self::Discarded(_) => None,
        }
    }

    /// Whether an operator may still need the body: not where the target or the archive has it, or somebody has dropped it.
    pub fn may_need_body(&self) -> bool {
        match self {
            Self::Queued | Self::InProgress(_) | Self::Retrying { .. } | Self::Dead(_) => true,
            Self::Delivered | Self::Archived { .. } | Self::Discarded(_) => false,
        }
    }

    /// Whether the dead-letter index holds the record.
    pub fn is_indexed(&self) -> bool {
        match self {
            Self::Dead(dead) => dead.listed,
            Self::InProgress(lease) => lease.last,
            Self::Queued | Self::Retrying { .. } | Self::Delivered | Self::Archived { .. } | Self::Discarded(_) => {
                false
            }
        }
    }
}

impl EventRecord {
    /// Whether it has to be taken for forgotten, although DynamoDB still has it.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// Whether an event that has this record's id is another one, since its body is: the id that it has then.
    ///
    /// A record of an older version, or of a copy that the recovery fetched, has no digest, and is of any body.
    pub fn other_event(&self, event: &Event, now: Timestamp) -> Option<EventId> {
        let own = self.digest.as_ref().filter(|_| !self.is_expired(now))?;
        event.digest().filter(|digest| digest != own).map(|digest| self.event_id.with_body(&digest))
    }

    /// Whether nobody needs its body any more, and one may still be kept: it was dead, and is delivered, discarded or archived.
    pub fn has_surplus_body(&self) -> bool {
        self.context.is_some() && !self.state.may_need_body()
    }

    /// What the index holds of it.
    pub fn summary(&self) -> Summary {
        let state = match self.state.clone() {
            // These are not projected.
            State::Dead(dead) => State::Dead(Dead { message_id: None, listed: false, ..dead }),
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
        let Death { reason, error, status_code, dead_at } = death;
        Self { reason, detail: error, status_code, response: None, attempt: None, at: dead_at }
    }
}
