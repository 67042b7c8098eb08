//! Sweep over the dead-letter queue: receives all its messages, makes the records agree with them,
//! acts on those that the run is for, and shows the rest again.
//!
//! Whatever the sweep does, the event is durable at its next place before its message is deleted:
//! sent, archived, or recorded as discarded. A crash in between leaves it in both places, with one
//! id.

mod actions;
mod erase;
mod ordered;
mod state;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::api::{DeadLetter, Report};
use super::error::ReplayError;
use super::list::{DeadLetterIndex, Pages};
use super::message::DeadLetterMessage;
use super::missing::MissingEvents;
use super::ports::{PortTypes, Ports};
use super::records::Records;
use super::run::{ANSWER_TIME, Run};
use crate::domain::circuit;
use crate::domain::event::{EventId, Source};
use crate::domain::event_record::{
    DeadLetterStatus, DeadRecord, EventRecord, OperatorAction, State,
};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{
    Countable, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver, Sender,
    VisibilityTimeout,
};
use crate::ports::service::{Fault, ServiceError};
use crate::runtime::logging::{audit, display_chain};
use crate::runtime::metrics;

use self::actions::Actions;
use self::state::{Selected, SweepState};

pub(super) use self::state::Purpose;

/// A run stops this long before its deadline, or with a quarter of its time left where that is
/// less, to show again the messages that it holds.
const RELEASE_TIME: Duration = Duration::from_mins(2);

/// Wait for one more message before the queue counts as empty.
pub(super) const POLL_WAIT: Duration = Duration::from_secs(2);

/// One run over the dead letters.
pub(super) struct Sweep<'a, T: PortTypes> {
    ports: &'a Ports<T>,
    state: SweepState<'a>,
}

impl<'a, T: PortTypes> Sweep<'a, T> {
    /// Runs over the dead letters, and ends well before the deadline of the run.
    pub(super) async fn run(
        ports: &'a Ports<T>,
        run: &'a Run<'a>,
        purpose: Purpose<'a>,
    ) -> Result<Report, ReplayError> {
        let deadline = run.deadline;
        let hidden = ports.dead_letters.depth().await?.in_flight;
        let stop_at =
            deadline - RELEASE_TIME.min(deadline.saturating_duration_since(Instant::now()) / 4);
        let erasures = ports.table.erasures().await?;
        let mut sweep = Self {
            ports,
            state: SweepState::new(run, purpose, stop_at, erasures),
        };
        let elsewhere = match sweep.state.purpose {
            Purpose::Reconcile | Purpose::Erase(_) => sweep.bring_over().await,
            Purpose::Replay(_) | Purpose::Discard(_) | Purpose::Archive { .. } => 0,
        };
        let hidden = hidden + elsewhere;
        let mut outcome = sweep.sweep_all().await;
        if let Err(error) = sweep.finish(hidden, matches!(outcome, Ok(true))).await {
            outcome = Err(error);
        }
        let has_all_named = sweep.state.has_all_named();
        let SweepState {
            mut report, held, ..
        } = sweep.state;
        let nothing_done = report.matched + report.recorded + report.removed == 0;
        match outcome {
            // Messages that were hidden when the run began, or not brought over, were not received.
            Ok(complete) => report.complete = complete && (hidden == 0 || has_all_named),
            // Nothing was done, so there is nothing to report.
            Err(error) if nothing_done => {
                release_messages(&ports.dead_letters, &held, deadline).await;
                return Err(error);
            }
            Err(error) => report.fail(None, &display_chain(&error)),
        }
        release_messages(&ports.dead_letters, &held, deadline).await;
        report.remaining = timeout_at(deadline - ANSWER_TIME / 2, ports.remaining())
            .await
            .unwrap_or_else(|_| {
                tracing::warn!("no time left to count the remaining dead letters");
                None
            });
        Ok(report)
    }

