//! What an operator reads of dead letters: a line in a list, and all that is known of one event.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::domain::event::{EventId, Source};
use crate::domain::event_record::{BulkReplay, Death, EventRecord, State, StateName, Summary};
use crate::domain::failure::ReasonKind;

/// The message of an event that died this short ago may not be in the dead-letter queue yet: it is hidden for as long as
/// the events queue says, 12 minutes at most.
pub(super) const ARRIVES_WITHIN: SignedDuration = SignedDuration::from_mins(15);

/// A dead letter in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its event's id.
    pub event_id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// The webhook or integration it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// Why it is dead.
    pub reason: ReasonKind,
    /// What happened, for a person to read.
    pub error: String,
    /// The target's HTTP status, if it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// When the relay received it.
    pub received_at: Timestamp,
    /// When it died.
    pub dead_at: Timestamp,
    /// Attempts in its whole life.
    pub attempts: u32,
    /// How often it has left the dead letters.
    pub replays: u32,
    /// When it was last sent back into the queue, where nobody has claimed it since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<Timestamp>,
    /// Whether its record says so: of a crash nobody does.
    #[serde(skip)]
    pub is_recorded: bool,
}

impl DeadLetter {
    /// What the index holds, if it is dead by now.
    pub(super) fn of(summary: Summary, now: Timestamp) -> Option<Self> {
        let Death { reason, error, status_code, dead_at } =
            summary.state.death(now).filter(|_| summary.expires_at > now)?;
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

    /// Whether its message has to be in the dead-letter queue by `now`, if it is anywhere.
    pub(super) fn has_arrived(&self, bulk: Option<&BulkReplay>, now: Timestamp) -> bool {
        let moved_at = bulk.map(|bulk| bulk.act.at).filter(|at| *at >= self.dead_at);
        let left_at = self.replayed_at.max(moved_at).unwrap_or(self.dead_at);
        now.duration_since(left_at) > ARRIVES_WITHIN
    }
}

/// A page of the list of dead letters.
#[derive(Debug, Default, Serialize)]
pub struct List {
    /// How many there are on this page.
    pub count: usize,
    /// The dead letters, the one that was received first at the top.
    pub items: Vec<DeadLetter>,
    /// Where the next page begins; nothing at the end. A page can be short, or empty, and not be the last one.
    pub next: Option<String>,
}

/// All that is known of one event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    event_id: EventId,
    state: StateName,
    source: Source,
    webhook_id: Option<String>,
    webhook_name: Option<String>,
    conversation_id: Option<String>,
    target: Option<String>,
    /// Why it died, if it did.
    reason: Option<ReasonKind>,
    error: Option<String>,
    status_code: Option<u16>,
    dead_at: Option<Timestamp>,
    received_at: Timestamp,
    first_seen_at: Timestamp,
    last_seen_at: Timestamp,
    /// Before this time nobody tries again.
    next_attempt_at: Option<Timestamp>,
    /// The object that holds it.
    archived_to: Option<String>,
    /// Since when it is on its way back.
    replayed_at: Option<Timestamp>,
    /// Attempts in its whole life.
    attempts_made: u32,
    /// The newest of them.
    attempts: Vec<ShownAttempt>,
    /// How often it has left the dead letters.
    replays: u32,
    /// What operators did.
    history: Vec<crate::domain::event_record::OperatorAction>,
    content_type: Option<String>,
    headers: BTreeMap<String, String>,
    /// The body, where it is text.
    body: Option<String>,
    /// The body, where it is not.
    body_base64: Option<String>,
    /// When all this is forgotten.
    expires_at: Timestamp,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownAttempt {
    at: Timestamp,
    duration_ms: Option<u64>,
    status_code: Option<u16>,
    error: Option<String>,
    response: Option<String>,
}

impl Shown {
    /// Describes an event, of which `body` is kept.
    pub(super) fn describe(record: EventRecord, body: Option<Vec<u8>>, now: Timestamp) -> Self {
        let death = record.state.death(now);
        let (name, death, replayed_at, archived_to, next_attempt_at) = match record.state {
            State::Dead(dead) => (StateName::Dead, death, dead.replayed_at, None, None),
            State::Archived { death, archived_to } => (StateName::Archived, Some(death), None, Some(archived_to), None),
            State::Discarded(death) => (StateName::Discarded, Some(death), None, None, None),
            State::Retrying { next_attempt_at } => (StateName::Retrying, None, None, None, Some(next_attempt_at)),
            State::InProgress(_) if death.is_some() => (StateName::Dead, death, None, None, None),
            state @ (State::Queued | State::InProgress(_) | State::Delivered) => (state.name(), None, None, None, None),
        };
        let (body, body_base64) = match body.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes.into_bytes()))),
        };
        let context = record.context.unwrap_or_default();
        let attempt = |attempt: crate::domain::event_record::Attempt| ShownAttempt {
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
            conversation_id: context.conversation_id,
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
            history: record.history,
            content_type: context.content_type,
            headers: context.headers,
            body,
            body_base64,
            expires_at: record.expires_at,
        }
    }
}
