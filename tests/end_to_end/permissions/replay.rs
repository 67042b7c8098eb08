//! Permissions of replay and of its schedules, removed one at a time.

use genesys_relay::domain::circuit::State;
use jiff::SignedDuration;

use super::*;

#[tokio::test]
async fn replay_says_what_it_may_not_do_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 17] = [
        ("sqs:GetQueueAttributes", |trial| {
            a_request_fails(trial, json!({ "action": "status" }), "QueueError").boxed_local()
        }),
        ("sqs:ListMessageMoveTasks", |trial| {
            no_run_begins_beside_a_move(trial).boxed_local()
        }),
        ("sqs:StartMessageMoveTask", |trial| {
            nothing_is_moved(trial).boxed_local()
        }),
        ("sqs:CancelMessageMoveTask", |trial| {
            a_move_goes_on(trial).boxed_local()
        }),
        ("sqs:ReceiveMessage", |trial| {
            a_replay_fails(trial, "QueueError").boxed_local()
        }),
        ("sqs:SendMessage", |trial| {
            what_cannot_be_sent_stays(trial).boxed_local()
        }),
        ("sqs:DeleteMessage", |trial| {
            a_copy_stays_behind(trial).boxed_local()
        }),
        ("sqs:ChangeMessageVisibility", |trial| {
            what_was_not_taken_stays_hidden(trial).boxed_local()
        }),
        ("dynamodb:Query", |trial| {
            a_request_fails(trial, json!({ "action": "list" }), "TableError").boxed_local()
        }),
        ("dynamodb:GetItem", |trial| {
            a_request_fails(trial, json!({ "action": "status" }), "TableError").boxed_local()
        }),
        ("dynamodb:BatchGetItem", |trial| {
            a_replay_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:PutItem", |trial| {
            a_replay_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:DeleteItem", |trial| {
            a_lease_stands(trial).boxed_local()
        }),
        ("s3:PutObject", |trial| {
            nothing_is_archived(trial).boxed_local()
        }),
        ("s3:GetObject", |trial| {
            nothing_is_restored(trial).boxed_local()
        }),
        ("lambda:UpdateEventSourceMapping", |trial| {
            a_broken_breaker_holds_on(trial).boxed_local()
        }),
        ("lambda:InvokeFunction", |trial| {
            nothing_goes_on_in_the_background(trial).boxed_local()
        }),
    ];
    let exempt: Vec<_> = OF_THE_RUNTIME.into_iter().chain(UNJUDGED).collect();
    try_each("ReplayRole", &exempt, &probes).await
}

async fn a_request_fails(trial: &Trial<'_>, request: Value, error_type: &str) -> Result<()> {
    trial.take_away().await?;
    trial.refused(request.clone(), error_type).await?;
    trial.give_back().await?;
    trial.relay.replay(request).await.map(drop)
}

async fn a_replay_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    trial
        .refused(json!({ "action": "replay", "eventIds": [id] }), error_type)
        .await?;
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    trial.replay(&id).await
}

async fn no_run_begins_beside_a_move(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    for request in [
        json!({ "action": "status" }),
        json!({ "action": "reconcile" }),
    ] {
        trial.refused(request, "QueueError").await?;
    }
    trial.give_back().await?;
    let status = trial.relay.replay(json!({ "action": "status" })).await?;
    ensure!(
        status["run"].is_null(),
        "a run that did not begin holds no lease: {status}"
    );
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
    let bodies: Vec<_> = (0..200)
        .map(|number| format!("{{\"pasted\":{number}}}"))
        .collect();
    trial.relay.send_to_dead_letters(&bodies).await?;
    trial
        .relay
        .replay(json!({ "action": "replay", "all": true, "ratePerSecond": 1 }))
        .await?;
    let cancel = json!({ "action": "cancel" });
    trial.take_away().await?;
    trial.refused(cancel.clone(), "QueueError").await?;
    trial.give_back().await?;
    let answer = trial.relay.replay(cancel).await?;
    ensure!(answer["cancelled"] == true, "{answer}");
    purge(trial.relay).await
}

