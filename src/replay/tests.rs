//! The use case over stand-ins, on virtual time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::sweep::ANSWER_TIME;
use super::*;
use crate::event::Event;
use crate::events_table::Written;
use crate::message::{Attribute, AttributeValue, Message};
use crate::queue::{ReceiptHandle, Received, VisibilityTimeout};
use crate::reason::{Reason, ReasonKind};
use crate::record::{Attempt, Claim, ClaimRequest, Claiming, Context, Death, Record, State, StateName};
use crate::testing::{FakeArchive, FakeClock, FakeQueue, FakeTable};

type Fake = Replay<FakeQueue, FakeQueue, FakeQueue, FakeTable, FakeArchive, FakeClock>;

fn relay() -> Fake {
    relay_over(FakeQueue::default(), FakeQueue::default())
}

fn relay_over(events: FakeQueue, dead_letters: FakeQueue) -> Fake {
    Replay {
        events,
        redrive: dead_letters.clone(),
        dead_letters,
        table: FakeTable::default(),
        archive: FakeArchive::default(),
        clock: FakeClock,
    }
}

/// A message of the webhook `webhook`, told from others by `name`.
fn message(webhook: &str, name: u32) -> Message {
    let body = json!({ "webhookId": webhook, "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" });
    Message { body: body.to_string(), attributes: BTreeMap::new(), group: Some(webhook.to_owned()) }
}

fn event_of(message: &Message) -> Event {
    message.to_event(FakeClock.now()).expect("readable")
}

fn id_of(message: &Message) -> EventId {
    event_of(message).id
}

fn carrying(message: Message, status_code: u16) -> Message {
    message.with_reason(&Reason {
        reason: ReasonKind::Permanent,
        detail: "as the test says".to_owned(),
        status_code: Some(status_code),
        response: None,
        attempt: Some(1),
        at: FakeClock.now(),
    })
}

/// Claims an event as the processor does.
async fn claim(relay: &Fake, message: &Message) -> Claim {
    let now = FakeClock.now();
    let event = event_of(message);
    let lease_until = now + Duration::from_mins(1);
    let request = ClaimRequest { event: &event, message_id: "a-message", last: false, lease_until, now };
    let found = relay.table.get(&event.id).await.expect("read");
    let claiming = Claim::on(found.as_ref(), request);
    let Claiming::Free(claim) = claiming else { panic!("{claiming:?}") };
    assert_eq!(relay.table.write(claim.transition()).await.expect("written"), Written::Done);
    claim
}

fn attempt(status: u16) -> Attempt {
    Attempt { at: FakeClock.now(), duration_ms: Some(7), status: Some(status), error: None, response: None }
}

/// Lets an event die as the processor does, its message left to SQS.
async fn die(relay: &Fake, message: &Message, reason: ReasonKind, status: u16) {
    let error = "as the test says".to_owned();
    let death = Death { reason, error, status_code: Some(status), dead_at: FakeClock.now() };
    let claim = claim(relay, message).await;
    let step = claim.dead(attempt(status), death, None, Context::of(&event_of(message), None));
    relay.table.write(&step).await.expect("written");
    relay.table.keep_body(&id_of(message), message.body.as_bytes(), FakeClock.now()).await.expect("kept");
}

async fn deliver(relay: &Fake, message: &Message) {
    let claim = claim(relay, message).await;
    relay.table.write(&claim.delivered(attempt(200))).await.expect("written");
}

async fn bury(relay: &Fake, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        relay.dead_letters.send(&message).await.expect("sent");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
}

async fn record_of(relay: &Fake, message: &Message) -> Record {
    relay.table.get(&id_of(message)).await.expect("read").expect("a record")
}

async fn handle(relay: &Fake, request: Value) -> Result<Answer, ReplayError> {
    let deadline = Instant::now() + Duration::from_mins(1);
    relay.handle(Request::parse(request, "a test").expect("a request"), deadline).await
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
    let Done::Replay { replayed } = report.done else { panic!("{report:?}") };
    replayed
}

async fn visible(relay: &Fake) -> u64 {
    relay.dead_letters.depth().await.expect("counted").visible
}

