//! The port to the events table: delivery records, the dead-letter index, and the leases of runs.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::attempts::Attempts;
use crate::domain::canary::CanaryRuns;
use crate::domain::circuit::Circuit;
use crate::domain::erasure::Erasures;
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, Forgetting, Summary, Transition};
use crate::domain::request::Requester;
use crate::ports::service::ServiceError;

/// The outcome of writing a [`Transition`].
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is durable.
    Done,
    /// The condition failed; the table holds this.
    Lost(Option<Box<EventRecord>>),
}

/// A place in the list of dead letters, which is ordered by [`EventRecord::received_at`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub(crate) String);

impl Position {
    /// The position of a dead letter.
    pub fn of(received_at: Timestamp, event_id: &EventId) -> Self {
        Self(format!("{received_at:.3}#{event_id}"))
    }

    /// The time of receipt at the position.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.0.split_once('#')?.0.parse().ok()
    }

    /// The event at the position.
    pub(crate) fn event_id(&self) -> Option<EventId> {
        self.0.split_once('#')?.1.parse().ok()
    }

    /// An opaque token.
    pub fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.0)
    }
}

/// A token that [`Position::token`] did not make.
#[derive(Debug, thiserror::Error)]
#[error("is not a token of a list")]
pub struct InvalidToken;

impl FromStr for Position {
    type Err = InvalidToken;

    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| InvalidToken)?;
        let text = String::from_utf8(bytes).map_err(|_| InvalidToken)?;
        let (time, id) = text.split_once('#').ok_or(InvalidToken)?;
        // A time stands as the table has it, with a fraction of any length.
        let is_time = time.parse::<Timestamp>().is_ok();
        let is_id = id.parse::<EventId>().is_ok();
        (is_time && is_id).then_some(Self(text)).ok_or(InvalidToken)
    }
}

/// A part of the list of dead letters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The summaries, oldest first.
    pub items: Vec<Summary>,
    /// The position of the next page; `None` at the end.
    pub next: Option<Position>,
}

/// A span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// Received before this time, to the millisecond.
    pub until: Option<Timestamp>,
}

/// A part of the events of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConversationPage {
    /// The ids, in the order in which the events were received.
    pub event_ids: Vec<EventId>,
    /// The position of the next page; `None` at the end.
    pub next: Option<Position>,
}

/// A part of the whole table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScannedPage {
    /// Its records, in no order.
    pub records: Vec<EventRecord>,
    /// Keys of the records that cannot be read.
    pub unreadable: Vec<String>,
    /// The key behind which the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// A resource that one run at a time may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseName {
    /// The dead-letter queue.
    DeadLetters,
    /// The journal's queue.
    Journal,
    /// The delivery log of Genesys Cloud and the checkpoint.
    Recovery,
    /// The breaker's state.
    Breaker,
}

/// The right of one run to use a resource until a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLease {
    pub owner: Uuid,
    pub action: String,
    /// The requester.
    pub by: String,
    /// The time of its start.
    pub since: Timestamp,
    /// The time at which it expires.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub until: Timestamp,
}

impl fmt::Display for RunLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            action,
            by,
            since,
            until,
            ..
        } = self;
        write!(
            formatter,
            "{action} by {by} has been running since {since}; its lease ends at {until}"
        )
    }
}

/// A run of the replay function in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackgroundRun {
    /// The name that the requester has given it.
    pub run_id: String,
    /// A value that differs after every write.
    pub revision: Uuid,
    pub action: String,
    /// The digest of the request that started it. Absent in items of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<String>,
    /// The requester of its start.
    #[serde(flatten)]
    pub requester: Requester,
    /// The time of the request.
    pub asked_at: Timestamp,
    /// The time of its start, if it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// The time by which it has ended in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The time of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Invocations that have carried it out since an operator asked for it.
    #[serde(default)]
    pub invocations: u32,
    /// The place from which it goes on if it is taken up again, as its action writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The time at which an operator cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<Timestamp>,
    /// Its progress, or its answer, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// The error that prevented or ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The state of the statements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementState {
    /// A value that differs after every write.
    pub revision: Uuid,
    /// The head of the chain and the progress, as the use case writes them.
    pub state: String,
}

/// The progress of the recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Events that Genesys Cloud failed to deliver before this time are durable here.
    pub cursor: Timestamp,
    /// The span of time that is read at once, in seconds: less after a run that could not finish
    /// one.
    pub span_seconds: u32,
    /// The place in the window after the cursor at which a run was cut short, as the recovery
    /// writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// The events table.
