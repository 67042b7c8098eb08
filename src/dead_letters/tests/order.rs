//! The order per conversation: its dead letters, its status, and replays into it.

use std::collections::BTreeSet;

use tokio::time::sleep;

use super::*;
use crate::ports::event_queues::EventQueues;

/// A relay that keeps the order of conversations.
fn in_order() -> Fake {
    let mut relay = relay();
    relay.ports.ordered = Some(OrderedQueues {
        mode: OrderMode::Conversation,
        queue: FakeQueue::default(),
        dead_letters: FakeQueue::default(),
    });
    relay
}

fn ordered(relay: &Fake) -> &OrderedQueues<FakeQueue> {
    relay.ports.ordered.as_ref().expect("order")
}

/// Fails an event as the processor does, in its place in this conversation or out of the order.
async fn fail(relay: &Fake, message: &Message, conversation: Option<String>) {
    let claimed = claim_in(relay, message, conversation.as_deref()).await;
    let now = FakeClock.now();
    let failed = Attempt {
        error: Some("the target answered 503".to_owned()),
        ..attempt(503)
    };
    let step = claimed.retrying(failed, now + Duration::from_secs(2), now);
    relay.ports.table.write(&step).await.expect("written");
}

/// A dead letter of the ordered queue, as SQS moves it.
async fn moved_by_sqs(relay: &Fake, message: &Message) {
    let sent = ordered(relay).dead_letters.send(message).await;
    sent.expect("sent");
    tokio::time::advance(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn reconcile_brings_dead_letters_of_the_order_into_the_list() {
    let relay = in_order();
    let bare = message("a", 1);
    let complete = Message::from_event(event_of(&message("a", 2)));
    let ids = [id_of(&bare), id_of(&complete)];
    let received_at = FakeClock.now();
    for message in [&bare, &complete] {
        moved_by_sqs(&relay, message).await;
    }
    let first = report(&relay, json!({ "action": "reconcile", "ifNeeded": true })).await;
    assert!(first.complete && first.recorded == 2, "{first:?}");
    assert!(ordered(&relay).dead_letters.messages().is_empty());
    let [brought, unchanged] = &relay.ports.dead_letters.messages()[..] else {
        panic!("two messages")
    };
    assert_eq!(*unchanged, complete, "no attribute is lost");
    // A second later SQS would give it another time.
    assert_eq!(brought.identity(FakeClock.now()).1, received_at);
    let Answer::List(list) = handle(&relay, json!({ "action": "list" }))
        .await
        .expect("listed")
    else {
        panic!("no list")
    };
    let listed: BTreeSet<_> = list.items.into_iter().map(|item| item.event_id).collect();
    assert_eq!(listed, ids.into());
}

#[tokio::test(start_paused = true)]
async fn dead_letter_of_the_order_stays_until_its_copy_is_durable() {
    let relay = in_order();
    let dead_letter = message("a", 1);
    die(&relay, &dead_letter, ReasonKind::Exhausted, 503).await;
    moved_by_sqs(&relay, &dead_letter).await;
    tokio::time::advance(Duration::from_mins(20)).await;
    let id = id_of(&dead_letter);
    let asked = report(&relay, json!({ "action": "replay", "eventIds": [id] })).await;
    assert_eq!(asked.failed[0].state, Some(Missing::Pending), "{asked:?}");

    let queue = &relay.ports.dead_letters;
    queue.delay_sends(Duration::from_secs(5));
    let fails = async {
        sleep(Duration::from_secs(1)).await;
        queue.fail_times(1);
    };
    let (failed, ()) = tokio::join!(report(&relay, json!({ "action": "reconcile" })), fails);
    assert!(!failed.complete && failed.failures == 1, "{failed:?}");
    assert!(
        matches!(failed.done, Done::Reconcile { unlisted: 0 }),
        "its message is not gone: {failed:?}"
    );
    let left = ordered(&relay).dead_letters.depth().await.expect("counted");
    assert_eq!((left.visible, visible(&relay).await), (1, 0));

    let again = report(&relay, json!({ "action": "reconcile" })).await;
    assert!(again.complete && again.failures == 0, "{again:?}");
    assert_eq!(visible(&relay).await, 1);
}

#[tokio::test(start_paused = true)]
async fn broken_queue_of_the_order_does_not_stop_a_reconcile() {
    let relay = in_order();
    moved_by_sqs(&relay, &message("a", 1)).await;
    ordered(&relay).dead_letters.refuse_receives();
    send_to_dead_letters(&relay, [message("a", 2)]).await;
    let report = report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!((report.recorded, report.complete), (1, false), "{report:?}");
    assert!(
        report.failed[0].error.contains("ordered queue"),
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn status_shows_the_conversations_that_wait_longest() {
    let status = async |relay: &Fake| {
        json!(
            handle(relay, json!({ "action": "status" }))
                .await
                .expect("read")
        )
    };
    assert!(status(&relay()).await.get("order").is_none());

    let relay = in_order();
    let began = FakeClock.now();
    for number in 0..21 {
        let conversation = format!("conversation-{number}");
        fail(&relay, &message("a", number), Some(conversation)).await;
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    ordered(&relay)
        .queue
        .send(&message("a", 1))
        .await
        .expect("sent");
    let order = status(&relay).await["order"].take();
    assert_eq!(order["mode"], "conversation");
    assert_eq!(
        (&order["queue"]["visible"], &order["deadLetters"]["visible"]),
        (&json!(1), &json!(0))
    );
    let waiting = &order["waiting"];
    assert_eq!(waiting["more"], true);
    assert_eq!(waiting["items"].as_array().map(Vec::len), Some(20));
    let first = json!({
        "conversation": "conversation-0", "eventId": id_of(&message("a", 0)), "since": began,
        "attempts": 1, "nextAttemptAt": began + Duration::from_secs(2),
        "error": "the target answered 503",
    });
    assert_eq!(waiting["items"][0], first);
}

#[tokio::test(start_paused = true)]
async fn an_event_tells_its_place_where_order_is_kept() {
    let order = async |relay: &Fake, message: &Message| {
        let show = json!({ "action": "show", "eventId": id_of(message) });
        json!(handle(relay, show).await.expect("read"))["order"].take()
    };
    let without = relay();
    fail(&without, &message("a", 1), None).await;
    assert_eq!(order(&without, &message("a", 1)).await, json!(null));

    let (relay, began) = (in_order(), FakeClock.now());
    let in_place = json!({ "place": "waiting", "conversation": "c1", "since": began });
    fail(&relay, &message("a", 1), Some("c1".to_owned())).await;
    assert_eq!(order(&relay, &message("a", 1)).await, in_place);
    fail(&relay, &message("a", 2), None).await;
    let late = json!({ "place": "late" });
    assert_eq!(order(&relay, &message("a", 2)).await, late);

    let dead = message("a", 3);
    die(&relay, &dead, ReasonKind::Permanent, 404).await;
    assert_eq!(order(&relay, &dead).await, json!(null));
    tokio::time::advance(Duration::from_mins(2)).await;
    claim(&relay, &dead).await;
    let replayed = json!({ "place": "replayed" });
    assert_eq!(order(&relay, &dead).await, replayed);
}

/// Fakes whose events have two queues.
struct TwoQueues;

impl PortTypes for TwoQueues {
    type Events = EventQueues<FakeQueue>;
    type DeadLetters = FakeQueue;
    type Redrive = FakeQueue;
    type Table = FakeTable;
    type Archive = FakeArchive;
    type Clock = FakeClock;
}

#[tokio::test(start_paused = true)]
async fn replay_goes_to_the_tail_of_its_conversation() {
    let Fake { ports, .. } = in_order();
    let queue = ports.ordered.as_ref().expect("order").queue.clone();
    let relay = DeadLetters::<TwoQueues> {
        ports: Ports {
            events: EventQueues {
                standard: ports.events,
                ordered: Some(queue.clone()),
            },
            ordered: ports.ordered,
            dead_letters: ports.dead_letters,
            journal: None,
            redrive: ports.redrive,
            table: ports.table,
            archive: ports.archive,
            clock: ports.clock,
        },
        settings: Settings::default(),
    };
    let in_conversation = json!({ "conversationId": "c1", "text": "Hi" });
    for body in [in_conversation, json!({ "text": "alone" })] {
        let message = Message {
            body: body.to_string(),
            group: None,
            ..message("a", 1)
        };
        let dead_letter = carrying(message.with_identity(FakeClock.now()), 404);
        relay
            .ports
            .dead_letters
            .send(&dead_letter)
            .await
            .expect("sent");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let request =
        json!({ "action": "replay", "filter": { "reason": "permanent" }, "why": "a test" });
    let request = Request::parse(request, "a test").expect("a request");
    let deadline = Instant::now() + Duration::from_mins(1);
    relay.handle(request, deadline).await.expect("carried out");
    let groups = |queue: &FakeQueue| {
        let messages = queue.messages().into_iter();
        messages.map(|message| message.group).collect::<Vec<_>>()
    };
    assert_eq!(groups(&queue), [Some("c1".to_owned())]);
    assert_eq!(groups(&relay.ports.events.standard), [None]);
}
