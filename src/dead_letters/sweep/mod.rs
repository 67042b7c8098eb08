//! The sweep: receives all that lies in the dead-letter queue, makes the records agree with it, acts on what the run is
//! for, and shows the rest again.
//!
//! Whatever it does, the event is durable at its next place before its message is deleted: sent, archived, or recorded as
//! discarded. A crash in between leaves it in both places, with one id.

mod act;
mod letter;
mod missing;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::list::DeadLetter;
use super::report::{Done, Report};
use super::request::Which;
use super::{Ports, Replay, ReplayError, Run, Selection, too_often};
use crate::domain::event::EventId;
use crate::domain::event_record::{
    BulkReplay, DeadLetterStatus, DeadRecord, EventRecord, OperatorAction, REPLAY_CEILING,
};
use crate::ports::archive::{ArchiveError, Part};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, TableError, Written};
use crate::ports::queue::{
    Countable, QueueError, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver, VisibilityTimeout,
};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

use self::letter::Taken;

pub(super) use self::letter::Opened;

/// Messages a run replays when the request does not say.
pub(super) const DEFAULT_MAX_MESSAGES: u32 = 10_000;

/// A run stops this long before its deadline, or with a quarter of its time left where that is less, to show again what
/// it did not take.
const RELEASE_TIME: Duration = Duration::from_mins(2);

/// The answer is given this long before the deadline, whatever SQS does.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What a run received stays hidden this long past its deadline, so that it receives no message twice.
pub(super) const HIDDEN_PAST_DEADLINE: Duration = Duration::from_secs(30);

/// A run that holds so many messages back stops: some 120,000 can be in flight ("Amazon SQS message quotas"), and past
/// that SQS answers as if the queue were empty. What is not shown again in time comes back by itself.
const MAX_HELD: usize = 100_000;

/// How long a sweep waits for one more message before it takes the queue for empty.
const POLL_WAIT: Duration = Duration::from_secs(2);

/// What a sweep is for.
pub(super) enum Purpose<'a> {
    /// To send back what is selected.
    Replay(&'a Selection),
    /// To drop these.
    Discard(&'a BTreeSet<EventId>),
    /// To archive what SQS took before a time.
    Archive {
        before: Timestamp,
        /// The object that is being put together, and what it will hold.
        part: Part,
        parted: Vec<Taken>,
    },
    /// To make the records agree with the queue, and no more.
    Reconcile,
}

impl Purpose<'_> {
    /// To archive what SQS took before a time.
    pub(super) fn archive(before: Timestamp) -> Self {
        Self::Archive { before, part: Part::default(), parted: Vec::new() }
    }

    fn done(&self) -> Done {
        match self {
            Self::Replay(_) => Done::Replay { replayed: 0 },
            Self::Discard(_) => Done::Discard { discarded: 0 },
            Self::Archive { .. } => Done::Archive { archived: 0, keys: Vec::new() },
            Self::Reconcile => Done::Reconcile { unlisted: 0 },
        }
    }

    /// The events that were asked for by name.
    fn named(&self) -> Option<&BTreeSet<EventId>> {
        match self {
            Self::Discard(ids) => Some(ids),
            Self::Replay(Selection { which: Which::These(ids), .. }) => Some(ids),
            Self::Replay(_) | Self::Archive { .. } | Self::Reconcile => None,
        }
    }
}

/// Why a sweep could not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<Stopped> for ReplayError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Queue(error) => error.into(),
            Stopped::Table(error) => error.into(),
            Stopped::Archive(error) => error.into(),
        }
    }
}

