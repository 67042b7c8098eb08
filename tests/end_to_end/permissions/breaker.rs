//! Permissions of the breaker, removed one at a time.

use genesys_relay::domain::circuit::State;
use local::genesys_cloud::GenesysCloud;
use local::stack::{FunctionError, Stack, StackOptions};
use local::target::Target;

use super::*;

#[tokio::test]
async fn the_breaker_says_what_it_may_not_do_and_delivery_goes_on() -> Result<()> {
    let probes: [(&str, Probe); 8] = [
        ("dynamodb:GetItem", |trial| {
            a_run_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:BatchGetItem", |trial| {
            a_run_fails(trial, "TableError").boxed_local()
        }),
        ("dynamodb:PutItem", |trial| {
            a_run_fails(trial, "TableError").boxed_local()
        }),
        ("lambda:GetEventSourceMapping", |trial| {
            a_run_fails(trial, "EventSourceError").boxed_local()
        }),
        ("lambda:UpdateEventSourceMapping", |trial| {
            it_cannot_open(trial).boxed_local()
        }),
        ("lambda:InvokeFunction", |trial| {
            it_cannot_probe(trial).boxed_local()
        }),
        ("sqs:GetQueueAttributes", |trial| {
            a_run_does_not_know_what_waits(trial).boxed_local()
        }),
        ("dynamodb:DeleteItem", |trial| {
            the_lease_of_the_breaker_stands(trial).boxed_local()
        }),
    ];
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let relay = Relay {
        stack,
        target,
        genesys: GenesysCloud::start().await?,
    };
    try_on(&relay, "BreakerRole", &OF_THE_RUNTIME, &probes).await
}

/// Invokes the breaker. A run of its schedule may be in progress.
async fn ask(trial: &Trial<'_>, action: &str) -> Result<Result<Value, FunctionError>> {
    wait::until("the breaker is free", || async {
        let answer = trial
            .relay
            .stack
            .invoke(Function::Breaker, &json!({ "action": action }))
            .await?;
        let is_busy = answer
            .as_ref()
            .is_err_and(|error| error.0["errorType"] == "Busy");
        Ok((!is_busy).then_some(answer))
    })
    .await
}

async fn refused(trial: &Trial<'_>, action: &str, error_type: &str) -> Result<()> {
    let Err(error) = ask(trial, action).await? else {
        anyhow::bail!("{action} was done")
    };
    ensure!(
        error.0["errorType"] == error_type && trial.is_named_in(&error.to_string()),
        "{error}"
    );
    Ok(())
}

async fn done(trial: &Trial<'_>, action: &str) -> Result<Value> {
    ask(trial, action)
        .await?
        .map_err(|error| anyhow::anyhow!("{action}: {error}"))
}

async fn an_event_is_delivered(trial: &Trial<'_>) -> Result<()> {
    let id = trial
        .relay
        .accept(&webhook(&format!("fine, {}", trial.action)))
        .await?;
    trial.delivered_once(&id).await
}

async fn a_run_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    trial.take_away().await?;
    refused(trial, "run", error_type).await?;
    an_event_is_delivered(trial).await?;
    trial.give_back().await?;
    done(trial, "run").await.map(drop)
}

async fn it_cannot_open(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    refused(trial, "open", "EventSourceError").await?;
    an_event_is_delivered(trial).await?;
    trial.give_back().await?;
    close(trial).await
}

async fn close(trial: &Trial<'_>) -> Result<()> {
    done(trial, "close").await?;
    let shown = done(trial, "automatic").await?;
    ensure!(
        shown["state"] == "closed" && shown["forced"] == false,
        "{shown}"
    );
    an_event_is_delivered(trial).await
}

async fn it_cannot_probe(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // It opened a minute ago: a probe is due as soon as the mapping is disabled.
    trial
        .relay
        .save_circuit(
            State::Open,
            Timestamp::now() - jiff::SignedDuration::from_mins(1),
        )
        .await?;
    wait::until("a probe is tried", || async {
        let shown = done(trial, "run").await?;
        ensure!(shown["state"] == "open", "{shown}");
        Ok(trial.is_named_in(&shown.to_string()).then_some(()))
    })
    .await?;
    let id = trial.relay.accept(&webhook("held back")).await?;
    trial.give_back().await?;
    wait::until("a probe is let through", || async {
        Ok((done(trial, "run").await?["state"] == "closing").then_some(()))
    })
    .await?;
    trial.delivered_once(&id).await?;
    close(trial).await
}

async fn a_run_does_not_know_what_waits(trial: &Trial<'_>) -> Result<()> {
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
    let Err(error) = trial
        .relay
        .stack
        .invoke(Function::Breaker, &json!({ "action": "run" }))
        .await?
    else {
        anyhow::bail!("it ran");
    };
    ensure!(error.0["errorType"] == "Busy", "{error}");
    trial.give_back().await?;
    // It would end by itself, with the time that the run had.
    let request = trial
        .relay
        .stack
        .dynamodb()
        .delete_item()
        .table_name(trial.relay.stack.output("EventsTableName")?);
    request
        .key("event_id", AttributeValue::S("lease#breaker".to_owned()))
        .send()
        .await?;
    an_event_is_delivered(trial).await
}
