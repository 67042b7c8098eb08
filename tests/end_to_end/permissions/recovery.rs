//! Permissions of the recovery, removed one at a time.

use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "dynamodb:GetItem" => |it| a_recovery_fails(it, "TableError"),
        "dynamodb:BatchGetItem" => |it| a_recovery_fails(it, "TableError"),
        "dynamodb:PutItem" => |it| a_recovery_fails(it, "TableError"),
        "sqs:SendMessage" => |it| a_recovery_fails(it, "QueueError"),
        "secretsmanager:GetSecretValue" => |it| a_recovery_fails(it, "Credentials"),
        "dynamodb:DeleteItem" => the_lease_of_a_recovery_stands,
    };
    try_each(relay, "RecoveryRole", &OF_THE_RUNTIME, &probes).await
}

/// Loses an event that no other probe has. The log has its body as a text: other forms are copies
/// of an event, which have no place in an order.
fn lose(trial: &Trial<'_>) {
    let now = Timestamp::now();
    let number = usize::try_from(now.as_millisecond()).unwrap_or_default();
    log_failed(&trial.relay.genesys, number / 3 * 3 + 1, now);
}

pub(super) async fn a_recovery_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    trial.relay.recover(json!({})).await?;
    lose(trial);
    trial.take_away().await?;
    // A process that has read the secret keeps it for a while.
    trial.relay.kill(Function::Recovery).await?;
    let error = trial.relay.recover_fails(error_type).await?;
    ensure!(trial.is_named_in(&error), "{error}");
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let again = "the secret is read again, which is tried at most every few seconds";
    let report = wait::until(again, || async {
        let stack = &trial.relay.stack;
        Ok(stack.invoke(Function::Recovery, &json!({})).await?.ok())
    });
    assert_has(&report.await?, json!({ "new": 1 }));
    trial.relay.until_empty().await
}

async fn the_lease_of_a_recovery_stands(trial: &Trial<'_>) -> Result<()> {
    lose(trial);
    trial.take_away().await?;
    assert_has(&trial.relay.recover(json!({})).await?, json!({ "new": 1 }));
    trial.until_logged(Function::Recovery).await?;
    trial.relay.recover_fails("Busy").await?;
    trial.give_back().await?;
    trial.relay.end_lease("recovery").await?;
    trial.relay.recover(json!({})).await.map(drop)
}
