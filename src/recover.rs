//! Fetches what Genesys Cloud failed to deliver, and queues what the relay does not know.
//!
//! A checkpoint says up to when that is done. It moves only when everything before it is durable here, and stays behind
//! the present by the overlap: what fails late is still seen. What is read again is recognised by its id.

mod candidate;
mod request;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::Clock;
use crate::delivery_log::{DeliveryLog, Entry, Window};
use crate::event::{EventId, Source};
use crate::events_table::{Checkpoint, EventsTable, Exclusive, Lease, TableError};
use crate::genesys::GenesysError;
use crate::logging::{METRICS, chain};
use crate::message::Message;
use crate::queue::{QueueError, Sender};
use crate::record::{Act, LIFE, Record};

use self::candidate::Candidate;
use self::request::Range;

pub use self::request::Request;

/// How much time a request may ask to be read at once, in seconds; each log has its own bound below that. A run that cannot finish a window tries half next time.
const LONGEST_SPAN: u32 = 24 * 3600;
const SHORTEST_SPAN: u32 = 1;

/// So much of the time for which records live is left alone without `force`: some of them end while a run reads, and clocks
/// differ.
const FORGETTING: SignedDuration = SignedDuration::from_hours(1);

/// A run ends once so many things could not be had, since trying each takes a while. The next one goes on behind them.
const MAX_WITHHELD: u64 = 5;

/// What goes on from the checkpoint reads this far into the future, where a clock of Genesys Cloud may be already.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// What is left of an invocation when no more is read, or a quarter where that is less: to queue and to record what was.
const KEEP_TIME: Duration = Duration::from_secs(30);

/// The lease of a run that was killed ends this long after the run would have ended, for clocks that differ.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// What is looked up, queued and recorded at a time: as many as a batch of SQS takes.
const BATCH: usize = 10;

/// A dry run lists so many of what it would queue.
const MAX_LISTED: usize = 100;

/// The use case, over its ports.
pub struct Recover<L, E, D, W, C> {
    /// What was not delivered.
    pub log: L,
    /// Where events go that are not known.
    pub events: E,
    /// Where goes what is no event.
    pub dead_letters: D,
    /// What is known, and how far the last run has come.
    pub table: W,
    /// Tells when a run began.
    pub clock: C,
    /// How far the checkpoint stays behind the present: Genesys Cloud tries for 85 s before it gives up, its log may lag,
    /// and clocks differ.
    pub overlap: SignedDuration,
}

/// Why a run could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another run is at work.
    #[error("a recovery of {} is at work since {} and may be until {}; try again later", .0.by, .0.since, .0.until)]
    Busy(Lease),
    /// The relay would not recognise what it has delivered.
    #[error(
        "what is older than {oldest} may have been delivered and forgotten (records live for 15 days), and this would \
         begin at {from}; say \"force\": true to take it as new"
    )]
    TooOld {
        /// Where the run would begin.
        from: Timestamp,
        /// The beginning of what is remembered.
        oldest: Timestamp,
    },
    /// Genesys Cloud did not tell.
    #[error("the deliveries cannot be read")]
    Genesys(#[from] GenesysError),
    /// It did not tell of something; of all else it did.
    #[error(
        "something could not be had, and the checkpoint waits for it; the rest is queued ({count} in this run, the first that \
         is waited for: {first})"
    )]
    Withheld {
        /// How many of what this run has fetched.
        count: u64,
        /// Why the first could not.
        first: String,
    },
    /// A queue did not take something.
    #[error("what was fetched cannot be queued")]
    Queue(#[from] QueueError),
    /// The events table failed.
    #[error("what was fetched cannot be looked up or recorded")]
    Table(#[from] TableError),
}

/// A run that failed, and what it had done by then. All of that is durable; the next run begins where its checkpoint is.
#[derive(Debug, thiserror::Error)]
#[error(
    "the recovery failed, after {} were fetched: {} new, {} known, {} unreadable; it has read up to {}",
    .report.fetched, .report.new, .report.known, .report.unreadable, .report.to
)]
pub struct FailedRun {
    /// Why.
    #[source]
    pub error: RecoverError,
    /// What it had done.
    pub report: Box<Report>,
}

