//! Use case of the operator's dead letters: shows them, brings them back, archives, restores and
//! drops them.
//!
//! Lists and counts come from the index of the events table and receive nothing. Everything else
//! goes by one sweep over the dead-letter queue, except a replay of everything, which is a move
//! task of SQS. A run that takes from the queue holds a lease in the table, so that only one runs
//! at a time.
//!
//! The rooms, first in the order in which a replay passes them:
//!
//! | Room | Job |
//! |---|---|
//! | [`api`] | requests and answers |
//! | `run` | lease, deadline and audit log of a change |
//! | `sweep` | the change: receives, selects, and acts |
//! | `message`, `records` | a dead letter, and its record |
//! | `missing` | explanation of an event that is not found |
//! | `move_all`, `restore` | the changes that do not sweep |
//! | `background`, `progress` | runs in an invocation of their own |
//! | `list`, `show`, `status` | reads |

pub mod api;
mod background;
mod error;
mod list;
mod message;
mod missing;
mod move_all;
mod ports;
mod progress;
mod records;
mod restore;
mod run;
mod show;
mod status;
mod sweep;
#[cfg(test)]
mod tests;

use jiff::SignedDuration;
use tokio::time::Instant;

use crate::domain::event::EventId;
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::runtime::metrics;

use self::api::Which;
use self::background::{BackgroundRuns, Turn};
use self::list::DeadLetterIndex;
use self::move_all::MoveAll;
use self::progress::Tracked;
use self::restore::Restore;
use self::run::{Run, RunGuard};
use self::show::EventLookup;
use self::status::StatusReport;
use self::sweep::{Purpose, Sweep};

pub use self::api::{
    Answer, BackgroundState, BackgroundStatus, DeadLetter, Done, EventDetails, Failed, List,
    Listing, Missing, OrderMode, Report, Request, Selection, Start, Status, StatusAnswer,
};
pub use self::error::ReplayError;
pub use self::ports::{OrderedQueues, PortTypes, Ports};

/// Interval of the scheduled reconciliation. A later one has done what Lambda has put off for
/// longer.
const RECONCILED_EVERY: SignedDuration = SignedDuration::from_mins(5);

/// The use case, over its ports.
pub struct DeadLetters<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// Upper bound on the requests a second to the target, which `status` shows.
    pub target_rate: Option<u32>,
}

impl<T: PortTypes> DeadLetters<T> {
    /// Carries out a request. A run ends well before `deadline`, and reports what is left.
    pub async fn handle(&self, request: Request, deadline: Instant) -> Result<Answer, ReplayError> {
        match request {
            Request::Background { run_id, request } => {
                let background = BackgroundRuns { ports: &self.ports };
                match background.begin(&run_id, deadline).await? {
                    Turn::Ended(status) => Ok(status.into()),
                    Turn::Ours(tracked) => {
                        let outcome = self
                            .handle_tracked(*request, deadline, Some(&tracked))
                            .await;
                        background.end(&tracked, outcome).await
                    }
                }
            }
            request => self.handle_tracked(request, deadline, None).await,
        }
    }

