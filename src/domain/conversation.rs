//! The conversation that an event belongs to: for questions about it, and for the order of its
//! events.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::domain::event::{Event, Source};
use crate::domain::json::{Json, Object};
use crate::domain::message::as_group_id;
use crate::domain::placeholder::is_placeholder;
use crate::domain::text::excerpt_of;

/// Upper bound on the id of a conversation, in bytes. It must fit the key of an index.
const MAX_ID_BYTES: usize = 256;

/// The id of the conversation that an event tells of, as Genesys Cloud gives it; of receipts and
/// typing events too. A placeholder is none.
///
/// The first of these that is there:
///
/// | Field | In |
/// |---|---|
/// | `conversationId` | Open Messaging, events of any shape |
/// | `payload.conversationId` | the envelope of a webhook |
/// | `detail.eventBody.conversationId` | EventBridge |
/// | `detail.eventBody.id` | EventBridge, with a topic of conversations |
pub fn conversation_id(event: &Event) -> Option<String> {
    conversation_of(Json::parse(&event.body).ok()?)
}

/// The same of a body.
pub fn conversation_of(body: Json<'_>) -> Option<String> {
    let body = body.as_object()?;
    let within = |name| body.get(name)?.as_object();
    let id = body
        .text("conversationId")
        .or_else(|| within("payload")?.text("conversationId"))
        .or_else(|| of_topic(&within("detail")?))?;
    Some(excerpt_of(&id, MAX_ID_BYTES))
}

/// The id of a conversation in the form in which records have it; `None` for a placeholder.
pub fn as_conversation_id(text: &str) -> Option<String> {
    (!is_placeholder(text)).then(|| excerpt_of(text, MAX_ID_BYTES))
}

fn of_topic(detail: &Object<'_>) -> Option<String> {
    let body = detail.get("eventBody")?.as_object()?;
    body.text("conversationId").or_else(|| {
        let topic = detail.text("topicName")?;
        is_of_conversation(&topic)
            .then(|| body.text("id"))
            .flatten()
    })
}

/// Returns whether the entity of a topic is a conversation: `v2.conversations.ID`,
/// `v2.conversations.chats.ID`, `v2.users.ID.conversations`, `v2.users.ID.conversations.chats`.
fn is_of_conversation(topic: &str) -> bool {
    let parts: Vec<&str> = topic.split('.').collect();
    match parts.as_slice() {
        ["v2", "conversations", _] | ["v2", "users", _, "conversations"] => true,
        ["v2", "conversations", medium, _] | ["v2", "users", _, "conversations", medium] => {
            is_medium(medium)
        }
        _ => false,
    }
}

fn is_medium(name: &str) -> bool {
    matches!(
        name,
        "callbacks"
            | "calls"
            | "chats"
            | "cobrowsesessions"
            | "emails"
            | "messages"
            | "screenshares"
            | "socialexpressions"
            | "videos"
    )
}

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
            Source::EventBridge | Source::Check => None,
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
        ConversationKey::of(&event(body)).map(|key| key.to_string())
    }

    #[test]
    fn the_conversation_is_read_from_every_shape() {
        let topic = |topic: &str| json!({"detail-type": topic, "detail": {"topicName": topic, "eventBody": {"id": "entity"}}});
        let receipt =
            json!({"type": "Receipt", "conversationId": "c1", "channel": {"platform": "Open"}});
        let all = json!({
            "detail": {"eventBody": {"conversationId": "3"}}, "payload": {"conversationId": "2"},
            "conversationId": "1",
        });
        for (body, id) in [
            (json!({"conversationId": "top"}), Some("top")),
            (receipt, Some("c1")),
            (
                json!({"webhookId": "w", "payload": {"conversationId": "p"}}),
                Some("p"),
            ),
            (
                json!({"detail": {"eventBody": {"conversationId": "bus", "id": "x"}}}),
                Some("bus"),
            ),
            (all, Some("1")),
            (topic("v2.conversations.c9"), Some("entity")),
            (topic("v2.conversations.chats.c9"), Some("entity")),
            (topic("v2.users.u1.conversations"), Some("entity")),
            (topic("v2.users.u1.conversations.calls"), Some("entity")),
            (topic("v2.users.u1.conversationsummary"), None),
            (topic("v2.conversations.c9.transcription"), None),
            (topic("v2.users.u1.presence"), None),
            (json!({"conversationId": "${conversationId}"}), None),
            (json!({"conversationId": 7}), None),
            (json!([1]), None),
        ] {
            assert_eq!(conversation_id(&event(&body)).as_deref(), id, "{body}");
        }
        let long = json!({"conversationId": "c".repeat(2000)});
        assert_eq!(
            conversation_id(&event(&long)).expect("an id").len(),
            MAX_ID_BYTES
        );
    }

    fn event(body: &Value) -> Event {
        let body = body.to_string().into_bytes();
        let id: EventId = "event".parse().expect("an id");
        let identity = Identity::named(id, Json::parse(&body).expect("JSON"));
        Event {
            id: identity.id,
            source: identity.source,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            content_type: None,
            headers: BTreeMap::new(),
            webhook_id: identity.webhook_id,
            is_copy: false,
            body,
        }
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
