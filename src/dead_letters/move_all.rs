//! A replay of everything, by SQS's own move task.

use tokio::time::Instant;

use super::report::{Done, Report};
use super::{Answer, Pages, Ports, Replay, ReplayError, Run, Selection};
use crate::domain::event_record::{BulkReplay, REPLAY_CEILING};
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, TableError};
use crate::ports::queue::{Countable, MoveTask, Redrive};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// A run looks for events that were replayed too often for at most this part of its time. The index that it looks at lags
/// behind in any case: it decides on the way to do it, and the claim of each event on whether it may.
const LOOKING_PART: u32 = 4;

impl<P: Ports> Replay<P> {
    /// Whether SQS can move all that is there. It cannot leave any out, so those that were replayed too often make it a sweep.
    pub(super) async fn can_move_all(&self, run: &Run<'_>, selection: &Selection) -> Result<bool, TableError> {
        if selection.force {
            return Ok(true);
        }
        let look_until = Instant::now() + run.deadline.saturating_duration_since(Instant::now()) / LOOKING_PART;
        let mut pages = Pages::default();
        while Instant::now() < look_until
            && let Some(page) = self.next_page(&mut pages).await?
        {
            if page.iter().any(|letter| letter.replays >= REPLAY_CEILING) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SQS moves the messages after the answer is given; `status` shows how far it is.
    ///
    /// One write stands for a mark on each record. Where no move follows, since that was refused or the run was killed, nobody
    /// goes by it but a claim.
    pub(super) async fn move_all(&self, run: &Run<'_>, selection: &Selection) -> Result<Report, ReplayError> {
        let mut report = Report::new(Done::Replay { replayed: 0 });
        report.matched = self.dead_letters.depth().await?.visible;
        report.complete = true;
        let act = run.act(self.clock.now());
        // What an earlier one has forced may still wait in the events queue.
        let forced = if selection.force {
            Some(act.clone())
        } else {
            self.table.bulk_replay().await?.and_then(|earlier| earlier.forced)
        };
        let bulk = BulkReplay { act, forced };
        self.table.save_bulk_replay(&bulk).await?;
        let started = self.redrive.start_move(selection.rate_per_second).await;
        match self.redrive.latest_move().await {
            // The answer to a call can be lost although its task has started.
            Ok(task) if started.is_ok() || task.as_ref().is_some_and(MoveTask::is_active) => {
                report.done = Done::Replay { replayed: task.as_ref().map_or(0, |task| task.moved) };
                report.move_task = task;
            }
            Err(error) if started.is_ok() => {
                report.fail(None, &format!("the move task has started; {}", display_chain(&error)));
            }
            Ok(_) | Err(_) => started?,
        }
        // How many it will be when the task is over, nobody is told.
        metrics::REPLAYED.add(report.matched);
        report.remaining = self.remaining().await;
        Ok(report)
    }

    pub(super) async fn cancel(&self, requester: &Requester) -> Result<Answer, ReplayError> {
        let latest = self.redrive.latest_move().await?;
        let Some(handle) = latest.as_ref().and_then(|task| task.handle.clone()) else {
            return Ok(Answer::Cancel { cancelled: false, move_task: latest });
        };
        self.redrive.cancel_move(&handle).await?;
        tracing::info!(audit = "cancel", by = requester.by, why = requester.why, "move task cancelled");
        let move_task = self.redrive.latest_move().await.unwrap_or_else(|error| {
            tracing::warn!(error = display_chain(&error), "the cancelled move task could not be looked at");
            None
        });
        Ok(Answer::Cancel { cancelled: true, move_task })
    }
}
