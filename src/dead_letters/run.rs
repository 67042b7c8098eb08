//! Runs that change something: one at a time, by a lease, each with its lines in the audit log.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::api::Report;
use super::error::ReplayError;
use super::ports::{PortTypes, Ports, started};
use super::progress::Tracked;
use crate::domain::event_record::{BulkReplay, OperatorAction};
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, LeaseName, RunLease};
use crate::ports::queue::Redrive;
use crate::ports::run_lease::HeldLease;
use crate::runtime::logging::display_chain;

/// The answer is given this long before the deadline, whatever SQS does.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Received messages stay hidden this long past the deadline, so that a run receives no message
/// twice.
pub(super) const HIDDEN_PAST_DEADLINE: Duration = Duration::from_secs(30);

/// Run that changes something.
pub(super) struct Run<'a> {
    /// Id in every line of the audit log of this run.
    pub(super) id: Uuid,
    pub(super) action: &'static str,
    pub(super) requester: &'a Requester,
    pub(super) began_at: Timestamp,
    pub(super) deadline: Instant,
    /// Newest bulk replay before it, if its move task has started.
    pub(super) bulk: Option<BulkReplay>,
    /// Record of its progress, if it runs in the background.
    pub(super) tracked: Option<&'a Tracked>,
}

impl Run<'_> {
    /// Entry in the history of each record that the run changes.
    pub(super) fn act(&self, at: Timestamp) -> OperatorAction {
        OperatorAction {
            action: self.action.to_owned(),
            at,
            by: self.requester.by.clone(),
            why: self.requester.why.clone(),
        }
    }

    /// Saves how far the run is, if it runs in the background.
    pub(super) async fn save_progress<T: PortTypes>(&self, ports: &Ports<T>, report: &Report) {
        if let Some(tracked) = self.tracked {
            tracked.save_progress(ports, report).await;
        }
    }
}

/// Run that holds the lease on the dead letters.
pub(super) struct RunGuard<'a, T: PortTypes> {
    lease: HeldLease<'a, T::Table>,
    pub(super) run: Run<'a>,
}

impl<'a, T: PortTypes> RunGuard<'a, T> {
    /// Takes the lease, unless another run holds it or a move task is running.
    pub(super) async fn begin(
        ports: &'a Ports<T>,
        action: &'static str,
        requester: &'a Requester,
        deadline: Instant,
        tracked: Option<&'a Tracked>,
    ) -> Result<Self, ReplayError> {
        let mut run = Run {
            id: Uuid::new_v4(),
            action,
            requester,
            began_at: ports.clock.now(),
            deadline,
            bulk: None,
            tracked,
        };
        // If the run is killed, the messages that it hides come back before its lease ends.
        let end = deadline + HIDDEN_PAST_DEADLINE;
        let lease = RunLease::new(run.id, action, requester, run.began_at, end);
        let lease = HeldLease::acquire(&ports.table, LeaseName::DeadLetters, &lease)
            .await?
            .map_err(ReplayError::Busy)?;
        match bulk_replay(ports).await {
            Ok(bulk) => {
                run.bulk = bulk;
                Ok(Self { lease, run })
            }
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    /// Gives the lease back, and writes one line of the audit log.
    pub(super) async fn end(
        self,
        outcome: Result<Report, ReplayError>,
        selection: impl Serialize,
    ) -> Result<Report, ReplayError> {
        let Self { lease, run } = self;
        lease.release().await;
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
}

/// Reads the newest bulk replay, unless a move task is running.
async fn bulk_replay<T: PortTypes>(ports: &Ports<T>) -> Result<Option<BulkReplay>, ReplayError> {
    let task = ports.redrive.latest_move().await?;
    if let Some(task) = task.as_ref().filter(|task| task.is_active()) {
        return Err(ReplayError::Moving { moved: task.moved });
    }
    let bulk = ports.table.bulk_replay().await?;
    Ok(bulk.and_then(|bulk| started(bulk, task.as_ref())))
}
