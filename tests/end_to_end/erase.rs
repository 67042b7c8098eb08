//! Erasure of a conversation, also by runs that are killed: nothing of its content is left, and
//! everything else is as it was.

mod contents;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use genesys_relay::domain::event_record::StateName;
use genesys_relay::ports::events_table::EventsTable as _;
use local::clients;
use local::genesys::Webhook;
use local::stack::{Function, QueueCounts};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::contents::{Contents, traces};
use crate::relay::{Relay, assert_has};

/// Conversations: their ids stand in all content of their events, in headers and in answers of the
/// target to them.
const ERASED: &str = "marks-what-is-erased";
const KEPT: &str = "marks-what-is-kept";

/// Dead letters of the other conversation, so that a sweep takes a while.
const KEPT_DEAD: usize = 30;

/// An event that failed waits for longer than an erasure takes.
const PARAMETERS: [(&str, &str); 4] = [
    ("BackoffBaseSeconds", "120"),
    ("BackoffCapSeconds", "120"),
    ("ProcessorTimeoutSeconds", "5"),
    ("JournalDays", "30"),
];

/// Seconds of an invocation of replay: enough for an erasure, and what a killed one received is
/// hidden for half a minute longer.
const SHORT_RUN: i32 = 45;

/// Pause between two looks at a step that takes a moment.
const MOMENT: Duration = Duration::from_millis(20);

/// Message of a conversation, of a kind that the target goes by.
fn message(conversation: &str, kind: &str) -> Webhook {
    // No id of an event tells the conversation.
    let id = format!("{kind}-{}", conversation.len());
    let body = json!({
        "id": id,
        "channel": {
            "id": "integration-1",
            "platform": "Open",
            "to": { "id": conversation },
            "time": "2026-01-15T12:00:00Z",
        },
        "type": "Text",
        "text": format!("{kind} {conversation}"),
        "direction": "Outbound",
        "conversationId": conversation,
    });
    Webhook::signed(body.to_string())
}

