//! What an operator does with dead letters after an outage: looks at them, brings them back, drops them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use local::genesys::Webhook;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{Relay, name_of, webhook};

/// Two attempts, a second apart, which are the fewest.
const TWO_ATTEMPTS: [(&str, u32); 3] = [("BackoffBaseSeconds", 1), ("BackoffCapSeconds", 1), ("MaxReceiveCount", 2)];

/// Seconds of an invocation of replay, for tests that kill one: what it hid, and its lease, last half a minute longer.
const SHORT_RUN: i32 = 15;

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

/// An event that was accepted, to be told from others.
struct Sent {
    id: String,
    kind: Kind,
    wave: usize,
    body: Vec<u8>,
}

/// Answers as the event's name asks for: nothing is wrong with all others.
fn refuse(request: &ReceivedRequest) -> Answer {
    let name = name_of(&request.body);
    let kind = KINDS.into_iter().find(|kind| name.starts_with(kind.name));
    kind.map_or(Answer::status(200), |kind| Answer { body: kind.answer.to_owned(), ..Answer::status(kind.status) })
}

fn order(kind: Kind, number: usize) -> Webhook {
    let body = json!({
        "webhookId": kind.webhook_id,
        "webhookName": "orders",
        "payload": { "name": format!("{} {number}", kind.name), "conversationId": format!("conversation-{number}") },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::signed(body.to_string())
}

/// 250 events of all three kinds, mixed.
async fn send_wave(relay: &Relay, wave: usize) -> Result<Vec<Sent>> {
    let most = KINDS.map(|kind| kind.in_each_wave).into_iter().max().unwrap_or_default();
    let numbered =
        |number| KINDS.into_iter().filter(move |kind| number < kind.in_each_wave).map(move |kind| (kind, number));
    let events: Vec<_> = (0..most).flat_map(numbered).collect();
    let webhooks: Vec<_> = events.iter().map(|(kind, number)| order(*kind, wave * 1000 + number)).collect();
    let ids = relay.accept_all(webhooks.clone()).await?;
    let sent = events.into_iter().zip(webhooks).zip(ids);
    Ok(sent.map(|(((kind, _), webhook), id)| Sent { id, kind, wave, body: webhook.body }).collect())
}

/// All dead letters that match, page by page.
async fn list(relay: &Relay, filter: Value, limit: usize) -> Result<Vec<Value>> {
    let mut request = filter;
    request["action"] = "list".into();
    request["limit"] = limit.into();
    let mut items = Vec::new();
    loop {
        let mut page = relay.replay(request.clone()).await?;
        let Value::Array(of_page) = page["items"].take() else { anyhow::bail!("no items: {page}") };
        ensure!(page["count"] == of_page.len() && of_page.len() <= limit, "{page} has {}", of_page.len());
        items.extend(of_page);
        match page["next"].take() {
            Value::Null => return Ok(items),
            next => request["next"] = next,
        }
    }
}

fn ids(items: &[Value]) -> BTreeSet<&str> {
    items.iter().filter_map(|item| item["eventId"].as_str()).collect()
}

fn those(sent: &[Sent], wanted: impl Fn(&Sent) -> bool) -> BTreeSet<&str> {
    sent.iter().filter(|sent| wanted(sent)).map(|sent| sent.id.as_str()).collect()
}

#[tokio::test]
async fn after_an_outage_each_kind_of_dead_letter_is_found_and_brought_back_alone() -> Result<()> {
    let relay = Relay::start(Behaviour::script(refuse), &TWO_ATTEMPTS).await?;
    let mut sent = send_wave(&relay, 1).await?;
    // The list is ordered by milliseconds.
    sleep(Duration::from_millis(20)).await;
    let between = Timestamp::now();
    sleep(Duration::from_millis(20)).await;
    sent.extend(send_wave(&relay, 2).await?);
    relay.until_dead(500).await?;
    let requests_before = relay.target.requests().len();

    // What may not receive does not: whatever is read until it may again comes from the table.
    let role = relay.stack.role("ReplayRole").await?;
    role.take_away("sqs:ReceiveMessage").await?;
    list_by_filters(&relay, &sent, between).await?;
    show_each_kind(&relay, &sent).await?;
    count_by_filters(&relay, &sent, between).await?;
    role.restore().await?;
    let counts = relay.stack.queue_counts().await?;
    assert_eq!((counts.dead_letters.visible, counts.dead_letters.in_flight), (500, 0), "nothing was received");

    relay.target.behave(Behaviour::Fine);
    let request = json!({
        "action": "replay", "filter": { "statusCode": 404 }, "why": "the orders are there now", "by": "an operator",
    });
    let answer = relay.replay(request.clone()).await?;
    assert_eq!((&answer["matched"], &answer["replayed"]), (&160.into(), &160.into()), "{answer}");
    assert_eq!((&answer["skipped"], &answer["remaining"]), (&340.into(), &340.into()), "{answer}");
    assert_eq!((&answer["complete"], &answer["failures"]), (&true.into(), &0.into()), "{answer}");
    relay.until_dead(340).await?;
    assert_eq!(relay.target.requests().len() - requests_before, 160, "just these, and each once");
    let deliveries = relay.deliveries();
    let delivered: BTreeSet<_> = deliveries.keys().map(String::as_str).collect();
    assert_eq!(delivered, those(&sent, |sent| sent.kind == MISSING));
    assert_eq!(ids(&list(&relay, json!({}), 200).await?), those(&sent, |sent| sent.kind != MISSING));

    let again = relay.replay(request).await?;
    assert_eq!((&again["matched"], &again["replayed"]), (&0.into(), &0.into()), "{again}");
    assert_eq!((&again["remaining"], &again["complete"]), (&340.into(), &true.into()), "{again}");
    let one = sent.iter().find(|sent| sent.kind == MISSING).context("one")?;
    let shown = relay.show(&one.id).await?;
    assert_eq!((&shown["state"], &shown["replays"]), (&"DELIVERED".into(), &1.into()), "{shown}");
    let act = &shown["history"][0];
    assert_eq!((&act["action"], &act["by"]), (&"replay".into(), &"an operator".into()), "{shown}");
    assert_eq!(act["why"], "the orders are there now", "{shown}");
    Ok(())
}

/// What a filter has to find.
type Wanted = Box<dyn Fn(&Sent) -> bool>;

fn filters(between: Timestamp) -> Vec<(Value, Wanted)> {
    let (first, second) = (UNAVAILABLE.webhook_id, MISSING.webhook_id);
    vec![
        (json!({}), Box::new(|_| true)),
        (json!({ "reason": "exhausted" }), Box::new(|sent| sent.kind.reason == "exhausted")),
        (json!({ "reason": "permanent" }), Box::new(|sent| sent.kind.reason == "permanent")),
        (json!({ "reason": "crashed" }), Box::new(|_| false)),
        (json!({ "statusCode": 404 }), Box::new(|sent| sent.kind.status == 404)),
        (json!({ "webhookId": first }), Box::new(move |sent| sent.kind.webhook_id == first)),
        (json!({ "webhookId": second }), Box::new(move |sent| sent.kind.webhook_id == second)),
        (json!({ "source": "webhook" }), Box::new(|_| true)),
        (json!({ "source": "generic" }), Box::new(|_| false)),
        (json!({ "until": between }), Box::new(|sent| sent.wave == 1)),
        (json!({ "since": between }), Box::new(|sent| sent.wave == 2)),
        (json!({ "since": between, "until": between }), Box::new(|_| false)),
        (
            json!({ "since": between, "reason": "permanent", "webhookId": first, "statusCode": 422 }),
            Box::new(|sent| sent.wave == 2 && sent.kind == INVALID),
        ),
    ]
}

async fn list_by_filters(relay: &Relay, sent: &[Sent], between: Timestamp) -> Result<()> {
    for (filter, wanted) in filters(between) {
        let items = list(relay, filter.clone(), 37).await?;
        let expected = those(sent, wanted);
        assert_eq!(items.len(), expected.len(), "{filter}");
        assert_eq!(ids(&items), expected, "{filter}");
        let place = |item: &Value| -> Option<(Timestamp, String)> {
            Some((item["receivedAt"].as_str()?.parse().ok()?, item["eventId"].as_str()?.to_owned()))
        };
        let places: Vec<_> = items.iter().map(|item| place(item).context("a place")).collect::<Result<_>>()?;
        assert!(places.is_sorted(), "{filter}: oldest first");
        for item in &items {
            let event = sent.iter().find(|sent| item["eventId"] == sent.id).context("a known event")?;
            assert_eq!((&item["statusCode"], &item["reason"]), (&event.kind.status.into(), &event.kind.reason.into()));
            assert_eq!(item["webhookId"], event.kind.webhook_id);
            assert_eq!(item["attempts"], if event.kind == UNAVAILABLE { 2 } else { 1 }, "{item}");
        }
    }
    Ok(())
}

async fn show_each_kind(relay: &Relay, sent: &[Sent]) -> Result<()> {
    for event in KINDS.iter().filter_map(|kind| sent.iter().find(|sent| sent.kind == *kind)) {
        let shown = relay.show(&event.id).await?;
        let kind = event.kind;
        for (field, value) in [
            ("state", json!("DEAD")),
            ("reason", json!(kind.reason)),
            ("statusCode", json!(kind.status)),
            ("source", json!("webhook")),
            ("webhookId", json!(kind.webhook_id)),
            ("webhookName", json!("orders")),
            ("conversationId", json!("conversation-1000")),
            ("contentType", json!("application/json")),
            ("body", json!(String::from_utf8(event.body.clone())?)),
            ("replays", json!(0)),
            ("history", json!([])),
        ] {
            assert_eq!(shown[field], value, "{field} of {shown}");
        }
        assert_eq!(shown["target"], relay.target.url(), "{shown}");
        assert!(shown["headers"]["x-hub-signature-256"].is_string(), "{shown}");
        assert!(shown["error"].as_str().is_some_and(|error| error.contains(&kind.status.to_string())), "{shown}");
        let attempts = shown["attempts"].as_array().context("attempts")?;
        assert_eq!(attempts.len(), if kind == UNAVAILABLE { 2 } else { 1 }, "{shown}");
        for attempt in attempts {
            assert_eq!((&attempt["statusCode"], &attempt["response"]), (&kind.status.into(), &kind.answer.into()));
            assert!(attempt["at"].is_string() && attempt["durationMs"].is_u64(), "{attempt}");
        }
    }
    Ok(())
}

async fn count_by_filters(relay: &Relay, sent: &[Sent], between: Timestamp) -> Result<()> {
    for (filter, wanted) in filters(between).into_iter().filter(|(filter, _)| *filter != json!({})) {
        let answer = relay.replay(json!({ "action": "replay", "filter": filter, "dryRun": true })).await?;
        let expected = those(sent, wanted);
        assert_eq!((&answer["matched"], &answer["dryRun"]), (&expected.len().into(), &true.into()), "{answer}");
        assert_eq!((&answer["replayed"], &answer["remaining"]), (&0.into(), &500.into()), "{answer}");
        let listed = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(listed.len(), expected.len().min(100), "{answer}");
        assert!(ids(listed).is_subset(&expected), "{answer}");
    }
    Ok(())
}

/// A relay whose target refuses what is called so, with one dead letter for each name.
async fn relay_with(parameters: &[(&str, u32)], names: &[String]) -> Result<(Relay, Vec<String>)> {
    let relay = Relay::start(Behaviour::script(refuse), parameters).await?;
    let ids = relay.accept_all(names.iter().map(|name| webhook(name))).await?;
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
        let request = relay.stack.sqs().receive_message().queue_url(queue).max_number_of_messages(10);
        for message in request.send().await?.messages.unwrap_or_default() {
            let receipt = message.receipt_handle.context("a receipt")?;
            relay.stack.sqs().delete_message().queue_url(queue).receipt_handle(receipt).send().await?;
            lost += 1;
        }
    }
    Ok(())
}

#[tokio::test]
async fn events_that_are_asked_for_by_id_come_back_or_it_is_said_what_became_of_them() -> Result<()> {
    let an_hour = |request: &ReceivedRequest| match name_of(&request.body).as_str() {
        "alive" => Answer { retry_after: Some("3600".to_owned()), ..Answer::status(503) },
        _ => refuse(request),
    };
    let relay = Relay::start(Behaviour::script(an_hour), &[]).await?;
    let accept = async |name: &str| relay.accept(&webhook(name)).await;

    let archived = accept("missing, archived").await?;
    relay.until_dead(1).await?;
    let answer = relay.replay(json!({ "action": "archive", "olderThanDays": 0 })).await?;
    assert_eq!(answer["archived"], 1, "{answer}");
    let discarded = accept("missing, discarded").await?;
    relay.until_dead(1).await?;
    relay.replay(json!({ "action": "discard", "eventIds": [discarded], "why": "a test order" })).await?;
    let delivered = accept("fine").await?;
    relay.until_empty().await?;
    let (lost, expired) = (accept("missing, lost").await?, accept("missing, expired").await?);
    relay.until_dead(2).await?;
    lose_messages(&relay, 2).await?;
    let request = relay.stack.dynamodb().update_item().table_name(relay.stack.output("EventsTableName")?);
    let two_weeks_ago = Timestamp::now() - SignedDuration::from_hours(14 * 24);
    request
        .key("event_id", AttributeValue::S(expired.clone()))
        .update_expression("SET dead_at = :then")
        .expression_attribute_values(":then", AttributeValue::S(two_weeks_ago.to_string()))
        .send()
        .await?;
    let alive = accept("alive").await?;
    relay.target.until("it was tried", |requests| requests.iter().any(|request| request.event_id == alive)).await?;
    let (dead, other) = (accept("missing, dead").await?, accept("missing, not asked for").await?);
    let what = "two dead letters, and one event waits for an hour";
    relay.stack.until_queues(what, |counts| counts.dead_letters.visible == 2 && counts.events.total() == 1).await?;

    relay.target.behave(Behaviour::Fine);
    let asked = [&archived, &discarded, &delivered, &lost, &expired, &alive, &dead];
    let ids: Vec<_> = asked.into_iter().map(String::as_str).chain(["no-such-event"]).collect();
    let answer = relay.replay(json!({ "action": "replay", "eventIds": ids })).await?;
    assert_eq!((&answer["matched"], &answer["replayed"]), (&1.into(), &1.into()), "{answer}");
    let failed = answer["failed"].as_array().context("failures")?;
    let states: BTreeMap<_, _> = failed.iter().map(|failed| (failed["eventId"].as_str(), &failed["state"])).collect();
    for (id, state) in [
        (archived.as_str(), "archived"),
        (&discarded, "discarded"),
        (&delivered, "delivered"),
        (&lost, "pending"),
        (&expired, "expired"),
        (&alive, "alive"),
        ("no-such-event", "unknown"),
    ] {
        assert_eq!(states.get(&Some(id)), Some(&&json!(state)), "{id}: {answer}");
    }
    assert_eq!(answer["failures"], states.len(), "{answer}");
    relay
        .target
        .until("the dead one is delivered", |requests| requests.last().is_some_and(|last| last.event_id == dead))
        .await?;
    assert_eq!(relay.deliveries(), BTreeMap::from([(delivered, 1), (dead, 1)]));
    assert_eq!(relay.show(&other).await?["state"], "DEAD");
    Ok(())
}

#[tokio::test]
async fn a_replay_by_id_that_reaches_its_bound_says_that_there_is_more() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..3)).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "eventIds": ids, "maxMessages": 2 });
    let answer = relay.replay(request.clone()).await?;
    assert_eq!((&answer["replayed"], &answer["remaining"]), (&2.into(), &1.into()), "{answer}");
    assert_eq!(answer["complete"], false, "{answer}");
    relay.until_dead(1).await?;
    let answer = relay.replay(request).await?;
    assert_eq!((&answer["replayed"], &answer["complete"]), (&1.into(), &true.into()), "{answer}");
    relay.until_empty().await
}

