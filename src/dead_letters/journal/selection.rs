//! Search of the journal: the events that a request selects, and the places of their lines.
//!
//! A search keeps no line, so that any number of events fits the memory. What is sent is read once
//! more, in the order in which it is sent.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{PREFIX, hour_of, hour_of_key, prefix_of};
use crate::dead_letters::api::{Delivered, ResendFilter, ResendSelection};
use crate::dead_letters::error::ReplayError;
use crate::dead_letters::ports::{PortTypes, Ports};
use crate::domain::conversation::conversation_id;
use crate::domain::event::EventId;
use crate::domain::event_record::{EventRecord, LIFE, State};
use crate::ports::archive::{Archive, ArchiveError, Archived, for_each_line};
use crate::ports::events_table::{EventsTable, Position};
use crate::runtime::logging::display_chain;

/// Objects that are read at the same time.
const READ_AT_ONCE: usize = 8;

/// The journal holds nothing that is older: `JournalDays` is at most 400.
const LONGEST_KEPT: SignedDuration = SignedDuration::from_hours(401 * 24);

/// A delivered event is in the journal's queue this soon after its attempt: when its invocation
/// ends. The clocks of SQS and of the processor may differ.
const JOURNALLED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// An event is in the journal's queue at most this long before the time of its receipt: clocks
/// differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// Events that a search tells apart. Beyond, one that the journal holds twice counts twice.
const MAX_TOLD_APART: usize = 2_000_000;

/// Ids that are read from the index of conversations at a time.
const PAGE: usize = 100;

/// Hours of the journal, by their beginnings.
type Hours = BTreeSet<Timestamp>;

/// Search for the events of a request.
pub(super) struct Search<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
    pub(super) selection: &'a ResendSelection,
    /// Events that were delivered at this time or later are left out, unless they are named by id.
    pub(super) until: Timestamp,
    /// Events up to this place are left out of the places, and may be left out of the counts.
    pub(super) behind: Option<&'a Position>,
    /// The largest number of places that are kept: the first ones.
    pub(super) most: usize,
    pub(super) stop_at: Instant,
}

/// Place of a line in the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    object: usize,
    line: usize,
    pub(super) bytes: usize,
}

/// Events that a search has found.
#[derive(Default)]
pub(super) struct Findings {
    /// Their places, in the order in which the relay received them.
    pub(super) places: BTreeMap<Position, Place>,
    objects: Vec<String>,
    /// Number of events, also beyond the places.
    pub(super) matched: u64,
    /// Number of events by the hour of their delivery.
    pub(super) hours: BTreeMap<Timestamp, u64>,
    /// Ids that were expected and that the journal does not hold.
    pub(super) missing: BTreeSet<EventId>,
    /// Objects that could not be read, with the reason.
    pub(super) unread: Vec<String>,
    /// True if the time was over before the end of the search.
    pub(super) is_cut_short: bool,
    told_apart: HashSet<u64>,
    /// The first place of each event: what comes twice is journalled twice, each time with the time
    /// of its own receipt.
    first: BTreeMap<EventId, Position>,
}

/// A line of the journal.
struct Examined {
    event_id: EventId,
    sent_at: Timestamp,
    /// The time at which the relay received the event, if it is selected.
    wanted: Option<Timestamp>,
}

/// Hours to search, and the events that are expected there.
#[derive(Default)]
struct Plan {
    hours: Hours,
    expected: BTreeSet<EventId>,
    /// Hours to search for those that were not found: a delivered event can come into the journal
    /// late, when its message comes again.
    rest: Hours,
}

impl Findings {
    fn is_new(&mut self, id: &EventId) -> bool {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        self.told_apart.len() >= MAX_TOLD_APART || self.told_apart.insert(hasher.finish())
    }

    /// Keeps the place of a line, if it is the first of its event, and behind `behind`.
    fn place(
        &mut self,
        id: EventId,
        position: Position,
        place: Place,
        search: (Option<&Position>, usize),
    ) {
        let (behind, most) = search;
        if let Some(first) = self.first.get(&id) {
            if *first <= position {
                return;
            }
            self.places.remove(first);
        }
        self.first.insert(id, position.clone());
        if behind.is_some_and(|behind| position <= *behind) {
            return;
        }
        self.places.insert(position, place);
        if self.places.len() > most
            && let Some((last, _)) = self.places.pop_last()
            && let Some(id) = last.event_id()
        {
            self.first.remove(&id);
        }
    }
}

