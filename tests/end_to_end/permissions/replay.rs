//! Permissions of replay and of its schedules, removed one at a time.

use super::journal::{a_dry_run_fails, nothing_is_erased};
use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "sqs:GetQueueAttributes" => |it| a_request_fails(it, "status", "QueueError"),
        "sqs:ListMessageMoveTasks" => no_run_begins_beside_a_move,
        "sqs:StartMessageMoveTask" => nothing_is_moved,
        "sqs:CancelMessageMoveTask" => a_move_goes_on,
        "sqs:ReceiveMessage" => |it| a_replay_fails(it, "QueueError"),
        "sqs:SendMessage" => what_cannot_be_sent_stays,
        "sqs:DeleteMessage" => a_copy_stays_behind,
        "sqs:ChangeMessageVisibility" => what_was_not_taken_stays_hidden,
        "dynamodb:Query" => |it| a_request_fails(it, "list", "TableError"),
        "dynamodb:GetItem" => |it| a_request_fails(it, "status", "TableError"),
        "dynamodb:BatchGetItem" => |it| a_replay_fails(it, "TableError"),
        "dynamodb:PutItem" => |it| a_replay_fails(it, "TableError"),
        "dynamodb:DeleteItem" => a_lease_stands,
        "s3:PutObject" => nothing_is_archived,
        "s3:GetObject" => nothing_is_restored,
        "s3:ListBucket" => a_dry_run_fails,
        "s3:ListBucketVersions" => nothing_is_erased,
        "s3:GetObjectVersion" => nothing_is_erased,
        "s3:DeleteObjectVersion" => nothing_is_erased,
        "lambda:UpdateEventSourceMapping" => a_broken_breaker_holds_on,
        "lambda:InvokeFunction" => nothing_goes_on_in_the_background,
    };
    let exempt = [&OF_THE_RUNTIME[..], &UNJUDGED].concat();
    try_each(relay, "ReplayRole", &exempt, &probes).await
}

pub(super) async fn a_request_fails(
    trial: &Trial<'_>,
    action: &str,
    error_type: &str,
) -> Result<()> {
    let request = json!({ "action": action });
    trial.take_away().await?;
    trial.refused(request.clone(), error_type).await?;
    trial.give_back().await?;
    trial.relay.replay(request).await.map(drop)
}

async fn a_replay_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let request = json!({ "action": "replay", "eventIds": [id] });
    trial.refused(request, error_type).await?;
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    trial.replay(&id).await
}

async fn no_run_begins_beside_a_move(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    for action in ["status", "reconcile"] {
        trial
            .refused(json!({ "action": action }), "QueueError")
            .await?;
    }
    trial.give_back().await?;
    // A run that did not begin holds no lease.
    let status = trial.relay.replay(json!({ "action": "status" })).await?;
    assert_has(&status, json!({ "run": null }));
    Ok(())
}

async fn nothing_is_moved(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let request = json!({ "action": "replay", "all": true });
    trial.take_away().await?;
    trial.refused(request.clone(), "QueueError").await?;
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.relay.replay(request).await?;
    trial.delivered_once(&id).await
}

async fn a_move_goes_on(trial: &Trial<'_>) -> Result<()> {
    let bodies = (0..200).map(|number| format!("{{\"pasted\":{number}}}"));
    trial.relay.send_to_dead_letters(bodies).await?;
    let slowly = json!({ "action": "replay", "all": true, "ratePerSecond": 1 });
    trial.relay.replay(slowly).await?;
    let cancel = json!({ "action": "cancel" });
    trial.take_away().await?;
    trial.refused(cancel.clone(), "QueueError").await?;
    trial.give_back().await?;
    assert_has(
        &trial.relay.replay(cancel).await?,
        json!({ "cancelled": true }),
    );
    trial.relay.purge().await
}

