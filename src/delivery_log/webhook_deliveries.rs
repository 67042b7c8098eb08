//! The "webhook delivery log" of the tutorials.
//!
//! The public API of Genesys Cloud has no such call: its Platform SDK lists none, and no permission `webhook:read`. Where
//! an organisation has it all the same, or puts something of its own in its place, its path is configuration. The form
//! that is expected: `GET <path>?status=failed&startDate=…&endDate=…&pageSize=…&pageNumber=…` answers
//! `{"entities":[…],"pageCount":n}`, each entity with `id`, `webhookId`, `status`, `httpStatusCode`, `body`, `headers`,
//! `webhookUrl` and, if it has one, `timestamp`.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::{HeaderValue, Method};
use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{DeliveryLog, Entry, Failed, Part, Unreadable, Window, segment};
use crate::genesys::{Call, GenesysError, PlatformApi};
use crate::json::{Json, Object};
use crate::message::is_kept_header;

/// What the tutorials ask for.
const PERMISSION: &str = "webhook:read";

/// Few, since each can hold a body of 512,000 bytes (the most that Genesys Cloud takes in a request), six times as long
/// where every character is escaped.
const PAGE_SIZE: u64 = 10;

/// An hour. A window that a run cannot finish is read anew, so that long ones are lost work.
const LONGEST_SPAN: u32 = 3600;

/// What holds only of the bytes that were sent.
const SIGNATURE: &str = "x-hub-signature-256";

/// Where the path names the webhook.
const WEBHOOK_ID: &str = "{webhookId}";

/// The path of the log, in which `{webhookId}` stands for a webhook's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath(String);

/// A path that names no webhook.
#[derive(Debug, thiserror::Error)]
#[error("it must begin with / and hold {{webhookId}}, and no ? or #")]
pub struct InvalidLogPath;

impl FromStr for LogPath {
    type Err = InvalidLogPath;

    fn from_str(text: &str) -> Result<Self, InvalidLogPath> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = is_path && text.contains(WEBHOOK_ID) && !text.contains(['?', '#']);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidLogPath) }
    }
}

/// The log of these webhooks.
pub struct WebhookDeliveries<A> {
    /// Where it is read.
    pub api: A,
    /// Its path.
    pub path: LogPath,
    /// The webhooks that point here.
    pub webhook_ids: Vec<String>,
}

/// A page of the log of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    webhook: usize,
    page: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self { webhook: 0, page: 1 }
    }
}

impl<A: PlatformApi> DeliveryLog for WebhookDeliveries<A> {
    type Place = Place;

    fn name(&self) -> &'static str {
        "webhook-deliveries"
    }

    fn longest_span(&self) -> u32 {
        LONGEST_SPAN
    }

    /// Pages shift when the log forgets, and what slips from one to the other would be lost.
    fn resume(&self, _: Place) -> Option<Place> {
        None
    }

    async fn read(&self, window: Window, place: Place, deadline: Instant) -> Result<Part<Place>, GenesysError> {
        let Some(webhook_id) = self.webhook_ids.get(place.webhook) else {
            return Ok(Part { entries: Vec::new(), next: None });
        };
        let call = self.call(webhook_id, window, place.page);
        let answer = self.api.call(&call, deadline).await?;
        let page = Page::read(&answer).ok_or_else(|| GenesysError::Unusable {
            what: call.to_string(),
            problem: "it has no list of entities".to_owned(),
        })?;
        let is_last = match page.count {
            Some(count) if page.entities.is_empty() && place.page < count => {
                let problem = format!("page {} of {count} is empty", place.page);
                return Err(GenesysError::Unusable { what: call.to_string(), problem });
            }
            Some(count) => place.page >= count,
            // A log may give fewer than it is asked for.
            None => page.entities.is_empty(),
        };
        let next = if is_last {
            Some(Place { webhook: place.webhook + 1, page: 1 }).filter(|next| next.webhook < self.webhook_ids.len())
        } else {
            Some(Place { page: place.page + 1, ..place })
        };
        Ok(Part { entries: page.entities.into_iter().map(|entity| self.entry(entity, webhook_id)).collect(), next })
    }
}

