//! Conversations and their messages, in the shapes of the public API.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer::Refusal;
use super::format::{iso, new_id};

/// "Get messages in batch": at most 1,000 ids.
const MOST_IDS: usize = 1000;

/// All messages, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    messages: Vec<Message>,
    details: HashMap<String, Value>,
}

/// A message of a conversation.
#[derive(Debug)]
pub(super) struct Message {
    id: String,
    conversation_id: String,
    status: String,
    pub(super) time: Timestamp,
    pub(super) direction: Direction,
    normalized: Value,
    receipts: Vec<Value>,
}

/// Direction of a message, seen from Genesys Cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Inbound, Self::Outbound];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// The side that sends messages of this direction.
    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Inbound => "customer",
            Self::Outbound => "agent",
        }
    }
}

impl Conversations {
    pub(super) fn add(
        &mut self,
        conversation_id: &str,
        status: &str,
        mut normalized: Value,
        now: Timestamp,
    ) {
        // The webhook has it; the model of the message does not.
        normalized
            .as_object_mut()
            .and_then(|fields| fields.remove("conversationId"));
        let id = normalized["id"].as_str().map_or_else(new_id, str::to_owned);
        let direction = if normalized["direction"] == "Inbound" {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let time = normalized["channel"]["time"]
            .as_str()
            .and_then(|time| time.parse().ok())
            .unwrap_or(now);
        match self.messages.iter_mut().find(|message| message.id == id) {
            Some(message) if normalized["type"] == "Receipt" => message.receipts.push(normalized),
            Some(message) => {
                status.clone_into(&mut message.status);
                message.normalized = normalized;
            }
            None => self.messages.push(Message {
                id,
                conversation_id: conversation_id.to_owned(),
                status: status.to_owned(),
                time,
                direction,
                normalized,
                receipts: Vec::new(),
            }),
        }
    }

    pub(super) fn set_details(&mut self, message_id: &str, details: Value) {
        self.details.insert(message_id.to_owned(), details);
    }

    pub(super) fn by_id(&self) -> BTreeMap<&str, Vec<&Message>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for message in &self.messages {
            all.entry(message.conversation_id.as_str())
                .or_default()
                .push(message);
        }
        all
    }

    /// A `MessageConversation`.
    pub(super) fn conversation(&self, id: &str) -> Option<Value> {
        let by_id = self.by_id();
        let messages = by_id.get(id)?;
        // The queue has no messages of its own, and then the field is missing.
        let mut participants = vec![participant(id, "acd")];
        for direction in Direction::BOTH {
            let of_side: Vec<_> = messages
                .iter()
                .filter(|message| message.direction == direction)
                .collect();
            if !of_side.is_empty() {
                let mut side = participant(id, direction.purpose());
                side["direction"] = direction.name().into();
                side["messages"] = of_side.into_iter().map(|message| message.entry()).collect();
                participants.push(side);
            }
        }
        Some(json!({ "id": id, "participants": participants, "selfUri": self_uri(id) }))
    }

    /// A `TextMessageListing` of the messages of a conversation that have one of these ids.
    pub(super) fn bulk(&self, conversation_id: &str, ids: &Value) -> Result<Value, Refusal> {
        let ids = ids.as_array().filter(|ids| ids.len() <= MOST_IDS);
        let ids = ids.ok_or_else(|| {
            Refusal::bad_request(format!("the body is no list of at most {MOST_IDS} ids"))
        })?;
        let of_conversation = self
            .messages
            .iter()
            .filter(|message| message.conversation_id == conversation_id);
        let entities: Vec<_> = of_conversation
            .filter(|message| ids.iter().any(|id| *id == message.id.as_str()))
            .filter_map(|message| self.details(&message.id))
            .collect();
        Ok(json!({ "entities": entities }))
    }

    /// A `MessageData`, or what was set in its place.
    pub(super) fn details(&self, message_id: &str) -> Option<Value> {
        let details = || {
            self.messages
                .iter()
                .find(|message| message.id == message_id)
                .map(Message::data)
        };
        self.details.get(message_id).cloned().or_else(details)
    }
}

impl Message {
    /// A `MessageDetails`, which in spite of its name is the short form.
    fn entry(&self) -> Value {
        let mut entry = json!({
            "messageId": self.id, "messageStatus": self.status, "messageTime": iso(self.time), "messageSegmentCount": 1,
        });
        if self.status == "failed" {
            entry["errorInfo"] = json!({
                "message": "The webhook did not take the message.", "code": "message.delivery.failed", "status": 503,
            });
        }
        entry
    }

    fn data(&self) -> Value {
        let mut data = json!({
            "id": self.id,
            "conversationId": self.conversation_id,
            "direction": self.direction.name(),
            "messengerType": "open",
            "status": self.status,
            "timestamp": iso(self.time),
            "normalizedMessage": self.normalized,
            "selfUri": self_uri(&format!("{}/details", self.id)),
        });
        let channel = &self.normalized["channel"];
        let addresses = [
            ("fromAddress", &channel["from"]["id"]),
            ("toAddress", &channel["to"]["id"]),
        ];
        let addresses = addresses
            .into_iter()
            .filter(|(_, address)| address.is_string());
        let mut more: Map<_, _> = addresses
            .map(|(name, address)| (name.to_owned(), address.clone()))
            .collect();
        if !self.receipts.is_empty() {
            more.insert("normalizedReceipts".to_owned(), json!(self.receipts));
        }
        if let Some(fields) = data.as_object_mut() {
            fields.extend(more);
        }
        data
    }
}

fn participant(conversation_id: &str, purpose: &str) -> Value {
    json!({ "id": format!("{conversation_id}-{purpose}"), "purpose": purpose, "state": "connected", "type": "open" })
}

fn self_uri(path: &str) -> String {
    format!("/api/v2/conversations/messages/{path}")
}
