//! Access tokens: who is asked for them, how often, and what becomes of failures.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn answer_of(status: u16, body: &Value) -> Answer<Full<Bytes>> {
    Answer::builder()
        .status(status)
        .body(Full::from(body.to_string()))
        .expect("an answer")
}

fn granted(token: &str) -> Answer<Full<Bytes>> {
    answer_of(
        200,
        &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }),
    )
}

/// A token endpoint that gives `token-1`, `token-2` and so on.
async fn login() -> (SocketAddr, Requests) {
    let given = AtomicUsize::new(0);
    let given = Arc::new(given);
    let (address, requests, _) = server(move |_| {
        let number = given.fetch_add(1, Ordering::Relaxed) + 1;
        granted(&format!("token-{number}"))
    })
    .await;
    (address, requests)
}

/// A target that accepts one token, which can be changed.
async fn api(token: &str) -> (SocketAddr, Requests, Arc<Mutex<String>>) {
    let valid = Arc::new(Mutex::new(format!("Bearer {token}")));
    let expected = Arc::clone(&valid);
    let (address, requests, _) = server(move |headers| {
        let expected = expected.lock().expect("not poisoned");
        let is_valid = headers
            .get("authorization")
            .is_some_and(|value| value == expected.as_str());
        status(if is_valid { 200 } else { 401 })
    })
    .await;
    (address, requests, valid)
}

fn secret(login: SocketAddr, client_secret: &str) -> Value {
    json!({ "targetOAuth": {
        "tokenUrl": format!("http://{login}/token"), "clientId": "an id", "clientSecret": client_secret,
    } })
}

fn with(login: SocketAddr, address: SocketAddr) -> HttpTarget<FakeSecretStore, FakeClock> {
    target(
        address,
        FakeSecretStore::holding(&secret(login, "hunter2&co")),
    )
}

fn count(requests: &Requests) -> usize {
    requests.lock().expect("not poisoned").len()
}

fn delivered() -> Outcome {
    Outcome::Delivered { status: Some(200) }
}

/// Lets time go by while nothing is under way.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn deliveries_share_one_token() {
    let (login, asked) = login().await;
    let (address, sent, _) = api("token-1").await;
    let target = with(login, address);
    let outcomes = join_all((0..10).map(|_| deliver(&target, LONG))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == delivered()));
    assert_eq!((count(&asked), count(&sent)), (1, 10));
    let (headers, body) = asked.lock().expect("not poisoned").remove(0);
    let basic = BASE64_STANDARD.encode("an+id:hunter2%26co");
    assert_eq!(headers["authorization"], format!("Basic {basic}").as_str());
    assert_eq!(&body[..], b"grant_type=client_credentials");
}

#[tokio::test]
async fn client_may_be_named_in_the_body() {
    let (login, asked) = login().await;
    let (address, ..) = api("token-1").await;
    let mut secret = secret(login, "hunter2&co");
    for (name, value) in [
        ("authentication", "post"),
        ("scope", "a b"),
        ("audience", "c/d"),
    ] {
        secret["targetOAuth"][name] = json!(value);
    }
    let target = target(address, FakeSecretStore::holding(&secret));
    assert_eq!(deliver(&target, LONG).await, delivered());
    let (headers, body) = asked.lock().expect("not poisoned").remove(0);
    assert!(!headers.contains_key("authorization"));
    assert_eq!(
        std::str::from_utf8(&body).expect("text"),
        "grant_type=client_credentials&scope=a+b&audience=c%2Fd&client_id=an+id&client_secret=hunter2%26co"
    );
}

#[tokio::test]
async fn token_is_used_until_shortly_before_its_end() {
    let (login, asked) = login().await;
    let (address, _, valid) = api("token-1").await;
    let target = with(login, address);
    assert_eq!(deliver(&target, LONG).await, delivered());
    pass(Duration::from_secs(3600 - 65)).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
    assert_eq!(count(&asked), 1);
    "Bearer token-2".clone_into(&mut valid.lock().expect("not poisoned"));
    pass(Duration::from_secs(6)).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
    assert_eq!(count(&asked), 2);
}

