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
//! | `list`, `show`, `conversation`, `status` | reads |
//! | `journal` | journal of delivered events, and their second sending |
//! | `erase` | erasure of events, wherever the relay keeps them |
//! | `forget` | end of a check, of which no record stays |

pub mod api;
mod background;
mod conversation;
mod erase;
mod error;
mod forget;
mod journal;
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

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::Instant;

use crate::domain::event::EventId;
use crate::domain::request::Requester;
use crate::ports::clock::Clock;
use crate::ports::queue::Countable;
use crate::runtime::logging::{audit, display_chain};
use crate::runtime::metrics;
use crate::statement;

use self::api::Which;
use self::background::{BackgroundRuns, Turn};
use self::conversation::ConversationLookup;
use self::erase::Erasure;
use self::journal::{Drain, Resending};
use self::list::DeadLetterIndex;
use self::move_all::MoveAll;
use self::progress::Tracked;
use self::restore::Restore;
use self::run::{Run, RunGuard};
use self::show::EventLookup;
use self::status::StatusReport;
use self::sweep::{Purpose, Sweep};

pub use self::api::{
    Answer, BackgroundState, BackgroundStatus, Conversation, DeadLetter, Done, EventDetails,
    Failed, List, Listing, Missing, OrderMode, Remaining, Report, Request, Selection, Start,
    Status, StatusAnswer,
};
pub use self::error::ReplayError;
pub use self::forget::forget;
pub use self::ports::{OrderedQueues, PortTypes, Ports};

/// Interval of the scheduled reconciliation. A later one has done what Lambda has put off for
/// longer.
const RECONCILED_EVERY: SignedDuration = SignedDuration::from_mins(5);

/// A run that writes the journal stops receiving after this time, and leaves the rest to the next: a
/// resend or an erase that waits for the lease has it in between.
const JOURNAL_TIME: Duration = Duration::from_mins(4);

/// Such a run has ended after this time, and its lease before the schedule begins the next.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(4 * 60 + 25);

/// The use case, over its ports.
pub struct DeadLetters<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// Settings of the stack.
    pub settings: Settings,
}

/// Settings of the stack that an answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Upper bound on the requests a second to the target, which `status` shows.
    pub target_rate: Option<u32>,
    /// True if the events table has the index of conversations.
    pub has_conversation_index: bool,
    /// Upper bound on the time of one invocation of the processor.
    pub processor_timeout: Duration,
    /// Days of the point-in-time recovery of the events table.
    pub backup_days: u32,
    /// Days for which logs are kept.
    pub log_retention_days: u32,
    /// Minutes between two runs of the canary; 0 without one.
    pub canary_minutes: u32,
}

/// The defaults of the template.
impl Default for Settings {
    fn default() -> Self {
        Self {
            target_rate: None,
            has_conversation_index: true,
            processor_timeout: Duration::from_mins(1),
            backup_days: 35,
            log_retention_days: 30,
            canary_minutes: 0,
        }
    }
}

