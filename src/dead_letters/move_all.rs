//! Replay of everything by SQS's own move task.

use tokio::time::Instant;

use super::api::{Answer, Done, Report, Selection};
use super::error::ReplayError;
use super::list::{DeadLetterIndex, Pages};
use super::ports::{PortTypes, Ports};
use super::run::Run;
use crate::domain::event_record::{BulkReplay, REPLAY_CEILING};
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::queue::{Countable, MoveTask, Redrive};
use crate::ports::service::ServiceError;
use crate::runtime::logging::{audit, display_chain};
use crate::runtime::metrics;

/// A run searches for events that were replayed too often during at most this part of its time. The
/// index lags behind in any case: it decides between move task and sweep, and the claim of each
/// event decides whether the event may be replayed.
const LOOKING_PART: u32 = 4;

/// Move task from the dead-letter queue to the events queue.
pub(super) struct MoveAll<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> MoveAll<'_, T> {
    /// Returns whether SQS can move everything. A move task skips nothing, so an event that was
    /// replayed too often needs a sweep.
    pub(super) async fn can_move_all(
        &self,
        run: &Run<'_>,
        selection: &Selection,
    ) -> Result<bool, ServiceError> {
        if selection.force {
            return Ok(true);
        }
        let look_until =
            Instant::now() + run.deadline.saturating_duration_since(Instant::now()) / LOOKING_PART;
        let (index, mut pages) = (DeadLetterIndex { ports: self.ports }, Pages::default());
        while Instant::now() < look_until
            && let Some(page) = index.next_page(&mut pages).await?
        {
            if page
                .iter()
                .any(|dead_letter| dead_letter.replays >= REPLAY_CEILING)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts a move task. SQS moves the messages after the answer is given; `status` shows its
    /// progress.
    ///
    /// One write stands for a mark on each record. If no move task follows, because SQS refused it
    /// or the run was killed, only a claim goes by that write.
    pub(super) async fn move_all(
        &self,
        run: &Run<'_>,
        selection: &Selection,
    ) -> Result<Report, ReplayError> {
        let mut report = Report::new(Done::Replay { replayed: 0 });
        report.matched = self.ports.dead_letters.depth().await?.visible;
        report.complete = true;
        let act = run.act(self.ports.clock.now());
        // Events of an earlier forced replay may still wait in the events queue.
        let forced = if selection.force {
            Some(act.clone())
        } else {
            self.ports
                .table
                .bulk_replay()
                .await?
                .and_then(|earlier| earlier.forced)
        };
        let bulk = BulkReplay { act, forced };
        self.ports.table.save_bulk_replay(&bulk).await?;
        let started = self
            .ports
            .redrive
            .start_move(selection.rate_per_second)
            .await;
        match self.ports.redrive.latest_move().await {
            // The answer to a call can be lost although its task has started.
            Ok(task) if started.is_ok() || task.as_ref().is_some_and(MoveTask::is_active) => {
                report.done = Done::Replay {
                    replayed: task.as_ref().map_or(0, |task| task.moved),
                };
                report.move_task = task;
            }
            Err(error) if started.is_ok() => {
                report.fail(
                    None,
                    &format!("the move task has started; {}", display_chain(&error)),
                );
            }
            Ok(_) | Err(_) => started?,
        }
        // SQS reports the final count to no one.
        metrics::REPLAYED.add(report.matched);
        report.remaining = self.ports.remaining().await;
        Ok(report)
    }

    /// Cancels the running move task, if there is one.
    pub(super) async fn cancel(&self, requester: &Requester) -> Result<Answer, ReplayError> {
        let latest = self.ports.redrive.latest_move().await?;
        let Some(handle) = latest.as_ref().and_then(|task| task.handle.clone()) else {
            return Ok(Answer::Cancel {
                cancelled: false,
                move_task: latest,
            });
        };
        self.ports.redrive.cancel_move(&handle).await?;
        audit!("cancel", requester, "cancelled move task");
        let move_task = self
            .ports
            .redrive
            .latest_move()
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to read the cancelled move task"
                );
                None
            });
        Ok(Answer::Cancel {
            cancelled: true,
            move_task,
        })
    }
}
