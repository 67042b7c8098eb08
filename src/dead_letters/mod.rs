//! The operator's dead letters: shows them, brings them back, archives, restores and drops them.
//!
//! Lists and counts come from the index of the events table and receive nothing. Everything else goes by one sweep over
//! the dead-letter queue, but for a replay of everything, which SQS's own move task does. What takes from the queue holds
//! a lease in the table, so that no two runs do at once.

mod background;
mod list;
mod move_all;
mod report;
mod request;
mod restore;
mod run;
mod status;
mod sweep;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;
use tokio::time::Instant;

use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, REPLAY_CEILING};
use crate::domain::request::Requester;
use crate::ports::archive::{Archive, ArchiveError};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Position, RunLease, TableError, Window};
use crate::ports::queue::{Countable, MoveTask, QueueError, Receiver, Redrive, Sender};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

use self::background::Tracked;
use self::request::Which;
use self::run::Run;
use self::sweep::{DEFAULT_MAX_MESSAGES, Purpose};

pub use self::background::{BackgroundState, ShownBackground};
pub use self::list::{DeadLetter, List, Shown};
pub use self::report::{Done, Failed, Missing, Report};
pub use self::request::{Listing, Request, Selection, Start};
pub use self::status::Status;

/// Dead letters that are read from the index at a time, when all are.
const PAGE: usize = 1000;

/// So many pages are counted to tell whether everything is listed. With more, the answer is that it may not be.
const MOST_COUNTED: usize = 10;

/// The schedule asks for a reconciliation this often. What Lambda has put off for longer, a later one has done.
const RECONCILED_EVERY: SignedDuration = SignedDuration::from_mins(5);

/// A list stops looking for more this long before its deadline.
const LIST_TIME: Duration = Duration::from_secs(2);

/// The use case, over its ports.
pub struct Replay<P: Ports> {
    /// Where replayed events go.
    pub events: P::Events,
    /// Where dead letters lie.
    pub dead_letters: P::DeadLetters,
    /// SQS's own way from there to the events queue.
    pub redrive: P::Redrive,
    /// What is known of each event.
    pub table: P::Table,
    /// Where old dead letters are kept.
    pub archive: P::Archive,
    /// Tells what was there when a run began.
    pub clock: P::Clock,
}

/// What stands behind the ports: a tuple of them, in the order of the fields of [`Replay`].
#[expect(missing_docs, reason = "those of the fields")]
pub trait Ports {
    type Events: Sender + Countable;
    type DeadLetters: Sender + Receiver + Countable;
    type Redrive: Redrive;
    type Table: EventsTable;
    type Archive: Archive;
    type Clock: Clock;
}