#[tokio::test]
async fn an_event_that_dies_again_and_again_is_replayed_five_times_unless_somebody_insists() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..1)).await?;
    let asked = json!({ "action": "replay", "eventIds": ids });
    for times in 1..=5 {
        let answer = relay.replay(asked.clone()).await?;
        assert_eq!(answer["replayed"], 1, "{answer}");
        relay.target.until("it was tried again", |requests| requests.len() == times + 1).await?;
        relay.until_dead(1).await?;
        assert_eq!(relay.show(&ids[0]).await?["replays"], times);
    }
    for request in [asked.clone(), json!({ "action": "replay", "all": true })] {
        let answer = relay.replay(request).await?;
        assert_eq!((&answer["matched"], &answer["failures"]), (&0.into(), &1.into()), "{answer}");
        assert_eq!((&answer["failed"][0]["eventId"], &answer["moveTask"]), (&json!(ids[0]), &Value::Null), "{answer}");
        assert!(answer["failed"][0]["error"].as_str().is_some_and(|error| error.contains("force")), "{answer}");
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
    assert_eq!((&answer["discarded"], &answer["remaining"]), (&1.into(), &2.into()), "{answer}");
    relay.until_dead(2).await?;
    let shown = relay.show(&ids[1]).await?;
    assert_eq!((&shown["state"], &shown["history"][0]["why"]), (&"DISCARDED".into(), &"a test order".into()));
    let again = relay.replay(request).await?;
    assert_eq!((&again["discarded"], &again["failed"][0]["state"]), (&0.into(), &"discarded".into()), "{again}");

    let items = list(&relay, json!({}), 10).await?;
    assert_eq!(self::ids(&items), BTreeSet::from([ids[0].as_str(), &ids[2]]));
    let status = relay.replay(json!({ "action": "status" })).await?;
    for (field, value) in [
        ("queue", json!({ "visible": 0, "inFlight": 0, "delayed": 0 })),
        ("deadLetters", json!({ "visible": 2, "inFlight": 0, "delayed": 0 })),
        ("moveTask", Value::Null),
        ("run", Value::Null),
    ] {
        assert_eq!(status[field], value, "{field} of {status}");
    }
    let oldest: Timestamp = items[0]["receivedAt"].as_str().context("a time")?.parse()?;
    let age = Timestamp::now().duration_since(oldest).as_secs();
    assert!(status["deadLettersAgeSeconds"].as_i64().is_some_and(|seconds| (0..=age).contains(&seconds)), "{status}");

    // The same event comes once more: it was decided that nobody needs it.
    relay.target.behave(Behaviour::Fine);
    assert_eq!(relay.accept(&webhook("missing 1")).await?, ids[1]);
    relay.until_dead(2).await?;
    assert!(relay.deliveries().is_empty());
    Ok(())
}

