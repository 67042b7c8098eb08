//! Authentication, stored messages and answers to senders.

use std::time::Duration;

use super::*;
use crate::domain::message::attribute;
use crate::ports::secrets::{FRESH, SecretCache};
use crate::ports::service::Service;
use crate::testing::{FakeClock, FakePorts, FakeQueue, FakeSecretStore};

const SECRET: &str = "0123456789abcdef";

struct Relay {
    events: FakeQueue,
    dead_letters: FakeQueue,
    store: FakeSecretStore,
    ingest: Ingest<FakePorts>,
}

fn secrets(secret: &str) -> serde_json::Value {
    serde_json::json!({ "webhookSecrets": secret })
}

fn relay() -> Relay {
    let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
    let store = FakeSecretStore::holding(&secrets(SECRET));
    let ports = Ports {
        events: events.clone(),
        dead_letters: dead_letters.clone(),
        secrets: SecretCache::new(store.clone(), Duration::from_mins(5), FakeClock),
        clock: FakeClock,
    };
    let ingest = Ingest {
        ports,
        rng: Mutex::new(fastrand::Rng::with_seed(7)),
    };
    Relay {
        events,
        dead_letters,
        store,
        ingest,
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().expect("a header value"));
    }
    headers
}

fn authentic() -> HeaderMap {
    headers(&[
        ("x-webhook-secret", SECRET),
        ("content-type", "application/json"),
    ])
}

impl Relay {
    async fn post(&self, headers: &HeaderMap, body: &[u8]) -> Result<Accepted, Refusal> {
        self.ingest.ingest(headers, body, None).await
    }

    fn is_empty(&self) -> bool {
        self.events.messages().is_empty() && self.dead_letters.messages().is_empty()
    }
}

fn attribute(message: &Message, name: &str) -> Option<String> {
    match &message.attributes.get(name)?.value {
        crate::domain::message::AttributeValue::Text(text) => Some(text.clone()),
        crate::domain::message::AttributeValue::Binary(_) => None,
    }
}

