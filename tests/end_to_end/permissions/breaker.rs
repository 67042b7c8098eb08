//! Permissions of the breaker, removed one at a time.

use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "dynamodb:GetItem" => |it| a_run_fails(it, "TableError"),
        "dynamodb:BatchGetItem" => |it| a_run_fails(it, "TableError"),
        "dynamodb:PutItem" => |it| a_run_fails(it, "TableError"),
        "lambda:GetEventSourceMapping" => |it| a_run_fails(it, "EventSourceError"),
        "lambda:UpdateEventSourceMapping" => it_cannot_open,
        "lambda:InvokeFunction" => it_cannot_probe,
        "sqs:GetQueueAttributes" => a_run_does_not_know_what_waits,
        "dynamodb:DeleteItem" => the_lease_of_the_breaker_stands,
    };
    try_each(relay, "BreakerRole", &OF_THE_RUNTIME, &probes).await
}

async fn ask(trial: &Trial<'_>, action: &str) -> Result<Result<Value, FunctionError>> {
    let request = json!({ "action": action });
    trial.relay.stack.invoke(Function::Breaker, &request).await
}

async fn refused(trial: &Trial<'_>, action: &str, error_type: &str) -> Result<()> {
    let Err(error) = ask(trial, action).await? else {
        anyhow::bail!("{action} was done")
    };
    assert_has(&error.0, json!({ "errorType": error_type }));
    ensure!(trial.is_named_in(&error.to_string()), "{error}");
    Ok(())
}

async fn done(trial: &Trial<'_>, action: &str) -> Result<Value> {
    Ok(ask(trial, action).await??)
}

async fn an_event_is_delivered(trial: &Trial<'_>) -> Result<()> {
    let id = trial.accept(&format!("fine, {}", trial.action)).await?;
    trial.delivered_once(&id).await
}

pub(super) async fn a_run_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    trial.take_away().await?;
    refused(trial, "run", error_type).await?;
    an_event_is_delivered(trial).await?;
    trial.give_back().await?;
    done(trial, "run").await.map(drop)
}

pub(super) async fn it_cannot_open(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    refused(trial, "open", "EventSourceError").await?;
    an_event_is_delivered(trial).await?;
    trial.give_back().await?;
    close(trial).await
}

async fn close(trial: &Trial<'_>) -> Result<()> {
    done(trial, "close").await?;
    let shown = done(trial, "automatic").await?;
    assert_has(&shown, json!({ "state": "closed", "forced": false }));
    an_event_is_delivered(trial).await
}

async fn it_cannot_probe(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // It opened a minute ago: a probe is due as soon as the mapping is disabled.
    let a_minute_ago = Timestamp::now() - SignedDuration::from_mins(1);
    trial.relay.save_circuit(State::Open, a_minute_ago).await?;
    wait::until("a probe is tried", || async {
        let shown = done(trial, "run").await?;
        ensure!(shown["state"] == "open", "{shown}");
        Ok(trial.is_named_in(&shown.to_string()).then_some(()))
    })
    .await?;
    let id = trial.accept("held back").await?;
    trial.give_back().await?;
    wait::until("a probe succeeds", || async {
        Ok((done(trial, "run").await?["state"] == "closing").then_some(()))
    })
    .await?;
    trial.delivered_once(&id).await?;
    close(trial).await
}

pub(super) async fn a_run_does_not_know_what_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    done(trial, "run").await?;
    trial.until_logged(Function::Breaker).await?;
    trial.give_back().await?;
    an_event_is_delivered(trial).await
}

async fn the_lease_of_the_breaker_stands(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    done(trial, "run").await?;
    trial.until_logged(Function::Breaker).await?;
    let Err(error) = ask(trial, "run").await? else {
        anyhow::bail!("it ran");
    };
    assert_has(&error.0, json!({ "errorType": "Busy" }));
    trial.give_back().await?;
    trial.relay.end_lease("breaker").await?;
    an_event_is_delivered(trial).await
}
