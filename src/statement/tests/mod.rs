//! The statement over a stand-in of Genesys Cloud that drops, doubles, mislabels and delays.

mod cloud;
mod crashes;
mod week;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::cloud::{Cloud, Message};
use super::*;
use crate::adapters::delivery_log::open_messaging::OpenMessaging;
use crate::domain::event::{Event, Identity};
use crate::domain::event_record::OperatorAction;
use crate::ports::events_table::Written;
use crate::ports::hourly_counts::HourCounts;
use crate::testing::{FakeArchive, FakeClock, FakeCounts, FakePorts, FakeQueue, FakeTable};

type Relay = Statements<FakePorts<OpenMessaging<Cloud>>>;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn relay(cloud: &Cloud) -> Relay {
    let ports = Ports {
        sent: OpenMessaging {
            api: cloud.clone(),
            integration_ids: ["i1".to_owned()].into(),
            statuses: ["failed".to_owned()].into(),
            look_back: SignedDuration::from_hours(24),
        },
        table: FakeTable::default(),
        events: FakeQueue::default(),
        archive: FakeArchive::default(),
        counts: FakeCounts::default(),
        clock: FakeClock,
    };
    Statements {
        ports,
        has_conversation_index: true,
    }
}

fn request(fields: Value) -> Request {
    let mut request = json!({ "action": "statement", "by": "schedule" });
    let Value::Object(fields) = fields else {
        panic!("no object: {fields}")
    };
    request.as_object_mut().expect("an object").extend(fields);
    Request::parse(request, "a test", FakeClock.now()).expect("a request")
}

/// Waits on virtual time.
async fn until(time: Timestamp) {
    let left = time.duration_since(FakeClock.now());
    tokio::time::sleep(left.try_into().expect("in the future")).await;
}

/// Records a webhook's event as received at some time.
async fn receive(table: &FakeTable, body: &Value, received_at: Timestamp) -> EventId {
    let body = body.to_string().into_bytes();
    let json = Json::parse(&body).expect("JSON");
    let identity = Identity::of(json, received_at, None, || panic!("it has an id"));
    let event = Event {
        id: identity.id.clone(),
        source: identity.source,
        received_at,
        content_type: None,
        headers: BTreeMap::new(),
        webhook_id: identity.webhook_id,
        body,
        is_copy: false,
    };
    let act = OperatorAction {
        action: "receive".to_owned(),
        at: received_at,
        by: "a test".to_owned(),
        why: None,
    };
    let written = table.write(&EventRecord::queued(&event, None, act)).await;
    // A second one is lost against the first: a duplicate.
    assert!(matches!(written, Ok(Written::Done | Written::Lost(_))));
    identity.id
}

async fn slice(relay: &Relay, fields: Value) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(290);
    relay
        .run(&request(fields), deadline)
        .await
        .expect("a slice")
}

/// Runs slices of a day until its statement is written, and returns that.
async fn state(relay: &Relay, day: &str) -> Value {
    loop {
        match slice(relay, json!({ "day": day })).await {
            Answer::Written { head, .. } => return read(relay, &head.key).await,
            Answer::Continues { .. } => tokio::time::sleep(Duration::from_mins(5)).await,
            other => panic!("{other:?}"),
        }
    }
}

async fn read(relay: &Relay, key: &str) -> Value {
    let object = relay.ports.archive.get(key).await.expect("an object");
    serde_json::from_slice(&object).expect("JSON")
}

