//! Slices that are killed at every call, or meet another.

use super::*;

/// A day with three conversations, of which one message is lost.
async fn day() -> (Relay, Cloud) {
    FakeClock::start_over();
    let cloud = Cloud::default();
    let relay = relay(&cloud);
    for number in 0..3 {
        let sent_at = at("2026-01-14T10:00:00Z") + SignedDuration::from_mins(number);
        let message = Message::sent(&format!("c{number}"), &format!("m{number}"), sent_at);
        if number > 0 {
            receive(&relay.ports.table, &message.webhook(), sent_at).await;
        }
        cloud.add(message);
    }
    (relay, cloud)
}

/// Runs a slice that is killed where a call hangs; returns whether it was.
async fn is_killed(relay: &Relay) -> bool {
    let run = async {
        let deadline = Instant::now() + Duration::from_secs(290);
        relay
            .run(&request(json!({ "day": "2026-01-14" })), deadline)
            .await
            .map(drop)
    };
    let killed = tokio::time::timeout(Duration::from_secs(295), run)
        .await
        .is_err();
    relay.ports.table.resume();
    relay.ports.archive.resume();
    // Its lease expires.
    tokio::time::sleep(Duration::from_mins(5)).await;
    killed
}

async fn is_stated_once(relay: &Relay, case: &str) {
    while relay.ports.archive.keys().is_empty()
        || relay.load().await.expect("read").saved.progress.is_some()
    {
        slice(relay, json!({ "day": "2026-01-14" })).await;
    }
    let keys = relay.ports.archive.keys();
    assert_eq!(keys, ["statements/2026-01-14.json"], "{case}");
    let statement = read(relay, &keys[0]).await;
    assert_eq!(
        (&statement["sent"], unaccounted_of(&statement)),
        (&json!(3), vec!["m0"]),
        "{case}"
    );
    let head = relay
        .load()
        .await
        .expect("read")
        .saved
        .head
        .expect("a head");
    let object = relay.ports.archive.get(&keys[0]).await.expect("an object");
    assert_eq!(
        (head.sequence, head.sha256),
        (1, document::sha256_of(&object)),
        "{case}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_statement_survives_a_kill_at_every_call() {
    let mut kills = [0; 3];
    for (service, kills) in ["the table", "the bucket", "Genesys Cloud"]
        .into_iter()
        .zip(&mut kills)
    {
        for calls in 0.. {
            let (relay, cloud) = day().await;
            match service {
                "the table" => relay.ports.table.halt_after(calls),
                "the bucket" => relay.ports.archive.halt_after(calls),
                _ => cloud.halt_after(Some(calls)),
            }
            let killed = is_killed(&relay).await;
            cloud.halt_after(None);
            is_stated_once(&relay, &format!("killed at call {calls} of {service}")).await;
            if !killed {
                break;
            }
            *kills += 1;
        }
    }
    assert!(kills[0] > 8 && kills[1] > 0 && kills[2] > 5, "{kills:?}");
}

#[tokio::test(start_paused = true)]
async fn a_statement_that_was_written_unnoticed_is_taken_as_it_is() {
    let (relay, cloud) = day().await;
    // Everything is read, the object is written, and the head is not.
    relay.ports.counts.fail(true);
    let mut loaded = relay.load().await.expect("read");
    let progress = begin(
        "2026-01-14".parse().expect("a day"),
        &request(json!({})),
        FakeClock.now(),
    );
    loaded.saved.progress = Some(progress.expect("a day"));
    relay.save(&mut loaded).await.expect("saved");
    let end = Instant::now() + SLICE;
    assert!(matches!(
        relay.read(&mut loaded, end).await,
        Ok(Ended::ReadAll)
    ));
    relay.ports.table.fail_after(1, 1);
    relay
        .write(&mut loaded)
        .await
        .expect_err("the head cannot be saved");
    let object = relay
        .ports
        .archive
        .get("statements/2026-01-14.json")
        .await
        .expect("an object");
    // The next would say something else of AWS.
    relay.ports.counts.fail(false);
    is_stated_once(&relay, "written unnoticed").await;
    let kept = relay.ports.archive.get("statements/2026-01-14.json").await;
    assert_eq!(kept.expect("an object"), object);
    drop(cloud);
}

#[tokio::test(start_paused = true)]
async fn of_two_runs_beside_each_other_one_writes() {
    let (relay, _cloud) = day().await;
    // Both hold the lease: the first was frozen beyond its end.
    let begin_one = async || {
        let mut loaded = relay.load().await.expect("read");
        if loaded.saved.progress.is_none() {
            let progress = begin(
                "2026-01-14".parse().expect("a day"),
                &request(json!({})),
                FakeClock.now(),
            );
            loaded.saved.progress = Some(progress.expect("a day"));
        }
        loaded
    };
    let (mut one, mut other) = (begin_one().await, begin_one().await);
    let end = Instant::now() + SLICE;
    for loaded in [&mut one, &mut other] {
        assert!(matches!(relay.read(loaded, end).await, Ok(Ended::ReadAll)));
    }
    relay.write(&mut one).await.expect("written");
    let error = relay.write(&mut other).await;
    assert!(matches!(error, Err(StatementError::Overtaken)), "{error:?}");
    is_stated_once(&relay, "two runs").await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_table_or_bucket_leaves_no_wrong_statement() {
    for (calls, is_table) in (0..8).flat_map(|calls| [(calls, true), (calls, false)]) {
        let (relay, _cloud) = day().await;
        if is_table {
            relay.ports.table.fail_after(calls, 1);
        } else if calls == 0 {
            relay.ports.archive.fail_times(1);
        }
        let deadline = Instant::now() + Duration::from_secs(290);
        let _ = relay
            .run(&request(json!({ "day": "2026-01-14" })), deadline)
            .await;
        tokio::time::sleep(Duration::from_mins(5)).await;
        is_stated_once(
            &relay,
            &format!("failed at call {calls}, of the table: {is_table}"),
        )
        .await;
    }
}
