//! Events that do not reach the target in their place: what becomes of them, of their conversation,
//! and how they are marked.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::QueueAttributeName;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use super::conversations::{Conversations, acceptance};
use super::{mark_of, message, start, text_of};
use crate::relay::{RETRIES, Relay, assert_has, webhook};

const MESSAGES: usize = 4;

/// The number of the message that fails in each conversation.
const FAILS: usize = 1;

/// The target asks for more time than a conversation waits.
const PARAMETERS: [(&str, &str); 4] = [
    RETRIES[0],
    RETRIES[1],
    ("MaxReceiveCount", "2"),
    ("OrderPatienceSeconds", "30"),
];
const TOO_LONG: &str = "31";

/// Fails one event of each conversation for as long as it comes in its place.
fn fail_in_place(request: &ReceivedRequest) -> Answer {
    let text = text_of(request);
    match text.split_once('-') {
        _ if mark_of(request).is_some() => Answer::status(200),
        Some((_, "0 1")) => Answer::status(404),
        Some((_, "1 1")) => Answer::status(503),
        Some((_, "2 1")) => Answer {
            retry_after: Some(TOO_LONG.to_owned()),
            ..Answer::status(503)
        },
        _ => Answer::status(200),
    }
}

fn marked(relay: &Relay, id: &str) -> Result<Option<String>> {
    let accepted = acceptance(relay, id).context("a delivery")?;
    Ok(mark_of(&accepted).map(str::to_owned))
}

#[tokio::test]
async fn conversation_goes_on_after_an_event_that_cannot_be_delivered() -> Result<()> {
    let relay = start("conversation", &PARAMETERS).await?;
    relay.target.behave(Behaviour::script(fail_in_place));
    let mut chats = Conversations::send(&relay, "chat", 3, 0..MESSAGES).await?;
    let plain = relay.accept(&webhook("of no conversation")).await?;
    relay.until_dead(2).await?;

    let failed: Vec<_> = chats.0.iter_mut().map(|chat| chat.remove(FAILS)).collect();
    let tally = chats.tally(&relay)?;
    ensure!((tally.inversions, tally.marked) == (0, 0), "{tally}");
    assert_eq!(marked(&relay, &plain)?, None);
    let [refused, exhausted, late] = &failed[..] else {
        unreachable!("three conversations")
    };
    for (id, reason, attempts) in [(refused, "permanent", 1), (exhausted, "exhausted", 2)] {
        let dead = json!({ "state": "DEAD", "reason": reason, "attemptsMade": attempts });
        assert_has(&relay.show(id).await?, dead);
    }
    assert_eq!(marked(&relay, late)?.as_deref(), Some("late"));

    let request = json!({ "action": "replay", "eventIds": [refused, exhausted] });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 2 }));
    relay.until_empty().await?;
    for id in [refused, exhausted] {
        assert_eq!(marked(&relay, id)?.as_deref(), Some("replayed"));
    }
    let all = chats.0.iter().flatten().chain(&failed).chain([&plain]);
    relay.assert_delivered_once(&all.collect::<Vec<_>>());
    far_net_ends_in_the_one_list(&relay).await
}

/// URL of the dead-letter queue behind the ordered queue.
pub(super) async fn far_net(relay: &Relay) -> Result<String> {
    let mut variables = relay.stack.function_variables().await?;
    let url = variables.remove("ORDERED_DEAD_LETTER_QUEUE_URL");
    url.context("a dead-letter queue of the ordered queue")
}

/// Lets SQS move the one message of the ordered queue, as it does after a thousand receives.
async fn redrive(relay: &Relay) -> Result<()> {
    let (sqs, queue) = (relay.stack.sqs(), relay.stack.ordered_queue());
    let queue = queue.context("an ordered queue")?;
    let name = QueueAttributeName::RedrivePolicy;
    let request = sqs.get_queue_attributes().queue_url(queue);
    let mut attributes = request.attribute_names(name.clone()).send().await?;
    let attributes = attributes.attributes.as_mut().context("attributes")?;
    let policy = attributes.remove(&name).context("a policy")?;
    let mut once: Value = serde_json::from_str(&policy)?;
    ensure!(
        once["maxReceiveCount"].to_string().contains("1000"),
        "{once}"
    );
    once["maxReceiveCount"] = 1.into();
    let set = |policy: String| {
        let request = sqs.set_queue_attributes().queue_url(queue);
        request.attributes(name.clone(), policy).send()
    };
    set(once.to_string()).await?;
    wait::until("the message is moved", || async {
        let request = sqs.receive_message().queue_url(queue);
        request.visibility_timeout(0).send().await?;
        Ok((relay.stack.count(queue).await?.total() == 0).then_some(()))
    })
    .await?;
    set(policy).await?;
    Ok(())
}

async fn far_net_ends_in_the_one_list(relay: &Relay) -> Result<()> {
    relay.set_delivering(false).await?;
    let id = relay.accept(&message("far-net", 0)).await?;
    redrive(relay).await?;
    relay.set_delivering(true).await?;
    let status = relay.replay(json!({ "action": "status" })).await?;
    let expected = json!({
        "/order/mode": "conversation",
        "/order/queue/visible": 0,
        "/order/deadLetters/visible": 1,
    });
    assert_has(&status, expected);

    let reconcile = json!({ "action": "reconcile" });
    assert_has(&relay.replay(reconcile).await?, json!({ "recorded": 1 }));
    let far_net = far_net(relay).await?;
    ensure!(
        relay.stack.count(&far_net).await?.total() == 0,
        "one is left"
    );
    relay.until_dead(1).await?;
    let dead = json!({ "state": "DEAD", "conversationId": "far-net" });
    assert_has(&relay.show(&id).await?, dead);

    let request = json!({ "action": "replay", "eventIds": [id] });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 1 }));
    relay.until_empty().await?;
    assert_eq!(marked(relay, &id)?.as_deref(), Some("replayed"));
    Ok(())
}
