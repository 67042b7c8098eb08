//! State of one run.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use super::error::RecoverError;
use super::report::{Next, Report};
use super::request::Request;
use crate::domain::event::{BodyDigest, EventId};
use crate::domain::event_record::{LIFE, OperatorAction};
use crate::ports::events_table::{Checkpoint, RunLease};
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Time kept at the end of an invocation for queueing and recording, or a quarter of the invocation
/// where that is less.
const KEEP_TIME: Duration = Duration::from_secs(30);

/// Part of the records' life that is left alone without `force`: some records expire while a run
/// reads, and clocks differ.
const EXPIRY_MARGIN: SignedDuration = SignedDuration::from_hours(1);

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) id: Uuid,
    pub(super) request: &'a Request,
    pub(super) began_at: Timestamp,
    deadline: Instant,
    /// End of reading.
    pub(super) read_until: Instant,
    /// Events of this run, known or not.
    pub(super) seen: HashSet<(EventId, Option<BodyDigest>)>,
    /// Cause of the first entry that could not be fetched, in this run or in the one that it
    /// continues.
    pub(super) first_unavailable: Option<String>,
    pub(super) report: Report,
}

impl<'a> Run<'a> {
    pub(super) fn begin(request: &'a Request, began_at: Timestamp, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        Self {
            id: Uuid::new_v4(),
            request,
            began_at,
            deadline,
            read_until: deadline - KEEP_TIME.min(left / 4),
            seen: HashSet::new(),
            first_unavailable: None,
            report: Report::new(began_at, request.dry_run),
        }
    }

    pub(super) fn lease(&self, since: Timestamp) -> RunLease {
        RunLease::new(
            self.id,
            "recover",
            &self.request.requester,
            since,
            self.deadline + LEASE_PAST_DEADLINE,
        )
    }

    /// Returns whether the run can wait for a slice of a statement, and still read something.
    pub(super) fn has_time_to_wait(&self) -> bool {
        self.read_until.saturating_duration_since(Instant::now()) > KEEP_TIME
    }

    /// Entry in the history of each record that the run begins.
    pub(super) fn action(&self, note: &str, at: Timestamp) -> OperatorAction {
        let requester = &self.request.requester;
        let why = requester
            .why
            .as_ref()
            .map_or_else(|| note.to_owned(), |why| format!("{why} ({note})"));
        OperatorAction {
            action: "recover".to_owned(),
            at,
            by: requester.by.clone(),
            why: Some(why),
        }
    }

    /// Request for the rest of a range; `None` where the run follows the checkpoint.
    pub(super) fn next(&self, from: Timestamp, rest: &Checkpoint) -> Option<Next> {
        let Request {
            range,
            dry_run,
            force,
            requester,
            ..
        } = self.request;
        let to = range.as_ref()?.window.to;
        let (span_seconds, resume) = (rest.span_seconds, rest.resume.clone());
        let (by, why) = (requester.by.clone(), requester.why.clone());
        Some(Next {
            from,
            to,
            span_seconds,
            resume,
            dry_run: *dry_run,
            force: *force,
            by,
            why,
        })
    }

    /// Fails if an entry could not be fetched.
    pub(super) fn check_unavailable(&self) -> Result<(), RecoverError> {
        let count = self.report.unavailable;
        self.first_unavailable.clone().map_or(Ok(()), |first| {
            Err(RecoverError::Unavailable { count, first })
        })
    }

    /// Refuses to read events whose records may have expired, unless the request says `force`.
    pub(super) fn check_age(&self, from: Timestamp) -> Result<(), RecoverError> {
        let oldest = self.began_at - LIFE + EXPIRY_MARGIN;
        if from < oldest && !self.request.force {
            return Err(RecoverError::TooOld { from, oldest });
        }
        Ok(())
    }

    /// Writes one line for each run, and its metrics unless it was a dry run.
    pub(super) fn log_end(&self, source: &str, error: Option<&RecoverError>) {
        let Report {
            from,
            to,
            fetched,
            new,
            known,
            unreadable,
            skipped,
            unavailable,
            complete,
            ..
        } = self.report;
        let behind_seconds = self.report.behind_seconds;
        let (by, why) = (&self.request.requester.by, &self.request.requester.why);
        let cursor = self.report.cursor.map(tracing::field::display);
        if !self.request.dry_run {
            metrics::RECOVERY_FETCHED.add(fetched);
            metrics::RECOVERY_NEW.add(new);
            metrics::RECOVERY_KNOWN.add(known);
            metrics::RECOVERY_UNREADABLE.add(unreadable);
            // The run that holds the lease reports its own outcome.
            if !matches!(error, Some(RecoverError::Busy(_))) {
                metrics::RECOVERY_FAILED.is(error.is_some());
            }
            if let Some(behind) = behind_seconds {
                metrics::RECOVERY_BEHIND_TIME.time(Duration::from_secs(behind));
            }
        }
        if fetched > 0 && skipped == fetched {
            tracing::warn!(run = %self.id, skipped, "skipped every fetched entry; compare the parameter RecoveryIds");
        }
        if let Some(error) = error {
            let error = display_chain(error);
            tracing::error!(
                source, run = %self.id, by, why, %from, %to, fetched, new, known, unreadable, skipped, unavailable, cursor, behind_seconds, error,
                "recovery failed"
            );
        } else if self.request.dry_run {
            tracing::info!(
                source, run = %self.id, by, why, %from, %to, fetched, new, known, unreadable, skipped, complete,
                "finished dry run of the recovery"
            );
        } else {
            tracing::info!(
                source, run = %self.id, by, why, %from, %to, fetched, new, known, unreadable, skipped, complete, cursor, behind_seconds,
                "finished recovery"
            );
        }
    }
}