    /// Goes through the dead letters until none is left, or a bound is reached. Returns whether it
    /// has seen all of them.
    async fn sweep_all(&mut self) -> Result<bool, ReplayError> {
        while !self.state.is_bounded() {
            let received = self
                .receive(&self.ports.dead_letters, self.state.stop_at)
                .await?;
            if received.is_empty() {
                return Ok(!self.state.cut_short);
            }
            let selected = self.examine(received).await?;
            Actions { ports: self.ports }
                .act(selected, &mut self.state)
                .await?;
            self.state
                .run
                .save_progress(self.ports, &self.state.report)
                .await;
            if self.state.has_all_named() {
                return Ok(!self.state.cut_short);
            }
            if self.state.run.is_cancelled(self.ports).await {
                self.state.report.cancelled = true;
                break;
            }
        }
        Ok(false)
    }

    /// Receives messages that stay hidden past the end of the run, and waits for the first until
    /// `stop_at` at most.
    async fn receive(
        &self,
        queue: &T::DeadLetters,
        stop_at: Instant,
    ) -> Result<Vec<ReceivedMessage>, ServiceError> {
        let hidden_for = self.state.run.hidden_for();
        let wait = POLL_WAIT.min(stop_at.saturating_duration_since(Instant::now()));
        queue.receive(RECEIVED_AT_ONCE, hidden_for, wait).await
    }

    /// Makes the records agree with the received messages, and selects those that the run is for.
    async fn examine(
        &mut self,
        received: Vec<ReceivedMessage>,
    ) -> Result<Vec<Selected>, ReplayError> {
        let opened = received.into_iter().map(DeadLetterMessage::open);
        let (mut messages, receipts): (Vec<_>, Vec<_>) = opened.unzip();
        let records = Records {
            ports: self.ports,
            bulk: self.state.run.bulk.as_ref(),
        };
        let records = match records.look_up(&mut messages).await {
            Ok(records) => records,
            Err(error) => {
                self.state.held.extend(receipts);
                return Err(error.into());
            }
        };
        let is_held_back = match self.is_held_back(records.values()).await {
            Ok(is_held_back) => is_held_back,
            Err(error) => {
                self.state.held.extend(receipts);
                return Err(error.into());
            }
        };
        let mut selected = Vec::new();
        for (message, receipt) in messages.into_iter().zip(receipts) {
            let found = records.get(&message.event_id);
            let Some((message, receipt)) = self.erase_or_leave(message, receipt, found).await
            else {
                continue;
            };
            // Its retry is overdue for that, and another message of it may wait.
            let may_wait = found.is_some_and(is_retried) && !message.message.has_own_reason();
            if is_held_back && may_wait {
                self.state.seen.insert(message.event_id.clone());
                self.state.hold(receipt);
                continue;
            }
            // A copy, or the event itself, dead once more. The next run can tell them apart.
            if self.state.taken.contains(&message.event_id) {
                self.state.hold(receipt);
                continue;
            }
            match self.reconcile(&message, found).await {
                Reconciled::Dead(dead) => {
                    selected.extend(self.state.select(
                        message,
                        receipt,
                        dead,
                        self.ports.clock.now(),
                    ));
                }
                Reconciled::Copy(state) => {
                    self.remove_copy(&message, receipt, found, state).await;
                }
                Reconciled::Left => self.state.hold(receipt),
            }
        }
        Ok(selected)
    }

