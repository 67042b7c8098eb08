//! The conversation that an event belongs to, for the order of its events.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::domain::event::{Event, Source};
use crate::domain::json::{Json, Object};
use crate::domain::message::as_group_id;

/// The name of a conversation, as a message group of SQS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationKey(String);

impl ConversationKey {
    /// The conversation of an event whose place in it matters; `None` for all other events.
    ///
    /// | Source | Key |
    /// |---|---|
    /// | Open Messaging | `conversationId`, else the hash of the integration and the user together |
    /// | webhook | `payload.conversationId` |
    /// | generic | `conversationId` |
    ///
    /// Receipts and typing events of Open Messaging tell of a moment, and are of no use late.
    /// Events of EventBridge come without an order, and its rule gives all of them one group.
    /// A placeholder is no key.
    pub fn of(event: &Event) -> Option<Self> {
        let body = Json::parse(&event.body).ok()?;
        let body = body.as_object()?;
        match event.source {
            Source::OpenMessaging => of_message(&body),
            Source::Webhook => of_id(&body.get("payload")?.as_object()?),
            Source::Generic => of_id(&body),
            Source::EventBridge => None,
        }
    }

    /// The text: the conversation's own id, where SQS takes it for a group.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConversationKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn of_id(body: &Object<'_>) -> Option<ConversationKey> {
    body.text("conversationId").map(|id| key(&id))
}

fn of_message(message: &Object<'_>) -> Option<ConversationKey> {
    let kind = message.text("type");
    if kind.is_some_and(|kind| matches!(kind.as_str(), "Receipt" | "Event")) {
        return None;
    }
    let by_user = || {
        let channel = message.get("channel")?.as_object()?;
        let is_inbound = message.text("direction").as_deref() == Some("Inbound");
        let user = channel.get(if is_inbound { "from" } else { "to" })?;
        let user = user.as_object()?.text("id")?;
        // Hashed: a user's id may be a telephone number, and logs and pages show the key.
        Some(hash(&format!("{}/{user}", channel.text("id")?)))
    };
    of_id(message).or_else(by_user)
}

/// `name`, or its hash where SQS does not take it for a group.
fn key(name: &str) -> ConversationKey {
    as_group_id(name).map_or_else(|| hash(name), ConversationKey)
}

fn hash(name: &str) -> ConversationKey {
    ConversationKey(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::event::{EventId, Identity};

    fn key_of(body: &Value) -> Option<String> {
        let body = body.to_string().into_bytes();
        let id: EventId = "event".parse().expect("an id");
        let identity = Identity::named(id, Json::parse(&body).expect("JSON"));
        let event = Event {
            id: identity.id,
            source: identity.source,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            content_type: None,
            headers: BTreeMap::new(),
            webhook_id: identity.webhook_id,
            is_copy: false,
            body,
        };
        ConversationKey::of(&event).map(|key| key.to_string())
    }

    fn message(change: impl FnOnce(&mut Value)) -> Value {
        let mut message = json!({
            "id": "m1", "type": "Text", "text": "Hi", "direction": "Outbound", "conversationId": "c1",
            "channel": {"id": "i1", "platform": "Open", "to": {"id": "u1"}, "from": {"id": "i1"}},
        });
        change(&mut message);
        message
    }

    #[test]
    fn messages_of_one_conversation_have_one_key() {
        assert_eq!(key_of(&message(|_| {})).as_deref(), Some("c1"));
        let structured = message(|message| message["type"] = json!("Structured"));
        assert_eq!(key_of(&structured).as_deref(), Some("c1"));
    }

    #[test]
    fn a_message_without_conversation_goes_by_its_user() {
        for placeholder in [json!(null), json!(""), json!("${conversationId}")] {
            let outbound = message(|message| message["conversationId"] = placeholder.clone());
            let key = key_of(&outbound).expect("a key");
            assert!(!key.contains("u1"), "it may be a telephone number: {key}");
            let inbound = message(|message| {
                message["conversationId"] = placeholder.clone();
                message["direction"] = json!("Inbound");
                message["channel"]["from"]["id"] = json!("u1");
            });
            assert_eq!(key_of(&inbound), Some(key));
        }
        let unknown = message(|message| {
            message["conversationId"] = json!(null);
            message["channel"]["to"] = json!({});
        });
        assert_eq!(key_of(&unknown), None);
    }

    #[test]
    fn receipts_and_typing_events_have_no_place_in_the_order() {
        for kind in ["Receipt", "Event"] {
            assert_eq!(
                key_of(&message(|message| message["type"] = json!(kind))),
                None
            );
        }
    }

    #[test]
    fn other_bodies_take_part_by_a_documented_field() {
        let envelope = json!({
            "webhookId": "w", "timestamp": "2026-01-01T00:00:00Z", "payload": {"conversationId": "c2"},
        });
        assert_eq!(key_of(&envelope).as_deref(), Some("c2"));
        assert_eq!(
            key_of(&json!({"conversationId": "c3"})).as_deref(),
            Some("c3")
        );
        for body in [
            json!({"conversationId": 3}),
            json!({"id": "c3"}),
            json!(["c3"]),
        ] {
            assert_eq!(key_of(&body), None);
        }
    }

    #[test]
    fn events_of_eventbridge_have_no_place_in_the_order() {
        let event = json!({
            "source": "aws.partner/genesys.com/cloud/o/s", "detail-type": "v2.conversations.{id}",
            "conversationId": "c4", "detail": {"topicName": "t", "eventBody": {"conversationId": "c4"}},
        });
        assert_eq!(key_of(&event), None);
    }

    #[test]
    fn a_key_is_always_a_group_id() {
        for id in ["with space".to_owned(), "ü".to_owned(), "x".repeat(129)] {
            let key = key_of(&json!({ "conversationId": id })).expect("a key");
            assert_eq!(key.len(), 43, "{key}");
        }
    }
}
