//! Fetches what Genesys Cloud failed to deliver, and queues what the relay does not know.
//!
//! A checkpoint says up to when that is done. It moves only when everything before it is durable here, and stays behind
//! the present by the overlap: what fails late is still seen. What is read again is recognised by its id.

mod candidate;
mod report;
mod request;
mod take_in;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::event::{BodyDigest, EventId};
use crate::domain::event_record::OperatorAction;
use crate::ports::clock::Clock;
use crate::ports::delivery_log::{DeliveryLog, DeliveryLogError};
use crate::ports::events_table::{EventsTable, LeaseName, RunLease, TableError};
use crate::ports::queue::{QueueError, Sender};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

pub use self::report::{FailedRun, Item, Next, Report};
pub use self::request::Request;

/// What is left of an invocation when no more is read, or a quarter where that is less: to queue and to record what was.
const KEEP_TIME: Duration = Duration::from_secs(30);

/// The lease of a run that was killed ends this long after the run would have ended, for clocks that differ.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// The use case, over its ports.
pub struct Recover<L, E, D, W, C> {
    /// What was not delivered.
    pub log: L,
    /// Where events go that are not known.
    pub events: E,
    /// Where goes what is no event.
    pub dead_letters: D,
    /// What is known, and how far the last run has come.
    pub table: W,
    /// Tells when a run began.
    pub clock: C,
    /// How far the checkpoint stays behind the present: Genesys Cloud tries for 85 s before it gives up, its log may lag,
    /// and clocks differ.
    pub overlap: SignedDuration,
}

/// Why a run could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another run is at work.
    #[error("a recovery of {} is at work since {} and may be until {}; try again later", .0.by, .0.since, .0.until)]
    Busy(RunLease),
    /// The relay would not recognise what it has delivered.
    #[error(
        "what is older than {oldest} may have been delivered and forgotten (records live for 15 days), and this would \
         begin at {from}; say \"force\": true to take it as new"
    )]
    TooOld {
        /// Where the run would begin.
        from: Timestamp,
        /// The beginning of what is remembered.
        oldest: Timestamp,
    },
    /// Genesys Cloud did not tell.
    #[error("the deliveries cannot be read")]
    DeliveryLog(#[from] DeliveryLogError),
    /// It did not tell of something; of all else it did.
    #[error(
        "something could not be had, and the checkpoint waits for it; the rest is queued ({count} in this run, the first that \
         is waited for: {first})"
    )]
    Unavailable {
        /// How many of what this run has fetched.
        count: u64,
        /// Why the first could not.
        first: String,
    },
    /// A queue did not take something.
    #[error("what was fetched cannot be queued")]
    Queue(#[from] QueueError),
    /// The events table failed.
    #[error("what was fetched cannot be looked up or recorded")]
    Table(#[from] TableError),
}

/// A run under way.
struct Run<'a> {
    id: Uuid,
    request: &'a Request,
    began_at: Timestamp,
    deadline: Instant,
    /// When no more is read.
    read_until: Instant,
    /// What it has come across, known or not.
    seen: HashSet<(EventId, Option<BodyDigest>)>,
    /// Why the first of what is waited for could not be had, in this run or by the one that it goes on for.
    first_withheld: Option<String>,
    report: Report,
}

impl Run<'_> {
    /// What is written on each record that the run begins.
    fn act(&self, note: &str, at: Timestamp) -> OperatorAction {
        let requester = &self.request.requester;
        let why = requester.why.as_ref().map_or_else(|| note.to_owned(), |why| format!("{why} ({note})"));
        OperatorAction { action: "recover".to_owned(), at, by: requester.by.clone(), why: Some(why) }
    }

    /// The request for the rest of a part of the time line.
    fn next(&self, from: Timestamp, span_seconds: u32, resume: Option<String>) -> Option<Next> {
        let Request { range, dry_run, force, requester, .. } = self.request;
        let to = range.as_ref()?.window.to;
        let (by, why) = (requester.by.clone(), requester.why.clone());
        Some(Next { from, to, span_seconds, resume, dry_run: *dry_run, force: *force, by, why })
    }

    /// An error, if something is waited for.
    fn check_withheld(&self) -> Result<(), RecoverError> {
        let count = self.report.withheld;
        self.first_withheld.clone().map_or(Ok(()), |first| Err(RecoverError::Unavailable { count, first }))
    }
}

