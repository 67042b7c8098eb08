//! `GET /conversations/{id}`: pages, ids, and what is refused.

use super::*;

/// A dead letter of the conversation `id`.
fn of_conversation(id: &str, name: u32) -> Message {
    let body = json!({ "webhookId": "orders", "payload": { "name": name, "conversationId": id }, "timestamp": "2026-01-15T12:00:00Z" });
    refused(body.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_conversation_are_listed_page_by_page() {
    let function = function();
    let ours = (0..5).map(|name| of_conversation("chat/1 ü", name));
    send_to_dead_letters(&function, ours.chain([of_conversation("another", 9)])).await;
    let (mut ids, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = send(
            &function,
            event("GET", "/conversations/chat%2F1%20%C3%BC", &query),
        )
        .await;
        assert_eq!(
            (page.status, &page.body["id"]),
            (200, &json!("chat/1 ü")),
            "{page:?}"
        );
        let events = page.body["events"].as_array().expect("events");
        assert!(
            events.len() <= 2 && page.body["count"] == events.len(),
            "{page:?}"
        );
        for event in events {
            assert_eq!(
                (&event["state"], &event["body"]),
                (&json!("DEAD"), &Value::Null)
            );
            ids.push(event["eventId"].clone());
        }
        match page.body["next"].as_str() {
            Some(next) => query = format!("limit=2&next={next}"),
            None => break,
        }
    }
    let expected: Vec<Value> = (0..5)
        .map(|name| json!(id_of(&of_conversation("chat/1 ü", name))))
        .collect();
    assert_eq!(ids, expected, "oldest first");
    let listed = send(&function, event("GET", "/dlq", "conversationId=another")).await;
    assert_eq!(listed.body["count"], 1, "{listed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_not_understood_is_named() {
    for (path, query, parameter) in [
        ("/conversations/", "", "id"),
        ("/conversations/%ff", "", "id"),
        ("/conversations/$%7Bid%7D", "", "id"),
        ("/conversations/a", "id=b", "id"),
        ("/conversations/a", "by=b", "by"),
        ("/conversations/a", "limit=0", "limit"),
        ("/conversations/a", "limit=201", "limit"),
        ("/conversations/a", "next=b", "next"),
        ("/conversations/a", "source=webhook", "source"),
    ] {
        let answer = send(&function(), event("GET", path, query)).await;
        assert_eq!(
            (answer.status, &answer.body["parameter"]),
            (400, &json!(parameter)),
            "{path}?{query}: {answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_page_fits_whatever_the_events_hold() {
    let function = function();
    let large = (0..200).map(|name| {
        let mut message = of_conversation("a-chat", name);
        let headers = json!({ "x-genesys-a": "\"".repeat(15_000) }).to_string();
        message.attributes.insert(
            "headers".to_owned(),
            genesys_relay::domain::message::Attribute {
                data_type: "String".to_owned(),
                value: genesys_relay::domain::message::AttributeValue::Text(headers),
            },
        );
        message
    });
    send_to_dead_letters(&function, large).await;
    let (mut count, mut query) = (0, "limit=200".to_owned());
    loop {
        let reply = invoke(&function, event("GET", "/conversations/a-chat", &query)).await;
        let reply = reply.expect("answered");
        assert!(reply.to_string().len() < 6 * 1024 * 1024);
        let page: Value =
            serde_json::from_str(reply["body"].as_str().expect("a body")).expect("JSON");
        count += page["count"].as_u64().expect("a count");
        match page["next"].as_str() {
            Some(next) => query = format!("limit=200&next={next}"),
            None => break,
        }
    }
    assert_eq!(count, 200);
}

#[tokio::test(start_paused = true)]
async fn without_the_index_the_parameter_is_named() {
    let mut function = function();
    let parts = std::sync::Arc::get_mut(&mut function).expect("one owner");
    parts.dead_letters.settings.has_conversation_index = false;
    for (path, query) in [("/conversations/a", ""), ("/dlq", "conversationId=a")] {
        let answer = send(&function, event("GET", path, query)).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(
            answer.body.to_string().contains("ConversationIndex"),
            "{answer:?}"
        );
    }
}
