//! Use case: fetches the events that Genesys Cloud failed to deliver, and queues those that the
//! relay does not know.
//!
//! Everything before the checkpoint is durable here. The checkpoint stays behind the present by the
//! overlap, so that a delivery which fails late is still seen. An event that is read twice is
//! recognised by its id.

mod candidate;
mod enqueue_missing;
mod error;
mod ports;
mod report;
mod request;
mod run;
#[cfg(test)]
mod tests;
mod windows;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use self::enqueue_missing::{BATCH, EnqueueMissing};
use self::request::{Range, to_the_millisecond};
use self::run::Run;
use self::windows::{AHEAD, Cut, Opened, TimeLine, WindowState, Windows};
use crate::ports::clock::Clock;
use crate::ports::delivery_log::{DeliveryLog, DeliveryLogError, Entry, Window};
use crate::ports::events_table::{Checkpoint, EventsTable, LeaseName};
use crate::ports::run_lease::{HeldLease, STATEMENT};
use crate::ports::service::ServiceError;
use crate::runtime::logging::{audit, display_chain};

pub use self::error::{FailedRun, RecoverError};
pub use self::ports::{PortTypes, Ports};
pub use self::report::{Item, Next, Report};
pub use self::request::Request;

/// A run ends after this many entries that could not be fetched, since each costs several tries.
/// The next run continues behind them.
const MAX_UNAVAILABLE: u64 = 5;

/// Pause between two looks at a lease that a statement holds.
const LEASE_POLL: Duration = Duration::from_secs(5);

/// Place in the delivery log.
type PlaceOf<T> = <<T as PortTypes>::Log as DeliveryLog>::Place;

/// The use case, over its ports.
pub struct Recover<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// Distance of the checkpoint from the present: Genesys Cloud tries for 85 s before it gives
    /// up, its log may lag, and clocks differ.
    pub overlap: SignedDuration,
}

impl<T: PortTypes> Recover<T> {
    /// Carries out a request. A run ends well before `deadline`, and reports how far it came.
    pub async fn recover(&self, request: &Request, deadline: Instant) -> Result<Report, FailedRun> {
        let mut run = Run::begin(
            request,
            to_the_millisecond(self.ports.clock.now()),
            deadline,
        );
        let outcome = if request.dry_run {
            self.read(&mut run).await
        } else {
            self.read_alone(&mut run).await
        };
        if let (None, Some(cursor)) = (&request.range, run.report.cursor) {
            let read_to = match (run.report.complete, &run.first_unavailable) {
                (true, _) => run.began_at,
                (false, None) => run.report.to,
                // The run has read further, but a later one must come back.
                (false, Some(_)) => run.began_at.min(cursor + self.overlap),
            };
            run.report.behind_seconds = Some(
                u64::try_from(run.began_at.duration_since(read_to).as_secs()).unwrap_or_default(),
            );
        }
        run.log_end(self.ports.log.name(), outcome.as_ref().err());
        match outcome {
            Ok(()) => Ok(run.report),
            Err(error) => Err(FailedRun {
                error,
                report: Box::new(run.report),
            }),
        }
    }

    /// Reads under the lease.
    async fn read_alone(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        let lease = loop {
            let (table, lease) = (&self.ports.table, run.lease(self.ports.clock.now()));
            match HeldLease::acquire(table, LeaseName::Recovery, &lease).await? {
                Ok(lease) => break lease,
                // A slice of a statement is short, and holds up no recovery.
                Err(other) if other.action == STATEMENT && run.has_time_to_wait() => {
                    tokio::time::sleep(LEASE_POLL).await;
                }
                Err(other) => return Err(RecoverError::Busy(other)),
            }
        };
        let outcome = self.read(run).await;
        lease.release().await;
        outcome
    }

    /// Fetches messages by their ids, whatever their status.
    async fn read_messages(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        let ports = &self.ports;
        let missing = EnqueueMissing { ports };
        let ids = &run.request.message_ids;
        for id in ids {
            let entry = ports.log.fetch(id, run.read_until).await?;
            if let Entry::Failed(failed) = &entry
                && let Some(at) = failed.at
            {
                run.check_age(at)?;
            }
            missing.enqueue_missing(vec![entry], run).await?;
        }
        run.check_unavailable()?;
        run.report.complete = true;
        Ok(())
    }

