//! Events, their sources, and the identity by which two messages are the same event.
//!
//! Two laws decide that. What says nothing identifies nothing: where neither an id with a time nor
//! a time nor a key of the sender tells an event apart, every accepted request is an event of its
//! own. And two different canonical bodies are never one event; only a copy that the recovery
//! fetched is known by its id alone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::check::CheckEvent;
use crate::domain::instant::instant;
use crate::domain::json::{Json, Object};
use crate::domain::placeholder::is_placeholder;

/// A sender's key counts for a day of UTC: one that is configured once and never changes cannot
/// merge what days lie between.
const KEY_DAY_SECONDS: i64 = 24 * 3600;

/// The sources of Genesys Cloud begin with this ("Amazon EventBridge integration", Genesys Cloud
/// Resource Center).
const PARTNER_SOURCE: &str = "aws.partner/genesys.com";

/// The ids of check events begin with this, and a hash of the body follows.
const CHECK_PREFIX: &str = "check-";

/// Fields of every event of an event bus beside `source`, `detail-type` and `detail` ("AWS service
/// event metadata", EventBridge User Guide), whatever prefix the rule goes by.
const BUS_FIELDS: [&str; 6] = ["version", "id", "account", "time", "region", "resources"];

/// An event: the body exactly as it was received, and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The identity: two messages with one id are the same event.
    pub id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// The time at which the relay, or for EventBridge the event bus, first received it.
    pub received_at: Timestamp,
    /// The `Content-Type` it came with.
    pub content_type: Option<String>,
    /// The request headers that are kept and passed on, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The webhook's body, byte for byte.
    pub body: Vec<u8>,
    /// The webhook or integration it belongs to, if it names one.
    pub webhook_id: Option<String>,
    /// True if the body was serialised again by the log that the recovery reads: such a copy is
    /// known by its id alone.
    pub is_copy: bool,
}

impl Event {
    /// Returns whether it is a [check event](crate::domain::check), which is no business of anyone's:
    /// no metric counts it, and no journal or archive keeps it.
    pub fn is_check(&self) -> bool {
        self.source == Source::Check
    }

    /// The digest by which a record tells two bodies of one id apart.
    ///
    /// Only the id of Open Messaging does without the body: all others are made of it, or of
    /// nothing that could come twice.
    pub fn digest(&self) -> Option<BodyDigest> {
        if self.source != Source::OpenMessaging || self.is_copy {
            return None;
        }
        let body = Json::parse(&self.body).ok()?;
        Some(BodyDigest(
            BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(body.canonical())),
        ))
    }
}

/// The SHA-256 of a canonical body, as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BodyDigest(String);

/// The name of an event: 1 to 80 characters of `A–Z a–z 0–9 _ -`.
///
/// The relay makes it from what identifies the event (43 characters of a SHA-256; behind `check-` for
/// a check event), and passes it to the target as idempotency key. It can only be made by [`Identity::of`] or by parsing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(String);

impl EventId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An event that nothing tells apart, by what only this request has: its time, and a random
    /// number.
    pub fn of_request(received_at: Timestamp, random: u128) -> Self {
        Self::from_parts(
            "request",
            &[
                &received_at.as_nanosecond().to_be_bytes(),
                &random.to_be_bytes(),
            ],
        )
    }

    /// A message that nothing tells apart, by the name that SQS gave it.
    pub fn of_message(message_id: &str, body: &[u8]) -> Self {
        Self::from_parts("message", &[message_id.as_bytes(), body])
    }

    /// The id of a fetched item that cannot be read or has no identity: by the parts that do not
    /// change between two reads.
    pub fn of_fetched(parts: &[&[u8]]) -> Self {
        Self::from_parts("unreadable", parts)
    }

    /// The id of an event whose own id another body had first: the same at each delivery of this
    /// body.
    #[must_use]
    pub fn with_body(&self, digest: &BodyDigest) -> Self {
        Self::from_parts("another body", &[self.0.as_bytes(), digest.0.as_bytes()])
    }

    /// Hashes `parts` under `kind`; each part's length goes in too, so that no two lists of parts
    /// collide.
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

