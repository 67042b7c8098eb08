//! What an operator asks the replay function, read so that nothing is misunderstood.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::list::DeadLetter;
use crate::domain::event::{EventId, Source};
use crate::domain::failure::ReasonKind;
use crate::domain::json::Json;
use crate::domain::request::{InvalidRequest, Requester, RequesterFields, invalid, read};
use crate::ports::events_table::{Position, Window};

/// The most a request can ask for, in one run.
const MAX_MESSAGES: u32 = 100_000;

/// The most events a request can name one by one.
const MAX_EVENT_IDS: usize = 1000;

/// `StartMessageMoveTask`: at most 500 messages a second.
const MAX_RATE: u32 = 500;

/// Dead letters in a page of a list, if the request does not say, and at most.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// SQS keeps a message for 14 days at most ("Amazon SQS message quotas").
const MAX_AGE_DAYS: u32 = 13;
const DEFAULT_AGE_DAYS: u32 = 10;

/// A run in the background has a name of at most so many characters.
const MAX_RUN_ID: usize = 80;

const ACTIONS: &str = "status, list, show, replay, cancel, reconcile, archive, restore, discard";

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How many messages lie where, and who is at work.
    Status,
    /// How far a run in the background is.
    StatusOf(String),
    /// Start a run in the background.
    Start(Start),
    /// Carry out a run that was started before.
    Background {
        /// Its name.
        run_id: String,
        /// What it is for.
        request: Box<Self>,
    },
    /// The dead letters, oldest first.
    List(Listing),
    /// All that is known of one event.
    Show(EventId),
    /// Bring dead letters back.
    Replay(Selection),
    /// Cancel a running move task.
    Cancel(Requester),
    /// Make the records say what lies in the dead-letter queue.
    Reconcile {
        /// Only when the counts of the two differ.
        if_needed: bool,
        /// When the schedule was due, if it says so.
        due_at: Option<Timestamp>,
        /// Who asks.
        requester: Requester,
    },
    /// Bring old dead letters into the archive.
    Archive {
        /// Those that SQS has had for longer than this.
        older_than_days: u32,
        /// Who asks.
        requester: Requester,
    },
    /// Bring an archived object back into the dead-letter queue.
    Restore {
        /// The object's key.
        key: String,
        /// Who asks.
        requester: Requester,
    },
    /// Drop dead letters.
    Discard {
        /// Which ones.
        event_ids: BTreeSet<EventId>,
        /// Who asks.
        requester: Requester,
    },
}

/// A run that is to be carried out in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub(super) run_id: String,
    pub(super) action: String,
    pub(super) requester: Requester,
    /// Tells two requests under one name apart, however they are written.
    pub(super) digest: String,
    /// What to invoke the function with, to carry it out.
    pub payload: Value,
}

/// A page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub(super) filter: Filter,
    pub(super) limit: usize,
    pub(super) after: Option<Position>,
}

impl Listing {
    /// The oldest dead letter alone.
    pub(super) fn first() -> Self {
        Self { filter: Filter::default(), limit: 1, after: None }
    }
}

/// Which dead letters to bring back, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Which ones.
    pub(super) which: Which,
    /// Who asks.
    pub(super) requester: Requester,
    /// Count and describe only.
    pub(super) dry_run: bool,
    /// At most so many; `None` where the request does not say.
    pub(super) max_messages: Option<u32>,
    /// At most so many a second.
    pub(super) rate_per_second: Option<u32>,
    /// Even those that were replayed too often.
    pub(super) force: bool,
}

/// Which dead letters a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Which {
    /// All.
    All,
    /// Those with these ids.
    #[serde(rename = "eventIds")]
    These(BTreeSet<EventId>),
    /// Those that match.
    #[serde(rename = "filter")]
    Matching(Filter),
}

