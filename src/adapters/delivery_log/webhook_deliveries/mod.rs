//! The "webhook delivery log" of the tutorials.
//!
//! The public API of Genesys Cloud has no such call: its Platform SDK lists none, and no permission
//! `webhook:read`. Where an organisation has it all the same, or puts something of its own in its
//! place, its path is configuration. The form that is expected: `GET
//! <path>?status=failed&startDate=…&endDate=…&pageSize=…&pageNumber=…` answers
//! `{"entities":[…],"pageCount":n}`, each entity with `id`, `webhookId`, `status`,
//! `httpStatusCode`, `body`, `headers`, `webhookUrl` and, if it has one, `timestamp`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::str::FromStr;

use http::{HeaderValue, Method};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::segment::segment;
use crate::adapters::genesys::{Call, GenesysError, PlatformApi};
use crate::domain::event::SenderKey;
use crate::domain::https_url::without_secrets;
use crate::domain::instant::instant;
use crate::domain::json::{Json, Object};
use crate::domain::message::is_kept_header;
use crate::ports::delivery_log::{
    DeliveryLog, DeliveryLogError, Entry, Failed, Part, Unreadable, Window,
};

/// Permission that the tutorials ask for.
const PERMISSION: &str = "webhook:read";

/// Few, since each can hold a body of 512,000 bytes (the most that Genesys Cloud takes in a
/// request), six times as long where every character is escaped: a page fits an answer
/// (`MAX_ANSWER_BYTES` of `genesys/https.rs`).
const PAGE_SIZE: usize = 5;

/// An hour. A window that a run cannot finish is read again from its beginning, so that long ones
/// waste work.
const LONGEST_SPAN: u32 = 3600;

/// Header that is valid only for the bytes that were sent.
const SIGNATURE: &str = "x-hub-signature-256";

/// Header that names the encoding of the bytes that were sent.
const ENCODING: &str = "content-encoding";

/// Placeholder of the webhook in the path.
const WEBHOOK_ID: &str = "{webhookId}";

/// The path of the log, in which `{webhookId}` stands for a webhook's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath(String);

/// A path without the webhook, or with a query.
#[derive(Debug, thiserror::Error)]
#[error("it must begin with / and hold {{webhookId}}, and no ? or #")]
pub struct InvalidLogPath;

impl FromStr for LogPath {
    type Err = InvalidLogPath;

    fn from_str(text: &str) -> Result<Self, InvalidLogPath> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = is_path && text.contains(WEBHOOK_ID) && !text.contains(['?', '#']);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidLogPath)
        }
    }
}

/// The log of these webhooks.
pub struct WebhookDeliveries<A> {
    pub api: A,
    pub path: LogPath,
    /// The webhooks that point here.
    pub webhook_ids: Vec<String>,
}

/// A page of the log of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    webhook: usize,
    page: u64,
}

impl Default for LogPlace {
    fn default() -> Self {
        Self {
            webhook: 0,
            page: 1,
        }
    }
}

impl<A: PlatformApi> DeliveryLog for WebhookDeliveries<A> {
    type Place = LogPlace;

    fn name(&self) -> &'static str {
        "webhook-deliveries"
    }

    fn longest_span(&self) -> u32 {
        LONGEST_SPAN
    }

    /// Pages shift when the log forgets, and what slips from one to the other would be lost.
    fn resume(&self, _: LogPlace) -> Option<LogPlace> {
        None
    }

    async fn read(
        &self,
        window: Window,
        place: LogPlace,
        deadline: Instant,
    ) -> Result<Part<LogPlace>, DeliveryLogError> {
        let Some(webhook_id) = self.webhook_ids.get(place.webhook) else {
            return Ok(Part {
                entries: Vec::new(),
                next: None,
            });
        };
        let call = self.call(webhook_id, window, place.page);
        let answer = self.api.call(&call, deadline).await?;
        let page = LogPage::read(&answer).ok_or_else(|| GenesysError::Unusable {
            what: call.to_string(),
            problem: format!(
                "it has no list of entities, or more than the {PAGE_SIZE} that were asked for"
            ),
        })?;
        let is_last = match page.count {
            Some(count) if page.entities.is_empty() && place.page < count => {
                let problem = format!("page {} of {count} is empty", place.page);
                return Err(GenesysError::Unusable {
                    what: call.to_string(),
                    problem,
                }
                .into());
            }
            Some(count) => place.page >= count,
            // A log may give fewer than it is asked for.
            None => page.entities.is_empty(),
        };
        let next = if is_last {
            Some(LogPlace {
                webhook: place.webhook + 1,
                page: 1,
            })
            .filter(|next| next.webhook < self.webhook_ids.len())
        } else {
            Some(LogPlace {
                page: place.page + 1,
                ..place
            })
        };
        Ok(Part {
            entries: page
                .entities
                .into_iter()
                .map(|entity| self.entry(entity, webhook_id, window))
                .collect(),
            next,
        })
    }
}

impl<A> WebhookDeliveries<A> {
    fn call(&self, webhook_id: &str, Window { from, to }: Window, page: u64) -> Call {
        let path = self.path.0.replace(WEBHOOK_ID, &segment(webhook_id));
        let query = format!(
            "status=failed&startDate={from:.3}&endDate={to:.3}&pageSize={PAGE_SIZE}&pageNumber={page}"
        );
        Call {
            method: Method::GET,
            path: format!("{path}?{query}"),
            body: None,
            permission: Some(PERMISSION),
        }
    }
}

/// One answer of the log.
struct LogPage<'a> {
    entities: Vec<Json<'a>>,
    count: Option<u64>,
}

