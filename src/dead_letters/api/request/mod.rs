//! Requests of operators: their JSON, and their checked form. A field that is not understood is an
//! error.

mod conversation;
mod erase;
mod resend;
mod statements;
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
use crate::domain::event_record::EventRecord;
use crate::domain::failure::ReasonKind;
use crate::domain::json::Json;
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid, read};
use crate::ports::events_table::{Position, Window};

pub(in crate::dead_letters) use self::conversation::ConversationQuery;
pub use self::conversation::ConversationRequest;
pub use self::erase::EraseRequest;
pub(in crate::dead_letters) use self::erase::Erased;
pub(in crate::dead_letters) use self::resend::Delivered;
pub use self::resend::{JournalRequest, ResendFilter, ResendRequest, ResendSelection};
pub(in crate::dead_letters) use self::statements::StatementsQuery;
pub use self::statements::StatementsRequest;

/// Largest number of messages that a request can ask for, in one run.
pub const MAX_MESSAGES: u32 = 100_000;

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

const ACTIONS: &str = "status, list, show, conversation, replay, cancel, reconcile, archive, restore, discard, erase, \
     resend, journal, forget, statements";

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
        /// Digest of the request that this invocation was given.
        digest: String,
        /// Request of the run.
        request: Box<Self>,
    },
    /// List the dead letters, oldest first.
    List(Listing),
    /// Show all that is known of one event.
    Show {
        event_id: EventId,
        /// Requester of the look.
        requester: Requester,
    },
    /// Bring dead letters back.
    Replay(Selection),
    /// Cancel a running move task.
    Cancel(Requester),
    /// Cancel a background run.
    CancelRun {
        /// Name of the run.
        run_id: String,
        /// Requester of the change.
        requester: Requester,
    },
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
        which: Which,
        /// Requester of the change.
        requester: Requester,
    },
    /// Show the events of a conversation.
    Conversation(ConversationQuery),
    /// Erase events, wherever the relay keeps them.
    Erase {
        which: Erased,
        /// Requester of the change.
        requester: Requester,
    },
    /// Send delivered events once more.
    Resend(ResendSelection),
    /// Write delivered events into the journal.
    Journal(Requester),
    /// Show statements.
    Statements(StatementsQuery),
    /// Delete the records of check events.
    Forget {
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
    /// Cancels a running move task. What it moved stays moved. With `runId`: ends a background run at
    /// its next step, whatever its action. What it has done stays done.
    Cancel(CancelRequest),
    /// Makes the list agree with the dead-letter queue. Runs every five minutes on a schedule, when
    /// the counts differ. With order on, it first brings what SQS moved out of the ordered queue
    /// into the dead-letter queue.
    Reconcile(ReconcileRequest),
    /// Writes old dead letters to S3 and takes them off the queue. Runs twice a day on a schedule.
    Archive(ArchiveRequest),
    /// Brings an archived object back into the dead-letter queue, byte for byte.
    Restore(RestoreRequest),
    /// Drops dead letters for good, with their bodies: exactly one of `eventIds` and `filter`. Copies
    /// that come within 15 days are dropped as well.
    Discard(DiscardRequest),
    /// Returns a page of the events of a conversation, also of those that were delivered, oldest
    /// first, without their bodies. Needs the parameter `ConversationIndex`, whose index follows the
    /// table after a moment. An event without a record is not among them: it waits for its first
    /// attempt, or its record has expired.
    Conversation(ConversationRequest),
    /// Erases the content of events wherever the relay keeps it: exactly one of `conversationId` and
    /// `eventIds`. Takes minutes. The answer says what remains elsewhere, and until when. With
    /// `runId`, a run that was cut short goes on where it ended; without, it begins at the start.
    Erase(EraseRequest),
    /// Sends delivered events once more, from the journal: exactly one of `eventIds` and `filter`. Runs
    /// in the background, so `runId` is needed; only a dry run has none. Each event reaches the target
    /// once per run, in the order in which the relay received them, with the header `X-Relay-Resend`.
    /// Sends what is delivered, and nothing else; `failed` lists what is not. A run that reached its
    /// time limit, failed or was killed goes on where it ended when the same request comes again.
    /// Needs the parameter `JournalDays`.
    Resend(ResendRequest),
    /// Writes delivered events from the journal's queue into objects of the archive, by the hour. Runs
    /// every five minutes on a schedule. Needs the parameter `JournalDays`.
    Journal(JournalRequest),
    /// Returns the newest statements along their chain, checking the hash of each, and the progress of
    /// the one that is being made; with `day`, all of that day, whole. Needs the parameter `Statement`,
    /// or statements that the recovery function was asked for.
    Statements(StatementsRequest),
    /// Deletes the records of check events that are `DELIVERED` or `DISCARDED`, so that a check leaves
    /// nothing behind. Refuses every other event, by its id and with the reason. An event without a
    /// record is forgotten already.
    Forget(ForgetRequest),
}

