//! Resends from the journal.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::journal::{deliver_for_journal, in_conversation, lease_of, queue, with_journal};
use super::*;
use crate::ports::event_queues::EventQueues;
use crate::ports::events_table::LeaseName;
use crate::ports::queue::Receiver;

/// Starts a run and carries it out, as the function does in two invocations.
async fn run(relay: &Fake, request: &Value) -> Result<Value, ReplayError> {
    start(relay, request).await?;
    begin(relay, request).await
}

async fn start(relay: &Fake, request: &Value) -> Result<Value, ReplayError> {
    // A run is for what was delivered a second before it, or earlier.
    tokio::time::advance(Duration::from_secs(2)).await;
    let Request::Start(start) = Request::parse(request.clone(), "a test").expect("a request")
    else {
        panic!("no start")
    };
    let (status, _) = relay.enlist(&start).await?;
    Ok(json!(status))
}

async fn begin(relay: &Fake, request: &Value) -> Result<Value, ReplayError> {
    let mut request = request.clone();
    request["begin"] = true.into();
    handle(relay, request).await.map(|answer| json!(answer))
}

async fn status(relay: &Fake, run_id: &str) -> Value {
    let request = json!({ "action": "status", "runId": run_id });
    let status = json!(handle(relay, request).await.expect("known"));
    status["background"].clone()
}

fn of_hour(run_id: &str) -> Value {
    json!({
        "action": "resend", "filter": { "since": "2026-01-15T12:00:00Z", "until": "2026-01-15T13:00:00Z" },
        "why": "the target lost an hour", "runId": run_id,
    })
}

/// Delivers what is in the events queue as the processor does. Returns the ids of the events that
/// reached the target, in their order.
async fn deliver_queued(relay: &Fake) -> Vec<EventId> {
    let mut delivered = Vec::new();
    loop {
        let received = relay.ports.events.hand_out(10, Duration::from_mins(1));
        if received.is_empty() {
            return delivered;
        }
        for received in received {
            let event = received
                .message
                .to_event(received.stamp())
                .expect("readable");
            let resend = received.message.resend().expect("readable");
            let found = relay.ports.table.record(&event.id);
            let now = FakeClock.now();
            let request = ClaimRequest {
                event: &event,
                message_id: &received.message_id,
                sent_at: received.sent_at,
                bulk: None,
                last: false,
                conversation: None,
                resend: resend.as_ref(),
                lease_until: now + Duration::from_mins(1),
                now,
            };
            match Claim::on(found.as_ref(), request) {
                ClaimResult::Claimed(claim) => {
                    let table = &relay.ports.table;
                    table.write(claim.transition()).await.expect("written");
                    let step = claim.delivered(attempt(200));
                    table.write(&step).await.expect("written");
                    delivered.push(event.id);
                }
                ClaimResult::AlreadyFinished(_) => {}
                claiming => panic!("{claiming:?}"),
            }
            relay.ports.events.delete(&[received.receipt]).await;
        }
    }
}