impl<L, E, D, W, C> Recover<L, E, D, W, C>
where
    L: DeliveryLog,
    E: Sender,
    D: Sender,
    W: EventsTable,
    C: Clock,
{
    /// Carries out a request. A run ends well before `deadline`, and says how far it came.
    pub async fn recover(&self, request: &Request, deadline: Instant) -> Result<Report, FailedRun> {
        let began_at = to_the_millisecond(self.clock.now());
        let left = deadline.saturating_duration_since(Instant::now());
        let report = Report::new(began_at, request.dry_run);
        let read_until = deadline - KEEP_TIME.min(left / 4);
        let (seen, first_withheld) = (HashSet::new(), None);
        let mut run = Run { id: Uuid::new_v4(), request, began_at, deadline, read_until, seen, first_withheld, report };
        let outcome = if request.dry_run { self.read(&mut run).await } else { self.read_alone(&mut run).await };
        if let (None, Some(cursor)) = (&request.range, run.report.cursor) {
            let read_to = match (run.report.complete, &run.first_withheld) {
                (true, _) => began_at,
                (false, None) => run.report.to,
                // It has read further, but has to come back.
                (false, Some(_)) => began_at.min(cursor + self.overlap),
            };
            run.report.behind_seconds =
                Some(u64::try_from(began_at.duration_since(read_to).as_secs()).unwrap_or_default());
        }
        self.log_end(&run, outcome.as_ref().err());
        match outcome {
            Ok(()) => Ok(run.report),
            Err(error) => Err(FailedRun { error, report: Box::new(run.report) }),
        }
    }

    /// Reads while nobody else does.
    async fn read_alone(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        let lease = RunLease {
            owner: run.id,
            action: "recover".to_owned(),
            by: run.request.requester.by.clone(),
            since: run.began_at,
            until: run.began_at + (run.deadline + LEASE_PAST_DEADLINE).saturating_duration_since(Instant::now()),
        };
        let outcome = match self.table.acquire(LeaseName::Recovery, &lease, run.began_at).await {
            Ok(Some(held)) => return Err(RecoverError::Busy(held)),
            Ok(None) => self.read(run).await,
            // It may be ours although the answer was lost.
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.table.release(LeaseName::Recovery, run.id).await {
            tracing::warn!(run = %run.id, error = display_chain(&error), "the lease on the recovery stands until it runs out");
        }
        outcome
    }

    /// One line for each run, and its metrics unless it only looked.
    fn log_end(&self, run: &Run<'_>, error: Option<&RecoverError>) {
        let Report { from, to, fetched, new, known, unreadable, passed_over, withheld, complete, .. } = run.report;
        let (source, behind_seconds) = (self.log.name(), run.report.behind_seconds);
        let (by, why) = (&run.request.requester.by, &run.request.requester.why);
        let cursor = run.report.cursor.map(tracing::field::display);
        if !run.request.dry_run {
            metrics::RECOVERY_FETCHED.add(fetched);
            metrics::RECOVERY_NEW.add(new);
            metrics::RECOVERY_KNOWN.add(known);
            metrics::RECOVERY_UNREADABLE.add(unreadable);
            // Where another run is at work, that one tells.
            if !matches!(error, Some(RecoverError::Busy(_))) {
                metrics::RECOVERY_FAILED.is(error.is_some());
            }
            if let Some(behind) = behind_seconds {
                metrics::RECOVERY_BEHIND_TIME.time(Duration::from_secs(behind));
            }
        }
        if fetched > 0 && passed_over == fetched {
            tracing::warn!(run = %run.id, passed_over, "nothing of what was fetched is for this relay: compare RecoveryIds");
        }
        if let Some(error) = error {
            let error = display_chain(error);
            tracing::error!(
                source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over, withheld, cursor, behind_seconds, error, "recovery"
            );
        } else if run.request.dry_run {
            tracing::info!(
                source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over, complete,
                "recovery, dry run"
            );
        } else {
            tracing::info!(
                source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over, complete, cursor, behind_seconds, "recovery"
            );
        }
    }
}

/// Logs are asked in milliseconds, and no more: a border between two windows has to be the same for both.
fn to_the_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}
