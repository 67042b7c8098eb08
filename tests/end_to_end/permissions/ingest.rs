//! Permissions of ingest, removed one at a time.

use super::*;

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! {
        "sqs:SendMessage" => nothing_is_accepted_that_cannot_be_sent,
        "secretsmanager:GetSecretValue" => nothing_is_judged_without_secrets,
    };
    try_each(relay, "IngestRole", &OF_THE_RUNTIME, &probes).await
}

async fn nothing_is_accepted_that_cannot_be_sent(trial: &Trial<'_>) -> Result<()> {
    let malformed = Webhook::with_shared_secret("no json");
    trial.take_away().await?;
    for webhook in [webhook("unsent"), malformed.clone()] {
        let (status, answer) = trial.relay.send(&webhook).await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let (status, _) = trial.relay.send(&malformed).await?;
    ensure!(status == 400, "a malformed body is refused, and kept");
    trial.relay.until_dead(1).await?;
    trial.relay.purge().await?;
    let id = trial.accept("unsent").await?;
    trial.delivered_once(&id).await
}

async fn nothing_is_judged_without_secrets(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // A process that has read them keeps them for a while.
    trial.relay.kill(Function::Ingest).await?;
    let forged = Webhook {
        authentication: ("X-Webhook-Secret", "forged".to_owned()),
        ..webhook("unchecked")
    };
    for webhook in [webhook("unchecked"), forged] {
        let answered = wait::until("the killed process gets no more requests", || async {
            let (status, answer) = trial.relay.send(&webhook).await?;
            Ok((status != 502).then_some((status, answer)))
        });
        let (status, answer) = answered.await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let again = "they are read again, which is tried at most every few seconds";
    let accepted = wait::until(again, || async {
        let (status, answer) = trial.relay.send(&webhook("unchecked")).await?;
        Ok((status == 200).then_some(answer))
    });
    let id = accepted.await?["eventId"]
        .as_str()
        .context("an id")?
        .to_owned();
    trial.delivered_once(&id).await
}
