//! Requests of operators: their JSON, and their checked form. A field that is not understood is an
//! error.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::answer::DeadLetter;
use crate::domain::event::{EventId, Source};
use crate::domain::failure::ReasonKind;
use crate::domain::json::Json;
use crate::domain::request::{InvalidRequest, Requester, RequesterFields, invalid, read};
use crate::ports::events_table::{Position, Window};

/// Largest number of messages that a request can ask for, in one run.
const MAX_MESSAGES: u32 = 100_000;

/// Largest number of events that a request can name by id.
const MAX_EVENT_IDS: usize = 1000;

/// `StartMessageMoveTask`: at most 500 messages a second.
pub const MAX_RATE: u32 = 500;

/// Default and largest number of dead letters on a page of the list.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// SQS keeps a message for 14 days at most ("Amazon SQS message quotas").
pub const MAX_AGE_DAYS: u32 = 13;
/// Age in days of the dead letters that are archived if the request gives none.
pub const DEFAULT_AGE_DAYS: u32 = 10;

/// Longest name of a background run, in characters.
const MAX_RUN_ID: usize = 80;

/// Messages that a run replays if the request gives no number.
pub(in crate::dead_letters) const DEFAULT_MAX_MESSAGES: u32 = 10_000;

const ACTIONS: &str = "status, list, show, replay, cancel, reconcile, archive, restore, discard";

/// Checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read the status of the relay.
    Status,
    /// Read the status of a background run.
    StatusOf(String),
    /// Start a background run.
    Start(Start),
    /// Carry out a background run that was started before.
    Background {
        /// Name of the run.
        run_id: String,
        /// Request of the run.
        request: Box<Self>,
    },
    /// List the dead letters, oldest first.
    List(Listing),
    /// Show all that is known of one event.
    Show(EventId),
    /// Bring dead letters back.
    Replay(Selection),
    /// Cancel a running move task.
    Cancel(Requester),
    /// Make the records agree with the dead-letter queue.
    Reconcile {
        /// Only if the counts of the two differ.
        if_needed: bool,
        /// Time at which the schedule was due, if it gives one.
        due_at: Option<Timestamp>,
        /// Requester of the change.
        requester: Requester,
    },
    /// Bring old dead letters into the archive.
    Archive {
        /// Smallest age in the queue, in days.
        older_than_days: u32,
        /// Requester of the change.
        requester: Requester,
    },
    /// Bring an archived object back into the dead-letter queue.
    Restore {
        /// Key of the object.
        key: String,
        /// Requester of the change.
        requester: Requester,
    },
    /// Drop dead letters.
    Discard {
        /// Ids of their events.
        event_ids: BTreeSet<EventId>,
        /// Requester of the change.
        requester: Requester,
    },
}

/// Request as JSON, before it is checked. [`Request::parse`] reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum RequestBody {
    /// Counts both queues, with the age of the oldest message of each. That of the events queue is
    /// from CloudWatch, which the local AWS does not have. Shows the breaker, the newest move task
    /// with its progress and requester, and the run that holds the lease. With order on: the depths
    /// of its queues, and the conversations that have waited longest, each with the event that it
    /// waits for. With `runId`: the progress of a background run.
    Status,
    /// Returns a page of dead letters, oldest first, from the table's index. The index follows the
    /// table after a moment. A dead letter that never reached the processor's code is listed as
    /// `unknown` within minutes: its receives were throttled, the table was down, or it was sent by
    /// hand.
    List(ListRequest),
    /// Returns everything that is known of one event, dead or not. A `malformed` event that was
    /// just refused has no record for up to five minutes; the error says so.
    Show(ShowRequest),
    /// Sends dead letters back into the events queue: exactly one of `all`, `eventIds` and
    /// `filter`. Takes only what was sent before it began, so that an event that is refused once
    /// more is not replayed again by the same run. What is not found is listed with the cause:
    /// `pending` (hidden, on its way, or perhaps waiting in the events queue), `alive`,
    /// `delivered`, `archived` and where, `discarded`, `expired`, `unknown`.
    Replay(ReplayRequest),
    /// Cancels a running move task. What it moved stays moved.
    Cancel(CancelRequest),
    /// Makes the list agree with the dead-letter queue. Runs every five minutes on a schedule, when
    /// the counts differ. With order on, it first brings what SQS moved out of the ordered queue
    /// into the dead-letter queue.
    Reconcile(ReconcileRequest),
    /// Writes old dead letters to S3 and takes them off the queue. Runs twice a day on a schedule.
    Archive(ArchiveRequest),
    /// Brings an archived object back into the dead-letter queue, byte for byte.
    Restore(RestoreRequest),
    /// Drops dead letters for good, with their bodies. Copies that come within 15 days are dropped
    /// as well.
    Discard(DiscardRequest),
}