#[tokio::test]
async fn token_revoked_in_a_batch_is_renewed_once() {
    let (login, asked) = login().await;
    let (address, sent, valid) = api("token-1").await;
    let target = with(login, address);
    assert_eq!(deliver(&target, LONG).await, delivered());
    "Bearer token-2".clone_into(&mut valid.lock().expect("not poisoned"));
    let outcomes = join_all((0..10).map(|_| deliver(&target, LONG))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == delivered()));
    assert_eq!(count(&asked), 2);
    assert!((12..=21).contains(&count(&sent)), "{}", count(&sent));
}

#[tokio::test]
async fn target_that_refuses_every_token_is_given_few() {
    let (login, asked) = login().await;
    let (address, sent, _) = api("none").await;
    let target = with(login, address);
    let first = failure(deliver(&target, LONG).await);
    assert_eq!(first.cause, FailureCause::Credentials(Some(401)));
    assert!(first.detail.contains("targetOAuth"), "{}", first.detail);
    assert_eq!((count(&asked), count(&sent)), (2, 2));
    for _ in 0..5 {
        failure(deliver(&target, LONG).await);
    }
    assert_eq!((count(&asked), count(&sent)), (2, 7));
    pass(Duration::from_secs(5)).await;
    failure(deliver(&target, LONG).await);
    assert_eq!(count(&asked), 3);
}

#[tokio::test]
async fn failure_of_the_token_endpoint_is_shared_and_named() {
    let (address, sent, _) = api("t").await;
    for (status, body, says) in [
        (
            400,
            json!({ "error": "invalid_client", "error_description": "hunter2" }),
            "refused the client: 400 invalid_client",
        ),
        (
            401,
            json!({ "error": "invalid_client" }),
            "refused the client: 401 invalid_client",
        ),
        (
            400,
            json!({ "error": "hunter2" }),
            "answered 400 Bad Request",
        ),
        (302, json!({}), "answered 302 Found"),
        (429, json!("hunter2"), "answered 429 Too Many Requests"),
        (503, json!("hunter2"), "answered 503 Service Unavailable"),
        (
            200,
            json!("hunter2"),
            "gave no token: it is not JSON with an access_token",
        ),
        (200, json!({ "token": "hunter2" }), "gave no token"),
        (
            200,
            json!({ "access_token": "hunter2", "expires_in": "soon" }),
            "gave no token",
        ),
        (
            200,
            json!({ "access_token": "hunter2\n" }),
            "gave no token: the access_token",
        ),
        (
            200,
            json!({ "access_token": "" }),
            "gave no token: the access_token",
        ),
        (
            200,
            json!({ "access_token": "hunter2", "token_type": "mac" }),
            "gave no token: its token_type",
        ),
        (
            200,
            json!({ "access_token": "x".repeat(70_000) }),
            "answered with more than 64 KiB",
        ),
    ] {
        let (login, asked, _) = server(move |_| answer_of(status, &body)).await;
        let target = with(login, address);
        for outcome in join_all((0..10).map(|_| deliver(&target, LONG))).await {
            let failure = failure(outcome);
            assert_eq!(failure.cause, FailureCause::Credentials(None));
            let says = format!("the token endpoint 127.0.0.1 {says}");
            assert!(failure.detail.starts_with(&says), "{}", failure.detail);
            assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
        }
        assert_eq!(count(&asked), 1, "{says}");
        pass(Duration::from_secs(5)).await;
        failure(deliver(&target, LONG).await);
        assert_eq!(count(&asked), 2, "{says}");
    }
    assert_eq!(count(&sent), 0);
}

#[tokio::test]
async fn token_endpoint_has_the_pause_that_it_asks_for() {
    let (address, ..) = api("t").await;
    let (login, asked, _) = server(|_| answer(503, "retry-after", &["60"])).await;
    let target = with(login, address);
    let first = failure(deliver(&target, LONG).await);
    assert_eq!(first.retry_after, Some(Duration::from_mins(1)));
    pass(Duration::from_secs(58)).await;
    failure(deliver(&target, LONG).await);
    assert_eq!(count(&asked), 1);
    pass(Duration::from_secs(2)).await;
    failure(deliver(&target, LONG).await);
    assert_eq!(count(&asked), 2);
}