impl<A> WebhookDeliveries<A> {
    fn call(&self, webhook_id: &str, Window { from, to }: Window, page: u64) -> Call {
        let path = self.path.0.replace(WEBHOOK_ID, &segment(webhook_id));
        let query = format!("status=failed&startDate={from:.3}&endDate={to:.3}&pageSize={PAGE_SIZE}&pageNumber={page}");
        Call { method: Method::GET, path: format!("{path}?{query}"), body: None, permission: Some(PERMISSION) }
    }
}

/// One answer of the log.
struct Page<'a> {
    entities: Vec<Json<'a>>,
    count: Option<u64>,
}

impl<'a> Page<'a> {
    fn read(answer: &'a [u8]) -> Option<Self> {
        let answer = Json::parse(answer).ok()?.as_object()?;
        let count = answer.get("pageCount").and_then(|count| count.as_u64());
        Some(Self { entities: answer.get("entities")?.as_array()?, count })
    }
}

impl<A> WebhookDeliveries<A> {
    fn entry(&self, entity: Json<'_>, webhook_id: &str) -> Entry {
        let fields = entity.as_object();
        let id = fields.as_ref().and_then(|fields| fields.text("id"));
        let unreadable = |problem: &str| {
            let name = id.clone().map_or_else(|| canonical(entity), |id| format!("delivery {id}"));
            let whole =
                fields.as_ref().map_or_else(|| entity.as_text().to_owned(), |fields| without_credentials(fields));
            Entry::Unreadable(Unreadable {
                name,
                whole,
                problem: problem.to_owned(),
                origin: Some(webhook_id.to_owned()),
            })
        };
        let Some(fields) = &fields else { return unreadable("the entity is not an object") };
        // The log was asked for these only; one that did not listen must not make us deliver what is not ours, or has
        // arrived.
        if let Some(other) = fields.text("webhookId").filter(|id| !self.webhook_ids.contains(id)) {
            return Entry::PassedOver(format!("it is of the webhook {other}"));
        }
        if let Some(status) = fields.text("status").filter(|status| !status.eq_ignore_ascii_case("failed")) {
            return Entry::PassedOver(format!("its status is {status}"));
        }
        let Some(body) = fields.get("body") else { return unreadable("the entity has no body") };
        let (body, is_exact) = match (body.as_str(), body.as_text().as_bytes().first()) {
            (Some(text), _) if text.is_empty() => return unreadable("the body is empty"),
            (Some(text), _) => (text.into_owned().into_bytes(), true),
            (None, Some(b'{' | b'[')) => (body.as_text().as_bytes().to_vec(), false),
            (None, _) => return unreadable("the body is neither an object nor a text"),
        };
        let at = fields.text("timestamp").and_then(|time| time.parse::<Timestamp>().ok());
        let mut headers = headers(fields);
        let key = headers.remove("idempotency-key").or_else(|| headers.remove("webhook-id"));
        let content_type = headers.remove("content-type");
        headers.retain(|name, _| is_kept_header(name) && (is_exact || name != SIGNATURE));
        Entry::Failed(Failed {
            delivery: id.clone().unwrap_or_else(|| "without an id".to_owned()),
            at,
            body,
            content_type: content_type.or_else(|| (!is_exact).then(|| "application/json".to_owned())),
            headers,
            // A body that nothing else tells apart has to be the same event at each reading.
            sender_key: key.or_else(|| at.is_none().then(|| id.unwrap_or_else(|| canonical(entity)))),
            note: format!("{} from {}", status(fields), url(fields).as_deref().unwrap_or("an unknown URL")),
        })
    }
}