/// Events of three conversations, delivered from noon on, a second apart; then two in another hour.
async fn with_delivered_events(relay: &Fake) -> Vec<EventId> {
    let mut ids = Vec::new();
    for number in 0..30 {
        let message = in_conversation(&format!("c{}", number % 3), number);
        ids.push(id_of(&deliver_for_journal(relay, &message).await));
    }
    tokio::time::advance(Duration::from_hours(2)).await;
    for number in 30..32 {
        deliver_for_journal(relay, &in_conversation("c0", number)).await;
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn resend_waits_for_the_run_that_writes_the_journal() {
    let relay = with_journal();
    deliver_for_journal(&relay, &message("a", 1)).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let now = FakeClock.now();
    let drain = RunLease {
        until: now + Duration::from_secs(10),
        ..lease_of("journal", now)
    };
    let table = &relay.ports.table;
    let taken = table.acquire(LeaseName::Journal, &drain, now).await;
    assert_eq!(taken.expect("written"), None);
    start(&relay, &of_hour("again")).await.expect("saved");
    let answer = begin(&relay, &of_hour("again")).await.expect("carried out");
    assert!(FakeClock.now() >= drain.until, "{answer}");
    assert_eq!(deliver_queued(&relay).await.len(), 1, "{answer}");
    let held = table.lease(LeaseName::Journal, FakeClock.now()).await;
    assert_eq!(held.expect("read"), None);
}

#[tokio::test(start_paused = true)]
async fn dry_run_of_a_resend_counts_by_the_hour_and_sends_nothing() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    deliver_for_journal(&relay, &message("a", 99)).await;
    let request = json!({ "action": "resend", "filter": { "since": "2026-01-15T00:00:00Z" }, "dryRun": true });
    let counted = json!(handle(&relay, request).await.expect("carried out"));
    assert_eq!(
        (
            &counted["matched"],
            &counted["resent"],
            &counted["notYetJournalled"],
            &counted["complete"]
        ),
        (&json!(32), &json!(0), &json!(1), &json!(true)),
        "{counted}"
    );
    let hours = json!([
        { "hour": "2026-01-15T12:00:00Z", "events": 30 },
        { "hour": "2026-01-15T14:00:00Z", "events": 2 },
    ]);
    assert_eq!(counted["hours"], hours);
    assert_eq!(counted["eventIds"][0], json!(ids[0]));
    assert!(relay.ports.events.messages().is_empty());
    assert_eq!(queue(&relay).messages().len(), 1, "it receives nothing");
}

#[tokio::test(start_paused = true)]
async fn resend_of_an_hour_sends_exactly_that_hour_in_order() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (
            &report["matched"],
            &report["resent"],
            &report["complete"],
            &report["remaining"]
        ),
        (&json!(30), &json!(30), &json!(true), &json!(0)),
        "{report}"
    );
    let message = relay.ports.events.messages().remove(0);
    let resend = message.resend().expect("readable").expect("marked");
    assert_eq!((resend.run.as_str(), resend.by.as_str()), ("one", "a test"));
    assert_eq!(resend.why.as_deref(), Some("the target lost an hour"));
    assert_eq!(deliver_queued(&relay).await, ids);
    // The same run sends nothing again, another one does.
    start(&relay, &of_hour("one")).await.expect("known");
    begin(&relay, &of_hour("one")).await.expect("ended");
    assert_eq!(deliver_queued(&relay).await, []);
    run(&relay, &of_hour("two")).await.expect("carried out");
    assert_eq!(deliver_queued(&relay).await, ids);
}