impl<P: Ports> Replay<P> {
    /// One run over the dead letters. It ends well before its deadline.
    pub(super) async fn sweep(&self, run: &Run<'_>, purpose: Purpose<'_>) -> Result<Report, ReplayError> {
        let deadline = run.deadline;
        let hidden = self.dead_letters.depth().await?.in_flight;
        let mut sweep = Sweep {
            run,
            stop_at: deadline - RELEASE_TIME.min(deadline.saturating_duration_since(Instant::now()) / 4),
            report: Report::new(purpose.done()),
            purpose,
            due: Instant::now(),
            cut_short: false,
            held: Vec::new(),
            seen: HashSet::new(),
            taken: HashSet::new(),
            refused: HashSet::new(),
        };
        let mut outcome = self.sweep_all(&mut sweep).await;
        if let Err(error) = self.finish(&mut sweep, hidden, matches!(outcome, Ok(true))).await {
            outcome = Err(error);
        }
        let has_all_named = sweep.has_all_named();
        let Sweep { mut report, held, .. } = sweep;
        let nothing_done = report.matched + report.recorded + report.removed == 0;
        match outcome {
            // What was hidden when the run began was not looked at.
            Ok(complete) => report.complete = complete && (hidden == 0 || has_all_named),
            // Nothing was done, so there is nothing to report.
            Err(error) if nothing_done => {
                self.release_messages(&held, deadline).await;
                return Err(error.into());
            }
            Err(error) => report.fail(None, &display_chain(&error)),
        }
        self.release_messages(&held, deadline).await;
        report.remaining = timeout_at(deadline - ANSWER_TIME / 2, self.remaining()).await.unwrap_or_else(|_| {
            tracing::warn!("no time left to count what remains");
            None
        });
        Ok(report)
    }

    /// Goes through the dead letters until none is left, or a bound is reached. Says whether it has seen all it had to.
    async fn sweep_all(&self, sweep: &mut Sweep<'_>) -> Result<bool, Stopped> {
        while !sweep.is_bounded() {
            let hidden_until = sweep.run.deadline + HIDDEN_PAST_DEADLINE;
            let hidden_for = hidden_until.saturating_duration_since(Instant::now());
            let wait = POLL_WAIT.min(sweep.stop_at.saturating_duration_since(Instant::now()));
            let received = self.dead_letters.receive(RECEIVED_AT_ONCE, hidden_for, wait).await?;
            if received.is_empty() {
                return Ok(!sweep.cut_short);
            }
            let taken = self.examine(received, sweep).await?;
            self.act(taken, sweep).await?;
            self.tell_progress(sweep.run.tracked, &sweep.report).await;
            if sweep.has_all_named() {
                return Ok(!sweep.cut_short);
            }
        }
        Ok(false)
    }

    /// Makes the records agree with what was received, and sorts out what the run is for.
    async fn examine(&self, received: Vec<ReceivedMessage>, sweep: &mut Sweep<'_>) -> Result<Vec<Taken>, Stopped> {
        let opened: Vec<Opened> = received.into_iter().map(Opened::from).collect();
        let (opened, records) = match self.look_up(opened, sweep.run.bulk.as_ref()).await {
            Ok(found) => found,
            Err((opened, error)) => {
                sweep.held.extend(opened.into_iter().map(|letter| letter.receipt));
                return Err(error.into());
            }
        };
        let mut taken = Vec::new();
        for letter in opened {
            let found = records.get(&letter.event_id);
            // A copy, or the event itself, dead once more. The next run will know which.
            if sweep.taken.contains(&letter.event_id) {
                sweep.hold(letter.receipt);
                continue;
            }
            match self.reconcile(&letter, found, sweep).await {
                Reconciled::Dead(dead) => taken.extend(sweep.take(letter, dead, self.clock.now())),
                Reconciled::Copy(state) => self.remove_copy(letter, found, state, sweep).await,
                Reconciled::Left => sweep.hold(letter.receipt),
            }
        }
        Ok(taken)
    }

    /// Reads the records of dead letters. One whose id another body had first gets its own id here, which SQS could not give
    /// it on the way.
    pub(super) async fn look_up(
        &self,
        mut opened: Vec<Opened>,
        bulk: Option<&BulkReplay>,
    ) -> Result<(Vec<Opened>, BTreeMap<EventId, EventRecord>), (Vec<Opened>, TableError)> {
        let ids = |opened: &[Opened]| -> Vec<EventId> { opened.iter().map(|letter| letter.event_id.clone()).collect() };
        let mut records = match self.records(&ids(&opened), bulk).await {
            Ok(records) => records,
            Err(error) => return Err((opened, error)),
        };
        let now = self.clock.now();
        let rename = |letter: &mut Opened| {
            let shared = letter.tell_apart(records.get(&letter.event_id), now)?;
            Some((letter.event_id.clone(), shared))
        };
        let renamed: BTreeMap<EventId, EventId> = opened.iter_mut().filter_map(rename).collect();
        if !renamed.is_empty() {
            let ids: Vec<EventId> = renamed.keys().cloned().collect();
            match self.records(&ids, bulk).await {
                Ok(more) => records.extend(more),
                Err(error) => return Err((opened, error)),
            }
        }
        // What has a record was counted when that was begun.
        let is_new = |id: &EventId| records.get(id).is_none_or(|record| record.is_expired(now));
        for (event_id, shared) in renamed.iter().filter(|(id, _)| is_new(id)) {
            tracing::warn!(%event_id, %shared, "found a dead letter of its own whose id another body had first");
            metrics::REUSED_IDS.add(1);
        }
        Ok((opened, records))
    }

