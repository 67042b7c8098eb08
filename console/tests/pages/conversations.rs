//! The search, and the page of a conversation.

use genesys_relay::domain::event_record::State;

use super::*;

/// The paths of the event pages that a page links to, each once, in their order.
fn events_of(page: &Page) -> Vec<String> {
    let mut paths = Vec::new();
    for link in page.text.split("href=\"/events/").skip(1) {
        let path = format!("/events/{}", link.split('"').next().unwrap_or_default());
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[tokio::test]
async fn one_field_finds_events_and_conversations() -> Result<()> {
    let operator = Operator::of(Relay::new()).await?;
    let relay = &operator.relay;
    relay.accept(&["chat-7", "chat-7", "chat-8"], 200).await?;
    relay.accept(&["chat-7"], 404).await?;
    let find = "action=\"/find\" … Event or conversation";
    operator.get("/runs").await?.says(find);

    let page = operator.get("/find?id=chat-7").await?;
    page.says("Conversation <span class=\"id\">chat-7</span> … 3 events on this page");
    page.says("Attempt 1</strong>: delivered, status 200 … Attempt 1</strong>: failed, status 404");
    page.says("Received from webhook, now <strong>DELIVERED … now <strong>DEAD … <strong>Dead</strong>: permanent");
    page.says("/dead-letters?conversationId=chat-7\">Dead letters of this conversation");
    assert_eq!(events_of(&page).len(), 3);
    let mut records = relay.replay.ports.table.records();
    records.retain(|record| record.state == State::Delivered);
    let records = records.into_iter();
    let mut ids = records
        .filter(|record| record.conversation_id.as_deref() == Some("chat-7"))
        .map(|record| record.event_id);
    let id = ids.next().context("a delivered event")?;
    let event = operator.get(&format!("/find?id={id}")).await?;
    event.says("DELIVERED … Send again… … href=\"/conversations?id=chat-7\"");
    let dead = operator.get("/dead-letters?conversationId=chat-7").await?;
    dead.says("1 on this page");

    for (id, says) in [
        (
            "chat-9",
            "the event chat-9 has no record … As a conversation: no event of it is recorded",
        ),
        (
            "a+b%2F..",
            "no id of an event looks like this … no event of it is recorded",
        ),
        ("", "Enter the id of an event or of a conversation"),
    ] {
        let nothing = operator.get(&format!("/find?id={id}")).await?;
        assert!(nothing.status.is_client_error(), "{id}");
        nothing.says(says);
    }
    Ok(())
}

#[tokio::test]
async fn a_long_conversation_has_pages_oldest_first() -> Result<()> {
    let operator = Operator::of(Relay::new()).await?;
    let id = "a/../b c";
    operator.relay.accept(&[id; 60], 200).await?;
    let path = format!("/conversations?id={}", encoded(id));
    let first = operator.get(&path).await?;
    first
        .says("50 events on this page … Next page")
        .says_not("First page");
    let mut links = first.text.split("href=\"");
    let next = links.find_map(|link| {
        let (link, rest) = link.split_once('"')?;
        rest.starts_with(">Next page")
            .then(|| link.replace("&amp;", "&"))
    });
    let second = operator.get(&next.context("a next page")?).await?;
    second
        .says("10 events on this page … First page")
        .says_not("Next page");
    let both = [events_of(&first), events_of(&second)].concat();
    let records = operator.relay.replay.ports.table.records();
    let mut expected: Vec<_> = records
        .iter()
        .map(|record| (record.received_at, &record.event_id))
        .collect();
    expected.sort();
    let expected: Vec<_> = expected
        .iter()
        .map(|(_, id)| format!("/events/{id}"))
        .collect();
    assert_eq!(both, expected);
    let all = operator.get(&format!("{path}&select=all")).await?;
    assert_eq!(all.text.matches(" checked").count(), 50);
    Ok(())
}

#[tokio::test]
async fn without_the_index_events_are_found_by_id() -> Result<()> {
    let mut relay = Relay::new();
    let function = Arc::get_mut(&mut relay.replay).expect("not shared yet");
    function.settings.has_conversation_index = false;
    relay.accept(&["chat-7"], 200).await?;
    let id = relay.replay.ports.table.records().remove(0).event_id;
    let operator = Operator::of(relay).await?;
    operator
        .get(&format!("/find?id={id}"))
        .await?
        .says("DELIVERED");
    let page = operator.get("/find?id=chat-7").await?;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    page.says("the event chat-7 has no record … set its parameter ConversationIndex");
    let page = operator.get("/conversations?id=chat-7").await?;
    assert_eq!(page.status, StatusCode::CONFLICT);
    page.says("Switched off on this stack … ConversationIndex");
    Ok(())
}
