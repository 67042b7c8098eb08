//! Resend of delivered events from the journal, in the order in which the relay received them.
//!
//! The place that a run has reached is saved with its report. A run that is killed goes on behind
//! it, and sends what came after it once more. The record of each event says which runs have
//! delivered it, so that it reaches the target once in each.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::selection::{Findings, Place, Search};
use super::{CLOCKS_DIFFER, Drain};
use crate::dead_letters::api::{Delivered, Done, HourCount, Missing, Report, ResendSelection};
use crate::dead_letters::error::ReplayError;
use crate::dead_letters::ports::{PortTypes, Ports};
use crate::dead_letters::progress::Tracked;
use crate::dead_letters::run::Run;
use crate::domain::event::EventId;
use crate::domain::event_record::{EventRecord, State};
use crate::domain::message::Message;
use crate::domain::resend::Resend;
use crate::ports::archive::Archived;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Position};
use crate::ports::queue::{Countable, RECEIVED_AT_ONCE, Sender};
use crate::ports::service::{Service, ServiceError};
use crate::runtime::logging::display_chain;

/// A run stops this long before its deadline, or with a quarter of its time left where that is
/// less.
const STOP_TIME: Duration = Duration::from_secs(30);

/// Matching events whose ids a dry run lists.
const MAX_LISTED: usize = 100;

/// Failure of a run, or of a dry run, whose search was not over in time.
const CUT_SHORT: &str =
    "the time was over before the journal was searched; give a shorter span of time";

/// Lines that are held at a time: their bytes in the journal, and their number.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
const WINDOW_EVENTS: usize = 4000;

/// Resend of the events of one request.
pub(in crate::dead_letters) struct Resending<'a, T: PortTypes> {
    pub(in crate::dead_letters) ports: &'a Ports<T>,
    pub(in crate::dead_letters) selection: &'a ResendSelection,
}

/// Place that a run has reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reached {
    /// The run is for events that were delivered before this time.
    until: Timestamp,
    /// True once the events are counted. Until then nothing is sent.
    is_begun: bool,
    /// True if the journal could be read in full, and the request has no bound below the number of
    /// its events.
    is_whole: bool,
    /// The last event that needs nothing more, as a [`Position`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    behind: Option<String>,
    /// Number of events up to there.
    dealt_with: u32,
}

impl Reached {
    fn position(&self) -> Result<Option<Position>, ServiceError> {
        let parsed = self.behind.as_deref().map(str::parse).transpose();
        parsed.map_err(|error| Service::DynamoDb.unreadable(error))
    }
}

/// Reason for which a run stops sending.
enum Stopped {
    /// Nothing is left.
    AtTheEnd,
    /// The time is up; the same request goes on.
    AtTheDeadline,
    /// An operator has cancelled it.
    Cancelled,
}

