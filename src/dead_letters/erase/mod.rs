//! Erasure of events: their content goes from every place in which the relay keeps it.
//!
//! A run notes the erasure for the processor, erases what it finds, waits until no invocation of the
//! processor is left that may not know of it, and searches once more. Each step can be repeated: a
//! run that fails or is killed leaves an erasure that is begun, and the next run completes it.

mod objects;
mod remains;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use self::objects::{Objects, Searched};
use self::remains::Kind;
use super::Settings;
use super::api::{Done, Erased, Report};
use super::error::ReplayError;
use super::journal::Drain;
use super::ports::{PortTypes, Ports};
use super::progress::Tracked;
use super::run::{ANSWER_TIME, Run};
use super::sweep::{Purpose, Sweep};
use crate::domain::conversation::conversation_of;
use crate::domain::erasure::UNCHECKED_AGE;
use crate::domain::event::{Event, EventId, Source};
use crate::domain::event_record::{EventRecord, OperatorAction, State, Transition};
use crate::domain::json::Json;
use crate::ports::archive::Archived;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::service::{Fault, Service, ServiceError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// The clocks of two invocations differ by less than this.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// No object is begun this long before the deadline, or with a quarter of the time left where that
/// is less: an object is read, written and deleted in several calls.
const KEEP_TIME: Duration = Duration::from_mins(2);

/// Ids that are read from the index of conversations at a time.
const PAGE: usize = 100;

/// Writes of a record that other workers keep changing, before it counts as a failure.
const MAX_WRITES: usize = 5;

/// Problems that the progress of a run lists.
const MAX_LISTED: usize = 100;

/// Ids that the progress of a run keeps at most, so that it fits an item of the table. An event
/// beyond them may be counted twice by a run that is taken up again.
const MAX_SAVED_IDS: usize = 3000;

/// Erasure of one request.
pub(super) struct Erasure<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
    pub(super) run: &'a Run<'a>,
    pub(super) settings: Settings,
}

/// Events that a run erases, and what it has erased of them.
pub(super) struct Erasing {
    which: Erased,
    progress: Progress,
    /// Messages whose conversation is unknown, in this invocation.
    unknown_messages: u64,
}

/// Progress of a run, from which a run of the same name goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    /// Time before which the events of the conversation were received.
    erased_at: Timestamp,
    /// Events of which content was found.
    found: BTreeSet<EventId>,
    /// Lines whose conversation is unknown.
    unknown_lines: u64,
    /// Objects and records that could not be searched, with the reason.
    unsearched: Vec<String>,
    /// Number of those beyond the first hundred.
    unlisted: u64,
    /// Key of the last object that was searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    searched_to: Option<String>,
    objects_rewritten: u64,
    versions_deleted: u64,
}

/// Relation of a message to an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Erase,
    Leave,
    /// Its body is no JSON, so that its conversation is unknown.
    Unknown,
}

impl Erasing {
    /// Returns whether the run erases a message, of which the event is absent where it cannot be
    /// read.
    pub(super) fn judge(
        &self,
        event_id: &EventId,
        event: Option<&Event>,
        body: &str,
        sent_at: Timestamp,
    ) -> Verdict {
        let id = match &self.which {
            Erased::These(ids) if ids.contains(event_id) => return Verdict::Erase,
            Erased::These(_) => return Verdict::Leave,
            // By its record. Its body here may be the beginning only, which is no JSON.
            Erased::Conversation(_) if self.progress.found.contains(event_id) => {
                return Verdict::Erase;
            }
            Erased::Conversation(id) => id,
        };
        // A sender's clock may be ahead.
        let received_at = event.map_or(sent_at, |event| event.received_at.min(sent_at));
        if received_at >= self.progress.erased_at {
            return Verdict::Leave;
        }
        let body = event.map_or(body.as_bytes(), |event| &event.body);
        match Json::parse(body) {
            Ok(body) if conversation_of(body).as_ref() == Some(id) => Verdict::Erase,
            Ok(_) => Verdict::Leave,
            Err(_) => Verdict::Unknown,
        }
    }

