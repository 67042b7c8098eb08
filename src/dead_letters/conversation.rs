//! Events of one conversation, whatever became of them.

use serde_json::json;

use super::api::{Conversation, ConversationQuery, EventDetails};
use super::error::ReplayError;
use super::ports::{PortTypes, Ports};
use super::records::Records;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Position};

/// Upper bound on the JSON of a page. An answer has at most 6 MB ("Lambda quotas"), and as a text
/// within JSON, the form of an answer over HTTP, it is at most twice as long.
const MAX_PAGE_BYTES: usize = 2_900_000;

/// Lookup of a conversation by its id.
pub(super) struct ConversationLookup<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

impl<T: PortTypes> ConversationLookup<'_, T> {
    /// Reads a page, up to its limit or the bound on its size.
    pub(super) async fn show(
        &self,
        query: &ConversationQuery,
    ) -> Result<Conversation, ReplayError> {
        let now = self.ports.clock.now();
        let bulk = self.ports.bulk_replay().await?;
        let page = self
            .ports
            .table
            .conversation(&query.id, query.after.as_ref(), query.limit)
            .await?;
        let records = Records {
            ports: self.ports,
            bulk: bulk.as_ref(),
        };
        let mut records = records.of(&page.event_ids).await?;
        let keeps_order = self.ports.ordered.is_some();
        let (mut events, mut bytes, mut next) = (Vec::new(), 0, page.next);
        let mut last = None;
        for event_id in page.event_ids {
            // The index may show a record as it was.
            let record = records.remove(&event_id).filter(|record| {
                !record.is_expired(now) && record.conversation_id.as_deref() == Some(&query.id)
            });
            let Some(record) = record else { continue };
            let position = Position::of(record.received_at, &event_id);
            let details = EventDetails::describe(record, None, keeps_order, now);
            bytes += json!(details).to_string().len();
            if bytes > MAX_PAGE_BYTES && !events.is_empty() {
                next = last;
                break;
            }
            events.push(details);
            last = Some(position);
        }
        Ok(Conversation {
            id: query.id.clone(),
            count: events.len(),
            events,
            next: next.map(|position| position.token()),
        })
    }
}
