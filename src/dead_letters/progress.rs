//! Progress of a background run, saved while it is carried out.

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::api::{BackgroundReport, Report};
use super::ports::{PortTypes, Ports};
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::{BackgroundRun, EventsTable};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

/// Interval between two saves.
const SAVED_EVERY: Duration = Duration::from_secs(5);

/// Interval between two looks for a cancellation.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// Background run while it is carried out, with the times of its last save, and of the last look
/// for a cancellation.
pub(super) struct Tracked(Mutex<(BackgroundRun, Instant, Instant)>);

impl Tracked {
    pub(super) fn new(begun: BackgroundRun) -> Self {
        let now = Instant::now();
        Self(Mutex::new((begun, now, now)))
    }

    /// Name of the run.
    pub(super) async fn run_id(&self) -> String {
        self.0.lock().await.0.run_id.clone()
    }

    /// Report that was saved last.
    pub(super) async fn report(&self) -> Option<Report> {
        let held = self.0.lock().await;
        let saved = serde_json::from_str::<BackgroundReport>(held.0.report.as_deref()?);
        Some(saved.ok()?.report)
    }

    /// Requester of the start of the run.
    pub(super) async fn requester(&self) -> Requester {
        self.0.lock().await.0.requester.clone()
    }

    /// Place from which the run goes on, if an invocation has begun it before.
    pub(super) async fn position(&self) -> Option<String> {
        self.0.lock().await.0.position.clone()
    }

    /// Saves the place from which the run would go on.
    pub(super) async fn save_position<T: PortTypes>(
        &self,
        ports: &Ports<T>,
        report: &Report,
        position: String,
    ) -> Result<(), ServiceError> {
        self.save(ports, |run| {
            run.report = Some(json!(report).to_string());
            run.position = Some(position.clone());
        })
        .await
    }

    /// Forgets the place, once nothing is left to go on with.
    pub(super) async fn forget_position(&self) {
        self.0.lock().await.0.position = None;
    }

    /// Returns whether an operator has cancelled the run. Reads the run at most once a second.
    pub(super) async fn is_cancelled<T: PortTypes>(&self, ports: &Ports<T>) -> bool {
        let mut held = self.0.lock().await;
        if held.2.elapsed() >= LOOKED_EVERY {
            held.2 = Instant::now();
            if let Err(error) = adopt_cancel(ports, &mut held.0).await {
                // The next step looks again.
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to check whether the run was cancelled"
                );
            }
        }
        held.0.cancelled_at.is_some()
    }

    /// Returns whether the last save is some seconds ago.
    pub(super) async fn is_save_due(&self) -> bool {
        self.0.lock().await.1.elapsed() >= SAVED_EVERY
    }

    /// Saves the report so far, every few seconds.
    pub(super) async fn save_progress<T: PortTypes>(&self, ports: &Ports<T>, report: &Report) {
        if !self.is_save_due().await {
            return;
        }
        if let Err(error) = self
            .save(ports, |run| run.report = Some(json!(report).to_string()))
            .await
        {
            // The next save repeats it, and the end is saved in any case.
            tracing::warn!(
                error = display_chain(&error),
                "failed to save the progress of the run"
            );
        }
    }

    /// Saves a change of the run, unless another invocation has taken up the run.
    pub(super) async fn save<T: PortTypes>(
        &self,
        ports: &Ports<T>,
        change: impl Fn(&mut BackgroundRun),
    ) -> Result<(), ServiceError> {
        let mut held = self.0.lock().await;
        let mut is_saved = save(ports, &mut held.0, &change).await?;
        if !is_saved && adopt_cancel(ports, &mut held.0).await? {
            is_saved = save(ports, &mut held.0, &change).await?;
        }
        if !is_saved {
            tracing::warn!(
                run_id = held.0.run_id,
                "another invocation has taken up this run"
            );
        }
        held.1 = Instant::now();
        Ok(())
    }
}

/// Saves a change of a run, if the table holds it as it was; returns whether it did.
async fn save<T: PortTypes>(
    ports: &Ports<T>,
    held: &mut BackgroundRun,
    change: impl Fn(&mut BackgroundRun),
) -> Result<bool, ServiceError> {
    let mut run = BackgroundRun {
        revision: Uuid::new_v4(),
        ..held.clone()
    };
    change(&mut run);
    let (from, now) = (held.revision, ports.clock.now());
    let is_saved = ports
        .table
        .save_background_run(&run, Some(from), now)
        .await?;
    if is_saved {
        *held = run;
    }
    Ok(is_saved)
}

/// Takes over the cancellation of a run from the table; returns whether there is a new one.
async fn adopt_cancel<T: PortTypes>(
    ports: &Ports<T>,
    held: &mut BackgroundRun,
) -> Result<bool, ServiceError> {
    let now = ports.clock.now();
    let found = ports.table.background_run(&held.run_id, now).await?;
    let is_new = |found: &BackgroundRun| {
        found.cancelled_at.is_some()
            && held.cancelled_at.is_none()
            && found.began_at == held.began_at
    };
    let Some(found) = found.filter(is_new) else {
        return Ok(false);
    };
    (held.revision, held.cancelled_at) = (found.revision, found.cancelled_at);
    Ok(true)
}
