//! Selection of dead letters by a request, and the outcome of each.

use super::*;
use crate::domain::message::Attribute;

#[tokio::test(start_paused = true)]
async fn a_filter_takes_what_matches_and_shows_the_rest_again() {
    let relay = relay();
    let dead = [
        carrying(message("a", 1), 404),
        carrying(message("b", 2), 410),
        message("a", 3),
        carrying(message("a", 4), 410),
    ];
    send_to_dead_letters(&relay, dead).await;
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a", "statusCode": 404 } }),
    )
    .await;
    assert_eq!(
        (
            report.matched,
            replayed(&report),
            report.skipped,
            report.remaining
        ),
        (1, 1, 3, Some(3))
    );
    assert!(report.complete);
    assert_eq!(report.recorded, 4, "every dead letter has a record now");
    let [sent] = &relay.ports.events.messages()[..] else {
        panic!("one message")
    };
    assert_eq!(sent.body, message("a", 1).body);
    assert!(
        !sent.attributes.contains_key("reason"),
        "the reason of its death is left behind"
    );
    assert_eq!(visible(&relay).await, 3);
}

#[tokio::test(start_paused = true)]
async fn events_are_found_by_id_and_the_missing_are_explained() {
    let relay = relay();
    for name in 0..30 {
        die(&relay, &message("a", name), ReasonKind::Permanent, 404).await;
        send_to_dead_letters(&relay, [message("a", name)]).await;
    }
    let (delivered, under_way, hidden, gone) = (
        message("b", 1),
        message("b", 2),
        message("b", 3),
        message("b", 4),
    );
    deliver(&relay, &delivered).await;
    die(&relay, &gone, ReasonKind::Permanent, 404).await;
    tokio::time::advance(Duration::from_hours(14 * 24)).await;
    claim(&relay, &under_way).await;
    die(&relay, &hidden, ReasonKind::Exhausted, 503).await;

    let wanted = [
        message("a", 3),
        message("a", 20),
        delivered,
        under_way,
        hidden,
        gone,
    ];
    let mut ids: Vec<String> = wanted
        .iter()
        .map(|message| id_of(message).to_string())
        .collect();
    ids.push("unknown-event".to_owned());
    let dry = report(
        &relay,
        json!({ "action": "replay", "eventIds": ids, "dryRun": true }),
    )
    .await;
    assert_eq!(
        (dry.matched, dry.failed.len()),
        (4, 3),
        "who is hidden or gone can be told by receiving only"
    );
    let report = report(&relay, json!({ "action": "replay", "eventIds": ids })).await;
    assert_eq!(
        (report.matched, replayed(&report), report.complete),
        (2, 2, true)
    );
    let found = |id: &str| {
        report
            .failed
            .iter()
            .find(|failed| failed.event_id.as_deref() == Some(id))
    };
    let states: Vec<_> = ids[2..]
        .iter()
        .map(|id| found(id).and_then(|failed| failed.state))
        .collect();
    assert_eq!(
        states,
        [
            Missing::Delivered,
            Missing::Alive,
            Missing::Pending,
            Missing::Expired,
            Missing::Pending
        ]
        .map(Some),
        "what has no record may wait in the events queue, as what was sent back does"
    );
    assert_eq!(visible(&relay).await, 28);
}

#[tokio::test(start_paused = true)]
async fn a_search_by_id_ends_when_all_are_found() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..100).map(|name| message("a", name))).await;
    let report = report(
        &relay,
        json!({ "action": "replay", "eventIds": [id_of(&message("a", 0))] }),
    )
    .await;
    assert_eq!(
        (replayed(&report), report.skipped, report.complete),
        (1, 9, true)
    );
}

