//! Work of an operator on dead letters: listing, replaying, discarding.

mod interrupted;
mod moves;
mod outage;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::relay::{REFUSED, Relay, assert_has, name_of, webhook};

/// All dead letters that match, page by page.
async fn list(relay: &Relay, mut request: Value, limit: usize) -> Result<Vec<Value>> {
    request["action"] = "list".into();
    request["limit"] = limit.into();
    let mut items = Vec::new();
    loop {
        let mut page = relay.replay(request.clone()).await?;
        let Value::Array(of_page) = page["items"].take() else {
            bail!("no items: {page}")
        };
        ensure!(
            page["count"] == of_page.len() && of_page.len() <= limit,
            "{page}"
        );
        items.extend(of_page);
        match page["next"].take() {
            Value::Null => return Ok(items),
            next => request["next"] = next,
        }
    }
}

fn ids(items: &[Value]) -> BTreeSet<&str> {
    items
        .iter()
        .filter_map(|item| item["eventId"].as_str())
        .collect()
}

/// Takes messages out of the dead-letter queue, as SQS does in the end.
async fn lose_messages(relay: &Relay, count: usize) -> Result<()> {
    let (sqs, queue) = (relay.stack.sqs(), relay.stack.output("DeadLetterQueueUrl")?);
    let mut lost = 0;
    while lost < count {
        let request = sqs
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(10);
        for message in request.send().await?.messages.unwrap_or_default() {
            let request = sqs.delete_message().queue_url(queue);
            request
                .set_receipt_handle(message.receipt_handle)
                .send()
                .await?;
            lost += 1;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_replay_by_id_says_what_became_of_each_event() -> Result<()> {
    let script = |request: &ReceivedRequest| match name_of(&request.body).as_str() {
        "alive" => Answer {
            retry_after: Some("3600".to_owned()),
            ..Answer::status(503)
        },
        "fine" => Answer::status(200),
        _ => Answer::status(404),
    };
    let relay = Relay::start(Behaviour::script(script), &[]).await?;
    let archived = relay.accept_dead(["archived"]).await?.remove(0);
    let answer = relay
        .replay(json!({ "action": "archive", "olderThanDays": 0 }))
        .await?;
    assert_has(&answer, json!({ "archived": 1 }));
    let discarded = relay.accept_dead(["discarded"]).await?.remove(0);
    let discard = json!({ "action": "discard", "eventIds": [discarded], "why": "a test order" });
    relay.replay(discard).await?;
    let delivered = relay.accept(&webhook("fine")).await?;
    relay.until_empty().await?;
    let [lost, expired] = &relay.accept_dead(["lost", "expired"]).await?[..] else {
        bail!("not two")
    };
    lose_messages(&relay, 2).await?;
    let two_weeks_ago = Timestamp::now() - SignedDuration::from_hours(14 * 24);
    let request = relay.stack.dynamodb().update_item();
    request
        .table_name(relay.stack.output("EventsTableName")?)
        .key("event_id", AttributeValue::S(expired.clone()))
        .update_expression("SET dead_at = :then")
        .expression_attribute_values(":then", AttributeValue::S(two_weeks_ago.to_string()))
        .send()
        .await?;
    let alive = relay.accept(&webhook("alive")).await?;
    relay
        .until_at_target(|request| request.event_id == alive)
        .await?;
    let (dead, other) = (
        relay.accept(&webhook("dead")).await?,
        relay.accept(&webhook("not asked for")).await?,
    );
    let what = "two dead letters, and one event waits for an hour";
    let is_so = |counts: local::stack::QueueCounts| {
        counts.dead_letters.visible == 2 && counts.events.total() == 1
    };
    relay.stack.until_queues(what, is_so).await?;

    relay.target.behave(Behaviour::Fine);
    let expected = [
        (archived.as_str(), "archived"),
        (&discarded, "discarded"),
        (&delivered, "delivered"),
        (lost, "pending"),
        (expired, "expired"),
        (&alive, "alive"),
        // It may be the message in the events queue.
        ("no-such-event", "pending"),
    ];
    let asked = expected.iter().map(|(id, _)| *id).chain([dead.as_str()]);
    let request = json!({ "action": "replay", "eventIds": asked.collect::<Vec<_>>() });
    let answer = relay.replay(request).await?;
    assert_has(
        &answer,
        json!({ "matched": 1, "replayed": 1, "failures": expected.len() }),
    );
    let failed = answer["failed"].as_array().context("failures")?;
    for (id, state) in expected {
        let found = failed.iter().find(|failed| failed["eventId"] == id);
        assert_has(
            found.context(answer.to_string())?,
            json!({ "state": state }),
        );
    }
    relay
        .until_at_target(|request| request.event_id == dead && request.nth == 2)
        .await?;
    relay.assert_delivered_once(&[delivered, dead]);
    assert_has(&relay.show(&other).await?, json!({ "state": "DEAD" }));
    Ok(())
}

#[tokio::test]
async fn event_is_replayed_five_times_unless_forced() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let ids = relay.accept_dead(["missing"]).await?;
    let asked = json!({ "action": "replay", "eventIds": ids });
    for times in 1..=5 {
        assert_has(
            &relay.replay(asked.clone()).await?,
            json!({ "replayed": 1 }),
        );
        relay
            .until_at_target(|request| request.nth == times + 1)
            .await?;
        relay.until_dead(1).await?;
        assert_has(&relay.show(&ids[0]).await?, json!({ "replays": times }));
    }
    for request in [asked.clone(), json!({ "action": "replay", "all": true })] {
        let answer = relay.replay(request).await?;
        let refused =
            json!({ "matched": 0, "failures": 1, "moveTask": null, "/failed/0/eventId": ids[0] });
        assert_has(&answer, refused);
        let error = answer["failed"][0]["error"].as_str();
        assert!(
            error.is_some_and(|error| error.contains("force")),
            "{answer}"
        );
        relay.until_dead(1).await?;
    }
    relay.target.behave(Behaviour::Fine);
    let mut forced = asked;
    forced["force"] = true.into();
    assert_has(&relay.replay(forced).await?, json!({ "replayed": 1 }));
    relay.until_empty().await?;
    assert_has(&relay.show(&ids[0]).await?, json!({ "state": "DELIVERED" }));
    Ok(())
}

#[tokio::test]
async fn a_discarded_event_is_gone_and_status_shows_the_rest() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let ids = relay.accept_dead(["one", "two", "three"]).await?;
    let why = "a test order";
    let request = json!({ "action": "discard", "eventIds": [ids[1]], "why": why });
    assert_has(
        &relay.replay(request.clone()).await?,
        json!({ "discarded": 1, "remaining": 2 }),
    );
    relay.until_dead(2).await?;
    let discarded = json!({ "state": "DISCARDED", "/history/0/why": why });
    assert_has(&relay.show(&ids[1]).await?, discarded);
    let again = relay.replay(request).await?;
    assert_has(
        &again,
        json!({ "discarded": 0, "/failed/0/state": "discarded" }),
    );

    let items = list(&relay, json!({}), 10).await?;
    assert_eq!(
        self::ids(&items),
        BTreeSet::from([ids[0].as_str(), &ids[2]])
    );
    let status = relay.replay(json!({ "action": "status" })).await?;
    let expected = json!({
        "queue": { "visible": 0, "inFlight": 0, "delayed": 0 },
        "deadLetters": { "visible": 2, "inFlight": 0, "delayed": 0 },
        "moveTask": null,
        "run": null,
    });
    assert_has(&status, expected);
    let oldest: Timestamp = items[0]["receivedAt"].as_str().context("a time")?.parse()?;
    let most = Timestamp::now().duration_since(oldest).as_secs();
    let age = status["deadLettersAgeSeconds"].as_i64();
    assert!(age.is_some_and(|age| (0..=most).contains(&age)), "{status}");

    // The same event comes once more.
    relay.target.behave(Behaviour::Fine);
    assert_eq!(relay.accept(&webhook("two")).await?, ids[1]);
    relay.until_dead(2).await?;
    assert!(relay.deliveries().is_empty());

    // An event that comes once more while it is dead is delivered. A sweep removes its message.
    assert_eq!(relay.accept(&webhook("one")).await?, ids[0]);
    relay.until_at_target(|request| request.nth == 2).await?;
    relay.until_dead(2).await?;
    let delivered = json!({ "state": "DELIVERED", "attemptsMade": 2, "replays": 1 });
    assert_has(&relay.show(&ids[0]).await?, delivered);
    relay.replay(json!({ "action": "reconcile" })).await?;
    relay.until_dead(1).await
}

#[tokio::test]
async fn dead_letter_sent_by_hand_gets_its_record() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let pasted = |number: u8| format!("{{\"pasted\":{number}, \"conversationId\":\"c-{number}\"}}");
    relay
        .send_to_dead_letters([pasted(1), "no json".to_owned()])
        .await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "by": "an operator" }))
        .await?;
    assert_has(&answer, json!({ "recorded": 2, "complete": true }));
    let items = list(&relay, json!({ "reason": "unknown" }), 10).await?;
    let mut bodies = BTreeSet::new();
    for id in ids(&items) {
        let shown = relay.show(id).await?;
        assert_has(&shown, json!({ "state": "DEAD", "attemptsMade": 0 }));
        bodies.insert(shown["body"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(bodies, BTreeSet::from([pasted(1), "no json".to_owned()]));

    relay.send_to_dead_letters([pasted(2)]).await?;
    relay.run_schedule("Reconcile", "now").await?;
    wait::until("the schedule gives the third one its record", || async {
        Ok((list(&relay, json!({}), 10).await?.len() == 3).then_some(()))
    })
    .await?;
    relay.until_dead(3).await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "ifNeeded": true }))
        .await?;
    assert_has(&answer, json!({ "recorded": 0, "skipped": 0 }));
    Ok(())
}

#[tokio::test]
async fn thousands_are_swept_in_one_invocation() -> Result<()> {
    const COUNT: u32 = 2000;
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    relay.set_delivering(false).await?;
    let bodies = (0..COUNT).map(|number| String::from_utf8(webhook(&number.to_string()).body));
    relay
        .send_to_dead_letters(bodies.collect::<Result<Vec<_>, _>>()?)
        .await?;
    let answer = relay.replay(json!({ "action": "reconcile" })).await?;
    assert_has(&answer, json!({ "recorded": COUNT, "complete": true }));
    let all = json!({ "action": "replay", "filter": { "source": "webhook" } });
    let done = json!({ "replayed": COUNT, "failures": 0, "remaining": 0, "complete": true });
    assert_has(&relay.replay(all).await?, done);
    assert_eq!(relay.held().await?, (COUNT, 0));
    Ok(())
}