#[tokio::test]
async fn what_somebody_put_into_the_dead_letters_by_hand_gets_its_record() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let pasted = |number: u8| format!("{{\"pasted\":{number}, \"conversationId\":\"c-{number}\"}}");
    relay.bury(&[pasted(1), "no json".to_owned()]).await?;
    let answer = relay.replay(json!({ "action": "reconcile", "by": "an operator" })).await?;
    assert_eq!((&answer["recorded"], &answer["complete"]), (&2.into(), &true.into()), "{answer}");
    let items = list(&relay, json!({ "reason": "unknown" }), 10).await?;
    assert_eq!(items.len(), 2, "{items:?}");
    let mut bodies = BTreeSet::new();
    for item in &items {
        let shown = relay.show(item["eventId"].as_str().unwrap_or_default()).await?;
        assert_eq!((&shown["state"], &shown["attemptsMade"]), (&"DEAD".into(), &0.into()), "{shown}");
        bodies.insert(shown["body"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(bodies, BTreeSet::from([pasted(1), "no json".to_owned()]));

    relay.bury(&[pasted(2)]).await?;
    relay.let_schedule_come("Reconcile", "now").await?;
    wait::until("the schedule gives the third one its record", || async {
        let items = list(&relay, json!({}), 10).await?;
        Ok((items.len() == 3).then_some(()))
    })
    .await?;
    relay.until_dead(3).await?;
    let answer = relay.replay(json!({ "action": "reconcile", "ifNeeded": true })).await?;
    assert_eq!((&answer["recorded"], &answer["skipped"]), (&0.into(), &0.into()), "nothing is received: {answer}");
    Ok(())
}

#[tokio::test]
async fn a_crash_on_the_last_attempt_is_seen_and_mended() -> Result<()> {
    // The first attempt fails, and the last one hangs, so that the processor is surely at it when it is killed.
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer::status(503),
        2 => Answer { delay: Duration::from_secs(30), ..Answer::status(200) },
        _ => Answer::status(200),
    };
    let [base, cap, receives] = TWO_ATTEMPTS;
    let relay = Relay::start(Behaviour::script(script), &[base, cap, receives, ("ProcessorTimeoutSeconds", 5)]).await?;
    let id = relay.accept(&webhook("crashing")).await?;
    relay.target.until("the last attempt hangs", |requests| requests.len() == 2).await?;
    assert!(relay.kill(Function::Processor).await? > 0);
    let shown = relay.show(&id).await?;
    assert!(shown["state"] == "IN_PROGRESS" || shown["reason"] == "crashed", "{shown}");

    let crashed = wait::until("its lease is over", || async {
        Ok(Some(list(&relay, json!({ "reason": "crashed" }), 10).await?).filter(|items| !items.is_empty()))
    })
    .await?;
    assert_eq!((crashed.len(), &crashed[0]["eventId"], &crashed[0]["attempts"]), (1, &json!(id), &json!(2)));
    assert_eq!(relay.show(&id).await?["state"], "DEAD");
    relay.until_dead(1).await?;
    let answer = relay.replay(json!({ "action": "reconcile", "ifNeeded": true })).await?;
    assert_eq!(answer["recorded"], 1, "{answer}");
    let shown = relay.show(&id).await?;
    assert_eq!((&shown["reason"], &shown["attempts"][0]["statusCode"]), (&"crashed".into(), &503.into()), "{shown}");
    assert_eq!(shown["attempts"].as_array().map(Vec::len), Some(2), "{shown}");
    assert!(shown["body"].is_string(), "{shown}");

    assert_eq!(relay.replay(json!({ "action": "replay", "filter": { "reason": "crashed" } })).await?["replayed"], 1);
    relay.until_empty().await?;
    assert_eq!(relay.show(&id).await?["state"], "DELIVERED");
    Ok(())
}

/// Waits until a run has hidden more than `before` messages.
async fn until_hidden(relay: &Relay, before: u32) -> Result<()> {
    let what = "a run is at work";
    relay.stack.until_queues(what, |counts| counts.dead_letters.in_flight > before).await.map(drop)
}

#[tokio::test]
async fn one_run_at_a_time_takes_from_the_dead_letters() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..12)).await?;
    relay.target.behave(Behaviour::Fine);
    let first = json!({ "action": "replay", "filter": { "statusCode": 404 }, "ratePerSecond": 2, "by": "the first" });
    let second = async {
        until_hidden(&relay, 0).await?;
        for request in [
            json!({ "action": "replay", "eventIds": [ids[0]] }),
            json!({ "action": "replay", "all": true }),
            json!({ "action": "reconcile" }),
            json!({ "action": "archive", "olderThanDays": 0 }),
            json!({ "action": "discard", "eventIds": [ids[0]], "why": "a test order" }),
        ] {
            let error = relay.replay_fails(request, "Busy").await?;
            let message = error.0["errorMessage"].as_str().unwrap_or_default();
            assert!(message.contains("replay of the first"), "{message}");
        }
        let status = relay.replay(json!({ "action": "status" })).await?;
        assert_eq!(
            (&status["run"]["action"], &status["run"]["by"]),
            (&"replay".into(), &"the first".into()),
            "{status}"
        );
        Ok(())
    };
    let (answer, ()) = tokio::try_join!(relay.replay(first), second)?;
    assert_eq!((&answer["replayed"], &answer["remaining"]), (&12.into(), &0.into()), "{answer}");
    relay.until_empty().await?;
    assert!(relay.deliveries().into_values().eq([1; 12]), "each once");
    Ok(())
}

