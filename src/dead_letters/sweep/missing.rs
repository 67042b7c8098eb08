//! What a sweep says and does about dead events whose messages it has not found.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Stopped, Sweep};
use crate::dead_letters::list::ARRIVES_WITHIN;
use crate::dead_letters::{DeadLetter, Missing, Pages, Ports, Replay, Report};
use crate::domain::event::EventId;
use crate::domain::event_record::{DeadLetterStatus, EventRecord, State};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::Countable;
use crate::runtime::metrics;

/// No queue keeps a message for longer ("Amazon SQS message quotas").
const KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);

impl<P: Ports> Replay<P> {
    /// Says of each event whose message was not found what has become of it, where so many messages of the dead-letter
    /// queue were hidden, and so many not looked at.
    pub(in crate::dead_letters) async fn explain(
        &self,
        missing: &[EventId],
        hidden: u64,
        unseen: u64,
        report: &mut Report,
    ) -> Result<(), Stopped> {
        if missing.is_empty() {
            return Ok(());
        }
        // A message whose receives are used up waits there too, until somebody receives once more: while events are held back.
        let waiting = self.events.depth().await?.total();
        let (hidden, unseen) = (hidden + waiting, unseen + waiting);
        let bulk = self.bulk_replay().await?;
        let records = self.records(missing, bulk.as_ref()).await?;
        let now = self.clock.now();
        for id in missing {
            let record = records.get(id).filter(|record| !record.is_expired(now));
            let (state, error) = match record {
                Some(record) => why_missing(record, hidden, now),
                None if unseen > 0 => {
                    let error = format!(
                        "it has no record yet, and {unseen} messages are hidden, not listed, or wait in the events queue; ask again \
                         in five minutes"
                    );
                    (Missing::Pending, error)
                }
                None => (Missing::Unknown, "nothing is known of it".to_owned()),
            };
            report.miss(id.as_str(), state, error);
        }
        Ok(())
    }

    /// Takes dead events off the list whose messages are not there.
    pub(super) async fn unlist(&self, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let now = self.clock.now();
        let mut pages = Pages::default();
        while let Some(page) = self.next_page(&mut pages).await? {
            let bulk = sweep.run.bulk.as_ref();
            let is_missing = |letter: &DeadLetter| {
                letter.has_arrived(bulk, sweep.run.began_at) && !sweep.seen.contains(&letter.event_id)
            };
            let missing: Vec<EventId> = page.into_iter().filter(is_missing).map(|letter| letter.event_id).collect();
            for record in self.records(&missing, bulk).await?.values() {
                if Instant::now() >= sweep.stop_at {
                    return Ok(());
                }
                let dead = match DeadLetterStatus::recorded(record, now) {
                    Some(DeadLetterStatus::Dead(dead)) => dead,
                    Some(DeadLetterStatus::Unrecorded(dead))
                        if self.table.write(dead.transition()).await? == Written::Done =>
                    {
                        metrics::DEAD.add(dead.death().reason, 1);
                        dead
                    }
                    _ => continue,
                };
                if self.table.write(&dead.unlisted(now)).await? == Written::Done {
                    tracing::warn!(
                        event_id = %record.event_id,
                        run = %sweep.run.id,
                        "a dead event has no message in the dead-letter queue"
                    );
                    sweep.report.done.count();
                }
            }
        }
        Ok(())
    }
}

/// What became of an event whose message was not found, by its record.
fn why_missing(record: &EventRecord, hidden: u64, now: Timestamp) -> (Missing, String) {
    match &record.state {
        State::Delivered => (Missing::Delivered, "the target has it".to_owned()),
        State::Discarded(_) => (Missing::Discarded, "it was discarded".to_owned()),
        State::Archived { archived_to, .. } => (Missing::Archived, format!("it is in the archive: {archived_to}")),
        state => match state.death(now) {
            None => (Missing::Alive, "it is not dead: it is being delivered, or waits for its next attempt".to_owned()),
            Some(death) => {
                let replayed_at = match state {
                    State::Dead(dead) => dead.replayed_at,
                    _ => None,
                };
                let age = now.duration_since(replayed_at.unwrap_or(death.dead_at));
                if age < KEPT && (replayed_at.is_some() || hidden > 0 || age < ARRIVES_WITHIN) {
                    let error =
                        "its message is hidden, on its way, or waits in the events queue; ask again in some minutes";
                    (Missing::Pending, error.to_owned())
                } else {
                    (Missing::Expired, "its message is gone".to_owned())
                }
            }
        },
    }
}
