//! Delivered events that are sent once more from the journal, also by runs that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use local::genesys::Webhook;
use local::stack::{Function, QueueCounts};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::archive::{keys, lines, object};
use crate::ledger;
use crate::order::{mark_of, message, text_of};
use crate::relay::{QUICK, Relay, assert_has};

const CONVERSATIONS: usize = 40;
/// Events of each conversation, 1,000 in all.
const EVENTS: usize = 25;

/// The events of the hour that the target lost.
const FIRST_LOST: usize = 8;
const FIRST_KEPT: usize = 17;
const LOST: usize = CONVERSATIONS * (FIRST_KEPT - FIRST_LOST);

/// Messages in the events queues at which the run is killed, and its rate: slow enough to be seen.
const KILLED_AT: [u32; 2] = [1, 150];
const RATE: u32 = 100;

/// Messages of the journal's queue at which a run is killed that has not written them yet.
const HIDDEN: u32 = 100;

const PARAMETERS: [(&str, &str); 7] = [
    QUICK[0],
    QUICK[1],
    QUICK[2],
    ("JournalDays", "30"),
    ("MaxReceiveCount", "25"),
    ("Order", "conversation"),
    ("OrderPatienceSeconds", "900"),
];

/// Seconds of an invocation of replay: what a killed run received is hidden for half a minute
/// longer.
const SHORT_RUN: i32 = 20;

fn name_of(conversation: usize) -> String {
    format!("conversation-{conversation}")
}

/// Each fifth event is a receipt, which has a conversation and no place in its order.
fn is_receipt(number: usize) -> bool {
    number % 5 == 4
}

fn event(conversation: usize, number: usize) -> Webhook {
    let name = name_of(conversation);
    if !is_receipt(number) {
        return message(&name, number);
    }
    let body = json!({
        "id": format!("{name}-{number}"),
        "channel": {
            "id": "integration-1",
            "platform": "Open",
            "to": { "id": name },
            "time": "2026-01-15T12:00:00Z",
        },
        "type": "Receipt",
        "status": "Delivered",
        "isFinalReceipt": false,
        "direction": "Outbound",
        "conversationId": name,
    });
    Webhook::signed(body.to_string())
}

/// Event ids of each conversation, in the order in which they were accepted.
type Sent = Vec<Vec<String>>;

/// Sends these events of each conversation, and waits until the target has them.
async fn deliver(relay: &Relay, sent: &mut Sent, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        let round = (0..CONVERSATIONS).map(|of| event(of, number));
        for (ids, id) in sent.iter_mut().zip(relay.accept_all(round).await?) {
            ids.push(id);
        }
    }
    until_empty(relay).await
}

async fn until_empty(relay: &Relay) -> Result<()> {
    ledger::until(relay, "nothing is left in the queues", async || {
        Ok(relay.held().await? == (0, 0))
    })
    .await
}

/// Name of the resend that a delivery belongs to.
fn resend_of(request: &ReceivedRequest) -> Option<&str> {
    request.headers.get("x-relay-resend")?.to_str().ok()
}

/// Deliveries that the target accepted, in the order of their arrival.
fn accepted(relay: &Relay) -> Vec<ReceivedRequest> {
    let mut requests = relay.target.requests();
    requests.retain(|request| {
        let answer = request.answer.as_ref();
        answer.is_some_and(|answer| answer.status == Some(200))
    });
    requests
}

/// Checks that a resend delivered just these events, each once and as it was delivered at first.
fn check_resent(relay: &Relay, run: &str, expected: &[&String]) -> Result<()> {
    let all = accepted(relay);
    let first: BTreeMap<_, _> = (all.iter())
        .filter(|request| resend_of(request).is_none())
        .map(|request| (&request.event_id, request))
        .collect();
    let mut found: BTreeMap<&String, usize> = BTreeMap::new();
    for request in all.iter().filter(|request| resend_of(request) == Some(run)) {
        *found.entry(&request.event_id).or_default() += 1;
        let before = first[&request.event_id];
        ensure!(request.body == before.body, "another body: {request:?}");
        let attempts = [before, request].map(ledger::attempt_of);
        ensure!(attempts[0] < attempts[1], "{attempts:?} of {request:?}");
        ensure!(mark_of(request).is_none(), "out of its place: {request:?}");
    }
    let expected: BTreeMap<_, _> = expected.iter().map(|id| (*id, 1)).collect();
    let differ = |(id, times): &(&&String, &usize)| expected.get(**id) != Some(*times);
    let wrong: Vec<_> = found.iter().filter(differ).collect();
    ensure!(
        wrong.is_empty(),
        "{run}: not selected, or not once: {wrong:?}"
    );
    ensure!(
        found.len() == expected.len(),
        "{run}: {} of {} events were sent once more",
        found.len(),
        expected.len()
    );
    Ok(())
}