/// Background run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub(in crate::dead_letters) run_id: String,
    pub(in crate::dead_letters) action: String,
    pub(in crate::dead_letters) requester: Requester,
    /// Digest that tells two requests under one name apart, however they are written.
    pub(in crate::dead_letters) digest: String,
    pub(in crate::dead_letters) needs_conversations: bool,
    /// Payload that makes the function carry the run out.
    pub payload: Value,
}

/// Page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub(in crate::dead_letters) requester: Requester,
    pub(in crate::dead_letters) filter: Filter,
    pub(in crate::dead_letters) limit: usize,
    pub(in crate::dead_letters) after: Option<Position>,
}

impl Listing {
    /// Page with the oldest dead letter alone.
    pub(in crate::dead_letters) fn first() -> Self {
        Self {
            requester: Requester::default(),
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
pub enum Which {
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
    /// The conversation, where the body names one. Needs the parameter `ConversationIndex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
}

impl Request {
    /// Reads a request of `caller`, who may give another name. A field that is not understood is an
    /// error that names it.
    pub fn parse(request: Value, caller: impl Into<Caller>) -> Result<Self, InvalidRequest> {
        let caller = caller.into();
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
        let request = Self::parse_action(&action, Value::Object(fields), &caller)?;
        match (run, request) {
            (None, Self::Resend(selection)) if !selection.dry_run => Err(invalid(
                "runId",
                "is missing; it is the name of the run, which delivers each event once",
            )),
            (None, request) => Ok(request),
            (Some((run_id, false)), Self::Status) => Ok(Self::StatusOf(run_id)),
            (Some((run_id, false)), Self::Cancel(requester)) => {
                Ok(Self::CancelRun { run_id, requester })
            }
            (Some((run_id, begins)), request) => {
                let mut request = request;
                let requester = request
                    .background_requester()
                    .ok_or_else(|| {
                        invalid(
                            "runId",
                            "is allowed only with an action that changes something",
                        )
                    })?
                    .clone();
                let mut payload = started;
                payload.insert("action".to_owned(), action.as_str().into());
                let digest = digest(&payload)?;
                if begins {
                    return Ok(Self::Background {
                        run_id,
                        digest,
                        request: Box::new(request),
                    });
                }
                payload.insert("runId".to_owned(), run_id.as_str().into());
                payload.insert("begin".to_owned(), true.into());
                Ok(Self::Start(Start {
                    run_id,
                    action,
                    requester,
                    digest,
                    needs_conversations: request.needs_conversations(),
                    payload: payload.into(),
                }))
            }
        }
    }

    /// Requester of a change that can run in the background.
    pub(in crate::dead_letters) fn background_requester(&mut self) -> Option<&mut Requester> {
        match self {
            Self::Replay(selection) if !selection.dry_run => Some(&mut selection.requester),
            Self::Reconcile { requester, .. }
            | Self::Archive { requester, .. }
            | Self::Restore { requester, .. }
            | Self::Discard { requester, .. }
            | Self::Erase { requester, .. }
            | Self::Journal(requester) => Some(requester),
            Self::Resend(selection) if !selection.dry_run => Some(&mut selection.requester),
            Self::Replay(_)
            | Self::Resend(_)
            | Self::CancelRun { .. }
            | Self::Status
            | Self::StatusOf(_)
            | Self::List(_)
            | Self::Show { .. }
            | Self::Conversation(_)
            | Self::Statements(_)
            | Self::Cancel(_)
            | Self::Forget { .. }
            | Self::Start(_)
            | Self::Background { .. } => None,
        }
    }

    /// Returns whether it changes nothing.
    pub fn is_look(&self) -> bool {
        match self {
            Self::Status
            | Self::StatusOf(_)
            | Self::List(_)
            | Self::Show { .. }
            | Self::Conversation(_)
            | Self::Statements(_) => true,
            Self::Replay(selection) => selection.dry_run,
            Self::Resend(selection) => selection.dry_run,
            Self::Cancel(_)
            | Self::Reconcile { .. }
            | Self::Archive { .. }
            | Self::Restore { .. }
            | Self::Discard { .. }
            | Self::Erase { .. }
            | Self::CancelRun { .. }
            | Self::Journal(_)
            | Self::Forget { .. }
            | Self::Start(_)
            | Self::Background { .. } => false,
        }
    }

    /// Returns whether it needs the index of conversations.
    pub(in crate::dead_letters) fn needs_conversations(&self) -> bool {
        let is_by_conversation = |which: &Which| match which {
            Which::Matching(filter) => filter.conversation_id.is_some(),
            Which::All | Which::These(_) => false,
        };
        match self {
            Self::List(listing) => listing.filter.conversation_id.is_some(),
            Self::Replay(selection) => is_by_conversation(&selection.which),
            Self::Discard { which, .. } => is_by_conversation(which),
            Self::Conversation(_) => true,
            Self::Resend(selection) => selection.needs_conversations(),
            Self::Erase { which, .. } => matches!(which, Erased::Conversation(_)),
            Self::Background { request, .. } => request.needs_conversations(),
            Self::Start(start) => start.needs_conversations,
            Self::Status
            | Self::StatusOf(_)
            | Self::Show { .. }
            | Self::Cancel(_)
            | Self::Reconcile { .. }
            | Self::Archive { .. }
            | Self::Restore { .. }
            | Self::CancelRun { .. }
            | Self::Forget { .. }
            | Self::Journal(_)
            | Self::Statements(_) => false,
        }
    }

    fn parse_action(action: &str, fields: Value, caller: &Caller) -> Result<Self, InvalidRequest> {
        match action {
            "status" => {
                let StatusFields { by } = read(fields)?;
                RequesterFields { by, why: None }.check(caller)?;
                Ok(Self::Status)
            }
            "list" => read::<ListRequest>(fields)?.check(caller).map(Self::List),
            "show" => {
                let ShowRequest { event_id, by } = read(fields)?;
                Ok(Self::Show {
                    event_id,
                    requester: RequesterFields { by, why: None }.check(caller)?,
                })
            }
            "conversation" => read::<ConversationRequest>(fields)?
                .check(caller)
                .map(Self::Conversation),
            "statements" => read::<StatementsRequest>(fields)?
                .check(caller)
                .map(Self::Statements),
            "erase" => read::<EraseRequest>(fields)?.check(caller),
            "resend" => read::<ResendRequest>(fields)?
                .check(caller)
                .map(Self::Resend),
            "journal" => {
                let JournalRequest { by, why } = read(fields)?;
                RequesterFields { by, why }.check(caller).map(Self::Journal)
            }
            "forget" => {
                let ForgetRequest { event_ids, by, why } = read(fields)?;
                Ok(Self::Forget {
                    event_ids: check_ids(event_ids)?,
                    requester: RequesterFields { by, why }.check(caller)?,
                })
            }
            "replay" => read::<ReplayRequest>(fields)?
                .check(caller)
                .map(Self::Replay),
            "cancel" => {
                let CancelRequest { by, why, run_id: _ } = read(fields)?;
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
            "discard" => read::<DiscardRequest>(fields)?.check(caller),
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
struct StatusFields {
    by: Option<String>,
}

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
    /// The conversation, where the body names one. Needs the parameter `ConversationIndex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Dead letters on the page, at most: 1 to 1000, 100 if left out. A short page is not always the
    /// last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Token `next` of the page before. The last page has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
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
            conversation_id: filter.conversation_id,
            ..Self::default()
        }
    }
}

impl ListRequest {
    fn check(self, caller: &Caller) -> Result<Listing, InvalidRequest> {
        let Self {
            source,
            reason,
            webhook_id,
            status_code,
            since,
            until,
            conversation_id,
            limit,
            next,
            by,
        } = self;
        let after = next.map(|token| token.parse::<Position>()).transpose();
        let filter = Filter {
            source,
            reason,
            webhook_id,
            status_code,
            since,
            until,
            conversation_id,
        };
        Ok(Listing {
            requester: RequesterFields { by, why: None }.check(caller)?,
            filter: filter.with_known_conversation("conversationId")?,
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
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
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
    /// Name of the background run to end, instead of the move task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_ids: Option<Vec<EventId>>,
    /// Conditions on the dead letters, as for `replay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    pub why: String,
}

impl DiscardRequest {
    fn check(self, caller: &Caller) -> Result<Request, InvalidRequest> {
        let Self {
            event_ids,
            filter,
            by,
            why,
        } = self;
        let requester = RequesterFields { by, why: Some(why) }.check(caller)?;
        let which = match (event_ids, filter) {
            (Some(ids), None) => Which::These(check_ids(ids)?),
            (None, Some(filter)) => Which::Matching(filter.check("it names nothing")?),
            (Some(_), Some(_)) => {
                return Err(invalid("filter", "cannot stand beside eventIds"));
            }
            (None, None) => {
                return Err(invalid("eventIds", "is missing; give eventIds or a filter"));
            }
        };
        Ok(Request::Discard { which, requester })
    }
}

/// Fields of a `forget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForgetRequest {
    /// Ids of the events, 1 to 1000.
    pub event_ids: Vec<EventId>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
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
    /// `statusCode`, `since`, `until` and `conversationId`, as for `list`.
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
    fn check(self, caller: &Caller) -> Result<Selection, InvalidRequest> {
        let which = match (self.all, self.event_ids, self.filter) {
            (Some(true), None, None) => Which::All,
            (None, Some(ids), None) => Which::These(check_ids(ids)?),
            (None, None, Some(filter)) => {
                let remedy = "names nothing; to replay everything say \"all\": true";
                Which::Matching(filter.check(remedy)?)
            }
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
    /// Checks that it has a condition, and one that can hold.
    fn check(self, if_empty: &str) -> Result<Self, InvalidRequest> {
        if self == Self::default() {
            return Err(invalid("filter", if_empty));
        }
        self.with_known_conversation("filter.conversationId")
    }

    /// Brings the id of the conversation into the form in which records have it.
    fn with_known_conversation(self, field: &str) -> Result<Self, InvalidRequest> {
        let conversation_id = self.conversation_id.as_deref();
        let known = conversation_id.map(|id| conversation::known(field, id));
        Ok(Self {
            conversation_id: known.transpose()?,
            ..self
        })
    }

    /// Returns whether a dead letter matches, whatever its conversation is.
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

    /// Returns whether it includes a dead letter, whatever its conversation is.
    pub(in crate::dead_letters) fn includes(&self, dead_letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::These(ids) => ids.contains(&dead_letter.event_id),
            Self::Matching(filter) => filter.matches(dead_letter),
        }
    }

    /// Returns whether it includes the dead event of a record.
    pub(in crate::dead_letters) fn includes_record(
        &self,
        record: &EventRecord,
        now: Timestamp,
    ) -> bool {
        let is_in_it = self
            .conversation()
            .is_none_or(|id| record.conversation_id.as_deref() == Some(id));
        is_in_it
            && DeadLetter::of(record.summary(), now)
                .is_some_and(|dead_letter| self.includes(&dead_letter))
    }

    /// Conversation whose dead letters alone it includes.
    pub(in crate::dead_letters) fn conversation(&self) -> Option<&str> {
        match self {
            Self::Matching(filter) => filter.conversation_id.as_deref(),
            Self::All | Self::These(_) => None,
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
