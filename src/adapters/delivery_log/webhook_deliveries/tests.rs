//! The log over an API that gives one answer after the other.

use std::collections::VecDeque;
use std::sync::Mutex;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::domain::event::Identity;

/// An API that gives these answers, and remembers what it was asked.
#[derive(Default)]
struct Api {
    answers: Mutex<VecDeque<String>>,
    calls: Mutex<Vec<String>>,
}

impl PlatformApi for Api {
    async fn call(&self, call: &Call, _deadline: Instant) -> Result<Vec<u8>, GenesysError> {
        self.calls
            .lock()
            .expect("not poisoned")
            .push(format!("{} {}", call.method, call.path));
        Ok(self
            .answers
            .lock()
            .expect("not poisoned")
            .pop_front()
            .expect("an answer")
            .into_bytes())
    }
}

fn window() -> Window {
    let time = |text: &str| text.parse().expect("a time");
    Window {
        from: time("2026-01-15T12:00:00Z"),
        to: time("2026-01-15T13:00:00Z"),
    }
}

fn log(answers: &[serde_json::Value], webhooks: &[&str]) -> WebhookDeliveries<Api> {
    let api = Api {
        answers: Mutex::new(answers.iter().map(ToString::to_string).collect()),
        ..Api::default()
    };
    let webhook_ids = webhooks.iter().map(|&id| id.to_owned()).collect();
    WebhookDeliveries {
        api,
        path: "/api/v2/webhooks/{webhookId}/deliveries"
            .parse()
            .expect("a path"),
        webhook_ids,
    }
}

async fn read_all(log: &WebhookDeliveries<Api>) -> Result<Vec<Entry>, DeliveryLogError> {
    let (mut place, mut entries) = (LogPlace::default(), Vec::new());
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
    let mut entries = read_all(&log(
        &[json!({ "entities": [entity], "pageCount": 1 })],
        &["w1"],
    ))
    .await
    .expect("read");
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
        let entities: Vec<_> = (0..entities)
            .map(|number| json!({ "id": number.to_string(), "body": {} }))
            .collect();
        json!({ "entities": entities, "pageCount": pages })
    };
    let answers = [
        page(5, Some(2)),
        page(3, Some(2)),
        page(4, None),
        page(0, None),
        page(0, Some(0)),
    ];
    let log = log(&answers, &["w 1/ü", "w2", "w3"]);
    assert_eq!(read_all(&log).await.expect("read").len(), 12);
    let rest = "deliveries?status=failed&startDate=2026-01-15T12:00:00.000Z&endDate=2026-01-15T13:00:00.000Z&pageSize=5";
    let expected = [
        ("w%201%2F%C3%BC", 1),
        ("w%201%2F%C3%BC", 2),
        ("w2", 1),
        ("w2", 2),
        ("w3", 1),
    ]
    .map(|(webhook, page)| format!("GET /api/v2/webhooks/{webhook}/{rest}&pageNumber={page}"));
    assert_eq!(*log.api.calls.lock().expect("not poisoned"), expected);
}

#[tokio::test]
async fn an_answer_without_a_list_is_an_error_and_not_an_empty_list() {
    let empty = json!({ "entities": [], "pageCount": 2 });
    let (one_too_many, of_600_kb) = (
        json!({ "entities": vec![0; 6] }),
        json!({ "entities": vec![0; 300_000] }),
    );
    for answer in [
        json!({}),
        json!([]),
        json!({ "entities": null }),
        json!({ "message": "try later" }),
        empty,
        one_too_many,
        of_600_kb,
    ] {
        let error = read_all(&log(std::slice::from_ref(&answer), &["w1"]))
            .await
            .expect_err("refused");
        assert!(matches!(error, DeliveryLogError::Failed(_)), "{error}");
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
        assert_eq!(
            failed(json!({ "id": "d1", "body": body })).await.body,
            bytes.as_bytes(),
            "{body}"
        );
    }
}