    /// Judges the event of an archived line.
    fn judge_line(&self, line: &Archived) -> Verdict {
        if let Erased::These(_) = self.which {
            return self.judge(&line.event_id, None, "", line.sent_at);
        }
        let message = line.clone().into_message().ok();
        let event = message.and_then(|message| message.to_event(line.sent_at).ok());
        self.judge(&line.event_id, event.as_ref(), &line.body, line.sent_at)
    }

    /// Counts a message whose conversation is unknown.
    pub(super) fn note_unknown(&mut self) {
        self.unknown_messages += 1;
    }

    /// Notes a place that could not be searched. Lists the first hundred.
    fn note_unsearched(&mut self, problem: String) {
        if self.progress.unsearched.len() < MAX_LISTED {
            self.progress.unsearched.push(problem);
        } else {
            self.progress.unlisted += 1;
        }
    }

    /// Report so far.
    fn report(&self) -> Report {
        let Progress {
            found,
            objects_rewritten,
            versions_deleted,
            ..
        } = &self.progress;
        let mut report = Report::new(Done::Erase {
            erased: found.len() as u64,
            objects_rewritten: *objects_rewritten,
            versions_deleted: *versions_deleted,
            remains: Vec::new(),
        });
        report.matched = found.len() as u64;
        report
    }

    /// Saves the progress of a background run.
    async fn save<T: PortTypes>(
        &self,
        ports: &Ports<T>,
        tracked: &Tracked,
    ) -> Result<(), ServiceError> {
        let mut progress = self.progress.clone();
        while progress.found.len() > MAX_SAVED_IDS {
            progress.found.pop_last();
        }
        let position = json!(progress).to_string();
        tracked.save_position(ports, &self.report(), position).await
    }

