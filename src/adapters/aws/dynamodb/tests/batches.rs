//! Reads of many records.

use super::*;

fn keys(batch: &BatchGetItemInput) -> Vec<Item> {
    let asked = batch
        .request_items()
        .and_then(|tables| tables.get("the-table"))
        .expect("keys");
    assert_eq!(asked.consistent_read(), Some(true));
    asked.keys().to_vec()
}

fn open(keys: &[Item]) -> Option<HashMap<String, KeysAndAttributes>> {
    let open = KeysAndAttributes::builder()
        .set_keys(Some(keys.to_vec()))
        .consistent_read(true)
        .build();
    Some(HashMap::from([(
        "the-table".to_owned(),
        open.expect("complete"),
    )]))
    .filter(|_| !keys.is_empty())
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_not_processed_are_asked_for_again() {
    let rule = mock!(Client::batch_get_item).then_compute_output(|batch| {
        let keys = keys(batch);
        let (first, rest) = keys.split_first().expect("a key");
        let found = EventRecord {
            event_id: id(&text(first, KEY).expect("an id")),
            ..record(State::Delivered)
        };
        BatchGetItemOutput::builder()
            .responses("the-table", vec![to_item(found).expect("an item")])
            .set_unprocessed_keys(open(rest))
            .build()
    });
    let ids = ["a", "b", "c", "b"].map(id);
    let found: Vec<_> = table(&[&rule])
        .get_many(&ids)
        .await
        .expect("read")
        .into_keys()
        .collect();
    assert_eq!((found.as_slice(), rule.num_calls()), (&ids[..3], 3));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_never_processed_are_not_taken_for_missing() {
    let rule = mock!(Client::batch_get_item).then_compute_output(|batch| {
        BatchGetItemOutput::builder()
            .set_unprocessed_keys(open(&keys(batch)))
            .build()
    });
    let error = table(&[&rule])
        .get_many(&[id("a")])
        .await
        .expect_err("never processed");
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(u32::try_from(rule.num_calls()), Ok(BATCH_ROUNDS));
}

#[tokio::test]
async fn a_batch_has_at_most_a_hundred_keys_and_each_once() {
    let rule = mock!(Client::batch_get_item)
        .match_requests(|batch| {
            let keys = keys(batch);
            let different: std::collections::BTreeSet<_> =
                keys.iter().map(|key| text(key, KEY)).collect();
            (1..=100).contains(&keys.len()) && different.len() == keys.len()
        })
        .then_output(|| BatchGetItemOutput::builder().build());
    let ids: Vec<_> = (0..500)
        .map(|number| id(&(number % 250).to_string()))
        .collect();
    assert_eq!(table(&[&rule]).get_many(&ids).await.expect("read").len(), 0);
    assert_eq!(rule.num_calls(), 3);
}
