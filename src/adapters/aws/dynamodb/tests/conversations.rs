//! The index of conversations, and the erasures.

use aws_sdk_dynamodb::operation::query::QueryOutput;

use super::*;
use crate::domain::erasure::Erasures;

fn key(event: &str, received_at: &str) -> Item {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    Item::from([
        (KEY.to_owned(), text(event)),
        ("conversation_id".to_owned(), text("c1")),
        ("received_at".to_owned(), text(received_at)),
    ])
}

#[tokio::test]
async fn a_conversation_is_read_page_by_page_by_its_last_key() {
    let (first, last) = ("2026-01-15T12:00:00Z", "2026-01-15T12:00:00.5Z");
    let start = mock!(Client::query)
        .match_requests(|query| {
            query.index_name() == Some("conversations")
                && query.exclusive_start_key().is_none()
                && query.limit() == Some(2)
        })
        .then_output(move || {
            QueryOutput::builder()
                .items(key("a", first))
                .items(key("b", last))
                .last_evaluated_key(KEY, AttributeValue::S("b".to_owned()))
                .last_evaluated_key("conversation_id", AttributeValue::S("c1".to_owned()))
                .last_evaluated_key("received_at", AttributeValue::S(last.to_owned()))
                .build()
        });
    let end = mock!(Client::query)
        .match_requests(move |query| query.exclusive_start_key() == Some(&key("b", last)))
        .then_output(|| QueryOutput::builder().build());
    let table = table(&[&start, &end]);
    let page = table.conversation("c1", None, 2).await.expect("read");
    assert_eq!(page.event_ids, [id("a"), id("b")]);
    // The place travels as a token.
    let token = page.next.expect("more").token();
    let next = token.parse().expect("a token");
    let page = table
        .conversation("c1", Some(&next), 2)
        .await
        .expect("read");
    assert_eq!((page.event_ids, page.next), (Vec::new(), None));
}

#[tokio::test]
async fn a_foreign_key_of_the_index_is_an_error() {
    let query = mock!(Client::query)
        .then_output(|| QueryOutput::builder().items(key("not an id!", "t")).build());
    let error = table(&[&query]).conversation("c1", None, 2).await;
    assert_eq!(error.expect_err("refused").fault, Fault::Unreadable);
}

#[tokio::test]
async fn erasures_are_written_and_read_as_one_item() {
    let (put, written) = puts();
    let mut erasures = Erasures::default();
    erasures.note(Some("c1"), noon()).expect("room");
    let nothing = mock!(Client::get_item).then_output(|| GetItemOutput::builder().build());
    let table_of_none = table(&[&put, &nothing]);
    assert_eq!(
        table_of_none.erasures().await.expect("read"),
        Erasures::default()
    );
    table_of_none
        .save_erasures(&erasures)
        .await
        .expect("written");
    let item = written.lock().expect("not poisoned")[0]
        .item()
        .cloned()
        .expect("an item");
    assert_eq!(text(&item, KEY).as_deref(), Some("#erasures"));
    assert!(!format!("{item:?}").contains("c1"), "{item:?}");
    let found = mock!(Client::get_item).then_output(move || {
        GetItemOutput::builder()
            .set_item(Some(item.clone()))
            .build()
    });
    assert_eq!(table(&[&found]).erasures().await.expect("read"), erasures);
}
