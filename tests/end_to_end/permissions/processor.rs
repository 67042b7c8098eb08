//! Permissions of the processor, removed one at a time.

use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "dynamodb:PutItem" => an_event_that_cannot_be_claimed_waits,
        "dynamodb:GetItem" => an_event_that_cannot_be_read_waits,
        "dynamodb:UpdateItem" => an_event_whose_attempt_cannot_be_counted_is_delivered,
        "dynamodb:DeleteItem" => a_body_that_cannot_be_deleted_is_not_shown,
        "secretsmanager:GetSecretValue" => an_event_waits_for_the_credentials,
        "sqs:SendMessage" => event_stays_without_a_dead_letter,
        "sqs:ChangeMessageVisibility" => a_retry_comes_late,
    };
    let exempt = [&OF_THE_RUNTIME[..], &OF_THE_MAPPING].concat();
    try_each(relay, "ProcessorRole", &exempt, &probes).await
}

async fn an_event_that_cannot_be_claimed_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.accept("unclaimed").await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(!trial.was_tried(&id), "delivered without a claim");
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_that_cannot_be_read_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // The first attempt needs no look at the table, and fails.
    let id = trial.accept("late, unread").await?;
    trial.until_logged(Function::Processor).await?;
    let tries = trial.relay.target.requests_of(&id).len();
    ensure!(
        tries == 1,
        "attempted again although another worker might have it"
    );
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_whose_attempt_cannot_be_counted_is_delivered(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    trial.relay.kill(Function::Processor).await?;
    let id = trial.accept("uncounted").await?;
    trial.delivered_once(&id).await?;
    trial.until_logged(Function::Processor).await?;
    trial.give_back().await
}

async fn a_body_that_cannot_be_deleted_is_not_shown(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    ensure!(
        trial.relay.show(&id).await?["body"].is_string(),
        "it is dead"
    );
    trial.take_away().await?;
    trial.replay(&id).await?;
    trial.until_logged(Function::Processor).await?;
    let shown = trial.relay.show(&id).await?;
    assert_has(&shown, json!({ "state": "DELIVERED", "body": null }));
    trial.give_back().await
}

async fn an_event_waits_for_the_credentials(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    trial.relay.kill(Function::Processor).await?;
    let id = trial.accept("without credentials").await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(
        !trial.was_tried(&id),
        "delivered without the target's credentials"
    );
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn event_stays_without_a_dead_letter(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.accept("missing, no dead letter").await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(trial.relay.held().await? == (1, 0));
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    let tries = trial.relay.target.requests_of(&id).len();
    ensure!(tries == 1, "what was refused for good is not tried again");
    trial.replay(&id).await
}

pub(super) async fn a_retry_comes_late(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.accept("late, and later").await?;
    trial.until_logged(Function::Processor).await?;
    trial.delivered_once(&id).await?;
    let requests = trial.relay.target.requests_of(&id);
    let pause = requests[1].at - requests[0].at;
    // The queue's own visibility timeout, less the delivery.
    ensure!(
        pause >= Duration::from_secs(8),
        "it came back after {pause:?}"
    );
    trial.give_back().await
}
