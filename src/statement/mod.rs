//! Use case: states of each day that everything which Genesys Cloud sent is accounted for.
//!
//! Three books are read side by side: the relay's by a scan of the events table, Genesys's by the
//! calls of the recovery, and AWS's own counts. A statement is made in slices, since the calls to
//! Genesys Cloud have a limit; its progress is saved in the table with its counts, so that a slice
//! that is killed is read again and counted once. It is one JSON object in the archive's bucket, which
//! carries the hash of the one before.

mod document;
mod error;
mod look;
mod ports;
mod request;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use self::document::{AwsCounts, Document, Known, key_of};
use self::request::{day_of, due_day, oldest_day, span_of};
use self::state::{NewestDay, Phase, Progress, Saved, Tally, Unaccounted};
use crate::domain::book::Book;
use crate::domain::event::{EventId, Identity};
use crate::domain::event_record::EventRecord;
use crate::domain::json::Json;
use crate::ports::archive::Archive;
use crate::ports::clock::Clock;
use crate::ports::delivery_log::DeliveryLogError;
use crate::ports::events_table::{EventsTable, LeaseName, RunLease, StatementState};
use crate::ports::hourly_counts::HourlyCounts;
use crate::ports::queue::Countable;
use crate::ports::run_lease::{HeldLease, LEASE_PAST_DEADLINE, STATEMENT};
use crate::ports::sent_messages::{SentEntry, SentMessage, SentMessages, SentPart};
use crate::ports::service::{Fault, ServiceError};
use crate::runtime::logging::{audit, display_chain};
use crate::runtime::metrics;

pub use self::document::sha256_of;
pub use self::error::StatementError;
pub(crate) use self::look::read as list;
pub use self::look::{Listing, Shown, Underway};
pub use self::ports::{PortTypes, Ports};
pub use self::request::Request;
pub use self::state::Head;

/// A slice ends after this time: the lease is the recovery's too, which must have its turn.
const SLICE: Duration = Duration::from_secs(100);

/// Time kept at the end of an invocation for writing.
const KEEP_TIME: Duration = Duration::from_secs(20);

/// Progress is saved at least this often.
const SAVED_EVERY: Duration = Duration::from_secs(20);

/// Items of one page of the scan. DynamoDB reads at most 1 MB at once.
const SCANNED: usize = 1000;

/// Pause after each call to Genesys Cloud: a client may make 300 calls a minute ("Rate limits"), and
/// others may use the same one.
const PAUSE: Duration = Duration::from_millis(250);

/// The schedule's statement of a day that is not there this long after the end of the day is overdue.
const OVERDUE: SignedDuration = SignedDuration::from_hours(14);

/// Statements of one day at most.
const MOST_OF_A_DAY: u32 = 99;

/// A webhook's time may differ from its message's by this much.
const OTHER_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Messages of a conversation whose webhook is looked for at another time, and the events of the
/// conversation that it may be.
const MOST_SEARCHED: usize = 5;
/// Searches of one statement: each takes a hash for every millisecond of that time.
const MOST_SEARCHES: u64 = 100;
const MOST_CANDIDATES: usize = 1000;

type PlaceOf<T> = <<T as PortTypes>::Sent as SentMessages>::Place;

/// The use case, over its ports.
pub struct Statements<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// True if the events table has the index of conversations.
    pub has_conversation_index: bool,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "outcome",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum Answer {
    /// No day is due.
    NothingDue {
        /// The newest statement.
        head: Option<Head>,
    },
    /// A run of the recovery, or another slice, holds the lease.
    Busy {
        /// The holder.
        by: String,
    },
    /// The next slice continues.
    Continues {
        day: Date,
        /// Messages of Genesys Cloud that were counted so far.
        sent: u64,
        /// Calls to Genesys Cloud so far.
        calls: u64,
    },
    /// The statement is written.
    Written {
        day: Date,
        #[serde(flatten)]
        head: Head,
        sent: u64,
        accounted: u64,
        unaccounted: u64,
        /// Conversations and messages that could not be read.
        unread: u64,
        balances: bool,
    },
}

/// The work of a request.
enum Due {
    Nothing,
    /// The schedule's first run: days from this one are stated.
    From(Date),
    Begin(Date),
    Continue,
}

/// Why a slice ended.
enum Ended {
    /// It was time.
    OutOfTime,
    /// The statement can be written.
    ReadAll,
}

