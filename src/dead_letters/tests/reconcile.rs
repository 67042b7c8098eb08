//! Reconciliation of the records with the dead-letter queue.

use super::*;
use crate::domain::circuit::{Circuit, State as CircuitState};
use crate::ports::service::Service;

#[tokio::test(start_paused = true)]
async fn reconcile_makes_the_records_say_what_lies_there() {
    let relay = relay();
    let (delivered, under_way, unknown, recorded, waiting, gone) = (
        message("a", 1),
        message("a", 2),
        message("a", 3),
        message("a", 4),
        message("a", 5),
        message("a", 6),
    );
    deliver(&relay, &delivered).await;
    die(&relay, &recorded, ReasonKind::Exhausted, 503).await;
    die(&relay, &gone, ReasonKind::Exhausted, 503).await;
    let claimed = claim(&relay, &waiting).await;
    let now = FakeClock.now();
    relay
        .ports
        .table
        .write(&claimed.retrying(attempt(503), now + Duration::from_secs(2), now))
        .await
        .expect("written");
    tokio::time::advance(Duration::from_mins(20)).await;
    claim(&relay, &under_way).await;
    let queued = [
        &delivered,
        &under_way,
        &unknown,
        &recorded,
        &waiting,
        &carrying(message("a", 7), 404),
    ];
    send_to_dead_letters(&relay, queued.map(Clone::clone)).await;

    let if_needed = json!({ "action": "reconcile", "ifNeeded": true, "by": "schedule" });
    let first = report(&relay, if_needed.clone()).await;
    assert_eq!(
        (first.recorded, first.removed, first.skipped),
        (3, 1, 5),
        "{first:?}"
    );
    assert!(
        matches!(first.done, Done::Reconcile { unlisted: 1 }),
        "{first:?}"
    );
    for (message, reason) in [
        (&unknown, ReasonKind::Unknown),
        (&waiting, ReasonKind::Unknown),
        (&recorded, ReasonKind::Exhausted),
        (&message("a", 7), ReasonKind::Permanent),
    ] {
        let death = record_of(&relay, message)
            .await
            .state
            .death(FakeClock.now())
            .expect("dead");
        assert_eq!(death.reason, reason);
    }
    assert!(
        relay
            .ports
            .table
            .body(&id_of(&unknown), FakeClock.now())
            .await
            .expect("read")
            .is_some(),
        "shown without a receive"
    );
    assert_eq!(
        record_of(&relay, &under_way).await.state.name(),
        StateName::InProgress
    );
    assert_eq!(visible(&relay).await, 5);
    let Answer::List(list) = handle(&relay, json!({ "action": "list" }))
        .await
        .expect("carried out")
    else {
        panic!("no list")
    };
    assert_eq!(list.count, 4, "the one without a message is not listed");

    deliver(&relay, &unknown).await;
    relay.ports.dead_letters.refuse_receives();
    let again = handle(&relay, if_needed).await;
    assert!(
        matches!(&again, Err(ReplayError::Service(error)) if error.service == Service::Sqs),
        "the counts differ again: {again:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_reconcile_that_lambda_put_off_is_left_to_the_next() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let due_at = |minutes: u64| (FakeClock.now() - Duration::from_secs(60 * minutes)).to_string();
    for (due_at, recorded) in [(due_at(6), 0), (due_at(5), 1)] {
        let request =
            json!({ "action": "reconcile", "ifNeeded": true, "dueAt": due_at, "by": "schedule" });
        assert_eq!(report(&relay, request).await.recorded, recorded, "{due_at}");
    }
    send_to_dead_letters(&relay, [message("a", 2)]).await;
    // A local AWS leaves the placeholder as it is.
    let request = json!({ "action": "reconcile", "ifNeeded": true, "dueAt": "<aws.scheduler.scheduled-time>" });
    assert_eq!(report(&relay, request).await.recorded, 1);
}

#[tokio::test(start_paused = true)]
async fn reconcile_that_is_not_needed_receives_nothing() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    relay.ports.dead_letters.refuse_receives();
    let report = report(&relay, json!({ "action": "reconcile", "ifNeeded": true })).await;
    assert!(report.complete && report.recorded == 0);
}

