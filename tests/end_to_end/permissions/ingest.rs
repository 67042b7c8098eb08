//! Permissions of ingest, removed one at a time.

use super::*;

#[tokio::test]
async fn ingest_accepts_nothing_that_it_may_not_keep_or_check() -> Result<()> {
    let probes: [(&str, Probe); 2] = [
        ("sqs:SendMessage", |trial| {
            nothing_is_accepted_that_cannot_be_sent(trial).boxed_local()
        }),
        ("secretsmanager:GetSecretValue", |trial| {
            nothing_is_judged_without_secrets(trial).boxed_local()
        }),
    ];
    try_each("IngestRole", &OF_THE_RUNTIME, &probes).await
}

async fn nothing_is_accepted_that_cannot_be_sent(trial: &Trial<'_>) -> Result<()> {
    let url = trial.relay.stack.webhook_url()?;
    let malformed = Webhook::with_shared_secret("no json");
    trial.take_away().await?;
    for webhook in [webhook("unsent"), malformed.clone()] {
        let (status, answer) = webhook.send(&url).await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let (status, _) = malformed.send(&url).await?;
    ensure!(status == 400, "a malformed body is refused, and kept");
    trial.relay.until_dead(1).await?;
    purge(trial.relay).await?;
    let id = trial.relay.accept(&webhook("unsent")).await?;
    trial.delivered_once(&id).await
}

async fn nothing_is_judged_without_secrets(trial: &Trial<'_>) -> Result<()> {
    let url = trial.relay.stack.webhook_url()?;
    trial.take_away().await?;
    // What has read them keeps them for a while.
    trial.relay.kill(Function::Ingest).await?;
    let forged = Webhook {
        authentication: ("X-Webhook-Secret", "forged".to_owned()),
        ..webhook("unchecked")
    };
    for webhook in [webhook("unchecked"), forged] {
        let (status, answer) = wait::until("the killed process gets no more requests", || async {
            let (status, answer) = webhook.send(&url).await?;
            Ok((status != 502).then_some((status, answer)))
        })
        .await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let accepted = wait::until(
        "they are read again, which is tried at most every few seconds",
        || async {
            let (status, answer) = webhook("unchecked").send(&url).await?;
            Ok((status == 200).then_some(answer))
        },
    )
    .await?;
    trial
        .delivered_once(accepted["eventId"].as_str().unwrap_or_default())
        .await
}
