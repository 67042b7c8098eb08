//! Queues fetched events that the relay does not know, and records them.

use futures_util::future::join_all;

use super::candidate::{Candidate, Found};
use super::error::RecoverError;
use super::ports::{PortTypes, Ports};
use super::run::Run;
use crate::domain::event::EventId;
use crate::domain::event_record::EventRecord;
use crate::domain::message::Message;
use crate::ports::clock::Clock;
use crate::ports::delivery_log::Entry;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::Sender;
use crate::ports::service::ServiceError;
use crate::runtime::logging::audit;
use crate::runtime::metrics;

/// Entries that are looked up, queued and recorded at a time: as many as a batch of SQS takes.
pub(super) const BATCH: usize = 10;

/// The way of missing events into the relay.
pub(super) struct EnqueueMissing<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> EnqueueMissing<'_, T> {
    /// Queues the events that the table does not know. An event counts, and is recorded, once its
    /// message is durable.
    pub(super) async fn enqueue_missing(
        &self,
        entries: Vec<Entry>,
        run: &mut Run<'_>,
    ) -> Result<(), RecoverError> {
        let now = self.ports.clock.now();
        let mut candidates = Vec::new();
        for entry in entries {
            run.report.fetched += 1;
            match entry {
                Entry::Failed(failed) => candidates.push(Candidate::of(failed, now)),
                Entry::Unreadable(unreadable) => {
                    candidates.push(Candidate::of_unreadable(unreadable, now));
                }
                Entry::Unavailable(problem) => {
                    tracing::error!(run = %run.id, error = problem, "could not fetch an entry from Genesys Cloud");
                    run.report.unavailable += 1;
                    run.first_unavailable.get_or_insert(problem);
                }
                Entry::Skipped(why) => {
                    tracing::info!(run = %run.id, why, "skipped an entry");
                    run.report.skipped += 1;
                }
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let ids: Vec<EventId> = candidates
            .iter()
            .map(|candidate| candidate.found.event.id.clone())
            .collect();
        let mut records = self.ports.table.get_many(&ids).await?;
        let renamed: Vec<EventId> = candidates
            .iter_mut()
            .filter_map(|candidate| candidate.tell_apart(&records, now))
            .collect();
        if !renamed.is_empty() {
            records.extend(self.ports.table.get_many(&renamed).await?);
        }
        let fetched = candidates.len();
        candidates.retain(
            |Candidate {
                 found: Found { event, .. },
                 ..
             }| {
                let is_forgotten = |record: &EventRecord| record.is_expired(now);
                // Two bodies of one id are two events; the processor separates them.
                run.seen.insert((event.id.clone(), event.digest()))
                    && records.get(&event.id).is_none_or(is_forgotten)
            },
        );
        run.report.known += (fetched - candidates.len()) as u64;
        if run.request.dry_run {
            run.report.list(&candidates);
            return Ok(());
        }
        let is_letter = |candidate: &Candidate| candidate.found.reason.is_some();
        let (letters, events): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_letter);
        let mut failure = None;
        for (candidates, are_letters) in [(events, false), (letters, true)] {
            let split = candidates
                .into_iter()
                .map(|Candidate { message, found }| (message, found));
            let (messages, found): (Vec<Message>, Vec<Found>) = split.unzip();
            let sent = match (messages.is_empty(), are_letters) {
                (true, _) => continue,
                (false, false) => self.ports.events.send_all(&messages).await,
                (false, true) => self.ports.dead_letters.send_all(&messages).await,
            };
            let record = async |found: &Found, sent: Result<(), ServiceError>| {
                sent?;
                self.record(run, found, records.get(&found.event.id)).await
            };
            let recorded = join_all(
                found
                    .iter()
                    .zip(sent)
                    .map(|(found, sent)| record(found, sent)),
            )
            .await;
            for recorded in recorded {
                match recorded {
                    Ok(()) if are_letters => run.report.unreadable += 1,
                    Ok(()) => run.report.new += 1,
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Records an event that a queue has accepted. If the processor was faster, its record stays.
    async fn record(
        &self,
        run: &Run<'_>,
        found: &Found,
        forgotten: Option<&EventRecord>,
    ) -> Result<(), RecoverError> {
        let Found {
            event,
            reason,
            note,
            shared,
        } = found;
        let requester = &run.request.requester;
        audit!(
            "recover",
            requester,
            run = %run.id,
            event_id = %event.id,
            source = %event.source,
            note,
            dead = reason.as_ref().map(|reason| reason.reason.as_str()),
            "queued a recovered event"
        );
        if let Some(shared) = shared {
            tracing::warn!(
                event_id = %event.id, %shared, source = %event.source,
                "recovered an event whose id belongs to another body; it has an id of its own"
            );
            metrics::REUSED_IDS.add(1);
        }
        let now = self.ports.clock.now();
        if reason.is_some()
            && !self
                .ports
                .table
                .keep_body(&event.id, &event.body, now)
                .await?
        {
            tracing::warn!(event_id = %event.id, "the body is too large to be kept beside its record");
        }
        if let Some(step) = found.step(forgotten, run.action(note, now)) {
            let written = self.ports.table.write(&step).await?;
            // Delivered, discarded or erased meanwhile: the body was kept in vain. A resend of it can
            // have died since, and that one's body stays.
            if reason.is_some()
                && matches!(&written, Written::Lost(Some(found)) if found.state.is_final())
            {
                self.ports.table.take_back_body(&event.id, now).await?;
            }
        }
        if let Some(reason) = reason {
            metrics::DEAD.add(reason.reason, 1);
        }
        Ok(())
    }
}
