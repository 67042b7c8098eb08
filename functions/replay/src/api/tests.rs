//! The HTTP API over fakes, from the event of API Gateway to the answer.

mod background;
mod conversation;
mod document;
mod hostile;
mod list;
mod retry;

use genesys_relay::domain::message::Message;
use serde_json::{Map, Value, json};

use crate::testing::{
    Fakes, dead_letter_of, function, id_of, invoke, refused, sample, send_to_dead_letters,
};

const OPERATOR: &str = "arn:aws:sts::123456789012:assumed-role/Operators/an-operator";

/// Answer that API Gateway would send to the caller.
#[derive(Debug)]
struct Answer {
    status: u64,
    headers: Map<String, Value>,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

async fn send(function: &Fakes, event: Value) -> Answer {
    let mut reply = invoke(function, event.clone())
        .await
        .unwrap_or_else(|error| panic!("{event}: {error:?}"));
    let Value::Object(headers) = reply["headers"].take() else {
        panic!("no headers: {reply}")
    };
    let status = reply["statusCode"].as_u64().expect("a status");
    let body = serde_json::from_str(reply["body"].as_str().expect("a body")).expect("JSON");
    let answer = Answer {
        status,
        headers,
        body,
    };
    let kind = if status < 300 {
        "application/json"
    } else {
        "application/problem+json"
    };
    assert_eq!(
        (
            answer.header("content-type"),
            answer.header("cache-control")
        ),
        (kind, "no-store"),
        "{event}"
    );
    if status >= 300 {
        assert_eq!(
            (&answer.body["type"], &answer.body["status"]),
            (&json!("about:blank"), &json!(status)),
            "{answer:?}"
        );
        assert!(
            answer.body["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{answer:?}"
        );
        let again = !answer.header("retry-after").is_empty();
        assert_eq!(again, status == 503, "{answer:?}");
    }
    answer
}

fn event(method: &str, path: &str, query: &str) -> Value {
    let mut event = sample("replay-http-list");
    event["rawPath"] = path.into();
    event["rawQueryString"] = query.into();
    event["requestContext"]["http"]["method"] = method.into();
    event
}

fn retry_of(message: &Message) -> Value {
    event("POST", &format!("/dlq/{}/retry", id_of(message)), "")
}

fn dead_letter(name: u32) -> Message {
    dead_letter_of_webhook("orders", name)
}

fn dead_letter_of_webhook(webhook: &str, name: u32) -> Message {
    let body = json!({ "webhookId": webhook, "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" });
    refused(body.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_samples_list_show_and_retry() {
    let dead_letter = dead_letter_of("ingest-webhook-envelope");
    for retry in ["replay-http-retry", "replay-http-retry-base64"] {
        let function = function();
        send_to_dead_letters(
            &function,
            [
                dead_letter.clone(),
                dead_letter_of("ingest-open-messaging-text"),
            ],
        )
        .await;

        let list = send(&function, sample("replay-http-list")).await;
        assert_eq!(
            (list.status, &list.body["count"], &list.body["next"]),
            (200, &json!(1), &Value::Null),
            "{list:?}"
        );
        assert_eq!(list.body["items"][0]["eventId"], json!(id_of(&dead_letter)));

        let shown = send(&function, sample("replay-http-show")).await;
        assert_eq!(
            (shown.status, &shown.body["state"]),
            (200, &json!("DEAD")),
            "{shown:?}"
        );
        assert_eq!(shown.body["body"], json!(dead_letter.body));

        let retried = send(&function, sample(retry)).await;
        let expected = json!({ "status": "retried", "eventId": id_of(&dead_letter) });
        assert_eq!(
            (retried.status, &retried.body),
            (200, &expected),
            "{retried:?}"
        );
        let [sent] = &function.dead_letters.ports.events.messages()[..] else {
            panic!("one message")
        };
        assert_eq!(sent.body, dead_letter.body);

        let shown = send(&function, sample("replay-http-show")).await;
        let act = &shown.body["history"][1];
        assert_eq!(
            (&act["by"], &act["why"]),
            (&json!(OPERATOR), &json!("the order is there now")),
            "{shown:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_name_is_recorded_by_its_invocation() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    let mut event = retry_of(&dead_letter(1));
    event["requestContext"]["authorizer"] = Value::Null;
    assert_eq!(send(&function, event).await.status, 200);
    let by = function.dead_letters.ports.table.only_record().history[1]
        .by
        .clone();
    assert!(by.starts_with("invocation request-"), "{by}");
}

#[tokio::test(start_paused = true)]
async fn a_callers_long_name_is_cut_to_what_a_request_may_say() {
    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    let mut event = retry_of(&dead_letter(1));
    event["requestContext"]["authorizer"]["iam"]["userArn"] =
        json!(format!("{}ü", "x".repeat(499)));
    assert_eq!(send(&function, event).await.status, 200);
    assert_eq!(
        function.dead_letters.ports.table.only_record().history[1].by,
        "x".repeat(499)
    );
}

#[tokio::test(start_paused = true)]
async fn other_paths_and_methods_are_refused() {
    for (method, path, status, allow) in [
        ("GET", "/", 404, ""),
        ("GET", "", 404, ""),
        ("GET", "/webhook/genesys", 404, ""),
        ("GET", "/dlq/an-event/retry/now", 404, ""),
        ("POST", "/dlq/an-event/replay", 404, ""),
        ("DELETE", "/dlq", 405, "GET"),
        ("POST", "/dlq", 405, "GET"),
        ("PUT", "/dlq/an-event", 405, "GET"),
        ("GET", "/dlq/an-event/retry", 405, "POST"),
        ("get", "/dlq", 405, "GET"),
        ("GET", "/conversations", 404, ""),
        ("GET", "/conversations/a/b", 404, ""),
        ("POST", "/conversations/a", 405, "GET"),
    ] {
        let answer = send(&function(), event(method, path, "")).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (status, allow),
            "{method} {path}: {answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_another_form_is_a_bad_request() {
    let mut event = sample("replay-http-list");
    event["rawPath"] = json!(7);
    assert_eq!(send(&function(), event).await.status, 400);
    let event = json!({ "requestContext": { "http": {} } });
    assert_eq!(send(&function(), event).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn unknown_event_is_not_found() {
    for event in [
        retry_of(&dead_letter(1)),
        event("GET", "/dlq/unknown-event", ""),
    ] {
        let answer = send(&function(), event).await;
        assert_eq!(
            (answer.status, &answer.body["title"]),
            (404, &json!("Not Found")),
            "{answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_queue_or_the_table_is_down_the_caller_is_asked_to_come_again() {
    let id = id_of(&dead_letter(1));
    for event in [
        retry_of(&dead_letter(1)),
        event("GET", "/dlq", ""),
        event("GET", &format!("/dlq/{id}"), ""),
    ] {
        let function = function();
        send_to_dead_letters(&function, [dead_letter(1)]).await;
        function.dead_letters.ports.table.fail();
        let answer = send(&function, event).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(
            !answer.body.to_string().contains("made to fail"),
            "the cause is for the log"
        );
    }
    for break_it in [
        (|function: &Fakes| function.dead_letters.ports.dead_letters.fail()) as fn(&Fakes),
        |function| function.dead_letters.ports.events.fail(),
        // The record can be looked at, and no more.
        |function| function.dead_letters.ports.table.fail_after(1, usize::MAX),
    ] {
        let function = function();
        send_to_dead_letters(&function, [dead_letter(1)]).await;
        break_it(&function);
        let answer = send(&function, retry_of(&dead_letter(1))).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(
            !answer.body.to_string().contains("made to fail"),
            "the cause is for the log"
        );
    }
}