async fn what_cannot_be_sent_stays(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.replay_answer(&id).await?;
    assert_has(&answer, json!({ "replayed": 0 }));
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;

    // The way out of the archive leads into the other queue.
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    let archived = trial.relay.replay(archive).await?;
    let restore = json!({ "action": "restore", "key": archived["keys"][0] });
    trial.take_away().await?;
    let answer = trial.relay.replay(restore.clone()).await?;
    assert_has(&answer, json!({ "restored": 0 }));
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.give_back().await?;
    assert_has(
        &trial.relay.show(&id).await?,
        json!({ "state": "ARCHIVED" }),
    );
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

async fn a_copy_stays_behind(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.replay_answer(&id).await?;
    assert_has(&answer, json!({ "replayed": 1 }));
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.give_back().await?;
    let is_hidden =
        |counts: QueueCounts| (counts.events.total(), counts.dead_letters.in_flight) == (0, 1);
    let copy = "a copy is left, and hidden";
    trial.relay.stack.until_queues(copy, is_hidden).await?;
    let times = trial.relay.deliveries().remove(&id);
    ensure!(times == Some(1), "delivered once");
    trial.relay.purge().await
}

async fn what_was_not_taken_stays_hidden(trial: &Trial<'_>) -> Result<()> {
    trial.dead().await?;
    trial.take_away().await?;
    let request = json!({ "action": "replay", "filter": { "statusCode": 422 } });
    let answer = trial.relay.replay(request).await?;
    assert_has(&answer, json!({ "skipped": 1, "remaining": 1 }));
    let hidden = "messages stay hidden";
    let is_it = |line: &Value| line.to_string().contains(hidden);
    trial
        .relay
        .until_logged(Function::Replay, 1, hidden, is_it)
        .await?;
    let counts = trial.relay.stack.queue_counts().await?.dead_letters;
    ensure!((counts.visible, counts.in_flight) == (0, 1), "{counts:?}");
    trial.give_back().await?;
    trial.relay.purge().await
}

async fn a_lease_stands(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    assert_has(&trial.replay_answer(&id).await?, json!({ "replayed": 1 }));
    trial.until_logged(Function::Replay).await?;
    let reconcile = json!({ "action": "reconcile" });
    trial.relay.replay_fails(reconcile.clone(), "Busy").await?;
    trial.give_back().await?;
    trial.delivered_once(&id).await?;
    trial.relay.end_lease("dead-letters").await?;
    trial.relay.replay(reconcile).await.map(drop)
}

async fn nothing_is_archived(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    trial.refused(archive, "ArchiveError").await?;
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.replay(&id).await
}

async fn nothing_is_restored(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    let answer = trial.relay.replay(archive).await?;
    let restore = json!({ "action": "restore", "key": answer["keys"][0] });
    trial.take_away().await?;
    trial.refused(restore.clone(), "ArchiveError").await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

/// A retry over HTTP that cannot be finished in time, since the event lies behind thousands of
/// others.
async fn nothing_goes_on_in_the_background(trial: &Trial<'_>) -> Result<()> {
    // More than a fast machine goes through in the time of the call.
    const IN_FRONT: u32 = 12_000;
    let bodies = (0..IN_FRONT).map(|number| format!("{{\"in front\":{number}}}"));
    trial.relay.send_to_dead_letters(bodies).await?;
    let id = trial.accept("missing, behind all others").await?;
    trial.relay.until_dead(IN_FRONT + 1).await?;
    trial.relay.set_timeout(Function::Replay, 10).await?;
    let retry = format!("/dlq/{id}/retry");
    trial.take_away().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    let comes_later = !answer.header("retry-after").is_empty();
    ensure!(answer.status == 503 && comes_later, "{answer:?}");
    trial.until_logged(Function::Replay).await?;
    trial.give_back().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    ensure!(answer.status == 202, "{answer:?}");
    assert_has(&trial.relay.show(&id).await?, json!({ "state": "DEAD" }));
    trial.relay.purge().await?;
    trial.relay.set_timeout(Function::Replay, 900).await
}

pub(super) async fn a_broken_breaker_holds_on(trial: &Trial<'_>) -> Result<()> {
    let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
    trial.relay.save_circuit(State::Open, an_hour_ago).await?;
    trial.take_away().await?;
    let schedule = json!({ "action": "reconcile", "ifNeeded": true });
    trial.relay.replay(schedule.clone()).await?;
    trial.until_logged(Function::Replay).await?;
    let status = async || trial.relay.replay(json!({ "action": "status" })).await;
    assert_has(&status().await?, json!({ "/breaker/state": "open" }));
    trial.give_back().await?;
    trial.relay.replay(schedule).await?;
    assert_has(&status().await?, json!({ "/breaker/state": "closed" }));
    Ok(())
}

pub(super) async fn try_schedules(relay: &Relay) -> Result<()> {
    let probes = probes! { "lambda:InvokeFunction" => no_schedule_comes };
    try_each(relay, "ScheduleRole", &[], &probes).await
}

async fn no_schedule_comes(trial: &Trial<'_>) -> Result<()> {
    let relay = trial.relay;
    relay
        .send_to_dead_letters(["{\"pasted\":1}".to_owned()])
        .await?;
    let listed = async || {
        let list = relay.replay(json!({ "action": "list" })).await?;
        anyhow::Ok(list["count"].as_u64())
    };
    trial.take_away().await?;
    relay.run_schedule("Reconcile", "refused").await?;
    wait::until("the schedule is refused", || async {
        let log = std::fs::read_to_string(relay.stack.emulator().log_file())?;
        Ok(log.contains("refused may not invoke").then_some(()))
    })
    .await?;
    ensure!(listed().await? == Some(0), "it has no record");
    trial.give_back().await?;
    relay.run_schedule("Reconcile", "allowed").await?;
    wait::until("the schedule has given it its record", || async {
        Ok((listed().await? == Some(1)).then_some(()))
    })
    .await?;
    relay.until_dead(1).await?;
    relay.purge().await
}