/// Checks that a resend delivered the messages of a conversation in the order of their receipt.
fn check_order(relay: &Relay, run: &str, conversation: &[String], numbers: &[usize]) -> Result<()> {
    let all = accepted(relay);
    let of_run = all.iter().filter(|request| resend_of(request) == Some(run));
    let arrived: Vec<_> = of_run.map(|request| &request.event_id).collect();
    let ordered = numbers.iter().filter(|number| !is_receipt(**number));
    let ordered: Vec<_> = ordered.map(|number| &conversation[*number]).collect();
    let is_ordered = |id: &&&String| ordered.contains(*id);
    let arrived: Vec<_> = arrived.iter().filter(is_ordered).copied().collect();
    ensure!(
        arrived == ordered,
        "{run}: {arrived:?} instead of {ordered:?}"
    );
    Ok(())
}

/// Ids of the events on all lines of the journal.
async fn journalled(relay: &Relay) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for key in keys(relay).await? {
        ensure!(key.starts_with("journal/"), "{key}");
        for line in lines(&object(relay, &key).await?)? {
            ids.push(line["eventId"].as_str().context("an id")?.to_owned());
        }
    }
    Ok(ids)
}

/// Kills the run of a request in its drain of the journal's queue, before and after an object is
/// written, and while it sends. Nothing is delivered meanwhile. Returns the number of kills.
async fn kill_at_each_step(relay: &Relay, request: &Value) -> Result<usize> {
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.set_delivering(false).await?;
    relay.until_not_delivering().await?;
    let journal = relay.stack.output("JournalQueueUrl")?;
    let is_draining = wait::until("events of the journal are hidden", || async {
        let count = relay.stack.count(journal).await?;
        Ok((count.in_flight >= HIDDEN).then_some(()))
    });
    let is_written = async {
        // Without a pause: the messages are deleted soon after.
        while keys(relay).await?.is_empty() {}
        Ok(())
    };
    let mut steps = vec![is_draining.boxed_local(), is_written.boxed_local()];
    for messages in KILLED_AT {
        let is_sending = async move {
            let is_sent = |counts: QueueCounts| counts.events.total() >= messages;
            let queues = relay.stack.until_queues("events are sent", is_sent);
            queues.await.map(drop)
        };
        steps.push(is_sending.boxed_local());
    }
    let mut kills = 0;
    for step in steps {
        kills += usize::from(relay.kill_run(request, step).await?);
    }
    relay.set_timeout(Function::Replay, 900).await?;
    relay.set_delivering(true).await?;
    Ok(kills)
}

