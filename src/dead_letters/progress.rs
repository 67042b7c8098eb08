//! Progress of a background run, saved while it is carried out.

use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::api::Report;
use super::ports::{PortTypes, Ports};
use crate::ports::clock::Clock;
use crate::ports::events_table::{BackgroundRun, EventsTable};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

/// Interval between two saves.
const SAVED_EVERY: Duration = Duration::from_secs(5);

/// Background run while it is carried out.
pub(super) struct Tracked(Mutex<(BackgroundRun, Instant)>);

impl Tracked {
    pub(super) fn new(begun: BackgroundRun) -> Self {
        Self(Mutex::new((begun, Instant::now())))
    }

    /// Saves the report so far, every few seconds.
    pub(super) async fn save_progress<T: PortTypes>(&self, ports: &Ports<T>, report: &Report) {
        if self.0.lock().await.1.elapsed() < SAVED_EVERY {
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
        change: impl FnOnce(&mut BackgroundRun),
    ) -> Result<(), ServiceError> {
        let mut held = self.0.lock().await;
        let mut run = BackgroundRun {
            revision: Uuid::new_v4(),
            ..held.0.clone()
        };
        change(&mut run);
        if !ports
            .table
            .save_background_run(&run, Some(held.0.revision), ports.clock.now())
            .await?
        {
            tracing::warn!(
                run_id = run.run_id,
                "another invocation has taken up this run"
            );
        }
        *held = (run, Instant::now());
        Ok(())
    }
}
