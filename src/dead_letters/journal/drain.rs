//! Drain of the journal's queue into objects of the archive, one or more for each hour.
//!
//! An object is durable before its messages are deleted. A crash in between writes them twice, and
//! a reader of the journal knows an event by its id.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::{hour_of, prefix_of};
use crate::dead_letters::error::ReplayError;
use crate::dead_letters::ports::{PortTypes, Ports};
use crate::dead_letters::run::Run;
use crate::dead_letters::sweep::{POLL_WAIT, release_messages};
use crate::domain::erasure::Erasures;
use crate::domain::event::EventId;
use crate::domain::event_record::{LIFE, State};
use crate::ports::archive::{Archive, ArchivePart, Archived};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, LeaseName};
use crate::ports::queue::{Countable, RECEIVED_AT_ONCE, ReceiptHandle, ReceivedMessage, Receiver};
use crate::ports::run_lease::HeldLease;
use crate::ports::service::{Service, ServiceError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// An object is written when it holds this much before compression: a search reads several at a
/// time.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// An object is written when it holds this many events.
const PART_EVENTS: usize = 10_000;

/// Objects that are put together at a time. Only after an outage of days are there more hours.
const MAX_OPEN: usize = 8;

/// Rounds of receives in a row that bring only what was sent later than the drain looks for, until
/// nothing else is believed to be left. SQS returns fewer messages than there are, and on a live
/// stack none of its answers is empty.
const YOUNG_ROUNDS: usize = 3;

/// A message that was hidden is counted as hidden for up to a minute ("Amazon SQS approximate
/// metrics").
const COUNTED_WITHIN: Duration = Duration::from_secs(70);

/// Interval between two counts.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// Receives at the same time, once the queue has shown that it holds many messages.
const RECEIVERS: usize = 4;

/// Interval between two attempts to have the lease on the journal's queue.
const ASKED_EVERY: Duration = Duration::from_secs(2);

/// Drain of the journal's queue, with the lease on it: what one run holds, no other one misses.
pub(in crate::dead_letters) struct Drain<'a, T: PortTypes> {
    pub(in crate::dead_letters) ports: &'a Ports<T>,
}

/// Result of a drain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::dead_letters) struct Drained {
    /// Events in the journal.
    pub(in crate::dead_letters) journalled: u64,
    /// Objects that the run has written.
    objects: u32,
    /// Events that were erased before they came into it.
    pub(in crate::dead_letters) left_out: u64,
    /// True if nothing was left in the queue of what the drain was for.
    pub(in crate::dead_letters) complete: bool,
}

/// An object that is put together, and the messages that it holds.
struct Part {
    object: ArchivePart,
    receipts: Vec<ReceiptHandle>,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            object: ArchivePart::full_at(PART_BYTES, PART_EVENTS),
            receipts: Vec::new(),
        }
    }
}

/// State of one drain.
struct Open<'a> {
    run: &'a Run<'a>,
    parts: BTreeMap<Timestamp, Part>,
    /// Erasures, if one of them is so young that records can tell of it.
    erasures: Option<Erasures>,
    drained: Drained,
}