    /// Carries out a request that may save its progress.
    async fn handle_tracked(
        &self,
        request: Request,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Answer, ReplayError> {
        let ports = &self.ports;
        let (index, status, move_all) = (
            DeadLetterIndex { ports },
            StatusReport {
                ports,
                target_rate: self.target_rate,
            },
            MoveAll { ports },
        );
        match request {
            Request::StatusOf(run_id) => BackgroundRuns { ports }
                .status(&run_id)
                .await
                .map(Answer::from),
            Request::Start(start) => self
                .enlist(&start)
                .await
                .map(|(background, _)| background.into()),
            Request::Background { .. } => unreachable!("a background run is a change"),
            Request::Status => {
                let status = status.read(deadline).await?;
                Ok(Answer::Status(StatusAnswer::Relay(Box::new(status))))
            }
            Request::List(listing) => index.list(&listing, deadline).await.map(Answer::List),
            Request::Show(id) => EventLookup { ports }
                .show(id)
                .await
                .map(Box::new)
                .map(Answer::Show),
            Request::Cancel(requester) => move_all.cancel(&requester).await,
            Request::Replay(selection) if selection.dry_run => {
                index.count(&selection).await.map(Answer::Replay)
            }
            Request::Replay(selection) => {
                let guard =
                    RunGuard::begin(ports, "replay", &selection.requester, deadline, tracked)
                        .await?;
                let report = self.replay(&guard.run, &selection).await;
                guard
                    .end(report, &selection.which)
                    .await
                    .map(Answer::Replay)
            }
            Request::Reconcile {
                if_needed,
                due_at,
                requester,
            } => {
                let is_overdue = due_at
                    .is_some_and(|at| ports.clock.now().duration_since(at) > RECONCILED_EVERY);
                if !is_overdue {
                    status.measure(deadline).await?;
                }
                if is_overdue || (if_needed && !index.is_reconcile_needed().await?) {
                    let mut report = Report::new(Done::Reconcile { unlisted: 0 });
                    report.complete = true;
                    return Ok(Answer::Reconcile(report));
                }
                let guard =
                    RunGuard::begin(ports, "reconcile", &requester, deadline, tracked).await?;
                let report = Sweep::run(ports, &guard.run, Purpose::Reconcile).await;
                guard.end(report, "all").await.map(Answer::Reconcile)
            }
            Request::Archive {
                older_than_days,
                requester,
            } => {
                let report = self
                    .archive_all(older_than_days, &requester, deadline, tracked)
                    .await;
                // An operator reads the error while another run holds the lease; the schedule reads
                // none.
                let is_busy = matches!(
                    report,
                    Err(ReplayError::Busy(_) | ReplayError::Moving { .. })
                );
                if !is_busy || requester.is_schedule() {
                    let is_done = report
                        .as_ref()
                        .is_ok_and(|report| report.complete && report.failures == 0);
                    metrics::ARCHIVE_FAILED.is(!is_done);
                }
                report.map(Answer::Archive)
            }
            Request::Restore { key, requester } => {
                let guard =
                    RunGuard::begin(ports, "restore", &requester, deadline, tracked).await?;
                let report = Restore { ports }.restore(&guard.run, &key).await;
                guard.end(report, &key).await.map(Answer::Restore)
            }
            Request::Discard {
                event_ids,
                requester,
            } => {
                let guard =
                    RunGuard::begin(ports, "discard", &requester, deadline, tracked).await?;
                let report = Sweep::run(ports, &guard.run, Purpose::Discard(&event_ids)).await;
                guard.end(report, &event_ids).await.map(Answer::Discard)
            }
        }
    }

    /// Saves a background run, and returns whether it must still be handed over. Fails while
    /// another run holds the lease, for which this one would only wait.
    pub async fn enlist(&self, start: &Start) -> Result<(BackgroundStatus, bool), ReplayError> {
        BackgroundRuns { ports: &self.ports }.enlist(start).await
    }

    /// Error for an event without a record: it may be in a queue, and not listed yet.
    pub async fn unrecorded(&self, id: EventId) -> ReplayError {
        EventLookup { ports: &self.ports }.unrecorded(id).await
    }

    async fn replay(&self, run: &Run<'_>, selection: &Selection) -> Result<Report, ReplayError> {
        let ports = &self.ports;
        let move_all = MoveAll { ports };
        if selection.which == Which::All
            && selection.max_messages.is_none()
            && move_all.can_move_all(run, selection).await?
        {
            return move_all.move_all(run, selection).await;
        }
        Sweep::run(ports, run, Purpose::Replay(selection)).await
    }

    async fn archive_all(
        &self,
        older_than_days: u32,
        requester: &Requester,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Report, ReplayError> {
        let ports = &self.ports;
        let guard = RunGuard::begin(ports, "archive", requester, deadline, tracked).await?;
        let age = SignedDuration::from_hours(24 * i64::from(older_than_days));
        let report = Sweep::run(
            ports,
            &guard.run,
            Purpose::archive(guard.run.began_at - age),
        )
        .await;
        guard.end(report, older_than_days).await
    }
}