impl<T: PortTypes> Resending<'_, T> {
    /// Counts the events that a run would send, by the hour of their delivery.
    pub(in crate::dead_letters) async fn count(
        &self,
        deadline: Instant,
    ) -> Result<Report, ReplayError> {
        let journal = self.ports.journal.as_ref().ok_or(ReplayError::NoJournal)?;
        let waiting = journal.depth().await?.total();
        let until = self.ports.clock.now();
        let search = self.search(until, None, MAX_LISTED, stop_before(deadline));
        let findings = search.search().await?;
        let mut report = Report::new(Done::Resend { resent: 0 });
        report.dry_run = true;
        report.not_yet_journalled = Some(waiting);
        self.describe(&findings, &mut report).await?;
        report.event_ids = findings
            .places
            .keys()
            .filter_map(Position::event_id)
            .collect();
        let hours = findings.hours.iter();
        report.hours = hours
            .map(|(&hour, &events)| HourCount { hour, events })
            .collect();
        Ok(report)
    }

    /// Sends the events, from the place that the run has reached before.
    pub(in crate::dead_letters) async fn resend(
        &self,
        run: &Run<'_>,
        tracked: &Tracked,
    ) -> Result<Report, ReplayError> {
        let journal = self.ports.journal.as_ref().ok_or(ReplayError::NoJournal)?;
        let stop_at = stop_before(run.deadline);
        let saved = tracked.position().await;
        let mut reached: Reached = match &saved {
            Some(text) => {
                serde_json::from_str(text).map_err(|error| Service::DynamoDb.unreadable(error))?
            }
            None => Reached {
                until: run.began_at - CLOCKS_DIFFER,
                is_begun: false,
                is_whole: false,
                behind: None,
                dealt_with: 0,
            },
        };
        let half = stop_at.saturating_duration_since(Instant::now()) / 2;
        let drained = Drain { ports: self.ports }
            .drain(run, reached.until, Instant::now() + half)
            .await?;
        let waiting = journal.depth().await?.total();
        let earlier = if reached.is_begun {
            tracked.report().await
        } else {
            None
        };
        let mut report = earlier.unwrap_or_else(|| Report::new(Done::Resend { resent: 0 }));
        report.not_yet_journalled = Some(waiting);
        if !reached.is_begun && !drained.complete {
            // Otherwise the run would leave out what it is for, and be over.
            let error = "delivered events are not journalled yet, or are hidden since a run was killed; nothing was sent; start \
                         the same run again in some minutes";
            report.fail(None, error);
            tracked
                .save_position(self.ports, &report, json!(reached).to_string())
                .await?;
            return Ok(report);
        }
        let behind = reached.position()?;
        let open = self
            .selection
            .max_messages
            .saturating_sub(reached.dealt_with) as usize;
        let search = self.search(reached.until, behind.as_ref(), open, stop_at);
        let findings = search.search().await?;
        if findings.is_cut_short {
            report.fail(None, CUT_SHORT);
            if !reached.is_begun {
                tracked.forget_position().await;
            }
            return Ok(report);
        }
        if !reached.is_begun {
            self.describe(&findings, &mut report).await?;
            (reached.is_begun, reached.is_whole) = (true, report.complete);
        }
        let mut sending = Sending {
            ports: self.ports,
            run,
            tracked,
            resend: Resend {
                run: tracked.run_id().await,
                by: run.requester.by.clone(),
                why: run.requester.why.clone(),
            },
            rate: self.selection.rate_per_second,
            due: Instant::now(),
            stop_at,
            left: findings.places.len() as u64,
            reached,
            report,
        };
        // Not complete until it has ended, whatever reads it in between.
        sending.report.complete = false;
        sending.save().await?;
        let outcome = sending.send_all(&search, findings).await;
        sending.report.remaining = Some(sending.left);
        match outcome {
            Ok(Stopped::AtTheEnd) => {
                tracked.forget_position().await;
                sending.report.complete = sending.reached.is_whole;
            }
            Ok(Stopped::AtTheDeadline) => sending.save().await?,
            Ok(Stopped::Cancelled) => sending.report.cancelled = true,
            Err(error) => {
                // The run goes on from here when it is begun again. What is not saved is sent twice,
                // and delivered once.
                if let Err(unsaved) = sending.save().await {
                    tracing::warn!(
                        error = display_chain(&unsaved),
                        "failed to save the place that the run has reached"
                    );
                }
                return Err(error);
            }
        }
        Ok(sending.report)
    }

    fn search<'s>(
        &'s self,
        until: Timestamp,
        behind: Option<&'s Position>,
        most: usize,
        stop_at: Instant,
    ) -> Search<'s, T> {
        Search {
            ports: self.ports,
            selection: self.selection,
            until,
            behind,
            most,
            stop_at,
        }
    }

    /// Adds what a search has found to the report, and what it has not.
    async fn describe(&self, findings: &Findings, report: &mut Report) -> Result<(), ServiceError> {
        report.matched = findings.matched;
        report.complete = !findings.is_cut_short
            && findings.unread.is_empty()
            && findings.matched <= u64::from(self.selection.max_messages);
        for error in &findings.unread {
            report.fail(None, error);
        }
        if findings.is_cut_short {
            report.fail(None, CUT_SHORT);
            return Ok(());
        }
        // The filter names no event.
        let Delivered::These(_) = self.selection.which else {
            return Ok(());
        };
        let missing: Vec<EventId> = findings.missing.iter().cloned().collect();
        let (records, now) = (
            self.ports.table.get_many(&missing).await?,
            self.ports.clock.now(),
        );
        for id in &missing {
            let record = records.get(id).filter(|record| !record.is_expired(now));
            let (state, error) = record
                .and_then(|record| why_not_sent(record, now))
                .unwrap_or((
                    Missing::Unknown,
                    "the journal does not hold it: it is not delivered or not journalled yet, or JournalDays are over"
                        .to_owned(),
                ));
            report.miss(id.as_str(), state, error);
        }
        Ok(())
    }
}