    /// Returns whether the breaker holds events back, if one of these is retried. With nothing in
    /// the events queue it holds none, and would not close either.
    async fn is_held_back<'r>(
        &self,
        records: impl Iterator<Item = &'r EventRecord>,
    ) -> Result<bool, ServiceError> {
        if !records.into_iter().any(is_retried) {
            return Ok(false);
        }
        let is_open = match self.ports.table.circuit().await {
            Ok(circuit) => circuit.is_some_and(|circuit| {
                matches!(
                    circuit.state,
                    circuit::State::Open | circuit::State::Closing { .. }
                )
            }),
            // No breaker of this version runs.
            Err(error) if error.fault == Fault::Unreadable => false,
            Err(error) => return Err(error),
        };
        Ok(is_open && self.ports.events.depth().await?.total() > 0)
    }

    /// Records that the event of a message is dead, if it is.
    async fn reconcile(
        &mut self,
        message: &DeadLetterMessage,
        found: Option<&EventRecord>,
    ) -> Reconciled {
        let now = self.ports.clock.now();
        self.state.seen.insert(message.event_id.clone());
        let dead = match DeadLetterStatus::of(&message.evidence(), found, now) {
            DeadLetterStatus::Dead(dead) => return Reconciled::Dead(dead),
            DeadLetterStatus::Finished(state) => return Reconciled::Copy(state.as_str()),
            DeadLetterStatus::UnderWay => return Reconciled::Left,
            DeadLetterStatus::Unrecorded(dead) => dead.noted(OperatorAction {
                action: "reconcile".to_owned(),
                ..self.state.run.act(now)
            }),
        };
        let is_check = dead.record().source == Source::Check;
        let written = async {
            if !is_check {
                self.ports
                    .table
                    .keep_body(&message.event_id, message.body(), now)
                    .await?;
            }
            self.ports.table.write(dead.transition()).await
        };
        match written.await {
            Ok(Written::Done) => {
                let reason = dead.death().reason.as_str();
                tracing::info!(event_id = %message.event_id, run = %self.state.run.id, reason, "recorded dead letter");
                // A message with a reason was counted when it was sent here.
                if !message.message.has_own_reason() && !is_check {
                    metrics::DEAD.add(dead.death().reason, 1);
                }
                self.state.report.recorded += 1;
                Reconciled::Dead(dead)
            }
            // Another worker has changed the record; the next run reads it.
            Ok(Written::Lost(_)) => Reconciled::Left,
            Err(error) => {
                self.state
                    .report
                    .fail(Some(message.event_id.as_str()), &display_chain(&error));
                self.state.refused.insert(message.event_id.clone());
                Reconciled::Left
            }
        }
    }

    /// Deletes a message that its event no longer needs, and the body that a crash may have left
    /// beside its record.
    async fn remove_copy(
        &mut self,
        message: &DeadLetterMessage,
        receipt: ReceiptHandle,
        found: Option<&EventRecord>,
        state: &str,
    ) {
        let event_id = &message.event_id;
        let released = async {
            if found.is_some_and(EventRecord::has_surplus_body) {
                self.ports.table.delete_body(event_id).await?;
            }
            // The worker that delivered it may have ended before it was in the journal.
            match &self.ports.journal {
                Some(journal) if found.is_some_and(is_journalled) => match message.as_delivered() {
                    Some(message) => journal.send(&message).await,
                    None => Ok(()),
                },
                Some(_) | None => Ok(()),
            }
        };
        if let Err(error) = released.await {
            self.state
                .report
                .fail(Some(event_id.as_str()), &display_chain(&error));
            self.state.hold(receipt);
            return;
        }
        if let Some(Err(error)) = self
            .ports
            .dead_letters
            .delete(std::slice::from_ref(&receipt))
            .await
            .pop()
        {
            self.state
                .report
                .fail(Some(event_id.as_str()), &display_chain(&error));
            return;
        }
        let run = self.state.run;
        audit!("remove", run.requester, run = %run.id, %event_id, state, "removed a copy");
        self.state.report.removed += 1;
    }

    /// Finishes after the last message: writes the last archive object, and explains or unlists
    /// missing events.
    async fn finish(&mut self, hidden: u64, complete: bool) -> Result<(), ReplayError> {
        Actions { ports: self.ports }
            .write_part(&mut self.state)
            .await?;
        if !complete {
            return Ok(());
        }
        if let Some(named) = self.state.purpose.named() {
            let dealt_with =
                |id: &EventId| self.state.taken.contains(id) || self.state.refused.contains(id);
            let missing: Vec<EventId> =
                named.iter().filter(|id| !dealt_with(id)).cloned().collect();
            let events = MissingEvents { ports: self.ports };
            return events
                .explain(&missing, hidden, hidden, &mut self.state.report)
                .await;
        }
        // A message that another reader hides cannot be told from one that is gone.
        if matches!(self.state.purpose, Purpose::Reconcile) && hidden == 0 {
            return self.unlist().await;
        }
        Ok(())
    }

    /// Takes dead events off the list whose messages are not there.
    async fn unlist(&mut self) -> Result<(), ReplayError> {
        let now = self.ports.clock.now();
        let (index, mut pages) = (DeadLetterIndex { ports: self.ports }, Pages::default());
        while let Some(page) = index.next_page(&mut pages).await? {
            let bulk = self.state.run.bulk.as_ref();
            let is_missing = |dead_letter: &DeadLetter| {
                dead_letter.has_arrived(bulk, self.state.run.began_at)
                    && !self.state.seen.contains(&dead_letter.event_id)
            };
            let missing: Vec<EventId> = page
                .into_iter()
                .filter(is_missing)
                .map(|dead_letter| dead_letter.event_id)
                .collect();
            let records = Records {
                ports: self.ports,
                bulk,
            };
            for record in records.of(&missing).await?.values() {
                if Instant::now() >= self.state.stop_at {
                    return Ok(());
                }
                let dead = match DeadLetterStatus::recorded(record, now) {
                    Some(DeadLetterStatus::Dead(dead)) => dead,
                    Some(DeadLetterStatus::Unrecorded(dead))
                        if self.ports.table.write(dead.transition()).await? == Written::Done =>
                    {
                        if record.source != Source::Check {
                            metrics::DEAD.add(dead.death().reason, 1);
                        }
                        dead
                    }
                    _ => continue,
                };
                if self.ports.table.write(&dead.unlisted(now)).await? == Written::Done {
                    tracing::warn!(
                        event_id = %record.event_id,
                        run = %self.state.run.id,
                        "dead event has no message in the dead-letter queue"
                    );
                    self.state.report.done.count_of(record.source);
                }
            }
        }
        Ok(())
    }
}