/// What a dead letter has to match. Every given field has to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    /// Received at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Received before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl Request {
    /// Reads a request of `caller`, who may give another name. What is not understood is an error that names the field.
    pub fn parse(request: Value, caller: &str) -> Result<Self, InvalidRequest> {
        let Value::Object(mut fields) = request else {
            return Err(invalid("request", "must be a JSON object with the field action"));
        };
        let action = match fields.remove("action") {
            Some(Value::String(action)) => action,
            Some(_) => return Err(invalid("action", "must be a text")),
            None => return Err(invalid("action", &format!("is missing; it is one of {ACTIONS}"))),
        };
        let run = read::<RunFields>(RunFields::take(&mut fields))?.check()?;
        let started = fields.clone();
        let request = Self::parse_action(&action, Value::Object(fields), caller)?;
        match (run, request) {
            (None, request) => Ok(request),
            (Some((run_id, false)), Self::Status) => Ok(Self::StatusOf(run_id)),
            (Some((run_id, begins)), request) => {
                let requester =
                    request.requester().ok_or_else(|| invalid("runId", "goes with what changes something"))?.clone();
                if begins {
                    return Ok(Self::Background { run_id, request: Box::new(request) });
                }
                let mut payload = started;
                payload.insert("action".to_owned(), action.as_str().into());
                let digest = digest(&payload)?;
                payload.insert("by".to_owned(), requester.by.as_str().into());
                payload.insert("runId".to_owned(), run_id.as_str().into());
                payload.insert("begin".to_owned(), true.into());
                Ok(Self::Start(Start { run_id, action, requester, digest, payload: payload.into() }))
            }
        }
    }

    /// Who asks, where the request is for a run that can last.
    fn requester(&self) -> Option<&Requester> {
        match self {
            Self::Replay(selection) if !selection.dry_run => Some(&selection.requester),
            Self::Reconcile { requester, .. }
            | Self::Archive { requester, .. }
            | Self::Restore { requester, .. }
            | Self::Discard { requester, .. } => Some(requester),
            Self::Replay(_)
            | Self::Status
            | Self::StatusOf(_)
            | Self::List(_)
            | Self::Show(_)
            | Self::Cancel(_)
            | Self::Start(_)
            | Self::Background { .. } => None,
        }
    }

    fn parse_action(action: &str, fields: Value, caller: &str) -> Result<Self, InvalidRequest> {
        match action {
            "status" => read::<NoFields>(fields).map(|_| Self::Status),
            "list" => read::<ListFields>(fields)?.check().map(Self::List),
            "show" => read::<ShowFields>(fields).map(|fields| Self::Show(fields.event_id)),
            "replay" => read::<ReplayFields>(fields)?.check(caller).map(Self::Replay),
            "cancel" => read::<RequesterFields>(fields)?.check(caller).map(Self::Cancel),
            "reconcile" => {
                let ReconcileFields { if_needed, due_at, by, why } = read(fields)?;
                // The scheduler of a local AWS leaves a placeholder there.
                let due_at = due_at.and_then(|text| text.parse().ok());
                Ok(Self::Reconcile { if_needed, due_at, requester: RequesterFields { by, why }.check(caller)? })
            }
            "archive" => {
                let ArchiveFields { older_than_days, by, why } = read(fields)?;
                let older_than_days = within("olderThanDays", older_than_days, 0, MAX_AGE_DAYS)?;
                let requester = RequesterFields { by, why }.check(caller)?;
                Ok(Self::Archive { older_than_days: older_than_days.unwrap_or(DEFAULT_AGE_DAYS), requester })
            }
            "restore" => {
                let RestoreFields { key, by, why } = read(fields)?;
                if key.is_empty() {
                    return Err(invalid("key", "is empty"));
                }
                Ok(Self::Restore { key, requester: RequesterFields { by, why }.check(caller)? })
            }
            "discard" => {
                let DiscardFields { event_ids, by, why } = read(fields)?;
                let requester = RequesterFields { by, why: Some(why) }.check(caller)?;
                Ok(Self::Discard { event_ids: check_ids(event_ids)?, requester })
            }
            other => Err(invalid("action", &format!("{other:?} is unknown; it is one of {ACTIONS}"))),
        }
    }
}

/// The SHA-256 of what was asked for, in its canonical form.
fn digest(request: &Map<String, Value>) -> Result<String, InvalidRequest> {
    let unwritable = |error: &dyn std::fmt::Display| invalid("request", &error.to_string());
    let text = serde_json::to_vec(request).map_err(|error| unwritable(&error))?;
    let request = Json::parse(&text).map_err(|error| unwritable(&error))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(request.canonical())))
}

/// The fields of a run in the background: its name, and whether this is the invocation that carries it out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunFields {
    run_id: Option<String>,
    #[serde(default)]
    begin: bool,
}

impl RunFields {
    fn take(fields: &mut serde_json::Map<String, Value>) -> Value {
        ["runId", "begin"].into_iter().filter_map(|name| fields.remove_entry(name)).collect()
    }