/// Background run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub(in crate::dead_letters) run_id: String,
    pub(in crate::dead_letters) action: String,
    pub(in crate::dead_letters) requester: Requester,
    /// Digest that tells two requests under one name apart, however they are written.
    pub(in crate::dead_letters) digest: String,
    /// Payload that makes the function carry the run out.
    pub payload: Value,
}

/// Page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub(in crate::dead_letters) filter: Filter,
    pub(in crate::dead_letters) limit: usize,
    pub(in crate::dead_letters) after: Option<Position>,
}

impl Listing {
    /// Page with the oldest dead letter alone.
    pub(in crate::dead_letters) fn first() -> Self {
        Self {
            filter: Filter::default(),
            limit: 1,
            after: None,
        }
    }
}

/// Dead letters to bring back, with the options of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub(in crate::dead_letters) which: Which,
    pub(in crate::dead_letters) requester: Requester,
    /// Counts and lists only.
    pub(in crate::dead_letters) dry_run: bool,
    /// Largest number of messages; `None` where the request gives none.
    pub(in crate::dead_letters) max_messages: Option<u32>,
    /// Largest number of messages a second.
    pub(in crate::dead_letters) rate_per_second: Option<u32>,
    /// Includes events that were replayed too often.
    pub(in crate::dead_letters) force: bool,
}

/// Dead letters that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::dead_letters) enum Which {
    All,
    /// Dead letters with these ids.
    #[serde(rename = "eventIds")]
    These(BTreeSet<EventId>),
    /// Dead letters that match.
    #[serde(rename = "filter")]
    Matching(Filter),
}

/// Conditions on a dead letter; every given condition must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Kind of sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Kind of reason for the death.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonKind>,
    /// Webhook or integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// HTTP status of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The relay received it at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The relay received it before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Request {
    /// Reads a request of `caller`, who may give another name. A field that is not understood is an
    /// error that names it.
    pub fn parse(request: Value, caller: &str) -> Result<Self, InvalidRequest> {
        let Value::Object(mut fields) = request else {
            return Err(invalid(
                "request",
                "must be a JSON object with the field action",
            ));
        };
        let action = match fields.remove("action") {
            Some(Value::String(action)) => action,
            Some(_) => return Err(invalid("action", "must be a text")),
            None => {
                return Err(invalid(
                    "action",
                    &format!("is missing; it is one of {ACTIONS}"),
                ));
            }
        };
        let run = read::<RunFields>(RunFields::take(&mut fields))?.check()?;
        let started = fields.clone();
        let request = Self::parse_action(&action, Value::Object(fields), caller)?;
        match (run, request) {
            (None, request) => Ok(request),
            (Some((run_id, false)), Self::Status) => Ok(Self::StatusOf(run_id)),
            (Some((run_id, begins)), request) => {
                let requester = request
                    .requester()
                    .ok_or_else(|| {
                        invalid(
                            "runId",
                            "is allowed only with an action that changes something",
                        )
                    })?
                    .clone();
                if begins {
                    return Ok(Self::Background {
                        run_id,
                        request: Box::new(request),
                    });
                }
                let mut payload = started;
                payload.insert("action".to_owned(), action.as_str().into());
                let digest = digest(&payload)?;
                payload.insert("by".to_owned(), requester.by.as_str().into());
                payload.insert("runId".to_owned(), run_id.as_str().into());
                payload.insert("begin".to_owned(), true.into());
                Ok(Self::Start(Start {
                    run_id,
                    action,
                    requester,
                    digest,
                    payload: payload.into(),
                }))
            }
        }
    }

    /// Requester of a change that can run in the background.
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
            "list" => read::<ListRequest>(fields)?.check().map(Self::List),
            "show" => read::<ShowRequest>(fields).map(|fields| Self::Show(fields.event_id)),
            "replay" => read::<ReplayRequest>(fields)?
                .check(caller)
                .map(Self::Replay),
            "cancel" => {
                let CancelRequest { by, why } = read(fields)?;
                RequesterFields { by, why }.check(caller).map(Self::Cancel)
            }
            "reconcile" => {
                let ReconcileRequest {
                    if_needed,
                    due_at,
                    by,
                    why,
                } = read(fields)?;
                // The scheduler of a local AWS leaves a placeholder there.
                let due_at = due_at.and_then(|text| text.parse().ok());
                Ok(Self::Reconcile {
                    if_needed,
                    due_at,
                    requester: RequesterFields { by, why }.check(caller)?,
                })
            }
            "archive" => {
                let ArchiveRequest {
                    older_than_days,
                    by,
                    why,
                } = read(fields)?;
                let older_than_days = within("olderThanDays", older_than_days, 0, MAX_AGE_DAYS)?;
                let requester = RequesterFields { by, why }.check(caller)?;
                Ok(Self::Archive {
                    older_than_days: older_than_days.unwrap_or(DEFAULT_AGE_DAYS),
                    requester,
                })
            }
            "restore" => {
                let RestoreRequest { key, by, why } = read(fields)?;
                if key.is_empty() {
                    return Err(invalid("key", "is empty"));
                }
                Ok(Self::Restore {
                    key,
                    requester: RequesterFields { by, why }.check(caller)?,
                })
            }
            "discard" => {
                let DiscardRequest { event_ids, by, why } = read(fields)?;
                let requester = RequesterFields { by, why: Some(why) }.check(caller)?;
                Ok(Self::Discard {
                    event_ids: check_ids(event_ids)?,
                    requester,
                })
            }
            other => Err(invalid(
                "action",
                &format!("{other:?} is unknown; it is one of {ACTIONS}"),
            )),
        }
    }
}