#[tokio::test]
async fn token_endpoint_is_asked_again_after_a_quarter_of_an_hour() {
    let (address, ..) = api("t").await;
    for asked_for in ["86400", "99999999999999999999"] {
        let (login, asked, _) = server(move |_| answer(503, "retry-after", &[asked_for])).await;
        let target = with(login, address);
        let first = failure(deliver(&target, LONG).await);
        assert_eq!(first.retry_after, Some(Duration::from_mins(15)));
        pass(Duration::from_mins(14)).await;
        failure(deliver(&target, LONG).await);
        assert_eq!(count(&asked), 1, "{asked_for}");
        pass(Duration::from_mins(1)).await;
        failure(deliver(&target, LONG).await);
        assert_eq!(count(&asked), 2, "{asked_for}");
    }
}

#[tokio::test]
async fn token_endpoint_that_is_down_is_a_failure_of_the_credentials() {
    let (address, sent, _) = api("t").await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let failure = failure(deliver(&with(closed, address), LONG).await);
    assert_eq!(failure.cause, FailureCause::Credentials(None));
    assert!(
        failure.detail.contains("cannot be reached"),
        "{}",
        failure.detail
    );
    assert_eq!(count(&sent), 0);
}

#[tokio::test(start_paused = true)]
async fn token_endpoint_that_hangs_takes_no_longer_than_a_delivery() {
    let silent = listen(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for (left, waited) in [(1, 1), (30, 10)] {
        let target = with(silent, silent);
        let began = Instant::now();
        let limit = Duration::from_secs(left);
        for outcome in join_all((0..10).map(|_| deliver(&target, limit))).await {
            let failure = failure(outcome);
            assert_eq!(failure.cause, FailureCause::Credentials(None));
            assert!(
                failure.detail.ends_with("did not answer in time"),
                "{}",
                failure.detail
            );
        }
        assert_eq!(began.elapsed().as_secs(), waited);
    }
}

#[tokio::test]
async fn rotated_client_is_used_at_once() {
    let new = BASE64_STANDARD.encode("an+id:new");
    let (login, asked, _) = server(move |headers| {
        if headers["authorization"]
            .to_str()
            .expect("text")
            .ends_with(&new)
        {
            granted("of-the-new")
        } else {
            answer_of(401, &json!({ "error": "invalid_client" }))
        }
    })
    .await;
    let (address, ..) = api("of-the-new").await;
    let store = FakeSecretStore::holding(&secret(login, "old"));
    let target = target(address, store.clone());
    failure(deliver(&target, LONG).await);
    store.hold(&secret(login, "new"));
    // The secret is read again at most every five seconds; the pause is of the old client.
    pass(crate::ports::secrets::FRESH).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
    assert_eq!(count(&asked), 3);
}

#[tokio::test]
async fn token_of_a_former_client_is_dropped() {
    let (login, asked) = login().await;
    let (address, _, valid) = api("token-1").await;
    let store = FakeSecretStore::holding(&secret(login, "old"));
    let target = target(address, store.clone());
    assert_eq!(deliver(&target, LONG).await, delivered());
    store.hold(&secret(login, "new"));
    "Bearer token-2".clone_into(&mut valid.lock().expect("not poisoned"));
    pass(Duration::from_mins(5)).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
    assert_eq!(count(&asked), 2);
}

#[tokio::test]
async fn token_outlives_an_outage_of_its_endpoint() {
    let is_up = Arc::new(AtomicBool::new(true));
    let up = Arc::clone(&is_up);
    let (login, ..) = server(move |_| {
        if up.load(Ordering::Relaxed) {
            granted("t")
        } else {
            status(503)
        }
    })
    .await;
    let (address, ..) = api("t").await;
    let target = with(login, address);
    assert_eq!(deliver(&target, LONG).await, delivered());
    is_up.store(false, Ordering::Relaxed);
    pass(Duration::from_mins(50)).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
}

#[tokio::test]
async fn secret_is_read_again_after_a_403() {
    let (address, sent, _) = server(|headers| {
        status(if headers["x-api-key"] == "new" {
            200
        } else {
            403
        })
    })
    .await;
    let key = |value| json!({ "targetHeaders": { "x-api-key": value } });
    let store = FakeSecretStore::holding(&key("old"));
    let target = target(address, store.clone());
    let first = failure(deliver(&target, LONG).await);
    assert_eq!(first.cause, FailureCause::Credentials(Some(403)));
    assert_eq!(count(&sent), 1, "the same key is not tried twice");
    store.hold(&key("new"));
    pass(crate::ports::secrets::FRESH).await;
    assert_eq!(deliver(&target, LONG).await, delivered());
    assert_eq!(count(&sent), 3);
}

#[tokio::test]
async fn a_403_costs_no_token() {
    let (login, asked) = login().await;
    let (address, sent, _) = server(|_| status(403)).await;
    let target = with(login, address);
    for _ in 0..3 {
        let failure = failure(deliver(&target, LONG).await);
        assert_eq!(failure.cause, FailureCause::Credentials(Some(403)));
    }
    assert_eq!((count(&asked), count(&sent)), (1, 3));
}

/// Holds another key at each read. From the second one on, time goes by while nothing else does.
struct Rotating(AtomicUsize);

impl SecretStore for Rotating {
    async fn read(&self) -> Result<String, SecretsError> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        if number > 0 {
            tokio::time::pause();
        }
        Ok(json!({ "targetHeaders": { "x-api-key": number.to_string() } }).to_string())
    }
}