    /// Counts events of which content was found. Before it is erased: what is erased is not found
    /// again by a run that is taken up.
    pub(super) async fn note<T: PortTypes>(
        &mut self,
        ports: &Ports<T>,
        run: &Run<'_>,
        found: &[EventId],
    ) -> Result<(), ServiceError> {
        let mut new = Vec::new();
        for id in found {
            if self.progress.found.insert(id.clone()) {
                new.push(id);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        if let Some(tracked) = run.tracked {
            self.save(ports, tracked).await?;
        }
        metrics::ERASED.add(new.len() as u64);
        for id in new {
            run.audit_event(id.as_str());
        }
        Ok(())
    }
}

impl<T: PortTypes> Erasure<'_, T> {
    pub(super) async fn erase(&self, which: &Erased) -> Result<Report, ReplayError> {
        let mut erasing = self.begin(which).await?;
        let marked_at = self.mark(&erasing).await?;
        let mut ids = BTreeSet::new();
        self.erase_records(&mut erasing, &mut ids).await?;
        let told_at = match which {
            Erased::Conversation(_) => marked_at,
            // The processor learns of these by their records alone.
            Erased::These(_) => Instant::now(),
        };
        let is_known = self.wait_for_processor(told_at).await;
        self.erase_records(&mut erasing, &mut ids).await?;
        // An invocation that has ended since may have kept the body of one of these.
        for id in &ids {
            self.ports.table.delete_body(id).await?;
        }
        let mut report = if is_known {
            self.erase_elsewhere(&mut erasing).await?
        } else {
            let mut report = erasing.report();
            let error = "the time of this invocation was over before every invocation of the processor knew of the \
                         erasure: nothing but the events table was searched; repeat the request";
            report.fail(None, error);
            report
        };
        if let Done::Erase { remains, .. } = &mut report.done {
            let kind = Kind {
                is_complete: report.complete,
                is_by_conversation: matches!(which, Erased::Conversation(_)),
                keeps_order: self.ports.ordered.is_some(),
                unknown: erasing.unknown_messages + erasing.progress.unknown_lines,
            };
            *remains = remains::list(self.settings, &kind, self.ports.clock.now());
        }
        Ok(report)
    }

    /// Erases the messages and the objects.
    async fn erase_elsewhere(&self, erasing: &mut Erasing) -> Result<Report, ReplayError> {
        let (ports, run) = (self.ports, self.run);
        let swept = Sweep::run(ports, run, Purpose::Erase(erasing)).await?;
        let left = run.deadline.saturating_duration_since(Instant::now());
        let stop_at = run.deadline - KEEP_TIME.min(left / 4);
        let (is_drained, searched) = if swept.cancelled {
            (false, Searched::Cancelled)
        } else {
            // It leaves out what is erased, so that no line of it is written from here on.
            // An invocation that did not know of the erasure may have sent to it since the run began.
            let before = ports.clock.now() + CLOCKS_DIFFER;
            let drained = Drain { ports }.drain(run, before, stop_at).await?;
            let searched = Objects { ports, run }.erase(erasing, stop_at).await?;
            (drained.complete, searched)
        };
        let mut report = Report {
            complete: swept.complete && is_drained && searched == Searched::All,
            cancelled: searched == Searched::Cancelled,
            matched: erasing.report().matched,
            done: erasing.report().done,
            ..swept
        };
        report.failures += erasing.progress.unlisted;
        for problem in &erasing.progress.unsearched {
            report.complete = false;
            report.fail(None, problem);
        }
        Ok(report)
    }

    /// Goes on from the progress of an earlier invocation of this run, or begins.
    ///
    /// The time of the erasure is saved before it is used, so that a run that is taken up again
    /// erases nothing that was received after it began.
    async fn begin(&self, which: &Erased) -> Result<Erasing, ReplayError> {
        let fresh = Progress {
            erased_at: self.run.began_at,
            found: BTreeSet::new(),
            unknown_lines: 0,
            unsearched: Vec::new(),
            unlisted: 0,
            searched_to: None,
            objects_rewritten: 0,
            versions_deleted: 0,
        };
        let mut erasing = Erasing {
            which: which.clone(),
            progress: fresh,
            unknown_messages: 0,
        };
        if let Some(tracked) = self.run.tracked {
            match tracked.position().await {
                Some(saved) => {
                    erasing.progress = serde_json::from_str(&saved)
                        .map_err(|error| Service::DynamoDb.unreadable(error))?;
                }
                None => erasing.save(self.ports, tracked).await?,
            }
        }
        Ok(erasing)
    }

    /// Notes the erasure for the processor, which drops what has no record yet, and for the writer
    /// of the journal. Returns the time after which each of them reads the note.
    async fn mark(&self, erasing: &Erasing) -> Result<Instant, ReplayError> {
        let mut erasures = self.ports.table.erasures().await?;
        let conversation = match &erasing.which {
            Erased::Conversation(id) => Some(id.as_str()),
            Erased::These(_) => None,
        };
        erasures.note(conversation, erasing.progress.erased_at)?;
        self.ports.table.save_erasures(&erasures).await?;
        Ok(Instant::now())
    }

    /// Waits until every invocation of the processor has ended that may not know of the erasure, of
    /// which it was told at this time. Returns false if the run must end before.
    async fn wait_for_processor(&self, told_at: Instant) -> bool {
        let unchecked = Duration::try_from(UNCHECKED_AGE).unwrap_or_default();
        let known_at = told_at + unchecked + self.settings.processor_timeout + CLOCKS_DIFFER;
        let end = self.run.deadline - ANSWER_TIME;
        sleep_until(known_at.min(end)).await;
        known_at <= end
    }

    /// Erases the records that the table has, with the kept bodies. Adds their ids to `ids`.
    async fn erase_records(
        &self,
        erasing: &mut Erasing,
        ids: &mut BTreeSet<EventId>,
    ) -> Result<(), ReplayError> {
        match erasing.which.clone() {
            Erased::These(named) => {
                let named: Vec<EventId> = named.into_iter().collect();
                self.erase_page(&named, erasing, ids).await
            }
            Erased::Conversation(id) => {
                let mut after = None;
                loop {
                    let page = self
                        .ports
                        .table
                        .conversation(&id, after.as_ref(), PAGE)
                        .await?;
                    self.erase_page(&page.event_ids, erasing, ids).await?;
                    after = page.next;
                    if after.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn erase_page(
        &self,
        page: &[EventId],
        erasing: &mut Erasing,
        ids: &mut BTreeSet<EventId>,
    ) -> Result<(), ReplayError> {
        let (ports, run, now) = (self.ports, self.run, self.ports.clock.now());
        let mut unreadable = BTreeSet::new();
        let mut records = ports.table.get_many(page).await?;
        for id in page {
            if records.contains_key(id) {
                continue;
            }
            // Absent, or unreadable.
            match ports.table.get(id).await {
                Ok(found) => records.extend(found.map(|record| (id.clone(), record))),
                Err(
                    error @ ServiceError {
                        fault: Fault::Unreadable,
                        ..
                    },
                ) => {
                    let error = display_chain(&error);
                    erasing.note_unsearched(format!(
                        "the record of the event {id} was not erased: {error}; update the stack to the version that wrote \
                         it, and erase again under another runId"
                    ));
                    unreadable.insert(id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (mut erased, mut with_content) = (Vec::new(), Vec::new());
        for id in page.iter().filter(|id| !unreadable.contains(id)) {
            let found = records.get(id).filter(|record| !record.is_expired(now));
            let facts = match (&erasing.which, found) {
                (Erased::These(_), None) => (Source::Generic, erasing.progress.erased_at),
                (Erased::These(_), Some(record)) => (record.source, record.received_at),
                // The index shows what the record was.
                (Erased::Conversation(_), None) => continue,
                (Erased::Conversation(conversation), Some(record)) => {
                    if record.conversation_id.as_ref() != Some(conversation)
                        || record.received_at.min(record.first_seen_at)
                            >= erasing.progress.erased_at
                    {
                        continue;
                    }
                    (record.source, record.received_at)
                }
            };
            match found.map(|record| &record.state) {
                None | Some(State::Erased) => {}
                Some(state) => {
                    with_content.push(id.clone());
                    if let State::Archived { archived_to, .. } = state {
                        self.search_again(archived_to, erasing).await?;
                    }
                }
            }
            erased.push((id, facts));
        }
        erasing.note(ports, run, &with_content).await?;
        for (id, (source, received_at)) in erased {
            tombstone(ports, run, id, records.get(id), |found, act| {
                EventRecord::erased(id, source, received_at, found, act)
            })
            .await?;
            ids.insert(id.clone());
        }
        Ok(())
    }

    /// Begins the search of the objects again, if one was written behind the last that was searched:
    /// between two invocations of a run, a dead letter can be archived.
    async fn search_again(
        &self,
        archived_to: &str,
        erasing: &mut Erasing,
    ) -> Result<(), ServiceError> {
        let searched_to = erasing.progress.searched_to.as_deref();
        if searched_to.is_none_or(|searched_to| searched_to < archived_to) {
            return Ok(());
        }
        (erasing.progress.searched_to, erasing.progress.unknown_lines) = (None, 0);
        match self.run.tracked {
            // Before the record forgets the object.
            Some(tracked) => erasing.save(self.ports, tracked).await,
            None => Ok(()),
        }
    }
}

/// Report of an erasure that has done nothing.
pub(super) fn nothing_done() -> Done {
    Done::Erase {
        erased: 0,
        objects_rewritten: 0,
        versions_deleted: 0,
        remains: Vec::new(),
    }
}

/// Records that an event is erased, of which the table holds `found`, and deletes its kept body.
/// `step` makes the transition from a record.
pub(super) async fn tombstone<T: PortTypes>(
    ports: &Ports<T>,
    run: &Run<'_>,
    event_id: &EventId,
    found: Option<&EventRecord>,
    step: impl Fn(Option<&EventRecord>, OperatorAction) -> Option<Transition>,
) -> Result<(), ServiceError> {
    let mut found = found.cloned();
    for _ in 0..MAX_WRITES {
        let written = match step(found.as_ref(), run.act(ports.clock.now())) {
            Some(step) => ports.table.write(&step).await?,
            None => Written::Done,
        };
        match written {
            // After the record: a worker that reads it keeps no body.
            Written::Done => return ports.table.delete_body(event_id).await,
            Written::Lost(instead) => found = instead.map(|instead| *instead),
        }
    }
    Err(Service::DynamoDb.unavailable("other workers keep changing the record of the event"))
}
