//! Scans of the table.

use aws_sdk_dynamodb::operation::scan::ScanOutput;

use super::*;

#[tokio::test]
async fn a_scan_names_unreadable_records_and_passes_other_items() {
    let rule = mock!(Client::scan)
        .match_requests(|scan| {
            let start = scan.exclusive_start_key().map(|key| text(key, KEY));
            start == Some(Some("before".to_owned()))
                && (scan.limit(), scan.consistent_read()) == (Some(7), None)
        })
        .then_output(|| {
            let key = |key: &str| Item::from([(KEY.to_owned(), AttributeValue::S(key.to_owned()))]);
            ScanOutput::builder()
                .items(to_item(record(State::Delivered)).expect("an item"))
                .items(key("of-a-later-version"))
                .items(key("body#an-event"))
                .items(key("#breaker"))
                .set_last_evaluated_key(Some(key("#breaker")))
                .build()
        });
    let page = table(&[&rule]).scan(Some("before"), 7).await.expect("read");
    let ids: Vec<_> = page
        .records
        .iter()
        .map(|record| record.event_id.as_str())
        .collect();
    assert_eq!(ids, ["an-event"]);
    assert_eq!(page.unreadable, ["of-a-later-version"]);
    assert_eq!(page.next.as_deref(), Some("#breaker"));
}

#[tokio::test]
async fn a_failed_scan_is_no_empty_page() {
    let rule = mock!(Client::scan)
        .sequence()
        .http_status(503, None)
        .times(9)
        .build();
    let error = table(&[&rule]).scan(None, 7).await.expect_err("failed");
    assert!(error.is_transient(), "{error:?}");
}