#[tokio::test(start_paused = true)]
async fn a_filter_takes_what_matches_and_shows_the_rest_again() {
    let relay = relay();
    let dead = [
        carrying(message("a", 1), 404),
        carrying(message("b", 2), 410),
        message("a", 3),
        carrying(message("a", 4), 410),
    ];
    bury(&relay, dead).await;
    let report = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a", "statusCode": 404 } })).await;
    assert_eq!((report.matched, replayed(&report), report.skipped, report.remaining), (1, 1, 3, Some(3)));
    assert!(report.complete);
    assert_eq!(report.recorded, 4, "every dead letter has a record now");
    let [sent] = &relay.events.messages()[..] else { panic!("one message") };
    assert_eq!(sent.body, message("a", 1).body);
    assert!(!sent.attributes.contains_key("reason"), "the reason of its death is left behind");
    assert_eq!(visible(&relay).await, 3);
}

#[tokio::test(start_paused = true)]
async fn every_field_of_a_filter_selects_in_a_list_a_dry_run_and_a_replay() {
    for (filter, matched) in [
        (json!({ "source": "webhook" }), 3),
        (json!({ "source": "generic" }), 0),
        (json!({ "reason": "permanent" }), 2),
        (json!({ "reason": "unknown" }), 1),
        (json!({ "reason": "malformed" }), 0),
        (json!({ "webhookId": "b" }), 1),
        (json!({ "statusCode": 410 }), 1),
        (json!({ "since": "2000-01-01T00:00:00Z" }), 3),
        (json!({ "until": "2000-01-01T00:00:00Z" }), 0),
        (json!({ "reason": "permanent", "webhookId": "a" }), 1),
    ] {
        let relay = relay();
        bury(&relay, [carrying(message("a", 1), 404), carrying(message("b", 2), 410), message("a", 3)]).await;
        report(&relay, json!({ "action": "reconcile" })).await;
        let mut listing = filter.clone();
        listing["action"] = "list".into();
        let Answer::List(list) = handle(&relay, listing).await.expect("carried out") else { panic!("no list") };
        assert_eq!(list.items.len() as u64, matched, "{filter}");
        let dry = report(&relay, json!({ "action": "replay", "filter": filter, "dryRun": true })).await;
        assert_eq!((dry.matched, replayed(&dry), dry.items.len() as u64), (matched, 0, matched), "{filter}");
        let report = report(&relay, json!({ "action": "replay", "filter": filter })).await;
        assert_eq!((report.matched, replayed(&report)), (matched, matched), "{filter}");
    }
}