impl<E, D, R, W, A, C> Ports for (E, D, R, W, A, C)
where
    E: Sender + Countable,
    D: Sender + Receiver + Countable,
    R: Redrive,
    W: EventsTable,
    A: Archive,
    C: Clock,
{
    type Events = E;
    type DeadLetters = D;
    type Redrive = R;
    type Table = W;
    type Archive = A;
    type Clock = C;
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// SQS is moving messages already.
    #[error("a move task is running ({moved} moved); wait for it or cancel it first")]
    Moving {
        /// How many it has moved.
        moved: u64,
    },
    /// Another run takes from the dead-letter queue.
    #[error("{} of {} is at work since {} and may be until {}; try again later", .0.action, .0.by, .0.since, .0.until)]
    Busy(RunLease),
    /// Nothing is known of the event.
    #[error(
        "nothing is known of the event {0}; what came into the dead-letter queue by itself is listed within five minutes, and \
         records live for 15 days after their last change"
    )]
    Unknown(EventId),
    /// Nothing is recorded of the event, and the queues hold messages of which that may be true.
    #[error(
        "the event {0} has no record yet, and {1} messages in the queues may not be listed so far: it is one of them, or \
         unknown. What is in the dead-letter queue is listed within five minutes, or at once by {{\"action\":\"reconcile\"}}"
    )]
    NotListed(EventId, u64),
    /// No run in the background has this name.
    #[error("nothing is known of a run {0:?}; a run is remembered for 15 days")]
    UnknownRun(String),
    /// A run in the background has this name already, and is another one.
    #[error("runId: {run_id:?} is the name of another run: {why}; choose another name")]
    NameTaken {
        /// The name.
        run_id: String,
        /// How they differ.
        why: String,
    },
    /// A queue failed, and nothing is known to have been done.
    #[error("the request could not be carried out")]
    Queue(#[from] QueueError),
    /// The events table failed, and nothing is known to have been done.
    #[error("the request could not be carried out")]
    Table(#[from] TableError),
    /// The archive failed, and nothing is known to have been done.
    #[error("the request could not be carried out")]
    Archive(#[from] ArchiveError),
}

/// The answer to a request.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Answer {
    /// To `status`.
    Status(Box<Status>),
    /// To `status` of one run in the background, and to what starts one.
    #[serde(rename = "status")]
    Background {
        /// How far it is.
        background: Box<ShownBackground>,
    },
    /// To `list`.
    List(List),
    /// To `show`.
    Show(Box<Shown>),
    /// To `replay`.
    Replay(Report),
    /// To `cancel`.
    #[serde(rename_all = "camelCase")]
    Cancel {
        /// Whether there was one to cancel.
        cancelled: bool,
        /// The newest move task.
        move_task: Option<MoveTask>,
    },
    /// To `reconcile`.
    Reconcile(Report),
    /// To `archive`.
    Archive(Report),
    /// To `restore`.
    Restore(Report),
    /// To `discard`.
    Discard(Report),
}

/// How far one has read all dead letters.
#[derive(Default)]
struct Pages {
    window: Window,
    after: Option<Position>,
    is_over: bool,
}

impl Pages {
    /// From the beginning of a part of the time line.
    fn within(window: Window) -> Self {
        Self { window, ..Self::default() }
    }
}

impl<P: Ports> Replay<P> {
    /// Carries out a request. A run ends well before `deadline`, and says what is left.
    pub async fn handle(&self, request: Request, deadline: Instant) -> Result<Answer, ReplayError> {
        match request {
            Request::Background { run_id, request } => self.carry_out(&run_id, *request, deadline).await,
            request => self.handle_tracked(request, deadline, None).await,
        }
    }

    /// The same of a run that somebody may watch.
    async fn handle_tracked(
        &self,
        request: Request,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Answer, ReplayError> {
        match request {
            Request::StatusOf(run_id) => self.background(&run_id).await,
            Request::Start(start) => {
                let (background, _) = self.enlist(&start).await?;
                Ok(Answer::Background { background: Box::new(background) })
            }
            Request::Background { .. } => unreachable!("what is carried out in the background changes something"),
            Request::Status => self.status(deadline).await.map(Box::new).map(Answer::Status),
            Request::List(listing) => self.list(&listing, deadline).await.map(Answer::List),
            Request::Show(id) => self.show(id).await.map(Box::new).map(Answer::Show),
            Request::Cancel(requester) => self.cancel(&requester).await,
            Request::Replay(selection) if selection.dry_run => self.count(&selection).await.map(Answer::Replay),
            Request::Replay(selection) => {
                let run = self.begin("replay", &selection.requester, deadline, tracked).await?;
                self.end(&run, self.replay(&run, &selection).await, &selection.which).await.map(Answer::Replay)
            }
            Request::Reconcile { if_needed, due_at, requester } => {
                let is_overdue = due_at.is_some_and(|at| self.clock.now().duration_since(at) > RECONCILED_EVERY);
                if !is_overdue {
                    self.measure(deadline).await?;
                }
                if is_overdue || (if_needed && !self.is_reconcile_needed().await?) {
                    let mut report = Report::new(Done::Reconcile { unlisted: 0 });
                    report.complete = true;
                    return Ok(Answer::Reconcile(report));
                }
                let run = self.begin("reconcile", &requester, deadline, tracked).await?;
                let report = self.sweep(&run, Purpose::Reconcile).await;
                self.end(&run, report, "all").await.map(Answer::Reconcile)
            }
            Request::Archive { older_than_days, requester } => {
                let report = self.archive_all(older_than_days, &requester, deadline, tracked).await;
                // An operator who finds another run at work is told so, and the schedule has nobody to tell.
                let is_busy = matches!(report, Err(ReplayError::Busy(_) | ReplayError::Moving { .. }));
                if !is_busy || requester.is_schedule() {
                    let is_done = report.as_ref().is_ok_and(|report| report.complete && report.failures == 0);
                    metrics::ARCHIVE_FAILED.is(!is_done);
                }
                report.map(Answer::Archive)
            }
            Request::Restore { key, requester } => {
                let run = self.begin("restore", &requester, deadline, tracked).await?;
                self.end(&run, self.restore(&run, &key).await, &key).await.map(Answer::Restore)
            }
            Request::Discard { event_ids, requester } => {
                let run = self.begin("discard", &requester, deadline, tracked).await?;
                let report = self.sweep(&run, Purpose::Discard(&event_ids)).await;
                self.end(&run, report, &event_ids).await.map(Answer::Discard)
            }
        }
    }

    async fn list(&self, listing: &Listing, deadline: Instant) -> Result<List, ReplayError> {
        let now = self.clock.now();
        let mut items = Vec::new();
        let mut after = listing.after.clone();
        loop {
            let open = listing.limit - items.len();
            let page = self.table.dead_letters(listing.filter.window(), after.as_ref(), open.max(PAGE / 10)).await?;
            for summary in page.items {
                let position = Position::of(summary.received_at, &summary.event_id);
                items.extend(DeadLetter::of(summary, now).filter(|letter| listing.filter.matches(letter)));
                after = Some(position);
                if items.len() == listing.limit {
                    let next = after.map(|position| position.token());
                    return Ok(List { count: items.len(), items, next });
                }
            }
            if page.next.is_none() {
                return Ok(List { count: items.len(), items, next: None });
            }
            after = page.next;
            if Instant::now() + LIST_TIME >= deadline {
                return Ok(List { count: items.len(), items, next: after.map(|position| position.token()) });
            }
        }
    }

    async fn show(&self, id: EventId) -> Result<Shown, ReplayError> {
        let now = self.clock.now();
        let record = self.table.get(&id).await?.filter(|record| !record.is_expired(now));
        let Some(record) = record else { return Err(self.unrecorded(id).await) };
        let bulk = self.bulk_replay().await?;
        let record = BulkReplay::marked(bulk.as_ref(), &record).into_owned();
        let body = if record.state.may_need_body() { self.table.body(&id, now).await? } else { None };
        Ok(Shown::describe(record, body, now))
    }

    /// Why there is no record of an event: it may be in a queue, and not be listed yet.
    pub async fn unrecorded(&self, id: EventId) -> ReplayError {
        match self.unlisted().await {
            Ok(0) => ReplayError::Unknown(id),
            Ok(unlisted) => ReplayError::NotListed(id, unlisted),
            Err(error) => error,
        }
    }

    /// How many messages may not be listed yet, at most.
    ///
    /// What is listed may lie in either queue, or be on its way between them. So only an empty events queue, and no more dead
    /// letters than are listed, leave no doubt.
    async fn unlisted(&self) -> Result<u64, ReplayError> {
        let waiting = self.events.depth().await?.total();
        let lying = self.dead_letters.depth().await?.total();
        let (mut listed, mut pages) = (0, Pages::default());
        for _ in 0..MOST_COUNTED {
            match self.next_page(&mut pages).await? {
                Some(page) => listed += page.len() as u64,
                None => return Ok(waiting + lying.saturating_sub(listed)),
            }
        }
        Ok(waiting + lying)
    }

    /// The next of all dead letters that the index knows, oldest first; `None` after the last.
    async fn next_page(&self, pages: &mut Pages) -> Result<Option<Vec<DeadLetter>>, TableError> {
        if pages.is_over {
            return Ok(None);
        }
        let now = self.clock.now();
        let page = self.table.dead_letters(pages.window, pages.after.as_ref(), PAGE).await?;
        pages.is_over = page.next.is_none();
        pages.after = page.next;
        Ok(Some(page.items.into_iter().filter_map(|summary| DeadLetter::of(summary, now)).collect()))
    }

    /// Says what a replay would bring back.
    async fn count(&self, selection: &Selection) -> Result<Report, ReplayError> {
        let mut report = Report::new(Done::Replay { replayed: 0 });
        report.dry_run = true;
        report.complete = true;
        let most = match (selection.max_messages, &selection.which) {
            (Some(most), _) => u64::from(most),
            (None, Which::All) => u64::MAX,
            (None, Which::These(_) | Which::Matching(_)) => u64::from(DEFAULT_MAX_MESSAGES),
        };
        let mut missing = match &selection.which {
            Which::These(ids) => ids.clone(),
            Which::All | Which::Matching(_) => BTreeSet::new(),
        };
        let (mut pages, mut listed) = (Pages::within(selection.which.window()), 0);
        while let Some(page) = self.next_page(&mut pages).await? {
            listed += page.len() as u64;
            for letter in page {
                missing.remove(&letter.event_id);
                if !selection.which.includes(&letter) {
                    report.skipped += 1;
                } else if !selection.force && letter.replays >= REPLAY_CEILING {
                    report.skipped += 1;
                    report.fail(Some(letter.event_id.as_str()), &too_often());
                } else if report.matched == most {
                    report.skipped += 1;
                    report.complete = false;
                } else {
                    report.matched += 1;
                    if matches!(selection.which, Which::Matching(_)) {
                        report.event_ids.push(letter.event_id.clone());
                    }
                    report.list(letter);
                }
            }
        }
        let depth = self.dead_letters.depth().await?;
        let missing: Vec<EventId> = missing.into_iter().collect();
        let unseen = depth.total().saturating_sub(listed);
        self.explain(&missing, depth.in_flight, unseen, &mut report).await?;
        report.remaining = Some(depth.total());
        Ok(report)
    }

    async fn replay(&self, run: &Run<'_>, selection: &Selection) -> Result<Report, ReplayError> {
        if selection.which == Which::All
            && selection.max_messages.is_none()
            && self.can_move_all(run, selection).await?
        {
            return self.move_all(run, selection).await;
        }
        self.sweep(run, Purpose::Replay(selection)).await
    }

    async fn archive_all(
        &self,
        older_than_days: u32,
        requester: &Requester,
        deadline: Instant,
        tracked: Option<&Tracked>,
    ) -> Result<Report, ReplayError> {
        let run = self.begin("archive", requester, deadline, tracked).await?;
        let age = SignedDuration::from_hours(24 * i64::from(older_than_days));
        let report = self.sweep(&run, Purpose::archive(run.began_at - age)).await;
        self.end(&run, report, older_than_days).await
    }

    /// The newest bulk replay whose move has begun, as far as SQS can be asked: it is noted before, and a run can end in
    /// between.
    async fn bulk_replay(&self) -> Result<Option<BulkReplay>, TableError> {
        let Some(bulk) = self.table.bulk_replay().await? else { return Ok(None) };
        match self.redrive.latest_move().await {
            Ok(task) => Ok(begun(bulk, task.as_ref())),
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to look whether the move of the bulk replay has begun"
                );
                Ok(Some(bulk))
            }
        }
    }

    /// Many records, as `bulk` has left them.
    async fn records(
        &self,
        ids: &[EventId],
        bulk: Option<&BulkReplay>,
    ) -> Result<BTreeMap<EventId, EventRecord>, TableError> {
        let mut records = self.table.get_many(ids).await?;
        for record in records.values_mut() {
            if let Cow::Owned(marked) = BulkReplay::marked(bulk, record) {
                *record = marked;
            }
        }
        Ok(records)
    }

    /// Counted for an answer to what was done: that it cannot be counted does not undo it.
    async fn remaining(&self) -> Option<u64> {
        match self.dead_letters.depth().await {
            Ok(depth) => Some(depth.total()),
            Err(error) => {
                tracing::warn!(error = display_chain(&error), "what remains could not be counted");
                None
            }
        }
    }

    /// Whether the records say something else than what the dead-letter queue seems to hold.
    ///
    /// It may hold fewer than are listed while some are on their way there or back.
    async fn is_reconcile_needed(&self) -> Result<bool, ReplayError> {
        let now = self.clock.now();
        let lying = self.dead_letters.depth().await?.total();
        let bulk = self.bulk_replay().await?;
        let (mut listed, mut arrived) = (0, 0);
        let mut pages = Pages::default();
        while let Some(page) = self.next_page(&mut pages).await? {
            if page.iter().any(|letter| !letter.is_recorded) {
                return Ok(true);
            }
            listed += page.len() as u64;
            arrived += page.iter().filter(|letter| letter.has_arrived(bulk.as_ref(), now)).count() as u64;
        }
        Ok(lying > listed || lying < arrived)
    }
}

/// A bulk replay whose move has begun, where `newest` is the newest move task.
fn begun(bulk: BulkReplay, newest: Option<&MoveTask>) -> Option<BulkReplay> {
    newest.is_some_and(|task| task.may_have_started_since(bulk.act.at)).then_some(bulk)
}

fn too_often() -> String {
    format!("it was replayed {REPLAY_CEILING} times already; to replay it all the same say \"force\": true")
}