/// What a run has done, or what a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was read begins here,
    pub from: Timestamp,
    /// and ends here.
    pub to: Timestamp,
    /// Everything that the log listed there. The next five add up to it, unless a run failed.
    pub fetched: u64,
    /// Events that were not known, and are queued now.
    pub new: u64,
    /// What was known already: delivered, on its way, dead, archived or discarded.
    pub known: u64,
    /// What is a dead letter now, since it is no event.
    pub unreadable: u64,
    /// What was not for this relay, or needs no recovery.
    pub passed_over: u64,
    /// What could not be had, and is waited for.
    pub withheld: u64,
    /// Whether all that was asked for was read.
    pub complete: bool,
    /// Whether nothing was queued.
    pub dry_run: bool,
    /// Everything before this time is durable here; `null` where no run has gone on from a checkpoint yet.
    pub cursor: Option<Timestamp>,
    /// How long ago the time is up to which a run has read that goes on from the checkpoint, in seconds. 0 if it has read
    /// everything.
    pub behind_seconds: Option<u64>,
    /// The request that goes on, after one for a part of the time line that was not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Some of what a dry run would queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// A request for the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    from: Timestamp,
    to: Timestamp,
    span_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
    dry_run: bool,
    force: bool,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// A window in which a run was cut short, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Resume<P> {
    from: Timestamp,
    to: Timestamp,
    /// When the reading of the window began: what failed later than that may stand before the place.
    began_at: Timestamp,
    /// Why something before the place could not be had, so that the window has to be read once more.
    withheld: Option<String>,
    place: P,
}

/// Where a window was left, and why.
struct Cut<P> {
    place: P,
    why: RecoverError,
}

impl<P: Serialize + DeserializeOwned> Resume<P> {
    fn token(&self) -> Option<String> {
        serde_json::to_vec(self).ok().map(|json| BASE64_URL_SAFE_NO_PAD.encode(json))
    }

    /// What cannot be read, of another version perhaps, is none: the window is then read from its beginning.
    fn read(token: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
    }
}

/// Something that a dry run would queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    event_id: EventId,
    source: Source,
    received_at: Timestamp,
    note: String,
}

/// A run under way.
struct Run<'a> {
    id: Uuid,
    request: &'a Request,
    began_at: Timestamp,
    deadline: Instant,
    /// When no more is read.
    read_until: Instant,
    /// What it has come across, known or not.
    seen: HashSet<EventId>,
    /// Why the first of what is waited for could not be had, in this run or by the one that it goes on for.
    first_withheld: Option<String>,
    report: Report,
}

impl Run<'_> {
    /// What is written on each record that the run begins.
    fn act(&self, note: &str, at: Timestamp) -> Act {
        let origin = &self.request.origin;
        let why = origin.why.as_ref().map_or_else(|| note.to_owned(), |why| format!("{why} ({note})"));
        Act { action: "recover".to_owned(), at, by: origin.by.clone(), why: Some(why) }
    }

    /// The request for the rest of a part of the time line.
    fn next(&self, from: Timestamp, span_seconds: u32, resume: Option<String>) -> Option<Next> {
        let Request { range, dry_run, force, origin, .. } = self.request;
        let to = range.as_ref()?.window.to;
        let (by, why) = (origin.by.clone(), origin.why.clone());
        Some(Next { from, to, span_seconds, resume, dry_run: *dry_run, force: *force, by, why })
    }

    /// An error, if something is waited for.
    fn check_withheld(&self) -> Result<(), RecoverError> {
        let count = self.report.withheld;
        self.first_withheld.clone().map_or(Ok(()), |first| Err(RecoverError::Withheld { count, first }))
    }
}