    /// Makes the record of one dead letter say that it is dead, if it is.
    async fn reconcile(&self, opened: &Opened, found: Option<&EventRecord>, sweep: &mut Sweep<'_>) -> Reconciled {
        let now = self.clock.now();
        sweep.seen.insert(opened.event_id.clone());
        let dead = match DeadLetterStatus::of(&opened.letter(), found, now) {
            DeadLetterStatus::Dead(dead) => return Reconciled::Dead(dead),
            DeadLetterStatus::Finished(state) => return Reconciled::Copy(state.as_str()),
            DeadLetterStatus::UnderWay => return Reconciled::Left,
            DeadLetterStatus::Unrecorded(dead) => {
                dead.noted(OperatorAction { action: "reconcile".to_owned(), ..sweep.run.act(now) })
            }
        };
        let written = async {
            self.table.keep_body(&opened.event_id, opened.body(), now).await?;
            self.table.write(dead.transition()).await
        };
        match written.await {
            Ok(Written::Done) => {
                let reason = dead.death().reason.as_str();
                tracing::info!(event_id = %opened.event_id, run = %sweep.run.id, reason, "recorded");
                // Else it was counted when it was sent here.
                if !opened.message.has_own_reason() {
                    metrics::DEAD.add(dead.death().reason, 1);
                }
                sweep.report.recorded += 1;
                Reconciled::Dead(dead)
            }
            // Somebody has changed it this moment, and the next run will see how.
            Ok(Written::Lost(_)) => Reconciled::Left,
            Err(error) => {
                sweep.report.fail(Some(opened.event_id.as_str()), &display_chain(&error));
                sweep.refused.insert(opened.event_id.clone());
                Reconciled::Left
            }
        }
    }

    /// Deletes a message whose event needs it no more, and the body that a crash may have left beside its record.
    async fn remove_copy(&self, letter: Opened, found: Option<&EventRecord>, state: &str, sweep: &mut Sweep<'_>) {
        let event_id = &letter.event_id;
        if found.is_some_and(EventRecord::has_surplus_body)
            && let Err(error) = self.table.delete_body(event_id).await
        {
            sweep.report.fail(Some(event_id.as_str()), &display_chain(&error));
            sweep.hold(letter.receipt);
            return;
        }
        if let Some(Err(error)) = self.dead_letters.delete(std::slice::from_ref(&letter.receipt)).await.pop() {
            sweep.report.fail(Some(event_id.as_str()), &display_chain(&error));
            return;
        }
        tracing::info!(audit = "remove", run = %sweep.run.id, %event_id, state, "removed a copy");
        sweep.report.removed += 1;
    }

    /// What is left to do when the queue has been gone through, as far as it was.
    async fn finish(&self, sweep: &mut Sweep<'_>, hidden: u64, complete: bool) -> Result<(), Stopped> {
        self.write_part(sweep).await?;
        if !complete {
            return Ok(());
        }
        if let Some(named) = sweep.purpose.named() {
            let dealt_with = |id: &EventId| sweep.taken.contains(id) || sweep.refused.contains(id);
            let missing: Vec<EventId> = named.iter().filter(|id| !dealt_with(id)).cloned().collect();
            return self.explain(&missing, hidden, hidden, &mut sweep.report).await;
        }
        // What somebody else holds back cannot be told from what is gone.
        if matches!(sweep.purpose, Purpose::Reconcile) && hidden == 0 {
            return self.unlist(sweep).await;
        }
        Ok(())
    }

