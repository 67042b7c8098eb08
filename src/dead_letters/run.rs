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
use crate::runtime::logging::{audit, display_chain};

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

    /// A lease of this run. If the run is killed, the messages that it hides come back before the
    /// lease ends.
    pub(super) fn lease(&self, now: Timestamp) -> RunLease {
        let end = self.deadline + HIDDEN_PAST_DEADLINE;
        RunLease::new(self.id, self.action, self.requester, now, end)
    }

    /// Writes the line of the audit log for one event.
    pub(super) fn audit_event(&self, event_id: &str) {
        let action = self.action;
        audit!(action, self.requester, run = %self.id, event_id, "{action} of one event");
    }

    /// Time for which a message is hidden that is received now: past the end of the run.
    pub(super) fn hidden_for(&self) -> Duration {
        (self.deadline + HIDDEN_PAST_DEADLINE).saturating_duration_since(Instant::now())
    }

    /// Returns whether an operator has cancelled the run. One asks before each step.
    pub(super) async fn is_cancelled<T: PortTypes>(&self, ports: &Ports<T>) -> bool {
        match self.tracked {
            Some(tracked) => tracked.is_cancelled(ports).await,
            None => false,
        }
    }

    /// Saves how far the run is, if it runs in the background.
    pub(super) async fn save_progress<T: PortTypes>(&self, ports: &Ports<T>, report: &Report) {
        if let Some(tracked) = self.tracked {
            tracked.save_progress(ports, report).await;
        }
    }
}

/// Run that holds a lease: on the dead letters, or on the journal's queue.
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
        let what = LeaseName::DeadLetters;
        let mut guard = Self::hold(ports, what, action, requester, deadline, tracked).await?;
        match bulk_replay(ports).await {
            Ok(bulk) => {
                guard.run.bulk = bulk;
                Ok(guard)
            }
            Err(error) => {
                guard.lease.release().await;
                Err(error)
            }
        }
    }

    /// Takes the lease on the journal's queue, unless another run holds it.
    pub(super) async fn begin_journal(
        ports: &'a Ports<T>,
        requester: &'a Requester,
        deadline: Instant,
        tracked: Option<&'a Tracked>,
    ) -> Result<Self, ReplayError> {
        Self::hold(
            ports,
            LeaseName::Journal,
            "journal",
            requester,
            deadline,
            tracked,
        )
        .await
    }

    async fn hold(
        ports: &'a Ports<T>,
        what: LeaseName,
        action: &'static str,
        requester: &'a Requester,
        deadline: Instant,
        tracked: Option<&'a Tracked>,
    ) -> Result<Self, ReplayError> {
        let run = Run {
            id: Uuid::new_v4(),
            action,
            requester,
            began_at: ports.clock.now(),
            deadline,
            bulk: None,
            tracked,
        };
        let lease = HeldLease::acquire(&ports.table, what, &run.lease(run.began_at))
            .await?
            .map_err(ReplayError::Busy)?;
        Ok(Self { lease, run })
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
            let action = run.action;
            audit!(error, action, run.requester, run = %run.id, error = display_chain(error), "{action} failed");
        })?;
        audit!(
            run.action,
            run.requester,
            run = %run.id,
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
