//! An event as an SQS message: the body as it came, everything else in message attributes.
//!
//! An operator who opens a message in the SQS console reads the webhook's own body. Bodies with
//! characters that SQS refuses are the exception: those are base64, and say so.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::string::FromUtf8Error;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use crate::domain::event::{Event, EventId, Identity, InvalidEventId, Source, UnknownSource};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::json::{Json, NotJson};
use crate::domain::resend::Resend;
use crate::domain::text::is_allowed;
use crate::domain::trace::TraceHeader;

/// The names of the message attributes.
pub mod attribute {
    /// The [`EventId`](crate::domain::event::EventId).
    pub const EVENT_ID: &str = "event_id";
    /// The [`Source`](crate::domain::event::Source).
    pub const SOURCE: &str = "source";
    /// The time at which the relay received the event, RFC 3339 in UTC. Replay and restore keep it.
    pub const RECEIVED_AT: &str = "received_at";
    /// The webhook's `Content-Type`.
    pub const CONTENT_TYPE: &str = "content_type";
    /// `base64` when the message's body is encoded; absent otherwise.
    pub const ENCODING: &str = "encoding";
    /// The kept request headers, a JSON object.
    pub const HEADERS: &str = "headers";
    /// The reason of a dead letter, a JSON object; see [`Reason`](crate::domain::failure::Reason).
    pub const REASON: &str = "reason";
    /// `true` on a copy that the recovery fetched, which is known by its id alone; absent
    /// otherwise.
    pub const RECOVERED: &str = "recovered";
    /// The run that sends a delivered event once more, a JSON object; see
    /// [`Resend`](crate::domain::resend::Resend).
    pub const RESEND: &str = "resend";
}

/// The attributes with which EventBridge puts an event into a rule target's dead-letter queue
/// (EventBridge User Guide, "Using dead-letter queues to process undelivered events in
/// EventBridge").
mod undelivered {
    /// The rule that matched the event: on every such message.
    pub(super) const RULE: &str = "RULE_ARN";
    /// The target that did not take it.
    pub(super) const TARGET: &str = "TARGET_ARN";
    /// A word for what went wrong, such as `NO_PERMISSIONS`.
    pub(super) const ERROR_CODE: &str = "ERROR_CODE";
    /// The error in a sentence.
    pub(super) const ERROR_MESSAGE: &str = "ERROR_MESSAGE";
    /// The bound of the retry policy that was reached; absent where EventBridge gave up without
    /// reaching one.
    pub(super) const EXHAUSTED: &str = "EXHAUSTED_RETRY_CONDITION";
    /// The number of retries.
    pub(super) const RETRIES: &str = "RETRY_ATTEMPTS";

    pub(super) const ALL: [&str; 6] = [RULE, TARGET, ERROR_CODE, ERROR_MESSAGE, EXHAUSTED, RETRIES];
}

/// The largest message that ingest accepts: SQS's 1 MiB less 16 KiB, so that a reason always fits
/// later.
///
/// "Amazon SQS message quotas": the size counts the body and every attribute's name, type and
/// value.
pub const MAX_MESSAGE_BYTES: usize = MAX_SQS_BYTES - 16 * 1024;

/// "Amazon SQS message quotas": a message has at most 1 MiB.
const MAX_SQS_BYTES: usize = 1024 * 1024;

/// JSON that came without a type goes out with this one: a receiver that goes by the type could not
/// read it.
const JSON_CONTENT_TYPE: &str = "application/json";

/// "Amazon SQS message quotas": a message has at most 10 attributes.
const MAX_ATTRIBUTES: usize = 10;

/// "Amazon SQS message quotas": a message group id has at most 128 characters.
const MAX_GROUP_ID_BYTES: usize = 128;

/// A message as SQS holds it, from any sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The text of the message.
    pub body: String,
    /// The message attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
    /// The message group: on a standard queue it keeps one noisy sender from delaying the others
    /// ("Amazon SQS fair queues"); on a FIFO queue it is the conversation whose order is kept.
    pub group: Option<String>,
    /// The trace in which it is sent. Written and not read: Lambda uses it, and a message that is
    /// sent again is in another.
    pub trace: Option<TraceHeader>,
}

/// The time at which SQS accepted a message, and the id that it gave it.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// `SentTimestamp`.
    pub sent_at: Timestamp,
    /// The message id, which stays the same until the message is sent again; `None` if unknown.
    pub message_id: Option<&'a str>,
}

impl From<Timestamp> for Stamp<'_> {
    fn from(sent_at: Timestamp) -> Self {
        Self {
            sent_at,
            message_id: None,
        }
    }
}