impl<L, E, D, W, C> Recover<L, E, D, W, C>
where
    L: DeliveryLog,
    E: Sender,
    D: Sender,
    W: EventsTable,
    C: Clock,
{
    /// Carries out a request. A run ends well before `deadline`, and says how far it came.
    pub async fn recover(&self, request: &Request, deadline: Instant) -> Result<Report, FailedRun> {
        let began_at = to_the_millisecond(self.clock.now());
        let left = deadline.saturating_duration_since(Instant::now());
        let report = Report {
            from: began_at,
            to: began_at,
            fetched: 0,
            new: 0,
            known: 0,
            unreadable: 0,
            passed_over: 0,
            withheld: 0,
            complete: false,
            dry_run: request.dry_run,
            cursor: None,
            behind_seconds: None,
            next: None,
            items: Vec::new(),
        };
        let read_until = deadline - KEEP_TIME.min(left / 4);
        let (seen, first_withheld) = (HashSet::new(), None);
        let mut run = Run { id: Uuid::new_v4(), request, began_at, deadline, read_until, seen, first_withheld, report };
        let outcome = if request.dry_run { self.read(&mut run).await } else { self.read_alone(&mut run).await };
        if let (None, Some(cursor)) = (&request.range, run.report.cursor) {
            let read_to = match (run.report.complete, &run.first_withheld) {
                (true, _) => began_at,
                (false, None) => run.report.to,
                // It has read further, but has to come back.
                (false, Some(_)) => began_at.min(cursor + self.overlap),
            };
            run.report.behind_seconds =
                Some(u64::try_from(began_at.duration_since(read_to).as_secs()).unwrap_or_default());
        }
        self.log_end(&run, outcome.as_ref().err());
        match outcome {
            Ok(()) => Ok(run.report),
            Err(error) => Err(FailedRun { error, report: Box::new(run.report) }),
        }
    }

    /// Reads while nobody else does.
    async fn read_alone(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        let lease = Lease {
            owner: run.id,
            action: "recover".to_owned(),
            by: run.request.origin.by.clone(),
            since: run.began_at,
            until: run.began_at + (run.deadline + LEASE_PAST_DEADLINE).saturating_duration_since(Instant::now()),
        };
        let outcome = match self.table.acquire(Exclusive::Recovery, &lease, run.began_at).await {
            Ok(Some(held)) => return Err(RecoverError::Busy(held)),
            Ok(None) => self.read(run).await,
            // It may be ours although the answer was lost.
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.table.release(Exclusive::Recovery, run.id).await {
            tracing::warn!(run = %run.id, error = chain(&error), "the lease on the recovery stands until it runs out");
        }
        outcome
    }

    /// Reads window after window, and moves the checkpoint after each.
    async fn read(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
        // The checkpoint goes no further: what comes after this may still fail late.
        let mut settled = run.began_at - self.overlap;
        let (from, to, mut span, resume) = if let Some(Range { window, span_seconds, resume }) = &run.request.range {
            run.report.cursor = self.table.checkpoint(self.log.name()).await?.map(|checkpoint| checkpoint.cursor);
            (window.from, window.to, *span_seconds, resume.clone())
        } else {
            let Checkpoint { cursor, span_seconds, resume } = self.begin(run, settled).await?;
            (cursor.min(settled), run.began_at + AHEAD, span_seconds, resume)
        };
        (run.report.from, run.report.to) = (from, from);
        check_age(run, from)?;
        let longest = self.log.longest_span();
        let mut at = from;
        let mut resume = resume.as_deref().and_then(Resume::<L::Place>::read);
        while at < to {
            span = span.min(longest);
            let anew = || Resume {
                from: at,
                to: to.min(at + SignedDuration::from_secs(span.into())),
                began_at: run.began_at,
                withheld: None,
                place: L::Place::default(),
            };
            let resumed = resume.take().filter(|resume| resume.from == at && resume.to <= to);
            let Resume { from: _, to: end, began_at, withheld, place } = resumed.unwrap_or_else(anew);
            settled = settled.min(began_at - self.overlap);
            run.first_withheld = run.first_withheld.take().or(withheld);
            let cut = self.read_window(Window { from: at, to: end }, place.clone(), run).await?;
            if run.first_withheld.is_some() {
                settled = settled.min(at);
            }
            let Some(Cut { place: reached, why }) = cut else {
                at = end;
                run.report.to = at.min(run.began_at);
                span = (span * 2).min(longest);
                self.advance(run, at.min(settled), span, None).await?;
                continue;
            };
            let has_advanced = at > from || reached != place;
            let reached = self.log.resume(reached);
            // Where no place can be remembered, a window that was too long for what was left of this run is too long.
            let is_shortest = reached.is_none() && span == SHORTEST_SPAN && at == from;
            if reached.is_none() {
                span = (span / 2).max(SHORTEST_SPAN);
            }
            let withheld = run.first_withheld.clone();
            let resume = reached.and_then(|place| Resume { from: at, to: end, began_at, withheld, place }.token());
            if has_advanced {
                self.advance(run, at.min(settled), span, resume.clone()).await?;
                run.report.next = run.next(at, span, resume);
            }
            run.check_withheld()?;
            if !has_advanced || is_shortest {
                return Err(why);
            }
            tracing::warn!(run = %run.id, error = chain(&why), span, "there was not enough time; the next run goes on");
            return Ok(());
        }
        run.check_withheld()?;
        run.report.complete = true;
        Ok(())
    }

    /// Where a run begins that follows the checkpoint. The first one puts it there: even if nothing can be read now, the
    /// next has to begin in the same place.
    async fn begin(&self, run: &mut Run<'_>, settled: Timestamp) -> Result<Checkpoint, RecoverError> {
        let found = self.table.checkpoint(self.log.name()).await?;
        let cursor = match (run.request.move_cursor, &found) {
            (Some(cursor), _) => {
                check_age(run, cursor)?;
                cursor
            }
            (None, Some(found)) => {
                run.report.cursor = Some(found.cursor);
                return Ok(found.clone());
            }
            (None, None) => settled,
        };
        let checkpoint = Checkpoint { cursor, span_seconds: self.log.longest_span(), resume: None };
        if !run.request.dry_run {
            if run.request.move_cursor.is_some() {
                let (from, origin) = (found.map(|found| tracing::field::display(found.cursor)), &run.request.origin);
                let (by, why) = (&origin.by, &origin.why);
                tracing::info!(audit = "move cursor", run = %run.id, by, why, from, to = %cursor, "the checkpoint was moved");
            }
            self.table.save_checkpoint(self.log.name(), &checkpoint).await?;
            run.report.cursor = Some(cursor);
        }
        Ok(checkpoint)
    }

    /// Moves the checkpoint forward, never back, if the run follows it.
    async fn advance(
        &self,
        run: &mut Run<'_>,
        to: Timestamp,
        span_seconds: u32,
        resume: Option<String>,
    ) -> Result<(), TableError> {
        if run.request.dry_run || run.request.range.is_some() {
            return Ok(());
        }
        let cursor = run.report.cursor.map_or(to, |cursor| cursor.max(to));
        self.table.save_checkpoint(self.log.name(), &Checkpoint { cursor, span_seconds, resume }).await?;
        run.report.cursor = Some(cursor);
        Ok(())
    }

    /// Reads a window from this place on. Says where it was left, if there was no time for all of it, or too much of it
    /// could not be had.
    async fn read_window(
        &self,
        window: Window,
        mut place: L::Place,
        run: &mut Run<'_>,
    ) -> Result<Option<Cut<L::Place>>, RecoverError> {
        loop {
            let part = match self.log.read(window, place.clone(), run.read_until).await {
                Ok(part) => part,
                Err(error @ GenesysError::OutOfTime { .. }) => return Ok(Some(Cut { place, why: error.into() })),
                Err(error) => return Err(error.into()),
            };
            let mut entries = part.entries.into_iter();
            loop {
                let batch: Vec<Entry> = entries.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                self.take_in(batch, run).await?;
            }
            let Some(next) = part.next else { return Ok(None) };
            place = next;
            if run.report.withheld >= MAX_WITHHELD
                && let Err(why) = run.check_withheld()
            {
                return Ok(Some(Cut { place, why }));
            }
        }
    }

    /// Queues what is not known. Only what is durable counts, and only then is it recorded.
    async fn take_in(&self, entries: Vec<Entry>, run: &mut Run<'_>) -> Result<(), RecoverError> {
        let now = self.clock.now();
        let mut candidates = Vec::new();
        for entry in entries {
            run.report.fetched += 1;
            match entry {
                Entry::Failed(failed) => candidates.push(Candidate::of(failed, now)),
                Entry::Unreadable(unreadable) => candidates.push(Candidate::of_unreadable(unreadable, now)),
                Entry::Withheld(problem) => {
                    tracing::error!(run = %run.id, error = problem, "something could not be had");
                    run.report.withheld += 1;
                    run.first_withheld.get_or_insert(problem);
                }
                Entry::PassedOver(why) => {
                    tracing::info!(run = %run.id, why, "passed over");
                    run.report.passed_over += 1;
                }
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let ids: Vec<EventId> = candidates.iter().map(|candidate| candidate.event.id.clone()).collect();
        let records = self.table.get_many(&ids).await?;
        let mut is_new = |candidate: &Candidate| {
            let id = &candidate.event.id;
            run.seen.insert(id.clone()) && records.get(id).is_none_or(|record| record.is_expired(now))
        };
        let fetched = candidates.len();
        let new: Vec<Candidate> = candidates.into_iter().filter(|candidate| is_new(candidate)).collect();
        run.report.known += (fetched - new.len()) as u64;
        if run.request.dry_run {
            list(&new, &mut run.report);
            return Ok(());
        }
        let (letters, events): (Vec<_>, Vec<_>) = new.into_iter().partition(|candidate| candidate.reason.is_some());
        let mut failure = None;
        for (candidates, is_letter) in [(events, false), (letters, true)] {
            let messages: Vec<Message> = candidates.iter().map(|candidate| candidate.message.clone()).collect();
            let sent = match (messages.is_empty(), is_letter) {
                (true, _) => continue,
                (false, false) => self.events.send_all(&messages).await,
                (false, true) => self.dead_letters.send_all(&messages).await,
            };
            let record = async |candidate: &Candidate, sent: Result<(), QueueError>| {
                sent?;
                self.record(run, candidate, records.get(&candidate.event.id)).await
            };
            let recorded = join_all(candidates.iter().zip(sent).map(|(candidate, sent)| record(candidate, sent))).await;
            for recorded in recorded {
                match recorded {
                    Ok(()) if is_letter => run.report.unreadable += 1,
                    Ok(()) => run.report.new += 1,
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Records what a queue has taken. Where the processor was faster, it has recorded more.
    async fn record(&self, run: &Run<'_>, candidate: &Candidate, found: Option<&Record>) -> Result<(), RecoverError> {
        let Candidate { event, reason, note, .. } = candidate;
        let origin = &run.request.origin;
        tracing::info!(
            audit = "recover",
            run = %run.id,
            event_id = %event.id,
            source = %event.source,
            by = origin.by,
            why = origin.why,
            note,
            dead = reason.as_ref().map(|reason| reason.reason.as_str()),
            "recovered"
        );
        let now = self.clock.now();
        if reason.is_some() && !self.table.keep_body(&event.id, &event.body, now).await? {
            tracing::warn!(event_id = %event.id, "it is too large to be kept beside its record");
        }
        if let Some(step) = candidate.step(found, run.act(note, now)) {
            self.table.write(&step).await?;
        }
        Ok(())
    }

    /// One line for each run, which the metrics of the template are made of.
    fn log_end(&self, run: &Run<'_>, error: Option<&RecoverError>) {
        let Report { from, to, fetched, new, known, unreadable, passed_over, withheld, complete, .. } = run.report;
        let (source, behind_seconds) = (self.log.name(), run.report.behind_seconds);
        let (by, why) = (&run.request.origin.by, &run.request.origin.why);
        let cursor = run.report.cursor.map(tracing::field::display);
        if fetched > 0 && passed_over == fetched {
            tracing::warn!(run = %run.id, passed_over, "nothing of what was fetched is for this relay: compare RecoveryIds");
        }
        if let Some(error) = error {
            let error = chain(error);
            tracing::error!(
                target: METRICS, source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over,
                withheld, cursor, behind_seconds, error, "recovery"
            );
        } else if run.request.dry_run {
            tracing::info!(
                source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over, complete,
                "recovery, dry run"
            );
        } else {
            tracing::info!(
                target: METRICS, source, run = %run.id, by, why, %from, %to, fetched, new, known, unreadable, passed_over,
                complete, cursor, behind_seconds, "recovery"
            );
        }
    }
}

/// Logs are asked in milliseconds, and no more: a border between two windows has to be the same for both.
fn to_the_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// Refuses what would be delivered again because it is forgotten.
fn check_age(run: &Run<'_>, from: Timestamp) -> Result<(), RecoverError> {
    let oldest = run.began_at - LIFE + FORGETTING;
    if from < oldest && !run.request.force {
        return Err(RecoverError::TooOld { from, oldest });
    }
    Ok(())
}

/// What a dry run says of what it would queue.
fn list(new: &[Candidate], report: &mut Report) {
    for Candidate { event, reason, note, .. } in new {
        match reason {
            Some(_) => report.unreadable += 1,
            None => report.new += 1,
        }
        if report.items.len() < MAX_LISTED {
            let (event_id, source, received_at) = (event.id.clone(), event.source, event.received_at);
            report.items.push(Item { event_id, source, received_at, note: note.clone() });
        }
    }
}
