//! A replay of everything, by SQS's own move task.

use futures_util::future::try_join_all;

use super::report::{Done, Report};
use super::{Answer, Pages, Ports, Replay, ReplayError, Run, Selection};
use crate::clock::Clock;
use crate::event::EventId;
use crate::events_table::{EventsTable, TableError};
use crate::logging::chain;
use crate::metrics;
use crate::queue::{Countable, MoveTask, Redrive};
use crate::record::{Finding, Transition};
use crate::request::Origin;

/// Records that are written at the same time, when many are.
const CONCURRENT_WRITES: usize = 16;

impl<P: Ports> Replay<P> {
    /// SQS moves the messages after the answer is given; `status` shows how far it is.
    pub(super) async fn move_all(&self, run: &Run<'_>, selection: &Selection) -> Result<Report, ReplayError> {
        let mut report = Report::new(Done::Replay { replayed: 0 });
        report.matched = self.dead_letters.depth().await?.visible;
        report.complete = true;
        let mut pages = Pages::default();
        while let Some(page) = self.next_page(&mut pages).await? {
            let ids: Vec<EventId> = page.into_iter().map(|letter| letter.event_id).collect();
            self.mark(run, &ids).await?;
        }
        let started = self.redrive.start_move(selection.rate_per_second).await;
        match self.redrive.latest_move().await {
            // The answer to a call can be lost although its task has started.
            Ok(task) if started.is_ok() || task.as_ref().is_some_and(MoveTask::is_active) => {
                report.done = Done::Replay { replayed: task.as_ref().map_or(0, |task| task.moved) };
                report.move_task = task;
            }
            Err(error) if started.is_ok() => {
                report.fail(None, &format!("the move task has started; {}", chain(&error)));
            }
            Ok(_) | Err(_) => started?,
        }
        // How many it will be when the task is over, nobody is told.
        metrics::REPLAYED.add(report.matched);
        report.remaining = self.remaining().await;
        Ok(report)
    }

    /// Writes on each record that it is about to be replayed, and by whom.
    async fn mark(&self, run: &Run<'_>, ids: &[EventId]) -> Result<(), TableError> {
        for ids in ids.chunks(CONCURRENT_WRITES) {
            let records = self.table.get_many(ids).await?;
            let now = self.clock.now();
            // One that is not dead any more, or that crashed and has no record of it yet, goes without.
            let marks = records.values().filter_map(|record| match Finding::recorded(record, now)? {
                Finding::Dead(dead) => Some(dead.replayed(run.act(now))),
                Finding::Unrecorded(_) | Finding::Finished(_) | Finding::UnderWay => None,
            });
            let write = |mark: Transition| async move { self.table.write(&mark).await };
            try_join_all(marks.map(write)).await?;
        }
        Ok(())
    }

    pub(super) async fn cancel(&self, origin: &Origin) -> Result<Answer, ReplayError> {
        let latest = self.redrive.latest_move().await?;
        let Some(handle) = latest.as_ref().and_then(|task| task.handle.clone()) else {
            return Ok(Answer::Cancel { cancelled: false, move_task: latest });
        };
        self.redrive.cancel_move(&handle).await?;
        tracing::info!(audit = "cancel", by = origin.by, why = origin.why, "move task cancelled");
        let move_task = self.redrive.latest_move().await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the cancelled move task could not be looked at");
            None
        });
        Ok(Answer::Cancel { cancelled: true, move_task })
    }
}