#[tokio::test]
async fn selected_events_are_resent_once_whatever_is_killed() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &PARAMETERS).await?;
    let mut sent = vec![Vec::new(); CONVERSATIONS];
    deliver(&relay, &mut sent, 0..FIRST_LOST).await?;
    let since = Timestamp::now().to_string();
    deliver(&relay, &mut sent, FIRST_LOST..FIRST_KEPT).await?;
    let until = Timestamp::now().to_string();
    deliver(&relay, &mut sent, FIRST_KEPT..EVENTS).await?;
    let all: Vec<_> = sent.iter().flatten().collect();
    relay.assert_delivered_once(&all);

    let hour = json!({ "since": since, "until": until });
    let dry = json!({ "action": "resend", "filter": hour, "dryRun": true });
    let unwritten = json!({ "matched": 0, "notYetJournalled": all.len(), "dryRun": true });
    assert_has(&relay.replay(dry.clone()).await?, unwritten);
    let request = json!({
        "action": "resend", "filter": hour, "runId": "the-hour", "ratePerSecond": RATE,
        "why": "the target lost an hour", "by": "night shift",
    });
    let kills = kill_at_each_step(&relay, &request).await?;
    ensure!(kills >= 3, "killed {kills} times only");
    let report = relay.complete_run(&request).await?;
    assert_has(&report, json!({ "matched": LOST, "failures": 0 }));
    until_empty(&relay).await?;
    let lost: Vec<_> = sent
        .iter()
        .flat_map(|ids| &ids[FIRST_LOST..FIRST_KEPT])
        .collect();
    check_resent(&relay, "the-hour", &lost)?;
    let numbers: Vec<_> = (FIRST_LOST..FIRST_KEPT).collect();
    for conversation in &sent {
        check_order(&relay, "the-hour", conversation, &numbers)?;
    }
    let written = journalled(&relay).await?;
    let distinct: BTreeSet<_> = written.iter().collect();
    assert_eq!(
        distinct,
        all.iter().copied().collect(),
        "the journal holds each event"
    );
    let answer = relay.replay(dry).await?;
    assert_has(&answer, json!({ "matched": LOST, "notYetJournalled": 0 }));
    let hours = answer["hours"].as_array().context("hours")?.iter();
    let counted = hours.map(|hour| hour["events"].as_u64().unwrap_or_default());
    assert_eq!(counted.sum::<u64>(), LOST as u64, "{answer}");

    one_conversation_is_resent_by_each_run(&relay, &sent).await?;
    a_cancelled_run_sends_no_more(&relay, &hour).await?;
    relay.replay(json!({ "action": "journal" })).await?;
    assert_eq!(
        journalled(&relay).await?.len(),
        written.len(),
        "no resend is journalled"
    );
    // The runs before have sent nothing since.
    assert_has(
        &relay.replay(request).await?["background"],
        json!({ "state": "ended" }),
    );
    until_empty(&relay).await?;
    check_resent(&relay, "the-hour", &lost)
}

async fn one_conversation_is_resent_by_each_run(relay: &Relay, sent: &Sent) -> Result<()> {
    let (name, ids) = (name_of(7), &sent[7]);
    // An event fails at first, and those behind it wait.
    let (text, has_failed) = (format!("{name} 1"), Arc::new(AtomicBool::new(false)));
    let script = move |request: &ReceivedRequest| {
        let is_it = resend_of(request).is_some() && text_of(request) == text;
        let fails = is_it && !has_failed.swap(true, Ordering::Relaxed);
        Answer::status(if fails { 503 } else { 200 })
    };
    relay.target.behave(Behaviour::script(script));
    let numbers: Vec<_> = (0..EVENTS).collect();
    for run in ["one-conversation", "one-conversation-again"] {
        let request = json!({
            "action": "resend", "filter": { "conversationId": name }, "runId": run,
            "why": "the target lost a conversation",
        });
        let report = relay.complete_run(&request).await?;
        assert_has(
            &report,
            json!({ "matched": EVENTS, "resent": EVENTS, "failures": 0 }),
        );
        until_empty(relay).await?;
        check_resent(relay, run, &ids.iter().collect::<Vec<_>>())?;
        check_order(relay, run, ids, &numbers)?;
    }
    let shown = relay.show(&ids[1]).await?;
    assert_has(&shown, json!({ "state": "DELIVERED" }));
    let resent = ["one-conversation", "one-conversation-again"];
    assert_eq!(shown["resent"], json!(resent), "{shown}");
    Ok(())
}

async fn a_cancelled_run_sends_no_more(relay: &Relay, hour: &Value) -> Result<()> {
    let run = "cancelled";
    let request = json!({
        "action": "resend", "filter": hour, "runId": run, "ratePerSecond": 1,
        "why": "a mistake",
    });
    relay.replay(request.clone()).await?;
    let of_run = |request: &ReceivedRequest| resend_of(request) == Some(run);
    relay.until_at_target(of_run).await?;
    relay
        .replay(json!({ "action": "cancel", "runId": run }))
        .await?;
    let ended = relay.until_run_ends(&request).await?;
    assert_has(
        &ended,
        json!({ "state": "ended", "/report/cancelled": true }),
    );
    until_empty(relay).await?;
    let arrived = accepted(relay)
        .iter()
        .filter(|request| of_run(request))
        .count();
    ensure!((1..LOST).contains(&arrived), "{arrived} events arrived");
    assert_eq!(ended["report"]["resent"], json!(arrived), "{ended}");
    Ok(())
}
