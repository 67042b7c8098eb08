//! The port to the events table: what is known of each event, the dead-letter index, and the lease on the dead letters.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::future::Future;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::attempts::Attempts;
use crate::domain::circuit::Circuit;
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, Summary, Transition};

/// Why a call to the table failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The table did not answer, throttled or failed: the same call may succeed later. A write may have happened.
    #[error("the events table is unavailable")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The table refused the call: the same call fails again until somebody changes something.
    #[error("the events table refused the request")]
    Refused(#[source] Box<dyn StdError + Send + Sync>),
    /// The table holds something that this program did not write, or a later version of it.
    #[error("an item of the events table cannot be read")]
    Unreadable(#[source] Box<dyn StdError + Send + Sync>),
}

/// What became of a [`Transition`].
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is durable.
    Done,
    /// The table holds something else than the transition starts from: this.
    Lost(Option<Box<EventRecord>>),
}

/// A place in the list of dead letters, which is ordered by [`EventRecord::received_at`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub(crate) String);

impl Position {
    /// Where a dead letter stands.
    pub fn of(received_at: Timestamp, event_id: &EventId) -> Self {
        Self(format!("{received_at:.3}#{event_id}"))
    }

    /// As a token that tells nobody how it is made.
    pub fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.0)
    }
}

/// A token that [`Position::token`] has not made.
#[derive(Debug, thiserror::Error)]
#[error("is no token of a list")]
pub struct InvalidToken;

impl FromStr for Position {
    type Err = InvalidToken;

    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidToken)?;
        let text = String::from_utf8(bytes).map_err(|_| InvalidToken)?;
        let (time, id) = text.split_once('#').ok_or(InvalidToken)?;
        let (time, id) = (time.parse().map_err(|_| InvalidToken)?, id.parse().map_err(|_| InvalidToken)?);
        Some(Self::of(time, &id)).filter(|position| position.0 == text).ok_or(InvalidToken)
    }
}

/// A part of the list of dead letters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// What the index holds there, oldest first.
    pub items: Vec<Summary>,
    /// Where the rest begins; `None` at the end.
    pub next: Option<Position>,
}

/// A part of the time line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// Received before this time, to the millisecond.
    pub until: Option<Timestamp>,
}

/// What one run at a time has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseName {
    /// To take from the dead-letter queue.
    DeadLetters,
    /// To fetch from Genesys Cloud and move the checkpoint.
    Recovery,
    /// To decide whether events flow.
    Breaker,
}

/// The right to something [`LeaseName`], for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLease {
    /// The run.
    pub owner: Uuid,
    /// What the run does.
    pub action: String,
    /// Who started it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub until: Timestamp,
}

/// A run of the replay function that nobody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackgroundRun {
    /// The name that whoever started it has given it.
    pub run_id: String,
    /// Differs after every write.
    pub revision: Uuid,
    /// What it does.
    pub action: String,
    /// The digest of the request that started it. Absent from what an earlier version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<String>,
    /// Who started it.
    pub by: String,
    /// Why, as far as they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When it began, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// When it has ended in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How far it is, or its answer, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Why it did not begin, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a recovery has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What Genesys Cloud failed to deliver before this time is durable here.
    pub cursor: Timestamp,
    /// How much time is read at once, in seconds: less after a run that could not even finish that.
    pub span_seconds: u32,
    /// Where in the window behind the cursor a run was cut short, as the recovery writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// The events table.
///
/// Every write of a record is conditional, and every read of a record sees all writes before it; the index may lag behind.
pub trait EventsTable: Send + Sync + 'static {
    /// Reads a record.
    fn get(&self, id: &EventId) -> impl Future<Output = Result<Option<EventRecord>, TableError>> + Send;

    /// Reads many records, in as few calls as DynamoDB allows.
    fn get_many(
        &self,
        ids: &[EventId],
    ) -> impl Future<Output = Result<BTreeMap<EventId, EventRecord>, TableError>> + Send;

    /// Takes a step if the table still holds what it starts from. Taking it twice is taking it once.
    fn write(&self, transition: &Transition) -> impl Future<Output = Result<Written, TableError>> + Send;

    /// Keeps the body of a dead event, for as long as a record lives that does not change. Returns whether it is small
    /// enough.
    fn keep_body(
        &self,
        id: &EventId,
        body: &[u8],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, TableError>> + Send;

    /// The kept body of a dead event, unless it has expired.
    fn body(&self, id: &EventId, now: Timestamp) -> impl Future<Output = Result<Option<Vec<u8>>, TableError>> + Send;

    /// Deletes the kept body of an event, if there is one.
    fn delete_body(&self, id: &EventId) -> impl Future<Output = Result<(), TableError>> + Send;

    /// Reads the next part of the dead-letter index after a position. A page can be empty and not the last one.
    fn dead_letters(
        &self,
        window: Window,
        after: Option<&Position>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, TableError>> + Send;

    /// Takes the lease on `what`, unless another run has it; then returns that one's.
    fn acquire(
        &self,
        what: LeaseName,
        lease: &RunLease,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RunLease>, TableError>> + Send;

    /// Gives the lease on `what` back, if it is still `owner`'s.
    fn release(&self, what: LeaseName, owner: Uuid) -> impl Future<Output = Result<(), TableError>> + Send;

    /// Who has the lease on `what`.
    fn lease(
        &self,
        what: LeaseName,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RunLease>, TableError>> + Send;

    /// The newest bulk replay; `None` where there is none of the last 15 days.
    fn bulk_replay(&self) -> impl Future<Output = Result<Option<BulkReplay>, TableError>> + Send;

    /// Notes a bulk replay. Only who has the lease on the dead letters does.
    fn save_bulk_replay(&self, replay: &BulkReplay) -> impl Future<Output = Result<(), TableError>> + Send;

    /// A run in the background, by its name, unless it is forgotten.
    fn background_run(
        &self,
        run_id: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<BackgroundRun>, TableError>> + Send;

    /// Saves a run in the background if the table still holds it as of `from`, or holds none; says whether it did. It is kept
    /// for as long as a record.
    fn save_background_run(
        &self,
        run: &BackgroundRun,
        from: Option<Uuid>,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, TableError>> + Send;

    /// How far a recovery has come, by the name of what it reads; `None` before the first.
    fn checkpoint(&self, source: &str) -> impl Future<Output = Result<Option<Checkpoint>, TableError>> + Send;

    /// Moves a checkpoint. It never expires.
    ///
    /// It is not conditional: whoever writes one has queued everything up to it, so that the older of two that cross
    /// only makes the next run look at something twice.
    fn save_checkpoint(
        &self,
        source: &str,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<(), TableError>> + Send;

    /// Adds to what the attempts of a minute came to. After an error they may have been added all the same, or twice.
    fn count_attempts(
        &self,
        minute: Timestamp,
        attempts: &Attempts,
    ) -> impl Future<Output = Result<(), TableError>> + Send;

    /// What the attempts of each of these minutes came to, in their order. It is forgotten after some hours.
    fn attempts(&self, minutes: &[Timestamp]) -> impl Future<Output = Result<Vec<Attempts>, TableError>> + Send;

    /// What the breaker is; `None` before it has ever looked.
    fn circuit(&self) -> impl Future<Output = Result<Option<Circuit>, TableError>> + Send;

    /// Says what the breaker is. Only who has the lease on it does.
    fn save_circuit(&self, circuit: &Circuit) -> impl Future<Output = Result<(), TableError>> + Send;
}
