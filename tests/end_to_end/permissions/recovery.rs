//! Permissions of the recovery, removed one at a time.

use super::*;

#[tokio::test]
async fn recovery_says_what_it_may_not_do_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 6] = [
        ("dynamodb:GetItem", |trial| {
            a_recovery_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:BatchGetItem", |trial| {
            a_recovery_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:PutItem", |trial| {
            a_recovery_fails(trial, "TableError").boxed_local()
        }),
        ("sqs:SendMessage", |trial| {
            a_recovery_fails(trial, "QueueError").boxed_local()
        }),
        ("secretsmanager:GetSecretValue", |trial| {
            a_recovery_fails(trial, "Credentials").boxed_local()
        }),
        ("dynamodb:DeleteItem", |trial| {
            the_lease_of_a_recovery_stands(trial).boxed_local()
        }),
    ];
    try_each_with(
        "webhook-deliveries",
        "RecoveryRole",
        &OF_THE_RUNTIME,
        &probes,
    )
    .await
}

/// Loses an event that no other probe has.
fn lose(trial: &Trial<'_>) {
    let now = Timestamp::now();
    log_failed(
        &trial.relay.genesys,
        usize::try_from(now.as_millisecond()).unwrap_or_default(),
        now,
    );
}

async fn a_recovery_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    trial.relay.recover(json!({})).await?;
    lose(trial);
    trial.take_away().await?;
    // What has read the secret keeps it for a while.
    trial.relay.kill(Function::Recovery).await?;
    let error = trial.relay.recover_fails(json!({}), error_type).await?;
    ensure!(trial.is_named_in(&error), "{error}");
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let report = wait::until(
        "the secret is read again, which is tried at most every few seconds",
        || async {
            Ok(trial
                .relay
                .stack
                .invoke(Function::Recovery, &json!({}))
                .await?
                .ok())
        },
    )
    .await?;
    ensure!(report["new"] == 1, "{report}");
    trial.relay.until_empty().await
}

async fn the_lease_of_a_recovery_stands(trial: &Trial<'_>) -> Result<()> {
    lose(trial);
    trial.take_away().await?;
    let report = trial.relay.recover(json!({})).await?;
    ensure!(report["new"] == 1, "{report}");
    trial.until_logged(Function::Recovery).await?;
    trial.relay.recover_fails(json!({}), "Busy").await?;
    trial.give_back().await?;
    // It would end by itself, with the time that the run had.
    let request = trial
        .relay
        .stack
        .dynamodb()
        .delete_item()
        .table_name(trial.relay.stack.output("EventsTableName")?);
    request
        .key("event_id", AttributeValue::S("lease#recovery".to_owned()))
        .send()
        .await?;
    trial.relay.recover(json!({})).await.map(drop)
}