#[tokio::test(start_paused = true)]
async fn resend_that_is_killed_at_any_step_delivers_each_event_once() {
    let table = (0..14).map(|calls| (Some(calls), None, None));
    let archive = (0..5).map(|calls| (None, Some(calls), None));
    let sends = (0..32).map(|seconds| (None, None, Some(seconds)));
    for (table, archive, sends) in table.chain(archive).chain(sends) {
        let case = format!("{table:?} {archive:?} {sends:?}");
        FakeClock::start_over();
        let relay = Arc::new(with_journal());
        let ids = with_delivered_events(&relay).await;
        start(&relay, &of_hour("one")).await.expect("started");
        if let Some(calls) = table {
            relay.ports.table.halt_after(calls);
        }
        if let Some(calls) = archive {
            relay.ports.archive.halt_after(calls);
        }
        relay.ports.events.delay_sends(Duration::from_secs(1));
        let doomed = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { begin(&relay, &of_hour("one")).await.map(drop) }
        });
        // A poll of the empty queue of the journal takes two seconds.
        let time = sends.map_or(Duration::from_secs(50), |seconds| {
            Duration::from_millis(2500 + 1000 * seconds)
        });
        tokio::time::sleep(time).await;
        doomed.abort();
        relay.ports.table.resume();
        relay.ports.archive.resume();
        relay.ports.events.delay_sends(Duration::ZERO);
        // What was sent is delivered before the run goes on, or after.
        let mut delivered = Vec::new();
        if sends.is_some_and(|seconds| seconds % 2 == 0) {
            delivered = deliver_queued(&relay).await;
        }
        tokio::time::advance(Duration::from_mins(2)).await;
        run(&relay, &of_hour("one")).await.expect("carried out");
        let ended = status(&relay, "one").await;
        assert_eq!(ended["state"], "ended", "{case}: {ended}");
        assert_eq!(ended["report"]["matched"], 30, "{case}");
        delivered.extend(deliver_queued(&relay).await);
        delivered.sort_unstable();
        let mut expected = ids.clone();
        expected.sort_unstable();
        assert_eq!(delivered, expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn resend_at_a_rate_goes_on_behind_its_deadline() {
    let relay = with_journal();
    let mut ids = Vec::new();
    for number in 0..100 {
        ids.push(id_of(
            &deliver_for_journal(&relay, &message("a", number)).await,
        ));
    }
    let mut request = of_hour("one");
    request["ratePerSecond"] = 1.into();
    let first = run(&relay, &request).await.expect("carried out");
    let sent = first["resent"].as_u64().expect("a number");
    assert!((30..60).contains(&sent), "{first}");
    assert_eq!(first["remaining"].as_u64(), Some(100 - sent), "{first}");
    assert_eq!(
        (&first["complete"], &first["matched"]),
        (&json!(false), &json!(100))
    );
    assert_eq!(status(&relay, "one").await["state"], "unfinished");
    for _ in 0..10 {
        if status(&relay, "one").await["state"] == "ended" {
            break;
        }
        run(&relay, &request).await.expect("goes on");
    }
    let ended = status(&relay, "one").await;
    assert_eq!(
        (&ended["report"]["resent"], &ended["report"]["complete"]),
        (&json!(100), &json!(true)),
        "{ended}"
    );
    assert_eq!(
        relay.ports.events.messages().len(),
        100,
        "each was sent once"
    );
    assert_eq!(deliver_queued(&relay).await, ids);
}

#[tokio::test(start_paused = true)]
async fn resend_ends_at_its_bound_with_the_first_received() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    let mut request = of_hour("one");
    request["maxMessages"] = 7.into();
    let report = run(&relay, &request).await.expect("carried out");
    assert_eq!(
        (&report["matched"], &report["resent"], &report["complete"]),
        (&json!(30), &json!(7), &json!(false)),
        "{report}"
    );
    assert_eq!(status(&relay, "one").await["state"], "ended");
    assert_eq!(deliver_queued(&relay).await, ids[..7]);
}

