//! Permissions on the ordered queue, its dead-letter queue and its event source mapping, removed one
//! at a time. The same permissions on the other queues stay.

use uuid::Uuid;

use super::breaker::{a_run_does_not_know_what_waits, a_run_fails, it_cannot_open};
use super::processor::a_retry_comes_late;
use super::replay::{a_broken_breaker_holds_on, a_request_fails};
use super::*;

const QUEUE: &str = "-ordered.fifo";
const DEAD_LETTERS: &str = "-ordered-dead-letters.fifo";

/// Used where a message can neither be moved nor deleted.
pub(super) const OF_A_FAILURE: [&str; 1] = ["sqs:ChangeMessageVisibility"];

pub(super) async fn try_all(relay: &Relay) -> Result<()> {
    let mappings = relay.mappings().await?;
    let of_ordered = mappings.into_iter().find(|mapping| {
        let source = mapping.event_source_arn.as_deref();
        source.is_some_and(|arn| arn.ends_with(QUEUE))
    });
    let mapping = of_ordered.and_then(|mapping| mapping.uuid);
    let mapping = &*mapping.context("a mapping of the ordered queue")?;

    let probes = probes! { "sqs:SendMessage" => no_message_of_a_conversation_is_accepted };
    try_each_on(relay, "IngestRole", QUEUE, &[], &probes).await?;
    let probes = probes! { "sqs:ChangeMessageVisibility" => a_retry_comes_late };
    try_each_on(relay, "ProcessorRole", QUEUE, &OF_THE_MAPPING, &probes).await?;

    let probes = probes! { "sqs:GetQueueAttributes" => a_run_does_not_know_what_waits };
    try_each_on(relay, "BreakerRole", QUEUE, &[], &probes).await?;
    let probes = probes! {
        "lambda:GetEventSourceMapping" => |it| a_run_fails(it, "EventSourceError"),
        "lambda:UpdateEventSourceMapping" => it_cannot_open,
    };
    try_each_on(relay, "BreakerRole", mapping, &[], &probes).await?;

    let probes = probes! {
        "sqs:GetQueueAttributes" => |it| a_request_fails(it, "status", "QueueError"),
        "sqs:SendMessage" => dead_letter_of_a_conversation_stays,
    };
    try_each_on(relay, "ReplayRole", QUEUE, &[], &probes).await?;
    let probes = probes! {
        "sqs:GetQueueAttributes" => |it| a_request_fails(it, "status", "QueueError"),
        "sqs:ReceiveMessage" => |it| one_stays_behind(it, 0),
        "sqs:DeleteMessage" => |it| one_stays_behind(it, 1),
    };
    try_each_on(relay, "ReplayRole", DEAD_LETTERS, &OF_A_FAILURE, &probes).await?;
    let probes = probes! { "lambda:UpdateEventSourceMapping" => a_broken_breaker_holds_on };
    try_each_on(relay, "ReplayRole", mapping, &[], &probes).await
}

async fn no_message_of_a_conversation_is_accepted(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let (status, answer) = trial.relay.send(&message("unsent", 0)).await?;
    ensure!(status == 503, "{status} {answer}");
    trial.until_logged(Function::Ingest).await?;
    let id = trial.relay.accept(&webhook("of no conversation")).await?;
    trial.delivered_once(&id).await?;
    trial.give_back().await?;
    let id = trial.accept("unsent").await?;
    trial.delivered_once(&id).await
}

async fn dead_letter_of_a_conversation_stays(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.replay_answer(&id).await?;
    assert_has(&answer, json!({ "replayed": 0 }));
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.replay(&id).await
}

/// A dead letter of the ordered queue, of which reconcile brings `brought` copies without the
/// permission.
async fn one_stays_behind(trial: &Trial<'_>, brought: u32) -> Result<()> {
    let (relay, sqs) = (trial.relay, trial.relay.stack.sqs());
    let mut variables = relay.stack.function_variables().await?;
    let queue = variables.remove("ORDERED_DEAD_LETTER_QUEUE_URL");
    let queue = queue.context("a dead-letter queue of the ordered queue")?;
    let request = sqs.send_message().queue_url(&queue).message_body("{}");
    let request = request.message_group_id("conversation");
    let id = Uuid::new_v4().to_string();
    request.message_deduplication_id(id).send().await?;

    trial.take_away().await?;
    let reconcile = json!({ "action": "reconcile" });
    let answer = relay.replay(reconcile.clone()).await?;
    ensure!(trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    let left = relay.stack.count(&queue).await?.total();
    let dead = relay.stack.queue_counts().await?.dead_letters.total();
    ensure!((left, dead) == (1, brought), "{left} left, {dead} brought");
    trial.give_back().await?;
    if brought == 0 {
        relay.replay(reconcile).await?;
        relay.until_dead(1).await?;
        let left = relay.stack.count(&queue).await?.total();
        ensure!(left == 0, "{left} left");
    }
    sqs.purge_queue().queue_url(&queue).send().await?;
    relay.purge().await
}