/// Returns whether a copy of the event belongs into the journal.
fn is_journalled(record: &EventRecord) -> bool {
    record.state == State::Delivered && record.source != Source::Check
}

fn is_retried(record: &EventRecord) -> bool {
    matches!(record.state, State::Retrying { .. })
}

/// Shows again the messages that the run hid and did not select.
pub(super) async fn release_messages(
    queue: &impl VisibilityTimeout,
    held: &[ReceiptHandle],
    deadline: Instant,
) {
    let (mut hidden, mut why) = (held.len(), "no time left".to_owned());
    let all = async {
        for receipts in held.chunks(RECEIVED_AT_ONCE) {
            let changes: Vec<_> = receipts
                .iter()
                .map(|receipt| (receipt.clone(), Duration::ZERO))
                .collect();
            let results = queue.change_visibility(&changes).await;
            for result in results {
                match result {
                    Ok(()) => hidden -= 1,
                    Err(error) => why = display_chain(&error),
                }
            }
        }
    };
    // The messages that it reached are counted; the rest come back by themselves.
    let _ = timeout_at(deadline - ANSWER_TIME, all).await;
    if hidden > 0 {
        tracing::warn!(
            hidden,
            error = why,
            "messages stay hidden until their visibility timeout ends"
        );
    }
}

/// Result of comparing a message with the record of its event.
#[expect(
    clippy::large_enum_variant,
    reason = "the common case is the large one"
)]
enum Reconciled {
    /// A recorded dead letter.
    Dead(DeadRecord),
    /// A copy of an event that no longer needs it.
    Copy(&'static str),
    /// A message to leave alone for now.
    Left,
}