fn stop_before(deadline: Instant) -> Instant {
    deadline - STOP_TIME.min(deadline.saturating_duration_since(Instant::now()) / 4)
}

/// State of a run while it sends.
struct Sending<'a, T: PortTypes> {
    ports: &'a Ports<T>,
    run: &'a Run<'a>,
    tracked: &'a Tracked,
    resend: Resend,
    rate: Option<u32>,
    /// Time at which the next message may be sent.
    due: Instant,
    stop_at: Instant,
    left: u64,
    reached: Reached,
    report: Report,
}

impl<T: PortTypes> Sending<'_, T> {
    async fn send_all(
        &mut self,
        search: &Search<'_, T>,
        mut findings: Findings,
    ) -> Result<Stopped, ReplayError> {
        let at_once = self
            .rate
            .map_or(RECEIVED_AT_ONCE, |rate| RECEIVED_AT_ONCE.min(rate as usize));
        loop {
            let window = take_window(&mut findings.places);
            if window.is_empty() {
                return Ok(Stopped::AtTheEnd);
            }
            let lines = search.read(&findings, &window).await?;
            let mut lines = lines.into_iter();
            loop {
                let batch = lines.by_ref().take(at_once).map(Selected::read);
                let batch = batch.collect::<Result<Vec<_>, _>>()?;
                if batch.is_empty() {
                    break;
                }
                sleep_until(self.due.min(self.stop_at)).await;
                if self.run.is_cancelled(self.ports).await {
                    return Ok(Stopped::Cancelled);
                }
                if Instant::now() >= self.stop_at {
                    return Ok(Stopped::AtTheDeadline);
                }
                if let Some(rate) = self.rate {
                    let sent = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                    self.due = Instant::now() + Duration::from_secs(1) * sent / rate;
                }
                self.send(batch).await?;
                if self.tracked.is_save_due().await {
                    self.save().await?;
                }
            }
        }
    }

    /// Sends those of a batch that may be sent. Fails at the first that SQS did not take for now, or
    /// if it took none of them; the place that is reached is before it.
    ///
    /// A queue in order takes none of a conversation behind one that it did not take.
    async fn send(&mut self, batch: Vec<Selected>) -> Result<(), ReplayError> {
        let ids: Vec<EventId> = batch.iter().map(|one| one.event_id.clone()).collect();
        let records = self.ports.table.get_many(&ids).await?;
        let now = self.ports.clock.now();
        let (mut decided, mut messages) = (Vec::new(), Vec::new());
        for Selected {
            position,
            event_id,
            message,
        } in batch
        {
            let record = records.get(&event_id);
            let record = record.filter(|record| !record.is_expired(now));
            let decision = record.map_or(Decision::Send, |record| {
                Decision::of(record, &self.resend.run, now)
            });
            let message = message.without_reason().named(&event_id);
            let message = message.with_resend(&self.resend);
            let decision = match decision {
                Decision::Send if !message.is_sendable() => Decision::Refuse,
                decision => decision,
            };
            if matches!(decision, Decision::Send) {
                messages.push(message);
            }
            decided.push((position, event_id, decision));
        }
        let results = self.ports.events.send_all(&messages).await;
        let is_refused = results.iter().all(Result::is_err);
        let mut results = results.into_iter();
        for (position, event_id, decision) in decided {
            let id = event_id.as_str();
            match decision {
                // An earlier invocation has sent it.
                Decision::Sent => self.report.done.count(),
                Decision::Skip(state, why) => {
                    self.report.skipped += 1;
                    self.report.miss(id, state, why);
                }
                Decision::Refuse => {
                    let error = "it has more attributes, or is larger, than SQS takes with the mark of a resend";
                    self.report.fail(Some(id), error);
                }
                Decision::Send => match results.next() {
                    Some(Ok(())) => {
                        self.run.audit_event(id);
                        self.report.done.count();
                    }
                    Some(Err(error)) if error.is_transient() || is_refused => {
                        return Err(error.into());
                    }
                    Some(Err(error)) => {
                        self.report.fail(Some(id), &display_chain(&error));
                    }
                    None => {
                        let error = Service::Sqs.unreadable("no result for a message");
                        return Err(error.into());
                    }
                },
            }
            self.left -= 1;
            self.reached.dealt_with += 1;
            self.reached.behind = Some(position.token());
        }
        Ok(())
    }

    /// Saves the place that the run has reached, with its report.
    async fn save(&mut self) -> Result<(), ServiceError> {
        self.report.remaining = Some(self.left);
        let position = json!(self.reached).to_string();
        self.tracked
            .save_position(self.ports, &self.report, position)
            .await
    }
}

