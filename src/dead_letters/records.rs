//! Records of dead letters, as the newest bulk replay has left them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::message::DeadLetterMessage;
use super::ports::{PortTypes, Ports};
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord};
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::service::ServiceError;
use crate::runtime::metrics;

/// Reads records through a bulk replay.
pub(super) struct Records<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
    /// The newest bulk replay, which stands for a mark on each record that was dead when it began.
    pub(super) bulk: Option<&'a BulkReplay>,
}

impl<T: PortTypes> Records<'_, T> {
    /// Reads the records of these events.
    pub(super) async fn of(
        &self,
        ids: &[EventId],
    ) -> Result<BTreeMap<EventId, EventRecord>, ServiceError> {
        let mut records = self.ports.table.get_many(ids).await?;
        for record in records.values_mut() {
            if let Cow::Owned(marked) = BulkReplay::marked(self.bulk, record) {
                *record = marked;
            }
        }
        Ok(records)
    }

    /// Reads the records of dead letters. Gives an id of its own to each whose id belongs to
    /// another body; SQS could not do that on the way.
    pub(super) async fn look_up(
        &self,
        messages: &mut [DeadLetterMessage],
    ) -> Result<BTreeMap<EventId, EventRecord>, ServiceError> {
        let ids: Vec<EventId> = messages
            .iter()
            .map(|message| message.event_id.clone())
            .collect();
        let mut records = self.of(&ids).await?;
        let now = self.ports.clock.now();
        let rename = |message: &mut DeadLetterMessage| {
            let shared = message.tell_apart(records.get(&message.event_id), now)?;
            Some((message.event_id.clone(), shared))
        };
        let renamed: BTreeMap<EventId, EventId> = messages.iter_mut().filter_map(rename).collect();
        if !renamed.is_empty() {
            let ids: Vec<EventId> = renamed.keys().cloned().collect();
            records.extend(self.of(&ids).await?);
        }
        // An event with a record was counted when that record was begun.
        let is_new = |id: &EventId| records.get(id).is_none_or(|record| record.is_expired(now));
        for (event_id, shared) in renamed.iter().filter(|(id, _)| is_new(id)) {
            tracing::warn!(%event_id, %shared, "found a dead letter whose id belongs to another body");
            metrics::REUSED_IDS.add(1);
        }
        Ok(records)
    }
}