/// SHA-256 of the request in its canonical form.
fn digest(request: &Map<String, Value>) -> Result<String, InvalidRequest> {
    let unwritable = |error: &dyn std::fmt::Display| invalid("request", &error.to_string());
    let text = serde_json::to_vec(request).map_err(|error| unwritable(&error))?;
    let request = Json::parse(&text).map_err(|error| unwritable(&error))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(request.canonical())))
}

/// Fields of a background run.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunFields {
    /// Name of the background run to start: 1 to 80 letters, digits, `-` and `_`.
    run_id: Option<String>,
    /// True in the invocation that carries the run out.
    #[serde(default)]
    begin: bool,
}

impl RunFields {
    fn take(fields: &mut serde_json::Map<String, Value>) -> Value {
        ["runId", "begin"]
            .into_iter()
            .filter_map(|name| fields.remove_entry(name))
            .collect()
    }

    fn check(self) -> Result<Option<(String, bool)>, InvalidRequest> {
        let Some(run_id) = self.run_id else {
            return if self.begin {
                Err(invalid("begin", "is allowed only with runId"))
            } else {
                Ok(None)
            };
        };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=MAX_RUN_ID).contains(&run_id.len()) || !run_id.chars().all(is_allowed) {
            return Err(invalid(
                "runId",
                &format!("must be 1 to {MAX_RUN_ID} letters, digits, - or _"),
            ));
        }
        Ok(Some((run_id, self.begin)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

/// Fields of a `list`: the conditions of a [`Filter`], and the page. Serde cannot flatten the
/// filter and still refuse unknown fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListRequest {
    /// Kind of sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Kind of reason for the death.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonKind>,
    /// Webhook or integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// HTTP status of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The relay received it at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The relay received it before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Dead letters on the page, at most: 1 to 1000, 100 if left out. A short page is not always the
    /// last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Token `next` of the page before. The last page has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl From<Filter> for ListRequest {
    fn from(filter: Filter) -> Self {
        Self {
            source: filter.source,
            reason: filter.reason,
            webhook_id: filter.webhook_id,
            status_code: filter.status_code,
            since: filter.since,
            until: filter.until,
            ..Self::default()
        }
    }
}

impl ListRequest {
    fn check(self) -> Result<Listing, InvalidRequest> {
        let Self {
            source,
            reason,
            webhook_id,
            status_code,
            since,
            until,
            limit,
            next,
        } = self;
        let after = next.map(|token| token.parse::<Position>()).transpose();
        Ok(Listing {
            filter: Filter {
                source,
                reason,
                webhook_id,
                status_code,
                since,
                until,
            },
            limit: within("limit", limit, 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT) as usize,
            after: after.map_err(|error| invalid("next", &error.to_string()))?,
        })
    }
}

/// Fields of a `show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShowRequest {
    pub event_id: EventId,
}

/// Fields of a `reconcile`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcileRequest {
    /// Only if the counts of records and queue differ.
    #[serde(default)]
    pub if_needed: bool,
    /// Time at which the schedule was due, set by the schedule. A text that is no time counts as
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Fields of an `archive`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchiveRequest {
    /// Smallest age in the queue, in days: 0 to 13, 10 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_days: Option<u32>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Fields of a `cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelRequest {
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Fields of a `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreRequest {
    /// Key of the object in the archive.
    pub key: String,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Fields of a `discard`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiscardRequest {
    /// Ids of the events, 1 to 1000.
    pub event_ids: Vec<EventId>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    pub why: String,
}

/// Fields of a `replay`: one of `all`, `event_ids` and `filter`, and the options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplayRequest {
    /// `true` moves everything back, by SQS itself, also what is not JSON. It begins at once, at any
    /// number. A message without an `event_id` (sent by hand, or its last attempt crashed) counts
    /// as another event afterwards, unless its body identifies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Ids of the events, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_ids: Option<Vec<EventId>>,
    /// Conditions on the dead letters, of which all must hold: `source`, `reason`, `webhookId`,
    /// `statusCode`, `since` and `until`, as for `list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Counts from the index what would be replayed, lists the first hundred, and receives nothing.
    /// With a filter it returns all `eventIds`, up to 10,000. Ask for these, up to 1000 at a time,
    /// and nothing else is replayed.
    #[serde(default)]
    pub dry_run: bool,
    /// Largest number of messages: 1 to 100,000. Without it a run ends at 10,000; a move by SQS has
    /// no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u32>,
    /// Largest number of messages a second, for the target's sake: 1 to 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// Also replays what was replayed five times already. Without it such an event goes back to the
    /// dead letters, however it was moved.
    #[serde(default)]
    pub force: bool,
}

impl ReplayRequest {
    fn check(self, caller: &str) -> Result<Selection, InvalidRequest> {
        let which = match (self.all, self.event_ids, self.filter) {
            (Some(true), None, None) => Which::All,
            (None, Some(ids), None) => Which::These(check_ids(ids)?),
            (None, None, Some(filter)) if filter == Filter::default() => {
                return Err(invalid(
                    "filter",
                    "names nothing; to replay everything say \"all\": true",
                ));
            }
            (None, None, Some(filter)) => Which::Matching(filter),
            (Some(false), _, _) => return Err(invalid("all", "must be true, or left out")),
            (None, None, None) => {
                return Err(invalid(
                    "all",
                    "is missing; say \"all\": true, or give eventIds or a filter",
                ));
            }
            (_, Some(_), _) => {
                return Err(invalid("eventIds", "cannot stand beside all or filter"));
            }
            (Some(true), None, Some(_)) => {
                return Err(invalid("filter", "cannot stand beside all"));
            }
        };
        Ok(Selection {
            which,
            requester: RequesterFields {
                by: self.by,
                why: self.why,
            }
            .check(caller)?,
            dry_run: self.dry_run,
            max_messages: within("maxMessages", self.max_messages, 1, MAX_MESSAGES)?,
            rate_per_second: within("ratePerSecond", self.rate_per_second, 1, MAX_RATE)?,
            force: self.force,
        })
    }
}

impl Filter {
    /// Returns whether a dead letter matches.
    pub(in crate::dead_letters) fn matches(&self, dead_letter: &DeadLetter) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        is(self.source.as_ref(), Some(&dead_letter.source))
            && is(self.reason.as_ref(), Some(&dead_letter.reason))
            && is(self.webhook_id.as_ref(), dead_letter.webhook_id.as_ref())
            && is(self.status_code.as_ref(), dead_letter.status_code.as_ref())
            && self
                .since
                .is_none_or(|since| dead_letter.received_at >= since)
            && self
                .until
                .is_none_or(|until| dead_letter.received_at < until)
    }