#[tokio::test(start_paused = true)]
async fn lists_and_dry_runs_receive_nothing() {
    let relay = relay();
    for (name, status) in [(1, 404), (2, 410)] {
        die(&relay, &message("a", name), ReasonKind::Permanent, status).await;
        bury(&relay, [message("a", name)]).await;
    }
    relay.dead_letters.refuse_receives();
    let dry = report(&relay, json!({ "action": "replay", "filter": { "statusCode": 404 }, "dryRun": true })).await;
    assert_eq!((dry.matched, dry.remaining, dry.items[0].status_code), (1, Some(2), Some(404)));
    let dry = report(&relay, json!({ "action": "replay", "all": true, "dryRun": true })).await;
    assert_eq!((dry.matched, replayed(&dry)), (2, 0));
    let Answer::List(list) = handle(&relay, json!({ "action": "list" })).await.expect("carried out") else {
        panic!("no list")
    };
    assert_eq!((list.count, list.next), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_list_gives_everything_once_page_by_page_oldest_first() {
    let relay = relay();
    for name in 0..25 {
        die(&relay, &message("a", name), ReasonKind::Exhausted, 503).await;
        tokio::time::advance(Duration::from_millis(if name % 3 == 0 { 0 } else { 5 })).await;
    }
    let (mut seen, mut next) = (Vec::new(), Value::Null);
    loop {
        let mut request = json!({ "action": "list", "limit": 4 });
        if next != Value::Null {
            request["next"] = next;
        }
        let Answer::List(list) = handle(&relay, request).await.expect("carried out") else { panic!("no list") };
        assert!(list.count == list.items.len() && list.count <= 4);
        seen.extend(list.items.into_iter().map(|letter| (letter.received_at, letter.event_id)));
        match list.next {
            Some(token) => next = token.into(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_shown_with_all_that_is_known() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Permanent, 422).await;
    bury(&relay, [message("a", 1)]).await;
    let id = id_of(&message("a", 1));
    report(&relay, json!({ "action": "replay", "eventIds": [id], "why": "mended", "by": "the night shift" })).await;
    let Answer::Show(shown) = handle(&relay, json!({ "action": "show", "eventId": id })).await.expect("known") else {
        panic!("not shown")
    };
    let shown = json!(shown);
    assert_eq!(
        (&shown["state"], &shown["reason"], &shown["statusCode"]),
        (&"DEAD".into(), &"permanent".into(), &422.into())
    );
    assert_eq!(
        (&shown["history"][0]["by"], &shown["history"][0]["why"]),
        (&"the night shift".into(), &"mended".into())
    );
    assert_eq!((&shown["body"], &shown["attempts"][0]["statusCode"]), (&message("a", 1).body.into(), &422.into()));
    assert!(shown["replayedAt"].is_string());
    let unknown = handle(&relay, json!({ "action": "show", "eventId": "nobody" })).await;
    assert!(matches!(unknown, Err(ReplayError::Unknown(_))));
}

#[tokio::test(start_paused = true)]
async fn everything_goes_by_move_task_and_one_at_a_time() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    bury(&relay, [message("a", 1)]).await;
    let request = json!({ "action": "replay", "all": true, "ratePerSecond": 5 });
    let report = report(&relay, request.clone()).await;
    assert_eq!(report.move_task.and_then(|task| task.rate_per_second), Some(5));
    assert_eq!(record_of(&relay, &message("a", 1)).await.history[0].action, "replay");

    for request in [
        request.clone(),
        json!({ "action": "archive" }),
        json!({ "action": "reconcile" }),
        json!({ "action": "discard", "eventIds": ["a"], "why": "a test" }),
    ] {
        assert!(matches!(handle(&relay, request).await, Err(ReplayError::Moving { .. })));
    }
    let cancel = json!({ "action": "cancel" });
    let cancelled = handle(&relay, cancel.clone()).await.expect("carried out");
    assert!(matches!(cancelled, Answer::Cancel { cancelled: true, .. }));
    let nothing = handle(&relay, cancel).await.expect("carried out");
    assert!(matches!(nothing, Answer::Cancel { cancelled: false, .. }));
    assert!(handle(&relay, request).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn two_runs_exclude_each_other_until_the_lease_of_one_is_over() {
    let relay = relay();
    bury(&relay, [message("a", 1)]).await;
    let now = FakeClock.now();
    let until = now + Duration::from_mins(5);
    let other = Lease { owner: Uuid::new_v4(), action: "archive".into(), by: "a schedule".into(), since: now, until };
    assert_eq!(relay.table.acquire(Exclusive::DeadLetters, &other, now).await.expect("written"), None);
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" } });
    let Err(ReplayError::Busy(held)) = handle(&relay, request.clone()).await else { panic!("not refused") };
    assert_eq!(held, other);
    let Answer::Status(status) = handle(&relay, json!({ "action": "status" })).await.expect("carried out") else {
        panic!("no status")
    };
    assert_eq!(status.run, Some(other.into()), "who is at work can be seen");
    tokio::time::advance(Duration::from_mins(5)).await;
    assert_eq!(replayed(&report(&relay, request.clone()).await), 1);
    assert_eq!(replayed(&report(&relay, request).await), 0, "the lease was given back, and nothing is left");
}

#[tokio::test(start_paused = true)]
async fn events_are_found_by_id_and_the_missing_are_explained() {
    let relay = relay();
    for name in 0..30 {
        die(&relay, &message("a", name), ReasonKind::Permanent, 404).await;
        bury(&relay, [message("a", name)]).await;
    }
    let (delivered, under_way, hidden, gone) = (message("b", 1), message("b", 2), message("b", 3), message("b", 4));
    deliver(&relay, &delivered).await;
    die(&relay, &gone, ReasonKind::Permanent, 404).await;
    tokio::time::advance(Duration::from_mins(20)).await;
    claim(&relay, &under_way).await;
    die(&relay, &hidden, ReasonKind::Exhausted, 503).await;

    let wanted = [message("a", 3), message("a", 20), delivered, under_way, hidden, gone];
    let mut ids: Vec<String> = wanted.iter().map(|message| id_of(message).to_string()).collect();
    ids.push("nobody".to_owned());
    let dry = report(&relay, json!({ "action": "replay", "eventIds": ids, "dryRun": true })).await;
    assert_eq!((dry.matched, dry.failed.len()), (4, 3), "who is hidden or gone can be told by receiving only");
    let report = report(&relay, json!({ "action": "replay", "eventIds": ids })).await;
    assert_eq!((report.matched, replayed(&report), report.complete), (2, 2, true));
    let found = |id: &str| report.failed.iter().find(|failed| failed.event_id.as_deref() == Some(id));
    let states: Vec<_> = ids[2..].iter().map(|id| found(id).and_then(|failed| failed.state)).collect();
    assert_eq!(
        states,
        [Missing::Delivered, Missing::Alive, Missing::Pending, Missing::Expired, Missing::Unknown].map(Some)
    );
    assert_eq!(visible(&relay).await, 28);
}

#[tokio::test(start_paused = true)]
async fn a_search_by_id_ends_when_all_are_found() {
    let relay = relay();
    bury(&relay, (0..100).map(|name| message("a", name))).await;
    let report = report(&relay, json!({ "action": "replay", "eventIds": [id_of(&message("a", 0))] })).await;
    assert_eq!((replayed(&report), report.skipped, report.complete), (1, 9, true));
}

#[tokio::test(start_paused = true)]
async fn what_was_replayed_too_often_needs_force_and_goes_by_sweep() {
    let relay = relay();
    let letter = message("a", 1);
    for _ in 0..=REPLAY_CEILING {
        die(&relay, &letter, ReasonKind::Permanent, 404).await;
    }
    bury(&relay, [letter.clone(), message("a", 2)]).await;
    let all = report(&relay, json!({ "action": "replay", "all": true })).await;
    assert_eq!((all.matched, replayed(&all), all.move_task), (1, 1, None));
    assert!(all.failed[0].error.contains("force"), "{:?}", all.failed);
    let forced = report(&relay, json!({ "action": "replay", "eventIds": [id_of(&letter)], "force": true })).await;
    assert_eq!(replayed(&forced), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_bounded_in_messages_and_in_rate() {
    let relay = relay();
    bury(&relay, (0..35).map(|name| message("a", name))).await;
    let started = Instant::now();
    let request = json!({ "action": "replay", "all": true, "maxMessages": 25, "ratePerSecond": 5 });
    let report = report(&relay, request).await;
    assert_eq!((report.matched, replayed(&report), report.remaining), (25, 25, Some(10)));
    assert!(!report.complete);
    assert_eq!(started.elapsed(), Duration::from_secs(4), "five at once, then five each second");
    assert_eq!(visible(&relay).await, 10);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_go_in_one_run() {
    let relay = relay();
    bury(&relay, (0..10_000).map(|name| message("a", name))).await;
    let first = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
    assert_eq!((replayed(&first), first.remaining), (10_000, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_before_its_deadline_and_says_what_is_left() {
    let relay = relay();
    bury(&relay, (0..50).map(|name| message("a", name))).await;
    let deadline = Instant::now() + Duration::from_secs(8);
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 5 });
    let request = Request::parse(request, "a test").expect("a request");
    let answer = relay.handle(request, deadline).await.expect("carried out");
    let Answer::Replay(report) = answer else { panic!("{answer:?}") };
    assert!(Instant::now() < deadline);
    let replayed = replayed(&report);
    assert!(replayed >= 25 && !report.complete, "{report:?}");
    assert_eq!((report.matched, report.remaining), (replayed, Some(50 - replayed)));
    assert_eq!(visible(&relay).await, 50 - replayed);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_dies_again_at_once_is_replayed_once() {
    // One queue is both: what is sent back is a dead letter again the next moment.
    let queue = FakeQueue::default();
    let relay = relay_over(queue.clone(), queue);
    bury(&relay, [message("a", 1)]).await;
    let report = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
    assert_eq!((report.matched, replayed(&report)), (1, 1));
    assert_eq!(visible(&relay).await, 1, "the new dead letter is not taken for a copy");
}

#[tokio::test(start_paused = true)]
async fn copies_of_one_event_are_sent_back_once_and_removed_when_it_is_delivered() {
    let relay = relay();
    bury(&relay, [message("a", 1), message("a", 2), message("a", 1)]).await;
    let report = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
    assert_eq!((replayed(&report), report.remaining), (2, Some(1)));
    assert_eq!(relay.events.messages().len(), 2);
    deliver(&relay, &message("a", 1)).await;
    let report = self::report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!((report.removed, report.remaining), (1, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_attributes_is_the_same_event_after_its_replay() {
    let relay = relay();
    let bare = Message { body: r#"{"pasted":true}"#.to_owned(), attributes: BTreeMap::new(), group: None };
    let id = id_of(&bare);
    bury(&relay, [bare]).await;
    tokio::time::advance(Duration::from_hours(1)).await;
    report(&relay, json!({ "action": "replay", "filter": { "source": "generic" } })).await;
    assert_eq!(id_of(&relay.events.messages()[0]), id);
}

#[tokio::test(start_paused = true)]
async fn what_eventbridge_could_not_deliver_is_dead_for_its_reason_and_goes_back_without_it() {
    let relay = relay();
    let text =
        |value: &str| Attribute { data_type: "String".to_owned(), value: AttributeValue::Text(value.to_owned()) };
    let body = r#"{"id":"a","detail-type":"v2.x","detail":{"topicName":"v2.x","eventBody":{},"timestamp":"t"}}"#;
    let attributes = [
        ("RULE_ARN", "arn:aws:events:us-east-1:123456789012:rule/a-bus/a-rule"),
        ("TARGET_ARN", "arn:aws:sqs:us-east-1:123456789012:a-queue"),
        ("ERROR_CODE", "NO_PERMISSIONS"),
        ("ERROR_MESSAGE", "not authorised"),
        ("RETRY_ATTEMPTS", "0"),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), text(value)));
    bury(&relay, [Message { body: body.to_owned(), attributes: attributes.into(), group: None }]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let State::Dead(dead) = relay.table.only_record().state else { panic!("not dead") };
    assert_eq!(dead.death.reason, ReasonKind::Permanent);
    assert!(dead.death.error.contains("EventBridge") && dead.death.error.contains("NO_PERMISSIONS"), "{dead:?}");

    let report = report(&relay, json!({ "action": "replay", "filter": { "source": "eventbridge" } })).await;
    assert_eq!(replayed(&report), 1);
    let sent = &relay.events.messages()[0];
    let names: Vec<_> = sent.attributes.keys().map(String::as_str).collect();
    assert_eq!((sent.body.as_str(), names), (body, vec!["event_id", "received_at"]));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_with_a_record_too() {
    let relay = relay();
    let poison = Message { body: "no json".to_owned(), attributes: BTreeMap::new(), group: None };
    bury(&relay, [poison]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let id = relay.table.only_record().event_id;
    let report = report(&relay, json!({ "action": "replay", "eventIds": [id] })).await;
    assert_eq!(replayed(&report), 1);
    assert_eq!(relay.events.messages()[0].identity(FakeClock.now()).0, id, "it keeps its id");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_stays_a_dead_letter() {
    let relay = relay();
    bury(&relay, [message("a", 1)]).await;
    relay.events.fail();
    let report = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
    assert_eq!((report.matched, replayed(&report), report.remaining), (1, 0, Some(1)));
    assert!(report.failures > 0 && !report.complete, "{report:?}");
    assert_eq!(visible(&relay).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_stops_when_the_events_queue_takes_nothing() {
    let relay = relay();
    bury(&relay, (0..200).map(|name| message("a", name))).await;
    relay.events.fail();
    let report = report(&relay, json!({ "action": "replay", "filter": { "webhookId": "a" } })).await;
    assert_eq!((report.matched, replayed(&report), report.remaining), (10, 0, Some(200)));
    assert_eq!(visible(&relay).await, 200);
}

#[tokio::test(start_paused = true)]
async fn reconcile_makes_the_records_say_what_lies_there() {
    let relay = relay();
    let (delivered, under_way, unknown, recorded, waiting, gone) =
        (message("a", 1), message("a", 2), message("a", 3), message("a", 4), message("a", 5), message("a", 6));
    deliver(&relay, &delivered).await;
    die(&relay, &recorded, ReasonKind::Exhausted, 503).await;
    die(&relay, &gone, ReasonKind::Exhausted, 503).await;
    let claimed = claim(&relay, &waiting).await;
    let now = FakeClock.now();
    relay.table.write(&claimed.retrying(attempt(503), now + Duration::from_secs(2), now)).await.expect("written");
    tokio::time::advance(Duration::from_mins(20)).await;
    claim(&relay, &under_way).await;
    let lying = [&delivered, &under_way, &unknown, &recorded, &waiting, &carrying(message("a", 7), 404)];
    bury(&relay, lying.map(Clone::clone)).await;

    let if_needed = json!({ "action": "reconcile", "ifNeeded": true, "by": "schedule" });
    let first = report(&relay, if_needed.clone()).await;
    assert_eq!((first.recorded, first.removed, first.skipped), (3, 1, 5), "{first:?}");
    assert!(matches!(first.done, Done::Reconcile { unlisted: 1 }), "{first:?}");
    for (message, reason) in [
        (&unknown, ReasonKind::Unknown),
        (&waiting, ReasonKind::Unknown),
        (&recorded, ReasonKind::Exhausted),
        (&message("a", 7), ReasonKind::Permanent),
    ] {
        let death = record_of(&relay, message).await.state.death(FakeClock.now()).expect("dead");
        assert_eq!(death.reason, reason);
    }
    assert!(relay.table.body(&id_of(&unknown)).await.expect("read").is_some(), "shown without a receive");
    assert_eq!(record_of(&relay, &under_way).await.state.name(), StateName::InProgress);
    assert_eq!(visible(&relay).await, 5);
    let Answer::List(list) = handle(&relay, json!({ "action": "list" })).await.expect("carried out") else {
        panic!("no list")
    };
    assert_eq!(list.count, 4, "the one without a message is not listed");

    deliver(&relay, &unknown).await;
    relay.dead_letters.refuse_receives();
    let again = handle(&relay, if_needed).await;
    assert!(matches!(again, Err(ReplayError::Queue(_))), "the counts differ again: {again:?}");
}

#[tokio::test(start_paused = true)]
async fn reconcile_that_is_not_needed_receives_nothing() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    bury(&relay, [message("a", 1)]).await;
    relay.dead_letters.refuse_receives();
    let report = report(&relay, json!({ "action": "reconcile", "ifNeeded": true })).await;
    assert!(report.complete && report.recorded == 0);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_event_is_gone_and_remembered() {
    let relay = relay();
    for name in 0..3 {
        die(&relay, &message("a", name), ReasonKind::Permanent, 404).await;
        bury(&relay, [message("a", name)]).await;
    }
    let id = id_of(&message("a", 1));
    let report = report(&relay, json!({ "action": "discard", "eventIds": [id], "why": "a test order" })).await;
    assert!(matches!(report.done, Done::Discard { discarded: 1 }), "{report:?}");
    let record = record_of(&relay, &message("a", 1)).await;
    assert_eq!((record.state.name(), record.history[0].why.as_deref()), (StateName::Discarded, Some("a test order")));
    assert_eq!(visible(&relay).await, 2);
    // A copy that turns up later is removed.
    bury(&relay, [message("a", 1)]).await;
    assert_eq!(self::report(&relay, json!({ "action": "reconcile" })).await.removed, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_archived_comes_back_byte_for_byte() {
    let relay = relay();
    let letters: Vec<Message> = (0..12).map(|name| carrying(message("a", name), 404)).collect();
    bury(&relay, letters.clone()).await;
    tokio::time::advance(Duration::from_hours(11 * 24)).await;
    bury(&relay, [message("young", 1)]).await;

    relay.archive.fail_times(1);
    let failed = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    assert!(failed.failures == 1 && !failed.complete, "{failed:?}");
    assert_eq!(visible(&relay).await, 13, "nothing is deleted before its object is durable");

    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    let Done::Archive { archived: 12, keys } = &report.done else { panic!("{report:?}") };
    assert_eq!((&relay.archive.keys(), visible(&relay).await), (keys, 1));
    let record = record_of(&relay, &letters[0]).await;
    assert!(matches!(&record.state, State::Archived { archived_to, .. } if *archived_to == keys[0]));
    let asked = self::report(&relay, json!({ "action": "replay", "eventIds": [id_of(&letters[0])] })).await;
    assert_eq!(asked.failed[0].state, Some(Missing::Archived));
    assert!(asked.failed[0].error.contains(&keys[0]));

    let request = json!({ "action": "restore", "key": keys[0] });
    let restored = self::report(&relay, request.clone()).await;
    assert!(matches!(restored.done, Done::Restore { restored: 12 }), "{restored:?}");
    let mut lying = relay.dead_letters.messages();
    lying.retain(|message| message.group.as_deref() == Some("a"));
    assert_eq!(lying, letters);
    assert_eq!(record_of(&relay, &letters[0]).await.state.name(), StateName::Dead);
    let again = self::report(&relay, request).await;
    assert!(matches!(again.done, Done::Restore { restored: 0 }) && again.skipped == 12, "{again:?}");
    let nothing = handle(&relay, json!({ "action": "restore", "key": "no/such" })).await;
    assert!(matches!(nothing, Err(ReplayError::Archive(ArchiveError::NotFound(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_between_any_two_calls_and_repeated_loses_and_doubles_nothing() {
    for actions in [
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
        json!({ "action": "archive", "olderThanDays": 0 }),
    ] {
        for calls in 0..40 {
            let relay = std::sync::Arc::new(relay());
            for name in 0..3 {
                die(&relay, &message("a", name), ReasonKind::Exhausted, 503).await;
                bury(&relay, [message("a", name)]).await;
            }
            // Every call is an await at which a killed run simply is no more.
            relay.table.halt_after(calls);
            let doomed = tokio::spawn({
                let (relay, request) = (std::sync::Arc::clone(&relay), actions.clone());
                async move { handle(&relay, request).await.map(drop) }
            });
            tokio::time::sleep(Duration::from_secs(30)).await;
            doomed.abort();
            relay.table.resume();
            tokio::time::advance(Duration::from_mins(2)).await;
            let again = handle(&relay, actions.clone()).await;
            assert!(again.is_ok(), "{calls}: {again:?}");
            let (Answer::Archive(report) | Answer::Replay(report)) = again.expect("carried out") else { panic!() };
            assert_eq!((visible(&relay).await, report.remaining), (0, Some(0)), "{calls}: {report:?}");
            // What is in the events queue twice is claimed and delivered once.
            let mut deliveries = 0;
            for message in relay.events.messages() {
                if record_of(&relay, &message).await.state.name() != StateName::Delivered {
                    deliver(&relay, &message).await;
                    deliveries += 1;
                }
            }
            let archived =
                relay.table.records().iter().filter(|record| record.state.name() == StateName::Archived).count();
            assert_eq!(deliveries + archived, 3, "{calls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_found_by_id_and_left_is_explained_too() {
    let relay = relay();
    let (under_way, delivered) = (message("a", 1), message("a", 2));
    claim(&relay, &under_way).await;
    deliver(&relay, &delivered).await;
    bury(&relay, [under_way.clone(), delivered.clone()]).await;
    let ids = [id_of(&under_way), id_of(&delivered)];
    let report = report(&relay, json!({ "action": "discard", "eventIds": ids, "why": "a test" })).await;
    let state = |id: &EventId| {
        report
            .failed
            .iter()
            .find(|failed| failed.event_id.as_deref() == Some(id.as_str()))
            .and_then(|failed| failed.state)
    };
    assert_eq!((state(&ids[0]), state(&ids[1])), (Some(Missing::Alive), Some(Missing::Delivered)));
    assert_eq!((report.matched, report.removed), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_from_a_replay_without_a_claim_died_anew() {
    let relay = relay();
    let letter = message("a", 1);
    die(&relay, &letter, ReasonKind::Permanent, 404).await;
    bury(&relay, [letter.clone()]).await;
    report(&relay, json!({ "action": "replay", "eventIds": [id_of(&letter)] })).await;
    // Its receives were throttled, and SQS moved it.
    bury(&relay, [letter.clone()]).await;
    assert_eq!(report(&relay, json!({ "action": "reconcile" })).await.recorded, 1);
    let record = record_of(&relay, &letter).await;
    let State::Dead(dead) = &record.state else { panic!("{record:?}") };
    assert_eq!((dead.death.reason, dead.replayed_at, record.replays_made), (ReasonKind::Unknown, None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_archived_event_can_be_restored_again_when_its_message_is_gone() {
    let relay = relay();
    bury(&relay, [message("a", 1)]).await;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    let Done::Archive { keys, .. } = report(&relay, archive).await.done else { panic!("not archived") };
    let restore = json!({ "action": "restore", "key": keys[0] });
    report(&relay, restore.clone()).await;
    let purged = relay.dead_letters.receive(Duration::from_secs(1), Duration::ZERO).await.expect("received");
    relay.dead_letters.delete(&[purged[0].receipt.clone()]).await;
    tokio::time::advance(Duration::from_mins(20)).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let restored = report(&relay, restore).await;
    assert!(matches!(restored.done, Done::Restore { restored: 1 }), "{restored:?}");
}

/// A dead-letter queue that shows nothing again: SQS does not answer.
struct NeverShows(FakeQueue);

impl VisibilityTimeout for NeverShows {
    async fn change_visibility(&self, _: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), QueueError>> {
        std::future::pending().await
    }
}

impl Sender for NeverShows {
    async fn send(&self, message: &Message) -> Result<(), QueueError> {
        self.0.send(message).await
    }

    async fn send_all(&self, messages: &[Message]) -> Vec<Result<(), QueueError>> {
        self.0.send_all(messages).await
    }
}

impl Receiver for NeverShows {
    async fn receive(&self, visibility: Duration, wait: Duration) -> Result<Vec<Received>, QueueError> {
        self.0.receive(visibility, wait).await
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), QueueError>> {
        self.0.delete(receipts).await
    }
}

impl Countable for NeverShows {
    async fn depth(&self) -> Result<Depth, QueueError> {
        self.0.depth().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_in_time_even_when_nothing_can_be_shown_again() {
    let queue = FakeQueue::default();
    queue.send(&message("a", 1)).await.expect("sent");
    tokio::time::advance(Duration::from_secs(1)).await;
    let relay = Replay {
        events: FakeQueue::default(),
        dead_letters: NeverShows(queue.clone()),
        redrive: queue.clone(),
        table: FakeTable::default(),
        archive: FakeArchive::default(),
        clock: FakeClock,
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    let request = Request::parse(json!({ "action": "replay", "filter": { "webhookId": "b" } }), "a test");
    relay.handle(request.expect("a request"), deadline).await.expect("carried out");
    assert!(Instant::now() < deadline, "time is left for the answer");
    tokio::time::advance(HIDDEN_PAST_DEADLINE + ANSWER_TIME).await;
    assert_eq!(queue.depth().await.expect("counted").visible, 1, "it comes back by itself");
}

#[tokio::test(start_paused = true)]
async fn what_is_down_is_an_error_not_an_empty_answer() {
    let requests = [
        json!({ "action": "status" }),
        json!({ "action": "list" }),
        json!({ "action": "replay", "all": true, "maxMessages": 1 }),
        json!({ "action": "reconcile", "ifNeeded": true }),
    ];
    for request in requests {
        let relay = relay();
        relay.table.fail();
        assert!(matches!(handle(&relay, request.clone()).await, Err(ReplayError::Table(_))), "{request}");
        let relay = self::relay();
        relay.dead_letters.fail();
        let answer = handle(&relay, request.clone()).await;
        assert!(request["action"] == "list" || matches!(answer, Err(ReplayError::Queue(_))), "{request}");
    }
}