    /// Reads window after window, and moves the checkpoint after each.
    async fn read(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        if !run.request.message_ids.is_empty() {
            return self.read_messages(run).await;
        }
        let overlap = self.overlap;
        let settled = run.began_at - overlap;
        let (from, to, span_seconds, resume) = if let Some(range) = &run.request.range {
            let Range {
                window,
                span_seconds,
                resume,
            } = range;
            run.report.cursor = self
                .ports
                .table
                .checkpoint(self.ports.log.name())
                .await?
                .map(|checkpoint| checkpoint.cursor);
            (window.from, window.to, *span_seconds, resume.clone())
        } else {
            let Checkpoint {
                cursor,
                span_seconds,
                resume,
            } = self.begin(run, settled).await?;
            (
                cursor.min(settled),
                run.began_at + AHEAD,
                span_seconds,
                resume,
            )
        };
        (run.report.from, run.report.to) = (from, from);
        run.check_age(from)?;
        let (began_at, longest_span) = (run.began_at, self.ports.log.longest_span());
        let line = TimeLine {
            from,
            to,
            began_at,
            overlap,
            longest_span,
        };
        let mut windows = Windows::begin(line, span_seconds, resume.as_deref());
        loop {
            let open = match windows.open() {
                Opened::Window(open) => open,
                Opened::Complete => break,
            };
            run.first_unavailable = run.first_unavailable.take().or(open.unavailable());
            let Some((reached, why)) = self.read_window(open.window(), open.place(), run).await?
            else {
                let checkpoint;
                (windows, checkpoint) = open.finish(run.first_unavailable.is_some());
                run.report.to = windows.at().min(run.began_at);
                self.advance(run, &checkpoint).await?;
                continue;
            };
            let resumable = self.ports.log.resume(reached.clone());
            let cut = open.cut_short(&reached, resumable, run.first_unavailable.clone());
            return self.end_inside(run, cut, why).await;
        }
        run.check_unavailable()?;
        run.report.complete = true;
        Ok(())
    }

    /// Ends a run that was cut short: an error, unless the next run simply continues.
    async fn end_inside(
        &self,
        run: &mut Run<'_>,
        cut: Cut,
        why: RecoverError,
    ) -> Result<(), RecoverError> {
        if let Some(checkpoint) = &cut.checkpoint {
            self.advance(run, checkpoint).await?;
            run.report.next = run.next(cut.at, checkpoint);
        }
        run.check_unavailable()?;
        if cut.state == WindowState::Stuck {
            return Err(why);
        }
        let span = cut.span_seconds;
        tracing::warn!(run = %run.id, error = display_chain(&why), span, "ran out of time; the next run continues");
        Ok(())
    }

    /// Beginning of a run that follows the checkpoint. The first run saves one: even if nothing can
    /// be read now, the next run must begin in the same place.
    async fn begin(
        &self,
        run: &mut Run<'_>,
        settled: Timestamp,
    ) -> Result<Checkpoint, RecoverError> {
        let found = self.ports.table.checkpoint(self.ports.log.name()).await?;
        let cursor = match (run.request.move_cursor, &found) {
            (Some(cursor), _) => {
                run.check_age(cursor)?;
                cursor
            }
            (None, Some(found)) => {
                run.report.cursor = Some(found.cursor);
                return Ok(found.clone());
            }
            (None, None) => settled,
        };
        let checkpoint = Checkpoint {
            cursor,
            span_seconds: self.ports.log.longest_span(),
            resume: None,
        };
        if !run.request.dry_run {
            if run.request.move_cursor.is_some() {
                let from = found.map(|found| tracing::field::display(found.cursor));
                audit!("move cursor", &run.request.requester, run = %run.id, from, to = %cursor, "moved the checkpoint");
            }
            self.ports
                .table
                .save_checkpoint(self.ports.log.name(), &checkpoint)
                .await?;
            run.report.cursor = Some(cursor);
        }
        Ok(checkpoint)
    }

    /// Moves the checkpoint forward, never back, if the run follows it.
    async fn advance(&self, run: &mut Run<'_>, to: &Checkpoint) -> Result<(), ServiceError> {
        if run.request.dry_run || run.request.range.is_some() {
            return Ok(());
        }
        let cursor = run
            .report
            .cursor
            .map_or(to.cursor, |cursor| cursor.max(to.cursor));
        self.ports
            .table
            .save_checkpoint(
                self.ports.log.name(),
                &Checkpoint {
                    cursor,
                    ..to.clone()
                },
            )
            .await?;
        run.report.cursor = Some(cursor);
        Ok(())
    }

    /// Reads a window. Returns the place where reading stopped, and why, if time ran out or too
    /// many entries could not be fetched.
    async fn read_window(
        &self,
        window: Window,
        mut place: PlaceOf<T>,
        run: &mut Run<'_>,
    ) -> Result<Option<(PlaceOf<T>, RecoverError)>, RecoverError> {
        let ports = &self.ports;
        let missing = EnqueueMissing { ports };
        loop {
            let part = match ports.log.read(window, place.clone(), run.read_until).await {
                Ok(part) => part,
                Err(error @ DeliveryLogError::OutOfTime(_)) => {
                    return Ok(Some((place, error.into())));
                }
                Err(error) => return Err(error.into()),
            };
            let mut entries = part.entries.into_iter();
            loop {
                let batch: Vec<Entry> = entries.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                missing.enqueue_missing(batch, run).await?;
            }
            let Some(next) = part.next else {
                return Ok(None);
            };
            place = next;
            if run.report.unavailable >= MAX_UNAVAILABLE
                && let Err(why) = run.check_unavailable()
            {
                return Ok(Some((place, why)));
            }
        }
    }
}
