//! Events of erased conversations: they are dropped, and leave a record without content.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::deliver::attempt::MAX_CLAIM_RETRIES;
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::domain::erasure::{Erasures, UNCHECKED_AGE};
use crate::domain::event::Event;
use crate::domain::event_record::{ClaimResult, EventRecord, Finished, OperatorAction, StateName};
use crate::ports::clock::{Clock, Moment};
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::ReceivedMessage;
use crate::ports::service::{Service, ServiceError};
use crate::runtime::metrics;

/// A copy of the erasures is used for this long. A run of an erasure waits for longer before its
/// last search.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// A copy of the erasures, and the time at which it was read.
#[derive(Debug, Default)]
pub(super) struct KnownErasures(Mutex<Option<(Moment, Arc<Erasures>)>>);

impl<T: PortTypes> Processor<T> {
    /// Returns whether an event belongs to an erased conversation. Asks only for events that have
    /// waited: the run of an erasure finds the records of all others.
    pub(super) async fn is_erased(
        &self,
        received: &ReceivedMessage,
        event: &Event,
    ) -> Result<bool, ServiceError> {
        // A sender's time may lie in the future.
        let received_at = event.received_at.min(received.sent_at);
        let age = self.ports.clock.now().duration_since(received_at);
        if received.receive_count <= 1 && age < UNCHECKED_AGE {
            return Ok(false);
        }
        Ok(self.known_erasures().await?.cover(event, received.sent_at))
    }

    async fn known_erasures(&self) -> Result<Arc<Erasures>, ServiceError> {
        let known = || {
            self.erasures
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((read_at, erasures)) = known().as_ref()
            && read_at.age(&self.ports.clock) < KEPT_FOR
        {
            return Ok(Arc::clone(erasures));
        }
        // The time before the read: a write in between may be missing in what is read.
        let read_at = Moment::now(&self.ports.clock);
        let erasures = Arc::new(self.ports.table.erasures().await?);
        *known() = Some((read_at, Arc::clone(&erasures)));
        Ok(erasures)
    }

    /// Records that an event is erased. Its message can go then.
    pub(super) async fn erase(&self, event: &Event) -> Result<ClaimResult, ServiceError> {
        let mut found = self.ports.table.get(&event.id).await?;
        for _ in 0..MAX_CLAIM_RETRIES {
            let now = self.ports.clock.now();
            // The record may be of another body, which had the id first.
            let other = found
                .as_ref()
                .and_then(|found| found.other_event(event, now));
            if let Some(id) = other {
                return Ok(ClaimResult::Other(id));
            }
            let act = OperatorAction::of_erasure(now);
            let erased = EventRecord::erased_event(event, found.as_ref(), act);
            let written = match &erased {
                Some(erased) => self.ports.table.write(erased).await?,
                None => Written::Done,
            };
            match written {
                Written::Done => {
                    self.ports.table.delete_body(&event.id).await?;
                    if erased.is_some() {
                        metrics::ERASED.add(1);
                    }
                    return Ok(ClaimResult::AlreadyFinished(Finished {
                        state: StateName::Erased,
                        received_at: event.received_at,
                        recorded_at: now,
                        noted: None,
                    }));
                }
                Written::Lost(instead) => found = instead.map(|instead| *instead),
            }
        }
        Err(Service::DynamoDb.unavailable("other workers keep changing the record of the event"))
    }
}