fn unaccounted_of(statement: &Value) -> Vec<&str> {
    let named = statement["genesys"]["unaccounted"]
        .as_array()
        .expect("a list");
    named
        .iter()
        .map(|named| named["messageId"].as_str().expect("an id"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_conversations_take_the_documented_calls() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    for number in 0..10_000 {
        let sent_at = at("2026-01-14T00:00:00Z") + SignedDuration::from_secs(number * 8);
        let message = Message::sent(&format!("c{number}"), &format!("m{number}"), sent_at);
        receive(&relay.ports.table, &message.webhook(), sent_at).await;
        cloud.add(message);
    }
    let began = Instant::now();
    let statement = state(&relay, "2026-01-14").await;
    // A page of a hundred each, and two for each conversation: docs/operate/statement.md says so.
    assert_eq!(cloud.calls(), 100 + 2 * 10_000);
    assert_eq!(statement["genesys"]["calls"], 20_100);
    assert_eq!(
        [
            &statement["sent"],
            &statement["accounted"],
            &statement["unaccounted"]
        ],
        [10_000, 10_000, 0].map(Value::from).each_ref()
    );
    assert!(
        cloud.most_in_a_minute() <= 242,
        "{}",
        cloud.most_in_a_minute()
    );
    let hours = began.elapsed().as_secs() / 3600;
    assert!((3..6).contains(&hours), "{hours} h");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_told_and_never_a_zero() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let sent_at = at("2026-01-14T10:00:00Z");
    for id in ["m1", "m2", "gone"] {
        cloud.add(Message::sent(&format!("c-{id}"), id, sent_at));
    }
    let unreadable = Message::sent("c-m1", "m1", sent_at).webhook();
    let unreadable = receive(&relay.ports.table, &unreadable, sent_at).await;
    relay.ports.table.spoil_record(&unreadable);
    relay.ports.counts.fail(true);
    let statement = state(&relay, "2026-01-14").await;
    let aws = &statement["aws"];
    assert!(aws["hours"].is_null(), "{aws}");
    assert!(
        aws["unavailable"]
            .as_str()
            .expect("an error")
            .contains("made to fail")
    );
    assert_eq!(
        (
            &statement["relay"]["unreadable"],
            &statement["relay"]["balances"]
        ),
        (&json!(1), &json!(false))
    );
    assert_eq!(
        statement["genesys"]["accountedByState"],
        json!({ "UNREADABLE": 1 })
    );
    assert_eq!(statement["genesys"]["unread"], 1, "{statement}");
    assert_eq!(unaccounted_of(&statement), ["m2"]);

    // Asked again, now that CloudWatch answers: the next in the chain.
    relay.ports.counts.fail(false);
    let counts = HourCounts {
        accepted: Some(2),
        sent: Some(2),
        deleted: None,
    };
    relay.ports.counts.set(at("2026-01-14T10:00:00Z"), counts);
    let again = state(&relay, "2026-01-14").await;
    assert_eq!(
        again["aws"]["hours"]["2026-01-14T10:00:00Z"],
        json!({ "accepted": 2, "sent": 2 })
    );
    assert_eq!(
        (&again["sequence"], &again["previous"]["key"]),
        (&json!(2), &json!("statements/2026-01-14.json"))
    );
    assert_eq!(
        relay.ports.archive.keys(),
        ["statements/2026-01-14.json", "statements/2026-01-14.2.json"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fetched_is_tried_thrice_and_then_told() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    cloud.add(Message::sent(
        "c-withheld",
        "m1",
        at("2026-01-14T10:00:00Z"),
    ));
    cloud.add(Message::sent("c2", "m2", at("2026-01-14T10:00:00Z")));
    let statement = state(&relay, "2026-01-14").await;
    assert_eq!(
        (&statement["genesys"]["unread"], &statement["sent"]),
        (&json!(1), &json!(1))
    );
    // A page, two for the other, and three tries.
    assert_eq!(cloud.calls(), 6);
    let newest = relay.load().await.expect("read").saved.newest;
    assert_eq!(newest.map(|newest| newest.unaccounted), Some(2));
    assert!(
        statement["genesys"]["unreadNamed"][0]
            .as_str()
            .expect("a name")
            .contains("c-withheld")
    );
}

#[tokio::test(start_paused = true)]
async fn an_unaccounted_message_is_named_with_a_request_of_the_recovery() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    cloud.add(Message {
        status: "sent",
        ..Message::sent("c1", "m1", at("2026-01-14T10:00:00Z"))
    });
    let statement = state(&relay, "2026-01-14").await;
    let named = &statement["genesys"]["unaccounted"][0];
    assert_eq!(
        (&named["status"], &named["conversationId"]),
        (&json!("sent"), &json!("c1"))
    );
    let request =
        crate::recover::Request::parse(named["request"].clone(), "a test", FakeClock.now());
    let recover = recovery(&cloud, &relay.ports.table);
    let deadline = Instant::now() + Duration::from_secs(290);
    let report = recover
        .recover(&request.expect("a request"), deadline)
        .await;
    assert_eq!(report.expect("recovered").new, 1);
    let again = state(&relay, "2026-01-14").await;
    assert_eq!(unaccounted_of(&again), Vec::<&str>::new());
    assert_eq!(again["genesys"]["accountedByState"], json!({ "QUEUED": 1 }));
    assert_eq!(again["relay"]["total"]["recovered"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_book_of_genesys_beside_events_does_not_balance() {
    FakeClock::start_over();
    let relay = relay(&Cloud::default());
    let sent_at = at("2026-01-14T10:00:00Z");
    let message = Message::sent("c1", "m1", sent_at);
    receive(&relay.ports.table, &message.webhook(), sent_at).await;
    let answer = slice(&relay, json!({ "day": "2026-01-14" })).await;
    assert!(
        matches!(
            answer,
            Answer::Written {
                balances: false,
                sent: 0,
                ..
            }
        ),
        "{answer:?}"
    );
    let newest = relay.load().await.expect("read").saved.newest;
    assert_eq!(newest.map(|newest| newest.unaccounted), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_day_of_an_open_conversation_with_a_receipt_alone_balances() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let message = Message::sent("c1", "m1", at("2026-01-13T22:00:00Z"));
    cloud.add(message.clone());
    // The conversation goes on past the day.
    cloud.add(Message::sent("c1", "m2", at("2026-01-15T01:00:00Z")));
    // A receipt is an event of Open Messaging like the message that it is about.
    let received_at = at("2026-01-14T08:00:00Z");
    receive(&relay.ports.table, &message.webhook(), received_at).await;
    let statement = state(&relay, "2026-01-14").await;
    assert_eq!(statement["relay"]["openMessaging"], 1);
    let newest = relay.load().await.expect("read").saved.newest;
    assert_eq!(newest.map(|newest| newest.unaccounted), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_statement_that_cannot_end_holds_up_no_later_day() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let mut loaded = relay.load().await.expect("read");
    let old = request(json!({ "day": "2026-01-02" }));
    let progress = begin("2026-01-02".parse().expect("a day"), &old, FakeClock.now());
    loaded.saved.progress = Some(progress.expect("a day"));
    relay.save(&mut loaded).await.expect("saved");
    tokio::time::sleep(Duration::from_hours(48)).await;
    let answer = slice(&relay, json!({ "day": "2026-01-15" })).await;
    assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_recovery_waits_for_the_slice_of_a_statement() {
    FakeClock::start_over();
    let recover = recovery(&Cloud::default(), &FakeTable::default());
    let (now, requester) = (FakeClock.now(), request(json!({})).requester);
    let end = Instant::now() + SLICE;
    let lease = RunLease::new(Uuid::new_v4(), STATEMENT, &requester, now, end);
    let table = &recover.ports.table;
    let acquired = table.acquire(LeaseName::Recovery, &lease, now).await;
    assert_eq!(acquired.expect("answered"), None);
    let request = crate::recover::Request::parse(json!({}), "a test", now);
    let deadline = Instant::now() + Duration::from_secs(290);
    let report = recover
        .recover(&request.expect("a request"), deadline)
        .await;
    assert!(report.expect("recovered").complete);
    assert!(Instant::now() >= end);
}

fn recovery(
    cloud: &Cloud,
    table: &FakeTable,
) -> crate::recover::Recover<FakePorts<OpenMessaging<Cloud>>> {
    let ports = crate::recover::Ports {
        log: relay(cloud).ports.sent,
        events: FakeQueue::default(),
        dead_letters: FakeQueue::default(),
        table: table.clone(),
        clock: FakeClock,
    };
    crate::recover::Recover {
        ports,
        overlap: SignedDuration::from_mins(15),
    }
}

#[tokio::test(start_paused = true)]
async fn the_schedule_states_whole_days_only_and_each_once() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let mut written = Vec::new();
    while FakeClock.now() < at("2026-01-19T12:00:00Z") {
        if let Answer::Written { day, .. } = slice(&relay, json!({})).await {
            written.push((day.to_string(), FakeClock.now()));
        }
        tokio::time::sleep(Duration::from_mins(5)).await;
    }
    let days: Vec<_> = written.iter().map(|(day, _)| day.as_str()).collect();
    assert_eq!(days, ["2026-01-16", "2026-01-17", "2026-01-18"]);
    let is_due = |(day, at): &(String, Timestamp)| {
        let end = span_of(day.parse().expect("a day")).expect("a span").1;
        at.duration_since(end) >= SignedDuration::from_hours(2)
    };
    assert!(written.iter().all(is_due), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slice_leaves_the_lease_to_a_running_recovery() {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    let now = FakeClock.now();
    let requester = request(json!({})).requester;
    let lease = RunLease::new(
        Uuid::new_v4(),
        "recover",
        &requester,
        now,
        Instant::now() + SLICE,
    );
    let acquired = relay
        .ports
        .table
        .acquire(LeaseName::Recovery, &lease, now)
        .await;
    assert_eq!(acquired.expect("answered"), None);
    let answer = slice(&relay, json!({ "day": "2026-01-14" })).await;
    assert!(matches!(answer, Answer::Busy { .. }), "{answer:?}");
    assert_eq!(cloud.calls(), 0);
}
