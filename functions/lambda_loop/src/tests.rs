//! Invocations of every kind, over a Runtime API that hands them out as a test lists them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use lambda_runtime::service_fn;
use local::server::Server;
use serde_json::{Value, json};

use super::*;

/// The Runtime API's answer to `next`.
fn invocation(id: &str, payload: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .header(REQUEST_ID, id)
        .header(DEADLINE, "1768478400000")
        .header(INVOCATION_ID, format!("invocation of {id}"))
        .body(Full::from(payload.to_owned()))
        .expect("an invocation")
}

fn with_header(
    mut next: Response<Full<Bytes>>,
    name: &'static str,
    value: &'static str,
) -> Response<Full<Bytes>> {
    next.headers_mut()
        .insert(name, HeaderValue::from_static(value));
    next
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// An answer that reached the Runtime API.
#[derive(Debug)]
struct Answered {
    /// The request id, and `response` or `error`.
    to: String,
    headers: HeaderMap,
    body: Value,
    /// Calls of `afterwards` so far.
    after: usize,
}

/// Hands out `list`, and then says 410. It takes answers with the status `taken`.
async fn answers_to(
    list: Vec<Response<Full<Bytes>>>,
    taken: StatusCode,
) -> (Stopped, Vec<Answered>) {
    let (list, answered) = (
        Arc::new(Mutex::new(VecDeque::from(list))),
        Arc::new(Mutex::new(Vec::new())),
    );
    let calls = Arc::new(AtomicUsize::new(0));
    let (of_server, of_function) = (Arc::clone(&answered), Arc::clone(&calls));
    let server = Server::start(move |request: Request<Incoming>| {
        let (list, answered, calls) = (
            Arc::clone(&list),
            Arc::clone(&of_server),
            Arc::clone(&calls),
        );
        async move {
            let (head, body) = request.into_parts();
            let path = head
                .uri
                .path()
                .strip_prefix(INVOCATIONS)
                .expect("a call of the Runtime API");
            let after = calls.load(Ordering::SeqCst);
            if head.method == Method::GET {
                assert_eq!(path, "/next");
                assert_eq!(
                    after,
                    answered.lock().expect("the answers").len(),
                    "it is called once for each answer"
                );
                let next = list.lock().expect("the list").pop_front();
                return Ok::<_, Infallible>(next.unwrap_or_else(|| status(StatusCode::GONE)));
            }
            let body = body.collect().await.expect("a body").to_bytes();
            let body = serde_json::from_slice(&body).expect("JSON");
            let answer = Answered {
                to: path.to_owned(),
                headers: head.headers,
                body,
                after,
            };
            answered.lock().expect("the answers").push(answer);
            Ok(status(taken))
        }
    })
    .await
    .expect("a server");
    let function = service_fn(|event: LambdaEvent<String>| async move {
        match event.payload.as_str() {
            "panic" => panic!("of what {} sent\nFORGED", event.payload),
            "fail" => Err(Diagnostic {
                error_type: "Told".to_owned(),
                error_message: "as it was told".to_owned(),
            }),
            _ => Ok(format!(
                "{} for {}",
                event.payload, event.context.request_id
            )),
        }
    });
    let endpoint = server.url().parse().expect("a URL");
    let api = Client::builder()
        .with_endpoint(endpoint)
        .build()
        .expect("a client");
    let afterwards = || _ = of_function.fetch_add(1, Ordering::SeqCst);
    let stopped = answer_all(function, afterwards, &api, &Arc::new(Config::default())).await;
    let stopped = stopped.expect_err("it ends with an error");
    let answered = std::mem::take(&mut *answered.lock().expect("the answers"));
    for (before, answer) in answered.iter().enumerate() {
        assert_eq!(answer.after, before, "no answer waits for it: {answer:?}");
    }
    (stopped, answered)
}

/// The first of two invocations is answered as this failure, and the second one is still answered.
async fn fails_alone(first: Response<Full<Bytes>>, error_type: &str) -> Answered {
    let list = vec![first, invocation("second", "\"hello\"")];
    let (stopped, mut answered) = answers_to(list, StatusCode::ACCEPTED).await;
    assert!(
        matches!(stopped, Stopped::NoInvocation(ref status) if status.starts_with("410")),
        "{stopped:?}"
    );
    assert_eq!(answered.len(), 2, "{answered:?}");
    let second = answered.pop().expect("two");
    assert_eq!(
        (second.to.as_str(), second.body),
        ("/second/response", json!("hello for second"))
    );
    assert!(!second.headers.contains_key(ERROR_TYPE));
    let first = answered.pop().expect("one");
    assert_eq!(first.to, "/first/error");
    assert_eq!(first.body["errorType"], error_type, "{}", first.body);
    assert_eq!(first.headers[ERROR_TYPE], UNHANDLED);
    first
}

#[tokio::test]
async fn a_panic_is_answered_as_a_failure_without_what_it_says_and_the_next_invocation_comes() {
    let answer = fails_alone(invocation("first", "\"panic\""), "Panic").await;
    assert_eq!(answer.body["errorMessage"], "the function panicked");
}

#[tokio::test]
async fn an_error_of_the_function_is_answered_as_a_failure_and_the_next_invocation_comes() {
    let answer = fails_alone(invocation("first", "\"fail\""), "Told").await;
    assert_eq!(answer.body["errorMessage"], "as it was told");
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_answered_as_a_failure_that_quotes_nothing_and_the_next_invocation_comes()
 {
    for payload in ["", "{\"secret\":", "[\"secret\"]", "\u{0}"] {
        let answer = fails_alone(invocation("first", payload), "InvalidPayload").await;
        assert!(
            !answer.body.to_string().contains("secret"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_context_that_cannot_be_read_is_answered_as_a_failure_and_the_next_invocation_comes() {
    for (name, value) in [
        ("lambda-runtime-client-context", "{\"secret\":"),
        ("lambda-runtime-client-context", "7"),
        ("lambda-runtime-cognito-identity", "no JSON"),
        ("lambda-runtime-deadline-ms", "soon"),
    ] {
        let answer = fails_alone(
            with_header(invocation("first", "\"hello\""), name, value),
            "InvalidContext",
        )
        .await;
        assert!(
            !answer.body.to_string().contains("secret"),
            "{}",
            answer.body
        );
    }
    let mut without_deadline = invocation("first", "\"hello\"");
    without_deadline.headers_mut().remove(DEADLINE);
    fails_alone(without_deadline, "InvalidContext").await;
}

#[tokio::test]
async fn missing_request_id_stops_the_process() {
    let mut unnamed = invocation("first", "\"hello\"");
    unnamed.headers_mut().remove(REQUEST_ID);
    let list = vec![unnamed, invocation("second", "\"hello\"")];
    let (stopped, answered) = answers_to(list, StatusCode::ACCEPTED).await;
    assert!(
        matches!(stopped, Stopped::NoInvocation(ref problem) if problem == "no request id"),
        "{stopped:?}"
    );
    assert!(answered.is_empty(), "{answered:?}");
}

#[tokio::test]
async fn loop_asks_again_while_there_is_no_invocation() {
    let none = || status(StatusCode::NO_CONTENT);
    let list = vec![none(), none(), invocation("first", "\"hello\"")];
    let (_, answered) = answers_to(list, StatusCode::ACCEPTED).await;
    assert_eq!(
        answered
            .iter()
            .map(|answer| answer.to.as_str())
            .collect::<Vec<_>>(),
        ["/first/response"]
    );
}

#[tokio::test]
async fn the_id_of_the_invocation_is_repeated_where_it_is_given() {
    let mut without = invocation("third", "\"hello\"");
    without.headers_mut().remove(INVOCATION_ID);
    let list = vec![
        invocation("first", "\"hello\""),
        invocation("second", "\"panic\""),
        without,
    ];
    let (_, answered) = answers_to(list, StatusCode::ACCEPTED).await;
    let ids: Vec<_> = answered
        .iter()
        .map(|answer| answer.headers.get(INVOCATION_ID).cloned())
        .collect();
    let id = |text| Some(HeaderValue::from_static(text));
    assert_eq!(
        ids,
        [id("invocation of first"), id("invocation of second"), None]
    );
}

#[tokio::test]
async fn an_answer_that_is_refused_is_not_the_end_and_one_at_which_lambda_fails_is() {
    let list = || {
        vec![
            invocation("first", "\"hello\""),
            invocation("second", "\"hello\""),
        ]
    };
    let (stopped, answered) = answers_to(list(), StatusCode::BAD_REQUEST).await;
    assert!(matches!(stopped, Stopped::NoInvocation(_)), "{stopped:?}");
    assert_eq!(answered.len(), 2, "{answered:?}");
    let (stopped, answered) = answers_to(list(), StatusCode::INTERNAL_SERVER_ERROR).await;
    assert!(
        matches!(stopped, Stopped::Broken(StatusCode::INTERNAL_SERVER_ERROR)),
        "{stopped:?}"
    );
    assert_eq!(answered.len(), 1, "{answered:?}");
}