async fn what_cannot_be_sent_stays(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial
        .relay
        .replay(json!({ "action": "replay", "eventIds": [id] }))
        .await?;
    ensure!(
        answer["replayed"] == 0 && trial.is_named_in(&answer["failed"].to_string()),
        "{answer}"
    );
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;

    // The way out of the archive leads into the other queue.
    let archived = trial
        .relay
        .replay(json!({ "action": "archive", "olderThanDays": 0 }))
        .await?;
    let restore = json!({ "action": "restore", "key": archived["keys"][0] });
    trial.take_away().await?;
    let answer = trial.relay.replay(restore.clone()).await?;
    ensure!(
        answer["restored"] == 0 && trial.is_named_in(&answer["failed"].to_string()),
        "{answer}"
    );
    trial.give_back().await?;
    let shown = trial.relay.show(&id).await?;
    ensure!(shown["state"] == "ARCHIVED", "{shown}");
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

async fn a_copy_stays_behind(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial
        .relay
        .replay(json!({ "action": "replay", "eventIds": [id] }))
        .await?;
    ensure!(
        answer["replayed"] == 1 && trial.is_named_in(&answer["failed"].to_string()),
        "{answer}"
    );
    trial.give_back().await?;
    let copies = |counts: local::stack::QueueCounts| {
        (counts.events.total(), counts.dead_letters.in_flight) == (0, 1)
    };
    trial
        .relay
        .stack
        .until_queues("a copy is left, and hidden", copies)
        .await?;
    ensure!(
        trial.relay.deliveries().get(&id) == Some(&1),
        "delivered once"
    );
    purge(trial.relay).await
}

async fn what_was_not_taken_stays_hidden(trial: &Trial<'_>) -> Result<()> {
    trial.dead().await?;
    trial.take_away().await?;
    let answer = trial
        .relay
        .replay(json!({ "action": "replay", "filter": { "statusCode": 422 } }))
        .await?;
    ensure!(
        (&answer["skipped"], &answer["remaining"]) == (&json!(1), &json!(1)),
        "{answer}"
    );
    trial
        .until_log_says(Function::Replay, |line| {
            line.contains("dead letters stay hidden")
        })
        .await?;
    let counts = trial.relay.stack.queue_counts().await?.dead_letters;
    ensure!((counts.visible, counts.in_flight) == (0, 1), "{counts:?}");
    trial.give_back().await?;
    purge(trial.relay).await
}

async fn a_lease_stands(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial
        .relay
        .replay(json!({ "action": "replay", "eventIds": [id] }))
        .await?;
    ensure!(answer["replayed"] == 1, "{answer}");
    trial.until_logged(Function::Replay).await?;
    trial
        .relay
        .replay_fails(json!({ "action": "reconcile" }), "Busy")
        .await?;
    trial.give_back().await?;
    trial.delivered_once(&id).await?;
    // It would end by itself, with the time that the run had.
    let request = trial
        .relay
        .stack
        .dynamodb()
        .delete_item()
        .table_name(trial.relay.stack.output("EventsTableName")?);
    request
        .key(
            "event_id",
            AttributeValue::S("lease#dead-letters".to_owned()),
        )
        .send()
        .await?;
    trial
        .relay
        .replay(json!({ "action": "reconcile" }))
        .await
        .map(drop)
}

async fn nothing_is_archived(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    trial
        .refused(
            json!({ "action": "archive", "olderThanDays": 0 }),
            "ArchiveError",
        )
        .await?;
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.replay(&id).await
}

async fn nothing_is_restored(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let answer = trial
        .relay
        .replay(json!({ "action": "archive", "olderThanDays": 0 }))
        .await?;
    let restore = json!({ "action": "restore", "key": answer["keys"][0] });
    trial.take_away().await?;
    // What may not be read and what is not there are the same to S3.
    let error = trial
        .relay
        .replay_fails(restore.clone(), "ArchiveError")
        .await?;
    ensure!(error.to_string().contains("can be read"), "{error}");
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

/// A retry over HTTP that cannot be finished in time, since the event lies behind thousands of
/// others.
async fn nothing_goes_on_in_the_background(trial: &Trial<'_>) -> Result<()> {
    let bodies: Vec<_> = (0..3000)
        .map(|number| format!("{{\"in front\":{number}}}"))
        .collect();
    trial.relay.send_to_dead_letters(&bodies).await?;
    let id = trial
        .relay
        .accept(&webhook("missing, behind all others"))
        .await?;
    trial.relay.until_dead(3001).await?;
    trial.relay.set_timeout(Function::Replay, 10).await?;
    let retry = format!("/dlq/{id}/retry");
    trial.take_away().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    ensure!(
        answer.status == 503 && !answer.header("retry-after").is_empty(),
        "{answer:?}"
    );
    trial.until_logged(Function::Replay).await?;
    trial.give_back().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    ensure!(answer.status == 202, "{answer:?}");
    ensure!(trial.relay.show(&id).await?["state"] == "DEAD");
    purge(trial.relay).await
}

async fn a_broken_breaker_holds_on(trial: &Trial<'_>) -> Result<()> {
    // Its schedule would have it look.
    trial
        .relay
        .stack
        .set_running(Function::Breaker, false)
        .await?;
    let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
    trial.relay.save_circuit(State::Open, an_hour_ago).await?;
    trial.take_away().await?;
    let schedule = json!({ "action": "reconcile", "ifNeeded": true });
    trial.relay.replay(schedule.clone()).await?;
    trial.until_logged(Function::Replay).await?;
    let state = async || {
        anyhow::Ok(
            trial.relay.replay(json!({ "action": "status" })).await?["breaker"]["state"].take(),
        )
    };
    ensure!(state().await? == "open");
    trial.give_back().await?;
    trial.relay.replay(schedule).await?;
    ensure!(state().await? == "closed");
    trial.relay.stack.set_running(Function::Breaker, true).await
}

#[tokio::test]
async fn a_schedule_does_nothing_without_its_permission() -> Result<()> {
    let probes: [(&str, Probe); 1] = [("lambda:InvokeFunction", |trial| {
        no_schedule_comes(trial).boxed_local()
    })];
    try_each("ScheduleRole", &[], &probes).await
}

async fn no_schedule_comes(trial: &Trial<'_>) -> Result<()> {
    trial
        .relay
        .send_to_dead_letters(&["{\"pasted\":1}".to_owned()])
        .await?;
    trial.take_away().await?;
    trial
        .relay
        .stack
        .aws()
        .schedule_now("Reconcile", "refused")
        .await?;
    wait::until("the schedule is refused", || async {
        let log = std::fs::read_to_string(trial.relay.stack.emulator().log_file())?;
        Ok(log.contains("refused may not invoke").then_some(()))
    })
    .await?;
    let listed =
        async || anyhow::Ok(trial.relay.replay(json!({ "action": "list" })).await?["count"].take());
    ensure!(listed().await? == 0, "it has no record");
    trial.give_back().await?;
    trial
        .relay
        .stack
        .aws()
        .schedule_now("Reconcile", "allowed")
        .await?;
    wait::until("the schedule has given it its record", || async {
        Ok((listed().await? == 1).then_some(()))
    })
    .await?;
    trial.relay.until_dead(1).await?;
    purge(trial.relay).await
}