/// The kind of sender, recognised by the shape of the body.
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
    /// A [check event](crate::domain::check): synthetic, and recognised by its whole body alone.
    Check,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 5] = [
        Self::OpenMessaging,
        Self::Webhook,
        Self::EventBridge,
        Self::Generic,
        Self::Check,
    ];

    /// The sources of events that are no check: those that metrics count.
    pub const COUNTED: [Self; 4] = [
        Self::OpenMessaging,
        Self::Webhook,
        Self::EventBridge,
        Self::Generic,
    ];

    /// The name that messages, headers and requests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenMessaging => "open-messaging",
            Self::Webhook => "webhook",
            Self::EventBridge => "eventbridge",
            Self::Check => "check",
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
#[error("a source is one of open-messaging, webhook, eventbridge, generic, check")]
pub struct UnknownSource;

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        Self::ALL
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or(UnknownSource)
    }
}

/// The sender's key for an event, from its key headers.
///
/// Each of them counts: one that is configured once, or that a proxy adds, hides no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderKey(Vec<String>);

impl SenderKey {
    /// The values of `Idempotency-Key` and of `webhook-id`, as far as they say something.
    pub fn of(idempotency_key: Option<&str>, webhook_id: Option<&str>) -> Option<Self> {
        let said = [idempotency_key, webhook_id]
            .into_iter()
            .flatten()
            .filter(|key| !is_placeholder(key));
        let said: Vec<String> = said.map(str::to_owned).collect();
        (!said.is_empty()).then_some(Self(said))
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(String::as_bytes)
    }
}

/// The identity of an event: its id, its source and the webhook or integration that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The identity: two messages with one id are the same event.
    pub id: EventId,
    /// The kind of sender.
    pub source: Source,
    /// The webhook's or integration's id, if the body names one.
    pub webhook_id: Option<String>,
}

impl Identity {
    /// Identifies a body that is JSON, by what tells it apart from every other event: an id with a
    /// time, a time, or a key of the sender. Placeholders count as absent.
    ///
    /// Without any of them, `lone` gives the id of a separate event. All ids but Open Messaging's
    /// hash everything that the sender gave, so that two bodies are never one event; for Open
    /// Messaging see [`Event::digest`].
    pub fn of(
        body: Json<'_>,
        received_at: Timestamp,
        key: Option<&SenderKey>,
        lone: impl FnOnce() -> EventId,
    ) -> Self {
        Self::of_time(body, received_at, Some(received_at), key, lone)
    }

    /// Identifies a body that was fetched `now`, as it would have been when it came by itself, `at`
    /// a time that may be unknown.
    pub fn of_fetched(
        body: Json<'_>,
        at: Option<Timestamp>,
        now: Timestamp,
        key: Option<&SenderKey>,
        lone: impl FnOnce() -> EventId,
    ) -> Self {
        Self::of_time(body, at.unwrap_or(now), at, key, lone)
    }

    /// A key counts for the day of `key_at`: without that, a key alone would name another event at
    /// each reading.
    fn of_time(
        body: Json<'_>,
        received_at: Timestamp,
        key_at: Option<Timestamp>,
        key: Option<&SenderKey>,
        lone: impl FnOnce() -> EventId,
    ) -> Self {
        let shape = Shape::of(body);
        let told = match &shape {
            Shape::OpenMessaging { message, channel } => {
                open_messaging_id(message, channel, body, received_at)
            }
            Shape::EventBridge { event, detail } => {
                eventbridge_id(event, detail.as_ref(), body, received_at)
            }
            Shape::Webhook { envelope } => webhook_id(envelope, body, received_at, key),
            Shape::Check => Some(check_id(body)),
            Shape::Generic => None,
        };
        let keyed = || Some(keyed_id(key?, body, key_at?));
        let id = told.or_else(keyed).unwrap_or_else(lone);
        Self {
            id,
            source: shape.source(),
            webhook_id: shape.webhook_id(),
        }
    }