#[tokio::test]
async fn a_replay_that_is_killed_and_repeated_loses_nothing_and_delivers_nothing_twice() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..150)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": "killed and repeated" });
    let mut killed = 0;
    for later in (0..8).map(|times| Duration::from_millis(17) * times) {
        let hidden = relay.stack.queue_counts().await?.dead_letters.in_flight;
        let (outcome, ()) = tokio::try_join!(relay.stack.invoke(Function::Replay, &request), async {
            until_hidden(&relay, hidden).await?;
            sleep(later).await;
            relay.kill(Function::Replay).await.map(drop)
        })?;
        killed += usize::from(outcome.is_err());
        if relay.stack.queue_counts().await?.dead_letters.visible == 0 {
            break;
        }
        relay.replay_fails(request.clone(), "Busy").await?;
        // Its lease ends by itself, which need not be waited for each time.
        let_lease_end(&relay).await?;
    }
    assert!(killed >= 3, "{killed} runs were killed");
    let last = wait::until("one run after the other brings back the rest", || async {
        match relay.stack.invoke(Function::Replay, &request).await? {
            Ok(report) => Ok(Some(report).filter(|report| report["remaining"] == 0)),
            Err(error) if error.0["errorType"] == "Busy" => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    eprintln!("{killed} runs were killed; the last one: {last}");
    relay.until_empty().await?;
    let deliveries = relay.deliveries();
    assert_eq!(deliveries.len(), ids.len(), "nothing is lost");
    assert!(deliveries.values().all(|times| *times == 1), "nothing is delivered twice: {deliveries:?}");
    Ok(())
}

/// Takes the lease from a run that is no more.
async fn let_lease_end(relay: &Relay) -> Result<()> {
    let request = relay.stack.dynamodb().delete_item().table_name(relay.stack.output("EventsTableName")?);
    request.key("event_id", AttributeValue::S("lease#dead-letters".to_owned())).send().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_run_is_in_nobodys_way_for_longer_than_its_lease() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..20)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 }, "ratePerSecond": 5 });
    let (outcome, ()) = tokio::try_join!(relay.stack.invoke(Function::Replay, &request), async {
        relay.target.until("some are delivered", |requests| requests.len() > ids.len()).await?;
        relay.kill(Function::Replay).await.map(drop)
    })?;
    assert!(outcome.is_err(), "killed: {outcome:?}");
    relay.replay_fails(request.clone(), "Busy").await?;
    let run = relay.replay(json!({ "action": "status" })).await?["run"].take();
    let since: Timestamp = run["since"].as_str().with_context(|| format!("{run}"))?.parse()?;
    let until: Timestamp = run["until"].as_str().with_context(|| format!("{run}"))?.parse()?;
    // The time it had to work, and half a minute in which what it hid comes back.
    assert!(until.duration_since(since) <= SignedDuration::from_secs(i64::from(SHORT_RUN) + 30), "{run}");
    let mut replayed = 0;
    while relay.stack.queue_counts().await?.dead_letters.total() > 0 {
        let report = wait::until("the lease is over", || async {
            match relay.stack.invoke(Function::Replay, &request).await? {
                Ok(report) => Ok(Some(report)),
                Err(error) if error.0["errorType"] == "Busy" => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        assert!(Timestamp::now() >= until, "not before: {report}");
        replayed += report["replayed"].as_u64().unwrap_or_default();
    }
    assert!(replayed > 0);
    relay.until_empty().await?;
    assert!(relay.deliveries().into_values().eq([1; 20]), "each once");
    Ok(())
}

#[tokio::test]
async fn thousands_are_swept_in_one_invocation() -> Result<()> {
    const COUNT: u32 = 2000;
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    relay.set_delivering(false).await?;
    let bodies = (0..COUNT).map(|number| String::from_utf8(webhook(&number.to_string()).body));
    relay.bury(&bodies.collect::<Result<Vec<_>, _>>()?).await?;
    let timed = async |what: &str, request: Value| -> Result<Value> {
        let began = Instant::now();
        let answer = relay.replay(request).await?;
        let took = began.elapsed();
        eprintln!("{what}: {COUNT} in {took:.1?}, {:.0} a second", f64::from(COUNT) / took.as_secs_f64());
        Ok(answer)
    };
    let answer = timed("recorded", json!({ "action": "reconcile" })).await?;
    assert_eq!((&answer["recorded"], &answer["complete"]), (&COUNT.into(), &true.into()), "{answer}");
    let answer = timed("replayed", json!({ "action": "replay", "filter": { "source": "webhook" } })).await?;
    assert_eq!((&answer["replayed"], &answer["failures"]), (&COUNT.into(), &0.into()), "{answer}");
    assert_eq!((&answer["remaining"], &answer["complete"]), (&0.into(), &true.into()), "{answer}");
    let counts = relay.stack.queue_counts().await?;
    assert_eq!((counts.events.visible, counts.dead_letters.total()), (COUNT, 0));
    Ok(())
}
