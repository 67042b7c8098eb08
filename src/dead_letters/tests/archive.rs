//! Dead letters that leave the queue for good, or for the archive and back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_discarded_event_is_gone_and_remembered() {
    let relay = relay();
    for name in 0..40 {
        die(&relay, &message("a", name), ReasonKind::Permanent, 404).await;
        send_to_dead_letters(&relay, [message("a", name)]).await;
    }
    let id = id_of(&message("a", 39));
    let report = report(
        &relay,
        json!({ "action": "discard", "eventIds": [id], "why": "a test order" }),
    )
    .await;
    assert!(
        matches!(report.done, Done::Discard { discarded: 1 }),
        "{report:?}"
    );
    let record = record_of(&relay, &message("a", 39)).await;
    assert_eq!(
        (record.state.name(), record.history[0].why.as_deref()),
        (StateName::Discarded, Some("a test order"))
    );
    assert_eq!(visible(&relay).await, 39);
    // A copy that turns up later is removed.
    send_to_dead_letters(&relay, [message("a", 39)]).await;
    assert_eq!(
        self::report(&relay, json!({ "action": "reconcile" }))
            .await
            .removed,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn archived_dead_letter_is_restored_byte_for_byte() {
    let relay = relay();
    let letters: Vec<Message> = (0..12)
        .map(|name| carrying(message("a", name), 404))
        .collect();
    send_to_dead_letters(&relay, letters.clone()).await;
    tokio::time::advance(Duration::from_hours(11 * 24)).await;
    send_to_dead_letters(&relay, [message("young", 1)]).await;

    relay.ports.archive.fail_times(1);
    let failed = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    assert!(failed.failures == 1 && !failed.complete, "{failed:?}");
    assert_eq!(
        visible(&relay).await,
        13,
        "nothing is deleted before its object is durable"
    );

    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    let Done::Archive { archived: 12, keys } = &report.done else {
        panic!("{report:?}")
    };
    assert_eq!(
        (&relay.ports.archive.keys(), visible(&relay).await),
        (keys, 1)
    );
    let record = record_of(&relay, &letters[0]).await;
    assert!(
        matches!(&record.state, State::Archived { archived_to, .. } if *archived_to == keys[0])
    );
    let asked = self::report(
        &relay,
        json!({ "action": "replay", "eventIds": [id_of(&letters[0])] }),
    )
    .await;
    assert_eq!(asked.failed[0].state, Some(Missing::Archived));
    assert!(asked.failed[0].error.contains(&keys[0]));

    let request = json!({ "action": "restore", "key": keys[0] });
    let restored = self::report(&relay, request.clone()).await;
    assert!(
        matches!(restored.done, Done::Restore { restored: 12 }),
        "{restored:?}"
    );
    let mut queued = relay.ports.dead_letters.messages();
    queued.retain(|message| message.group.as_deref() == Some("a"));
    assert_eq!(queued, letters);
    assert_eq!(
        record_of(&relay, &letters[0]).await.state.name(),
        StateName::Dead
    );
    let again = self::report(&relay, request).await;
    assert!(
        matches!(again.done, Done::Restore { restored: 0 }) && again.skipped == 12,
        "{again:?}"
    );
    let nothing = handle(&relay, json!({ "action": "restore", "key": "no/such" })).await;
    assert!(matches!(
        nothing,
        Err(ReplayError::Archive(ArchiveError::NotFound(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn every_part_of_the_archive_can_be_restored_however_large_its_messages_are() {
    let relay = relay();
    // As long as SQS takes them, and twice as long in a line of the archive.
    let large = |number: usize| Message {
        body: "\"".repeat(1024 * 1024 - 100) + &number.to_string(),
        ..message("a", 0)
    };
    send_to_dead_letters(&relay, (0..30).map(large)).await;
    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 0 })).await;
    let Done::Archive { archived: 30, keys } = &report.done else {
        panic!("{report:?}")
    };
    for key in keys {
        let restored = self::report(&relay, json!({ "action": "restore", "key": key })).await;
        assert!(restored.complete && restored.failures == 0, "{restored:?}");
    }
    assert_eq!(visible(&relay).await, 30);
}

#[tokio::test(start_paused = true)]
async fn an_archived_event_can_be_restored_again_when_its_message_is_gone() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    let Done::Archive { keys, .. } = report(&relay, archive).await.done else {
        panic!("not archived")
    };
    let restore = json!({ "action": "restore", "key": keys[0] });
    report(&relay, restore.clone()).await;
    let purged = relay
        .ports
        .dead_letters
        .receive(10, Duration::from_secs(1), Duration::ZERO)
        .await
        .expect("received");
    relay
        .ports
        .dead_letters
        .delete(&[purged[0].receipt.clone()])
        .await;
    tokio::time::advance(Duration::from_mins(20)).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let restored = report(&relay, restore).await;
    assert!(
        matches!(restored.done, Done::Restore { restored: 1 }),
        "{restored:?}"
    );
}

/// However long ago the relay received its event: a dead letter may have come back from the
/// archive.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_as_old_as_its_message() {
    let relay = relay();
    let mut old = message("old", 1);
    old.attributes.insert(
        "received_at".to_owned(),
        crate::domain::message::Attribute::text("2025-01-01T00:00:00Z"),
    );
    for (dead_letter, later) in [
        (message("first", 1), 1),
        (message("second", 1), 0),
        (old, 0),
    ] {
        relay
            .ports
            .dead_letters
            .send(&dead_letter)
            .await
            .expect("sent");
        tokio::time::advance(Duration::from_millis(later)).await;
    }
    tokio::time::advance(Duration::from_hours(10 * 24) - Duration::from_millis(1)).await;
    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    assert!(
        matches!(report.done, Done::Archive { archived: 1, .. }),
        "{report:?}"
    );
    let groups: Vec<_> = relay
        .ports
        .dead_letters
        .messages()
        .into_iter()
        .filter_map(|message| message.group)
        .collect();
    assert_eq!(groups, ["second", "old"]);
}

#[tokio::test(start_paused = true)]
async fn an_archived_line_has_the_reason_of_the_record() {
    let relay = relay();
    let dead_letter = message("a", 1);
    die(&relay, &dead_letter, ReasonKind::Exhausted, 503).await;
    // It carries the reason of an earlier death.
    send_to_dead_letters(&relay, [carrying(dead_letter, 404)]).await;
    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 0 })).await;
    let Done::Archive { keys, .. } = report.done else {
        panic!("{report:?}")
    };
    let [key] = &keys[..] else { panic!("{keys:?}") };
    assert!(
        key.starts_with("dead-letters/2026/01/15/") && key.ends_with("/part-0001.jsonl.gz"),
        "{key}"
    );
    let line = crate::ports::archive::read(&relay.ports.archive.get(key).await.expect("there"))
        .expect("readable")
        .remove(0);
    let reason = line.reason.expect("a reason");
    assert_eq!(
        (reason.reason, reason.status_code),
        (ReasonKind::Exhausted, Some(503))
    );
}

