//! `GET /dlq` and `GET /dlq/{eventId}`: pages, parameters, and what is refused.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_list_goes_on_where_the_page_before_ended() {
    let function = function();
    send_to_dead_letters(&function, (0..5).map(dead_letter)).await;
    let (mut ids, mut pages, mut query) = (Vec::new(), 0, "limit=2".to_owned());
    loop {
        let page = send(&function, event("GET", "/dlq", &query)).await;
        assert_eq!(page.status, 200, "{page:?}");
        let items = page.body["items"].as_array().expect("items");
        assert!(
            items.len() <= 2 && page.body["count"] == items.len(),
            "{page:?}"
        );
        ids.extend(items.iter().map(|item| item["eventId"].clone()));
        pages += 1;
        let Some(next) = page.body["next"].as_str() else {
            break;
        };
        query = format!("limit=2&next={next}");
    }
    let expected: Vec<Value> = (0..5)
        .map(|name| json!(id_of(&dead_letter(name))))
        .collect();
    assert_eq!((ids, pages), (expected, 3), "oldest first");
}

#[tokio::test(start_paused = true)]
async fn every_parameter_selects() {
    let function = function();
    send_to_dead_letters(
        &function,
        [
            dead_letter_of_webhook("a b+c", 1),
            dead_letter_of_webhook("d", 2),
            refused(r#"{"hello":1}"#),
        ],
    )
    .await;
    for (query, count) in [
        ("", 3),
        ("&&", 3),
        ("source=webhook", 2),
        ("source=eventbridge", 0),
        ("reason=permanent", 3),
        ("reason=unknown", 0),
        ("webhookId=d", 1),
        ("webhookId=a%20b%2Bc", 1),
        ("webhookId=a+b%2bc", 1),
        ("webhookId=", 0),
        ("statusCode=404&source=generic", 1),
        ("statusCode=405", 0),
        ("since=2026-01-15T13%3A00%3A00%2B01%3A00", 3),
        ("since=2026-01-15T12:00:01Z", 2),
        ("until=2026-01-15T12:00:01Z", 1),
        ("since=2026-01-16T00:00:00Z&until=2026-01-15T00:00:00Z", 0),
        ("limit=1", 1),
    ] {
        let list = send(&function, event("GET", "/dlq", query)).await;
        assert_eq!(
            (list.status, &list.body["count"]),
            (200, &json!(count)),
            "{query}: {list:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_is_not_understood_is_named() {
    let function = function();
    for (query, parameter) in [
        ("colour=red", "colour"),
        ("action=discard", "action"),
        ("by=a+person", "by"),
        ("conversationId=", "conversationId"),
        ("Limit=1", "Limit"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=01", "limit"),
        ("limit=1.0", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=1", "limit"),
        ("source=fax", "source"),
        ("source=generic,webhook", "source"),
        ("source=generic&source=webhook", "source"),
        ("sourc%65=generic&source=generic", "source"),
        ("reason=", "reason"),
        ("statusCode=70000", "statusCode"),
        ("statusCode=four", "statusCode"),
        ("since=yesterday", "since"),
        ("since=2026-01-15T13:00:00+01:00", "since"),
        ("until=2026-13-01T00:00:00Z", "until"),
        ("next=page-two", "next"),
        ("next=", "next"),
        ("webhookId=%", "webhookId"),
        ("webhookId=%zz", "webhookId"),
        ("webhookId=%+1", "webhookId"),
        ("webhookId=%ff", "webhookId"),
        ("=", "request"),
    ] {
        let answer = send(&function, event("GET", "/dlq", query)).await;
        assert_eq!(
            (answer.status, &answer.body["parameter"]),
            (400, &json!(parameter)),
            "{query}: {answer:?}"
        );
    }
    let answer = send(&function, sample("replay-http-bad-parameter")).await;
    assert_eq!(
        (answer.status, &answer.body["parameter"]),
        (400, &json!("limit")),
        "{answer:?}"
    );
    for (method, path) in [("GET", "/dlq/an-event"), ("POST", "/dlq/an-event/retry")] {
        let answer = send(&function, event(method, path, "force=true")).await;
        assert_eq!(
            (answer.status, &answer.body["parameter"]),
            (400, &json!("force")),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_cannot_be_one_is_refused() {
    let too_long = "x".repeat(81);
    for id in [
        "a b", "a%20b", "%", "%C3%BC", "%ff", "ü", "a.b", "body#a", &too_long,
    ] {
        for (method, path) in [
            ("GET", format!("/dlq/{id}")),
            ("POST", format!("/dlq/{id}/retry")),
        ] {
            let answer = send(&function(), event(method, &path, "")).await;
            assert_eq!(
                (answer.status, &answer.body["parameter"]),
                (400, &json!("eventId")),
                "{path}: {answer:?}"
            );
        }
    }
    let answer = send(&function(), event("GET", "/dlq/%61n%2Devent", "")).await;
    assert_eq!(
        answer.status, 404,
        "an id that is encoded without need is an id"
    );
}

#[tokio::test(start_paused = true)]
async fn every_answer_fits_whatever_the_event_holds() {
    let function = function();
    // Each of these is a text of six characters in JSON, and of seven in JSON within JSON.
    let body = "\u{1}".repeat(1024 * 1024);
    send_to_dead_letters(&function, [refused(&body)]).await;
    let id = function.dead_letters.ports.table.only_record().event_id;
    let reply = invoke(&function, event("GET", &format!("/dlq/{id}"), ""))
        .await
        .expect("answered");
    assert!(
        reply.to_string().len() < 6 * 1024 * 1024,
        "{}",
        reply.to_string().len()
    );
    let shown: Value = serde_json::from_str(reply["body"].as_str().expect("a body")).expect("JSON");
    assert_eq!(shown["body"], Value::Null);
    assert_eq!(
        shown["bodyBase64"].as_str().map(str::len),
        Some(body.len().div_ceil(3) * 4)
    );
}