#[tokio::test(start_paused = true)]
async fn cancelled_run_ends_at_its_next_step() {
    let relay = Arc::new(with_journal());
    with_delivered_events(&relay).await;
    let mut request = of_hour("one");
    request["ratePerSecond"] = 1.into();
    start(&relay, &request).await.expect("started");
    let running = tokio::spawn({
        let (relay, request) = (Arc::clone(&relay), request.clone());
        async move { begin(&relay, &request).await }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cancel = json!({ "action": "cancel", "runId": "one", "by": "an operator" });
    let shown = json!(handle(&relay, cancel.clone()).await.expect("cancelled"));
    assert_eq!(
        shown["background"]["state"], "running",
        "until its next step"
    );
    let report = running.await.expect("no panic").expect("carried out");
    assert_eq!(
        (&report["cancelled"], &report["complete"]),
        (&json!(true), &json!(false))
    );
    let sent = report["resent"].as_u64().expect("a number");
    assert!((1..15).contains(&sent), "{report}");
    assert_eq!(relay.ports.events.messages().len() as u64, sent);
    let ended = status(&relay, "one").await;
    assert_eq!(
        (&ended["state"], &ended["report"]["cancelled"]),
        (&json!("ended"), &json!(true)),
        "{ended}"
    );
    assert_eq!(
        start(&relay, &request).await.expect("known")["state"],
        "ended"
    );
    assert_eq!(
        handle(&relay, cancel)
            .await
            .map(|answer| json!(answer)["background"]["state"].clone())
            .expect("known"),
        "ended"
    );
    tokio::time::advance(Duration::from_mins(11)).await;
    let again = start(&relay, &request).await;
    assert!(
        matches!(again, Err(ReplayError::NameTaken { .. })),
        "{again:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn run_that_has_not_begun_is_cancelled_at_once() {
    let relay = with_journal();
    with_delivered_events(&relay).await;
    let cancel = json!({ "action": "cancel", "runId": "one", "by": "an operator" });
    let unknown = handle(&relay, cancel.clone()).await;
    assert!(matches!(unknown, Err(ReplayError::UnknownRun(_))));
    start(&relay, &of_hour("one")).await.expect("started");
    handle(&relay, cancel).await.expect("cancelled");
    let ended = status(&relay, "one").await;
    assert_eq!(ended["state"], "ended");
    assert_eq!(ended["error"], "cancelled by an operator");
    begin(&relay, &of_hour("one")).await.expect("answered");
    assert!(relay.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn killed_run_that_was_cancelled_stays_ended() {
    let relay = Arc::new(with_journal());
    with_delivered_events(&relay).await;
    let mut request = of_hour("one");
    request["ratePerSecond"] = 1.into();
    start(&relay, &request).await.expect("started");
    let doomed = tokio::spawn({
        let (relay, request) = (Arc::clone(&relay), request.clone());
        async move { begin(&relay, &request).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    doomed.abort();
    let cancel = json!({ "action": "cancel", "runId": "one" });
    handle(&relay, cancel).await.expect("cancelled");
    tokio::time::advance(Duration::from_mins(2)).await;
    let sent = relay.ports.events.messages().len();
    begin(&relay, &request).await.expect("answered");
    assert_eq!(relay.ports.events.messages().len(), sent);
    assert_eq!(status(&relay, "one").await["state"], "ended");
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_a_replay_too() {
    let relay = Arc::new(with_journal());
    send_to_dead_letters(&relay, (0..60).map(|name| message("a", name))).await;
    let request = json!({ "action": "replay", "filter": { "webhookId": "a" }, "ratePerSecond": 1, "runId": "one" });
    start(&relay, &request).await.expect("started");
    let running = tokio::spawn({
        let (relay, request) = (Arc::clone(&relay), request.clone());
        async move { begin(&relay, &request).await }
    });
    tokio::time::sleep(Duration::from_secs(15)).await;
    let cancel = json!({ "action": "cancel", "runId": "one" });
    handle(&relay, cancel).await.expect("cancelled");
    let report = running.await.expect("no panic").expect("carried out");
    assert_eq!(report["cancelled"], true, "{report}");
    let sent = relay.ports.events.messages().len();
    assert!((1..40).contains(&sent), "{sent}");
    assert_eq!(relay.ports.dead_letters.messages().len(), 60 - sent);
}

#[tokio::test(start_paused = true)]
async fn events_that_are_not_delivered_are_skipped_and_named() {
    let relay = with_journal();
    let mut messages = Vec::new();
    for number in 0..4 {
        messages.push(deliver_for_journal(&relay, &message("a", number)).await);
    }
    run(&relay, &of_hour("one")).await.expect("carried out");
    // One is in delivery by the first run, one has died in it, one waits, one was delivered.
    let received = relay.ports.events.hand_out(10, Duration::from_mins(1));
    for (received, status) in received.iter().zip([None, Some(404)]) {
        let event = received
            .message
            .to_event(received.stamp())
            .expect("readable");
        let resend = received.message.resend().expect("readable");
        let found = relay.ports.table.record(&event.id);
        let now = FakeClock.now();
        let request = ClaimRequest {
            event: &event,
            message_id: &received.message_id,
            sent_at: received.sent_at,
            bulk: None,
            last: false,
            conversation: None,
            resend: resend.as_ref(),
            lease_until: now + Duration::from_mins(10),
            now,
        };
        let ClaimResult::Claimed(claim) = Claim::on(found.as_ref(), request) else {
            panic!("not claimed")
        };
        let table = &relay.ports.table;
        table.write(claim.transition()).await.expect("written");
        if let Some(status) = status {
            let death = Death {
                reason: ReasonKind::Permanent,
                error: "as the test says".to_owned(),
                status_code: Some(status),
                dead_at: now,
            };
            let step = claim.dead(attempt(status), death, None, Context::of(&event, None));
            table.write(&step).await.expect("written");
        }
    }
    let again = run(&relay, &of_hour("two")).await.expect("carried out");
    assert_eq!(
        (&again["resent"], &again["skipped"]),
        (&json!(2), &json!(2)),
        "{again}"
    );
    let failed = again["failed"].as_array().expect("failures");
    let named: Vec<_> = failed
        .iter()
        .map(|failed| (failed["eventId"].clone(), failed["state"].clone()))
        .collect();
    let expected = [(&messages[0], "alive"), (&messages[1], "dead")];
    assert_eq!(
        named,
        expected.map(|(message, state)| (json!(id_of(message)), json!(state)))
    );
    assert!(
        failed[1]["error"]
            .as_str()
            .is_some_and(|error| error.contains("replay it"))
    );
}

#[tokio::test(start_paused = true)]
async fn ids_are_found_in_the_hours_of_their_records_alone() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    // Reading it would be a failure.
    let unreadable = "journal/2026/01/14/08/a-run-0001.jsonl.gz";
    relay
        .ports
        .archive
        .put(unreadable, vec![1])
        .await
        .expect("written");
    let request = |ids: Value, run_id: &str| json!({ "action": "resend", "eventIds": ids, "why": "a test", "runId": run_id });
    let found = run(&relay, &request(json!([ids[3], ids[7]]), "one")).await;
    let found = found.expect("carried out");
    assert_eq!(
        (&found["resent"], &found["failures"], &found["complete"]),
        (&json!(2), &json!(0), &json!(true)),
        "{found}"
    );
    assert_eq!(
        deliver_queued(&relay).await,
        [ids[3].clone(), ids[7].clone()]
    );
    // The rest of the journal is searched for what is not found there.
    let rest = run(&relay, &request(json!([ids[3], "unknown"]), "two")).await;
    let rest = rest.expect("carried out");
    assert_eq!(
        (&rest["resent"], &rest["failures"]),
        (&json!(1), &json!(2)),
        "{rest}"
    );
    let failed = rest["failed"].to_string();
    assert!(
        failed.contains(unreadable) && failed.contains("unknown"),
        "{failed}"
    );
}

#[tokio::test(start_paused = true)]
async fn conversation_is_sent_again_also_beyond_the_life_of_its_records() {
    let relay = with_journal();
    let mut ids = vec![id_of(
        &deliver_for_journal(&relay, &in_conversation("c1", 1)).await,
    )];
    deliver_for_journal(&relay, &in_conversation("c2", 1)).await;
    tokio::time::advance(Duration::from_hours(20 * 24)).await;
    relay.ports.table.delete_expired(FakeClock.now());
    ids.push(id_of(
        &deliver_for_journal(&relay, &in_conversation("c1", 2)).await,
    ));
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    tokio::time::advance(Duration::from_hours(3)).await;
    // Of the last days, the hours that no record tells are not read.
    let unreadable = "journal/2026/02/03/08/a-run-0001.jsonl.gz";
    relay
        .ports
        .archive
        .put(unreadable, vec![1])
        .await
        .expect("written");
    let request = json!({ "action": "resend", "filter": { "conversationId": "c1" }, "why": "a test", "runId": "one" });
    let report = run(&relay, &request).await.expect("carried out");
    assert_eq!(
        (&report["matched"], &report["failures"]),
        (&json!(2), &json!(0)),
        "{report}"
    );
    assert_eq!(deliver_queued(&relay).await, ids);
}

#[tokio::test(start_paused = true)]
async fn each_condition_of_a_resend_has_to_hold() {
    let relay = with_journal();
    deliver_for_journal(&relay, &in_conversation("c1", 1)).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    for (field, right, wrong) in [
        ("source", json!("webhook"), json!("generic")),
        ("webhookId", json!("w"), json!("W")),
        ("conversationId", json!("c1"), json!("c2")),
        (
            "since",
            json!("2026-01-15T12:00:00Z"),
            json!("2026-01-15T12:00:00.001Z"),
        ),
        (
            "until",
            json!("2026-01-15T12:00:00.001Z"),
            json!("2026-01-15T12:00:00Z"),
        ),
    ] {
        for (value, matched) in [(right, 1), (wrong, 0)] {
            let mut filter = json!({ "since": "2026-01-15T00:00:00Z" });
            filter[field] = value;
            let request = json!({ "action": "resend", "filter": filter, "dryRun": true });
            let counted = json!(handle(&relay, request).await.expect("carried out"));
            assert_eq!(counted["matched"], matched, "{filter}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn event_that_is_journalled_twice_is_sent_once() {
    let relay = with_journal();
    let message = deliver_for_journal(&relay, &message("a", 1)).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    queue(&relay).send(&message).await.expect("sent");
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (&report["matched"], &report["resent"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    assert_eq!(relay.ports.events.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn object_that_breaks_in_the_middle_is_named_and_the_others_are_sent() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    let archive = &relay.ports.archive;
    let first = archive.keys().remove(0);
    let mut broken = archive.get(&first).await.expect("there");
    let mut line = GzEncoder::new(&mut broken, Compression::fast());
    line.write_all(b"no JSON\n").expect("packed");
    line.finish().expect("packed");
    // It is read before the others.
    let key = format!("{}/0.jsonl.gz", first.rsplit_once('/').expect("a folder").0);
    archive.put(&key, broken).await.expect("written");
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert!(report["failed"].to_string().contains(&key), "{report}");
    assert_eq!(
        (&report["resent"], &report["complete"]),
        (&json!(30), &json!(false))
    );
    assert_eq!(deliver_queued(&relay).await, ids);
}

#[tokio::test(start_paused = true)]
async fn outage_of_the_queue_ends_the_run_and_it_goes_on() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    start(&relay, &of_hour("one")).await.expect("started");
    relay.ports.events.fail_times(3);
    let failed = begin(&relay, &of_hour("one")).await;
    assert!(matches!(failed, Err(ReplayError::Service(_))), "{failed:?}");
    assert_eq!(status(&relay, "one").await["state"], "failed");
    let report = run(&relay, &of_hour("one")).await.expect("goes on");
    assert_eq!(
        (&report["matched"], &report["resent"]),
        (&json!(30), &json!(30)),
        "{report}"
    );
    let mut delivered = deliver_queued(&relay).await;
    delivered.sort_unstable();
    let mut ids = ids;
    ids.sort_unstable();
    assert_eq!(delivered, ids);
}

#[tokio::test(start_paused = true)]
async fn run_begins_once_nothing_is_hidden_from_it() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    // A run was killed in its drain.
    let hidden = queue(&relay).hand_out(10, Duration::from_mins(10));
    assert_eq!(hidden.len(), 10);
    for _ in 0..2 {
        let report = run(&relay, &of_hour("one")).await.expect("carried out");
        assert_eq!(
            (&report["resent"], &report["complete"]),
            (&json!(0), &json!(false))
        );
        assert!(report["failed"].to_string().contains("hidden"), "{report}");
        assert_eq!(status(&relay, "one").await["state"], "unfinished");
        assert!(relay.ports.events.messages().is_empty());
    }
    tokio::time::advance(Duration::from_mins(10)).await;
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (&report["resent"], &report["complete"], &report["failures"]),
        (&json!(30), &json!(true), &json!(0)),
        "{report}"
    );
    let mut delivered = deliver_queued(&relay).await;
    delivered.sort_unstable();
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(delivered, expected);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_during_the_drain_is_journalled_beside_the_rest() {
    let relay = with_journal();
    let ids = with_delivered_events(&relay).await;
    let hidden = queue(&relay).hand_out(10, Duration::from_secs(15));
    assert_eq!(hidden.len(), 10);
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (&report["resent"], &report["complete"]),
        (&json!(30), &json!(true)),
        "{report}"
    );
    let mut delivered = deliver_queued(&relay).await;
    delivered.sort_unstable();
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(delivered, expected);
}

#[tokio::test(start_paused = true)]
async fn count_that_is_late_does_not_keep_a_run_from_its_begin() {
    let relay = with_journal();
    with_delivered_events(&relay).await;
    queue(&relay).count_late(7, Duration::from_secs(15));
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (&report["resent"], &report["complete"]),
        (&json!(30), &json!(true)),
        "{report}"
    );
}

/// A repeat of the sender is journalled with its own time of receipt.
#[tokio::test(start_paused = true)]
async fn event_with_two_lines_takes_one_place() {
    let relay = with_journal();
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(id_of(
            &deliver_for_journal(&relay, &message("a", number)).await,
        ));
    }
    let repeat = message("a", 0).with_identity(FakeClock.now());
    queue(&relay).send(&repeat).await.expect("sent");
    let mut request = of_hour("one");
    request["maxMessages"] = 4.into();
    let report = run(&relay, &request).await.expect("carried out");
    assert_eq!(
        (&report["matched"], &report["resent"], &report["complete"]),
        (&json!(4), &json!(4), &json!(true)),
        "{report}"
    );
    assert_eq!(deliver_queued(&relay).await, ids);
}

#[tokio::test(start_paused = true)]
async fn conversation_is_found_however_late_it_was_journalled() {
    let relay = with_journal();
    let first = deliver_for_journal(&relay, &in_conversation("c1", 1)).await;
    // The processor was killed before it sent this one to the journal.
    let late = in_conversation("c1", 2).with_identity(FakeClock.now());
    deliver(&relay, &late).await;
    tokio::time::advance(Duration::from_hours(30)).await;
    queue(&relay).send(&late).await.expect("sent");
    tokio::time::advance(Duration::from_hours(30)).await;
    handle(&relay, json!({ "action": "journal" }))
        .await
        .expect("carried out");
    let request = json!({ "action": "resend", "filter": { "conversationId": "c1" }, "why": "a test", "runId": "one" });
    let report = run(&relay, &request).await.expect("carried out");
    assert_eq!(
        (&report["matched"], &report["failures"]),
        (&json!(2), &json!(0)),
        "{report}"
    );
    assert_eq!(deliver_queued(&relay).await, [id_of(&first), id_of(&late)]);
}

#[tokio::test(start_paused = true)]
async fn message_that_has_no_room_for_the_mark_is_named() {
    let relay = with_journal();
    let mut full = message("a", 1).with_identity(FakeClock.now());
    for number in full.attributes.len()..10 {
        let attribute = crate::domain::message::Attribute::text("x");
        full.attributes.insert(format!("own-{number}"), attribute);
    }
    deliver(&relay, &full).await;
    queue(&relay).send(&full).await.expect("sent");
    deliver_for_journal(&relay, &message("a", 2)).await;
    let report = run(&relay, &of_hour("one")).await.expect("carried out");
    assert_eq!(
        (&report["resent"], &report["failures"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
    assert_eq!(report["failed"][0]["eventId"], json!(id_of(&full)));
}

struct TwoQueues;

impl PortTypes for TwoQueues {
    type Events = EventQueues<FakeQueue>;
    type DeadLetters = FakeQueue;
    type Redrive = FakeQueue;
    type Table = FakeTable;
    type Archive = FakeArchive;
    type Clock = FakeClock;
}

#[tokio::test(start_paused = true)]
async fn conversation_in_order_is_sent_in_its_order_whatever_fails() {
    for failures in 0..8 {
        FakeClock::start_over();
        let relay = with_journal();
        with_delivered_events(&relay).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        let Fake { ports, settings } = relay;
        let in_order = FakeQueue::fifo();
        let relay = DeadLetters::<TwoQueues> {
            ports: Ports {
                events: EventQueues {
                    standard: ports.events,
                    ordered: Some(in_order.clone()),
                },
                ordered: Some(OrderedQueues {
                    mode: OrderMode::Conversation,
                    queue: FakeQueue::default(),
                    dead_letters: FakeQueue::default(),
                }),
                dead_letters: ports.dead_letters,
                journal: ports.journal,
                redrive: ports.redrive,
                table: ports.table,
                archive: ports.archive,
                clock: ports.clock,
            },
            settings,
        };
        let Ok(Request::Start(started)) = Request::parse(of_hour("one"), "a test") else {
            panic!("no start")
        };
        // The call fails, or the first entries of a batch do.
        in_order.fail_times(failures);
        for _ in 0..=failures {
            relay.enlist(&started).await.expect("started");
            let begun = Request::parse(started.payload.clone(), "a test").expect("a request");
            let deadline = Instant::now() + Duration::from_mins(1);
            if relay.handle(begun, deadline).await.is_ok() {
                break;
            }
        }
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let sent = in_order.messages();
        assert!(sent.len() >= 30, "{failures}");
        for message in sent {
            let body: Value = serde_json::from_str(&message.body).expect("JSON");
            let number = body["payload"]["number"].as_u64().expect("a number");
            let group = message.group.expect("a group");
            // What a run sends once more is a duplicate; nothing new comes before an earlier one.
            if seen.insert(number) {
                let before = newest.insert(group, number);
                assert!(before.is_none_or(|before| before < number), "{failures}");
            }
        }
    }
}
