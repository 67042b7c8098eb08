//! Events of a conversation, and selection by it.

use super::*;

/// A message of a conversation, told from others by `name`.
pub(super) fn of_conversation(id: &str, name: u32) -> Message {
    let body = json!({ "webhookId": "a", "payload": { "name": name, "conversationId": id }, "timestamp": "2026-01-15T12:00:00Z" });
    Message {
        body: body.to_string(),
        ..message("a", name)
    }
}

async fn conversation(relay: &Fake, request: Value) -> Conversation {
    match handle(relay, request).await.expect("carried out") {
        Answer::Conversation(conversation) => conversation,
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_shows_its_events_whatever_became_of_them() {
    let relay = relay();
    let ours: Vec<Message> = (0..6).map(|name| of_conversation("chat", name)).collect();
    for message in &ours[..3] {
        deliver(&relay, message).await;
        tokio::time::advance(Duration::from_millis(7)).await;
    }
    for message in &ours[3..] {
        die(&relay, message, ReasonKind::Permanent, 404).await;
        tokio::time::advance(Duration::from_millis(7)).await;
    }
    deliver(&relay, &of_conversation("another", 1)).await;
    deliver(&relay, &message("a", 9)).await;
    let (mut shown, mut next) = (Vec::new(), Value::Null);
    loop {
        let mut request =
            json!({ "action": "conversation", "id": "chat", "limit": 4, "by": "a person" });
        if next != Value::Null {
            request["next"] = next;
        }
        let page = conversation(&relay, request).await;
        assert!(page.count == page.events.len() && page.count <= 4);
        shown.extend(page.events);
        match page.next {
            Some(token) => next = token.into(),
            None => break,
        }
    }
    let ids: Vec<EventId> = shown.iter().map(|event| event.event_id.clone()).collect();
    assert_eq!(ids, ours.iter().map(id_of).collect::<Vec<_>>());
    let is_plain = |event: &EventDetails| event.body.is_none() && event.body_base64.is_none();
    assert!(shown.iter().all(is_plain), "{shown:?}");
    let states: Vec<StateName> = shown.iter().map(|event| event.state).collect();
    let expected = [[StateName::Delivered; 3], [StateName::Dead; 3]].concat();
    assert_eq!(states, expected);
}

#[tokio::test(start_paused = true)]
async fn expired_records_are_of_no_conversation() {
    let relay = relay();
    deliver(&relay, &of_conversation("chat", 1)).await;
    let ask = json!({ "action": "conversation", "id": "chat" });
    assert_eq!(conversation(&relay, ask.clone()).await.count, 1);
    tokio::time::advance(Duration::from_hours(15 * 24)).await;
    assert_eq!(conversation(&relay, ask).await.count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_filter_by_conversation_selects_in_every_action() {
    for action in ["list", "dry run", "replay", "discard"] {
        let relay = relay();
        for name in 0..3 {
            send_to_dead_letters(&relay, [carrying(of_conversation("chat", name), 404)]).await;
            send_to_dead_letters(&relay, [carrying(of_conversation("another", name), 404)]).await;
        }
        report(&relay, json!({ "action": "reconcile" })).await;
        deliver(&relay, &of_conversation("chat", 7)).await;
        let filter = json!({ "conversationId": "chat", "reason": "permanent" });
        match action {
            "list" => {
                let mut request = filter;
                (request["action"], request["limit"]) = ("list".into(), 2.into());
                let Answer::List(first) = handle(&relay, request.clone()).await.expect("listed")
                else {
                    panic!("no list")
                };
                request["next"] = first.next.clone().expect("a page").into();
                let Answer::List(rest) = handle(&relay, request).await.expect("listed") else {
                    panic!("no list")
                };
                assert_eq!((first.count, rest.count), (2, 1));
                let ids = first
                    .items
                    .iter()
                    .chain(&rest.items)
                    .map(|item| item.event_id.clone());
                let ours = (0..3).map(|name| id_of(&of_conversation("chat", name)));
                assert!(ids.eq(ours));
            }
            "dry run" => {
                let request = json!({ "action": "replay", "filter": filter, "dryRun": true });
                let dry = report(&relay, request).await;
                assert_eq!(
                    (dry.matched, dry.event_ids.len(), dry.items.len()),
                    (3, 3, 3)
                );
            }
            "replay" => {
                let request = json!({ "action": "replay", "filter": filter });
                assert_eq!(replayed(&report(&relay, request).await), 3);
                let sent = relay.ports.events.messages();
                assert!(
                    sent.iter().all(|message| message.body.contains("chat")),
                    "{sent:?}"
                );
            }
            _ => {
                let request = json!({ "action": "discard", "filter": filter, "why": "a test" });
                let discarded = report(&relay, request).await;
                assert!(
                    matches!(discarded.done, Done::Discard { discarded: 3 }),
                    "{discarded:?}"
                );
                assert_eq!(visible(&relay).await, 3);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_index_the_parameter_is_named() {
    let mut relay = relay();
    relay.settings.has_conversation_index = false;
    for request in [
        json!({ "action": "conversation", "id": "chat" }),
        json!({ "action": "list", "conversationId": "chat" }),
        json!({ "action": "replay", "filter": { "conversationId": "chat" } }),
        json!({ "action": "replay", "filter": { "conversationId": "chat" }, "dryRun": true }),
        json!({ "action": "discard", "filter": { "conversationId": "chat" }, "why": "a test" }),
        json!({ "action": "erase", "conversationId": "chat", "why": "a test" }),
    ] {
        let error = handle(&relay, request.clone()).await.expect_err("refused");
        assert!(
            matches!(error, ReplayError::NoConversationIndex),
            "{request}"
        );
        assert!(error.to_string().contains("ConversationIndex"), "{error}");
    }
    let start =
        json!({ "action": "erase", "conversationId": "chat", "why": "a test", "runId": "a" });
    let Request::Start(start) = Request::parse(start, "a test").expect("a request") else {
        panic!("no start")
    };
    let refused = relay.enlist(&start).await;
    assert!(matches!(refused, Err(ReplayError::NoConversationIndex)));
    assert!(handle(&relay, json!({ "action": "list" })).await.is_ok());
}
