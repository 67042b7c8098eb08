//! The count of all events by what senders, target, queues and operators know of them, against which
//! the relay's book of a scan of its table is held.

use std::collections::{BTreeMap, BTreeSet};

use genesys_relay::domain::book::{Hour, hour_of};
use genesys_relay::domain::event::EventId;
use genesys_relay::domain::event_record::{EventRecord, State, StateName};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::testing::FakeClock;
use jiff::Timestamp;

use super::journal::Book;
use super::{Invariants, RECORD_LIFE, Seen, TOLERANCE};
use crate::lock;

impl Invariants {
    /// Counts the events that must have a record. With the ids of the dead letters, no work is left:
    /// each event has its end, and `records` decides only where two ends or two hours are true.
    /// Without, the writes so far tell which of them wait.
    pub(crate) fn count_events(
        &self,
        records: &BTreeMap<EventId, EventRecord>,
        dead_letter_ids: Option<&BTreeSet<String>>,
    ) -> Result<BTreeMap<Timestamp, Hour>, String> {
        let now = FakeClock.now();
        let (book, seen) = (lock(&self.book), lock(&self.seen));
        let mut known = seen.known.iter();
        if dead_letter_ids.is_some()
            && let Some(id) = known.find(|id| !seen.written_at.contains_key(*id))
        {
            return Err(format!("{id} was accepted, and never had a record"));
        }
        let mut hours = BTreeMap::<Timestamp, Hour>::new();
        for (id, written_at) in &seen.written_at {
            let record = records.get(id);
            let end = *written_at + RECORD_LIFE;
            let is_near_end = end - TOLERANCE < now && now < end + TOLERANCE;
            if (is_near_end && record.is_none()) || now >= end + TOLERANCE {
                continue;
            }
            let record = record.ok_or_else(|| format!("{id} has no record before its time"))?;
            let received_at = seen.received_at.get(id).into_iter().flatten();
            let came_in: BTreeSet<_> = received_at.map(|at| hour_of(*at)).collect();
            // Of an event that is erased by its id before a worker took it, the request alone has a
            // time.
            let is_erased_by_id = record.state == State::Erased && book.is_id_erasure_asked(id);
            let hour = match (came_in.first(), came_in.len()) {
                (Some(hour), 1) if !is_erased_by_id => *hour,
                _ => hour_of(record.received_at),
            };
            if !came_in.contains(&hour) && !is_erased_by_id {
                return Err(format!("{id} did not come in the hour of {hour}"));
            }
            let ends = match dead_letter_ids {
                Some(dead) => ends_of(&book, &seen, id, dead.contains(id.as_str())),
                None if seen.resending.contains(id) => vec![StateName::Delivered],
                None => seen.last.get(id).copied().into_iter().collect(),
            };
            if ends == [StateName::Delivered] && !seen.taken.contains_key(id) {
                return Err(format!(
                    "{id} counts as delivered, and the target has not accepted it"
                ));
            }
            let recorded = if record.resend.is_some() {
                StateName::Delivered
            } else {
                record.state.name()
            };
            let end = match ends[..] {
                [end] => end,
                _ if ends.contains(&recorded) => recorded,
                _ => return Err(format!("{id} is {recorded}, and can only be {ends:?}")),
            };
            let hour = hours.entry(hour).or_default();
            hour.accepted += 1;
            // A record keeps the newest twenty actions, and that of an erased event one.
            let knows_all = record.history.len() < 20 && record.state != State::Erased;
            hour.recovered += u64::from(knows_all && seen.recovered.contains(id));
            *match end {
                StateName::Delivered => &mut hour.delivered,
                StateName::Dead => &mut hour.dead,
                StateName::Archived => &mut hour.archived,
                StateName::Discarded => &mut hour.discarded,
                StateName::Erased => &mut hour.erased,
                StateName::Queued | StateName::InProgress | StateName::Retrying => {
                    &mut hour.waiting
                }
            } += 1;
        }
        Ok(hours)
    }
}

/// Ends that are true of an event when no work is left, mostly one.
fn ends_of(book: &Book, seen: &Seen, id: &EventId, is_dead: bool) -> Vec<StateName> {
    if book.is_record_erased(id) {
        return vec![StateName::Erased];
    }
    let mut ends = Vec::new();
    if book.is_id_erasure_asked(id) {
        ends.push(StateName::Erased);
    }
    if seen.discard_requests.contains(id) {
        ends.push(StateName::Discarded);
    }
    if seen.taken.contains_key(id) {
        ends.push(StateName::Delivered);
    } else if is_dead {
        ends.push(StateName::Dead);
    } else if seen.archived.contains(id) {
        ends.push(StateName::Archived);
    }
    ends
}
