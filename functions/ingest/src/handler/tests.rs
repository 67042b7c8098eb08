//! Requests of every kind, and what they are answered.

use std::sync::Mutex;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::ingest::Ports;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::testing::{FakeClock, FakePorts, FakeQueue, FakeSecretStore};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

struct Function {
    events: FakeQueue,
    dead_letters: FakeQueue,
    ingest: Ingest<FakePorts>,
}

fn function() -> Function {
    function_with(&json!({
        "openMessagingSecrets": ["MySecretSignature"],
        "webhookSecrets": ["local-webhook-secret-0001"],
    }))
}

fn function_with(secrets: &Value) -> Function {
    let store = FakeSecretStore::holding(secrets);
    let (events, dead_letters) = (FakeQueue::default(), FakeQueue::default());
    let ports = Ports {
        events: events.clone(),
        dead_letters: dead_letters.clone(),
        secrets: SecretCache::new(store, Duration::from_mins(5), FakeClock),
        clock: FakeClock,
    };
    let ingest = Ingest {
        ports,
        rng: Mutex::default(),
    };
    Function {
        events,
        dead_letters,
        ingest,
    }
}

fn payload(name: &str) -> String {
    let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn invocation(payload: &str, context: Context) -> LambdaEvent<HttpEvent> {
    LambdaEvent::new(
        serde_json::from_str(payload).expect("an event of API Gateway"),
        context,
    )
}

fn status(response: &HttpAnswer) -> StatusCode {
    StatusCode::from_u16(response.status_code).expect("a status")
}

async fn post(function: &Function, payload: &str) -> (StatusCode, Value, HttpAnswer) {
    let response = handle(&function.ingest, invocation(payload, Context::default())).await;
    let body = serde_json::from_str(&response.body).expect("a JSON answer");
    (status(&response), body, response)
}

#[tokio::test]
async fn every_payload_of_the_events_folder_is_accepted_with_its_source() {
    for (name, source) in [
        ("ingest-open-messaging-text", "open-messaging"),
        ("ingest-open-messaging-receipt", "open-messaging"),
        ("ingest-open-messaging-typing-event", "open-messaging"),
        ("ingest-open-messaging-attachment", "open-messaging"),
        ("ingest-open-messaging-structured", "open-messaging"),
        ("ingest-open-messaging-signature-test-vector", "generic"),
        ("ingest-webhook-envelope", "webhook"),
        ("ingest-data-action-generic", "generic"),
        ("ingest-eventbridge-over-http", "eventbridge"),
        ("ingest-base64-body", "open-messaging"),
        ("ingest-check", "check"),
    ] {
        let function = function();
        let (status, body, _) = post(&function, &payload(name)).await;
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::OK, &json!("accepted")),
            "{name}: {body}"
        );
        let event = function.events.messages()[0]
            .to_event(FakeClock.now())
            .expect("readable");
        assert_eq!(
            (event.source.as_str(), json!(event.id)),
            (source, body["eventId"].clone()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_base64_body_is_decoded_before_its_signature_is_checked() {
    let function = function();
    let event: Value = serde_json::from_str(&payload("ingest-base64-body")).expect("JSON");
    assert_eq!(event["isBase64Encoded"], true);
    post(&function, &event.to_string()).await;
    assert!(
        function.events.messages()[0].body.starts_with(['{', '[']),
        "the body itself, not its base64"
    );
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_and_kept() {
    let function = function();
    let (status, body, response) = post(&function, &payload("ingest-not-json")).await;
    assert_eq!(
        (status, &body["status"]),
        (StatusCode::BAD_REQUEST, &json!(400))
    );
    assert_eq!(response.headers["content-type"], "application/problem+json");
    assert!(
        body["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("dead-letter queue")),
        "{body}"
    );
    assert_eq!(function.dead_letters.messages().len(), 1);
    assert!(function.events.messages().is_empty());
}

#[tokio::test]
async fn each_refusal_has_its_status_and_says_what_to_do() {
    let vector: Value =
        serde_json::from_str(&payload("ingest-open-messaging-signature-test-vector"))
            .expect("JSON");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut event = vector.clone();
        change(&mut event);
        event.to_string()
    };
    let wrong = "sha256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let hex = "sha256=55bdc89814986fe72403236084419f9fedc4dfde5a86d0d2730b9303108800ac";
    for (case, status, payload) in [
        (
            "changed body",
            401,
            changed(&|event| event["body"] = json!("{\"id\":1}")),
        ),
        (
            "wrong signature",
            401,
            changed(&|event| event["headers"]["x-hub-signature-256"] = json!(wrong)),
        ),
        (
            "hex",
            401,
            changed(&|event| event["headers"]["x-hub-signature-256"] = json!(hex)),
        ),
        (
            "no header",
            401,
            changed(&|event| event["headers"] = json!({})),
        ),
        (
            "upper case, wrong",
            401,
            changed(&|event| event["headers"] = json!({ "X-HUB-SIGNATURE-256": wrong })),
        ),
        (
            "GET",
            405,
            changed(&|event| event["requestContext"]["http"]["method"] = json!("GET")),
        ),
        (
            "empty",
            400,
            changed(&|event| {
                event["headers"] = json!({ "x-webhook-secret": "local-webhook-secret-0001" });
                event["body"] = Value::Null;
            }),
        ),
        (
            "too large",
            413,
            changed(&|event| {
                event["headers"] = json!({ "x-webhook-secret": "local-webhook-secret-0001" });
                event["body"] = json!(format!("[\"{}\"]", "x".repeat(1024 * 1024)));
            }),
        ),
    ] {
        let function = function();
        let (code, body, response) = post(&function, &payload).await;
        assert_eq!(code, status, "{case}: {body}");
        assert_eq!(
            (&body["status"], &body["type"]),
            (&json!(status), &json!("about:blank")),
            "{case}"
        );
        assert!(
            body["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{case}: {body}"
        );
        assert_eq!(
            response.headers["content-type"], "application/problem+json",
            "{case}"
        );
        assert_eq!(
            response
                .headers
                .get("allow")
                .is_some_and(|allow| allow == "POST"),
            code == 405,
            "{case}"
        );
        assert!(
            function.events.messages().is_empty() && function.dead_letters.messages().is_empty(),
            "{case}"
        );
    }
}

#[tokio::test]
async fn made_up_signature_learns_nothing_about_the_configuration() {
    let function = function_with(&json!({ "webhookSecrets": ["local-webhook-secret-0001"] }));
    let (status, body, response) = post(&function, &payload("ingest-open-messaging-text")).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a 401 would destroy the event, were it genuine"
    );
    assert_eq!(response.headers["retry-after"], RETRY_AFTER_SECONDS);
    assert!(
        !body.to_string().to_lowercase().contains("secret"),
        "{body}"
    );
}

#[tokio::test]
async fn header_names_in_upper_case_are_the_same_headers() {
    let mut event: Value =
        serde_json::from_str(&payload("ingest-open-messaging-signature-test-vector"))
            .expect("JSON");
    let signature = event["headers"]["x-hub-signature-256"].take();
    event["headers"] = json!({ "X-Hub-Signature-256": signature });
    let (status, body, _) = post(&function(), &event.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn nothing_that_a_stranger_can_send_is_an_error_of_ours() {
    let vector: Value =
        serde_json::from_str(&payload("ingest-open-messaging-signature-test-vector"))
            .expect("JSON");
    let odd = [
        ("x-forwarded-proto", "no scheme"),
        ("host", "[no host"),
        ("cookie", "\u{1}"),
        ("x-custom", "two\r\nlines"),
        ("no name", "x"),
        ("", "x"),
        ("x-long", &"v".repeat(20_000)),
        ("x-genesys-umlaut", "ü"),
    ];
    for (name, value) in odd {
        let mut event = vector.clone();
        event["headers"][name] = json!(value);
        event["rawQueryString"] = json!("a=<\"\u{7f} %ZZ&ü");
        event["rawPath"] = json!("/webhook/\0genesys");
        event["cookies"] = json!(["a=b", "\u{1}"]);
        let (status, body, _) = post(&function(), &event.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{name}: {body}");
    }
    for name in ["x-hub-signature-256", "x-webhook-secret"] {
        let mut event = vector.clone();
        event["headers"] = json!({ name: "two\r\nlines" });
        let (status, body, _) = post(&function(), &event.to_string()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {body}");
    }
}

#[tokio::test]
async fn a_signature_that_is_there_twice_or_cannot_be_has_to_hold_all_the_same() {
    let vector: Value =
        serde_json::from_str(&payload("ingest-open-messaging-signature-test-vector"))
            .expect("JSON");
    let signature = vector["headers"]["x-hub-signature-256"]
        .as_str()
        .expect("a signature");
    let secret = "local-webhook-secret-0001";
    for headers in [
        json!({ "x-hub-signature-256": signature, "X-Hub-Signature-256": signature }),
        json!({ "x-hub-signature-256": format!("{signature},{signature}") }),
        json!({ "X-HUB-SIGNATURE-256": "\n", "x-webhook-secret": secret }),
        json!({ "x-hub-signature-256": "", "x-webhook-secret": secret }),
        json!({ "x-webhook-secret": secret, "X-Webhook-Secret": secret }),
        json!({ "x-webhook-secret": format!("{secret},{secret}") }),
        json!(null),
    ] {
        let mut event = vector.clone();
        event["headers"] = headers.clone();
        let function = function();
        let (status, body, _) = post(&function, &event.to_string()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{headers}: {body}");
        assert!(
            function.events.messages().is_empty() && function.dead_letters.messages().is_empty()
        );
    }
}

proptest! {
    #[test]
    fn a_body_is_kept_byte_for_byte_however_it_is_wrapped(
        bytes: Vec<u8>,
        text in r#"[\[{]?[A-Za-z0-9+/=_ \n"\]}-]{0,40}"#,
        is_encoded: bool,
    ) {
        let body = if is_encoded { BASE64_STANDARD.encode(&bytes) } else { text.clone() };
        let expected = match (is_encoded, BASE64_STANDARD.decode(&body)) {
            (true, Ok(decoded)) => decoded,
            _ => body.clone().into_bytes(),
        };
        // What claims to be base64 may be anything.
        for (body, expected) in [(body, expected), (text.clone(), BASE64_STANDARD.decode(&text).unwrap_or(text.into_bytes()))] {
            let claims = is_encoded || expected != body.as_bytes();
            let event = json!({
                "headers": { "x-webhook-secret": "local-webhook-secret-0001" },
                "requestContext": { "http": { "method": "POST" }, "timeEpoch": u64::MAX },
                "body": body,
                "isBase64Encoded": claims,
                "unknown": [[[[[[[[{}]]]]]]]],
            });
            let function = function();
            let (status, ..) = run(post(&function, &event.to_string()));
            let kept: Vec<_> = [&function.events, &function.dead_letters].iter().flat_map(|queue| queue.messages()).collect();
            let kept: Vec<_> = kept.iter().map(|message| message.to_event(FakeClock.now()).expect("readable").body).collect();
            if expected.is_empty() {
                prop_assert_eq!((status, kept.len()), (StatusCode::BAD_REQUEST, 0));
            } else {
                prop_assert!([StatusCode::OK, StatusCode::BAD_REQUEST].contains(&status));
                prop_assert_eq!(kept, [expected]);
            }
        }
    }

    #[test]
    fn no_headers_make_an_event_unreadable(headers in prop::collection::btree_map(".*", ".*", 0..8)) {
        let event = json!({ "headers": headers, "requestContext": { "http": { "method": "POST" } }, "body": "{}" });
        let (status, ..) = run(post(&function(), &event.to_string()));
        prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[tokio::test]
async fn while_the_queue_is_down_the_sender_is_asked_to_come_again() {
    let function = function();
    function.events.fail();
    let (status, body, response) = post(&function, &payload("ingest-open-messaging-text")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(response.headers["retry-after"], RETRY_AFTER_SECONDS);
    assert!(
        !body.to_string().contains("made to fail"),
        "the cause is for the log, not for strangers"
    );
}

/// A 401 would make the sender drop its event.
#[tokio::test]
async fn while_no_secret_of_a_kind_is_set_the_sender_is_asked_to_come_again() {
    let vector: Value =
        serde_json::from_str(&payload("ingest-open-messaging-signature-test-vector"))
            .expect("JSON");
    let signature = vector["headers"]["x-hub-signature-256"].clone();
    for (secret, headers) in [
        (
            json!({ "webhookSecrets": ["local-webhook-secret-0001"] }),
            json!({ "x-hub-signature-256": signature }),
        ),
        (
            json!({ "openMessagingSecrets": ["MySecretSignature"] }),
            json!({ "x-webhook-secret": "any" }),
        ),
        (
            json!({}),
            json!({ "x-hub-signature-256": signature, "x-webhook-secret": "any" }),
        ),
    ] {
        let function = function_with(&secret);
        let mut event = vector.clone();
        event["headers"] = headers;
        let (status, body, response) = post(&function, &event.to_string()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{secret}: {body}");
        assert_eq!(response.headers["retry-after"], RETRY_AFTER_SECONDS);
        assert!(
            function.events.messages().is_empty() && function.dead_letters.messages().is_empty()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn when_time_runs_out_the_sender_is_asked_to_come_again_before_it_is_over() {
    let function = function();
    function.events.delay_sends(Duration::MAX);
    let mut context = Context::default();
    let (began, left) = (Instant::now(), Duration::from_secs(9));
    let end = (SystemTime::now() + left)
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    context.deadline = u64::try_from(end.as_millis()).expect("in range");
    let response = handle(
        &function.ingest,
        invocation(&payload("ingest-open-messaging-text"), context),
    )
    .await;
    assert_eq!(status(&response), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers["retry-after"], RETRY_AFTER_SECONDS);
    assert!(
        began.elapsed() + ANSWER_TIME <= left,
        "{:?}",
        began.elapsed()
    );
}
