//! Progress of runs, and the checkpoint.

use super::*;
use crate::ports::events_table::Checkpoint;
use crate::ports::service::Service;

#[tokio::test(start_paused = true)]
async fn an_outage_of_genesys_is_caught_up_with() {
    let relay = relay();
    relay.go_on().await;
    for minute in 0..240 {
        let at = now() + minutes(minute);
        relay.lose(&format!("e{minute}"), at, at);
    }
    for _ in 0..8 {
        sleep(Duration::from_mins(15)).await;
        *lock(&relay.ports.log.fails) = 1;
        let failed = relay.run(json!({})).await.expect_err("no answer");
        assert!(matches!(
            failed.error,
            RecoverError::DeliveryLog(DeliveryLogError::Failed(_))
        ));
    }
    let failed_report = {
        *lock(&relay.ports.log.fails) = 1;
        relay.run(json!({})).await.expect_err("no answer").report
    };
    assert_eq!(
        failed_report.behind_seconds,
        Some(2 * 60 * 60 + 15 * 60),
        "and it says how far it is behind"
    );
    sleep(Duration::from_hours(2)).await;
    let report = relay.go_on().await;
    assert_eq!(
        (report.new, report.complete, report.behind_seconds),
        (240, true, Some(0))
    );
    assert_eq!(
        (report.to, report.cursor),
        (now(), Some(now() - OVERLAP)),
        "it has read into the future, and says now"
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_run_that_fails_is_where_the_next_begins() {
    let relay = relay();
    relay.lose("e", now() - minutes(10), now());
    *lock(&relay.ports.log.fails) = 1;
    relay.run(json!({})).await.expect_err("no answer");
    sleep(Duration::from_hours(3)).await;
    assert_eq!(relay.go_on().await.new, 1);
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_stays_where_it_was_while_something_is_not_durable() {
    let relay = relay();
    let first = relay.go_on().await.cursor;
    for number in 0..30 {
        relay.lose(&format!("e{number}"), now() + minutes(number), now());
    }
    sleep(Duration::from_hours(1)).await;
    // The twentieth is not taken.
    relay.ports.events.fail_times(1);
    let failed = relay.run(json!({})).await.expect_err("not all are queued");
    assert!(
        matches!(&failed.error, RecoverError::Service(error) if error.service == Service::Sqs),
        "{failed}"
    );
    assert_eq!(failed.report.cursor, first);
    relay.ports.table.fail_after(9, 1);
    let failed = relay
        .run(json!({}))
        .await
        .expect_err("not all are recorded");
    assert!(
        matches!(&failed.error, RecoverError::Service(error) if error.service == Service::DynamoDb),
        "{failed}"
    );
    assert_eq!(failed.report.cursor, first);
    let report = relay.go_on().await;
    assert!(report.cursor > first);
    let queued = relay.queued();
    assert_eq!(queued.len(), 30);
    assert!(
        queued.values().all(|copies| *copies <= 2),
        "only what could not be recorded is there twice"
    );
}

#[tokio::test(start_paused = true)]
async fn unavailable_item_is_awaited_and_blocks_no_other() {
    let relay = relay();
    relay.go_on().await;
    let start = now();
    lock(&relay.ports.log.withheld).push(start + minutes(70));
    for minute in 0..300 {
        relay.lose(&format!("e{minute}"), start + minutes(minute), start);
    }
    sleep(Duration::from_hours(5)).await;
    for new in [300, 0] {
        let failed = relay
            .run(json!({}))
            .await
            .expect_err("something is missing");
        assert!(
            matches!(failed.error, RecoverError::Unavailable { count: 1, .. }),
            "{failed}"
        );
        assert_eq!((failed.report.new, failed.report.unavailable), (new, 1));
        let waits_before = start + minutes(70);
        assert!(
            failed
                .report
                .cursor
                .is_some_and(|cursor| cursor <= waits_before),
            "{:?}",
            failed.report
        );
        let behind = failed
            .report
            .cursor
            .map(|cursor| now().duration_since(cursor + OVERLAP).as_secs());
        assert_eq!(
            failed.report.behind_seconds.map(i64::try_from),
            behind.map(Ok)
        );
        assert!(
            behind.is_some_and(|behind| behind > 3 * 60 * 60),
            "{:?}",
            failed.report
        );
    }
    lock(&relay.ports.log.withheld).clear();
    let report = relay.go_on().await;
    assert_eq!(
        (report.complete, report.cursor),
        (true, Some(now() - OVERLAP))
    );
    assert_eq!(relay.queued().len(), 300);
}

/// More is withheld than one run tries, and more is there than one run reads: all else is recovered
/// all the same, and the checkpoint waits.
#[tokio::test(start_paused = true)]
async fn unavailable_item_starves_no_later_one() {
    let relay = relay();
    *lock(&relay.ports.log.resumes) = true;
    relay.go_on().await;
    *lock(&relay.ports.log.withheld_first) = 12;
    let start = now();
    for second in 0..300 {
        relay.lose(
            &format!("e{second}"),
            start + SignedDuration::from_secs(second),
            start,
        );
    }
    sleep(Duration::from_mins(10)).await;
    *lock(&relay.ports.log.read_takes) = Duration::from_secs(30);
    let mut runs = 0;
    while relay.queued().len() < 300 {
        let failed = relay
            .run(json!({}))
            .await
            .expect_err("something is missing");
        assert!(
            matches!(failed.error, RecoverError::Unavailable { .. }),
            "{failed}"
        );
        assert!(failed.report.cursor.is_some_and(|cursor| cursor <= start));
        runs += 1;
        assert!(runs < 20, "{} of 300", relay.queued().len());
    }
    *lock(&relay.ports.log.withheld_first) = 0;
    *lock(&relay.ports.log.read_takes) = Duration::ZERO;
    while !relay.go_on().await.complete {}
    assert!(relay.queued().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_gets_nowhere_is_a_failure() {
    for resumes in [false, true] {
        let relay = relay();
        *lock(&relay.ports.log.resumes) = resumes;
        relay.go_on().await;
        relay.lose("e", now(), now());
        *lock(&relay.ports.log.read_takes) = INVOCATION;
        let failed = relay
            .run(json!({}))
            .await
            .expect_err("there is no time for anything");
        assert!(
            matches!(
                failed.error,
                RecoverError::DeliveryLog(DeliveryLogError::OutOfTime(_))
            ),
            "{failed}"
        );
        *lock(&relay.ports.log.read_takes) = Duration::ZERO;
        assert_eq!(relay.go_on().await.new, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_short_goes_on_where_it_stopped() {
    goes_on_where_it_stopped(false).await;
    goes_on_where_it_stopped(true).await;
}

async fn goes_on_where_it_stopped(resumes: bool) {
    let relay = relay();
    *lock(&relay.ports.log.resumes) = resumes;
    relay.go_on().await;
    for second in 0..3600 {
        let at = now() + SignedDuration::from_secs(second);
        relay.lose(&format!("e{second}"), at, at);
    }
    sleep(Duration::from_mins(75)).await;
    // An hour's 515 pages take 17 minutes; a run has less than five.
    *lock(&relay.ports.log.read_takes) = Duration::from_secs(2);
    let (mut runs, mut behind) = (0, Vec::new());
    loop {
        let report = relay.go_on().await;
        behind.push(report.behind_seconds.expect("a checkpoint"));
        runs += 1;
        assert!(runs < 20, "it comes to an end: {behind:?}");
        if report.complete {
            break;
        }
    }
    assert!(runs > 3, "{behind:?}");
    assert_eq!(relay.queued().len(), 3600);
    assert!(relay.queued().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_range_leaves_the_checkpoint_alone_and_says_how_to_go_on() {
    let relay = relay();
    let cursor = relay.go_on().await.cursor;
    let from = now() - minutes(600);
    for minute in 0..600 {
        relay.lose(&format!("e{minute}"), from + minutes(minute), now());
    }
    *lock(&relay.ports.log.read_takes) = Duration::from_secs(30);
    let mut request = json!({ "from": from.to_string(), "to": (from + minutes(290)).to_string(), "why": "a test", "by": "me" });
    let mut runs = 0;
    loop {
        let report = relay.run(request.clone()).await.expect("a run");
        assert_eq!(report.cursor, cursor);
        runs += 1;
        assert!(runs < 50, "it comes to an end");
        let Some(next) = report.next else { break };
        request = serde_json::to_value(next).expect("JSON");
        assert_eq!(
            (&request["why"], &request["by"], &request["dryRun"]),
            (&json!("a test"), &json!("me"), &json!(false))
        );
    }
    assert!(runs > 1);
    assert_eq!(relay.queued().len(), 290, "and not what lies behind");
    let record = relay.ports.table.record(&id_of("e0")).expect("a record");
    assert_eq!(
        record.history[0].why.as_deref(),
        Some("a test (delivery e0: 503 from https://example.com/)")
    );
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_can_be_moved_by_hand() {
    let relay = relay();
    relay.lose("poison", now() + minutes(1), now());
    relay.lose("behind", now() + minutes(4), now());
    let start = now();
    relay
        .ports
        .table
        .save_checkpoint(
            "fake",
            &Checkpoint {
                cursor: start,
                span_seconds: 60,
                resume: None,
            },
        )
        .await
        .expect("saved");
    sleep(Duration::from_hours(1)).await;
    let from = start + minutes(2);
    let report = relay
        .run(json!({ "from": from.to_string(), "moveCursor": true }))
        .await
        .expect("a run");
    assert_eq!((report.from, report.new, report.complete), (from, 1, true));
    assert_eq!(report.cursor, Some(now() - OVERLAP));
    // Back as well: what is read again is known.
    let report = relay
        .run(json!({ "from": start.to_string(), "moveCursor": true }))
        .await
        .expect("a run");
    assert_eq!((report.new, report.known), (1, 1));
    let too_old = json!({ "from": (now() - LIFE - minutes(1)).to_string(), "moveCursor": true });
    let failed = relay.run(too_old).await.expect_err("refused");
    assert!(
        matches!(failed.error, RecoverError::TooOld { .. }),
        "{failed}"
    );
    assert!(relay.go_on().await.complete, "and nothing has moved");
}

/// A message that fails late, in a part of its window that was read before the run was cut short.
#[tokio::test(start_paused = true)]
async fn failure_during_a_window_of_several_runs_is_found() {
    let relay = relay();
    *lock(&relay.ports.log.resumes) = true;
    relay.go_on().await;
    let start = now();
    for number in 0..40 {
        relay.lose(
            &format!("e{number}"),
            start + minutes(1),
            start + minutes(1),
        );
    }
    sleep(Duration::from_mins(5)).await;
    *lock(&relay.ports.log.read_takes) = Duration::from_mins(1);
    assert!(!relay.go_on().await.complete);
    // It sorts before all others, and is listed only now.
    relay.lose("late", start + SignedDuration::from_secs(1), now());
    for _ in 0..4 {
        sleep(Duration::from_mins(15)).await;
        relay.go_on().await;
    }
    assert_eq!(relay.queued().get("late"), Some(&1));
    assert_eq!(relay.queued().len(), 41);
}

#[tokio::test(start_paused = true)]
async fn window_older_than_the_records_needs_force() {
    let relay = relay();
    relay.go_on().await;
    let from = now() - LIFE + minutes(59);
    relay.lose("old", from, now());
    let failed = relay
        .run(json!({ "from": from.to_string() }))
        .await
        .expect_err("refused");
    assert!(
        matches!(failed.error, RecoverError::TooOld { .. }),
        "{failed}"
    );
    let report = relay
        .run(json!({ "from": from.to_string(), "force": true }))
        .await
        .expect("a run");
    assert_eq!(report.new, 1);
    let border = now() - LIFE + minutes(60);
    assert!(
        relay
            .run(json!({ "from": border.to_string(), "dryRun": true }))
            .await
            .is_ok(),
        "an hour is enough"
    );
    // The same when nothing has been read for too long.
    sleep(Duration::try_from(LIFE).expect("positive")).await;
    let failed = relay.run(json!({})).await.expect_err("refused");
    assert!(
        matches!(failed.error, RecoverError::TooOld { .. }),
        "{failed}"
    );
    assert!(
        relay
            .run(json!({ "force": true }))
            .await
            .expect("a run")
            .complete
    );
    relay.go_on().await;
}

/// It may stand where no run would put it: a shorter overlap did, or a clock that was ahead.
#[tokio::test(start_paused = true)]
async fn a_run_never_moves_the_checkpoint_back() {
    for ahead in [minutes(-14), minutes(0), minutes(60)] {
        let (relay, cursor) = (relay(), now() + ahead);
        relay.lose("e", now() - minutes(10), now());
        let checkpoint = Checkpoint {
            cursor,
            span_seconds: 3600,
            resume: None,
        };
        relay
            .ports
            .table
            .save_checkpoint("fake", &checkpoint)
            .await
            .expect("saved");
        let report = relay.go_on().await;
        assert_eq!(
            (report.complete, report.new, report.cursor),
            (true, 1, Some(cursor)),
            "but it reads the overlap"
        );
        assert_eq!(
            relay
                .ports
                .table
                .checkpoint("fake")
                .await
                .expect("read")
                .map(|found| found.cursor),
            Some(cursor)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_is_cut_short_in_its_last_window_goes_on_there() {
    let relay = relay();
    *lock(&relay.ports.log.resumes) = true;
    relay.go_on().await;
    let from = now() - minutes(60);
    for number in 0..60 {
        relay.lose(&format!("e{number}"), from + minutes(number), now());
    }
    // Nine pages, of which a run has time for four.
    *lock(&relay.ports.log.read_takes) = Duration::from_mins(1);
    let mut request = json!({ "from": from.to_string(), "to": now().to_string(), "why": "a test" });
    for left in (0..3).rev() {
        let report = relay.run(request.clone()).await.expect("a run");
        assert_eq!(report.next.is_some(), left > 0, "{report:?}");
        request = serde_json::to_value(report.next).expect("JSON");
    }
    assert_eq!(relay.queued().len(), 60);
}

/// An operator can write anything to the table, and so can a version to come.
#[tokio::test(start_paused = true)]
async fn a_place_that_no_run_has_left_is_none() {
    let hour = SignedDuration::from_hours(1);
    for forged in 0..6 {
        let relay = relay();
        let cursor = now() - hour;
        relay.lose("e", cursor + minutes(1), cursor);
        let (from, to, began_at) = match forged {
            0 => (cursor, now() + hour, now()),
            1 => (cursor, cursor, now()),
            2 => (cursor + minutes(1), now(), now()),
            3 => (cursor, now(), now() + minutes(1)),
            4 => (cursor, now(), cursor - hour),
            _ => (cursor, now(), cursor),
        };
        let place =
            json!({ "from": from, "to": to, "began_at": began_at, "withheld": null, "place": 700 });
        let resume =
            base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, place.to_string());
        let resume = Some(if forged == 5 {
            "no place".to_owned()
        } else {
            resume
        });
        let checkpoint = Checkpoint {
            cursor,
            span_seconds: 3600,
            resume,
        };
        relay
            .ports
            .table
            .save_checkpoint("fake", &checkpoint)
            .await
            .expect("saved");
        assert_eq!(relay.go_on().await.new, 1, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_invocation_reads_for_three_quarters_of_its_time() {
    let relay = relay();
    relay.lose("e", now() - minutes(1), now());
    let request = || Request::parse(json!({}), "a test", now()).expect("understood");
    for (seconds, is_read) in [(44, true), (45, false)] {
        *lock(&relay.ports.log.read_takes) = Duration::from_secs(seconds);
        let outcome = relay
            .recover(&request(), Instant::now() + Duration::from_mins(1))
            .await;
        assert_eq!(
            outcome.is_ok(),
            is_read,
            "{seconds} s of a minute: {outcome:?}"
        );
    }
}
