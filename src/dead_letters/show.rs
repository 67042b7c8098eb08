//! Lookup of one event.

use super::api::EventDetails;
use super::error::ReplayError;
use super::list::DeadLetterIndex;
use super::ports::{PortTypes, Ports};
use crate::domain::event::EventId;
use crate::domain::event_record::BulkReplay;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;

/// Lookup of one event by its id.
pub(super) struct EventLookup<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> EventLookup<'_, T> {
    pub(super) async fn show(&self, id: EventId) -> Result<EventDetails, ReplayError> {
        let now = self.ports.clock.now();
        let record = self
            .ports
            .table
            .get(&id)
            .await?
            .filter(|record| !record.is_expired(now));
        let Some(record) = record else {
            return Err(self.unrecorded(id).await);
        };
        let bulk = self.ports.bulk_replay().await?;
        let record = BulkReplay::marked(bulk.as_ref(), &record).into_owned();
        let body = if record.state.may_need_body() {
            self.ports.table.body(&id, now).await?
        } else {
            None
        };
        let keeps_order = self.ports.ordered.is_some();
        Ok(EventDetails::describe(record, body, keeps_order, now))
    }

    /// Error for an event without a record: it may be in a queue, and not listed yet.
    pub(super) async fn unrecorded(&self, id: EventId) -> ReplayError {
        let index = DeadLetterIndex { ports: self.ports };
        match index.unlisted().await {
            Ok(0) => ReplayError::Unknown(id),
            Ok(unlisted) => ReplayError::NotListed(id, unlisted),
            Err(error) => error,
        }
    }
}
