//! The life of a run: one at a time, its bounds, its deadline, and its end at any moment.

use uuid::Uuid;

use super::super::run::{ANSWER_TIME, HIDDEN_PAST_DEADLINE};
use super::*;
use crate::domain::event_record::{BulkReplay, OperatorAction};
use crate::ports::events_table::LeaseName;
use crate::ports::service::Service;

#[tokio::test(start_paused = true)]
async fn everything_goes_by_move_task_and_one_at_a_time() {
    let relay = relay();
    die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let request = json!({ "action": "replay", "all": true, "ratePerSecond": 5 });
    let report = report(&relay, request.clone()).await;
    assert_eq!(
        report.move_task.and_then(|task| task.rate_per_second),
        Some(5)
    );
    let id = id_of(&message("a", 1));
    let Answer::Show(shown) = handle(&relay, json!({ "action": "show", "eventId": id }))
        .await
        .expect("known")
    else {
        panic!("not shown")
    };
    assert_eq!(json!(shown)["history"][0]["action"], "replay");
    assert_eq!(
        claim(&relay, &message("a", 1))
            .await
            .transition()
            .next()
            .history[0]
            .action,
        "replay"
    );

    for request in [
        request.clone(),
        json!({ "action": "archive" }),
        json!({ "action": "reconcile" }),
        json!({ "action": "discard", "eventIds": ["a"], "why": "a test" }),
    ] {
        assert!(matches!(
            handle(&relay, request).await,
            Err(ReplayError::Moving { .. })
        ));
    }
    let cancel = json!({ "action": "cancel" });
    let cancelled = handle(&relay, cancel.clone()).await.expect("carried out");
    assert!(matches!(
        cancelled,
        Answer::Cancel {
            cancelled: true,
            ..
        }
    ));
    let nothing = handle(&relay, cancel).await.expect("carried out");
    assert!(matches!(
        nothing,
        Answer::Cancel {
            cancelled: false,
            ..
        }
    ));
    assert!(handle(&relay, request).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_move_that_never_began_marks_nothing() {
    let all = json!({ "action": "replay", "all": true });
    let show = json!({ "action": "show", "eventId": id_of(&message("a", 1)) });
    for is_killed in [false, true] {
        let relay = std::sync::Arc::new(relay());
        die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
        if is_killed {
            send_to_dead_letters(&relay, [message("a", 1)]).await;
            let act = OperatorAction {
                action: "replay".to_owned(),
                at: FakeClock.now(),
                by: "a test".to_owned(),
                why: None,
            };
            relay
                .ports
                .table
                .save_bulk_replay(&BulkReplay { act, forced: None })
                .await
                .expect("saved");
        } else {
            relay.ports.dead_letters.refuse_moves();
            assert!(matches!(
                handle(&relay, all.clone()).await,
                Err(ReplayError::Service(error)) if error.service == Service::Sqs
            ));
        }
        assert!(
            relay
                .ports
                .table
                .bulk_replay()
                .await
                .expect("read")
                .is_some(),
            "it was noted before"
        );
        let shown = json!(handle(&relay, show.clone()).await.expect("known"));
        assert_eq!(
            (&shown["replayedAt"], &shown["history"]),
            (&Value::Null, &json!([])),
            "{shown}"
        );
        let status = json!(
            handle(&relay, json!({ "action": "status" }))
                .await
                .expect("carried out")
        );
        assert_eq!(status["bulkReplay"], Value::Null, "{status}");
        if !is_killed {
            tokio::time::advance(Duration::from_hours(1)).await;
            let by_id = json!({ "action": "replay", "eventIds": [id_of(&message("a", 1))] });
            assert_eq!(
                report(&relay, by_id).await.failed[0].state,
                Some(Missing::Expired),
                "not on its way"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_exclude_each_other_until_the_lease_of_one_is_over() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    let now = FakeClock.now();
    let until = now + Duration::from_mins(5);
    let other = RunLease {
        owner: Uuid::new_v4(),
        action: "archive".into(),
        by: "a schedule".into(),
        since: now,
        until,
    };
    assert_eq!(
        relay
            .ports
            .table
            .acquire(LeaseName::DeadLetters, &other, now)
            .await
            .expect("written"),
        None
    );
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" } });
    let Err(ReplayError::Busy(held)) = handle(&relay, request.clone()).await else {
        panic!("not refused")
    };
    assert_eq!(held, other);
    let Answer::Status(StatusAnswer::Relay(status)) = handle(&relay, json!({ "action": "status" }))
        .await
        .expect("carried out")
    else {
        panic!("no status")
    };
    assert_eq!(status.run, Some(other.into()), "status shows the other run");
    tokio::time::advance(Duration::from_mins(5)).await;
    assert_eq!(replayed(&report(&relay, request.clone()).await), 1);
    assert_eq!(
        replayed(&report(&relay, request).await),
        0,
        "the lease was given back, and nothing is left"
    );
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_cannot_be_read_hides_nothing_else() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1)]).await;
    relay.ports.table.spoil_circuit();
    let status = json!(
        handle(&relay, json!({ "action": "status" }))
            .await
            .expect("carried out")
    );
    assert_eq!(
        (&status["breaker"], &status["deadLetters"]["visible"]),
        (&json!(null), &json!(1)),
        "{status}"
    );
    assert!(
        status["breakerError"]
            .as_str()
            .is_some_and(|error| error.contains("cannot be read")),
        "{status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_is_bounded_in_messages_and_in_rate() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..35).map(|name| message("a", name))).await;
    let started = Instant::now();
    let request = json!({ "action": "replay", "all": true, "maxMessages": 25, "ratePerSecond": 5 });
    let report = report(&relay, request).await;
    assert_eq!(
        (report.matched, replayed(&report), report.remaining),
        (25, 25, Some(10))
    );
    assert!(!report.complete);
    assert_eq!(
        started.elapsed(),
        Duration::from_secs(4),
        "five at once, then five each second"
    );
    assert_eq!(visible(&relay).await, 10);
}

#[tokio::test(start_paused = true)]
async fn replay_by_id_that_reaches_its_bound_is_incomplete() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..2).map(|name| message("a", name))).await;
    let ids = [0, 1].map(|name| id_of(&message("a", name)));
    let request = json!({ "action": "replay", "eventIds": ids, "maxMessages": 1 });
    let report = report(&relay, request).await;
    assert_eq!((replayed(&report), report.remaining), (1, Some(1)));
    assert!(!report.complete);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_go_in_one_run() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..10_000).map(|name| message("a", name))).await;
    let first = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!((replayed(&first), first.remaining), (10_000, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_before_its_deadline_and_says_what_is_left() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..50).map(|name| message("a", name))).await;
    let deadline = Instant::now() + Duration::from_secs(8);
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 5 });
    let request = Request::parse(request, "a test").expect("a request");
    let answer = relay.handle(request, deadline).await.expect("carried out");
    let Answer::Replay(report) = answer else {
        panic!("{answer:?}")
    };
    assert!(Instant::now() < deadline);
    let replayed = replayed(&report);
    assert!(replayed >= 25 && !report.complete, "{report:?}");
    assert_eq!(
        (report.matched, report.remaining),
        (replayed, Some(50 - replayed))
    );
    assert_eq!(visible(&relay).await, 50 - replayed);
}

