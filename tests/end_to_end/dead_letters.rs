//! Work of an operator on dead letters after an outage: listing, replaying, discarding.

mod interrupted;
mod outage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::{Relay, name_of, webhook};

/// Two attempts, a second apart, which are the fewest.
const TWO_ATTEMPTS: [(&str, u32); 3] = [
    ("BackoffBaseSeconds", 1),
    ("BackoffCapSeconds", 1),
    ("MaxReceiveCount", 2),
];

/// Events that die in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    status: u16,
    reason: &'static str,
    answer: &'static str,
    webhook_id: &'static str,
    in_each_wave: usize,
}

const UNAVAILABLE: Kind = Kind {
    name: "unavailable",
    status: 503,
    reason: "exhausted",
    answer: "come again later",
    webhook_id: "11111111-2222-4333-8444-555555555555",
    in_each_wave: 100,
};
const MISSING: Kind = Kind {
    name: "missing",
    status: 404,
    reason: "permanent",
    answer: "no such order",
    webhook_id: "22222222-2222-4333-8444-555555555555",
    in_each_wave: 80,
};
const INVALID: Kind = Kind {
    name: "invalid",
    status: 422,
    reason: "permanent",
    answer: "an order without lines",
    webhook_id: "11111111-2222-4333-8444-555555555555",
    in_each_wave: 70,
};
const KINDS: [Kind; 3] = [UNAVAILABLE, MISSING, INVALID];

/// Answers as the event's name asks for: nothing is wrong with all others.
fn refuse(request: &ReceivedRequest) -> Answer {
    let name = name_of(&request.body);
    let kind = KINDS.into_iter().find(|kind| name.starts_with(kind.name));
    kind.map_or(Answer::status(200), |kind| Answer {
        body: kind.answer.to_owned(),
        ..Answer::status(kind.status)
    })
}

/// All dead letters that match, page by page.
async fn list(relay: &Relay, filter: Value, limit: usize) -> Result<Vec<Value>> {
    let mut request = filter;
    request["action"] = "list".into();
    request["limit"] = limit.into();
    let mut items = Vec::new();
    loop {
        let mut page = relay.replay(request.clone()).await?;
        let Value::Array(of_page) = page["items"].take() else {
            anyhow::bail!("no items: {page}")
        };
        ensure!(
            page["count"] == of_page.len() && of_page.len() <= limit,
            "{page} has {}",
            of_page.len()
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

/// A relay whose target refuses what is called so, with one dead letter for each name.
async fn relay_with(parameters: &[(&str, u32)], names: &[String]) -> Result<(Relay, Vec<String>)> {
    let relay = Relay::start(Behaviour::script(refuse), parameters).await?;
    let ids = relay
        .accept_all(names.iter().map(|name| webhook(name)))
        .await?;
    relay.until_dead(u32::try_from(names.len())?).await?;
    Ok((relay, ids))
}

fn missing(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("missing {number}")).collect()
}

/// Takes all that lies in the dead-letter queue away, as SQS does in the end.
async fn lose_messages(relay: &Relay, count: usize) -> Result<()> {
    let queue = relay.stack.output("DeadLetterQueueUrl")?;
    let mut lost = 0;
    while lost < count {
        let request = relay
            .stack
            .sqs()
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(10);
        for message in request.send().await?.messages.unwrap_or_default() {
            let receipt = message.receipt_handle.context("a receipt")?;
            relay
                .stack
                .sqs()
                .delete_message()
                .queue_url(queue)
                .receipt_handle(receipt)
                .send()
                .await?;
            lost += 1;
        }
    }
    Ok(())
}

#[tokio::test]
async fn events_that_are_asked_for_by_id_come_back_or_it_is_said_what_became_of_them() -> Result<()>
{
    let an_hour = |request: &ReceivedRequest| match name_of(&request.body).as_str() {
        "alive" => Answer {
            retry_after: Some("3600".to_owned()),
            ..Answer::status(503)
        },
        _ => refuse(request),
    };
    let relay = Relay::start(Behaviour::script(an_hour), &[]).await?;
    let accept = async |name: &str| relay.accept(&webhook(name)).await;

    let archived = accept("missing, archived").await?;
    relay.until_dead(1).await?;
    let answer = relay
        .replay(json!({ "action": "archive", "olderThanDays": 0 }))
        .await?;
    assert_eq!(answer["archived"], 1, "{answer}");
    let discarded = accept("missing, discarded").await?;
    relay.until_dead(1).await?;
    relay
        .replay(json!({ "action": "discard", "eventIds": [discarded], "why": "a test order" }))
        .await?;
    let delivered = accept("fine").await?;
    relay.until_empty().await?;
    let (lost, expired) = (
        accept("missing, lost").await?,
        accept("missing, expired").await?,
    );
    relay.until_dead(2).await?;
    lose_messages(&relay, 2).await?;
    let request = relay
        .stack
        .dynamodb()
        .update_item()
        .table_name(relay.stack.output("EventsTableName")?);
    let two_weeks_ago = Timestamp::now() - SignedDuration::from_hours(14 * 24);
    request
        .key("event_id", AttributeValue::S(expired.clone()))
        .update_expression("SET dead_at = :then")
        .expression_attribute_values(":then", AttributeValue::S(two_weeks_ago.to_string()))
        .send()
        .await?;
    let alive = accept("alive").await?;
    relay
        .target
        .until("it was tried", |requests| {
            requests.iter().any(|request| request.event_id == alive)
        })
        .await?;
    let (dead, other) = (
        accept("missing, dead").await?,
        accept("missing, not asked for").await?,
    );
    let what = "two dead letters, and one event waits for an hour";
    relay
        .stack
        .until_queues(what, |counts| {
            counts.dead_letters.visible == 2 && counts.events.total() == 1
        })
        .await?;

    relay.target.behave(Behaviour::Fine);
    let asked = [
        &archived, &discarded, &delivered, &lost, &expired, &alive, &dead,
    ];
    let ids: Vec<_> = asked
        .into_iter()
        .map(String::as_str)
        .chain(["no-such-event"])
        .collect();
    let answer = relay
        .replay(json!({ "action": "replay", "eventIds": ids }))
        .await?;
    assert_eq!(
        (&answer["matched"], &answer["replayed"]),
        (&1.into(), &1.into()),
        "{answer}"
    );
    let failed = answer["failed"].as_array().context("failures")?;
    let states: BTreeMap<_, _> = failed
        .iter()
        .map(|failed| (failed["eventId"].as_str(), &failed["state"]))
        .collect();
    for (id, state) in [
        (archived.as_str(), "archived"),
        (&discarded, "discarded"),
        (&delivered, "delivered"),
        (&lost, "pending"),
        (&expired, "expired"),
        (&alive, "alive"),
        // It may be what waits in the events queue.
        ("no-such-event", "pending"),
    ] {
        assert_eq!(
            states.get(&Some(id)),
            Some(&&json!(state)),
            "{id}: {answer}"
        );
    }
    assert_eq!(answer["failures"], states.len(), "{answer}");
    relay
        .target
        .until("the dead one is delivered", |requests| {
            requests.last().is_some_and(|last| last.event_id == dead)
        })
        .await?;
    assert_eq!(
        relay.deliveries(),
        BTreeMap::from([(delivered, 1), (dead, 1)])
    );
    assert_eq!(relay.show(&other).await?["state"], "DEAD");
    Ok(())
}

#[tokio::test]
async fn a_replay_by_id_that_reaches_its_bound_says_that_there_is_more() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..3)).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "eventIds": ids, "maxMessages": 2 });
    let answer = relay.replay(request.clone()).await?;
    assert_eq!(
        (&answer["replayed"], &answer["remaining"]),
        (&2.into(), &1.into()),
        "{answer}"
    );
    assert_eq!(answer["complete"], false, "{answer}");
    relay.until_dead(1).await?;
    let answer = relay.replay(request).await?;
    assert_eq!(
        (&answer["replayed"], &answer["complete"]),
        (&1.into(), &true.into()),
        "{answer}"
    );
    relay.until_empty().await
}