fn canonical(entity: Json<'_>) -> String {
    String::from_utf8_lossy(&entity.canonical()).into_owned()
}

/// The headers of the request, names in lower case; of a list of values the first.
fn headers(fields: &Object<'_>) -> BTreeMap<String, String> {
    let Some(headers) = fields.get("headers") else { return BTreeMap::new() };
    let Ok(headers) = serde_json::from_str::<BTreeMap<String, Value>>(headers.as_text()) else {
        // The event matters more.
        tracing::warn!("the headers of a delivery are not an object, and are left out");
        return BTreeMap::new();
    };
    let text = |(name, value): (String, Value)| {
        let value = value.as_str().or_else(|| value.get(0)?.as_str())?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    // What HTTP does not allow was not sent, and SQS could refuse it.
    let is_text = |value: &str| HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok());
    headers.into_iter().filter_map(text).filter(|(_, value)| !value.is_empty() && is_text(value)).collect()
}

fn status(fields: &Object<'_>) -> String {
    fields.get("httpStatusCode").map_or_else(|| "no status".to_owned(), |status| status.as_text().to_owned())
}

/// Where the endpoint was, without what may be secret. It is only ever shown: whoever wrote the log could name any.
fn url(fields: &Object<'_>) -> Option<String> {
    let mut url = Url::parse(&fields.text("webhookUrl")?).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    // Fails for a URL that can hold neither.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    Some(url.into())
}

