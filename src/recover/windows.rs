//! Reads a part of the time line window by window, as far as there is time, and moves the checkpoint behind it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::request::Range;
use super::{Recover, RecoverError, Run};
use crate::domain::event_record::LIFE;
use crate::ports::clock::Clock;
use crate::ports::delivery_log::{DeliveryLog, DeliveryLogError, Entry, Window};
use crate::ports::events_table::{Checkpoint, EventsTable, TableError};
use crate::ports::queue::Sender;
use crate::runtime::logging::display_chain;

/// A window that a run cannot finish is halved down to so many seconds.
pub(super) const SHORTEST_SPAN: u32 = 1;

/// So much of the time for which records live is left alone without `force`: some of them end while a run reads, and clocks
/// differ.
const FORGETTING: SignedDuration = SignedDuration::from_hours(1);

/// A run ends once so many things could not be had, since trying each takes a while. The next one goes on behind them.
const MAX_WITHHELD: u64 = 5;

/// What goes on from the checkpoint reads this far into the future, where a clock of Genesys Cloud may be already.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// What is looked up, queued and recorded at a time: as many as a batch of SQS takes.
pub(super) const BATCH: usize = 10;

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

    /// Whether a run that ends with `to`, or an earlier one, can have left it: an operator can write anything there.
    fn is_plausible(&self, to: Timestamp, began_at: Timestamp) -> bool {
        self.from < self.to && self.to <= to && (self.from - AHEAD..=began_at).contains(&self.began_at)
    }

    /// What cannot be read, of another version perhaps, is none: the window is then read from its beginning.
    fn read(token: &str) -> Option<Self> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()
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
    /// Reads window after window, and moves the checkpoint after each.
    pub(super) async fn read(&self, run: &mut Run<'_>) -> Result<(), RecoverError> {
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
            let resumed = resume.take().filter(|resume| resume.from == at && resume.is_plausible(to, run.began_at));
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
            tracing::warn!(run = %run.id, error = display_chain(&why), span, "there was not enough time; the next run goes on");
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
                let (from, requester) =
                    (found.map(|found| tracing::field::display(found.cursor)), &run.request.requester);
                let (by, why) = (&requester.by, &requester.why);
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
                Err(error @ DeliveryLogError::OutOfTime(_)) => return Ok(Some(Cut { place, why: error.into() })),
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
}

/// Refuses what would be delivered again because it is forgotten.
fn check_age(run: &Run<'_>, from: Timestamp) -> Result<(), RecoverError> {
    let oldest = run.began_at - LIFE + FORGETTING;
    if from < oldest && !run.request.force {
        return Err(RecoverError::TooOld { from, oldest });
    }
    Ok(())
}