/// The value of a message attribute, with its data type as SQS spells it (`String`, `Number.int`,
/// …).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub data_type: String,
    pub value: AttributeValue,
}

/// Text or bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// The text of a `String` or `Number` attribute.
    Text(String),
    /// The bytes of a `Binary` attribute.
    Binary(Vec<u8>),
}

impl Attribute {
    pub(crate) fn text(value: impl Into<String>) -> Self {
        Self {
            data_type: "String".to_owned(),
            value: AttributeValue::Text(value.into()),
        }
    }

    fn len(&self) -> usize {
        let value = match &self.value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Binary(bytes) => bytes.len(),
        };
        self.data_type.len() + value
    }
}

/// A message from which no event can be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The attribute `event_id` is there and wrong.
    #[error("the message attribute event_id is wrong")]
    EventId(#[source] InvalidEventId),
    /// The attribute `source` is there and wrong.
    #[error("the message attribute source is wrong")]
    Source(#[source] UnknownSource),
    /// The attribute `received_at` is there and wrong.
    #[error("the message attribute received_at is not an RFC 3339 time")]
    ReceivedAt(#[source] jiff::Error),
    /// The attribute `headers` is there and wrong.
    #[error("the message attribute headers is not a JSON object of texts")]
    Headers(#[source] serde_json::Error),
    /// The attribute `encoding` names something else than base64.
    #[error("the message attribute encoding is {0:?}, and only base64 is known")]
    Encoding(String),
    /// The body is said to be base64 and is not.
    #[error("the body is not the base64 that the message attribute encoding promises")]
    Base64(#[source] base64::DecodeError),
    /// Without an `event_id` the body must identify the event.
    #[error("the message has no attribute event_id, and its body does not identify an event")]
    NotJson(#[source] NotJson),
    /// The attribute `resend` is there and wrong.
    #[error("the message attribute resend is not a JSON object with run and by")]
    Resend(#[source] serde_json::Error),
    /// A text attribute holds bytes.
    #[error("the message attribute {0} is not a text")]
    NotText(&'static str),
}

impl Message {
    /// The message that carries `event`.
    pub fn from_event(event: Event) -> Self {
        let mut attributes = BTreeMap::new();
        let mut put = |name: &str, value: String| {
            attributes.insert(name.to_owned(), Attribute::text(value));
        };
        put(attribute::EVENT_ID, event.id.to_string());
        put(attribute::SOURCE, event.source.to_string());
        put(attribute::RECEIVED_AT, format!("{:.3}", event.received_at));
        if let Some(content_type) = event.content_type {
            put(attribute::CONTENT_TYPE, content_type);
        }
        if event.is_copy {
            put(attribute::RECOVERED, "true".to_owned());
        }
        if !event.headers.is_empty() {
            put(
                attribute::HEADERS,
                serde_json::json!(event.headers).to_string(),
            );
        }
        let body = match String::from_utf8(event.body) {
            Ok(text) if !text.is_empty() && text.chars().all(is_allowed) => text,
            refused => {
                put(attribute::ENCODING, "base64".to_owned());
                BASE64_STANDARD
                    .encode(refused.map_or_else(FromUtf8Error::into_bytes, String::into_bytes))
            }
        };
        Self {
            body,
            attributes,
            group: event.webhook_id.as_deref().and_then(as_group_id),
            trace: None,
        }
    }

    /// The time at which the relay received its event, or else at which SQS accepted the message.
    pub fn received_at(&self, sent_at: Timestamp) -> Timestamp {
        let received_at = self.text(attribute::RECEIVED_AT).ok().flatten();
        received_at
            .and_then(|time| time.parse().ok())
            .unwrap_or(sent_at)
    }

    /// Reads the event back.
    ///
    /// A message without attributes is an event too: a rule of EventBridge sends bare events, and a
    /// person may paste one in the console. `stamp` is what SQS says of the message: its time for
    /// those that carry none, and its id for those that nothing else tells apart.
    pub fn to_event<'a>(&'a self, stamp: impl Into<Stamp<'a>>) -> Result<Event, Unreadable> {
        let stamp = stamp.into();
        let body = match self.text(attribute::ENCODING)? {
            None => self.unencoded(),
            Some("base64") => BASE64_STANDARD
                .decode(&self.body)
                .map_err(Unreadable::Base64)?,
            Some(other) => return Err(Unreadable::Encoding(other.to_owned())),
        };
        let json = Json::parse(&body);
        let is_json = json.is_ok();
        let received_at = match self.text(attribute::RECEIVED_AT)? {
            Some(time) => time.parse().map_err(Unreadable::ReceivedAt)?,
            None => json
                .as_ref()
                .ok()
                .and_then(|json| envelope_time(*json))
                .unwrap_or(stamp.sent_at),
        };
        let headers = match self.text(attribute::HEADERS)? {
            Some(headers) => serde_json::from_str(headers).map_err(Unreadable::Headers)?,
            None => BTreeMap::new(),
        };
        let named = self
            .text(attribute::EVENT_ID)?
            .map(str::parse)
            .transpose()
            .map_err(Unreadable::EventId)?;
        let Identity {
            id,
            source,
            webhook_id,
        } = match (named, json) {
            (None, Err(error)) => return Err(Unreadable::NotJson(error)),
            (None, Ok(json)) => Identity::of(json, received_at, None, || self.lone(stamp)),
            (Some(id), Ok(json)) => Identity::named(id, json),
            (Some(id), Err(_)) => Identity::of_malformed(id),
        };
        let named = self.text(attribute::SOURCE)?.map(str::parse).transpose();
        let source = match named.map_err(Unreadable::Source)? {
            // The body alone makes a check event.
            Some(named) if named != Source::Check && source != Source::Check => named,
            _ => source,
        };
        let unsaid = is_json.then_some(JSON_CONTENT_TYPE);
        let content_type = self
            .text(attribute::CONTENT_TYPE)?
            .or(unsaid)
            .map(str::to_owned);
        let is_copy = self.text(attribute::RECOVERED)?.is_some();
        Ok(Event {
            id,
            source,
            received_at,
            content_type,
            headers,
            body,
            webhook_id,
            is_copy,
        })
    }

    /// The id of an event that nothing tells apart.
    fn lone(&self, stamp: Stamp<'_>) -> EventId {
        let sent_at = stamp.sent_at.as_millisecond().to_string();
        EventId::of_message(stamp.message_id.unwrap_or(&sent_at), self.body.as_bytes())
    }

    /// The body of a message that does not say how it is encoded. A tool that drops attributes
    /// drops that as well, so what is no JSON and holds some as base64 stands for that.
    fn unencoded(&self) -> Vec<u8> {
        let body = self.body.clone().into_bytes();
        if self.has_lost_attributes() && Json::parse(&body).is_err() {
            let decoded = BASE64_STANDARD
                .decode(&body)
                .ok()
                .filter(|decoded| Json::parse(decoded).is_ok());
            return decoded.unwrap_or(body);
        }
        body
    }

    /// Returns whether the relay's attributes are missing: a rule of EventBridge or a person sent
    /// it, or a tool that drops attributes.
    pub(crate) fn has_lost_attributes(&self) -> bool {
        !self.attributes.contains_key(attribute::SOURCE)
    }

    /// The id of its event and the time of its receipt, also where no event can be read from it.
    pub fn identity<'a>(&'a self, stamp: impl Into<Stamp<'a>>) -> (EventId, Timestamp) {
        let stamp = stamp.into();
        if let Ok(event) = self.to_event(stamp) {
            return (event.id, event.received_at);
        }
        let received_at = self
            .text(attribute::RECEIVED_AT)
            .ok()
            .flatten()
            .and_then(|time| time.parse().ok());
        let id = self.event_id().and_then(|id| id.parse().ok());
        (
            id.unwrap_or_else(|| self.lone(stamp)),
            received_at.unwrap_or(stamp.sent_at),
        )
    }

    /// Sets the id, unless the message has an invalid one: then it stays unreadable.
    #[must_use]
    pub fn named(mut self, id: &EventId) -> Self {
        let is_free = match self.attributes.get(attribute::EVENT_ID) {
            None => self.attributes.len() < MAX_ATTRIBUTES,
            Some(_) => self
                .event_id()
                .is_some_and(|id| id.parse::<EventId>().is_ok()),
        };
        if is_free {
            self.attributes
                .insert(attribute::EVENT_ID.to_owned(), Attribute::text(id.as_str()));
        }
        self
    }

    /// Adds the identity of its event: sent again, the message gets a new id and a new time from
    /// SQS, and an event that is identified by these would become another.
    #[must_use]
    pub fn with_identity<'a>(mut self, stamp: impl Into<Stamp<'a>>) -> Self {
        let stamp = stamp.into();
        let (id, received_at) = self.identity(stamp);
        let identity = [
            (attribute::EVENT_ID, id.to_string()),
            (attribute::RECEIVED_AT, format!("{received_at:.3}")),
        ];
        for (name, value) in identity {
            if self.attributes.len() < MAX_ATTRIBUTES {
                self.attributes
                    .entry(name.to_owned())
                    .or_insert_with(|| Attribute::text(value));
            }
        }
        self
    }

    /// The event id it carries, unchecked: for logs.
    pub fn event_id(&self) -> Option<&str> {
        self.text(attribute::EVENT_ID).ok().flatten()
    }

    /// The reason it carries, if it carries one that can be read: the relay's own, or else
    /// EventBridge's.
    ///
    /// EventBridge does not say when it gave up: that is `sent_at`, SQS's own time of the message.
    pub fn reason(&self, sent_at: Timestamp) -> Option<Reason> {
        let own = self
            .text(attribute::REASON)
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_str(text).ok());
        own.or_else(|| self.undelivered(sent_at))
    }

    /// Returns whether the relay sent it to the dead letters, rather than found it there.
    pub(crate) fn has_own_reason(&self) -> bool {
        self.attributes.contains_key(attribute::REASON)
    }

    /// The reason for which EventBridge could not send the event to the events queue, if
    /// EventBridge sent this message.
    fn undelivered(&self, sent_at: Timestamp) -> Option<Reason> {
        let said = |name| self.text(name).ok().flatten();
        said(undelivered::RULE)?;
        let retries = said(undelivered::RETRIES).and_then(|number| number.parse::<u32>().ok());
        let exhausted = said(undelivered::EXHAUSTED);
        let mut detail = "EventBridge could not put it into the events queue".to_owned();
        for more in [
            said(undelivered::ERROR_CODE),
            said(undelivered::ERROR_MESSAGE),
            exhausted,
        ]
        .into_iter()
        .flatten()
        {
            detail.extend([": ", more]);
        }
        let kind = match exhausted {
            Some(_) => ReasonKind::Exhausted,
            None => ReasonKind::Permanent,
        };
        Some(Reason {
            attempt: retries.and_then(|retries| retries.checked_add(1)),
            ..Reason::new(kind, &detail, sent_at)
        })
    }

    /// The run that sends it once more, if one does.
    pub fn resend(&self) -> Result<Option<Resend>, Unreadable> {
        let text = self.text(attribute::RESEND)?;
        text.map(serde_json::from_str)
            .transpose()
            .map_err(Unreadable::Resend)
    }

    /// Marks it as sent once more by a run.
    #[must_use]
    pub fn with_resend(mut self, resend: &Resend) -> Self {
        let resend = serde_json::json!(resend).to_string();
        self.attributes
            .insert(attribute::RESEND.to_owned(), Attribute::text(resend));
        self
    }

    /// Replaces the reason.
    #[must_use]
    pub fn with_reason(self, reason: &Reason) -> Self {
        let reason = serde_json::json!(reason).to_string();
        let mut message = self.without_reason();
        message
            .attributes
            .insert(attribute::REASON.to_owned(), Attribute::text(reason));
        message
    }

    /// Removes the reason, before the message returns to the events queue.
    #[must_use]
    pub fn without_reason(mut self) -> Self {
        for name in undelivered::ALL.into_iter().chain([attribute::REASON]) {
            self.attributes.remove(name);
        }
        self
    }

    /// Returns whether SQS takes it: it has few enough attributes, and is not too large.
    pub fn is_sendable(&self) -> bool {
        self.attributes.len() <= MAX_ATTRIBUTES && self.size() <= MAX_SQS_BYTES
    }

    /// Its size in bytes as SQS counts it.
    pub fn size(&self) -> usize {
        let attributes = self
            .attributes
            .iter()
            .map(|(name, attribute)| name.len() + attribute.len());
        self.body.len() + attributes.sum::<usize>()
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, Unreadable> {
        match self.attributes.get(name).map(|attribute| &attribute.value) {
            None => Ok(None),
            Some(AttributeValue::Text(text)) => Ok(Some(text)),
            Some(AttributeValue::Binary(_)) => Err(Unreadable::NotText(name)),
        }
    }
}

/// Returns whether a request header is kept with the event and passed on to the target.
///
/// `name` is in lower case. Credentials are never among them.
pub fn is_kept_header(name: &str) -> bool {
    matches!(
        name,
        "x-hub-signature-256" | "traceparent" | "content-encoding"
    ) || name.starts_with("x-genesys-")
        || name.starts_with("inin-")
}

/// `name` as a message group id, if it can be one (`SendMessage`: alphanumeric characters and
/// punctuation).
pub(super) fn as_group_id(name: &str) -> Option<String> {
    let fits = (1..=MAX_GROUP_ID_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| name.to_owned())
}

/// The `time` of a bare EventBridge event.
fn envelope_time(body: Json<'_>) -> Option<Timestamp> {
    let envelope = body.as_object()?;
    envelope.get("detail-type")?;
    envelope.get("time")?.as_str()?.parse().ok()
}