    /// Part of the time line that can hold matches.
    pub(in crate::dead_letters) fn window(&self) -> Window {
        Window {
            since: self.since,
            until: self.until,
        }
    }
}

impl Which {
    /// Part of the time line that can hold matches.
    pub(in crate::dead_letters) fn window(&self) -> Window {
        match self {
            Self::Matching(filter) => filter.window(),
            Self::All | Self::These(_) => Window::default(),
        }
    }

    /// Returns whether it includes a dead letter.
    pub(in crate::dead_letters) fn includes(&self, dead_letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::These(ids) => ids.contains(&dead_letter.event_id),
            Self::Matching(filter) => filter.matches(dead_letter),
        }
    }
}

fn within(
    field: &str,
    value: Option<u32>,
    least: u32,
    most: u32,
) -> Result<Option<u32>, InvalidRequest> {
    if value.is_some_and(|value| !(least..=most).contains(&value)) {
        return Err(invalid(field, &format!("must be from {least} to {most}")));
    }
    Ok(value)
}

fn check_ids(ids: Vec<EventId>) -> Result<BTreeSet<EventId>, InvalidRequest> {
    if (1..=MAX_EVENT_IDS).contains(&ids.len()) {
        return Ok(ids.into_iter().collect());
    }
    Err(invalid(
        "eventIds",
        &format!("must be from 1 to {MAX_EVENT_IDS}"),
    ))
}