impl<'a> LogPage<'a> {
    fn read(answer: &'a [u8]) -> Option<Self> {
        let answer = Json::parse(answer).ok()?.as_object()?;
        let count = answer.get("pageCount").and_then(|count| count.as_u64());
        Some(Self {
            entities: answer.get("entities")?.as_array(PAGE_SIZE)?,
            count,
        })
    }
}

impl<A> WebhookDeliveries<A> {
    fn entry(&self, entity: Json<'_>, webhook_id: &str, window: Window) -> Entry {
        let fields = entity.as_object();
        let id = fields.as_ref().and_then(|fields| fields.text("id"));
        let unreadable = |problem: &str| {
            let name = id
                .clone()
                .map_or_else(|| canonical(entity), |id| format!("delivery {id}"));
            let whole = match &fields {
                Some(fields) => without_credentials(fields),
                // One that cannot be taken apart, since a key of it is no Unicode, may hold
                // credentials anywhere.
                None if entity.as_text().starts_with('{') => {
                    json!({ "webhookId": webhook_id, "problem": problem }).to_string()
                }
                None => entity.as_text().to_owned(),
            };
            Entry::Unreadable(Unreadable {
                name,
                whole,
                problem: problem.to_owned(),
                webhook_id: Some(webhook_id.to_owned()),
            })
        };
        let Some(fields) = &fields else {
            return unreadable("the entity is not an object");
        };
        // The log was asked for these only; one that did not listen must not make us deliver what
        // is not ours, or has arrived.
        if let Some(other) = fields
            .text("webhookId")
            .filter(|id| !self.webhook_ids.contains(id))
        {
            return Entry::Skipped(format!("it is of the webhook {other}"));
        }
        if let Some(status) = fields
            .text("status")
            .filter(|status| !status.eq_ignore_ascii_case("failed"))
        {
            return Entry::Skipped(format!("its status is {status}"));
        }
        let Some(body) = fields.get("body") else {
            return unreadable("the entity has no body");
        };
        let (body, is_exact) = match (body.as_str(), body.as_text().as_bytes().first()) {
            (Some(text), _) if text.is_empty() => return unreadable("the body is empty"),
            (Some(text), _) => (text.into_owned().into_bytes(), true),
            (None, Some(b'{' | b'[')) => (body.as_text().as_bytes().to_vec(), false),
            (None, _) => return unreadable("the body is neither an object nor a text"),
        };
        let at = fields
            .get("timestamp")
            .and_then(|time| instant(time, window.to));
        let mut headers = headers(fields);
        let header = |name| headers.get(name).map(String::as_str);
        let sender_key = SenderKey::of(header("idempotency-key"), header("webhook-id"));
        let content_type = headers.remove("content-type");
        // The log holds the body decoded, and rewrites one that is an object.
        headers.retain(|name, _| {
            is_kept_header(name) && name != ENCODING && (is_exact || name != SIGNATURE)
        });
        Entry::Failed(Failed {
            delivery: id.clone().unwrap_or_else(|| "without an id".to_owned()),
            entry: format!(
                "delivery {webhook_id} {}",
                id.unwrap_or_else(|| canonical(entity))
            ),
            at,
            body,
            is_copy: !is_exact,
            content_type: content_type
                .or_else(|| (!is_exact).then(|| "application/json".to_owned())),
            headers,
            sender_key,
            note: format!(
                "{} from {}",
                status(fields),
                url(fields).as_deref().unwrap_or("an unknown URL")
            ),
        })
    }
}

fn canonical(entity: Json<'_>) -> String {
    String::from_utf8_lossy(&entity.canonical()).into_owned()
}

/// The headers of the request, names in lower case; a list of values is joined as API Gateway joins
/// them.
fn headers(fields: &Object<'_>) -> BTreeMap<String, String> {
    let Some(headers) = fields.get("headers") else {
        return BTreeMap::new();
    };
    let Ok(headers) = serde_json::from_str::<BTreeMap<String, Value>>(headers.as_text()) else {
        // The event matters more.
        tracing::warn!("skipped the headers of a delivery: they are not an object");
        return BTreeMap::new();
    };
    let text = |(name, value): (String, Value)| {
        let value = match &value {
            Value::Array(values) => values
                .iter()
                .map(Value::as_str)
                .collect::<Option<Vec<_>>>()?
                .join(","),
            value => value.as_str()?.to_owned(),
        };
        Some((name.to_ascii_lowercase(), value))
    };
    // A value that HTTP does not allow was never sent, and SQS could refuse it.
    let is_text =
        |value: &str| HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok());
    headers
        .into_iter()
        .filter_map(text)
        .filter(|(_, value)| !value.is_empty() && is_text(value))
        .collect()
}

fn status(fields: &Object<'_>) -> String {
    fields.get("httpStatusCode").map_or_else(
        || "no status".to_owned(),
        |status| status.as_text().to_owned(),
    )
}

/// URL of the endpoint, without the parts that may be secret. It is only shown, never called: the
/// log could name any.
fn url(fields: &Object<'_>) -> Option<String> {
    Some(without_secrets(
        Url::parse(&fields.text("webhookUrl")?).ok()?,
    ))
}

/// An entity as text for an operator, with headers and URL as they are kept with an event.
fn without_credentials(fields: &Object<'_>) -> String {
    let mut headers = headers(fields);
    headers.retain(|name, _| is_kept_header(name));
    let mut replaced = Vec::new();
    if fields.has("headers") {
        replaced.push(("headers", json!(headers)));
    }
    if fields.has("webhookUrl") {
        replaced.push(("webhookUrl", json!(url(fields))));
    }
    fields
        .with(&replaced)
        .unwrap_or_else(|error| format!("it cannot be written: {error}"))
}
