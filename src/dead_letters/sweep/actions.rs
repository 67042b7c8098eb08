//! Actions of a sweep on the dead letters that it selects: send back, discard, archive.
//!
//! The order is always the same: the record, the next place, its confirmation, and only then the
//! delete.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::state::{Purpose, Selected, SweepState};
use crate::dead_letters::api::Done;
use crate::dead_letters::error::ReplayError;
use crate::dead_letters::ports::{PortTypes, Ports};
use crate::dead_letters::run::ANSWER_TIME;
use crate::domain::event_record::{OperatorAction, Transition};
use crate::domain::message::Message;
use crate::ports::archive::{Archive, ArchiveError};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{RECEIVED_AT_ONCE, Receiver, Sender};
use crate::ports::service::Service;
use crate::runtime::logging::display_chain;

/// Actions on selected dead letters.
pub(super) struct Actions<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> Actions<'_, T> {
    /// Acts on the selected dead letters, at the pace of the request.
    pub(super) async fn act(
        &self,
        mut taken: Vec<Selected>,
        sweep: &mut SweepState<'_>,
    ) -> Result<(), ReplayError> {
        let rate = match sweep.purpose {
            Purpose::Replay(selection) => selection.rate_per_second,
            Purpose::Discard(_)
            | Purpose::Archive { .. }
            | Purpose::Reconcile
            | Purpose::Erase(_) => None,
        };
        let pace = rate.map_or(RECEIVED_AT_ONCE, |rate| RECEIVED_AT_ONCE.min(rate as usize));
        while !taken.is_empty() {
            let rest = taken.split_off(taken.len().min(pace));
            sleep_until(sweep.due.min(sweep.stop_at)).await;
            if Instant::now() >= sweep.stop_at {
                sweep.give_back(taken.into_iter().chain(rest));
                break;
            }
            if let Some(rate) = rate {
                let sent = u32::try_from(taken.len()).unwrap_or(u32::MAX);
                sweep.due = Instant::now() + Duration::from_secs(1) * sent / rate;
            }
            let outcome = match sweep.purpose {
                Purpose::Replay(_) => self.send_back(taken, sweep).await,
                Purpose::Discard(_) => self.discard(taken, sweep).await,
                Purpose::Archive { .. } => {
                    let (checks, events): (Vec<_>, Vec<_>) =
                        taken.into_iter().partition(Selected::is_check);
                    let dropped = self.drop_checks(checks, sweep).await;
                    dropped.and(self.add_to_archive(events, sweep).await)
                }
                Purpose::Reconcile | Purpose::Erase(_) => Ok(()),
            };
            if let Err(error) = outcome {
                sweep.give_back(rest.into_iter());
                return Err(error);
            }
            taken = rest;
        }
        Ok(())
    }

    /// Marks, sends, waits for the confirmation, and only then deletes. Fails when nothing can be
    /// marked or sent.
    async fn send_back(
        &self,
        taken: Vec<Selected>,
        sweep: &mut SweepState<'_>,
    ) -> Result<(), ReplayError> {
        let marked = self
            .write_all(taken, sweep, |selected, act| selected.dead.replayed(act))
            .await?;
        let message = |selected: &Selected| selected.message.as_replayed(selected.dead.record());
        let messages: Vec<Message> = marked.iter().map(message).collect();
        let (mut sent, mut outage) = (Vec::new(), None);
        for (selected, result) in marked
            .into_iter()
            .zip(self.ports.events.send_all(&messages).await)
        {
            match result {
                Ok(()) => sent.push(selected),
                Err(error) => {
                    sweep
                        .report
                        .fail(Some(selected.event_id()), &display_chain(&error));
                    sweep.held.push(selected.receipt);
                    outage = Some(error).filter(crate::ports::service::ServiceError::is_transient);
                }
            }
        }
        let none = sent.is_empty();
        self.delete(sent, sweep).await;
        match outage {
            Some(error) if none => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn discard(
        &self,
        taken: Vec<Selected>,
        sweep: &mut SweepState<'_>,
    ) -> Result<(), ReplayError> {
        let discarded = self
            .write_all(taken, sweep, |selected, act| selected.dead.discarded(act))
            .await?;
        self.delete(discarded, sweep).await;
        Ok(())
    }

    /// Discards the dead letters of checks, which no archive keeps.
    async fn drop_checks(
        &self,
        checks: Vec<Selected>,
        sweep: &mut SweepState<'_>,
    ) -> Result<(), ReplayError> {
        let discarded = self
            .write_all(checks, sweep, |selected, act| selected.dead.discarded(act))
            .await?;
        sweep.report.removed += discarded.len() as u64;
        self.delete_messages(discarded, sweep).await;
        Ok(())
    }

    async fn add_to_archive(
        &self,
        taken: Vec<Selected>,
        sweep: &mut SweepState<'_>,
    ) -> Result<(), ReplayError> {
        let now = self.ports.clock.now();
        let mut taken = taken.into_iter();
        while let Some(selected) = taken.next() {
            let Purpose::Archive { part, parted, .. } = &mut sweep.purpose else {
                return Ok(());
            };
            // Written to memory.
            match part.add(&selected.message.as_archived(&selected.dead, now)) {
                Ok(()) => parted.push(selected),
                Err(error) => {
                    sweep
                        .report
                        .fail(Some(selected.event_id()), &error.to_string());
                    sweep.held.push(selected.receipt);
                }
            }
            // Before another is added: `restore` reads no object with more than one message beyond
            // the bound.
            if part.is_full()
                && let Err(error) = self.write_part(sweep).await
            {
                sweep.give_back(taken);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes the object, then marks its events as archived, and only then deletes their messages.
    pub(super) async fn write_part(&self, sweep: &mut SweepState<'_>) -> Result<(), ReplayError> {
        let Purpose::Archive { part, parted, .. } = &mut sweep.purpose else {
            return Ok(());
        };
        let (part, parted) = (std::mem::take(part), std::mem::take(parted));
        if parted.is_empty() {
            return Ok(());
        }
        let number = match &sweep.report.done {
            Done::Archive { keys, .. } => keys.len() + 1,
            _ => 1,
        };
        let day = sweep.run.began_at.strftime("%Y/%m/%d");
        let key = format!(
            "dead-letters/{day}/{}/part-{number:04}.jsonl.gz",
            sweep.run.id
        );
        let object = part
            .finish()
            .map_err(|error| ArchiveError::Service(Service::S3.refused(error)));
        let written = match object {
            Ok(object) => self.ports.archive.put(&key, object).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            sweep.give_back(parted.into_iter());
            return Err(error.into());
        }
        let archived = self
            .write_all(parted, sweep, |selected, act| {
                selected.dead.archived(act, &key)
            })
            .await;
        if let Done::Archive { keys, .. } = &mut sweep.report.done {
            keys.push(key.clone());
        }
        self.delete(archived?, sweep).await;
        Ok(())
    }

    /// Writes a step on the record of each, and returns those that were written. Fails when the
    /// table is down from the start; ends the run when the table goes down later, or when the time
    /// is up.
    async fn write_all(
        &self,
        taken: Vec<Selected>,
        sweep: &mut SweepState<'_>,
        step: impl Fn(&Selected, OperatorAction) -> Transition,
    ) -> Result<Vec<Selected>, ReplayError> {
        let mut written = Vec::new();
        let mut rest = taken.into_iter();
        while let Some(selected) = rest.next() {
            if Instant::now() + ANSWER_TIME >= sweep.run.deadline {
                sweep.give_back(std::iter::once(selected).chain(rest));
                break;
            }
            let step = step(&selected, sweep.run.act(self.ports.clock.now()));
            let outcome = match self.ports.table.write(&step).await {
                // Before the message is deleted: while the message exists, a later sweep can repeat
                // this.
                Ok(Written::Done) if step.next().has_surplus_body() => self
                    .ports
                    .table
                    .delete_body(&step.next().event_id)
                    .await
                    .map(|()| Written::Done),
                outcome => outcome,
            };
            match outcome {
                Ok(Written::Done) => written.push(selected),
                Ok(Written::Lost(_)) => {
                    sweep.report.fail(
                        Some(selected.event_id()),
                        "another worker has changed its record; repeat the request",
                    );
                    sweep.held.push(selected.receipt);
                }
                Err(error) => {
                    sweep
                        .report
                        .fail(Some(selected.event_id()), &display_chain(&error));
                    sweep.held.push(selected.receipt);
                    sweep.give_back(rest);
                    if written.is_empty() {
                        return Err(error.into());
                    }
                    sweep.stop_at = Instant::now();
                    break;
                }
            }
        }
        Ok(written)
    }

    /// Deletes the messages of events that are durable elsewhere, and counts them.
    async fn delete(&self, selected: Vec<Selected>, sweep: &mut SweepState<'_>) {
        for selected in &selected {
            sweep.report.done.count_of(selected.dead.record().source);
        }
        self.delete_messages(selected, sweep).await;
    }

    async fn delete_messages(&self, selected: Vec<Selected>, sweep: &mut SweepState<'_>) {
        let receipts: Vec<_> = selected
            .iter()
            .map(|selected| selected.receipt.clone())
            .collect();
        for (selected, result) in selected
            .into_iter()
            .zip(self.ports.dead_letters.delete(&receipts).await)
        {
            let event_id = selected.event_id();
            sweep.run.audit_event(event_id);
            if let Err(error) = result {
                let error = format!(
                    "done, but not removed from the dead-letter queue: {}",
                    display_chain(&error)
                );
                sweep.report.fail(Some(event_id), &error);
            }
        }
    }
}
