//! Dead letters as an operator reads them: a line in a list, and all that is known of one event.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::event::{EventId, Source};
use crate::domain::event_record::{
    Attempt, BulkReplay, Death, EventRecord, OperatorAction, State, StateName, Summary, Waiting,
};
use crate::domain::failure::ReasonKind;

/// The message of an event reaches the dead-letter queue within this time of its death: until then
/// the visibility timeout of the events queue hides it, for at most 12 minutes.
pub(in crate::dead_letters) const ARRIVES_WITHIN: SignedDuration = SignedDuration::from_mins(15);

/// Dead letter in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub event_id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// Kind of reason for its death.
    pub reason: ReasonKind,
    /// Error, for a person to read.
    pub error: String,
    /// HTTP status of the target, if it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Time at which the relay received it.
    pub received_at: Timestamp,
    /// Time of its death.
    pub dead_at: Timestamp,
    /// Attempts in its whole life.
    pub attempts: u32,
    /// Number of times it has left the dead letters.
    pub replays: u32,
    /// Time at which it was last sent back into the queue, if no worker has claimed it since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// True if its record says that it is dead. A crash is not recorded.
    #[serde(skip)]
    pub is_recorded: bool,
}

impl DeadLetter {
    /// Reads an entry of the index, if its event is dead by now.
    pub(in crate::dead_letters) fn of(summary: Summary, now: Timestamp) -> Option<Self> {
        let Death {
            reason,
            error,
            status_code,
            dead_at,
        } = summary
            .state
            .death(now)
            .filter(|_| summary.expires_at > now)?;
        let (replayed_at, is_recorded) = match summary.state {
            State::Dead(dead) => (dead.replayed_at, true),
            _ => (None, false),
        };
        Some(Self {
            event_id: summary.event_id,
            source: summary.source,
            webhook_id: summary.webhook_id,
            reason,
            error,
            status_code,
            received_at: summary.received_at,
            dead_at,
            attempts: summary.attempts_made,
            replays: summary.replays_made,
            replayed_at,
            is_recorded,
        })
    }

    /// Returns whether its message must be in the dead-letter queue by `now`, if it still exists.
    pub(in crate::dead_letters) fn has_arrived(
        &self,
        bulk: Option<&BulkReplay>,
        now: Timestamp,
    ) -> bool {
        let moved_at = bulk
            .map(|bulk| bulk.act.at)
            .filter(|at| *at >= self.dead_at);
        let left_at = self.replayed_at.max(moved_at).unwrap_or(self.dead_at);
        now.duration_since(left_at) > ARRIVES_WITHIN
    }
}

/// Page of the list of dead letters.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct List {
    /// Number of dead letters on this page.
    #[serde(default)]
    pub count: usize,
    /// Dead letters, the one that was received first at the top.
    pub items: Vec<DeadLetter>,
    /// Token of the next page; `None` at the end. A page can be short, or empty, without being the
    /// last one.
    pub next: Option<String>,
}

/// Page of the events of a conversation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// Id of the conversation.
    pub id: String,
    /// Number of events on this page.
    pub count: usize,
    /// Events without their bodies, the one that was received first at the top.
    pub events: Vec<EventDetails>,
    /// Token of the next page; `None` at the end. A page can be short, or empty, without being the
    /// last one.
    pub next: Option<String>,
}

/// All that is known of one event.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventDetails {
    pub event_id: EventId,
    pub state: StateName,
    /// Kind of sender.
    pub source: Source,
    /// Webhook or integration that it belongs to.
    pub webhook_id: Option<String>,
    /// Name of the webhook, where the body gives one.
    pub webhook_name: Option<String>,
    /// Conversation, where the body names one.
    pub conversation_id: Option<String>,
    /// Address of the target; `None` before the first attempt.
    pub target: Option<String>,
    /// Kind of reason for its death, if it died.
    pub reason: Option<ReasonKind>,
    /// Error, for a person to read.
    pub error: Option<String>,
    /// HTTP status of the target, if it answered.
    pub status_code: Option<u16>,
    /// Time of its death.
    pub dead_at: Option<Timestamp>,
    /// Time at which the relay received it.
    pub received_at: Timestamp,
    /// Time at which its record was begun.
    pub first_seen_at: Timestamp,
    /// Time at which its record was last written.
    pub last_seen_at: Timestamp,
    /// Earliest time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// Key of the archive object that holds it.
    pub archived_to: Option<String>,
    /// Time at which it was sent back into the queue.
    pub replayed_at: Option<Timestamp>,
    /// Attempts in its whole life.
    pub attempts_made: u32,
    /// The newest attempts.
    pub attempts: Vec<AttemptDetails>,
    /// Number of times it has left the dead letters.
    pub replays: u32,
    /// Names of the newest resends that have delivered it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resent: Vec<String>,
    /// Name of the resend that delivers it, or has died with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resend: Option<String>,
    /// Actions of operators and schedules.
    pub history: Vec<OperatorAction>,
    /// `Content-Type` of the request.
    pub content_type: Option<String>,
    /// Request headers that were kept.
    pub headers: BTreeMap<String, String>,
    /// Body, where it is text.
    pub body: Option<String>,
    /// Body in base64, where it is not text.
    pub body_base64: Option<String>,
    /// Place in the order of its conversation, where the stack keeps it and the record tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Place>,
    /// Time at which the record expires.
    pub expires_at: Timestamp,
}