#[tokio::test]
async fn refusal_stays_where_the_rate_leaves_no_second_try() {
    let (address, sent, _) = server(|_| status(403)).await;
    install_tls_provider();
    let url = format!("http://{address}/").parse().expect("a URL");
    let secrets = SecretCache::new(Rotating(AtomicUsize::new(0)), Duration::ZERO, FakeClock);
    let target = HttpTarget::new(url, LONG, secrets, FakeClock).expect("a client");
    let one = std::num::NonZeroU32::MIN;
    let pace = crate::ports::pace::Pace::new(one, one.saturating_add(99), Duration::ZERO);
    pass(Duration::from_secs(100)).await;
    let event = event();
    let delivery = Delivery {
        event: &event,
        attempt: 1,
        deadline: Instant::now() + LONG,
        order: None,
        resend: None,
        pace: Some(&pace),
    };
    let failure = failure(target.deliver(delivery).await);
    assert_eq!(failure.cause, FailureCause::Credentials(Some(403)));
    assert_eq!(count(&sent), 1);
}

#[tokio::test]
async fn answer_that_repeats_a_secret_is_kept_without_it() {
    let (login, _) = login().await;
    let (address, sent, _) = server(|headers| {
        let text = |value: &HeaderValue| json!(String::from_utf8_lossy(value.as_bytes()));
        let repeated = headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)));
        answer_of(403, &Value::Object(repeated.collect()))
    })
    .await;
    for (secret, is_signed) in [
        (json!({ "targetAuthorization": "Bearer hunter2" }), false),
        (
            json!({ "targetHeaders": { "x-api-key": "hunter2 \"2\"" } }),
            true,
        ),
        (secret(login, "hunter2"), false),
    ] {
        let target = target(address, FakeSecretStore::holding(&secret));
        let target = target.sign_with(is_signed.then(signer));
        let response = failure(deliver(&target, LONG).await).response;
        let response = response.expect("an answer");
        let (headers, _) = sent.lock().expect("not poisoned").remove(0);
        for name in ["authorization", "x-amz-security-token", "x-api-key"] {
            let repeated = format!(r#""{name}":"…""#);
            let is_sent = headers.contains_key(name);
            assert_eq!(response.contains(&repeated), is_sent, "{name}: {response}");
        }
        let others = r#""idempotency-key":"an-event""#;
        assert!(response.contains(others), "{response}");
    }
}

/// Statuses and bodies of token endpoints and targets that repeat what they were sent.
#[test]
fn no_secret_is_in_a_failure() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    proptest!(ProptestConfig::with_cases(24), |(value in "[a-z]{3}QX[!-~]{12,40}", status in 200_u16..600, field in 0..4)| {
        let failure = runtime.block_on(async {
            let echoed = value.clone();
            let (login, ..) = server(move |_| {
                let body = json!({ "error": echoed, "error_description": echoed });
                answer_of(status, &body)
            })
            .await;
            let secret = match field {
                0 => secret(login, &value),
                1 => json!({ "targetAuthorization": value, "targetCa": value }),
                2 => json!({ "targetHeaders": { "x-api-key": value }, "targetSigningSecrets": value }),
                _ => json!({ "targetClientCertificate": { "certificate": value, "privateKey": value } }),
            };
            failure(deliver(&target(login, FakeSecretStore::holding(&secret)), LONG).await)
        });
        let shown = format!("{failure:?}");
        prop_assert!(!shown.contains(&value) && !shown.contains(&value.replace('\\', "\\\\")), "{shown}");
        prop_assert_eq!(failure.cause, FailureCause::Credentials(None));
    });
}
