//! The client against an API that refuses, limits, hangs, breaks or lies, on virtual time.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::testing::{FakeClock, FakeSecretStore};

const CALL: &str = "GET /api/v2/things";
const SIGN_IN: &str = "POST /oauth/token";

/// Next answers of the API.
type Script = Box<dyn FnMut(&Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> + Send>;

/// An API that does what a script says, and remembers when it was asked what, and with which
/// authorization.
#[derive(Clone)]
struct Api {
    script: Arc<StdMutex<Script>>,
    requests: Arc<StdMutex<Vec<(String, String, Instant)>>>,
}

impl Http for Api {
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let authorization = request.headers()[header::AUTHORIZATION]
            .to_str()
            .expect("a text")
            .to_owned();
        self.requests
            .lock()
            .expect("not poisoned")
            .push((what, authorization, Instant::now()));
        (self.script.lock().expect("not poisoned"))(&request)
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Vec<u8>> {
    let mut response = Response::builder()
        .status(status)
        .header("inin-correlation-id", "c-1");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.as_bytes().to_vec()).expect("an answer")
}

fn granted(token: &str) -> Response<Vec<u8>> {
    let body = json!({ "access_token": token, "token_type": "bearer", "expires_in": 3600 });
    answer(200, &[], &body.to_string())
}

fn error_body(status: u16, code: &str, message: &str) -> Response<Vec<u8>> {
    answer(
        status,
        &[],
        &json!({ "code": code, "message": message, "status": status }).to_string(),
    )
}

struct Client {
    genesys: Genesys<Api, FakeSecretStore, FakeClock>,
    api: Api,
    store: FakeSecretStore,
}

fn secret(client_secret: &str) -> Value {
    json!({ "genesysClientId": "an-id", "genesysClientSecret": client_secret })
}

fn client(
    script: impl FnMut(&Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> + Send + 'static,
) -> Client {
    let api = Api {
        script: Arc::new(StdMutex::new(Box::new(script))),
        requests: Arc::default(),
    };
    let store = FakeSecretStore::holding(&secret("hunter2-hunter2"));
    let secrets = SecretCache::new(store.clone(), Duration::from_mins(1), FakeClock);
    let schedule =
        Schedule::new(Duration::from_secs(1), Duration::from_secs(30), 4).expect("a schedule");
    let urls = ("https://api.example.com/", "https://login.example.com/");
    let genesys = Genesys::new(api.clone(), urls.0, urls.1, secrets, schedule, FakeClock);
    Client {
        genesys,
        api,
        store,
    }
}

/// Signs everybody in, and gives these answers one after the other.
fn answering(answers: impl IntoIterator<Item = Result<Response<Vec<u8>>, HttpError>>) -> Client {
    let mut answers: VecDeque<_> = answers.into_iter().collect();
    let mut tokens = 0;
    client(move |request| {
        if request.uri().path() == "/oauth/token" {
            tokens += 1;
            return Ok(granted(&format!("token-{tokens}")));
        }
        answers.pop_front().expect("one more answer")
    })
}

impl Client {
    async fn call(&self) -> Result<Vec<u8>, GenesysError> {
        self.call_within(Duration::from_mins(4)).await
    }

    async fn call_within(&self, time: Duration) -> Result<Vec<u8>, GenesysError> {
        let path = "/api/v2/things?useful=true".to_owned();
        let call = Call {
            method: Method::GET,
            path,
            body: None,
            permission: Some("things:thing:view"),
        };
        self.genesys.call(&call, Instant::now() + time).await
    }

    fn asked(&self) -> Vec<String> {
        self.api
            .requests
            .lock()
            .expect("not poisoned")
            .iter()
            .map(|(what, ..)| what.clone())
            .collect()
    }

    fn authorizations(&self) -> Vec<String> {
        let requests = self.api.requests.lock().expect("not poisoned");
        requests
            .iter()
            .filter(|(what, ..)| what == CALL)
            .map(|(_, authorization, _)| authorization.clone())
            .collect()
    }

    /// The time between the calls, in seconds.
    fn pauses(&self) -> Vec<u64> {
        let requests = self.api.requests.lock().expect("not poisoned");
        let times: Vec<_> = requests
            .iter()
            .filter(|(what, ..)| what == CALL)
            .map(|(.., at)| *at)
            .collect();
        times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs())
            .collect()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of several outcomes")]
fn ok() -> Result<Response<Vec<u8>>, HttpError> {
    Ok(answer(200, &[], r#"{"fine":true}"#))
}

#[tokio::test(start_paused = true)]
async fn a_token_is_fetched_once_and_used_until_shortly_before_its_end() {
    let client = answering([ok(), ok(), ok()]);
    client.call().await.expect("answered");
    tokio::time::advance(Duration::from_secs(3600 - 61)).await;
    client.call().await.expect("answered");
    tokio::time::advance(Duration::from_secs(2)).await;
    client.call().await.expect("answered");
    assert_eq!(client.asked(), [SIGN_IN, CALL, CALL, SIGN_IN, CALL]);
    let basic = format!("Basic {}", BASE64_STANDARD.encode("an-id:hunter2-hunter2"));
    assert_eq!(
        client.api.requests.lock().expect("not poisoned")[0].1,
        basic
    );
    assert_eq!(
        client.authorizations(),
        ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_is_given_up_a_minute_or_a_tenth_of_its_life_before_its_end() {
    for (life, used_for) in [(86_400, 86_340), (600, 540), (100, 90), (10, 9)] {
        let client = client(move |request| {
            if request.uri().path() != "/oauth/token" {
                return ok();
            }
            Ok(answer(
                200,
                &[],
                &json!({ "access_token": "t", "expires_in": life }).to_string(),
            ))
        });
        client.call().await.expect("answered");
        tokio::time::advance(Duration::from_millis(used_for * 1000 - 1)).await;
        client.call().await.expect("answered");
        assert_eq!(client.asked(), [SIGN_IN, CALL, CALL], "of {life} s");
        tokio::time::advance(Duration::from_millis(1)).await;
        client.call().await.expect("answered");
        assert_eq!(client.asked()[3..], [SIGN_IN, CALL], "of {life} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_is_not_given_up_for_one_that_was_refused() {
    let client = answering([ok()]);
    let old = client
        .genesys
        .token(Instant::now() + Duration::from_mins(1))
        .await
        .expect("signed in");
    client.genesys.tokens.forget(&old).await;
    let new = client
        .genesys
        .token(Instant::now() + Duration::from_mins(1))
        .await
        .expect("signed in");
    assert_ne!(old, new);
    // Another call was refused with the old one, and hears of that only now.
    client.genesys.tokens.forget(&old).await;
    client.call().await.expect("answered");
    assert_eq!(client.asked(), [SIGN_IN, SIGN_IN, CALL]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_is_renewed_once() {
    let refused = || {
        Ok(error_body(
            401,
            "bad.credentials",
            "Invalid login credentials.",
        ))
    };
    let client = answering([ok(), refused(), ok()]);
    client.call().await.expect("answered");
    client.call().await.expect("answered with another token");
    assert_eq!(
        client.authorizations(),
        ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    );

    let client = answering([refused(), refused()]);
    let error = client.call().await.expect_err("refused");
    assert!(matches!(error, GenesysError::Credentials(_)), "{error}");
    assert_eq!(client.asked(), [SIGN_IN, CALL, SIGN_IN, CALL]);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_was_changed_meanwhile_is_read_again() {
    let new = BASE64_STANDARD.encode("an-id:rotated-secret");
    let client = client(move |request| {
        if request.uri().path() != "/oauth/token" {
            return ok();
        }
        let authorization = request.headers()[header::AUTHORIZATION]
            .to_str()
            .expect("a text");
        if authorization.ends_with(&new) {
            return Ok(granted("t"));
        }
        Ok(answer(
            401,
            &[],
            r#"{"error":"invalid_client","error_description":"Invalid client_id or secret"}"#,
        ))
    });
    let error = client.call().await.expect_err("refused");
    let text = display_chain(&error);
    assert!(
        text.contains("invalid_client") && text.contains("genesysClientSecret"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    client.store.hold(&secret("rotated-secret"));
    tokio::time::advance(crate::ports::secrets::FRESH).await;
    client.call().await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_waited_for_as_long_as_it_says_and_is_no_failure() {
    let limited =
        |headers: &[(&str, &str)]| Ok(answer(429, headers, r#"{"code":"too.many.requests"}"#));
    let client = answering([
        limited(&[("retry-after", "7")]),
        limited(&[("inin-ratelimit-reset", "40"), ("retry-after", "3")]),
        limited(&[("retry-after", "7"), ("inin-ratelimit-reset", "3")]),
        limited(&[("retry-after", "12")]),
        limited(&[("retry-after", "20")]),
        ok(),
    ]);
    client
        .call()
        .await
        .expect("answered in the end, though four failures were too many");
    // The schedule's own delay is 1, 2, 4, 8, 16 s and up to a second or a tenth more.
    let expected = [7..=7, 40..=40, 7..=7, 12..=12, 20..=20];
    let pauses = client.pauses();
    assert!(
        pauses
            .iter()
            .zip(&expected)
            .all(|(pause, expected)| expected.contains(pause)),
        "{pauses:?}"
    );
    assert_eq!(pauses.len(), expected.len());
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_past_the_deadline() {
    let client = answering([Ok(answer(429, &[("retry-after", "60")], "{}"))]);
    let error = client
        .call_within(Duration::from_mins(1))
        .await
        .expect_err("no time");
    assert!(
        matches!(&error, GenesysError::OutOfTime { why, .. } if why.contains("60 s")),
        "{error}"
    );
    assert_eq!(client.pauses().len(), 0, "and it is said at once");
}

#[tokio::test(start_paused = true)]
async fn temporary_failure_is_tried_again_after_a_pause() {
    let client = answering([
        Ok(answer(500, &[("inin-ratelimit-reset", "55")], "")),
        Err(HttpError::TimedOut),
        Ok(answer(200, &[], "<html>busy</html>")),
        ok(),
    ]);
    assert_eq!(client.call().await.expect("answered"), br#"{"fine":true}"#);
    let pauses = client.pauses();
    for (pause, expected) in pauses.iter().zip([1..=2, 2..=3, 4..=5]) {
        assert!(expected.contains(pause), "{pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failure_that_lasts_names_its_cause() {
    let client =
        answering((0..4).map(|_| Ok(error_body(503, "service.unavailable", "Come back later"))));
    let error = client.call().await.expect_err("failed");
    let text = display_chain(&error);
    for part in [
        "GET /api/v2/things failed 4 times",
        "503",
        "Come back later",
        "c-1",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_what_is_missing_and_is_not_tried_again() {
    let words = "Unable to perform the requested action. You are missing the following permission(s): things:thing:view";
    let client = answering([Ok(error_body(403, "missing.permissions", words))]);
    let error = client.call().await.expect_err("refused");
    assert!(matches!(error, GenesysError::Forbidden { .. }));
    let text = display_chain(&error);
    assert!(
        text.contains("the permission things:thing:view") && text.contains("missing.permissions"),
        "{text}"
    );

    let client = answering([Ok(error_body(404, "not.found", "no such thing"))]);
    assert!(matches!(
        client.call().await,
        Err(GenesysError::NotFound(_))
    ));
    let client = answering([Ok(error_body(
        400,
        "bad.request",
        "Pagination may not exceed 100000 results.",
    ))]);
    let error = client.call().await.expect_err("refused");
    assert!(
        matches!(error, GenesysError::Refused(_)) && error.to_string().contains("100000"),
        "{error}"
    );
    assert_eq!(client.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_is_not_asked_for_again() {
    let client = answering([Err(HttpError::TooLarge(7))]);
    assert!(matches!(
        client.call().await,
        Err(GenesysError::Unusable { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_read_is_not_repeated() {
    for body in [
        r#"{"access_token":["hunter2"]}"#,
        r#"{"access_token":"hunter2","token_type":"mac"}"#,
        r#"["hunter2"]"#,
        r#"{"access_token":"hunter2\n","expires_in":60}"#,
    ] {
        let client = client(move |_| Ok(answer(200, &[], body)));
        let error = client.call().await.expect_err("refused");
        assert!(matches!(error, GenesysError::Unusable { .. }), "{error}");
        assert!(
            !format!("{error:?} {}", display_chain(&error)).contains("hunter2"),
            "{error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_client_in_the_secret_nothing_is_sent() {
    let client = answering([]);
    client.store.hold(&json!({ "genesysClientId": "an-id" }));
    let error = client.call().await.expect_err("refused");
    assert!(
        display_chain(&error).contains("genesysClientSecret is missing"),
        "{}",
        display_chain(&error)
    );
    assert!(client.asked().is_empty());
}
