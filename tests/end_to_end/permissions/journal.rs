//! Permissions on the journal's queue, the index of conversations and the objects of the archive,
//! removed one at a time. The same permissions on other queues and on the table stay.

use super::ordered::OF_A_FAILURE;
use super::*;

const QUEUE: &str = "-journal";

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let probes = probes! { "sqs:SendMessage" => a_delivery_leaves_a_gap };
    try_each_on(relay, "ProcessorRole", QUEUE, &[], &probes).await?;
    let probes = probes! {
        "sqs:GetQueueAttributes" => nothing_is_journalled,
        "sqs:ReceiveMessage" => nothing_is_journalled,
        "sqs:DeleteMessage" => an_event_is_journalled_and_its_message_stays,
        "sqs:SendMessage" => a_copy_of_a_delivered_event_stays,
    };
    try_each_on(relay, "ReplayRole", QUEUE, &OF_A_FAILURE, &probes).await?;
    let probes = probes! { "dynamodb:Query" => no_conversation_is_found };
    try_each_on(relay, "ReplayRole", "index/conversations", &[], &probes).await
}

fn journal() -> Value {
    json!({ "action": "journal" })
}

/// Sends an event of this probe alone.
async fn accept(trial: &Trial<'_>) -> Result<String> {
    trial.accept(&format!("journal, {}", trial.action)).await
}

async fn a_delivery_leaves_a_gap(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = accept(trial).await?;
    trial.delivered_once(&id).await?;
    trial.until_logged(Function::Processor).await?;
    trial.give_back().await?;
    let tries = trial.relay.target.requests_of(&id).len();
    ensure!(tries == 1, "delivered {tries} times");
    Ok(())
}

async fn nothing_is_journalled(trial: &Trial<'_>) -> Result<()> {
    let id = accept(trial).await?;
    trial.delivered_once(&id).await?;
    trial.take_away().await?;
    trial.refused(journal(), "QueueError").await?;
    trial.give_back().await?;
    let answer = trial.relay.replay(journal()).await?;
    assert_has(&answer, json!({ "journalled": 1 }));
    Ok(())
}

async fn an_event_is_journalled_and_its_message_stays(trial: &Trial<'_>) -> Result<()> {
    let id = accept(trial).await?;
    trial.delivered_once(&id).await?;
    trial.take_away().await?;
    let answer = trial.relay.replay(journal()).await?;
    assert_has(&answer, json!({ "journalled": 1 }));
    trial.until_logged(Function::Replay).await?;
    trial.give_back().await?;
    let queue = trial.relay.stack.output("JournalQueueUrl")?;
    let left = trial.relay.stack.count(queue).await?;
    ensure!((left.visible, left.in_flight) == (0, 1), "{left:?}");
    let request = trial.relay.stack.sqs().purge_queue().queue_url(queue);
    request.send().await?;
    Ok(())
}

/// A delivered event of which a copy is a dead letter, as after a crash at its last receive.
async fn a_copy_of_a_delivered_event_stays(trial: &Trial<'_>) -> Result<()> {
    let id = trial.accept("delivered, and dead as a copy").await?;
    trial.delivered_once(&id).await?;
    let (relay, sqs) = (trial.relay, trial.relay.stack.sqs());
    let (journal, dead) = (
        relay.stack.output("JournalQueueUrl")?,
        relay.stack.output("DeadLetterQueueUrl")?,
    );
    let found = "the event waits for the journal";
    let message = wait::until(found, || async {
        let request = sqs.receive_message().queue_url(journal);
        let received = request.message_attribute_names("All").send().await?;
        Ok(received.messages.unwrap_or_default().pop())
    });
    let message = message.await?;
    let copy = sqs.send_message().queue_url(dead);
    let copy = copy.set_message_body(message.body);
    let copy = copy.set_message_attributes(message.message_attributes);
    copy.send().await?;
    let reconcile = json!({ "action": "reconcile" });
    trial.take_away().await?;
    let answer = relay.replay(reconcile.clone()).await?;
    assert_has(&answer, json!({ "removed": 0 }));
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.give_back().await?;
    wait::until("the copy is journalled and removed", || async {
        let answer = relay.replay(reconcile.clone()).await?;
        Ok((answer["removed"] == 1).then_some(()))
    })
    .await?;
    let left = relay.stack.count(journal).await?;
    ensure!((left.visible, left.in_flight) == (1, 1), "{left:?}");
    sqs.purge_queue().queue_url(journal).send().await?;
    Ok(())
}

async fn no_conversation_is_found(trial: &Trial<'_>) -> Result<()> {
    let request = json!({ "action": "conversation", "id": "a-conversation" });
    trial.take_away().await?;
    trial.refused(request.clone(), "TableError").await?;
    trial.give_back().await?;
    trial.relay.replay(request).await.map(drop)
}

/// Finds no object of the journal.
pub(super) async fn a_dry_run_fails(trial: &Trial<'_>) -> Result<()> {
    let since = Timestamp::now() - SignedDuration::from_hours(1);
    let request = json!({ "action": "resend", "filter": { "since": since }, "dryRun": true });
    trial.take_away().await?;
    trial.refused(request.clone(), "ArchiveError").await?;
    trial.give_back().await?;
    trial.relay.replay(request).await.map(drop)
}

/// An erasure of an archived event, which its object keeps until the erasure is repeated.
pub(super) async fn nothing_is_erased(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    let answer = trial.relay.replay(archive).await?;
    let key = answer["keys"][0].as_str().context("a key")?.to_owned();
    let erase = json!({ "action": "erase", "eventIds": [id], "why": "its customer asks for it" });
    trial.take_away().await?;
    trial.refused(erase.clone(), "ArchiveError").await?;
    trial.give_back().await?;
    ensure!(versions_of(trial.relay, &key).await? > 0, "erased");
    trial.relay.replay(erase).await?;
    let left = versions_of(trial.relay, &key).await?;
    ensure!(left == 0, "{left} versions of {key} are left");
    Ok(())
}

async fn versions_of(relay: &Relay, key: &str) -> Result<usize> {
    let request = relay.stack.s3().list_object_versions();
    let bucket = relay.stack.output("ArchiveBucketName")?;
    let versions = request.bucket(bucket).prefix(key).send().await?;
    Ok(versions.versions().len())
}