#[tokio::test]
async fn event_is_replayed_five_times_unless_forced() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..1)).await?;
    let asked = json!({ "action": "replay", "eventIds": ids });
    for times in 1..=5 {
        let answer = relay.replay(asked.clone()).await?;
        assert_eq!(answer["replayed"], 1, "{answer}");
        relay
            .target
            .until("it was tried again", |requests| requests.len() == times + 1)
            .await?;
        relay.until_dead(1).await?;
        assert_eq!(relay.show(&ids[0]).await?["replays"], times);
    }
    for request in [asked.clone(), json!({ "action": "replay", "all": true })] {
        let answer = relay.replay(request).await?;
        assert_eq!(
            (&answer["matched"], &answer["failures"]),
            (&0.into(), &1.into()),
            "{answer}"
        );
        assert_eq!(
            (&answer["failed"][0]["eventId"], &answer["moveTask"]),
            (&json!(ids[0]), &Value::Null),
            "{answer}"
        );
        assert!(
            answer["failed"][0]["error"]
                .as_str()
                .is_some_and(|error| error.contains("force")),
            "{answer}"
        );
        relay.until_dead(1).await?;
    }
    relay.target.behave(Behaviour::Fine);
    let mut insisting = asked;
    insisting["force"] = true.into();
    assert_eq!(relay.replay(insisting).await?["replayed"], 1);
    relay.until_empty().await?;
    assert_eq!(relay.show(&ids[0]).await?["state"], "DELIVERED");
    Ok(())
}

