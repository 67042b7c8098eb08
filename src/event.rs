//! What an event is, where it came from, and when two messages are the same event.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json::{Json, Object};

/// Equal generic bodies within one slot of this many seconds are one event; across a border they are two.
const GENERIC_SLOT_SECONDS: i64 = 300;

/// An event as the relay keeps it: the body exactly as it was received, and what else is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Says when two messages are the same event.
    pub id: EventId,
    /// Which kind of sender it came from.
    pub source: Source,
    /// When the relay, or for EventBridge the event bus, first had it.
    pub received_at: Timestamp,
    /// The `Content-Type` it came with.
    pub content_type: Option<String>,
    /// The request headers that are kept and passed on, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The webhook's body, byte for byte.
    pub body: Vec<u8>,
    /// The webhook or integration it belongs to, if it names one.
    pub origin: Option<String>,
}

/// The name of an event: 1 to 80 characters of `A–Z a–z 0–9 _ -`.
///
/// The relay makes it from what identifies the event (43 characters of a SHA-256), and passes it to the target as
/// idempotency key. It can only be made by [`Identity::of`] or by parsing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(String);

impl EventId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes `parts` under `kind`; each part's length goes in too, so that no two lists of parts collide.
    fn from_parts(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(BASE64_URL_SAFE_NO_PAD.encode(hash.finalize()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text that cannot be an event id.
#[derive(Debug, thiserror::Error)]
#[error("an event id has 1 to 80 characters of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidEventId;

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if (1..=80).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidEventId)
        }
    }
}

impl TryFrom<String> for EventId {
    type Error = InvalidEventId;

    fn try_from(text: String) -> Result<Self, InvalidEventId> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.0
    }
}

/// Which kind of sender an event came from, told by the shape of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The outbound notification webhook of an Open Messaging integration.
    OpenMessaging,
    /// The envelope `{"webhookId", "payload", "timestamp", …}`, as a Data Action can template it.
    Webhook,
    /// An event of the Genesys Cloud partner event source.
    #[serde(rename = "eventbridge")]
    EventBridge,
    /// Any other JSON object or array.
    Generic,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 4] = [Self::OpenMessaging, Self::Webhook, Self::EventBridge, Self::Generic];

    /// The name that messages, headers and requests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenMessaging => "open-messaging",
            Self::Webhook => "webhook",
            Self::EventBridge => "eventbridge",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that names no source.
#[derive(Debug, thiserror::Error)]
#[error("a source is one of open-messaging, webhook, eventbridge, generic")]
pub struct UnknownSource;

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        Self::ALL.into_iter().find(|source| source.as_str() == text).ok_or(UnknownSource)
    }
}

/// Who an event is: its id, its source and the webhook or integration that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Says when two messages are the same event.
    pub id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// The webhook's or integration's id, if the body names one.
    pub origin: Option<String>,
}

impl Identity {
    /// Identifies a body that is JSON.
    ///
    /// `received_at` matters to bodies that nothing else tells apart, and `sender_key` is what such a sender gave as
    /// `Idempotency-Key` or `webhook-id`. The key never stands alone, since a header that the customer configured in
    /// Genesys has the same value on every event.
    pub fn of(body: Json<'_>, received_at: Timestamp, sender_key: Option<&str>) -> Self {
        let shape = Shape::of(body);
        let id = match &shape {
            Shape::OpenMessaging { message, channel } => open_messaging_id(message, channel),
            Shape::EventBridge { detail } => eventbridge_id(detail),
            Shape::Webhook { .. } => Some(EventId::from_parts("webhook", &[&body.canonical()])),
            Shape::Generic => None,
        };
        let id = id.unwrap_or_else(|| generic_id(&body.canonical(), received_at, sender_key));
        Self { id, source: shape.source(), origin: shape.origin() }
    }

    /// Identifies a body whose id is known already.
    pub fn named(id: EventId, body: Json<'_>) -> Self {
        let shape = Shape::of(body);
        Self { id, source: shape.source(), origin: shape.origin() }
    }