///
/// Every write of a record is conditional, and every read of a record sees all writes before it;
/// the index may lag behind.
pub trait EventsTable: Send + Sync + 'static {
    /// Reads a record.
    fn get(
        &self,
        id: &EventId,
    ) -> impl Future<Output = Result<Option<EventRecord>, ServiceError>> + Send;

    /// Reads many records, in as few calls as DynamoDB allows.
    fn get_many(
        &self,
        ids: &[EventId],
    ) -> impl Future<Output = Result<BTreeMap<EventId, EventRecord>, ServiceError>> + Send;

    /// Writes a transition if its condition holds. Writing it twice has the effect of writing it
    /// once.
    fn write(
        &self,
        transition: &Transition,
    ) -> impl Future<Output = Result<Written, ServiceError>> + Send;

    /// Deletes the record of a check event if its condition holds. A record that is gone is
    /// [`Written::Done`].
    fn forget(
        &self,
        forgetting: Forgetting<'_>,
    ) -> impl Future<Output = Result<Written, ServiceError>> + Send;

    /// Keeps the body of a dead event, for as long as a record lives that does not change. Returns
    /// whether it is small enough.
    fn keep_body(
        &self,
        id: &EventId,
        body: &[u8],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, ServiceError>> + Send;

    /// The kept body of a dead event, unless it has expired.
    fn body(
        &self,
        id: &EventId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, ServiceError>> + Send;

    /// Deletes the kept body of an event, if there is one.
    fn delete_body(&self, id: &EventId) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Deletes the body of an event that was kept at `kept_at`, or before. One that was kept a second
    /// later or more is of another death, and stays.
    fn take_back_body(
        &self,
        id: &EventId,
        kept_at: Timestamp,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads the next part of the dead-letter index after a position. A page can be empty and not
    /// the last one.
    fn dead_letters(
        &self,
        window: Window,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, ServiceError>> + Send;

    /// Reads the records of the events for which later events of their conversation wait, the
    /// longest wait first, and returns whether there are more than `limit`.
    fn waiting(
        &self,
        limit: usize,
        now: Timestamp,
    ) -> impl Future<Output = Result<(Vec<EventRecord>, bool), ServiceError>> + Send;

    /// Reads the ids of the events of a conversation after a position, from an index that may lag
    /// behind. A page can be empty and not the last one.
    fn conversation(
        &self,
        conversation_id: &str,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<ConversationPage, ServiceError>> + Send;

    /// Reads the records among the next `limit` items of the table, behind the item with the key
    /// `after`. A page can be empty and not the last one.
    ///
    /// A record that lives through all pages is in one of them, as it was at some moment of the scan.
    fn scan(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<ScannedPage, ServiceError>> + Send;

    /// Reads the erasures of the last 15 days; none, where there is no item of them.
    fn erasures(&self) -> impl Future<Output = Result<Erasures, ServiceError>> + Send;

    /// Saves the erasures. Requires the lease on the dead letters.
    fn save_erasures(
        &self,
        erasures: &Erasures,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Acquires the lease on `what`. Returns the lease of another run that holds it, and `None` for
    /// success.
    fn acquire(
        &self,
        what: LeaseName,
        lease: &RunLease,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RunLease>, ServiceError>> + Send;

    /// Releases the lease on `what`, if `owner` still holds it.
    fn release(
        &self,
        what: LeaseName,
        owner: Uuid,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads the lease on `what`.
    fn lease(
        &self,
        what: LeaseName,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RunLease>, ServiceError>> + Send;

    /// The newest bulk replay; `None` where there is none of the last 15 days.
    fn bulk_replay(&self) -> impl Future<Output = Result<Option<BulkReplay>, ServiceError>> + Send;

    /// Saves a bulk replay. Requires the lease on the dead letters.
    fn save_bulk_replay(
        &self,
        replay: &BulkReplay,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads a run in the background by its name, unless it has expired.
    fn background_run(
        &self,
        run_id: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<BackgroundRun>, ServiceError>> + Send;

    /// Saves a run in the background if the table still holds revision `from`, or none; returns
    /// whether it did. It is kept for as long as a record.
    fn save_background_run(
        &self,
        run: &BackgroundRun,
        from: Option<Uuid>,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, ServiceError>> + Send;

    /// Reads the checkpoint of a recovery, by the name of its log; `None` before the first run.
    fn checkpoint(
        &self,
        source: &str,
    ) -> impl Future<Output = Result<Option<Checkpoint>, ServiceError>> + Send;

    /// Moves a checkpoint. It never expires.
    ///
    /// It is not conditional: everything up to a checkpoint is queued before it is written, so that
    /// the older of two that cross only makes the next run read something twice.
    fn save_checkpoint(
        &self,
        source: &str,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads the state of the statements; `None` before the first.
    fn statement(
        &self,
    ) -> impl Future<Output = Result<Option<StatementState>, ServiceError>> + Send;

    /// Saves the state of the statements if the table still holds revision `from`, or none; returns
    /// whether it did. It never expires.
    fn save_statement(
        &self,
        state: &StatementState,
        from: Option<Uuid>,
    ) -> impl Future<Output = Result<bool, ServiceError>> + Send;

    /// Adds to the counts of a minute. After an error they may have been added all the same, or
    /// twice.
    fn count_attempts(
        &self,
        minute: Timestamp,
        attempts: &Attempts,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads the counts of these minutes, in their order. Counts expire after some hours.
    fn attempts(
        &self,
        minutes: &[Timestamp],
    ) -> impl Future<Output = Result<Vec<Attempts>, ServiceError>> + Send;

    /// Reads the breaker's state; `None` before its first run.
    fn circuit(&self) -> impl Future<Output = Result<Option<Circuit>, ServiceError>> + Send;

    /// Saves the breaker's state. Requires the lease on the breaker.
    fn save_circuit(
        &self,
        circuit: &Circuit,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Reads the newest runs of the canary; none before the first.
    fn canary_runs(&self) -> impl Future<Output = Result<CanaryRuns, ServiceError>> + Send;

    /// Saves the newest runs of the canary. Only the canary writes them, one run at a time; of two
    /// that cross, one run is lost.
    fn save_canary_runs(
        &self,
        runs: &CanaryRuns,
    ) -> impl Future<Output = Result<(), ServiceError>> + Send;
}