/// An entity that is kept for a person to read: headers and URL as they are kept with an event.
fn without_credentials(fields: &Object<'_>) -> String {
    let mut headers = headers(fields);
    headers.retain(|name, _| is_kept_header(name));
    let mut replaced = Vec::new();
    if fields.get("headers").is_some() {
        replaced.push(("headers", json!(headers)));
    }
    if fields.get("webhookUrl").is_some() {
        replaced.push(("webhookUrl", json!(url(fields))));
    }
    fields.with(&replaced).unwrap_or_else(|error| format!("it cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::event::Identity;

    /// An API that gives these answers, and remembers what it was asked.
    #[derive(Default)]
    struct Api {
        answers: Mutex<VecDeque<String>>,
        calls: Mutex<Vec<String>>,
    }

    impl PlatformApi for Api {
        async fn call(&self, call: &Call, _deadline: Instant) -> Result<Vec<u8>, GenesysError> {
            self.calls.lock().expect("not poisoned").push(format!("{} {}", call.method, call.path));
            Ok(self.answers.lock().expect("not poisoned").pop_front().expect("an answer").into_bytes())
        }
    }

    fn window() -> Window {
        let time = |text: &str| text.parse().expect("a time");
        Window { from: time("2026-01-15T12:00:00Z"), to: time("2026-01-15T13:00:00Z") }
    }

    fn log(answers: &[serde_json::Value], webhooks: &[&str]) -> WebhookDeliveries<Api> {
        let api = Api { answers: Mutex::new(answers.iter().map(ToString::to_string).collect()), ..Api::default() };
        let webhook_ids = webhooks.iter().map(|&id| id.to_owned()).collect();
        WebhookDeliveries { api, path: "/api/v2/webhooks/{webhookId}/deliveries".parse().expect("a path"), webhook_ids }
    }

    async fn read_all(log: &WebhookDeliveries<Api>) -> Result<Vec<Entry>, GenesysError> {
        let (mut place, mut entries) = (Place::default(), Vec::new());
        loop {
            let part = log.read(window(), place, Instant::now()).await?;
            entries.extend(part.entries);
            match part.next {
                Some(next) => place = next,
                None => return Ok(entries),
            }
        }
    }

    async fn read_one(entity: serde_json::Value) -> Entry {
        let mut entries =
            read_all(&log(&[json!({ "entities": [entity], "pageCount": 1 })], &["w1"])).await.expect("read");
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    async fn failed(entity: serde_json::Value) -> Failed {
        match read_one(entity).await {
            Entry::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn every_page_of_every_webhook_is_read() {
        let page = |entities: usize, pages: Option<u64>| {
            let entities: Vec<_> =
                (0..entities).map(|number| json!({ "id": number.to_string(), "body": {} })).collect();
            json!({ "entities": entities, "pageCount": pages })
        };
        let answers = [page(10, Some(2)), page(3, Some(2)), page(7, None), page(0, None), page(0, Some(0))];
        let log = log(&answers, &["w 1/ü", "w2", "w3"]);
        assert_eq!(read_all(&log).await.expect("read").len(), 20);
        let rest =
            "deliveries?status=failed&startDate=2026-01-15T12:00:00.000Z&endDate=2026-01-15T13:00:00.000Z&pageSize=10";
        let expected = [("w%201%2F%C3%BC", 1), ("w%201%2F%C3%BC", 2), ("w2", 1), ("w2", 2), ("w3", 1)]
            .map(|(webhook, page)| format!("GET /api/v2/webhooks/{webhook}/{rest}&pageNumber={page}"));
        assert_eq!(*log.api.calls.lock().expect("not poisoned"), expected);
    }

    #[tokio::test]
    async fn an_answer_without_a_list_is_an_error_and_not_an_empty_list() {
        let empty = json!({ "entities": [], "pageCount": 2 });
        for answer in [json!({}), json!([]), json!({ "entities": null }), json!({ "message": "try later" }), empty] {
            let error = read_all(&log(std::slice::from_ref(&answer), &["w1"])).await.expect_err("refused");
            assert!(matches!(error, GenesysError::Unusable { .. }), "{answer}: {error}");
        }
    }

    #[tokio::test]
    async fn a_body_is_taken_as_an_object_as_json_in_a_text_and_as_plain_text() {
        for (body, bytes) in [
            (json!({ "a": 1 }), r#"{"a":1}"#),
            (json!(" {\"a\": 1}\n"), " {\"a\": 1}\n"),
            (json!("plain text"), "plain text"),
            (json!([1, 2]), "[1,2]"),
        ] {
            assert_eq!(failed(json!({ "id": "d1", "body": body })).await.body, bytes.as_bytes(), "{body}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_kept_whole() {
        for entity in [
            json!("text"),
            json!({ "id": "d1" }),
            json!({ "id": "d1", "body": 7 }),
            json!({ "body": null }),
            json!({ "body": "" }),
        ] {
            let Entry::Unreadable(unreadable) = read_one(entity.clone()).await else { panic!("{entity} was read") };
            assert_eq!((unreadable.whole, unreadable.origin.as_deref()), (entity.to_string(), Some("w1")));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_kept_without_credentials_and_known_by_its_id() {
        let headers = json!({ "Authorization": "Bearer secret", "X-Webhook-Secret": ["secret"], "ININ-A": "kept" });
        let url = "https://user:secret@example.com/hook?token=secret#secret";
        let mut entity = json!({ "id": "d1", "body": 7, "headers": headers, "webhookUrl": url, "tries": 1 });
        let Entry::Unreadable(first) = read_one(entity.clone()).await else { panic!("{entity} was read") };
        assert!(!format!("{first:?}").contains("secret"), "{first:?}");
        let kept = json!({ "id": "d1", "body": 7, "tries": 1, "headers": { "inin-a": "kept" }, "webhookUrl": "https://example.com/hook" });
        assert_eq!(serde_json::from_str::<Value>(&first.whole).expect("JSON"), kept);
        entity["tries"] = json!(2);
        let Entry::Unreadable(second) = read_one(entity).await else { panic!("it was read") };
        assert_eq!(first.name, second.name);
    }

    #[tokio::test]
    async fn what_was_delivered_is_passed_over_even_if_the_log_lists_it() {
        for other in [json!({ "status": "delivered", "body": {} }), json!({ "webhookId": "another", "body": {} })] {
            assert!(matches!(read_one(other.clone()).await, Entry::PassedOver(_)), "{other}");
        }
        assert!(matches!(read_one(json!({ "status": "FAILED", "body": {} })).await, Entry::Failed(_)));
    }

    #[tokio::test]
    async fn kept_headers_come_along_and_credentials_do_not() {
        let headers = json!({
            "X-Hub-Signature-256": "sha256=abc", "ININ-Correlation-Id": "c1", "Content-Type": "application/json; v=2",
            "traceparent": "not\u{0}allowed", "inin-other": "nor\u{fffe}this",
            "Authorization": "Bearer secret", "Cookie": "secret", "X-Webhook-Secret": "secret", "X-Number": 7,
        });
        let as_text = failed(json!({ "id": "d1", "body": "{}", "headers": headers })).await;
        assert_eq!(as_text.headers.keys().collect::<Vec<_>>(), ["inin-correlation-id", "x-hub-signature-256"]);
        assert_eq!(as_text.content_type.as_deref(), Some("application/json; v=2"));
        let written_anew = failed(json!({ "id": "d1", "body": {}, "headers": headers })).await;
        assert_eq!(
            written_anew.headers.keys().collect::<Vec<_>>(),
            ["inin-correlation-id"],
            "the signature is not its own"
        );
        assert!(!format!("{as_text:?}").contains("secret"));
    }

    #[tokio::test]
    async fn the_url_of_a_delivery_is_noted_without_what_may_be_secret() {
        let url = "https://user:secret@example.com/hook?token=secret";
        let failed = failed(json!({ "id": "d1", "body": {}, "webhookUrl": url, "httpStatusCode": 503 })).await;
        assert_eq!(failed.note, "503 from https://example.com/hook");
    }

    #[tokio::test]
    async fn a_body_that_nothing_tells_apart_is_the_same_event_at_each_reading() {
        let key = async |entity| failed(entity).await.sender_key;
        let time = "2026-01-15T12:00:00Z";
        assert_eq!(key(json!({ "id": "d1", "body": {} })).await.as_deref(), Some("d1"));
        assert_eq!(key(json!({ "body": {} })).await.as_deref(), Some(r#"{"body":{}}"#));
        assert_eq!(key(json!({ "id": "d1", "body": {}, "timestamp": time })).await, None, "its time does");
        let headers = json!({ "Idempotency-Key": ["k1", "k2"] });
        let keyed = json!({ "id": "d1", "body": {}, "timestamp": time, "headers": headers });
        assert_eq!(key(keyed).await.as_deref(), Some("k1"), "as when it came by itself");
    }

    #[test]
    fn the_path_has_to_name_the_webhook() {
        assert!("/api/v2/webhooks/{webhookId}/deliveries".parse::<LogPath>().is_ok());
        for path in ["", "api/{webhookId}", "/deliveries", "/{webhookId}?x=1", "/{webhookId} x"] {
            assert!(path.parse::<LogPath>().is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_copy_has_the_id_of_the_original_however_it_is_written(payload in crate::json::tests::any_json()) {
            let envelope = json!({ "webhookId": "w", "payload": payload, "timestamp": "2026-01-15T12:00:00Z" });
            let now = Timestamp::UNIX_EPOCH;
            let id = |body: &[u8]| Identity::of(Json::parse(body).expect("JSON"), now, None).id;
            let original = id(envelope.to_string().as_bytes());
            let pretty = serde_json::to_string_pretty(&envelope).expect("written");
            for body in [envelope.clone(), json!(pretty)] {
                let entity = json!({ "id": "d1", "body": body }).to_string();
                let json = Json::parse(entity.as_bytes()).expect("JSON");
                let Entry::Failed(failed) = log(&[], &["w"]).entry(json, "w") else {
                    panic!("not read")
                };
                prop_assert_eq!(&id(&failed.body), &original);
            }
        }
    }
}