    /// Shows again at once what the run hid and did not take.
    async fn release_messages(&self, held: &[ReceiptHandle], deadline: Instant) {
        let (mut hidden, mut why) = (held.len(), "there was no time".to_owned());
        let all = async {
            for receipts in held.chunks(RECEIVED_AT_ONCE) {
                let changes: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), Duration::ZERO)).collect();
                let results = self.dead_letters.change_visibility(&changes).await;
                for result in results {
                    match result {
                        Ok(()) => hidden -= 1,
                        Err(error) => why = display_chain(&error),
                    }
                }
            }
        };
        // What it got to is counted; the rest comes back by itself.
        let _ = timeout_at(deadline - ANSWER_TIME, all).await;
        if hidden > 0 {
            tracing::warn!(hidden, error = why, "dead letters stay hidden until their visibility timeout ends");
        }
    }
}

/// What a message turned out to be.
#[expect(clippy::large_enum_variant, reason = "the common case is the large one")]
enum Reconciled {
    /// A dead letter, and recorded as such.
    Dead(DeadRecord),
    /// A copy of an event that needs it no more.
    Copy(&'static str),
    /// Nothing to touch now.
    Left,
}

/// One run over the dead letters.
struct Sweep<'a> {
    run: &'a Run<'a>,
    purpose: Purpose<'a>,
    stop_at: Instant,
    /// When the next may be sent.
    due: Instant,
    report: Report,
    /// Whether anything was left that the run is for.
    cut_short: bool,
    /// What was received and not taken.
    held: Vec<ReceiptHandle>,
    /// Every event whose message was received.
    seen: HashSet<EventId>,
    /// Those that the run acts on.
    taken: HashSet<EventId>,
    /// Those of which the report says already why the run does not.
    refused: HashSet<EventId>,
}

impl Sweep<'_> {
    /// Whether the run has to end, whatever is left.
    fn is_bounded(&self) -> bool {
        let most = match self.purpose {
            Purpose::Replay(selection) => u64::from(selection.max_messages.unwrap_or(DEFAULT_MAX_MESSAGES)),
            Purpose::Discard(_) | Purpose::Archive { .. } | Purpose::Reconcile => u64::MAX,
        };
        self.report.matched >= most || self.held.len() >= MAX_HELD || Instant::now() >= self.stop_at
    }

    /// Whether all that was asked for by name is found, so that the rest needs no looking at.
    fn has_all_named(&self) -> bool {
        self.purpose.named().is_some_and(|named| named.iter().all(|id| self.seen.contains(id)))
    }

    /// Takes a dead letter if the run is for it, and holds it otherwise.
    fn take(&mut self, letter: Opened, dead: DeadRecord, now: Timestamp) -> Option<Taken> {
        // What comes later died after the run began: perhaps just replayed, and refused once more.
        if letter.sent_at >= self.run.began_at || !self.is_for(&letter, &dead, now) {
            self.hold(letter.receipt);
            return None;
        }
        if self.is_bounded() {
            self.cut_short = true;
            self.hold(letter.receipt);
            return None;
        }
        if let Purpose::Replay(Selection { force: false, .. }) = self.purpose
            && dead.record().replays_made >= REPLAY_CEILING
        {
            self.report.fail(Some(letter.event_id.as_str()), &too_often());
            self.refused.insert(letter.event_id);
            self.hold(letter.receipt);
            return None;
        }
        self.report.matched += 1;
        self.taken.insert(letter.event_id);
        let Opened { message, receipt, sent_at, .. } = letter;
        Some(Taken { message, receipt, sent_at, dead })
    }

    fn is_for(&self, letter: &Opened, dead: &DeadRecord, now: Timestamp) -> bool {
        match &self.purpose {
            Purpose::Replay(selection) => {
                DeadLetter::of(dead.record().summary(), now).is_some_and(|dead| selection.which.includes(&dead))
            }
            Purpose::Discard(ids) => ids.contains(&letter.event_id),
            Purpose::Archive { before, .. } => letter.sent_at <= *before,
            Purpose::Reconcile => false,
        }
    }

    fn hold(&mut self, receipt: ReceiptHandle) {
        self.report.skipped += 1;
        self.held.push(receipt);
    }

    /// What there was no time for counts as not matched after all.
    fn give_back(&mut self, taken: impl Iterator<Item = Taken>) {
        for taken in taken {
            self.cut_short = true;
            self.report.matched -= 1;
            self.hold(taken.receipt);
        }
    }
}