#[tokio::test]
async fn unreadable_entry_is_kept_whole() {
    for entity in [
        json!("text"),
        json!({ "id": "d1" }),
        json!({ "id": "d1", "body": 7 }),
        json!({ "body": null }),
        json!({ "body": "" }),
    ] {
        let Entry::Unreadable(unreadable) = read_one(entity.clone()).await else {
            panic!("{entity} was read")
        };
        assert_eq!(
            (unreadable.whole, unreadable.webhook_id.as_deref()),
            (entity.to_string(), Some("w1"))
        );
    }
}

#[tokio::test]
async fn unreadable_entry_is_kept_without_credentials_under_its_id() {
    let headers = json!({ "Authorization": "Bearer secret", "X-Webhook-Secret": ["secret"], "ININ-A": "kept" });
    let url = "https://user:secret@example.com/hook?token=secret#secret";
    let mut entity =
        json!({ "id": "d1", "body": 7, "headers": headers, "webhookUrl": url, "tries": 1 });
    let Entry::Unreadable(first) = read_one(entity.clone()).await else {
        panic!("{entity} was read")
    };
    assert!(!format!("{first:?}").contains("secret"), "{first:?}");
    let kept = json!({ "id": "d1", "body": 7, "tries": 1, "headers": { "inin-a": "kept" }, "webhookUrl": "https://example.com/hook" });
    assert_eq!(
        serde_json::from_str::<Value>(&first.whole).expect("JSON"),
        kept
    );
    entity["tries"] = json!(2);
    let Entry::Unreadable(second) = read_one(entity).await else {
        panic!("it was read")
    };
    assert_eq!(first.name, second.name);
}

#[tokio::test]
async fn delivered_entry_of_the_log_is_skipped() {
    for other in [
        json!({ "status": "delivered", "body": {} }),
        json!({ "webhookId": "another", "body": {} }),
    ] {
        assert!(
            matches!(read_one(other.clone()).await, Entry::Skipped(_)),
            "{other}"
        );
    }
    let ours = [json!({ "webhookId": "w2", "status": "FAILED", "body": {} })];
    let empty = json!({ "entities": [], "pageCount": 1 });
    let log = log(
        &[json!({ "entities": ours, "pageCount": 1 }), empty],
        &["w1", "w2"],
    );
    let entries = read_all(&log).await.expect("read");
    assert!(
        matches!(entries[..], [Entry::Failed(_)]),
        "whichever of ours it is listed under: {entries:?}"
    );
    assert!(matches!(
        read_one(json!({ "status": "FAILED", "body": {} })).await,
        Entry::Failed(_)
    ));
}

#[tokio::test]
async fn kept_headers_come_along_and_credentials_do_not() {
    let headers = json!({
        "X-Hub-Signature-256": "sha256=abc", "ININ-Correlation-Id": "c1", "Content-Type": "application/json; v=2",
        "traceparent": "not\u{0}allowed", "inin-other": "nor\u{fffe}this",
        "Authorization": "Bearer secret", "Cookie": "secret", "X-Webhook-Secret": "secret", "X-Number": 7,
    });
    let as_text = failed(json!({ "id": "d1", "body": "{}", "headers": headers })).await;
    assert_eq!(
        as_text.headers.keys().collect::<Vec<_>>(),
        ["inin-correlation-id", "x-hub-signature-256"]
    );
    assert_eq!(
        as_text.content_type.as_deref(),
        Some("application/json; v=2")
    );
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
    let failed =
        failed(json!({ "id": "d1", "body": {}, "webhookUrl": url, "httpStatusCode": 503 })).await;
    assert_eq!(failed.note, "503 from https://example.com/hook");
}

