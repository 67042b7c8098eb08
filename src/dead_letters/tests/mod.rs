//! The use case over stand-ins, on virtual time.

mod archive;
mod audit;
mod background;
mod conversation;
mod erase;
mod journal;
mod looks;
mod order;
mod reconcile;
mod resend;
mod runs;
mod selection;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::domain::event::Event;
use crate::domain::event_record::{
    Attempt, Claim, ClaimRequest, ClaimResult, Context, Death, EventRecord, REPLAY_CEILING, State,
    StateName,
};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::message::Message;
use crate::ports::archive::{Archive, ArchiveError, ArchivePart, Archived, ArchivedAttribute};
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, RunLease, Written};
use crate::ports::queue::{Countable, Receiver, Sender};
use crate::testing::{FakeArchive, FakeClock, FakePorts, FakeQueue, FakeTable};

type Fake = DeadLetters<FakePorts>;

fn relay() -> Fake {
    relay_over(FakeQueue::default(), FakeQueue::default())
}

fn relay_over(events: FakeQueue, dead_letters: FakeQueue) -> Fake {
    let ports = Ports {
        events,
        ordered: None,
        journal: None,
        redrive: dead_letters.clone(),
        dead_letters,
        table: FakeTable::default(),
        archive: FakeArchive::default(),
        clock: FakeClock,
    };
    DeadLetters {
        ports,
        settings: Settings::default(),
    }
}

/// A message of the webhook `webhook`, told from others by `name`.
fn message(webhook: &str, name: u32) -> Message {
    let body = json!({ "webhookId": webhook, "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" });
    Message {
        body: body.to_string(),
        attributes: BTreeMap::new(),
        group: Some(webhook.to_owned()),
        trace: None,
    }
}

fn event_of(message: &Message) -> Event {
    message.to_event(FakeClock.now()).expect("readable")
}

fn id_of(message: &Message) -> EventId {
    event_of(message).id
}

fn carrying(message: Message, status_code: u16) -> Message {
    message.with_reason(&Reason {
        status_code: Some(status_code),
        attempt: Some(1),
        ..Reason::new(ReasonKind::Permanent, "as the test says", FakeClock.now())
    })
}

/// Claims an event as the processor does, which waits where it has to.
async fn claim(relay: &Fake, message: &Message) -> Claim {
    claim_in(relay, message, None).await
}

/// The same in its place in a conversation, if there is one.
async fn claim_in(relay: &Fake, message: &Message, conversation: Option<&str>) -> Claim {
    let event = event_of(message);
    let found = relay.ports.table.get(&event.id).await.expect("read");
    let bulk = relay.ports.table.bulk_replay().await.expect("read");
    let claim = loop {
        let now = FakeClock.now();
        let lease_until = now + Duration::from_mins(1);
        let request = ClaimRequest {
            event: &event,
            message_id: "a-message",
            sent_at: now,
            bulk: bulk.as_ref(),
            last: false,
            conversation,
            resend: None,
            lease_until,
            now,
        };
        match Claim::on(found.as_ref(), request) {
            ClaimResult::Claimed(claim) => break claim,
            ClaimResult::TooEarly(time) | ClaimResult::OutOfPlace(time) => {
                tokio::time::advance(time.duration_since(now).try_into().expect("later")).await;
            }
            claiming @ (ClaimResult::AlreadyFinished(_)
            | ClaimResult::Other(_)
            | ClaimResult::AlreadyDead(_)) => {
                panic!("{claiming:?}")
            }
        }
    };
    assert_eq!(
        relay
            .ports
            .table
            .write(claim.transition())
            .await
            .expect("written"),
        Written::Done
    );
    claim
}

fn attempt(status: u16) -> Attempt {
    Attempt {
        at: FakeClock.now(),
        duration_ms: Some(7),
        status: Some(status),
        error: None,
        response: None,
    }
}

/// Lets an event die as the processor does, its message left to SQS.
async fn die(relay: &Fake, message: &Message, reason: ReasonKind, status: u16) {
    let error = "as the test says".to_owned();
    let claim = claim(relay, message).await;
    let death = Death {
        reason,
        error,
        status_code: Some(status),
        dead_at: FakeClock.now(),
    };
    let step = claim.dead(
        attempt(status),
        death,
        None,
        Context::of(&event_of(message), None),
    );
    relay.ports.table.write(&step).await.expect("written");
    relay
        .ports
        .table
        .keep_body(&id_of(message), message.body.as_bytes(), FakeClock.now())
        .await
        .expect("kept");
}

async fn deliver(relay: &Fake, message: &Message) {
    let claim = claim(relay, message).await;
    relay
        .ports
        .table
        .write(&claim.delivered(attempt(200)))
        .await
        .expect("written");
}

async fn send_to_dead_letters(relay: &Fake, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        relay.ports.dead_letters.send(&message).await.expect("sent");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
}

async fn record_of(relay: &Fake, message: &Message) -> EventRecord {
    relay
        .ports
        .table
        .get(&id_of(message))
        .await
        .expect("read")
        .expect("a record")
}

async fn handle(relay: &Fake, request: Value) -> Result<Answer, ReplayError> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let answer = relay
        .handle(
            Request::parse(request, "a test").expect("a request"),
            deadline,
        )
        .await?;
    // The console reads answers with the same types.
    let (wire, read) = (
        json!(answer),
        serde_json::from_value::<Answer>(json!(answer)),
    );
    assert_eq!(json!(read.expect("an answer")), wire);
    Ok(answer)
}

async fn report(relay: &Fake, request: Value) -> Report {
    match handle(relay, request).await.expect("carried out") {
        Answer::Replay(report)
        | Answer::Reconcile(report)
        | Answer::Archive(report)
        | Answer::Restore(report)
        | Answer::Discard(report) => report,
        answer => panic!("{answer:?}"),
    }
}

fn replayed(report: &Report) -> u64 {
    let Done::Replay { replayed } = report.done else {
        panic!("{report:?}")
    };
    replayed
}

async fn visible(relay: &Fake) -> u64 {
    relay
        .ports
        .dead_letters
        .depth()
        .await
        .expect("counted")
        .visible
}
