//! The sparse index of conversations, by which the events of one are found.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{DynamoDb, KEY, failed};
use crate::ports::events_table::{ConversationPage, Position};
use crate::ports::service::{Service, ServiceError};

/// The index, and its keys: attributes of the record.
const INDEX: &str = "conversations";
const CONVERSATION: &str = "conversation_id";
const RECEIVED_AT: &str = "received_at";

impl DynamoDb {
    /// Reads a part of a conversation. The position is the last item's own key: earlier versions
    /// wrote times with fractions of other lengths.
    pub(super) async fn query_conversation(
        &self,
        conversation_id: &str,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<ConversationPage, ServiceError> {
        let start = after.and_then(|Position(after)| {
            let (received_at, id) = after.split_once('#')?;
            Some(HashMap::from([
                (KEY.to_owned(), text(id)),
                (CONVERSATION.to_owned(), text(conversation_id)),
                (RECEIVED_AT.to_owned(), text(received_at)),
            ]))
        });
        let request = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression("conversation_id = :conversation")
            .expression_attribute_values(":conversation", text(conversation_id))
            .set_exclusive_start_key(start)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let output = request.send().await.map_err(failed(Service::DynamoDb))?;
        let of = |item: &HashMap<String, AttributeValue>, name| {
            let value = item.get(name).and_then(|value| value.as_s().ok());
            value.cloned().ok_or_else(|| {
                Service::DynamoDb.unreadable("an item of the index of conversations has no key")
            })
        };
        let mut event_ids = Vec::new();
        for item in output.items() {
            event_ids.push(of(item, KEY)?.parse().map_err(super::unreadable)?);
        }
        let next = output.last_evaluated_key().map(|key| {
            Ok::<_, ServiceError>(Position(format!(
                "{}#{}",
                of(key, RECEIVED_AT)?,
                of(key, KEY)?
            )))
        });
        Ok(ConversationPage {
            event_ids,
            next: next.transpose()?,
        })
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