#[tokio::test]
async fn what_is_discarded_is_gone_and_status_says_what_is_left() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..3)).await?;
    let request = json!({ "action": "discard", "eventIds": [ids[1]], "why": "a test order", "by": "an operator" });
    let answer = relay.replay(request.clone()).await?;
    assert_eq!(
        (&answer["discarded"], &answer["remaining"]),
        (&1.into(), &2.into()),
        "{answer}"
    );
    relay.until_dead(2).await?;
    let shown = relay.show(&ids[1]).await?;
    assert_eq!(
        (&shown["state"], &shown["history"][0]["why"]),
        (&"DISCARDED".into(), &"a test order".into())
    );
    let again = relay.replay(request).await?;
    assert_eq!(
        (&again["discarded"], &again["failed"][0]["state"]),
        (&0.into(), &"discarded".into()),
        "{again}"
    );

    let items = list(&relay, json!({}), 10).await?;
    assert_eq!(
        self::ids(&items),
        BTreeSet::from([ids[0].as_str(), &ids[2]])
    );
    let status = relay.replay(json!({ "action": "status" })).await?;
    for (field, value) in [
        (
            "queue",
            json!({ "visible": 0, "inFlight": 0, "delayed": 0 }),
        ),
        (
            "deadLetters",
            json!({ "visible": 2, "inFlight": 0, "delayed": 0 }),
        ),
        ("moveTask", Value::Null),
        ("run", Value::Null),
    ] {
        assert_eq!(status[field], value, "{field} of {status}");
    }
    let oldest: Timestamp = items[0]["receivedAt"].as_str().context("a time")?.parse()?;
    let age = Timestamp::now().duration_since(oldest).as_secs();
    assert!(
        status["deadLettersAgeSeconds"]
            .as_i64()
            .is_some_and(|seconds| (0..=age).contains(&seconds)),
        "{status}"
    );

    // The same event comes once more: it was discarded.
    relay.target.behave(Behaviour::Fine);
    assert_eq!(relay.accept(&webhook("missing 1")).await?, ids[1]);
    relay.until_dead(2).await?;
    assert!(relay.deliveries().is_empty());
    Ok(())
}

#[tokio::test]
async fn dead_letter_sent_by_hand_gets_its_record() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let pasted = |number: u8| format!("{{\"pasted\":{number}, \"conversationId\":\"c-{number}\"}}");
    relay
        .send_to_dead_letters(&[pasted(1), "no json".to_owned()])
        .await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "by": "an operator" }))
        .await?;
    assert_eq!(
        (&answer["recorded"], &answer["complete"]),
        (&2.into(), &true.into()),
        "{answer}"
    );
    let items = list(&relay, json!({ "reason": "unknown" }), 10).await?;
    assert_eq!(items.len(), 2, "{items:?}");
    let mut bodies = BTreeSet::new();
    for item in &items {
        let shown = relay
            .show(item["eventId"].as_str().unwrap_or_default())
            .await?;
        assert_eq!(
            (&shown["state"], &shown["attemptsMade"]),
            (&"DEAD".into(), &0.into()),
            "{shown}"
        );
        bodies.insert(shown["body"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(bodies, BTreeSet::from([pasted(1), "no json".to_owned()]));

    relay.send_to_dead_letters(&[pasted(2)]).await?;
    relay.stack.aws().schedule_now("Reconcile", "now").await?;
    wait::until("the schedule gives the third one its record", || async {
        let items = list(&relay, json!({}), 10).await?;
        Ok((items.len() == 3).then_some(()))
    })
    .await?;
    relay.until_dead(3).await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "ifNeeded": true }))
        .await?;
    assert_eq!(
        (&answer["recorded"], &answer["skipped"]),
        (&0.into(), &0.into()),
        "nothing is received: {answer}"
    );
    Ok(())
}

#[tokio::test]
async fn thousands_are_swept_in_one_invocation() -> Result<()> {
    const COUNT: u32 = 2000;
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    relay.set_delivering(false).await?;
    let bodies = (0..COUNT).map(|number| String::from_utf8(webhook(&number.to_string()).body));
    relay
        .send_to_dead_letters(&bodies.collect::<Result<Vec<_>, _>>()?)
        .await?;
    let timed = async |what: &str, request: Value| -> Result<Value> {
        let began = Instant::now();
        let answer = relay.replay(request).await?;
        let took = began.elapsed();
        eprintln!(
            "{what}: {COUNT} in {took:.1?}, {:.0} a second",
            f64::from(COUNT) / took.as_secs_f64()
        );
        Ok(answer)
    };
    let answer = timed("recorded", json!({ "action": "reconcile" })).await?;
    assert_eq!(
        (&answer["recorded"], &answer["complete"]),
        (&COUNT.into(), &true.into()),
        "{answer}"
    );
    let answer = timed(
        "replayed",
        json!({ "action": "replay", "filter": { "source": "webhook" } }),
    )
    .await?;
    assert_eq!(
        (&answer["replayed"], &answer["failures"]),
        (&COUNT.into(), &0.into()),
        "{answer}"
    );
    assert_eq!(
        (&answer["remaining"], &answer["complete"]),
        (&0.into(), &true.into()),
        "{answer}"
    );
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(
        (counts.events.visible, counts.dead_letters.total()),
        (COUNT, 0)
    );
    Ok(())
}