#[tokio::test]
async fn an_event_is_queued_byte_for_byte_with_its_attributes() {
    let relay = relay();
    let mut headers = authentic();
    for (name, value) in [
        ("x-genesys-webhook-id", "w1"),
        ("inin-correlation-id", "c1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("authorization", "Bearer secret"),
        ("cookie", "secret"),
        ("user-agent", "Genesys"),
    ] {
        headers.insert(name, value.parse().expect("a value"));
    }
    let body = b" {\"webhookId\":\"w1\",\"payload\":{},\"timestamp\":\"t\"}\n";
    let accepted = relay.post(&headers, body).await.expect("accepted");
    let [message] = &relay.events.messages()[..] else {
        panic!("one message")
    };
    assert_eq!(message.body.as_bytes(), body);
    assert_eq!(
        attribute(message, attribute::EVENT_ID).as_deref(),
        Some(accepted.id.as_str())
    );
    assert_eq!(
        attribute(message, attribute::SOURCE).as_deref(),
        Some("webhook")
    );
    assert_eq!(
        attribute(message, attribute::CONTENT_TYPE).as_deref(),
        Some("application/json")
    );
    assert_eq!(message.group.as_deref(), Some("w1"));
    let kept: BTreeMap<String, String> =
        serde_json::from_str(&attribute(message, attribute::HEADERS).expect("headers"))
            .expect("JSON");
    assert_eq!(
        kept.keys().collect::<Vec<_>>(),
        ["inin-correlation-id", "traceparent", "x-genesys-webhook-id"]
    );
    assert!(
        !format!("{message:?}").contains("secret"),
        "no credential is kept"
    );
}

#[tokio::test]
async fn nothing_is_kept_of_a_request_that_is_not_authentic() {
    let relay = relay();
    for headers in [
        headers(&[]),
        headers(&[("x-webhook-secret", "wrong-secret-value")]),
    ] {
        let refusal = relay.post(&headers, b"{}").await.expect_err("refused");
        assert!(
            matches!(refusal, Refusal::NoProof(_) | Refusal::WrongProof),
            "{refusal}"
        );
    }
    assert!(relay.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_valid_within_seconds() {
    let relay = relay();
    relay.post(&authentic(), b"{}").await.expect("accepted");
    tokio::time::advance(FRESH).await;
    relay.store.hold(&secrets("the-rotated-secret"));
    relay
        .post(
            &headers(&[("x-webhook-secret", "the-rotated-secret")]),
            b"{}",
        )
        .await
        .expect("accepted");
    let refusal = relay
        .post(&authentic(), b"{}")
        .await
        .expect_err("withdrawn");
    assert!(matches!(refusal, Refusal::WrongProof));
}

#[tokio::test(start_paused = true)]
async fn no_401_while_the_secrets_cannot_be_read() {
    let relay = relay();
    relay.post(&authentic(), b"{}").await.expect("accepted");
    tokio::time::advance(FRESH).await;
    relay.store.fail();
    let wrong = headers(&[("x-webhook-secret", "maybe-the-new-secret")]);
    assert!(matches!(
        relay.post(&wrong, b"{}").await,
        Err(Refusal::SecretsUnavailable(_))
    ));
    assert!(
        relay.post(&authentic(), b"{}").await.is_ok(),
        "a known secret still opens"
    );
}

/// A 401 would destroy the event of an integration that is set up before its secret is. Yet it is
/// no outage of the relay: anybody can make up a signature.
#[tokio::test]
async fn a_secret_that_was_never_set_is_neither_the_senders_fault_nor_an_outage() {
    let relay = relay();
    let signed = headers(&[(
        "x-hub-signature-256",
        "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw=",
    )]);
    let refusal = relay.post(&signed, b"{}").await.expect_err("refused");
    assert_eq!(Rejection::from(&refusal), Rejection::NotConfigured);
    assert!(
        refusal.fault().is_none() && refusal.reason().contains("openMessagingSecrets"),
        "{}",
        refusal.reason()
    );
    let outage = Refusal::SecretsUnavailable(Service::SecretsManager.unavailable("away").into());
    assert_eq!(
        refusal.to_string(),
        outage.to_string(),
        "a stranger does not learn which it is"
    );
    assert_eq!(
        (Rejection::from(&outage), outage.fault().is_some()),
        (Rejection::Unavailable, true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_match_is_never_answered_with_401() {
    for wrong in [
        serde_json::json!(null),
        serde_json::json!(""),
        serde_json::json!("[\"the-old-secret-1\",\"the-new-secret"),
        serde_json::json!("the-new-\nsecret-0001"),
    ] {
        let relay = relay();
        relay.post(&authentic(), b"{}").await.expect("accepted");
        tokio::time::advance(FRESH).await;
        relay
            .store
            .hold(&serde_json::json!({ "webhookSecrets": wrong }));
        for _ in 0..2 {
            let refusal = relay
                .post(
                    &headers(&[("x-webhook-secret", "the-new-secret-0001")]),
                    b"{}",
                )
                .await;
            let Err(Refusal::SecretsUnavailable(error)) = refusal else {
                panic!("{wrong}: {refusal:?}")
            };
            assert!(error.to_string().contains("webhookSecrets"), "{error}");
        }
        relay
            .post(&authentic(), b"{}")
            .await
            .expect("the last good copy bridges");
    }
}

#[tokio::test(start_paused = true)]
async fn secret_typed_by_hand_admits_both_senders() {
    let (old, new) = ("the-old-secret-0001", "the-new-secret-0002");
    for typed in [
        format!("[\"{old}\",\"{new}\"]"),
        format!("{old},{new}"),
        format!("{old}, {new}\n"),
    ] {
        let relay = relay();
        relay.store.hold(&secrets(&typed));
        for secret in [old, new] {
            relay
                .post(&headers(&[("x-webhook-secret", secret)]), b"{}")
                .await
                .expect(&typed);
        }
    }
}

/// A kept body must be readable again.
#[tokio::test]
async fn a_packed_body_keeps_what_tells_how_to_unpack_it() {
    let relay = relay();
    let mut headers = authentic();
    headers.insert("content-encoding", "gzip".parse().expect("a value"));
    let body =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00C\xbf\xa6\xa3\x02\x00\x00\x00";
    assert!(matches!(
        relay.post(&headers, body).await,
        Err(Refusal::NotJson { .. })
    ));
    let kept = relay
        .dead_letters
        .messages()
        .pop()
        .expect("kept")
        .to_event(FakeClock.now())
        .expect("readable");
    assert_eq!(
        (&kept.body[..], kept.headers["content-encoding"].as_str()),
        (&body[..], "gzip")
    );
}

#[tokio::test]
async fn an_empty_body_is_refused_and_not_kept() {
    let relay = relay();
    assert!(matches!(
        relay.post(&authentic(), b"").await,
        Err(Refusal::Empty)
    ));
    assert!(relay.is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_and_kept() {
    let relay = relay();
    for body in [
        &b"hello"[..],
        b"\"text\"",
        b"{\"a\":",
        b"\xff\xfe\x00",
        b"\x00",
    ] {
        let refusal = relay.post(&authentic(), body).await.expect_err("refused");
        let Refusal::NotJson { kept_as, .. } = refusal else {
            panic!("{refusal}")
        };
        let kept = relay.dead_letters.messages().pop().expect("kept");
        let reason = kept.reason(FakeClock.now()).expect("a reason");
        assert_eq!(reason.reason, ReasonKind::Malformed);
        let event = kept.to_event(reason.at).expect("readable");
        assert_eq!((event.id, &event.body[..]), (kept_as, body));
    }
    assert!(relay.events.messages().is_empty());
}

#[tokio::test]
async fn json_of_any_shape_is_accepted() {
    let relay = relay();
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for body in [
        "{}",
        "[]",
        r#"{"n":1e999,"m":123456789012345678901234567890}"#,
        r#"{"id":1,"id":2}"#,
        r#"{"text":"\ud83d"}"#,
        "\u{FEFF}{}",
        "{\"text\":\"\u{FFFE}\"}",
        &deep,
    ] {
        let accepted = relay
            .post(&authentic(), body.as_bytes())
            .await
            .expect("accepted");
        let event = relay
            .events
            .messages()
            .pop()
            .expect("queued")
            .to_event(FakeClock.now());
        let event = event.expect("readable");
        assert_eq!((event.id, &event.body[..]), (accepted.id, body.as_bytes()));
    }
}

#[tokio::test]
async fn the_last_byte_that_fits_is_taken_and_the_next_one_refused() {
    let relay = relay();
    let body = |length: usize| format!("[\"{}\"]", "x".repeat(length - 4)).into_bytes();
    let probe = relay
        .post(&authentic(), &body(100))
        .await
        .expect("accepted");
    let largest = MAX_MESSAGE_BYTES - (probe.size - 100);
    assert_eq!(
        relay
            .post(&authentic(), &body(largest))
            .await
            .expect("fits")
            .size,
        MAX_MESSAGE_BYTES
    );
    let refusal = relay
        .post(&authentic(), &body(largest + 1))
        .await
        .expect_err("too large");
    assert!(matches!(refusal, Refusal::TooLarge { size } if size == MAX_MESSAGE_BYTES + 1));
    assert!(matches!(
        relay.post(&authentic(), &vec![b'x'; 2_000_000]).await,
        Err(Refusal::TooLarge { .. })
    ));
}

#[tokio::test]
async fn event_that_was_not_enqueued_is_not_accepted() {
    let relay = relay();
    relay.events.fail();
    relay.dead_letters.fail();
    for body in [&b"{}"[..], b"not json"] {
        let refusal = relay.post(&authentic(), body).await.expect_err("refused");
        assert!(matches!(refusal, Refusal::QueueUnavailable(_)) && refusal.fault().is_some());
    }
}

#[tokio::test]
async fn a_header_that_says_nothing_is_as_good_as_none() {
    let relay = relay();
    let mut headers = authentic();
    headers.insert("content-type", "".parse().expect("a value"));
    headers.insert("idempotency-key", "".parse().expect("a value"));
    headers.insert("webhook-id", "one".parse().expect("a value"));
    let one = relay.post(&headers, b"{}").await.expect("accepted").id;
    headers.insert("webhook-id", "two".parse().expect("a value"));
    assert_ne!(relay.post(&headers, b"{}").await.expect("accepted").id, one);
    assert!(
        !relay.events.messages()[0]
            .attributes
            .contains_key(attribute::CONTENT_TYPE)
    );
}

#[tokio::test]
async fn a_senders_key_tells_equal_bodies_apart() {
    let relay = relay();
    let post = async |key: &str| {
        let mut headers = authentic();
        headers.insert("idempotency-key", key.parse().expect("a value"));
        relay.post(&headers, b"{}").await.expect("accepted").id
    };
    assert_eq!(post("one").await, post("one").await);
    assert_ne!(post("one").await, post("two").await);
}

#[tokio::test]
async fn every_key_of_a_sender_counts() {
    let relay = relay();
    let post = async |keys: &[(&'static str, &str)]| {
        let mut sent = authentic();
        sent.extend(headers(keys));
        relay.post(&sent, b"{}").await.expect("accepted").id
    };
    let keys = |key, id| [("idempotency-key", key), ("webhook-id", id)];
    assert_eq!(post(&keys("one", "a")).await, post(&keys("one", "a")).await);
    assert_ne!(
        post(&keys("static", "a")).await,
        post(&keys("static", "b")).await
    );
    assert_ne!(
        post(&keys("one", "static")).await,
        post(&keys("two", "static")).await
    );
    let list = post(&[("webhook-id", "static"), ("webhook-id", "a")]).await;
    assert_eq!(
        list,
        post(&[("webhook-id", "static,a")]).await,
        "as API Gateway hands it on"
    );
    assert_ne!(
        list,
        post(&[("webhook-id", "static"), ("webhook-id", "b")]).await
    );
}

#[tokio::test]
async fn the_values_of_a_repeated_header_are_kept_as_one_list() {
    let relay = relay();
    let mut headers = authentic();
    for value in ["one", "two"] {
        headers.append("x-genesys-tag", value.parse().expect("a value"));
    }
    relay.post(&headers, b"{}").await.expect("accepted");
    let kept = relay.events.messages()[0]
        .to_event(FakeClock.now())
        .expect("readable")
        .headers;
    assert_eq!(
        kept,
        [("x-genesys-tag".to_owned(), "one, two".to_owned())].into()
    );
}