/// Place of an event in the order of its conversation.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "camelCase")]
pub enum Place {
    /// It failed and is retried in its place: later events of the conversation wait for it.
    Waiting {
        conversation: String,
        /// End of the first attempt that failed.
        since: Timestamp,
    },
    /// It is attempted, and no conversation waits for it: it has lost its place, or never had one.
    Late,
    /// It was replayed: where it has a conversation, it comes behind later events.
    Replayed,
}

impl Place {
    fn of(record: &EventRecord) -> Option<Self> {
        if let Some(waiting) = record.waiting.clone() {
            let Waiting {
                conversation,
                since,
                ..
            } = waiting;
            return Some(Self::Waiting {
                conversation,
                since,
            });
        }
        if record.source == Source::EventBridge {
            return None;
        }
        if record.replays_made > 0 {
            return Some(Self::Replayed);
        }
        let is_attempted = matches!(record.state, State::InProgress(_) | State::Retrying { .. });
        (is_attempted && !record.has_place()).then_some(Self::Late)
    }
}

/// Attempt to deliver the event.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptDetails {
    /// End of the attempt.
    pub at: Timestamp,
    /// Duration of the delivery in milliseconds; `None` where the processor ended before it.
    pub duration_ms: Option<u64>,
    /// HTTP status of the target, if it answered.
    pub status_code: Option<u16>,
    /// Error, for a person to read.
    pub error: Option<String>,
    /// Beginning of the target's answer.
    pub response: Option<String>,
}

impl EventDetails {
    /// Describes an event, of which `body` is kept. Order is shown only where the stack keeps it.
    pub(in crate::dead_letters) fn describe(
        record: EventRecord,
        body: Option<Vec<u8>>,
        keeps_order: bool,
        now: Timestamp,
    ) -> Self {
        let order = keeps_order.then(|| Place::of(&record)).flatten();
        let death = record.state.death(now);
        let (name, death, replayed_at, archived_to, next_attempt_at) = match record.state {
            State::Dead(dead) => (StateName::Dead, death, dead.replayed_at, None, None),
            State::Archived { death, archived_to } => (
                StateName::Archived,
                Some(death),
                None,
                Some(archived_to),
                None,
            ),
            State::Discarded(death) => (StateName::Discarded, Some(death), None, None, None),
            State::Retrying { next_attempt_at } => {
                (StateName::Retrying, None, None, None, Some(next_attempt_at))
            }
            State::InProgress(_) if death.is_some() => (StateName::Dead, death, None, None, None),
            state @ (State::Queued | State::InProgress(_) | State::Delivered | State::Erased) => {
                (state.name(), None, None, None, None)
            }
        };
        let (body, body_base64) = match body.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes.into_bytes()))),
        };
        let context = record.context.unwrap_or_default();
        let attempt = |attempt: Attempt| AttemptDetails {
            at: attempt.at,
            duration_ms: attempt.duration_ms,
            status_code: attempt.status,
            error: attempt.error,
            response: attempt.response,
        };
        Self {
            event_id: record.event_id,
            state: name,
            source: record.source,
            webhook_id: record.webhook_id,
            webhook_name: context.webhook_name,
            conversation_id: record.conversation_id,
            target: context.target,
            reason: death.as_ref().map(|death| death.reason),
            status_code: death.as_ref().and_then(|death| death.status_code),
            dead_at: death.as_ref().map(|death| death.dead_at),
            error: death.map(|death| death.error),
            received_at: record.received_at,
            first_seen_at: record.first_seen_at,
            last_seen_at: record.last_seen_at,
            next_attempt_at,
            archived_to,
            replayed_at,
            attempts_made: record.attempts_made,
            attempts: record.attempts.into_iter().map(attempt).collect(),
            replays: record.replays_made,
            resent: record.resent,
            resend: record.resend,
            history: record.history,
            content_type: context.content_type,
            headers: context.headers,
            body,
            body_base64,
            order,
            expires_at: record.expires_at,
        }
    }
}