/// The same in the envelope of a webhook.
fn envelope(conversation: &str, kind: &str) -> Webhook {
    let body = json!({
        "webhookId": "11111111-2222-4333-8444-555555555555",
        "webhookName": conversation,
        "payload": { "text": format!("{kind} {conversation}"), "conversationId": conversation },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::with_shared_secret(body.to_string())
}

fn text_of(request: &ReceivedRequest) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = [&body["text"], &body["payload"]["text"]].map(Value::as_str);
    text.into_iter().flatten().collect()
}

/// Refuses what is dead or archived, and fails at the first attempt of what is late and of each
/// resend, always with the content.
fn answer(request: &ReceivedRequest) -> Answer {
    let text = text_of(request);
    let is_resent = request.headers.contains_key("x-relay-resend");
    let status = match text.split_once(['-', ' ']).map(|(kind, _)| kind) {
        Some("dead" | "archived") => 404,
        Some("late") if request.nth == 1 => 503,
        Some("resent") if is_resent && request.nth == 2 => 503,
        _ => 200,
    };
    Answer {
        body: format!("{status} for {text}"),
        ..Answer::status(status)
    }
}

/// Sends a webhook with the conversation in a header that is kept, and returns the event's id.
async fn accept(relay: &Relay, conversation: &str, webhook: Webhook) -> Result<String> {
    let url = relay.stack.webhook_url()?;
    wait::until("the webhook is accepted", || async {
        let (name, value) = &webhook.authentication;
        let request = clients::http().post(&url).body(webhook.body.clone());
        let request = request.header("content-type", "application/json");
        let request = request
            .header(*name, value)
            .header("x-genesys-note", conversation);
        let answer = request.send().await?;
        if answer.status() != 200 {
            return Ok(None);
        }
        let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        Ok(answer["eventId"].as_str().map(str::to_owned))
    })
    .await
}

/// Event ids of both conversations.
#[derive(Debug, Default)]
struct Ids {
    erased: Vec<String>,
    kept: Vec<String>,
}

impl Ids {
    /// Sends an event of this kind in each conversation.
    async fn accept_both(
        &mut self,
        relay: &Relay,
        webhook: fn(&str, &str) -> Webhook,
        kind: &str,
    ) -> Result<[String; 2]> {
        let erased = accept(relay, ERASED, webhook(ERASED, kind)).await?;
        let kept = accept(relay, KEPT, webhook(KEPT, kind)).await?;
        self.erased.push(erased.clone());
        self.kept.push(kept.clone());
        Ok([erased, kept])
    }
}

async fn archive(relay: &Relay, dead: u32) -> Result<()> {
    relay.until_dead(dead).await?;
    let request = json!({ "action": "archive", "olderThanDays": 0 });
    assert_has(&relay.replay(request).await?, json!({ "archived": dead }));
    Ok(())
}

async fn until_waits(relay: &Relay, id: &str) -> Result<()> {
    wait::until("it has failed and waits", || async {
        let record = relay.record(id).await?;
        let is_so = record.is_some_and(|record| record.state.name() == StateName::Retrying);
        Ok(is_so.then_some(()))
    })
    .await
}

/// Brings events of both conversations to every place in which the relay keeps content.
async fn fill(relay: &Relay) -> Result<Ids> {
    let mut ids = Ids::default();
    // Of this object nothing stays, and of the next one line.
    ids.erased
        .push(accept(relay, ERASED, message(ERASED, "archived-alone")).await?);
    archive(relay, 1).await?;
    ids.accept_both(relay, message, "archived").await?;
    archive(relay, 2).await?;

    ids.accept_both(relay, message, "delivered").await?;
    let resent = ids.accept_both(relay, message, "resent").await?;
    relay.until_empty().await?;
    relay.replay(json!({ "action": "journal" })).await?;
    let again = json!({
        "action": "resend", "eventIds": resent, "runId": "before", "why": "the target lost them",
    });
    assert_has(&relay.complete_run(&again).await?, json!({ "resent": 2 }));
    for id in &resent {
        until_waits(relay, id).await?;
    }

    ids.accept_both(relay, message, "dead").await?;
    ids.accept_both(relay, envelope, "dead").await?;
    for number in 0..KEPT_DEAD {
        ids.kept
            .push(accept(relay, KEPT, message(KEPT, &format!("dead-{number}"))).await?);
    }
    for id in &ids.accept_both(relay, message, "late").await? {
        until_waits(relay, id).await?;
    }
    ids.accept_both(relay, message, "waiting-for-the-journal")
        .await?;
    // A person sent one of them, and nothing has given it a record.
    let by_hand = format!("{{\"pasted\":\"{KEPT}\"}}");
    relay.send_to_dead_letters([by_hand]).await?;
    let dead = u32::try_from(KEPT_DEAD)? + 5;
    let are_there =
        |counts: QueueCounts| (counts.events.total(), counts.dead_letters.visible) == (4, dead);
    relay
        .stack
        .until_queues("only those that failed wait", are_there)
        .await?;

    relay.set_delivering(false).await?;
    relay.until_not_delivering().await?;
    ids.accept_both(relay, message, "queued").await?;
    ids.accept_both(relay, envelope, "queued").await?;
    let are_there = |counts: QueueCounts| counts.events.visible == 4;
    relay
        .stack
        .until_queues("new events wait", are_there)
        .await?;
    Ok(ids)
}

/// Kills the run of an erasure behind each of its steps.
async fn kill_at_each_step(relay: &Relay, request: &Value, ids: &Ids) -> Result<usize> {
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    let is_noted = wait::until("the erasure is noted", || async {
        let erasures = relay.table()?.erasures().await?;
        Ok(erasures.newest_at().map(drop))
    });
    let is_erased = wait::until("a record is erased", || async {
        for id in &ids.erased {
            if state_of(relay, id).await? == Some(StateName::Erased) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    });
    let queue = relay.stack.output("DeadLetterQueueUrl")?;
    let is_sweeping = async {
        while relay.stack.count(queue).await?.in_flight == 0 {
            sleep(MOMENT).await;
        }
        Ok(())
    };
    let is_rewriting = async {
        let before = contents::versions(relay).await?;
        while contents::versions(relay).await? == before {
            sleep(MOMENT).await;
        }
        Ok(())
    };
    let mut kills = 0;
    for step in [
        is_noted.boxed_local(),
        is_erased.boxed_local(),
        is_sweeping.boxed_local(),
        is_rewriting.boxed_local(),
    ] {
        kills += usize::from(relay.kill_run(request, step).await?);
    }
    relay.set_timeout(Function::Replay, 900).await?;
    Ok(kills)
}

async fn state_of(relay: &Relay, id: &str) -> Result<Option<StateName>> {
    Ok(relay.record(id).await?.map(|record| record.state.name()))
}

#[tokio::test]
async fn erased_conversation_leaves_nothing_whatever_is_killed() -> Result<()> {
    let relay = Relay::start(Behaviour::script(answer), &PARAMETERS).await?;
    let ids = fill(&relay).await?;
    let found = traces(&relay, ERASED).await?;
    for place in [
        "item",
        "object",
        "relay-events",
        "relay-dead-letters",
        "relay-journal",
    ] {
        let is_there = found.iter().any(|trace| trace.starts_with(place));
        ensure!(is_there, "the search finds nothing in {place}: {found:?}");
    }
    let before = Contents::beside(&relay, &ids.erased).await?;
    assert!(traces(&relay, KEPT).await?.len() > KEPT_DEAD);

    let request = json!({
        "action": "erase", "conversationId": ERASED, "runId": "forget",
        "why": "a person asked for it", "by": "data protection",
    });
    let kills = kill_at_each_step(&relay, &request, &ids).await?;
    ensure!(kills >= 3, "killed {kills} times only");
    let report = relay.complete_run(&request).await?;
    assert_has(&report, json!({ "failures": 0, "complete": true }));
    let remains = report["remains"].as_array().context("remains")?;
    assert!(
        remains
            .iter()
            .all(|one| one["place"].is_string() && one["what"].is_string())
    );
    assert!(!remains.is_empty());
    let after = Contents::beside(&relay, &ids.erased).await?;
    after.check_unchanged(&before)?;

    relay.set_delivering(true).await?;
    let dead = u32::try_from(KEPT_DEAD)? + 3;
    relay.until_dead(dead).await?;
    nothing_is_left(&relay, &ids).await?;
    late_copies_are_dropped(&relay, &ids).await?;
    others_are_delivered(&relay, &ids).await?;

    let id = accept(&relay, ERASED, message(ERASED, "new")).await?;
    relay.until_dead(dead).await?;
    assert_eq!(state_of(&relay, &id).await?, Some(StateName::Delivered));
    Ok(())
}

/// Checks that a search of all places finds nothing, and that all records say why.
async fn nothing_is_left(relay: &Relay, ids: &Ids) -> Result<()> {
    let found = traces(relay, ERASED).await?;
    ensure!(found.is_empty(), "{found:#?}");
    for id in &ids.erased {
        let shown = relay.show(id).await?;
        assert_has(
            &shown,
            json!({ "state": "ERASED", "body": null, "attempts": [] }),
        );
        assert_has(
            &shown,
            json!({ "/history/0/action": "erase", "/history/1": null }),
        );
    }
    let request = json!({ "action": "conversation", "id": ERASED });
    assert_has(&relay.replay(request).await?, json!({ "count": 0 }));
    Ok(())
}

/// Sends events once more that were delivered, dead and queued, as Genesys Cloud may.
async fn late_copies_are_dropped(relay: &Relay, ids: &Ids) -> Result<()> {
    let requests = relay.target.requests().len();
    for kind in ["delivered", "dead", "queued"] {
        let id = accept(relay, ERASED, message(ERASED, kind)).await?;
        ensure!(ids.erased.contains(&id), "another id: {id}");
    }
    let id = accept(relay, ERASED, envelope(ERASED, "queued")).await?;
    ensure!(ids.erased.contains(&id), "another id: {id}");
    let are_gone = |counts: QueueCounts| counts.events.total() == 0;
    relay
        .stack
        .until_queues("the copies are gone", are_gone)
        .await?;
    let came: Vec<_> = relay.target.requests().split_off(requests);
    let came = came
        .iter()
        .filter(|request| ids.erased.contains(&request.event_id));
    ensure!(came.count() == 0, "a late copy was delivered");
    nothing_is_left(relay, ids).await
}

/// Checks that the events that waited have arrived, and that none was delivered that was erased.
async fn others_are_delivered(relay: &Relay, ids: &Ids) -> Result<()> {
    for request in relay.target.requests() {
        let text = text_of(&request);
        let was_queued = text.starts_with("queued");
        ensure!(!(was_queued && text.contains(ERASED)), "delivered: {text}");
        let is_again = request.nth > 1 && text.contains(ERASED);
        ensure!(
            !is_again || text.starts_with("resent"),
            "delivered again: {text}"
        );
    }
    let mut states = Vec::new();
    for id in &ids.kept {
        states.push(state_of(relay, id).await?.context("a record")?);
    }
    let number = |name| states.iter().filter(|state| **state == name).count();
    let numbers = [StateName::Delivered, StateName::Dead, StateName::Archived].map(number);
    // Delivered, resent, late, the one that waited for the journal, and two that were queued.
    assert_eq!(numbers, [6, KEPT_DEAD + 2, 1], "{states:?}");
    Ok(())
}
