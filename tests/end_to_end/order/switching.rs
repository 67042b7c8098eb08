//! A running stack whose order is switched on and off while both queues hold events.

use anyhow::{Context as _, Result, ensure};
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};

use super::conversations::{Conversations, acceptance};
use super::endings::far_net;
use super::{mark_of, start};
use crate::relay::Relay;

const MESSAGES: usize = 3;

/// An event fails for two minutes before it is dead. Events of a processor that a deploy has ended
/// come back after six times its time-out.
const PARAMETERS: [(&str, &str); 6] = [
    ("ProcessorTimeoutSeconds", "5"),
    ("TargetTimeoutSeconds", "2"),
    ("BackoffBaseSeconds", "5"),
    ("BackoffCapSeconds", "5"),
    ("MaxReceiveCount", "25"),
    ("OrderPatienceSeconds", "900"),
];

/// Sends messages of two conversations, which are the same each time.
async fn send(relay: &Relay, first: usize) -> Result<Conversations> {
    Conversations::send(relay, "chat", 2, first..first + MESSAGES).await
}

async fn until_at_target(relay: &Relay, sent: &Conversations) -> Result<()> {
    let heads = sent
        .0
        .iter()
        .filter_map(|conversation| conversation.first());
    for id in heads {
        relay
            .until_at_target(|request| request.event_id == *id)
            .await?;
    }
    Ok(())
}

/// Checks that all of them have arrived with this mark.
fn check_marks(relay: &Relay, sent: &Conversations, mark: Option<&str>) -> Result<()> {
    for id in sent.0.iter().flatten() {
        let accepted = acceptance(relay, id).with_context(|| format!("{id} was lost"))?;
        let found = mark_of(&accepted);
        ensure!(found == mark, "{id} is marked {found:?}, and not {mark:?}");
    }
    Ok(())
}

#[tokio::test]
async fn order_is_switched_on_and_off_without_loss() -> Result<()> {
    let mut relay = start("none", &PARAMETERS).await?;
    relay.target.behave(Behaviour::Status {
        code: 503,
        retry_after: None,
    });
    let before = send(&relay, 0).await?;
    until_at_target(&relay, &before).await?;

    for order in ["draining", "conversation"] {
        relay.stack.redeploy(&[("Order", order)]).await?;
    }
    let ordered = send(&relay, MESSAGES).await?;
    until_at_target(&relay, &ordered).await?;
    let heads = ordered
        .0
        .iter()
        .map(|conversation| conversation[0].as_str());
    let heads: Vec<_> = heads.collect();
    wait::until("both conversations wait", || async {
        let status = relay.replay(json!({ "action": "status" })).await?;
        let items = status["order"]["waiting"]["items"].as_array();
        let items = items.context("waiting conversations")?;
        let waits = |id: &&str| items.iter().any(|item| item["eventId"] == **id);
        Ok(heads.iter().all(waits).then_some(()))
    })
    .await?;

    relay.stack.redeploy(&[("Order", "draining")]).await?;
    let after = send(&relay, 2 * MESSAGES).await?;
    let queue = relay.stack.ordered_queue().context("an ordered queue")?;
    let queue = queue.to_owned();
    let held = relay.stack.count(&queue).await?.total() as usize;
    ensure!(held == 2 * MESSAGES, "{held} in the ordered queue");
    let status = relay.replay(json!({ "action": "status" })).await?;
    ensure!(status["order"]["mode"] == "draining", "{status}");
    relay.target.behave(Behaviour::Fine);
    relay.until_empty().await?;
    check_marks(&relay, &before, Some("late"))?;
    check_marks(&relay, &ordered, None)?;
    check_marks(&relay, &after, Some("late"))?;
    let tally = ordered.tally(&relay)?;
    ensure!(tally.inversions == 0, "{tally}");

    let dead_letters = far_net(&relay).await?;
    relay.stack.redeploy(&[("Order", "none")]).await?;
    let unordered = send(&relay, 3 * MESSAGES).await?;
    relay.until_empty().await?;
    check_marks(&relay, &unordered, None)?;
    let status = relay.replay(json!({ "action": "status" })).await?;
    ensure!(status["order"] == Value::Null, "{status}");
    // A new queue cannot have the name of one that is there.
    for queue in [queue, dead_letters] {
        let request = relay.stack.sqs().delete_queue().queue_url(queue);
        request.send().await?;
    }
    queue_outlives_an_order_that_ends_at_once(&mut relay).await
}

async fn queue_outlives_an_order_that_ends_at_once(relay: &mut Relay) -> Result<()> {
    let order = |order| [("Order", order)];
    relay.stack.redeploy(&order("conversation")).await?;
    relay.set_delivering(false).await?;
    send(relay, 4 * MESSAGES).await?;
    let queue = relay.stack.ordered_queue().context("an ordered queue")?;
    let queue = queue.to_owned();
    relay.stack.redeploy(&order("none")).await?;
    let held = relay.stack.count(&queue).await?.total() as usize;
    ensure!(held == 2 * MESSAGES, "{held} in the ordered queue");
    Ok(())
}
