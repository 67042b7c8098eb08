//! ingest with any request.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::domain::json::Json;
use genesys_relay::domain::message::{AttributeValue, MAX_MESSAGE_BYTES, Message};
use genesys_relay::ingest::{Accepted, Ingest, Ports, Refusal};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::testing::{FakePorts, FakeQueue, FakeSecretStore};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use crate::runtime::{Noon, run};

const SECRET: &str = "local-webhook-secret-0001";
const SIGNATURE_SECRET: &str = "MySecretSignature";

/// Placeholder of a secret in an input.
const PLACEHOLDERS: [&str; 2] = ["{secret}", "{signature}"];

/// A queue of SQS takes so much ("Amazon SQS message quotas").
const SQS_BYTES: usize = 1024 * 1024;

/// An authentic body is queued byte for byte, or kept as a dead letter byte for byte, or refused
/// for its size or because it is empty; and the same body is the same event.
pub(crate) fn webhook_body(body: &[u8]) {
    let headers = [
        ("x-webhook-secret", SECRET),
        ("content-type", "application/json"),
    ];
    let headers = headers.into_iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    let headers = headers.collect();
    let outcome = check(&headers, body);
    let id = |outcome: &Result<Accepted, Refusal>| match outcome {
        Ok(Accepted { id, .. }) | Err(Refusal::NotJson { kept_as: id, .. }) => Some(id.clone()),
        Err(_) => None,
    };
    assert_eq!(
        id(&outcome),
        id(&check(&headers, body)),
        "one body, two events"
    );
}

/// Headers that prove nothing leave nothing behind; and of those that do prove who sent, only what
/// belongs to the event is kept.
///
/// The input is header lines, an empty line and a body. `{secret}` and `{signature}` stand for the
/// right ones.
pub(crate) fn webhook_headers(input: &[u8]) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (lines, body) = end.map_or((input, &b""[..]), |end| (&input[..end], &input[end + 2..]));
    drop(check(&headers(lines, body), body));
}

fn signature(body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(SIGNATURE_SECRET.as_bytes())
        .expect("HMAC takes keys of any length");
    format!(
        "sha256={}",
        BASE64_STANDARD.encode(mac.chain_update(body).finalize().into_bytes())
    )
}

/// The lines that HTTP allows, as headers.
fn headers(lines: &[u8], body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let mut value = value.strip_prefix(b" ").unwrap_or(value).to_vec();
        if let Ok(text) = std::str::from_utf8(&value) {
            let [secret, signed] = PLACEHOLDERS;
            value = text
                .replace(secret, SECRET)
                .replace(signed, &signature(body))
                .into_bytes();
        }
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(&value),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Independent check of a sender's proof: exactly one signature, and the right one; or none and
/// exactly one right secret.
fn is_authentic(headers: &HeaderMap, body: &[u8]) -> bool {
    let values = |name| {
        headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect::<Vec<_>>()
    };
    match (
        &values("x-hub-signature-256")[..],
        &values("x-webhook-secret")[..],
    ) {
        ([], [secret]) => *secret == SECRET.as_bytes(),
        ([given], _) => given.trim_ascii() == signature(body).as_bytes(),
        _ => false,
    }
}

/// Takes a request in, and compares what came of it with what the queues hold.
fn check(headers: &HeaderMap, body: &[u8]) -> Result<Accepted, Refusal> {
    let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
    let secrets =
        serde_json::json!({ "webhookSecrets": SECRET, "openMessagingSecrets": [SIGNATURE_SECRET] });
    let store = FakeSecretStore::holding(&secrets);
    let secrets = SecretCache::new(store, Duration::from_mins(5), Noon);
    // From the same seed at each request, so that equal bodies that nothing tells apart are one
    // event here.
    let rng = Mutex::new(fastrand::Rng::with_seed(7));
    let ports = Ports {
        events: events.clone(),
        dead_letters: dead_letters.clone(),
        secrets,
        clock: Noon,
    };
    let ingest = Ingest::<FakePorts<(), Noon>> { ports, rng };
    let outcome = run(ingest.ingest(headers, body, None));
    let (events, dead_letters) = (events.messages(), dead_letters.messages());

    let is_authentic = is_authentic(headers, body);
    match (&outcome, &events[..], &dead_letters[..]) {
        (Ok(accepted), [message], []) => {
            assert!(is_authentic && Json::parse(body).is_ok());
            assert_eq!(
                (message.size(), message.reason(Noon.now())),
                (accepted.size, None)
            );
            assert!(message.size() <= MAX_MESSAGE_BYTES);
            let event = message.to_event(Noon.now()).expect("readable");
            assert_eq!((&event.id, event.source), (&accepted.id, accepted.source));
            check_message(message, headers, body);
        }
        (Err(Refusal::NotJson { kept_as, .. }), [], [message]) => {
            assert!(is_authentic && Json::parse(body).is_err());
            assert_eq!(
                message.reason(Noon.now()).expect("a reason").reason,
                ReasonKind::Malformed
            );
            assert_eq!(message.to_event(Noon.now()).expect("readable").id, *kept_as);
            check_message(message, headers, body);
        }
        (Err(Refusal::Empty), [], []) => assert!(is_authentic && body.is_empty()),
        (Err(Refusal::TooLarge { size }), [], []) => {
            assert!(is_authentic && *size > MAX_MESSAGE_BYTES);
        }
        (Err(Refusal::NoProof(_) | Refusal::WrongProof), [], []) => assert!(!is_authentic),
        _ => panic!(
            "{outcome:?} with {} events and {} dead letters",
            events.len(),
            dead_letters.len()
        ),
    }
    outcome
}

/// SQS takes the message, and it holds the body and of the headers only what it should.
fn check_message(message: &Message, headers: &HeaderMap, body: &[u8]) {
    assert!(
        message.size() <= SQS_BYTES && message.attributes.len() <= 10,
        "SQS takes less"
    );
    assert!(is_taken(&message.body));
    for (name, attribute) in &message.attributes {
        let AttributeValue::Text(text) = &attribute.value else {
            panic!("{name} is no text")
        };
        assert!(is_taken(text), "{name}");
    }
    let event = message.to_event(Noon.now()).expect("readable");
    assert_eq!(event.body, body, "byte for byte");
    assert_eq!(event.received_at, Noon.now());
    let content_type = headers
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    assert_eq!(
        event.content_type.as_deref(),
        content_type
            .filter(|text| !text.is_empty())
            .or(unsaid(&event))
    );

    let mut kept = BTreeMap::<String, Vec<&str>>::new();
    for (name, value) in headers {
        let name = name.as_str();
        let belongs = ["x-hub-signature-256", "traceparent", "content-encoding"].contains(&name)
            || ["x-genesys-", "inin-"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        if let (true, Ok(value)) = (belongs, value.to_str()) {
            kept.entry(name.to_owned()).or_default().push(value);
        }
    }
    let kept = kept
        .into_iter()
        .map(|(name, values)| (name, values.join(", ")))
        .collect();
    assert_eq!(event.headers, kept);
}

/// Characters that SQS accepts as text (`SendMessage`).
fn is_taken(text: &str) -> bool {
    let is_refused = |c: char| matches!(c, '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}');
    !text.is_empty() && !text.contains(is_refused)
}

/// The content type of JSON that came without one.
fn unsaid(event: &genesys_relay::domain::event::Event) -> Option<&'static str> {
    Json::parse(&event.body)
        .is_ok()
        .then_some("application/json")
}