    fn check(self) -> Result<Option<(String, bool)>, InvalidRequest> {
        let Some(run_id) = self.run_id else {
            return if self.begin { Err(invalid("begin", "goes with runId")) } else { Ok(None) };
        };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=MAX_RUN_ID).contains(&run_id.len()) || !run_id.chars().all(is_allowed) {
            return Err(invalid("runId", &format!("must be 1 to {MAX_RUN_ID} letters, digits, - or _")));
        }
        Ok(Some((run_id, self.begin)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListFields {
    source: Option<Source>,
    reason: Option<ReasonKind>,
    webhook_id: Option<String>,
    status_code: Option<u16>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<u32>,
    next: Option<String>,
}

impl ListFields {
    fn check(self) -> Result<Listing, InvalidRequest> {
        let Self { source, reason, webhook_id, status_code, since, until, limit, next } = self;
        let after = next.map(|token| token.parse::<Position>()).transpose();
        Ok(Listing {
            filter: Filter { source, reason, webhook_id, status_code, since, until },
            limit: within("limit", limit, 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT) as usize,
            after: after.map_err(|error| invalid("next", &error.to_string()))?,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShowFields {
    event_id: EventId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReconcileFields {
    #[serde(default)]
    if_needed: bool,
    due_at: Option<String>,
    by: Option<String>,
    why: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchiveFields {
    older_than_days: Option<u32>,
    by: Option<String>,
    why: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RestoreFields {
    key: String,
    by: Option<String>,
    why: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DiscardFields {
    event_ids: Vec<EventId>,
    by: Option<String>,
    why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReplayFields {
    all: Option<bool>,
    event_ids: Option<Vec<EventId>>,
    filter: Option<Filter>,
    by: Option<String>,
    why: Option<String>,
    #[serde(default)]
    dry_run: bool,
    max_messages: Option<u32>,
    rate_per_second: Option<u32>,
    #[serde(default)]
    force: bool,
}

impl ReplayFields {
    fn check(self, caller: &str) -> Result<Selection, InvalidRequest> {
        let which = match (self.all, self.event_ids, self.filter) {
            (Some(true), None, None) => Which::All,
            (None, Some(ids), None) => Which::These(check_ids(ids)?),
            (None, None, Some(filter)) if filter == Filter::default() => {
                return Err(invalid("filter", "names nothing; to replay everything say \"all\": true"));
            }
            (None, None, Some(filter)) => Which::Matching(filter),
            (Some(false), _, _) => return Err(invalid("all", "must be true, or left out")),
            (None, None, None) => {
                return Err(invalid("all", "is missing; say \"all\": true, or give eventIds or a filter"));
            }
            (_, Some(_), _) => return Err(invalid("eventIds", "cannot stand beside all or filter")),
            (Some(true), None, Some(_)) => return Err(invalid("filter", "cannot stand beside all")),
        };
        Ok(Selection {
            which,
            requester: RequesterFields { by: self.by, why: self.why }.check(caller)?,
            dry_run: self.dry_run,
            max_messages: within("maxMessages", self.max_messages, 1, MAX_MESSAGES)?,
            rate_per_second: within("ratePerSecond", self.rate_per_second, 1, MAX_RATE)?,
            force: self.force,
        })
    }
}

impl Filter {
    /// Whether a dead letter matches.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        is(self.source.as_ref(), Some(&letter.source))
            && is(self.reason.as_ref(), Some(&letter.reason))
            && is(self.webhook_id.as_ref(), letter.webhook_id.as_ref())
            && is(self.status_code.as_ref(), letter.status_code.as_ref())
            && self.since.is_none_or(|since| letter.received_at >= since)
            && self.until.is_none_or(|until| letter.received_at < until)
    }

    /// The part of the time line that matters to it.
    pub(super) fn window(&self) -> Window {
        Window { since: self.since, until: self.until }
    }
}

impl Which {
    /// The part of the time line that matters to it.
    pub(super) fn window(&self) -> Window {
        match self {
            Self::Matching(filter) => filter.window(),
            Self::All | Self::These(_) => Window::default(),
        }
    }

    /// Whether a dead letter is among them.
    pub(super) fn includes(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::These(ids) => ids.contains(&letter.event_id),
            Self::Matching(filter) => filter.matches(letter),
        }
    }
}

fn within(field: &str, value: Option<u32>, least: u32, most: u32) -> Result<Option<u32>, InvalidRequest> {
    if value.is_some_and(|value| !(least..=most).contains(&value)) {
        return Err(invalid(field, &format!("must be from {least} to {most}")));
    }
    Ok(value)
}

fn check_ids(ids: Vec<EventId>) -> Result<BTreeSet<EventId>, InvalidRequest> {
    if (1..=MAX_EVENT_IDS).contains(&ids.len()) {
        return Ok(ids.into_iter().collect());
    }
    Err(invalid("eventIds", &format!("must be from 1 to {MAX_EVENT_IDS}")))
}