    /// The ids that a message of Open Messaging would have at other times, up to `within` from its
    /// own; none for other bodies.
    pub fn near(
        body: Json<'_>,
        received_at: Timestamp,
        within: SignedDuration,
    ) -> impl Iterator<Item = EventId> {
        let reference = match Shape::of(body) {
            Shape::OpenMessaging { message, channel } => channel
                .get("time")
                .and_then(|time| instant(time, received_at))
                .and_then(|time| Some((MessageReference::of(&message, &channel)?, time))),
            Shape::Check | Shape::EventBridge { .. } | Shape::Webhook { .. } | Shape::Generic => {
                None
            }
        };
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        reference.into_iter().flat_map(move |(reference, time)| {
            let time = time.as_millisecond();
            let from = time.saturating_sub(within);
            (from..=time.saturating_add(within))
                .filter(move |other| *other != time)
                .map(move |other| reference.at(other))
        })
    }

    /// Identifies a body whose id is known already. A check event has no id but its own: under that
    /// of another event it would count as that event.
    pub fn named(id: EventId, body: Json<'_>) -> Self {
        let shape = Shape::of(body);
        let id = match shape {
            Shape::Check => check_id(body),
            Shape::OpenMessaging { .. }
            | Shape::EventBridge { .. }
            | Shape::Webhook { .. }
            | Shape::Generic => id,
        };
        Self {
            id,
            source: shape.source(),
            webhook_id: shape.webhook_id(),
        }
    }

    /// Identifies what is not JSON, whose id says it all.
    pub fn of_malformed(id: EventId) -> Self {
        Self {
            id,
            source: Source::Generic,
            webhook_id: None,
        }
    }
}

/// The identity by the fields of a body.
enum Shape<'a> {
    OpenMessaging {
        message: Object<'a>,
        channel: Object<'a>,
    },
    EventBridge {
        event: Object<'a>,
        detail: Option<Object<'a>>,
    },
    Webhook {
        envelope: Object<'a>,
    },
    Check,
    Generic,
}

impl<'a> Shape<'a> {
    fn of(body: Json<'a>) -> Self {
        let Some(object) = body.as_object() else {
            return Self::Generic;
        };
        let inner = |name| object.get(name).and_then(|value| value.as_object());
        let has = |name| object.get(name).is_some();
        if has("type")
            && let Some(channel) = inner("channel")
            // Many bodies have a type and a channel: these are Open Messaging's own.
            && (has("direction") || has("originatingEntity") || channel.get("platform").is_some())
        {
            return Self::OpenMessaging {
                channel,
                message: object,
            };
        }
        if has("detail") && is_from_event_bus(&object) {
            return Self::EventBridge {
                detail: inner("detail"),
                event: object,
            };
        }
        if has("webhookId") && has("payload") && has("timestamp") {
            return Self::Webhook { envelope: object };
        }
        if CheckEvent::read(body, &object).is_some() {
            return Self::Check;
        }
        Self::Generic
    }

    fn source(&self) -> Source {
        match self {
            Self::OpenMessaging { .. } => Source::OpenMessaging,
            Self::EventBridge { .. } => Source::EventBridge,
            Self::Webhook { .. } => Source::Webhook,
            Self::Check => Source::Check,
            Self::Generic => Source::Generic,
        }
    }

    fn webhook_id(&self) -> Option<String> {
        match self {
            Self::OpenMessaging { channel, .. } => channel.text("id"),
            Self::Webhook { envelope } => envelope.text("webhookId"),
            Self::EventBridge { .. } | Self::Check | Self::Generic => None,
        }
    }
}

/// Returns whether an object with a `detail` is an event of an event bus: of Genesys Cloud by its
/// source or its topic, or of any source that the rule was told of, by all that the bus itself
/// adds.
fn is_from_event_bus(event: &Object<'_>) -> bool {
    let source = event.get("source").and_then(|source| source.as_str());
    if source
        .as_ref()
        .is_some_and(|source| source.starts_with(PARTNER_SOURCE))
    {
        return true;
    }
    if event.get("detail-type").is_none() {
        return false;
    }
    let has_topic = || Some(event.get("detail")?.as_object()?.get("topicName").is_some());
    has_topic() == Some(true)
        || (source.is_some() && BUS_FIELDS.iter().all(|name| event.get(name).is_some()))
}