#[tokio::test(start_paused = true)]
async fn a_run_stops_when_the_events_queue_takes_nothing() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..200).map(|name| message("a", name))).await;
    relay.ports.events.fail();
    let report = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!(
        (report.matched, replayed(&report), report.remaining),
        (10, 0, Some(200))
    );
    assert_eq!(visible(&relay).await, 200);
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
                send_to_dead_letters(&relay, [message("a", name)]).await;
            }
            // Every call is an await at which a killed run simply is no more.
            relay.ports.table.halt_after(calls);
            let doomed = tokio::spawn({
                let (relay, request) = (std::sync::Arc::clone(&relay), actions.clone());
                async move { handle(&relay, request).await.map(drop) }
            });
            tokio::time::sleep(Duration::from_secs(30)).await;
            doomed.abort();
            relay.ports.table.resume();
            tokio::time::advance(Duration::from_mins(2)).await;
            let again = handle(&relay, actions.clone()).await;
            assert!(again.is_ok(), "{calls}: {again:?}");
            let (Answer::Archive(report) | Answer::Replay(report)) = again.expect("carried out")
            else {
                panic!()
            };
            assert_eq!(
                (visible(&relay).await, report.remaining),
                (0, Some(0)),
                "{calls}: {report:?}"
            );
            // What is in the events queue twice is claimed and delivered once.
            let mut deliveries = 0;
            for message in relay.ports.events.messages() {
                if record_of(&relay, &message).await.state.name() != StateName::Delivered {
                    deliver(&relay, &message).await;
                    deliveries += 1;
                }
            }
            let archived = relay
                .ports
                .table
                .records()
                .iter()
                .filter(|record| record.state.name() == StateName::Archived)
                .count();
            assert_eq!(deliveries + archived, 3, "{calls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_in_time_even_when_nothing_can_be_shown_again() {
    let queue = FakeQueue::default();
    queue.send(&message("a", 1)).await.expect("sent");
    tokio::time::advance(Duration::from_secs(1)).await;
    // SQS does not answer.
    queue.delay_changes(Duration::MAX);
    let relay = relay_over(FakeQueue::default(), queue.clone());
    let deadline = Instant::now() + Duration::from_mins(1);
    let request = Request::parse(
        json!({ "action": "replay", "filter": { "webhookId": "b" } }),
        "a test",
    );
    relay
        .handle(request.expect("a request"), deadline)
        .await
        .expect("carried out");
    assert!(Instant::now() < deadline, "time is left for the answer");
    tokio::time::advance(HIDDEN_PAST_DEADLINE + ANSWER_TIME).await;
    assert_eq!(
        queue.depth().await.expect("counted").visible,
        1,
        "it comes back by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_run_ends_when_what_it_hid_is_there_again() {
    let relay = std::sync::Arc::new(relay());
    let run = tokio::spawn({
        let relay = std::sync::Arc::clone(&relay);
        async move {
            handle(&relay, json!({ "action": "reconcile" }))
                .await
                .map(drop)
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = handle(&relay, json!({ "action": "reconcile" })).await;
    let Err(ReplayError::Busy(held)) = other else {
        panic!("{other:?}")
    };
    let lease = Duration::from_mins(1) + HIDDEN_PAST_DEADLINE;
    assert_eq!(held.until.duration_since(held.since).unsigned_abs(), lease);
    run.await.expect("no panic").expect("carried out");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_what_a_run_would_take() {
    let relay = relay();
    send_to_dead_letters(&relay, (0..35).map(|name| message("a", name))).await;
    report(&relay, json!({ "action": "reconcile" })).await;
    let dry = report(
        &relay,
        json!({ "action": "replay", "all": true, "maxMessages": 25, "dryRun": true }),
    )
    .await;
    assert_eq!(
        (dry.matched, dry.skipped, dry.complete, dry.items.len()),
        (25, 10, false, 25)
    );
    let dry = report(
        &relay,
        json!({ "action": "replay", "all": true, "maxMessages": 35, "dryRun": true }),
    )
    .await;
    assert_eq!((dry.matched, dry.skipped, dry.complete), (35, 0, true));
}

#[tokio::test(start_paused = true)]
async fn a_run_is_not_complete_while_others_hold_messages_back() {
    let relay = relay();
    send_to_dead_letters(&relay, [message("a", 1), message("a", 2)]).await;
    relay
        .ports
        .dead_letters
        .receive(1, Duration::from_mins(5), Duration::ZERO)
        .await
        .expect("received");
    let first = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!((replayed(&first), first.complete), (1, false));
    tokio::time::advance(Duration::from_mins(5)).await;
    let second = report(
        &relay,
        json!({ "action": "replay", "filter": { "webhookId": "a" } }),
    )
    .await;
    assert_eq!((replayed(&second), second.complete), (1, true));
}

#[tokio::test(start_paused = true)]
async fn received_messages_stay_hidden_until_the_run_ends() {
    let relay = relay();
    send_to_dead_letters(
        &relay,
        (0..10)
            .map(|name| message("b", name))
            .chain((0..200).map(|name| message("a", name))),
    )
    .await;
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 5 });
    let (began, report) = (Instant::now(), report(&relay, request).await);
    assert!(
        began.elapsed() > Duration::from_secs(35),
        "longer than the queue itself hides a message"
    );
    assert_eq!(
        (replayed(&report), report.skipped, report.complete),
        (200, 10, true),
        "each was looked at once"
    );
    assert_eq!(visible(&relay).await, 10);
}

/// A tenth of what 200,000 dead letters are to a function of 256 MB, which has 0.145 of a core: a
/// mark on each would take longer than a run has.
#[tokio::test(start_paused = true)]
async fn a_replay_of_everything_begins_to_move_in_its_first_run_however_many_there_are() {
    let relay = relay();
    for name in 0..20_000 {
        die(&relay, &message("a", name), ReasonKind::Exhausted, 503).await;
        relay
            .ports
            .dead_letters
            .send(&message("a", name))
            .await
            .expect("sent");
    }
    tokio::time::advance(Duration::from_mins(20)).await;
    // Neither a write for each dead letter nor a read of all of them ends before the deadline.
    relay.ports.table.slow_down(Duration::from_secs(5));
    let deadline = Instant::now() + Duration::from_secs(90);
    let request =
        Request::parse(json!({ "action": "replay", "all": true }), "a test").expect("a request");
    let answer = tokio::time::timeout_at(deadline, relay.handle(request, deadline))
        .await
        .expect("in time");
    let Answer::Replay(report) = answer.expect("carried out") else {
        panic!("another answer")
    };
    assert!(report.move_task.is_some_and(|task| task.is_active()));
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_everything_that_dies_at_any_step_is_repeated_and_asks_once() {
    for calls in 0..8 {
        let relay = std::sync::Arc::new(relay());
        die(&relay, &message("a", 1), ReasonKind::Exhausted, 503).await;
        send_to_dead_letters(&relay, [message("a", 1)]).await;
        relay.ports.table.halt_after(calls);
        let request = json!({ "action": "replay", "all": true });
        let doomed = tokio::spawn({
            let (relay, request) = (std::sync::Arc::clone(&relay), request.clone());
            async move { handle(&relay, request).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        doomed.abort();
        relay.ports.table.resume();
        tokio::time::advance(Duration::from_mins(2)).await;
        match handle(&relay, request).await {
            Ok(Answer::Replay(report)) => assert!(report.move_task.is_some(), "{calls}"),
            Err(ReplayError::Moving { .. }) => {}
            other => panic!("{calls}: {other:?}"),
        }
        let claimed = claim(&relay, &message("a", 1)).await;
        let next = claimed.transition().next();
        assert_eq!((next.replays_made, next.history.len()), (1, 1), "{calls}");
    }
}
