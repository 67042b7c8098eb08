//! Permissions of the processor, removed one at a time.

use super::*;

#[tokio::test]
async fn the_processor_delivers_nothing_that_it_may_not_claim_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 7] = [
        ("dynamodb:PutItem", |trial| {
            an_event_that_cannot_be_claimed_waits(trial).boxed_local()
        }),
        ("dynamodb:GetItem", |trial| {
            an_event_that_cannot_be_read_waits(trial).boxed_local()
        }),
        ("dynamodb:UpdateItem", |trial| {
            an_event_whose_attempt_cannot_be_counted_is_delivered(trial).boxed_local()
        }),
        ("dynamodb:DeleteItem", |trial| {
            a_body_that_cannot_be_deleted_is_not_shown(trial).boxed_local()
        }),
        ("secretsmanager:GetSecretValue", |trial| {
            an_event_waits_for_the_credentials(trial).boxed_local()
        }),
        ("sqs:SendMessage", |trial| {
            event_stays_without_a_dead_letter(trial).boxed_local()
        }),
        ("sqs:ChangeMessageVisibility", |trial| {
            a_retry_comes_late(trial).boxed_local()
        }),
    ];
    let exempt: Vec<_> = OF_THE_RUNTIME.into_iter().chain(OF_THE_MAPPING).collect();
    try_each("ProcessorRole", &exempt, &probes).await
}

async fn an_event_that_cannot_be_claimed_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.relay.accept(&webhook("unclaimed")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(
        trial.relay.target.requests_of(&id).is_empty(),
        "delivered without a claim"
    );
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_that_cannot_be_read_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // The first attempt needs no look at the table, and fails.
    let id = trial.relay.accept(&webhook("late, unread")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(
        trial.relay.target.requests_of(&id).len() == 1,
        "attempted again although another worker might have it"
    );
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_whose_attempt_cannot_be_counted_is_delivered(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    trial.relay.kill(Function::Processor).await?;
    let id = trial.relay.accept(&webhook("uncounted")).await?;
    trial.delivered_once(&id).await?;
    trial.until_logged(Function::Processor).await?;
    trial.give_back().await
}

async fn a_body_that_cannot_be_deleted_is_not_shown(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    ensure!(
        !trial.relay.show(&id).await?["body"].is_null(),
        "it is dead"
    );
    trial.take_away().await?;
    trial.replay(&id).await?;
    trial.until_logged(Function::Processor).await?;
    let shown = trial.relay.show(&id).await?;
    ensure!(
        shown["state"] == "DELIVERED" && shown["body"].is_null(),
        "{shown}"
    );
    trial.give_back().await
}

async fn an_event_waits_for_the_credentials(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    trial.relay.kill(Function::Processor).await?;
    let id = trial.relay.accept(&webhook("without credentials")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(
        trial.relay.target.requests_of(&id).is_empty(),
        "delivered without the target's credentials"
    );
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn event_stays_without_a_dead_letter(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial
        .relay
        .accept(&webhook("missing, no dead letter"))
        .await?;
    trial.until_logged(Function::Processor).await?;
    let counts = trial.relay.stack.queue_counts().await?;
    ensure!(
        (counts.events.total(), counts.dead_letters.total()) == (1, 0),
        "{counts:?}"
    );
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    ensure!(
        trial.relay.target.requests_of(&id).len() == 1,
        "what was refused for good is not tried again"
    );
    trial.replay(&id).await
}

async fn a_retry_comes_late(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.relay.accept(&webhook("late, and later")).await?;
    trial.until_logged(Function::Processor).await?;
    trial.delivered_once(&id).await?;
    let requests = trial.relay.target.requests_of(&id);
    let pause = requests[1].at - requests[0].at;
    // The queue's own visibility timeout, six times that of the function, less the delivery.
    ensure!(
        pause >= Duration::from_secs(25),
        "it came back after {pause:?}"
    );
    trial.give_back().await
}
