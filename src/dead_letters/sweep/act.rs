//! What a sweep does with the dead letters that it takes: send back, discard, archive.
//!
//! The order is always the same: the record, the next place, its confirmation, and only then the delete.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::letter::Taken;
use super::{ANSWER_TIME, Purpose, Stopped, Sweep};
use crate::dead_letters::{Done, Ports, Replay, Run};
use crate::domain::event_record::{OperatorAction, Transition};
use crate::domain::message::Message;
use crate::ports::archive::{Archive, ArchiveError};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{QueueError, RECEIVED_AT_ONCE, Receiver, Sender};
use crate::runtime::logging::display_chain;

impl<P: Ports> Replay<P> {
    /// Does what the run is for, at its pace.
    pub(super) async fn act(&self, mut taken: Vec<Taken>, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let rate = match sweep.purpose {
            Purpose::Replay(selection) => selection.rate_per_second,
            Purpose::Discard(_) | Purpose::Archive { .. } | Purpose::Reconcile => None,
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
                Purpose::Archive { .. } => self.add_to_archive(taken, sweep).await,
                Purpose::Reconcile => Ok(()),
            };
            if let Err(error) = outcome {
                sweep.give_back(rest.into_iter());
                return Err(error);
            }
            taken = rest;
        }
        Ok(())
    }

    /// Marks, sends, waits for the confirmation, and only then deletes. Fails when nothing can be marked or sent at all.
    async fn send_back(&self, taken: Vec<Taken>, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let marked = self.write_all(taken, sweep, |letter, act| letter.dead.replayed(act)).await?;
        let message = |letter: &Taken| {
            let record = letter.dead.record();
            letter.message.clone().without_reason().with_identity(letter.sent_at).named(&record.event_id)
        };
        let messages: Vec<Message> = marked.iter().map(message).collect();
        let (mut sent, mut outage) = (Vec::new(), None);
        for (letter, result) in marked.into_iter().zip(self.events.send_all(&messages).await) {
            match result {
                Ok(()) => sent.push(letter),
                Err(error) => {
                    sweep.report.fail(Some(letter.event_id()), &display_chain(&error));
                    sweep.held.push(letter.receipt);
                    outage = Some(error).filter(|error| matches!(error, QueueError::Unavailable(_)));
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

    async fn discard(&self, taken: Vec<Taken>, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let discarded = self.write_all(taken, sweep, |letter, act| letter.dead.discarded(act)).await?;
        self.delete(discarded, sweep).await;
        Ok(())
    }

    async fn add_to_archive(&self, taken: Vec<Taken>, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let now = self.clock.now();
        let mut taken = taken.into_iter();
        while let Some(letter) = taken.next() {
            let Purpose::Archive { part, parted, .. } = &mut sweep.purpose else { return Ok(()) };
            // Written to memory, which does not fail.
            match part.add(&letter.archived(now)) {
                Ok(()) => parted.push(letter),
                Err(error) => {
                    sweep.report.fail(Some(letter.event_id()), &error.to_string());
                    sweep.held.push(letter.receipt);
                }
            }
            // Before another is added: `restore` takes no object that holds more than one message beyond the bound.
            if part.is_full()
                && let Err(error) = self.write_part(sweep).await
            {
                sweep.give_back(taken);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes the object, then that its events are in there, and only then deletes their messages.
    pub(super) async fn write_part(&self, sweep: &mut Sweep<'_>) -> Result<(), Stopped> {
        let Purpose::Archive { part, parted, .. } = &mut sweep.purpose else { return Ok(()) };
        let (part, parted) = (std::mem::take(part), std::mem::take(parted));
        if parted.is_empty() {
            return Ok(());
        }
        let number = match &sweep.report.done {
            Done::Archive { keys, .. } => keys.len() + 1,
            _ => 1,
        };
        let day = sweep.run.began_at.strftime("%Y/%m/%d");
        let key = format!("dead-letters/{day}/{}/part-{number:04}.jsonl.gz", sweep.run.id);
        let object = part.finish().map_err(|error| ArchiveError::Refused(error.into()));
        let written = match object {
            Ok(object) => self.archive.put(&key, object).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            sweep.give_back(parted.into_iter());
            return Err(error.into());
        }
        let archived = self.write_all(parted, sweep, |letter, act| letter.dead.archived(act, &key)).await;
        if let Done::Archive { keys, .. } = &mut sweep.report.done {
            keys.push(key.clone());
        }
        self.delete(archived?, sweep).await;
        Ok(())
    }

    /// Writes a step on the record of each, and returns those where that succeeded. Fails when the table is down; ends
    /// the run when it goes down, or when time does.
    async fn write_all(
        &self,
        taken: Vec<Taken>,
        sweep: &mut Sweep<'_>,
        step: impl Fn(&Taken, OperatorAction) -> Transition,
    ) -> Result<Vec<Taken>, Stopped> {
        let mut written = Vec::new();
        let mut rest = taken.into_iter();
        while let Some(letter) = rest.next() {
            if Instant::now() + ANSWER_TIME >= sweep.run.deadline {
                sweep.give_back(std::iter::once(letter).chain(rest));
                break;
            }
            let step = step(&letter, sweep.run.act(self.clock.now()));
            let outcome = match self.table.write(&step).await {
                // Before the message is deleted: while it is there, a later sweep makes up for it.
                Ok(Written::Done) if step.next().has_surplus_body() => {
                    self.table.delete_body(&step.next().event_id).await.map(|()| Written::Done)
                }
                outcome => outcome,
            };
            match outcome {
                Ok(Written::Done) => written.push(letter),
                Ok(Written::Lost(_)) => {
                    sweep.report.fail(Some(letter.event_id()), "its record has changed this moment; look again");
                    sweep.held.push(letter.receipt);
                }
                Err(error) => {
                    sweep.report.fail(Some(letter.event_id()), &display_chain(&error));
                    sweep.held.push(letter.receipt);
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

    /// Deletes the messages of events that are durable elsewhere.
    async fn delete(&self, letters: Vec<Taken>, sweep: &mut Sweep<'_>) {
        let receipts: Vec<_> = letters.iter().map(|letter| letter.receipt.clone()).collect();
        for (letter, result) in letters.into_iter().zip(self.dead_letters.delete(&receipts).await) {
            let Run { id, action, requester, .. } = sweep.run;
            let event_id = letter.event_id();
            tracing::info!(audit = action, run = %id, event_id, by = requester.by, why = requester.why, "{action} of one event");
            sweep.report.done.count();
            if let Err(error) = result {
                let error = format!("done, but not removed from the dead-letter queue: {}", display_chain(&error));
                sweep.report.fail(Some(event_id), &error);
            }
        }
    }
}