impl<T: PortTypes> Drain<'_, T> {
    /// Drains the queue of all that was sent before a time, or until `stop_at`, for a run that has
    /// the lease on the dead letters. Waits for the lease on the queue, and until it is certain that
    /// nothing of that is hidden.
    pub(in crate::dead_letters) async fn drain(
        &self,
        run: &Run<'_>,
        before: Timestamp,
        stop_at: Instant,
    ) -> Result<Drained, ReplayError> {
        let Some(queue) = &self.ports.journal else {
            return Ok(Drained {
                complete: true,
                ..Drained::default()
            });
        };
        let Some(lease) = self.lease(run, stop_at).await? else {
            return Ok(Drained::default());
        };
        let drained = self.drain_certainly(queue, run, before, stop_at).await;
        lease.release().await;
        drained
    }

    /// Waits for the lease on the queue; `None` if another run had it until `stop_at`.
    async fn lease(
        &self,
        run: &Run<'_>,
        stop_at: Instant,
    ) -> Result<Option<HeldLease<'_, T::Table>>, ServiceError> {
        let table = &self.ports.table;
        loop {
            let lease = run.lease(self.ports.clock.now());
            match HeldLease::acquire(table, LeaseName::Journal, &lease).await? {
                Ok(lease) => return Ok(Some(lease)),
                Err(other) if Instant::now() >= stop_at => {
                    tracing::info!(%other, "stopped waiting for the lease on the journal's queue");
                    return Ok(None);
                }
                Err(_) => sleep_until(stop_at.min(Instant::now() + ASKED_EVERY)).await,
            }
        }
    }

    async fn drain_certainly(
        &self,
        queue: &T::DeadLetters,
        run: &Run<'_>,
        before: Timestamp,
        stop_at: Instant,
    ) -> Result<Drained, ReplayError> {
        let hidden = queue.depth().await?.in_flight;
        let mut drained = self.drain_behind(run, before, stop_at, 0).await?;
        if hidden == 0 || !drained.complete {
            return Ok(drained);
        }
        let counted_until = stop_at.min(Instant::now() + COUNTED_WITHIN);
        while queue.depth().await?.in_flight > 0 {
            if Instant::now() >= counted_until {
                drained.complete = false;
                return Ok(drained);
            }
            sleep_until(counted_until.min(Instant::now() + COUNTED_EVERY)).await;
        }
        // The count was late, or what was hidden is visible now.
        let more = self
            .drain_behind(run, before, stop_at, drained.objects)
            .await?;
        Ok(Drained {
            objects: more.objects,
            journalled: drained.journalled + more.journalled,
            left_out: drained.left_out + more.left_out,
            complete: more.complete,
        })
    }

    /// The same without what is hidden, for a run that has the lease on the queue.
    pub(in crate::dead_letters) async fn drain_visible(
        &self,
        run: &Run<'_>,
        before: Timestamp,
        stop_at: Instant,
    ) -> Result<Drained, ReplayError> {
        self.drain_behind(run, before, stop_at, 0).await
    }

    /// The same behind so many objects of the run: each has a number of its own.
    async fn drain_behind(
        &self,
        run: &Run<'_>,
        before: Timestamp,
        stop_at: Instant,
        objects: u32,
    ) -> Result<Drained, ReplayError> {
        let Some(queue) = &self.ports.journal else {
            return Err(ReplayError::NoJournal);
        };
        let now = self.ports.clock.now();
        let erasures = self.ports.table.erasures().await?;
        let is_young = |at: Timestamp| now.duration_since(at) < LIFE;
        let mut open = Open {
            run,
            parts: BTreeMap::new(),
            erasures: Some(erasures).filter(|all| all.newest_at().is_some_and(is_young)),
            drained: Drained {
                objects,
                complete: true,
                ..Drained::default()
            },
        };
        match self.drain_all(queue, &mut open, before, stop_at).await {
            Ok(complete) => {
                open.drained.complete &= complete;
                Ok(open.drained)
            }
            Err(error) => {
                let held = open.parts.into_values().flat_map(|part| part.receipts);
                let held: Vec<_> = held.collect();
                release_messages(queue, &held, run.deadline).await;
                Err(error)
            }
        }
    }

    /// Goes through the queue. Returns whether nothing is left of what was sent before a time: on a
    /// live stack, something comes all the time.
    async fn drain_all(
        &self,
        queue: &T::DeadLetters,
        open: &mut Open<'_>,
        before: Timestamp,
        stop_at: Instant,
    ) -> Result<bool, ReplayError> {
        let (mut receivers, mut young_rounds, mut complete) = (1, 0, false);
        while !complete && Instant::now() < stop_at {
            let hidden_for = open.run.hidden_for();
            let calls =
                (0..receivers).map(|_| queue.receive(RECEIVED_AT_ONCE, hidden_for, POLL_WAIT));
            let (mut received, mut failed) = (Vec::new(), None);
            for result in join_all(calls).await {
                match result {
                    Ok(messages) => received.extend(messages),
                    Err(error) => failed = Some(error),
                }
            }
            let is_full = received.len() == RECEIVED_AT_ONCE * receivers;
            receivers = if is_full { RECEIVERS } else { 1 };
            let is_young = received.iter().all(|message| message.sent_at >= before);
            young_rounds = if is_young { young_rounds + 1 } else { 0 };
            complete = received.is_empty() || young_rounds >= YOUNG_ROUNDS;
            self.add(queue, open, received).await?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        while let Some(hour) = open.parts.keys().next().copied() {
            self.write(queue, open, hour).await?;
        }
        Ok(complete)
    }

    /// Adds messages to the objects of their hours, and writes those that are full.
    async fn add(
        &self,
        queue: &T::DeadLetters,
        open: &mut Open<'_>,
        received: Vec<ReceivedMessage>,
    ) -> Result<(), ReplayError> {
        let now = self.ports.clock.now();
        let is_erased = match self.erased_of(open, &received).await {
            Ok(is_erased) => is_erased,
            Err(error) => {
                let held = received.into_iter().map(|received| received.receipt);
                let held: Vec<_> = held.collect();
                release_messages(queue, &held, open.run.deadline).await;
                return Err(error.into());
            }
        };
        let (mut lines, mut erased) = (Vec::new(), Vec::new());
        for (received, is_erased) in received.into_iter().zip(is_erased) {
            if is_erased {
                erased.push(received.receipt);
            } else {
                lines.push(received);
            }
        }
        open.drained.left_out += erased.len() as u64;
        // One that stays is left out again, by another drain.
        open.drained.complete &= self.delete(queue, &erased).await;
        let mut lines = lines.into_iter();
        while let Some(received) = lines.next() {
            let hour = hour_of(received.sent_at);
            let outcome = self.add_one(queue, open, hour, received, now).await;
            if let Err(error) = outcome {
                let held: Vec<_> = lines.map(|line| line.receipt).collect();
                release_messages(queue, &held, open.run.deadline).await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn add_one(
        &self,
        queue: &T::DeadLetters,
        open: &mut Open<'_>,
        hour: Timestamp,
        received: ReceivedMessage,
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        if open.parts.len() >= MAX_OPEN
            && !open.parts.contains_key(&hour)
            && let Some(oldest) = open.parts.keys().next().copied()
        {
            self.write(queue, open, oldest).await?;
        }
        let part = open.parts.entry(hour).or_default();
        let id = id_of(&received);
        let line = Archived::of(&received.message, id, received.sent_at, None, now);
        part.receipts.push(received.receipt);
        // Written to memory.
        part.object
            .add(&line)
            .map_err(|error| Service::S3.refused(error))?;
        if part.object.is_full() {
            self.write(queue, open, hour).await?;
        }
        Ok(())
    }

    /// Finds the events that were erased: by their records, or with their conversation.
    async fn erased_of(
        &self,
        open: &Open<'_>,
        received: &[ReceivedMessage],
    ) -> Result<Vec<bool>, ServiceError> {
        let Some(erasures) = &open.erasures else {
            return Ok(vec![false; received.len()]);
        };
        let ids: Vec<EventId> = received.iter().map(id_of).collect();
        let records = self.ports.table.get_many(&ids).await?;
        let is_erased = |(received, id): (&ReceivedMessage, &EventId)| {
            let event = received.message.to_event(received.stamp());
            records
                .get(id)
                .is_some_and(|record| record.state == State::Erased)
                || event.is_ok_and(|event| erasures.cover(&event, received.sent_at))
        };
        Ok(received.iter().zip(&ids).map(is_erased).collect())
    }

    /// Writes the object of an hour, and then deletes its messages.
    async fn write(
        &self,
        queue: &T::DeadLetters,
        open: &mut Open<'_>,
        hour: Timestamp,
    ) -> Result<(), ReplayError> {
        let Some(Part { object, receipts }) = open.parts.remove(&hour) else {
            return Ok(());
        };
        open.drained.objects += 1;
        let key = format!(
            "{}{}-{:04}.jsonl.gz",
            prefix_of(hour),
            open.run.id,
            open.drained.objects
        );
        let written = match object.finish() {
            Ok(object) => self.ports.archive.put(&key, object).await,
            Err(error) => Err(Service::S3.refused(error).into()),
        };
        if let Err(error) = written {
            metrics::JOURNAL_FAILED.add(1);
            tracing::error!(
                key,
                events = receipts.len(),
                error = display_chain(&error),
                "failed to write an object of the journal; its events stay in the queue"
            );
            release_messages(queue, &receipts, open.run.deadline).await;
            return Err(error.into());
        }
        open.drained.journalled += receipts.len() as u64;
        tracing::info!(key, events = receipts.len(), run = %open.run.id, "wrote an object of the journal");
        self.delete(queue, &receipts).await;
        Ok(())
    }

    /// Deletes messages, and returns whether all are gone. One that stays comes again: it is
    /// journalled twice, or once more left out.
    async fn delete(&self, queue: &T::DeadLetters, receipts: &[ReceiptHandle]) -> bool {
        let deleted = queue.delete(receipts).await;
        let errors: Vec<_> = deleted.into_iter().filter_map(Result::err).collect();
        for error in &errors {
            tracing::warn!(
                error = display_chain(error),
                "failed to delete a message of the journal's queue; it comes again"
            );
        }
        errors.is_empty()
    }
}

/// The event of a message: by the attribute that the processor has set, without a look at the body.
fn id_of(received: &ReceivedMessage) -> EventId {
    let set = received.message.event_id().and_then(|id| id.parse().ok());
    set.unwrap_or_else(|| received.message.identity(received.stamp()).0)
}
