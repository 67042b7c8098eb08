//! The target against a server that answers, hangs, breaks or lies.

mod certificates;
mod tokens;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response as Answer};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::ports::secrets::FromSecret as _;
use crate::testing::{FakeClock, FakeSecretStore};

type Requests = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// Listens on loopback and hands each connection, with its number, to `serve`.
async fn listen<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// A server that answers as `answer` says and remembers what it was asked, and over how many
/// connections.
async fn server(
    answer: impl Fn(&HeaderMap) -> Answer<Full<Bytes>> + Clone + Send + Sync + 'static,
) -> (SocketAddr, Requests, Arc<Mutex<usize>>) {
    let (requests, connections) = (Requests::default(), Arc::<Mutex<usize>>::default());
    let (seen, opened) = (Arc::clone(&requests), Arc::clone(&connections));
    let address = listen(move |stream, _| {
        *opened.lock().expect("not poisoned") += 1;
        let (seen, answer) = (Arc::clone(&seen), answer.clone());
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (seen, answer) = (Arc::clone(&seen), answer.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let answer = answer(&parts.headers);
                    seen.lock()
                        .expect("not poisoned")
                        .push((parts.headers, body));
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    (address, requests, connections)
}

fn status(status: u16) -> Answer<Full<Bytes>> {
    Answer::builder()
        .status(status)
        .body(Full::default())
        .expect("an answer")
}

fn target(address: SocketAddr, store: FakeSecretStore) -> HttpTarget<FakeSecretStore, FakeClock> {
    install_tls_provider();
    let url = format!("http://{address}/events?token=hunter2")
        .parse()
        .expect("a URL");
    let secrets = SecretCache::new(store, Duration::from_mins(5), FakeClock);
    HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client")
}

fn plain(address: SocketAddr) -> HttpTarget<FakeSecretStore, FakeClock> {
    target(address, FakeSecretStore::holding(&serde_json::json!({})))
}

fn event() -> Event {
    let headers = [
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("x-genesys-webhook-id", "w1"),
        ("authorization", "Basic bWFkZSBieSBoYW5k"),
        ("host", "elsewhere.example"),
        ("cookie", "session=made-by-hand"),
    ];
    Event {
        id: "an-event".parse().expect("an id"),
        source: crate::domain::event::Source::Webhook,
        received_at: jiff::Timestamp::UNIX_EPOCH,
        content_type: Some("application/json; charset=utf-8".to_owned()),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        body: b"{ \"a\": 1 }\n".to_vec(),
        webhook_id: None,
        is_copy: false,
    }
}

async fn deliver<S: SecretStore, C: Clock>(target: &HttpTarget<S, C>, limit: Duration) -> Outcome {
    target
        .deliver(Delivery {
            event: &event(),
            attempt: 3,
            deadline: Instant::now() + limit,
            order: None,
            resend: None,
            pace: None,
        })
        .await
}

async fn deliver_to(address: SocketAddr) -> Outcome {
    deliver(&plain(address), Duration::from_secs(10)).await
}

#[tokio::test]
async fn answer_with_too_many_headers_is_a_failed_connection() {
    let with_headers = |count: usize| {
        server(move |_| {
            let mut answer = status(200);
            for number in 0..count {
                let name = HeaderName::try_from(format!("x-{number}")).expect("a name");
                answer
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(""));
            }
            answer
        })
    };
    let (address, ..) = with_headers(90).await;
    assert!(matches!(
        deliver_to(address).await,
        Outcome::Delivered { .. }
    ));
    let (address, ..) = with_headers(101).await;
    assert_eq!(
        failure(deliver_to(address).await).cause,
        FailureCause::Connection
    );
}

fn failure(outcome: Outcome) -> DeliveryFailure {
    match outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Delivered { .. } => panic!("delivered"),
    }
}

#[tokio::test]
async fn delivery_carries_the_body_and_the_documented_headers() {
    let (address, requests, _) = server(|_| status(204)).await;
    let store = FakeSecretStore::holding(&serde_json::json!({
        "targetAuthorization": "Bearer of-the-target",
        "targetSigningSecrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    }));
    let began = FakeClock.now().as_second();
    let outcome = deliver(&target(address, store), Duration::from_secs(10)).await;
    assert_eq!(outcome, Outcome::Delivered { status: Some(204) });
    let (headers, body) = requests
        .lock()
        .expect("not poisoned")
        .pop()
        .expect("a request");
    assert_eq!(&body[..], event().body);
    for (name, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("webhook-id", "an-event"),
        ("idempotency-key", "an-event"),
        ("x-relay-attempt", "3"),
        ("x-relay-source", "webhook"),
        ("x-genesys-webhook-id", "w1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("authorization", "Bearer of-the-target"),
        ("host", &address.to_string()),
    ] {
        assert_eq!(
            headers.get(name).map(|value| value.to_str().expect("text")),
            Some(value),
            "{name}"
        );
    }
    assert!(!headers.contains_key("cookie"), "{headers:?}");
    let timestamp: i64 = headers["webhook-timestamp"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!(
        (began..=FakeClock.now().as_second()).contains(&timestamp),
        "{timestamp} is not in seconds"
    );
    let secret = r#"{"targetSigningSecrets":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#;
    let key = TargetSecrets::from_secret(secret).expect("secrets");
    let signature = standard_webhooks::sign(&key.signing, "an-event", timestamp, &body);
    assert_eq!(headers["webhook-signature"], signature.as_str());
}

#[tokio::test]
async fn an_event_without_a_trace_gets_one() {
    let (address, requests, _) = server(|_| status(204)).await;
    let target = plain(address);
    for sent in [None, Some("00-no-trace-01")] {
        let mut event = event();
        event.headers.remove("traceparent");
        event
            .headers
            .extend(sent.map(|sent| ("traceparent".to_owned(), sent.to_owned())));
        target
            .deliver(Delivery {
                event: &event,
                attempt: 3,
                deadline: Instant::now() + Duration::from_secs(10),
                order: None,
                resend: None,
                pace: None,
            })
            .await;
        let (headers, _) = requests
            .lock()
            .expect("not poisoned")
            .pop()
            .expect("a request");
        assert_eq!(
            headers["traceparent"],
            traceparent_of(&event.id, 3).as_str(),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_not_2xx_is_a_failure_with_its_beginning() {
    let (address, ..) = server(|_| {
        Answer::builder()
            .status(429)
            .header("retry-after", "120")
            .body(Full::from("slow\u{7} down".repeat(1000)))
            .expect("an answer")
    })
    .await;
    let failure = failure(deliver_to(address).await);
    assert_eq!(
        (failure.cause, failure.retry_after),
        (FailureCause::Status(429), Some(Duration::from_mins(2)))
    );
    let response = failure.response.expect("an excerpt");
    assert!(response.starts_with("slow  down") && response.len() <= MAX_EXCERPT_BYTES);
}

/// An answer with these headers of one name.
fn answer(status: u16, name: &'static str, values: &[&str]) -> Answer<Full<Bytes>> {
    let answer = Answer::builder().status(status);
    let answer = values
        .iter()
        .fold(answer, |answer, value| answer.header(name, *value));
    answer.body(Full::default()).expect("an answer")
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_reason_says_where_to() {
    let (elsewhere, requests, _) = server(|_| status(200)).await;
    for (status, location, place) in [
        (
            307,
            format!("http://{elsewhere}/"),
            format!("http://{elsewhere}/"),
        ),
        (
            301,
            "https://www.shop.example/hook/".to_owned(),
            "https://www.shop.example/hook/".to_owned(),
        ),
        (
            302,
            "https://u:hunter2@a.example:8443/x?token=hunter2#hunter2".to_owned(),
            "https://a.example:8443/x".to_owned(),
        ),
        (
            308,
            "/hook/?token=hunter2".to_owned(),
            "{target}/hook/".to_owned(),
        ),
        (
            303,
            "//b.example/hook".to_owned(),
            "http://b.example/hook".to_owned(),
        ),
        (300, "../up".to_owned(), "{target}/up".to_owned()),
    ] {
        let to = location.clone();
        let (address, ..) = server(move |_| answer(status, "location", &[&to])).await;
        let failure = failure(deliver_to(address).await);
        assert_eq!(failure.cause, FailureCause::Status(status));
        let place = place.replace("{target}", &format!("http://{address}"));
        assert!(
            failure.detail.ends_with(&format!(" and names {place}")),
            "{location}: {}",
            failure.detail
        );
        assert!(!failure.detail.contains("hunter2"), "{}", failure.detail);
    }
    for (status, location) in [
        (304, None),
        (301, Some("data:hunter2")),
        (302, Some("http://[")),
        (404, Some("/x")),
    ] {
        let (address, ..) = server(move |_| answer(status, "location", location.as_slice())).await;
        let failure = failure(deliver_to(address).await);
        assert!(!failure.detail.contains("names"), "{}", failure.detail);
    }
    assert!(requests.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn of_several_wishes_for_time_the_longest_counts_and_none_is_passed_over() {
    for (values, seconds) in [
        (&["1", "6"][..], Some(6)),
        (&["4.7"], Some(5)),
        (&["5s"], Some(0)),
        (&[], None),
    ] {
        let (address, ..) = server(move |_| answer(409, "retry-after", values)).await;
        let failure = failure(deliver_to(address).await);
        assert_eq!(
            failure.retry_after,
            seconds.map(Duration::from_secs),
            "{values:?}"
        );
    }
}

#[tokio::test]
async fn after_a_421_the_next_attempt_makes_another_connection() {
    let misdirected = Arc::new(Mutex::new(true));
    let is_first = Arc::clone(&misdirected);
    let (address, _, connections) = server(move |_| {
        status(
            if std::mem::take(&mut *is_first.lock().expect("not poisoned")) {
                421
            } else {
                200
            },
        )
    })
    .await;
    let target = plain(address);
    assert_eq!(
        failure(deliver(&target, Duration::from_secs(10)).await).cause,
        FailureCause::Status(421)
    );
    assert!(matches!(
        deliver(&target, Duration::from_secs(10)).await,
        Outcome::Delivered { .. }
    ));
    assert_eq!(*connections.lock().expect("not poisoned"), 2);
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_named_at_every_attempt() {
    let (address, requests, _) = server(|_| status(200)).await;
    let target = target(
        address,
        FakeSecretStore::holding(&serde_json::json!({ "targetSigningSecrets": "v1,whsec_x" })),
    );
    for _ in 0..3 {
        let failure = failure(deliver(&target, Duration::from_secs(10)).await);
        assert!(
            failure.detail.contains("targetSigningSecrets"),
            "{}",
            failure.detail
        );
    }
    assert!(requests.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_a_failure_that_shows_no_token() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let reset = listen(|stream, _| async move { drop(stream) }).await;
    for address in [closed, reset] {
        assert_eq!(plain(address).address(), format!("http://{address}/events"));
        let failure = failure(deliver_to(address).await);
        assert_eq!(failure.cause, FailureCause::Connection);
        assert!(!failure.detail.contains("hunter2"), "{}", failure.detail);
    }
}

/// On virtual time, which goes on when nothing else does.
#[tokio::test(start_paused = true)]
async fn a_target_has_until_its_time_out_or_the_deadline_whichever_is_first() {
    let silent = listen(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for (left, waited) in [(1, 1), (9, 9), (30, 10)] {
        let began = Instant::now();
        let failure = failure(deliver(&plain(silent), Duration::from_secs(left)).await);
        assert_eq!(
            (failure.cause, began.elapsed().as_secs()),
            (FailureCause::TimedOut, waited)
        );
    }
}

#[tokio::test]
async fn the_status_decides_however_the_body_goes_on() {
    let endless = listen(|mut stream, _| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n")
            .await;
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    })
    .await;
    assert_eq!(
        deliver_to(endless).await,
        Outcome::Delivered { status: Some(200) }
    );
    let trickling = listen(|mut stream, _| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\nno")
            .await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let failure = failure(deliver_to(trickling).await);
    assert_eq!(
        (failure.cause, failure.response.as_deref()),
        (FailureCause::Status(404), Some("no"))
    );
}

#[tokio::test]
async fn one_connection_serves_many_deliveries() {
    let (address, _, connections) =
        server(|_| Answer::new(Full::from("an answer to be drained".repeat(100)))).await;
    let target = plain(address);
    for _ in 0..5 {
        assert!(matches!(
            deliver(&target, Duration::from_secs(10)).await,
            Outcome::Delivered { .. }
        ));
    }
    assert_eq!(*connections.lock().expect("not poisoned"), 1);
}

/// Freezes this thread, as Lambda freezes a function, and only then has the target close the idle
/// connection.
#[tokio::test]
async fn a_connection_that_was_closed_during_a_freeze_is_not_used_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (freeze, frozen) = std::sync::mpsc::channel::<()>();
    let (close, closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            // All of it: to close before that resets the connection, and can take the answer along.
            let (mut request, body) = (Vec::new(), event().body);
            while !request.ends_with(&body) {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes).expect("a request") {
                    0 => break,
                    read => request.extend_from_slice(&bytes[..read]),
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            let _ = frozen.recv();
            drop(stream);
            let _ = close.send(());
        }
    });
    let target = plain(address);
    for _ in 0..20 {
        let outcome = deliver(&target, Duration::from_secs(10)).await;
        assert_eq!(outcome, Outcome::Delivered { status: Some(200) });
        // Blocks the only thread until the target has closed: the runtime cannot notice before the
        // next delivery.
        freeze.send(()).expect("served");
        closed.recv().expect("closed");
    }
}

#[tokio::test]
async fn rotated_credentials_of_the_target_are_read_again_before_giving_up() {
    let (address, requests, _) = server(|headers| {
        let valid = headers
            .get("authorization")
            .is_some_and(|value| value == "Bearer new");
        status(if valid { 200 } else { 401 })
    })
    .await;
    let store =
        FakeSecretStore::holding(&serde_json::json!({ "targetAuthorization": "Bearer old" }));
    let target = {
        install_tls_provider();
        let url = format!("http://{address}/").parse().expect("a URL");
        // Kept for no time at all, so that the test need not wait until the copy is old.
        let secrets = SecretCache::new(store.clone(), Duration::ZERO, FakeClock);
        HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client")
    };
    assert_eq!(
        failure(deliver(&target, Duration::from_secs(10)).await).cause,
        FailureCause::Credentials(Some(401))
    );
    assert_eq!(
        requests.lock().expect("not poisoned").len(),
        1,
        "the same credentials are not tried twice"
    );
    let rotating = RotatesOnSecondRead {
        first: store.clone(),
        reads: Mutex::default(),
    };
    let url = format!("http://{address}/").parse().expect("a URL");
    let secrets = SecretCache::new(rotating, Duration::ZERO, FakeClock);
    let target =
        HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client");
    assert_eq!(
        deliver(&target, Duration::from_secs(10)).await,
        Outcome::Delivered { status: Some(200) }
    );
}

struct RotatesOnSecondRead {
    first: FakeSecretStore,
    reads: Mutex<usize>,
}

impl SecretStore for RotatesOnSecondRead {
    async fn read(&self) -> Result<String, SecretsError> {
        let reads = {
            let mut reads = self.reads.lock().expect("not poisoned");
            *reads += 1;
            *reads
        };
        if reads > 1 {
            self.first
                .hold(&serde_json::json!({ "targetAuthorization": "Bearer new" }));
        }
        self.first.read().await
    }
}

#[tokio::test]
async fn a_401_is_not_final_while_the_credentials_cannot_be_read_again() {
    let (address, ..) = server(|_| status(401)).await;
    let store =
        FakeSecretStore::holding(&serde_json::json!({ "targetAuthorization": "Bearer old" }));
    let secrets = SecretCache::new(FailsAfterFirstRead(store), Duration::ZERO, FakeClock);
    install_tls_provider();
    let url = format!("http://{address}/").parse().expect("a URL");
    let target =
        HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client");
    assert_eq!(
        failure(deliver(&target, Duration::from_secs(10)).await).cause,
        FailureCause::Credentials(None)
    );
}

struct FailsAfterFirstRead(FakeSecretStore);

impl SecretStore for FailsAfterFirstRead {
    async fn read(&self) -> Result<String, SecretsError> {
        let secret = self.0.read().await;
        self.0.fail();
        secret
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_sent() {
    let (address, requests, _) = server(|_| status(200)).await;
    let store = FakeSecretStore::holding(&serde_json::json!({}));
    store.fail();
    let failure = failure(deliver(&target(address, store), Duration::from_secs(10)).await);
    assert_eq!(failure.cause, FailureCause::Credentials(None));
    assert!(requests.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn refusal_is_of_the_credentials_only_where_there_are_some() {
    for (secret, is_credentials) in [
        (serde_json::json!({}), false),
        (
            serde_json::json!({ "generatedSigningSecrets": "a".repeat(64) }),
            false,
        ),
        (
            serde_json::json!({ "targetSigningSecrets": "a".repeat(64) }),
            true,
        ),
        (
            serde_json::json!({ "targetAuthorization": "hunter2" }),
            true,
        ),
        (
            serde_json::json!({ "targetHeaders": { "x-api-key": "hunter2" } }),
            true,
        ),
    ] {
        for refusal in [401, 403, 404] {
            let (address, ..) = server(move |_| {
                Answer::builder()
                    .status(refusal)
                    .body(Full::from("expired"))
                    .expect("an answer")
            })
            .await;
            let target = target(address, FakeSecretStore::holding(&secret));
            let failure = failure(deliver(&target, Duration::from_secs(10)).await);
            let expected = if is_credentials && refusal != 404 {
                FailureCause::Credentials(Some(refusal))
            } else {
                FailureCause::Status(refusal)
            };
            assert_eq!(failure.cause, expected, "{secret} {refusal}");
            assert_eq!(failure.response.as_deref(), Some("expired"));
            let field = secret.as_object().and_then(|fields| fields.keys().next());
            let is_named = field.is_some_and(|field| failure.detail.contains(field));
            assert_eq!(
                is_named,
                is_credentials && refusal != 404,
                "{}",
                failure.detail
            );
            assert!(!failure.detail.contains("hunter2"), "{}", failure.detail);
        }
    }
}

#[tokio::test]
async fn headers_of_the_secret_are_sent() {
    let (address, requests, _) = server(|_| status(204)).await;
    let secret = serde_json::json!({ "targetHeaders": { "X-Api-Key": "a key", "x-tenant": "t" } });
    deliver(
        &target(address, FakeSecretStore::holding(&secret)),
        Duration::from_secs(10),
    )
    .await;
    let (headers, _) = requests.lock().expect("not poisoned").remove(0);
    assert_eq!(
        (&headers["x-api-key"], &headers["x-tenant"]),
        (
            &"a key".parse().expect("a value"),
            &"t".parse().expect("a value")
        )
    );
}

/// The time-out begins with the turn, and a request without one is not sent.
#[tokio::test(start_paused = true)]
async fn request_waits_for_its_turn() {
    let silent = listen(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let one = std::num::NonZeroU32::MIN;
    let time = Duration::from_secs(10);
    let pace = crate::ports::pace::Pace::new(one, one.saturating_add(4), time);
    let target = plain(silent);
    for (left, cause, took) in [
        (60, FailureCause::TimedOut, 5 + 10),
        (14, FailureCause::Postponed, 4),
    ] {
        let began = Instant::now();
        pace.begin().await;
        let event = event();
        let delivery = Delivery {
            event: &event,
            attempt: 1,
            deadline: began + Duration::from_secs(left),
            order: None,
            resend: None,
            pace: Some(&pace),
        };
        let failure = failure(target.deliver(delivery).await);
        assert_eq!((failure.cause, began.elapsed().as_secs()), (cause, took));
    }
}

fn signer() -> SigV4 {
    SigV4::of_test_suite("execute-api", Some("a token"))
}

#[tokio::test]
async fn request_is_signed_for_aws() {
    let (address, requests, _) = server(|_| status(403)).await;
    let secret = serde_json::json!({ "targetHeaders": { "x-api-key": "a key" } });
    let store = FakeSecretStore::holding(&secret);
    let target = target(address, store.clone()).sign_with(Some(signer()));
    let refused = failure(deliver(&target, Duration::from_secs(10)).await);
    assert_eq!(refused.cause, FailureCause::Credentials(Some(403)));
    assert!(
        refused.detail.contains("TargetSigV4Service"),
        "{}",
        refused.detail
    );
    let (headers, _) = requests.lock().expect("not poisoned").remove(0);
    let authorization = headers["authorization"].to_str().expect("text");
    let says = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260115/us-east-1/execute-api/aws4_request, \
                SignedHeaders=content-type;host;idempotency-key;webhook-id;webhook-timestamp;x-amz-date;\
                x-amz-security-token, Signature=";
    assert!(authorization.starts_with(says), "{authorization}");
    assert_eq!(headers["x-amz-security-token"], "a token");
    assert_eq!(headers["x-api-key"], "a key");
}

#[tokio::test]
async fn two_kinds_of_authorization_exclude_each_other() {
    let (address, requests, _) = server(|_| status(200)).await;
    let secret = serde_json::json!({ "targetAuthorization": "hunter2" });
    let target = target(address, FakeSecretStore::holding(&secret)).sign_with(Some(signer()));
    let failure = failure(deliver(&target, Duration::from_secs(10)).await);
    assert_eq!(failure.cause, FailureCause::Credentials(None));
    assert!(
        failure.detail.contains("exclude each other"),
        "{}",
        failure.detail
    );
    assert!(requests.lock().expect("not poisoned").is_empty());
}