impl<T: PortTypes> Search<'_, T> {
    /// Searches the journal.
    pub(super) async fn search(&self) -> Result<Findings, ReplayError> {
        let plan = match &self.selection.which {
            Delivered::These(ids) => self.plan_of_ids(ids).await?,
            Delivered::Matching(filter) => self.plan_of_filter(filter).await?,
        };
        let mut findings = Findings {
            missing: plan.expected,
            ..Findings::default()
        };
        self.scan(&plan.hours, false, &mut findings).await?;
        if !findings.missing.is_empty() {
            self.scan(&plan.rest, true, &mut findings).await?;
        }
        Ok(findings)
    }

    /// The hours that the records of these events tell, and then all others.
    async fn plan_of_ids(&self, ids: &BTreeSet<EventId>) -> Result<Plan, ReplayError> {
        let records = self.records(ids.iter().cloned().collect()).await?;
        let hours: Hours = records.iter().flat_map(hours_of).collect();
        let all = hours_between(self.beginning(), self.until);
        Ok(Plan {
            rest: all.difference(&hours).copied().collect(),
            hours,
            expected: ids.clone(),
        })
    }

    /// Reads the lines of some places, by their positions.
    pub(super) async fn read(
        &self,
        findings: &Findings,
        places: &[(Position, Place)],
    ) -> Result<BTreeMap<Position, Archived>, ReplayError> {
        let mut wanted: BTreeMap<usize, BTreeMap<usize, &Position>> = BTreeMap::new();
        for (position, place) in places {
            let lines = wanted.entry(place.object).or_default();
            lines.insert(place.line, position);
        }
        let mut read = BTreeMap::new();
        for (object, lines) in wanted {
            let object = self.ports.archive.get(&findings.objects[object]).await?;
            let mut number = 0;
            for_each_line(&object, |_, archived| {
                if let Some(position) = lines.get(&number) {
                    read.insert((*position).clone(), archived);
                }
                number += 1;
                Ok(())
            })?;
        }
        Ok(read)
    }

    /// The first hour in which a line can be that is wanted.
    fn beginning(&self) -> Timestamp {
        let oldest = self.until - LONGEST_KEPT;
        let behind = self.behind.and_then(Position::time);
        behind.map_or(oldest, |at| oldest.max(at - CLOCKS_DIFFER))
    }

    /// The hours in which matching events can be.
    ///
    /// Of a conversation, the records tell the hours, as far back as records live.
    async fn plan_of_filter(&self, filter: &ResendFilter) -> Result<Plan, ReplayError> {
        let since = filter.since.unwrap_or(Timestamp::MIN).max(self.beginning());
        let until = filter.until.unwrap_or(Timestamp::MAX).min(self.until);
        let all = hours_between(since, until);
        let Some(conversation) = &filter.conversation_id else {
            return Ok(Plan {
                hours: all,
                ..Plan::default()
            });
        };
        let (recorded, indexed) = (self.until - LIFE, self.until - JOURNALLED_WITHIN);
        let mut hours = hours_between(since, recorded.min(until));
        // The index follows the table after a moment.
        hours.extend(hours_between(indexed, self.until));
        let mut expected = BTreeSet::new();
        let mut after = None;
        loop {
            let table = &self.ports.table;
            let page = table
                .conversation(conversation, after.as_ref(), PAGE)
                .await?;
            for record in self.records(page.event_ids).await? {
                let told = hours_of(&record);
                if !told.is_disjoint(&all) {
                    expected.insert(record.event_id);
                    hours.extend(told);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        hours.retain(|hour| all.contains(hour));
        Ok(Plan {
            rest: all.difference(&hours).copied().collect(),
            hours,
            expected,
        })
    }

    /// The records of those events that the target has accepted.
    async fn records(&self, ids: Vec<EventId>) -> Result<Vec<EventRecord>, ReplayError> {
        let records = self.ports.table.get_many(&ids).await?;
        let is_delivered = |record: &EventRecord| {
            record.state == State::Delivered || record.resend.is_some() || !record.resent.is_empty()
        };
        Ok(records.into_values().filter(is_delivered).collect())
    }

    /// Goes through the objects of these hours.
    async fn scan(
        &self,
        hours: &Hours,
        is_rest: bool,
        findings: &mut Findings,
    ) -> Result<(), ReplayError> {
        let Some(first) = hours.first() else {
            return Ok(());
        };
        let mut after = prefix_of(*first);
        // Lines that no record tells of are searched to the end.
        let is_for_missing = match &self.selection.which {
            Delivered::These(_) => true,
            Delivered::Matching(_) => is_rest,
        };
        loop {
            let page = self.ports.archive.list_keys(PREFIX, Some(&after)).await?;
            let is_wanted = |key: &&String| hour_of_key(key).is_some_and(|at| hours.contains(&at));
            let wanted: Vec<&String> = page.keys.iter().filter(is_wanted).collect();
            for keys in wanted.chunks(READ_AT_ONCE) {
                if Instant::now() >= self.stop_at {
                    findings.is_cut_short = true;
                    return Ok(());
                }
                let reads = keys.iter().map(|key| self.ports.archive.get(key));
                for (key, object) in keys.iter().zip(join_all(reads).await) {
                    match object.and_then(|object| self.scan_object(key, &object, findings)) {
                        Ok(()) => {}
                        Err(ArchiveError::Service(error)) => return Err(error.into()),
                        Err(error) => findings
                            .unread
                            .push(format!("{key}: {}", display_chain(&error))),
                    }
                }
                if is_for_missing && findings.missing.is_empty() {
                    return Ok(());
                }
            }
            // What lies before the next of the hours is not listed.
            let Some(last) = page.next else {
                return Ok(());
            };
            let at = hour_of_key(&last).unwrap_or(Timestamp::MIN);
            let Some(next) = hours.range(at..).next() else {
                return Ok(());
            };
            after = last.max(prefix_of(*next));
        }
    }

    fn scan_object(
        &self,
        key: &str,
        object: &[u8],
        findings: &mut Findings,
    ) -> Result<(), ArchiveError> {
        let (object_number, mut lines) = (findings.objects.len(), Vec::new());
        // Of an object that breaks in the middle nothing is used: no line of it could be sent.
        for_each_line(object, |line, archived| {
            lines.push((line.len(), self.examine(archived)?));
            Ok(())
        })?;
        findings.objects.push(key.to_owned());
        for (line, (bytes, examined)) in lines.into_iter().enumerate() {
            let place = Place {
                object: object_number,
                line,
                bytes,
            };
            if let Some(examined) = examined {
                self.add(examined, place, findings);
            }
        }
        Ok(())
    }

    /// Tells what a line is for the search; nothing if it is younger than that.
    fn examine(&self, archived: Archived) -> io::Result<Option<Examined>> {
        let (event_id, sent_at) = (archived.event_id.clone(), archived.sent_at);
        let wanted = match &self.selection.which {
            Delivered::These(ids) if ids.contains(&event_id) => {
                Some(archived.into_message()?.received_at(sent_at))
            }
            Delivered::Matching(_) if sent_at >= self.until => return Ok(None),
            Delivered::Matching(filter) if filter.includes_time(sent_at) => {
                let message = archived.into_message()?;
                let is_matching = !filter.needs_event()
                    || message.to_event(sent_at).is_ok_and(|event| {
                        let conversation = filter
                            .conversation_id
                            .as_ref()
                            .and_then(|_| conversation_id(&event));
                        filter.matches(&event, conversation.as_deref())
                    });
                is_matching.then(|| message.received_at(sent_at))
            }
            Delivered::These(_) | Delivered::Matching(_) => None,
        };
        Ok(Some(Examined {
            event_id,
            sent_at,
            wanted,
        }))
    }

    fn add(&self, examined: Examined, place: Place, findings: &mut Findings) {
        let Examined {
            event_id,
            sent_at,
            wanted,
        } = examined;
        findings.missing.remove(&event_id);
        let Some(received_at) = wanted else {
            return;
        };
        if findings.is_new(&event_id) {
            findings.matched += 1;
            *findings.hours.entry(hour_of(sent_at)).or_default() += 1;
        }
        let position = Position::of(received_at, &event_id);
        findings.place(event_id, position, place, (self.behind, self.most));
    }
}

/// The hours from that of `since` to that before `until`.
fn hours_between(since: Timestamp, until: Timestamp) -> Hours {
    let next = |hour: &Timestamp| Some(*hour + SignedDuration::from_hours(1));
    let hours = std::iter::successors(Some(hour_of(since)), next);
    hours.take_while(|hour| *hour < until).collect()
}

/// The hours in which the journal can hold the event of a record.
fn hours_of(record: &EventRecord) -> Hours {
    let is_known = record.attempts.len() as u64 == u64::from(record.attempts_made);
    let accepted = record
        .attempts
        .iter()
        .filter(|attempt| attempt.error.is_none());
    let times: Vec<_> = accepted.map(|attempt| (attempt.at, attempt.at)).collect();
    let times = if is_known && !times.is_empty() {
        times
    } else {
        vec![(record.first_seen_at, record.last_seen_at)]
    };
    let hours = |(from, to): (Timestamp, Timestamp)| {
        hours_between(from - JOURNALLED_WITHIN, to + JOURNALLED_WITHIN)
    };
    times.into_iter().flat_map(hours).collect()
}