/// The table's state of the statements as this run has read or written it.
struct Loaded<P> {
    saved: Saved<P>,
    revision: Option<Uuid>,
    saved_at: Instant,
}

impl<T: PortTypes> Statements<T> {
    /// Carries out a request: one slice. It ends well before `deadline`.
    pub async fn run(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, StatementError> {
        let outcome = self.slice(request, deadline).await;
        if let Err(error) = &outcome {
            tracing::error!(
                by = request.requester.by,
                why = request.requester.why,
                error = display_chain(error),
                "failed to make a statement"
            );
        }
        outcome
    }

    async fn slice(&self, request: &Request, deadline: Instant) -> Result<Answer, StatementError> {
        let now = self.ports.clock.now();
        let loaded = self.load().await?;
        if request.day.is_none() {
            measure(&loaded.saved, now);
        }
        if let Due::Nothing = due(&loaded.saved, request, now)? {
            return Ok(Answer::NothingDue {
                head: loaded.saved.head,
            });
        }
        let end = (Instant::now() + SLICE).min(deadline.checked_sub(KEEP_TIME).unwrap_or(deadline));
        let lease = RunLease::new(
            Uuid::new_v4(),
            STATEMENT,
            &request.requester,
            now,
            end + KEEP_TIME + LEASE_PAST_DEADLINE,
        );
        let acquired = HeldLease::acquire(&self.ports.table, LeaseName::Recovery, &lease).await?;
        let lease = match acquired {
            Ok(lease) => lease,
            Err(other) => {
                return Ok(Answer::Busy {
                    by: other.to_string(),
                });
            }
        };
        let outcome = self.read_alone(request, now, end).await;
        lease.release().await;
        outcome
    }

    /// Reads on under the lease.
    async fn read_alone(
        &self,
        request: &Request,
        now: Timestamp,
        end: Instant,
    ) -> Result<Answer, StatementError> {
        // Another slice may have gone on since the first look.
        let mut loaded = self.load().await?;
        match due(&loaded.saved, request, now)? {
            Due::Nothing => {
                return Ok(Answer::NothingDue {
                    head: loaded.saved.head,
                });
            }
            Due::From(day) => {
                loaded.saved.first_day = Some(day);
                self.save(&mut loaded).await?;
                return Ok(Answer::NothingDue { head: None });
            }
            Due::Begin(day) => {
                let progress = begin(day, request, now)?;
                audit!("statement", &request.requester, %day, "began a statement");
                loaded.saved.progress = Some(progress);
                self.save(&mut loaded).await?;
            }
            Due::Continue => {}
        }
        let read = self.read(&mut loaded, end).await;
        if let Ok(Ended::ReadAll) = read {
            return self.write(&mut loaded).await;
        }
        // Also after an error: what was counted before it stays counted.
        self.save(&mut loaded).await?;
        read?;
        let progress = loaded.saved.progress.as_ref();
        let progress = progress.ok_or(StatementError::Overtaken)?;
        Ok(Answer::Continues {
            day: progress.day,
            sent: progress.tally.sent,
            calls: progress.tally.calls,
        })
    }

    /// Reads the books until the slice ends.
    async fn read(
        &self,
        loaded: &mut Loaded<PlaceOf<T>>,
        end: Instant,
    ) -> Result<Ended, StatementError> {
        let mut next_call = Instant::now();
        loop {
            if Instant::now() >= end {
                return Ok(Ended::OutOfTime);
            }
            if loaded.saved_at.elapsed() >= SAVED_EVERY {
                self.save(loaded).await?;
            }
            let progress = loaded.saved.progress.as_mut();
            let progress = progress.ok_or(StatementError::Overtaken)?;
            let window = progress.window();
            match &mut progress.phase {
                Phase::Relay { after } => {
                    let page = self.ports.table.scan(after.as_deref(), SCANNED).await?;
                    page.records
                        .iter()
                        .for_each(|record| progress.book.add(record));
                    for key in page.unreadable {
                        progress.book.add_unreadable(key);
                    }
                    progress.phase = match page.next {
                        Some(next) => Phase::Relay { after: Some(next) },
                        None => Phase::Genesys {
                            place: PlaceOf::<T>::default(),
                        },
                    };
                }
                Phase::Genesys { place } => {
                    tokio::time::sleep_until(next_call.min(end)).await;
                    let place = place.clone();
                    let part = match self.ports.sent.read_sent(window, place, end).await {
                        Ok(part) => part,
                        Err(DeliveryLogError::OutOfTime(why)) => {
                            tracing::warn!(
                                error = display_chain(&*why),
                                "ran out of time; the next slice continues"
                            );
                            return Ok(Ended::OutOfTime);
                        }
                        Err(error) => return Err(error.into()),
                    };
                    next_call =
                        Instant::now() + PAUSE * u32::try_from(part.calls).unwrap_or(u32::MAX);
                    self.count(progress, part).await?;
                }
                Phase::Write => return Ok(Ended::ReadAll),
            }
        }
    }

    /// Counts a part of Genesys's book: all of it, or nothing.
    async fn count(
        &self,
        progress: &mut Progress<PlaceOf<T>>,
        part: SentPart<PlaceOf<T>>,
    ) -> Result<(), StatementError> {
        if part.starts_again {
            progress.tally = Tally {
                calls: progress.tally.calls,
                ..Tally::default()
            };
        }
        progress.tally.calls += part.calls;
        let now = self.ports.clock.now();
        let mut messages = Vec::new();
        for entry in &part.entries {
            if let SentEntry::Sent(message) = entry {
                messages.push((message.payload.identity(now).0.id, &**message));
            }
        }
        let ids: Vec<EventId> = messages.iter().map(|(id, _)| id.clone()).collect();
        let records = self.ports.table.get_many(&ids).await?;
        let mut states = BTreeMap::new();
        let mut missing = Vec::new();
        for (id, message) in &messages {
            match records.get(id).filter(|record| !record.is_expired(now)) {
                Some(record) => {
                    let is_of_day = progress.window().holds(record.received_at);
                    states.insert(id, (state_of(record), is_of_day, false));
                }
                None => missing.push((id, *message)),
            }
        }
        // A record that cannot be read is left out of `get_many`.
        if progress.book.unreadable().0 > 0 {
            let mut still_missing = Vec::new();
            for (id, message) in missing {
                match self.ports.table.get(id).await {
                    Err(ServiceError {
                        fault: Fault::Unreadable,
                        ..
                    }) => {
                        states.insert(id, ("UNREADABLE".to_owned(), true, false));
                    }
                    Ok(_) => still_missing.push((id, message)),
                    Err(error) => return Err(error.into()),
                }
            }
            missing = still_missing;
        }
        let searches = missing.len().min(MOST_SEARCHED) as u64;
        let others = if progress.tally.searches + searches <= MOST_SEARCHES {
            progress.tally.searches += searches;
            self.at_another_time(&missing, &ids).await?
        } else {
            Vec::new()
        };
        for (id, record) in others {
            if let Some((id, _)) = missing.iter().find(|(missing, _)| **missing == id) {
                let is_of_day = progress.window().holds(record.received_at);
                states.insert(*id, (state_of(&record), is_of_day, true));
            }
        }
        let tally = &mut progress.tally;
        for (id, message) in &messages {
            let listed_as = tally.count_sent(message.status.as_deref());
            let Some((state, is_of_day, is_other_time)) = states.get(id) else {
                tally.count_unaccounted(Unaccounted {
                    message_id: message.message_id.clone(),
                    conversation_id: message.conversation_id.clone(),
                    at: message.payload.at,
                    status: listed_as,
                    event_id: id.clone(),
                });
                continue;
            };
            tally.count_accounted(state);
            tally.on_another_day += u64::from(!is_of_day);
            tally.at_another_time += u64::from(*is_other_time);
        }
        for entry in &part.entries {
            match entry {
                SentEntry::Sent(_) => {}
                SentEntry::Inbound => tally.inbound += 1,
                SentEntry::OfOtherIntegration => tally.of_other_integrations += 1,
                SentEntry::Unreadable(entry) => tally.count_unread(&entry.name, &entry.problem),
                SentEntry::Unavailable(problem) => tally.count_unread("unavailable", problem),
            }
        }
        tally.conversations += u64::from(part.is_conversation);
        progress.phase = part
            .next
            .map_or(Phase::Write, |place| Phase::Genesys { place });
        Ok(())
    }

    /// The records of messages whose webhook had another time, with the ids that the messages would
    /// have at their own. An id covers the time: an event of the same conversation that no message
    /// explains is one of these if its id is the message's at some other time.
    async fn at_another_time(
        &self,
        missing: &[(&EventId, &SentMessage)],
        explained: &[EventId],
    ) -> Result<Vec<(EventId, EventRecord)>, StatementError> {
        let Some((_, first)) = missing.first().filter(|_| self.has_conversation_index) else {
            return Ok(Vec::new());
        };
        let explained: BTreeSet<_> = explained.iter().collect();
        let (mut candidates, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self
                .ports
                .table
                .conversation(&first.conversation_id, after.as_ref(), MOST_CANDIDATES)
                .await?;
            let unexplained = page
                .event_ids
                .into_iter()
                .filter(|id| !explained.contains(id));
            candidates.extend(unexplained);
            after = page.next.filter(|_| candidates.len() < MOST_CANDIDATES);
            if after.is_none() {
                break;
            }
        }
        let mut others = Vec::new();
        for (id, message) in missing.iter().take(MOST_SEARCHED) {
            if candidates.is_empty() {
                break;
            }
            let Ok(body) = Json::parse(&message.payload.body) else {
                continue;
            };
            let other = Identity::near(body, self.ports.clock.now(), OTHER_TIME)
                .find(|other| candidates.contains(other));
            if let Some(other) = other {
                candidates.remove(&other);
                if let Some(record) = self.ports.table.get(&other).await? {
                    others.push(((*id).clone(), record));
                }
            }
        }
        Ok(others)
    }

    /// Writes the statement, then the head of the chain.
    ///
    /// After a crash between the two, the object is there already: the next slice finds that it
    /// is the same statement, and takes it as it is.
    async fn write(&self, loaded: &mut Loaded<PlaceOf<T>>) -> Result<Answer, StatementError> {
        let mut progress = loaded.saved.progress.take();
        let progress = progress.as_mut().ok_or(StatementError::Overtaken)?;
        let ids: Vec<_> = progress
            .tally
            .named
            .iter()
            .map(|named| named.event_id.clone())
            .collect();
        let records = self.ports.table.get_many(&ids).await?;
        progress.tally.recheck(|id| records.get(id).map(state_of));
        let queues = match self.ports.events.depth().await {
            Ok(depth) => Known::Counted(depth),
            Err(error) => Known::Unavailable(display_chain(&error)),
        };
        let aws = match self.ports.counts.counts(progress.from, progress.to).await {
            Ok(hours) if hours.is_empty() => {
                AwsCounts::NotHere("CloudWatch has no count of this day".to_owned())
            }
            Ok(hours) => AwsCounts::Hours(hours),
            Err(error) => AwsCounts::Unavailable(display_chain(&error)),
        };
        let head = loaded.saved.head.clone();
        let now = self.ports.clock.now();
        let document = Document::of(progress, head.as_ref(), now, queues, aws);
        let bytes = document.bytes()?;
        for nth in 1..=MOST_OF_A_DAY {
            let key = key_of(progress.day, nth);
            let (document, sha256) = if self.ports.archive.put_new(&key, bytes.clone()).await? {
                (document.clone(), sha256_of(&bytes))
            } else {
                let found = self.ports.archive.get(&key).await?;
                match serde_json::from_slice::<Document>(&found) {
                    Ok(before) if before.is_same(&document) => (before, sha256_of(&found)),
                    // An earlier one of the day, or none of this chain.
                    Ok(_) | Err(_) => continue,
                }
            };
            return self.end(loaded, document, key, sha256).await;
        }
        Err(StatementError::TooMany(progress.day))
    }

    async fn end(
        &self,
        loaded: &mut Loaded<PlaceOf<T>>,
        document: Document,
        key: String,
        sha256: String,
    ) -> Result<Answer, StatementError> {
        let Document {
            day,
            sequence,
            sent,
            accounted,
            unaccounted,
            ..
        } = document;
        let (balances, unread) = (document.balances(), document.unread());
        let head = Head {
            sequence,
            key,
            sha256,
        };
        loaded.saved.head = Some(head.clone());
        if loaded.saved.newest.is_none_or(|newest| newest.day <= day) {
            // What could not be read is not accounted for.
            let unaccounted = (unaccounted + unread).max(u64::from(!balances));
            loaded.saved.newest = Some(NewestDay { day, unaccounted });
        }
        loaded.saved.progress = None;
        self.save(loaded).await?;
        let Head { key, sha256, .. } = &head;
        tracing::info!(
            %day, sequence, key, sha256, sent, accounted, unaccounted, unread, balances,
            "wrote statement"
        );
        if unaccounted > 0 || unread > 0 || !balances {
            tracing::error!(
                %day, key, unaccounted, unread, balances,
                "statement does not account for everything; see its object and the runbook"
            );
        }
        Ok(Answer::Written {
            day,
            head,
            sent,
            accounted,
            unaccounted,
            unread,
            balances,
        })
    }

    async fn load(&self) -> Result<Loaded<PlaceOf<T>>, StatementError> {
        let found = self.ports.table.statement().await?;
        let (saved, revision) = match found {
            Some(StatementState { revision, state }) => {
                (serde_json::from_str(&state)?, Some(revision))
            }
            None => (Saved::default(), None),
        };
        let saved_at = Instant::now();
        Ok(Loaded {
            saved,
            revision,
            saved_at,
        })
    }

    /// Saves the state, unless another run has saved one since.
    async fn save(&self, loaded: &mut Loaded<PlaceOf<T>>) -> Result<(), StatementError> {
        let next = StatementState {
            revision: Uuid::new_v4(),
            state: serde_json::to_string(&loaded.saved)?,
        };
        if !self
            .ports
            .table
            .save_statement(&next, loaded.revision)
            .await?
        {
            return Err(StatementError::Overtaken);
        }
        (loaded.revision, loaded.saved_at) = (Some(next.revision), Instant::now());
        Ok(())
    }
}

fn begin<P>(day: Date, request: &Request, now: Timestamp) -> Result<Progress<P>, StatementError> {
    let (from, to) = span_of(day).ok_or(StatementError::NoDay(day))?;
    Ok(Progress {
        day,
        from,
        to,
        began_at: now,
        requester: request.requester.clone(),
        book: Book::of(from..to),
        tally: Tally::default(),
        phase: Phase::Relay { after: None },
    })
}

/// Decides what a request has to do.
fn due<P>(saved: &Saved<P>, request: &Request, now: Timestamp) -> Result<Due, StatementError> {
    let is_fresh = |progress: &&Progress<P>| progress.from >= oldest_day(now);
    let progress = saved.progress.as_ref();
    if let Some(stale) = progress.filter(|progress| !is_fresh(progress)) {
        tracing::error!(day = %stale.day, "gave up a statement: records of its day expire");
    }
    match (progress.filter(is_fresh), request.day) {
        (Some(progress), Some(day)) if progress.day != day => {
            return Err(StatementError::InProgress(progress.day));
        }
        (Some(_), _) => return Ok(Due::Continue),
        (None, Some(day)) => return Ok(Due::Begin(day)),
        (None, None) => {}
    }
    let day = due_day(now);
    if saved.first_day.is_none() && saved.newest.is_none() {
        // What came before the relay was set up would count as unaccounted.
        let first = day_of(now)
            .tomorrow()
            .map_err(|_| StatementError::NoDay(day))?;
        return Ok(Due::From(first));
    }
    let is_early = saved.first_day.is_some_and(|first| day < first);
    let is_stated = saved.newest.is_some_and(|newest| newest.day >= day);
    Ok(if is_early || is_stated {
        Due::Nothing
    } else {
        Due::Begin(day)
    })
}

/// Records what is unaccounted in the newest statement. Records nothing while a statement is overdue,
/// for which the alarm waits as well.
fn measure<P>(saved: &Saved<P>, now: Timestamp) {
    let overdue = day_of(now - OVERDUE).yesterday();
    let is_overdue = overdue.is_ok_and(|day| {
        let is_due = saved.first_day.is_none_or(|first| first <= day);
        let is_on = saved.first_day.is_some() || saved.newest.is_some();
        is_on && is_due && saved.newest.is_none_or(|newest| newest.day < day)
    });
    if is_overdue {
        tracing::error!("the statement is overdue; see the runbook of the alarm unaccounted");
        return;
    }
    let unaccounted = saved.newest.map_or(0, |newest| newest.unaccounted);
    metrics::UNACCOUNTED.count(unaccounted);
}

fn state_of(record: &EventRecord) -> String {
    record.state.name().as_str().to_owned()
}