#[tokio::test(start_paused = true)]
async fn the_body_of_an_event_that_needs_none_is_gone_whatever_crashed() {
    for request in [
        json!({ "action": "archive", "olderThanDays": 0 }),
        json!({ "action": "discard", "eventIds": [id_of(&message("a", 1))], "why": "a test order" }),
    ] {
        for calls in 0..12 {
            let relay = std::sync::Arc::new(relay());
            die(&relay, &message("a", 1), ReasonKind::Permanent, 404).await;
            send_to_dead_letters(&relay, [message("a", 1)]).await;
            assert_eq!(relay.ports.table.kept_bodies(), [id_of(&message("a", 1))]);
            relay.ports.table.halt_after(calls);
            let doomed = tokio::spawn({
                let (relay, request) = (std::sync::Arc::clone(&relay), request.clone());
                async move { handle(&relay, request).await.map(drop) }
            });
            tokio::time::sleep(Duration::from_secs(30)).await;
            doomed.abort();
            relay.ports.table.resume();
            tokio::time::advance(Duration::from_mins(2)).await;
            handle(&relay, request.clone()).await.expect("carried out");
            assert_eq!(visible(&relay).await, 0, "{calls}");
            assert_eq!(relay.ports.table.kept_bodies(), [], "{calls}: {request}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_kept_until_the_body_of_its_event_is_deleted() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Permanent, 404).await;
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let discard = json!({ "action": "discard", "eventIds": [id_of(&message("a", 1))], "why": "a test order" });
    // The lease, the bulk replay, the erasures, the records, the record of the event; and then its
    // body.
    relay.ports.table.fail_after(5, 1);
    let failed = report(&relay, discard.clone()).await;
    assert!(
        failed.failures > 0 && matches!(failed.done, Done::Discard { discarded: 0 }),
        "{failed:?}"
    );
    assert_eq!(visible(&relay).await, 1);
    let shown = handle(
        &relay,
        json!({ "action": "show", "eventId": id_of(&message("a", 1)) }),
    )
    .await
    .expect("known");
    assert_eq!(json!(shown)["body"], Value::Null, "it is discarded");
    assert_eq!(report(&relay, discard).await.removed, 1);
    assert_eq!(
        (relay.ports.table.kept_bodies(), visible(&relay).await),
        (vec![], 0)
    );
}

/// A dead letter of a check.
fn check_letter(name: &str) -> Message {
    let check = json!({ "run": uuid::Uuid::nil(), "name": name, "attempts": ["refuse"] });
    let body = json!({ "genesysRelayCheck": check }).to_string();
    carrying(
        Message {
            body,
            ..message("a", 1)
        },
        400,
    )
}

#[tokio::test(start_paused = true)]
async fn archive_run_drops_the_dead_letters_of_checks() {
    let relay = relay();
    let old = check_letter("old");
    send_to_dead_letters(&relay, [old.clone(), message("a", 1)]).await;
    tokio::time::advance(Duration::from_hours(1)).await;
    send_to_dead_letters(&relay, [check_letter("young")]).await;
    let report = report(&relay, json!({ "action": "archive", "olderThanDays": 10 })).await;
    assert!(report.complete && report.failures == 0, "{report:?}");
    assert!(
        matches!(report.done, Done::Archive { archived: 0, .. }),
        "{report:?}"
    );
    assert_eq!((report.matched, report.removed), (1, 1));
    let record = record_of(&relay, &old).await;
    assert_eq!(record.state.name(), StateName::Discarded);
    assert_eq!(visible(&relay).await, 2);
    assert!(
        relay.ports.table.kept_bodies().len() <= 1,
        "no body of a check"
    );
}

#[tokio::test(start_paused = true)]
async fn only_ended_check_events_are_forgotten() {
    let relay = relay();
    let (delivered, dead, event) = (check_letter("1"), check_letter("2"), message("a", 1));
    deliver(&relay, &delivered).await;
    deliver(&relay, &event).await;
    send_to_dead_letters(&relay, [dead.clone()]).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let ids = [&delivered, &dead, &event].map(id_of);
    let request = json!({ "action": "forget", "eventIds": ids });
    let Answer::Forget(report) = handle(&relay, request).await.expect("answered") else {
        panic!("another answer")
    };
    assert!(
        matches!(report.done, Done::Forget { forgotten: 1 }),
        "{report:?}"
    );
    let refused = |message: &Message| {
        let id = id_of(message).to_string();
        let failed = report.failed.iter();
        failed
            .filter(|failed| failed.event_id.as_ref() == Some(&id))
            .map(|failed| failed.error.clone())
            .collect::<String>()
    };
    assert_eq!(
        refused(&dead),
        "it is DEAD, and neither DELIVERED nor DISCARDED"
    );
    assert_eq!(
        refused(&event),
        "it is an event of the source webhook, and no check event"
    );
    assert_eq!(relay.ports.table.record(&id_of(&delivered)), None);
    assert!(relay.ports.table.record(&id_of(&event)).is_some());
    // What is gone is forgotten already.
    let request = json!({ "action": "forget", "eventIds": [id_of(&delivered)] });
    let Answer::Forget(again) = handle(&relay, request).await.expect("answered") else {
        panic!("another answer")
    };
    assert!(again.complete && again.failures == 0, "{again:?}");
}
