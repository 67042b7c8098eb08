//! A run that changes something: one at a time, by a lease, and each with its line in the audit log.

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::background::Tracked;
use super::report::Report;
use super::sweep::HIDDEN_PAST_DEADLINE;
use super::{Ports, Replay, ReplayError, begun};
use crate::domain::event_record::{BulkReplay, OperatorAction};
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, LeaseName, RunLease};
use crate::ports::queue::Redrive;
use crate::runtime::logging::display_chain;

/// A run that changes something.
pub(super) struct Run<'a> {
    /// Joins the lines of the audit log that belong together.
    pub(super) id: Uuid,
    pub(super) action: &'static str,
    pub(super) requester: &'a Requester,
    pub(super) began_at: Timestamp,
    pub(super) deadline: Instant,
    /// The newest bulk replay before it, if its move began.
    pub(super) bulk: Option<BulkReplay>,
    /// Where it tells how far it is, if somebody may watch.
    pub(super) tracked: Option<&'a Tracked>,
}

impl Run<'_> {
    /// What is written on each record that the run changes.
    pub(super) fn act(&self, at: Timestamp) -> OperatorAction {
        OperatorAction {
            action: self.action.to_owned(),
            at,
            by: self.requester.by.clone(),
            why: self.requester.why.clone(),
        }
    }
}

/// A run that is at work.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ShownRun {
    /// What it does.
    action: String,
    /// Who started it.
    by: String,
    since: Timestamp,
    /// When others may begin, should it be heard of no more.
    until: Timestamp,
}

impl From<RunLease> for ShownRun {
    fn from(RunLease { action, by, since, until, owner: _ }: RunLease) -> Self {
        Self { action, by, since, until }
    }
}

impl<P: Ports> Replay<P> {
    /// Takes the lease, if neither another run nor a move task is at work.
    pub(super) async fn begin<'a>(
        &self,
        action: &'static str,
        requester: &'a Requester,
        deadline: Instant,
        tracked: Option<&'a Tracked>,
    ) -> Result<Run<'a>, ReplayError> {
        let mut run =
            Run { id: Uuid::new_v4(), action, requester, began_at: self.clock.now(), deadline, bulk: None, tracked };
        let left = deadline.saturating_duration_since(Instant::now());
        let lease = RunLease {
            owner: run.id,
            action: action.to_owned(),
            by: requester.by.clone(),
            since: run.began_at,
            // Should the run be killed, what it holds comes back no later than its lease ends.
            until: run.began_at + left + HIDDEN_PAST_DEADLINE,
        };
        match self.table.acquire(LeaseName::DeadLetters, &lease, run.began_at).await {
            Ok(None) => {}
            Ok(Some(held)) => return Err(ReplayError::Busy(held)),
            Err(error) => {
                // It may be ours although the answer was lost.
                self.release(&run).await;
                return Err(error.into());
            }
        }
        let refusal = match self.redrive.latest_move().await {
            Ok(Some(task)) if task.is_active() => ReplayError::Moving { moved: task.moved },
            Ok(task) => match self.table.bulk_replay().await {
                Ok(bulk) => {
                    run.bulk = bulk.and_then(|bulk| begun(bulk, task.as_ref()));
                    return Ok(run);
                }
                Err(error) => error.into(),
            },
            Err(error) => error.into(),
        };
        self.release(&run).await;
        Err(refusal)
    }

    /// Gives the lease back, and says what was done in one line of the audit log.
    pub(super) async fn end(
        &self,
        run: &Run<'_>,
        outcome: Result<Report, ReplayError>,
        selection: impl Serialize,
    ) -> Result<Report, ReplayError> {
        self.release(run).await;
        let report = outcome.inspect_err(|error| {
            tracing::error!(
                audit = run.action,
                run = %run.id,
                by = run.requester.by,
                why = run.requester.why,
                error = display_chain(error),
                "{} failed",
                run.action
            );
        })?;
        tracing::info!(
            audit = run.action,
            run = %run.id,
            by = run.requester.by,
            why = run.requester.why,
            selection = %serde_json::json!(selection),
            matched = report.matched,
            done = %serde_json::json!(report.done),
            skipped = report.skipped,
            recorded = report.recorded,
            removed = report.removed,
            failures = report.failures,
            remaining = report.remaining,
            move_task = report.move_task.is_some(),
            "{}",
            run.action
        );
        Ok(report)
    }

    async fn release(&self, run: &Run<'_>) {
        if let Err(error) = self.table.release(LeaseName::DeadLetters, run.id).await {
            tracing::warn!(run = %run.id, error = display_chain(&error), "the lease on the dead letters stands until it runs out");
        }
    }
}
