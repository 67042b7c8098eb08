//! Acquiring and releasing a lease.

use super::*;

fn lease() -> RunLease {
    let until = noon() + SignedDuration::from_mins(15);
    RunLease {
        owner: Uuid::from_u128(7),
        action: "replay".to_owned(),
        by: "me".to_owned(),
        since: noon(),
        until,
    }
}

#[tokio::test]
async fn a_lease_is_acquired_unless_another_run_holds_it() {
    let (rule, puts) = puts();
    assert_eq!(
        table(&[&rule])
            .acquire(LeaseName::DeadLetters, &lease(), noon())
            .await
            .expect("an answer"),
        None
    );
    let put = puts.lock().expect("not poisoned").remove(0);
    let condition = "attribute_not_exists(event_id) OR #owner = :owner OR #until <= :now";
    assert_eq!(put.condition_expression(), Some(condition));
    let values = put.expression_attribute_values().expect("values");
    let owner = AttributeValue::S(lease().owner.to_string());
    assert_eq!(
        (&values[":owner"], &values[":now"]),
        (&owner, &number(noon().as_millisecond()))
    );
    let item = put.item().expect("an item");
    assert_eq!(
        (&item["owner"], &item["until"]),
        (&owner, &number(lease().until.as_millisecond()))
    );
    assert!(
        item[KEY]
            .as_s()
            .is_ok_and(|key| key.parse::<EventId>().is_err()),
        "no event has its key"
    );

    let item = item.clone();
    let rule = mock!(Client::put_item).then_error(move || refusal(Some(item.clone())));
    assert_eq!(
        table(&[&rule])
            .acquire(LeaseName::DeadLetters, &lease(), noon())
            .await
            .expect("an answer"),
        Some(lease())
    );
    let rule = mock!(Client::put_item).then_error(|| refusal(None));
    let error = table(&[&rule])
        .acquire(LeaseName::DeadLetters, &lease(), noon())
        .await
        .expect_err("the lease is free");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_expired_lease_is_free() {
    let item: Item = to_item(lease()).expect("an item");
    let rule = mock!(Client::get_item).then_output(move || {
        GetItemOutput::builder()
            .set_item(Some(item.clone()))
            .build()
    });
    let table = table(&[&rule]);
    let before = lease().until - SignedDuration::from_millis(1);
    assert_eq!(
        table
            .lease(LeaseName::DeadLetters, before)
            .await
            .expect("read"),
        Some(lease())
    );
    assert_eq!(
        table
            .lease(LeaseName::DeadLetters, lease().until)
            .await
            .expect("read"),
        None
    );
}

#[tokio::test]
async fn only_its_owner_gives_a_lease_back() {
    let released = mock!(Client::delete_item)
        .match_requests(|delete| {
            let owner = AttributeValue::S(lease().owner.to_string());
            delete.condition_expression() == Some("#owner = :owner")
                && delete
                    .expression_attribute_values()
                    .is_some_and(|values| values[":owner"] == owner)
        })
        .then_output(|| DeleteItemOutput::builder().build());
    table(&[&released])
        .release(LeaseName::DeadLetters, lease().owner)
        .await
        .expect("given back");

    let taken = mock!(Client::delete_item).then_error(|| {
        DeleteItemError::ConditionalCheckFailedException(
            ConditionalCheckFailedException::builder().build(),
        )
    });
    table(&[&taken])
        .release(LeaseName::DeadLetters, lease().owner)
        .await
        .expect("there is nothing to give back");
}