#[tokio::test(start_paused = true)]
async fn event_replayed_too_often_needs_force() {
    let relay = relay();
    let dead_letter = message("a", 1);
    for _ in 0..=REPLAY_CEILING {
        die(&relay, &dead_letter, ReasonKind::Permanent, 404).await;
    }
    send_to_dead_letters(&relay, [dead_letter.clone(), message("a", 2)]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!(
        record_of(&relay, &dead_letter).await.replays_made,
        REPLAY_CEILING
    );
    let dry = report(
        &relay,
        json!({ "action": "replay", "all": true, "dryRun": true }),
    )
    .await;
    assert_eq!((dry.matched, dry.skipped, dry.failures), (1, 1, 1));
    let all = report(&relay, json!({ "action": "replay", "all": true })).await;
    assert_eq!((all.matched, replayed(&all), all.move_task), (1, 1, None));
    assert!(all.failed[0].error.contains("force"), "{:?}", all.failed);
    let forced = report(
        &relay,
        json!({ "action": "replay", "eventIds": [id_of(&dead_letter)], "force": true }),
    )
    .await;
    assert_eq!(replayed(&forced), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_dies_again_at_once_is_replayed_once() {
    // One queue is both: what is sent back is a dead letter again the next moment.
    let queue = FakeQueue::default();
    let relay = relay_over(queue.clone(), queue);
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!((report.matched, replayed(&report)), (1, 1));
    assert_eq!(
        visible(&relay).await,
        1,
        "the new dead letter is not taken for a copy"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_takes_only_what_was_there_before_it_began() {
    let relay = relay();
    relay
        .ports
        .dead_letters
        .send(&message("a", 1))
        .await
        .expect("sent");
    tokio::time::advance(Duration::from_millis(1)).await;
    relay
        .ports
        .dead_letters
        .send(&message("a", 2))
        .await
        .expect("sent");
    let dies_meanwhile = relay.ports.dead_letters.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        dies_meanwhile.send(&message("a", 3)).await
    });
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!(
        (
            report.matched,
            replayed(&report),
            report.skipped,
            report.remaining
        ),
        (1, 1, 2, Some(2))
    );
    assert_eq!(relay.ports.events.messages()[0].body, message("a", 1).body);
    assert_eq!(visible(&relay).await, 2);
}

#[tokio::test(start_paused = true)]
async fn copies_of_one_event_are_sent_back_once_and_removed_when_it_is_delivered() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1), message("a", 2), message("a", 1)]).await;
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!((replayed(&report), report.remaining), (2, Some(1)));
    assert_eq!(relay.ports.events.messages().len(), 2);
    deliver(&relay, &message("a", 1)).await;
    let report = self::report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!((report.removed, report.remaining), (1, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_attributes_is_the_same_event_after_its_replay() {
    let relay = relay();
    let bare = Message {
        body: r#"{"pasted":true}"#.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    // A second one of the same text, in the same millisecond.
    send_to_dead_letters(&relay, [bare.clone(), bare]).await;
    tokio::time::advance(Duration::from_hours(1)).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let ids: Vec<EventId> = relay
        .ports
        .table
        .records()
        .into_iter()
        .map(|record| record.event_id)
        .collect();
    report(
        &relay,
        json!({ "action": "replay", "filter": { "source": "generic" } }),
    )
    .await;
    let mut sent: Vec<EventId> = relay.ports.events.messages().iter().map(id_of).collect();
    sent.sort();
    assert_eq!((sent.len(), sent), (2, ids));
}

#[tokio::test(start_paused = true)]
async fn dead_letter_of_eventbridge_has_its_reason_until_a_replay() {
    let relay = relay();
    let body = r#"{"id":"a","detail-type":"v2.x","detail":{"topicName":"v2.x","eventBody":{},"timestamp":"t"}}"#;
    let attributes = [
        (
            "RULE_ARN",
            "arn:aws:events:us-east-1:123456789012:rule/a-bus/a-rule",
        ),
        ("TARGET_ARN", "arn:aws:sqs:us-east-1:123456789012:a-queue"),
        ("ERROR_CODE", "NO_PERMISSIONS"),
        ("ERROR_MESSAGE", "not authorised"),
        ("RETRY_ATTEMPTS", "0"),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), Attribute::text(value)));
    send_to_dead_letters(
        &relay,
        [Message {
            body: body.to_owned(),
            attributes: attributes.into(),
            group: None,
            trace: None,
        }],
    )
    .await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let State::Dead(dead) = relay.ports.table.only_record().state else {
        panic!("not dead")
    };
    assert_eq!(dead.death.reason, ReasonKind::Permanent);
    assert!(
        dead.death.error.contains("EventBridge") && dead.death.error.contains("NO_PERMISSIONS"),
        "{dead:?}"
    );

    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "source": "eventbridge" } }),
    )
    .await;
    assert_eq!(replayed(&report), 1);
    let sent = &relay.ports.events.messages()[0];
    let names: Vec<_> = sent.attributes.keys().map(String::as_str).collect();
    assert_eq!(
        (sent.body.as_str(), names),
        (body, vec!["event_id", "received_at"])
    );
}

#[tokio::test(start_paused = true)]
async fn unreadable_dead_letter_has_a_record_too() {
    let relay = relay();
    let poison = Message {
        body: "no json".to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    send_to_dead_letters(&relay, [poison]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let id = relay.ports.table.only_record().event_id;
    let report = report(&relay, json!({ "action": "replay", "eventIds": [id] })).await;
    assert_eq!(replayed(&report), 1);
    assert_eq!(
        relay.ports.events.messages()[0].identity(FakeClock.now()).0,
        id,
        "it keeps its id"
    );
}

#[tokio::test(start_paused = true)]
async fn unsent_event_stays_a_dead_letter() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    relay.ports.events.fail();
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!(
        (report.matched, replayed(&report), report.remaining),
        (1, 0, Some(1))
    );
    assert!(report.failures > 0 && !report.complete, "{report:?}");
    assert_eq!(visible(&relay).await, 1);
}

#[tokio::test(start_paused = true)]
async fn event_found_by_id_and_skipped_has_a_cause() {
    let relay = relay();
    let (under_way, delivered) = (message("a", 1), message("a", 2));
    claim(&relay, &under_way).await;
    deliver(&relay, &delivered).await;
    send_to_dead_letters(&relay, [under_way.clone(), delivered.clone()]).await;
    let ids = [id_of(&under_way), id_of(&delivered)];
    let report = report(
        &relay,
        json!({ "action": "discard", "eventIds": ids, "why": "a test" }),
    )
    .await;
    let state = |id: &EventId| {
        report
            .failed
            .iter()
            .find(|failed| failed.event_id.as_deref() == Some(id.as_str()))
            .and_then(|failed| failed.state)
    };
    assert_eq!(
        (state(&ids[0]), state(&ids[1])),
        (Some(Missing::Alive), Some(Missing::Delivered))
    );
    assert_eq!((report.matched, report.removed), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn event_that_may_be_queued_is_not_reported_as_gone() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    let by_id = json!({ "action": "replay", "eventIds": [id_of(&message("a", 1))] });
    let state = async || report(&relay, by_id.clone()).await.failed[0].state;
    // Its receives are used up, and no worker receives it while the breaker is open.
    relay
        .ports
        .events
        .send(&message("a", 1))
        .await
        .expect("sent");
    tokio::time::advance(Duration::from_hours(48)).await;
    assert_eq!(state().await, Some(Missing::Pending));
    tokio::time::advance(Duration::from_hours(12 * 24)).await;
    assert_eq!(
        state().await,
        Some(Missing::Expired),
        "no queue keeps it for that long"
    );
}