#[tokio::test]
async fn a_body_that_nothing_tells_apart_is_the_same_event_at_each_reading() {
    let entry = async |entity| failed(entity).await.entry;
    assert!(
        entry(json!({ "id": "d1", "body": {} }))
            .await
            .ends_with(" d1")
    );
    assert!(
        entry(json!({ "id": "", "body": {} }))
            .await
            .ends_with(r#" {"body":{},"id":""}"#)
    );
    let headers = json!({ "Idempotency-Key": ["k1", "k2"] });
    let keyed = failed(json!({ "id": "d1", "body": {}, "headers": headers })).await;
    assert_eq!(
        keyed.sender_key,
        SenderKey::of(Some("k1,k2"), None),
        "as when it came by itself"
    );
    assert_eq!(
        failed(json!({ "id": "d1", "body": {} })).await.sender_key,
        None
    );
}

#[tokio::test]
async fn the_time_of_a_delivery_is_read_however_it_is_written() {
    for time in [
        json!("2026-01-15T12:30:00Z"),
        json!(1_768_480_200),
        json!(1_768_480_200_000_u64),
    ] {
        let failed = failed(json!({ "id": "d1", "body": {}, "timestamp": time })).await;
        assert_eq!(failed.at, "2026-01-15T12:30:00Z".parse().ok(), "{time}");
    }
    assert_eq!(
        failed(json!({ "id": "d1", "body": {}, "timestamp": "" }))
            .await
            .at,
        None
    );
}

#[test]
fn the_path_has_to_name_the_webhook() {
    assert!(
        "/api/v2/webhooks/{webhookId}/deliveries"
            .parse::<LogPath>()
            .is_ok()
    );
    for path in [
        "",
        "api/{webhookId}",
        "/deliveries",
        "/{webhookId}?x=1",
        "/{webhookId} x",
    ] {
        assert!(path.parse::<LogPath>().is_err(), "{path}");
    }
}

proptest! {
    #[test]
    fn a_copy_has_the_id_of_the_original_however_it_is_written(payload in crate::domain::json::tests::any_json()) {
        let envelope = json!({ "webhookId": "w", "payload": payload, "timestamp": "2026-01-15T12:00:00Z" });
        let now: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
        let id = |body: &[u8]| Identity::of(Json::parse(body).expect("JSON"), now, None, || panic!("nothing tells")).id;
        let original = id(envelope.to_string().as_bytes());
        let pretty = serde_json::to_string_pretty(&envelope).expect("written");
        for body in [envelope.clone(), json!(pretty)] {
            let entity = json!({ "id": "d1", "body": body }).to_string();
            let json = Json::parse(entity.as_bytes()).expect("JSON");
            let Entry::Failed(failed) = log(&[], &["w"]).entry(json, "w", window()) else {
                panic!("not read")
            };
            prop_assert_eq!(&id(&failed.body), &original);
        }
    }
}

#[tokio::test]
async fn no_credential_is_kept_of_what_cannot_be_understood() {
    let headers = r#""headers":{"Authorization":"Bearer hunter2"}"#;
    let url = r#""webhookUrl":"https://hunter2@example.com/?key=hunter2""#;
    for entity in [
        format!(r#"{{"id":"d1",{headers},{url}}}"#),
        format!(r#"{{"id":"d1",{headers},{headers},{url},{url}}}"#),
        format!(r#"{{"\ud83d":1,{headers},{url}}}"#),
    ] {
        let log = log(&[], &["w1"]);
        let answer = format!(r#"{{"entities":[{entity}],"pageCount":1}}"#);
        log.api
            .answers
            .lock()
            .expect("not poisoned")
            .push_back(answer);
        let entries = read_all(&log).await.expect("read");
        let [Entry::Unreadable(unreadable)] = &entries[..] else {
            panic!("{entity} was read")
        };
        assert!(
            !unreadable.whole.contains("hunter2"),
            "{}",
            unreadable.whole
        );
    }
}

#[tokio::test]
async fn every_key_of_a_sender_counts() {
    for (key, id) in [
        (Some("two"), Some("one")),
        (Some("${input.key}"), Some("one")),
        (Some("two"), None),
        (None, None),
    ] {
        let headers = json!({ "webhook-id": id, "Idempotency-Key": key });
        let failed = failed(json!({ "id": "d1", "body": {}, "headers": headers })).await;
        assert_eq!(failed.sender_key, SenderKey::of(key, id), "{headers}");
    }
}
