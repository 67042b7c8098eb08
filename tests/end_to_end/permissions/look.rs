//! Permissions of look, removed one at a time.

use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "sqs:GetQueueAttributes" => |it| a_look_fails(it, status(), "QueueError"),
        "sqs:ListMessageMoveTasks" => |it| a_look_fails(it, status(), "QueueError"),
        "dynamodb:GetItem" => |it| a_look_fails(it, status(), "TableError"),
        "dynamodb:BatchGetItem" => |it| a_look_fails(it, status(), "TableError"),
        "dynamodb:Query" => |it| a_look_fails(it, json!({ "action": "list" }), "TableError"),
        "s3:ListBucket" => |it| a_look_fails(it, dry_run(), "ArchiveError"),
        "s3:GetObject" => a_dry_run_fails,
    };
    let exempt = [&OF_THE_RUNTIME[..], &UNJUDGED].concat();
    try_each(relay, "LookRole", &exempt, &probes).await?;
    let probes = probes! {
        "dynamodb:Query" => |it| a_look_fails(it, conversation(), "TableError"),
    };
    try_each_on(relay, "LookRole", "index/conversations", &[], &probes).await
}

fn status() -> Value {
    json!({ "action": "status" })
}

fn conversation() -> Value {
    json!({ "action": "conversation", "id": "a-conversation" })
}

fn dry_run() -> Value {
    let since = Timestamp::now() - SignedDuration::from_hours(1);
    json!({ "action": "resend", "filter": { "since": since }, "dryRun": true })
}

async fn a_look_fails(trial: &Trial<'_>, request: Value, error_type: &str) -> Result<()> {
    let look = async || trial.relay.stack.invoke(Function::Look, &request).await;
    trial.take_away().await?;
    let Err(error) = look().await? else {
        anyhow::bail!("{request} was answered")
    };
    ensure!(error.0["errorType"] == error_type, "{request}: {error}");
    ensure!(trial.is_named_in(&error.to_string()), "{error}");
    trial.give_back().await?;
    look().await??;
    Ok(())
}

async fn a_dry_run_fails(trial: &Trial<'_>) -> Result<()> {
    let id = trial.relay.accept(&webhook("in the journal")).await?;
    trial.delivered_once(&id).await?;
    trial.relay.replay(json!({ "action": "journal" })).await?;
    a_look_fails(trial, dry_run(), "ArchiveError").await
}