    /// Identifies what was fetched and cannot be understood, or not be delivered: by what does not change between two
    /// readings.
    pub fn of_unreadable(parts: &[&[u8]]) -> Self {
        Self { id: EventId::from_parts("unreadable", parts), source: Source::Generic, origin: None }
    }

    /// Identifies a body that is not JSON: equal bytes within five minutes are one event.
    pub fn of_malformed(body: &[u8], received_at: Timestamp) -> Self {
        Self {
            id: EventId::from_parts("malformed", &[&slot(received_at), body]),
            source: Source::Generic,
            origin: None,
        }
    }
}

/// What a body's fields say it is.
enum Shape<'a> {
    OpenMessaging { message: Object<'a>, channel: Object<'a> },
    EventBridge { detail: Object<'a> },
    Webhook { envelope: Object<'a> },
    Generic,
}

impl<'a> Shape<'a> {
    fn of(body: Json<'a>) -> Self {
        let Some(object) = body.as_object() else { return Self::Generic };
        let inner = |name| object.get(name).and_then(|value| value.as_object());
        let has = |name| object.get(name).is_some();
        if has("type")
            && let Some(channel) = inner("channel")
        {
            return Self::OpenMessaging { channel, message: object };
        }
        if has("detail-type")
            && let Some(detail) = inner("detail").filter(|detail| detail.get("topicName").is_some())
        {
            return Self::EventBridge { detail };
        }
        if has("webhookId") && has("payload") && has("timestamp") {
            return Self::Webhook { envelope: object };
        }
        Self::Generic
    }

    fn source(&self) -> Source {
        match self {
            Self::OpenMessaging { .. } => Source::OpenMessaging,
            Self::EventBridge { .. } => Source::EventBridge,
            Self::Webhook { .. } => Source::Webhook,
            Self::Generic => Source::Generic,
        }
    }

    fn origin(&self) -> Option<String> {
        let origin = match self {
            Self::OpenMessaging { channel, .. } => channel.get("id")?,
            Self::Webhook { envelope } => envelope.get("webhookId")?,
            Self::EventBridge { .. } | Self::Generic => return None,
        };
        origin.as_str().map(std::borrow::Cow::into_owned)
    }
}

/// A receipt has the id of the message it is about, and a typing event one of its own only with its time.
fn open_messaging_id(message: &Object<'_>, channel: &Object<'_>) -> Option<EventId> {
    let kind = message.get("type")?.as_str()?;
    let variant = match kind.as_ref() {
        "Receipt" => message.get("status")?.as_str()?,
        "Event" => channel.get("time")?.as_str()?,
        _ => "".into(),
    };
    let channel_id = channel.get("id")?.as_str()?;
    let message_id = message.get("id")?.as_str()?;
    Some(EventId::from_parts(
        "open-messaging",
        &[channel_id.as_bytes(), kind.as_bytes(), message_id.as_bytes(), variant.as_bytes()],
    ))
}

/// `eventBody.id` often names the conversation or the user, and the envelope's `id` changes when Genesys publishes again.
fn eventbridge_id(detail: &Object<'_>) -> Option<EventId> {
    let timestamp = detail.get("timestamp")?.canonical();
    // Without a time, a user who comes back to where they were would be told as the event from before.
    if *timestamp == *b"null" {
        return None;
    }
    Some(EventId::from_parts(
        "eventbridge",
        &[&detail.get("topicName")?.canonical(), &detail.get("eventBody")?.canonical(), &timestamp],
    ))
}

fn generic_id(canonical_body: &[u8], received_at: Timestamp, sender_key: Option<&str>) -> EventId {
    match sender_key {
        Some(key) => EventId::from_parts("keyed", &[key.as_bytes(), canonical_body]),
        None => EventId::from_parts("generic", &[&slot(received_at), canonical_body]),
    }
}

fn slot(received_at: Timestamp) -> [u8; 8] {
    received_at.as_second().div_euclid(GENERIC_SLOT_SECONDS).to_be_bytes()
}