impl<T: PortTypes> DeadLetters<T> {
    /// Carries out a request. A run ends well before `deadline`, and reports what is left.
    pub async fn handle(&self, request: Request, deadline: Instant) -> Result<Answer, ReplayError> {
        self.check_index(request.needs_conversations())?;
        match request {
            Request::Background {
                run_id,
                digest,
                mut request,
            } => {
                let background = BackgroundRuns { ports: &self.ports };
                match background.begin(&run_id, &digest, deadline).await? {
                    Turn::Ended(status) => Ok(status.into()),
                    Turn::Ours(tracked) => {
                        if let Some(requester) = request.background_requester() {
                            *requester = tracked.requester().await;
                        }
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
    ///
    /// The future of a run is large; a box keeps it out of those of the others.
    async fn handle_tracked(
        &self,
        request: Request,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Answer, ReplayError> {
        let ports = &self.ports;
        match request {
            Request::Start(start) => self
                .enlist(&start)
                .await
                .map(|(background, _)| background.into()),
            Request::Background { .. } => unreachable!("a background run is a change"),
            Request::Cancel(requester) => MoveAll { ports }.cancel(&requester).await,
            Request::CancelRun { run_id, requester } => BackgroundRuns { ports }
                .cancel(&run_id, &requester)
                .await
                .map(Answer::from),
            Request::Reconcile {
                if_needed,
                due_at,
                requester,
            } => {
                let due = (if_needed, due_at);
                Box::pin(self.reconcile(due, &requester, deadline, tracked))
                    .await
                    .map(Answer::Reconcile)
            }
            Request::Archive {
                older_than_days,
                requester,
            } => Box::pin(self.archive(older_than_days, &requester, deadline, tracked))
                .await
                .map(Answer::Archive),
            Request::Journal(requester) => {
                Box::pin(self.write_journal(&requester, deadline, tracked))
                    .await
                    .map(Answer::Journal)
            }
            Request::Forget {
                event_ids,
                requester,
            } => {
                let report = forget(&ports.table, &ports.clock, &event_ids, &requester).await?;
                Ok(Answer::Forget(report))
            }
            request if request.is_look() => Box::pin(self.look(request, deadline)).await,
            request => Box::pin(self.change(request, deadline, tracked)).await,
        }
    }

    /// Carries out a request that changes nothing.
    async fn look(&self, request: Request, deadline: Instant) -> Result<Answer, ReplayError> {
        let ports = &self.ports;
        let index = DeadLetterIndex { ports };
        match request {
            Request::StatusOf(run_id) => BackgroundRuns { ports }
                .status(&run_id)
                .await
                .map(Answer::from),
            Request::Status => {
                let status = self.status_report().read(deadline).await?;
                Ok(Answer::Status(StatusAnswer::Relay(Box::new(status))))
            }
            Request::List(listing) => {
                let filter = json!(listing.filter);
                audit!("list", &listing.requester, selection = %filter, "list of dead letters");
                index.list(&listing, deadline).await.map(Answer::List)
            }
            Request::Show {
                event_id,
                requester,
            } => {
                audit!("show", &requester, %event_id, "show of one event");
                let shown = EventLookup { ports }.show(event_id).await?;
                Ok(Answer::Show(Box::new(shown)))
            }
            Request::Conversation(query) => {
                let conversation_id = query.id.as_str();
                audit!(
                    "conversation",
                    &query.requester,
                    conversation_id,
                    "list of the events of a conversation"
                );
                let events = ConversationLookup { ports }.show(&query).await?;
                Ok(Answer::Conversation(events))
            }
            Request::Statements(query) => {
                let day = query.day.map(tracing::field::display);
                audit!("statements", &query.requester, day, "list of statements");
                let listing =
                    statement::list(&ports.table, &ports.archive, query.day, query.limit).await?;
                Ok(Answer::Statements(listing))
            }
            Request::Replay(selection) => {
                let which = json!(selection.which);
                audit!("dry run", &selection.requester, selection = %which, "dry run of a replay");
                index.count(&selection).await.map(Answer::Replay)
            }
            Request::Resend(selection) => {
                let which = json!(selection.which);
                audit!("dry run", &selection.requester, selection = %which, "dry run of a resend");
                let selection = &selection;
                let resending = Resending { ports, selection };
                resending.count(deadline).await.map(Answer::Resend)
            }
            other => unreachable!("a change, and no look: {other:?}"),
        }
    }

    /// Carries out a request about dead letters or delivered events that an operator makes.
    async fn change(
        &self,
        request: Request,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Answer, ReplayError> {
        let ports = &self.ports;
        match request {
            Request::Replay(selection) => {
                let requester = &selection.requester;
                let guard = RunGuard::begin(ports, "replay", requester, deadline, tracked).await?;
                let report = self.replay(&guard.run, &selection).await;
                guard
                    .end(report, &selection.which)
                    .await
                    .map(Answer::Replay)
            }
            Request::Restore { key, requester } => {
                let guard =
                    RunGuard::begin(ports, "restore", &requester, deadline, tracked).await?;
                let report = Restore { ports }.restore(&guard.run, &key).await;
                guard.end(report, &key).await.map(Answer::Restore)
            }
            Request::Discard { which, requester } => {
                let guard =
                    RunGuard::begin(ports, "discard", &requester, deadline, tracked).await?;
                let report = Sweep::run(ports, &guard.run, Purpose::Discard(&which)).await;
                guard.end(report, &which).await.map(Answer::Discard)
            }
            Request::Erase { which, requester } => {
                let guard = RunGuard::begin(ports, "erase", &requester, deadline, tracked).await?;
                let erasure = Erasure {
                    ports,
                    run: &guard.run,
                    settings: self.settings,
                };
                let report = erasure.erase(&which).await;
                guard.end(report, &which).await.map(Answer::Erase)
            }
            Request::Resend(selection) => {
                let Some(tracked) = tracked else {
                    unreachable!("a resend runs in the background")
                };
                let (selection, requester) = (&selection, &selection.requester);
                let resending = Resending { ports, selection };
                let guard =
                    RunGuard::begin(ports, "resend", requester, deadline, Some(tracked)).await?;
                let report = resending.resend(&guard.run, tracked).await;
                let which = json!(selection.which);
                guard.end(report, which).await.map(Answer::Resend)
            }
            other => unreachable!("no change of an operator: {other:?}"),
        }
    }

    fn status_report(&self) -> StatusReport<'_, T> {
        StatusReport {
            ports: &self.ports,
            settings: self.settings,
        }
    }

    async fn reconcile(
        &self,
        (if_needed, due_at): (bool, Option<Timestamp>),
        requester: &Requester,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Report, ReplayError> {
        let ports = &self.ports;
        let is_overdue =
            due_at.is_some_and(|at| ports.clock.now().duration_since(at) > RECONCILED_EVERY);
        if !is_overdue {
            self.status_report().measure(deadline).await?;
        }
        let index = DeadLetterIndex { ports };
        if is_overdue || (if_needed && !index.is_reconcile_needed().await?) {
            let mut report = Report::new(Done::Reconcile { unlisted: 0 });
            report.complete = true;
            return Ok(report);
        }
        let guard = RunGuard::begin(ports, "reconcile", requester, deadline, tracked).await?;
        let report = Sweep::run(ports, &guard.run, Purpose::Reconcile).await;
        guard.end(report, "all").await
    }

    async fn archive(
        &self,
        older_than_days: u32,
        requester: &Requester,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Report, ReplayError> {
        let report = self
            .archive_all(older_than_days, requester, deadline, tracked)
            .await;
        // An operator reads the error while another run holds the lease; the schedule reads none.
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
        report
    }

    /// Saves a background run, and returns whether it must still be handed over. Fails while
    /// another run holds the lease, for which this one would only wait.
    pub async fn enlist(&self, start: &Start) -> Result<(BackgroundStatus, bool), ReplayError> {
        self.check_index(start.needs_conversations)?;
        if start.action == "resend" && self.ports.journal.is_none() {
            return Err(ReplayError::NoJournal);
        }
        BackgroundRuns { ports: &self.ports }.enlist(start).await
    }

    /// Returns whether a background run, which an invocation has just carried out as far as its time
    /// allowed, is to be handed over once more.
    pub async fn goes_on(&self, run_id: &str) -> Result<bool, ReplayError> {
        BackgroundRuns { ports: &self.ports }.goes_on(run_id).await
    }

    /// Checks that the stack has the index of conversations, where a request needs it.
    fn check_index(&self, is_needed: bool) -> Result<(), ReplayError> {
        if is_needed && !self.settings.has_conversation_index {
            return Err(ReplayError::NoConversationIndex);
        }
        Ok(())
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

    /// Drains the queue of the journal, if it holds anything. The schedule leaves it to a later run
    /// while another one holds the lease.
    async fn write_journal(
        &self,
        requester: &Requester,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Report, ReplayError> {
        let ports = &self.ports;
        let queue = ports.journal.as_ref().ok_or(ReplayError::NoJournal)?;
        let mut report = Report::new(Done::Journal { journalled: 0 });
        if queue.depth().await?.total() == 0 {
            report.complete = true;
            return Ok(report);
        }
        let deadline = deadline.min(Instant::now() + JOURNAL_DEADLINE);
        let guard = match RunGuard::begin_journal(ports, requester, deadline, tracked).await {
            Ok(guard) => guard,
            Err(error @ ReplayError::Busy(_)) if requester.is_schedule() => {
                tracing::info!(
                    error = display_chain(&error),
                    "delivered events wait for the journal"
                );
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let stop_at = Instant::now() + JOURNAL_TIME.min(left * 3 / 4);
        let drained = Drain { ports }
            .drain_visible(&guard.run, guard.run.began_at, stop_at)
            .await;
        let outcome = drained.map(|drained| {
            report.matched = drained.journalled + drained.left_out;
            report.skipped = drained.left_out;
            report.complete = drained.complete;
            report.done = Done::Journal {
                journalled: drained.journalled,
            };
            report
        });
        guard.end(outcome, "all").await
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
