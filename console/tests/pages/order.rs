//! Order per conversation, on the pages of a stack that keeps it and of one that does not.

use genesys_relay::dead_letters::{OrderMode, OrderedQueues};
use genesys_relay::domain::message::Message;

use super::*;

impl Relay {
    fn in_order(mode: OrderMode) -> Self {
        let mut relay = Self::new();
        let function = Arc::get_mut(&mut relay.replay).expect("not shared yet");
        function.ports.ordered = Some(OrderedQueues {
            mode,
            queue: FakeQueue::default(),
            dead_letters: FakeQueue::default(),
        });
        relay
    }

    /// Attempts the first event of a conversation, or one without, while another waits behind it.
    /// The target answers 503.
    async fn fail(&self, conversation: Option<&str>) -> Result<()> {
        let ports = &self.replay.ports;
        let ordered = ports.ordered.as_ref().map(|ordered| ordered.queue.clone());
        let queue = ordered.clone().filter(|_| conversation.is_some());
        let queue = queue.unwrap_or_else(|| ports.events.clone());
        for number in 0..2 {
            let payload = json!({ "conversationId": conversation, "number": number });
            let body = json!({ "webhookId": "chat", "payload": payload, "timestamp": "2026-01-15T12:00:00Z" });
            let message = Message {
                group: conversation.map(str::to_owned),
                ..refused(body.to_string()).without_reason()
            };
            queue.send(&message.with_identity(FakeClock.now())).await?;
        }
        let order = Order {
            patience: Duration::from_mins(2),
            request_time: Duration::from_secs(1),
        };
        let order = conversation.map(|_| order);
        self.attempt(&queue, order, 503).await
    }
}

#[tokio::test]
async fn waiting_conversations_lead_to_their_events() -> Result<()> {
    let relay = Relay::in_order(OrderMode::Conversation);
    let operator = Operator::of(relay).await?;
    let page = operator.get("/").await?;
    page.says("No problems … Waiting conversations … No conversation waits for an event … Ordered queue … 0 conversations … Ordered dead-letter queue");

    operator.relay.fail(Some("chat-7")).await?;
    let page = operator.get("/").await?;
    page.says(
        "1 conversation</a> waiting for an event that failed … chat-7 … the target answered 503",
    );
    let (_, list) = page.text.split_once("id=\"waiting\"").context("a list")?;
    assert_eq!(list.matches("href=\"/events/").count(), 1);
    let (_, path) = list.split_once("href=\"").context("a link")?;
    let (path, _) = path.split_once('"').context("a link")?;
    let event = operator.get(path).await?;
    event.says(
        "RETRYING … the later events of conversation … chat-7 … have been waiting for it since",
    );
    Ok(())
}

#[tokio::test]
async fn a_queue_that_is_drained_says_so() -> Result<()> {
    let operator = Operator::of(Relay::in_order(OrderMode::Draining)).await?;
    let page = operator.get("/").await?;
    page.says("Ordered queue (draining) … New events go to the events queue.");
    operator.relay.fail(None).await?;
    let record = operator.relay.replay.ports.table.records().remove(0);
    let event = operator
        .get(&format!("/events/{}", record.event_id))
        .await?;
    event.says("No conversation waits for it. … X-Relay-Order: late");
    Ok(())
}

#[tokio::test]
async fn without_order_no_page_mentions_it() -> Result<()> {
    let operator = Operator::of(Relay::new()).await?;
    operator.relay.fail(None).await?;
    let record = operator.relay.replay.ports.table.records().remove(0);
    for path in ["/", &format!("/events/{}", record.event_id)] {
        let page = operator.get(path).await?;
        for word in [
            "Ordered",
            "conversation waits",
            "waiting for",
            "X-Relay-Order",
        ] {
            page.says_not(word);
        }
    }
    Ok(())
}