#[tokio::test(start_paused = true)]
async fn event_back_from_a_replay_without_a_claim_has_a_new_death() {
    let relay = relay();
    let dead_letter = message("a", 1);
    die(&relay, &dead_letter, ReasonKind::Permanent, 404).await;
    send_to_dead_letters(&relay, [dead_letter.clone()]).await;
    report(
        &relay,
        json!({ "action": "replay", "eventIds": [id_of(&dead_letter)] }),
    )
    .await;
    // Its receives were throttled, and SQS moved it.
    send_to_dead_letters(&relay, [dead_letter.clone()]).await;
    assert_eq!(
        report(&relay, json!({ "action": "reconcile" }))
            .await
            .recorded,
        1
    );
    let record = record_of(&relay, &dead_letter).await;
    let State::Dead(dead) = &record.state else {
        panic!("{record:?}")
    };
    assert_eq!(
        (dead.death.reason, dead.replayed_at, record.replays_made),
        (ReasonKind::Unknown, None, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_event_stays_on_the_list_while_its_message_may_still_arrive() {
    for is_replayed in [false, true] {
        let relay = relay();
        let dead_letter = message("a", 1);
        die(&relay, &dead_letter, ReasonKind::Exhausted, 503).await;
        if is_replayed {
            send_to_dead_letters(&relay, [dead_letter.clone()]).await;
            report(
                &relay,
                json!({ "action": "replay", "eventIds": [id_of(&dead_letter)] }),
            )
            .await;
        }
        for (minutes, expected) in [(0, 0), (15, 0), (15, 1)] {
            let since = record_of(&relay, &dead_letter).await.last_seen_at;
            let passed = FakeClock.now().duration_since(since).unsigned_abs();
            tokio::time::advance(Duration::from_mins(minutes).saturating_sub(passed)).await;
            let report = report(&relay, json!({ "action": "reconcile" })).await;
            assert!(
                matches!(report.done, Done::Reconcile { unlisted } if unlisted == expected),
                "{report:?}"
            );
        }
    }
}

/// SQS moves what the processor never saw, under the id that another body had first.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_whose_id_another_body_had_first_is_no_copy() {
    let relay = relay();
    let text = |text: &str| {
        let channel = json!({ "id": "c1", "time": "2026-01-15T12:00:00Z" });
        let body = json!({ "id": "m1", "type": "Text", "text": text, "direction": "Outbound", "channel": channel });
        Message {
            body: body.to_string(),
            attributes: BTreeMap::new(),
            group: None,
            trace: None,
        }
    };
    let (one, other) = (text("Hi"), text("Correction"));
    assert_eq!(id_of(&one), id_of(&other));
    deliver(&relay, &one).await;
    send_to_dead_letters(&relay, [one.named(&id_of(&other)), other.clone()]).await;
    let report = self::report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!(
        (report.recorded, report.removed, report.remaining),
        (1, 1, Some(1))
    );
    let own = relay
        .ports
        .table
        .records()
        .into_iter()
        .find(|record| record.event_id != id_of(&other))
        .expect("its own");
    assert_eq!(own.state.name(), StateName::Dead);
    let report = self::report(
        &relay,
        json!({ "action": "replay", "eventIds": [own.event_id] }),
    )
    .await;
    assert_eq!(replayed(&report), 1);
    let sent = relay.ports.events.messages().remove(0);
    assert_eq!(
        (sent.event_id(), &sent.body),
        (Some(own.event_id.as_str()), &other.body)
    );
}

#[tokio::test(start_paused = true)]
async fn fewer_messages_than_are_listed_need_no_reconcile_while_they_may_arrive() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    relay.ports.dead_letters.refuse_receives();
    let request = json!({ "action": "reconcile", "ifNeeded": true });
    tokio::time::advance(Duration::from_mins(15)).await;
    assert!(
        report(&relay, request.clone()).await.complete,
        "it looked at nothing"
    );
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(
        matches!(handle(&relay, request).await, Err(ReplayError::Service(error)) if error.service == Service::Sqs),
        "now it looks"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_off_the_list_while_others_hold_messages_back() {
    let relay = relay();
    let (held, gone) = (message("a", 1), message("a", 2));
    for dead_letter in [&held, &gone] {
        die(&relay, dead_letter, ReasonKind::Exhausted, 503).await;
    }
    let ids = [id_of(&held), id_of(&gone)];
    send_to_dead_letters(&relay, [held]).await;
    relay
        .ports
        .dead_letters
        .receive(1, Duration::from_mins(20), Duration::ZERO)
        .await
        .expect("received");
    tokio::time::advance(Duration::from_mins(16)).await;
    let asked = report(&relay, json!({ "action": "replay", "eventIds": ids })).await;
    let states: Vec<_> = asked.failed.iter().map(|failed| failed.state).collect();
    assert_eq!(
        states,
        [Some(Missing::Pending); 2],
        "either of the two may be hidden"
    );
    for (minutes, expected) in [(0, 0), (5, 1)] {
        tokio::time::advance(Duration::from_mins(minutes)).await;
        let report = report(&relay, json!({ "action": "reconcile" })).await;
        assert!(
            matches!(report.done, Done::Reconcile { unlisted } if unlisted == expected),
            "{report:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_retried_event_is_not_dead_while_the_breaker_holds_it_back() {
    let relay = relay();
    let held_back = message("a", 1);
    let claimed = claim(&relay, &held_back).await;
    let now = FakeClock.now();
    let retrying = claimed.retrying(attempt(503), now + Duration::from_secs(2), now);
    relay.ports.table.write(&retrying).await.expect("written");
    // A copy whose receives were used up: another message of the event waits.
    send_to_dead_letters(&relay, [held_back.clone()]).await;
    tokio::time::advance(Duration::from_mins(20)).await;
    let open = Circuit {
        state: CircuitState::Open,
        ..Circuit::closed(FakeClock.now())
    };
    let reconcile = json!({ "action": "reconcile", "by": "schedule" });
    relay.ports.events.send(&held_back).await.expect("sent");
    for (circuit, recorded) in [(open, 0), (Circuit::closed(FakeClock.now()), 1)] {
        relay
            .ports
            .table
            .save_circuit(&circuit)
            .await
            .expect("saved");
        let report = report(&relay, reconcile.clone()).await;
        assert_eq!(report.recorded, recorded, "{report:?}");
        assert_eq!(relay.ports.dead_letters.messages().len(), 1);
        tokio::time::advance(Duration::from_mins(20)).await;
    }
}

/// The worker that recorded the delivery ended before it sent the event to the journal, and SQS
/// moved the message.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_delivered_event_is_journalled_before_it_is_removed() {
    let mut relay = relay();
    let journal = FakeQueue::default();
    relay.ports.journal = Some(journal.clone());
    let delivered = message("a", 1);
    deliver(&relay, &delivered).await;
    send_to_dead_letters(&relay, [delivered.clone()]).await;
    journal.fail_times(1);
    let reconcile = json!({ "action": "reconcile", "by": "a test" });
    let first = report(&relay, reconcile.clone()).await;
    assert_eq!((first.removed, first.failures), (0, 1), "{first:?}");
    let second = report(&relay, reconcile).await;
    assert_eq!(second.removed, 1, "{second:?}");
    let [kept] = journal.messages().try_into().expect("one");
    assert_eq!(kept.body, delivered.body);
    let id = record_of(&relay, &delivered).await.event_id;
    assert_eq!(kept.event_id(), Some(id.as_str()));
}
