//! Permissions of the recovery, removed one at a time.

use anyhow::bail;

use super::*;
use crate::recovery::message as lost_message;
use crate::statement;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "dynamodb:GetItem" => |it| a_recovery_fails(it, "TableError"),
        "dynamodb:BatchGetItem" => |it| a_recovery_fails(it, "TableError"),
        "dynamodb:PutItem" => |it| a_recovery_fails(it, "TableError"),
        "sqs:SendMessage" => |it| a_recovery_fails(it, "QueueError"),
        "secretsmanager:GetSecretValue" => |it| a_recovery_fails(it, "Credentials"),
        "dynamodb:DeleteItem" => the_lease_of_a_recovery_stands,
    };
    let exempt = [&OF_THE_RUNTIME[..], &OF_THE_STATEMENT].concat();
    try_each(relay, "RecoveryRole", &exempt, &probes).await
}

/// Used for statements only, which need another source of the recovery.
const OF_THE_STATEMENT: [&str; 5] = [
    "cloudwatch:GetMetricData",
    "dynamodb:Scan",
    "s3:GetObject",
    "s3:PutObject",
    "sqs:GetQueueAttributes",
];

pub(super) async fn try_statements(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "dynamodb:Scan" => |it| a_statement_fails(it, "TableError"),
        "s3:PutObject" => |it| a_statement_fails(it, "ArchiveError"),
        // The day has a statement by now, which is read before another is written.
        "s3:GetObject" => |it| a_statement_fails(it, "ArchiveError"),
        "sqs:GetQueueAttributes" => a_statement_tells_what_it_lacks,
    };
    let exempt = [
        // As for GetMetricStatistics: the emulator does not judge it.
        "cloudwatch:GetMetricData",
        // Tried with the recovery.
        "dynamodb:BatchGetItem",
        "dynamodb:DeleteItem",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "secretsmanager:GetSecretValue",
        "sqs:SendMessage",
    ];
    let exempt = [&OF_THE_RUNTIME[..], &exempt].concat();
    // One that has no record, so that its conversation is looked up.
    let (day, noon) = statement::yesterday()?;
    relay
        .genesys
        .add_message("lost", "sent", lost_message(1, noon));
    statement::state(relay, &day).await?;
    try_each(relay, "RecoveryRole", &exempt, &probes).await?;
    let role = relay.stack.role("RecoveryRole").await?;
    let role = role.with_policy("conversations").await?;
    let probes = probes! { "dynamodb:Query" => |it| a_statement_fails(it, "TableError") };
    try_policy(relay, &role, "", &[], &probes).await
}

async fn a_statement_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    let (day, _) = statement::yesterday()?;
    trial.take_away().await?;
    let request = json!({ "action": "statement", "day": day });
    let answer = trial
        .relay
        .stack
        .invoke(Function::Recovery, &request)
        .await?;
    let Err(error) = answer else {
        bail!("stated without {}: {answer:?}", trial.action);
    };
    ensure!(error.0["errorType"] == error_type, "{error}");
    ensure!(trial.is_named_in(&error.to_string()), "{error}");
    trial.give_back().await?;
    let stated = statement::state(trial.relay, &day).await?;
    assert_has(&stated, json!({ "sent": 1, "unaccounted": 1 }));
    Ok(())
}

async fn a_statement_tells_what_it_lacks(trial: &Trial<'_>) -> Result<()> {
    let (day, _) = statement::yesterday()?;
    trial.take_away().await?;
    statement::state(trial.relay, &day).await?;
    let newest = &statement::look(trial.relay, Some(&day)).await?[0]["statement"];
    let queues = newest["relay"]["queues"]["unavailable"].as_str();
    ensure!(
        queues.is_some_and(|text| trial.is_named_in(text)),
        "{newest}"
    );
    trial.give_back().await
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