/// An event that the run is to send.
struct Selected {
    position: Position,
    event_id: EventId,
    message: Message,
}

impl Selected {
    fn read((position, archived): (Position, Archived)) -> Result<Self, ServiceError> {
        let event_id = archived.event_id.clone();
        let message = archived.into_message();
        Ok(Self {
            position,
            event_id,
            message: message.map_err(|error| Service::S3.unreadable(error))?,
        })
    }
}

/// Decision about an event of the selection.
enum Decision {
    Send,
    /// SQS would never take it.
    Refuse,
    /// This run has sent it already.
    Sent,
    Skip(Missing, String),
}

impl Decision {
    fn of(record: &EventRecord, run: &str, now: Timestamp) -> Self {
        let is_of_run = record.resend.as_deref() == Some(run) && record.state.death(now).is_none();
        if is_of_run || record.resent.iter().any(|resent| resent == run) {
            return Self::Sent;
        }
        match why_not_sent(record, now) {
            Some((state, why)) => Self::Skip(state, why),
            None => Self::Send,
        }
    }
}

/// The reason for which an event cannot be sent once more; `None` where it can.
fn why_not_sent(record: &EventRecord, now: Timestamp) -> Option<(Missing, String)> {
    let (state, why) = match &record.state {
        State::Delivered => return None,
        state if state.death(now).is_some() => {
            (Missing::Dead, "it is a dead letter: replay it".to_owned())
        }
        State::Archived { archived_to, .. } => (
            Missing::Archived,
            format!("it is in the archive: {archived_to}"),
        ),
        State::Discarded(_) => (Missing::Discarded, "it was discarded".to_owned()),
        State::Erased => (Missing::Erased, "it was erased".to_owned()),
        State::Queued | State::InProgress(_) | State::Retrying { .. } | State::Dead(_) => (
            Missing::Alive,
            "it is being delivered, or waits for its next attempt".to_owned(),
        ),
    };
    Some((state, why))
}

/// Takes the first places, as many as lines are held at a time.
fn take_window(places: &mut BTreeMap<Position, Place>) -> Vec<(Position, Place)> {
    let (mut window, mut bytes) = (Vec::new(), 0);
    while window.len() < WINDOW_EVENTS
        && bytes < WINDOW_BYTES
        && let Some((position, place)) = places.pop_first()
    {
        bytes += place.bytes;
        window.push((position, place));
    }
    window
}