/// A message of Open Messaging without its time.
///
/// Genesys promises that id and time together are unique. A receipt has the id of the message that
/// it is about.
struct MessageReference {
    channel_id: String,
    kind: String,
    id: String,
    status: String,
}

impl MessageReference {
    fn of(message: &Object<'_>, channel: &Object<'_>) -> Option<Self> {
        let kind = message.text("type")?;
        let status = if kind == "Receipt" {
            message.text("status").unwrap_or_default()
        } else {
            String::new()
        };
        Some(Self {
            channel_id: channel.text("id")?,
            kind,
            id: message.text("id")?,
            status,
        })
    }

    fn at(&self, millisecond: i64) -> EventId {
        let time = millisecond.to_be_bytes();
        let parts = [
            self.channel_id.as_bytes(),
            self.kind.as_bytes(),
            self.id.as_bytes(),
            &time,
            self.status.as_bytes(),
        ];
        EventId::from_parts("open-messaging message", &parts)
    }
}

/// What has no id is known by its body, if that has a time.
fn open_messaging_id(
    message: &Object<'_>,
    channel: &Object<'_>,
    body: Json<'_>,
    received_at: Timestamp,
) -> Option<EventId> {
    let time = instant(channel.get("time")?, received_at)?;
    let reference = || Some(MessageReference::of(message, channel)?.at(time.as_millisecond()));
    let by_body = || EventId::from_parts("open-messaging body", &[&body.canonical()]);
    Some(reference().unwrap_or_else(by_body))
}

/// `eventBody.id` often names the conversation or the user, and the envelope's `id` changes when
/// Genesys publishes again.
///
/// Without a time, a user who comes back to where they were would be told as the event from before:
/// then the whole event tells, which the bus itself has given an id.
fn eventbridge_id(
    event: &Object<'_>,
    detail: Option<&Object<'_>>,
    body: Json<'_>,
    received_at: Timestamp,
) -> Option<EventId> {
    let by_time = || {
        let detail = detail?;
        let timestamp = detail.get("timestamp")?;
        instant(timestamp, received_at)?;
        let (topic, event_body) = (detail.get("topicName")?, detail.get("eventBody")?);
        let parts = [
            &*topic.canonical(),
            &*event_body.canonical(),
            &*timestamp.canonical(),
        ];
        Some(EventId::from_parts("eventbridge", &parts))
    };
    let whole = || {
        event.text("id")?;
        Some(EventId::from_parts(
            "eventbridge event",
            &[&body.canonical()],
        ))
    };
    by_time().or_else(whole)
}

fn webhook_id(
    envelope: &Object<'_>,
    body: Json<'_>,
    received_at: Timestamp,
    key: Option<&SenderKey>,
) -> Option<EventId> {
    instant(envelope.get("timestamp")?, received_at)?;
    let body = body.canonical();
    let parts: Vec<&[u8]> = std::iter::once(&*body)
        .chain(key.into_iter().flat_map(SenderKey::parts))
        .collect();
    Some(EventId::from_parts("webhook", &parts))
}

/// It shows what it is: the policy of the function that forgets check events goes by the prefix.
pub(super) fn check_id(body: Json<'_>) -> EventId {
    let EventId(hash) = EventId::from_parts("check", &[&body.canonical()]);
    EventId(format!("{CHECK_PREFIX}{hash}"))
}

/// The key never stands alone, since a header that the customer configured has the same value on
/// every event.
fn keyed_id(key: &SenderKey, body: Json<'_>, at: Timestamp) -> EventId {
    let (body, day) = (
        body.canonical(),
        at.as_second().div_euclid(KEY_DAY_SECONDS).to_be_bytes(),
    );
    let parts: Vec<&[u8]> = key.parts().chain([&*body, &day]).collect();
    EventId::from_parts("keyed", &parts)
}
