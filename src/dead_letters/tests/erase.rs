//! Erasure of events, and what it leaves alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::conversation::of_conversation;
use super::*;
use crate::domain::erasure::Erasures;

/// Conversation that is erased, as no body, record or line of another event has it.
const OURS: &str = "chat-to-erase";
const OTHERS: &str = "chat-to-keep";

/// Kinds of places in which the events of one conversation are, one event each.
const PLACES: u32 = 6;

/// An object with one line for each message, as a run of the archive writes it.
async fn put_object(relay: &Fake, key: &str, messages: impl IntoIterator<Item = Message>) {
    let mut part = ArchivePart::default();
    for message in messages {
        let attribute = |(name, value): (&String, &_)| (name.clone(), ArchivedAttribute::of(value));
        let line = Archived {
            event_id: id_of(&message),
            archived_at: FakeClock.now(),
            sent_at: FakeClock.now(),
            reason: None,
            attributes: message.attributes.iter().map(attribute).collect(),
            body: message.body,
            group: None,
        };
        part.add(&line).expect("added");
    }
    let object = part.finish().expect("packed");
    relay.ports.archive.put(key, object).await.expect("written");
}

/// Fills every place with events of a conversation.
async fn fill(relay: &Fake, id: &str) {
    let message = |number: u32| of_conversation(id, number).with_identity(FakeClock.now());
    deliver(relay, &message(0)).await;
    // Dead, with a kept body.
    die(relay, &message(1), ReasonKind::Permanent, 404).await;
    send_to_dead_letters(relay, [message(1)]).await;
    // Moved by SQS, without a record.
    send_to_dead_letters(relay, [message(2)]).await;
    // A copy of a delivered event.
    deliver(relay, &message(3)).await;
    send_to_dead_letters(relay, [message(3)]).await;
    if let Some(journal) = &relay.ports.journal {
        journal.send(&message(3)).await.expect("sent");
    }
    // In progress.
    claim(relay, &message(4)).await;
}

/// A relay with events of both conversations in every place.
async fn world() -> Fake {
    let mut relay = relay();
    relay.ports.journal = Some(FakeQueue::default());
    fill(&relay, OURS).await;
    fill(&relay, OTHERS).await;
    for (number, name) in [
        (0, "dead-letters/2026/01/14/a/part-0001.jsonl.gz"),
        (9, "journal/2026/01/14/09/a-0001.jsonl.gz"),
    ] {
        let mixed =
            [OURS, OTHERS].map(|id| of_conversation(id, number).with_identity(FakeClock.now()));
        put_object(&relay, name, mixed).await;
    }
    let own = [of_conversation(OURS, 5).with_identity(FakeClock.now())];
    put_object(&relay, "journal/2026/01/14/10/a-0001.jsonl.gz", own).await;
    for number in 20..25 {
        let others = [of_conversation(OTHERS, number).with_identity(FakeClock.now())];
        put_object(
            &relay,
            &format!("journal/2026/01/14/{number}/a-0001.jsonl.gz"),
            others,
        )
        .await;
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    relay
}

fn unpacked(object: &[u8]) -> String {
    std::io::read_to_string(MultiGzDecoder::new(object)).expect("gzip")
}

/// Everything that the relay holds of a conversation, as texts.
async fn traces(relay: &Fake, id: &str) -> BTreeMap<String, usize> {
    let ports = &relay.ports;
    let mut traces = BTreeMap::new();
    let mut note = |place: &str, text: &str| {
        if text.contains(id) {
            *traces.entry(place.to_owned()).or_default() += 1;
        }
    };
    for record in ports.table.records() {
        note("record", &json!(record).to_string());
    }
    for event_id in ports.table.kept_bodies() {
        let body = ports
            .table
            .body(&event_id, FakeClock.now())
            .await
            .expect("read");
        note("body", &String::from_utf8_lossy(&body.unwrap_or_default()));
    }
    for message in ports.dead_letters.messages() {
        note("dead letter", &message.body);
    }
    for message in ports.journal.iter().flat_map(FakeQueue::messages) {
        note("journal queue", &message.body);
    }
    for object in ports.archive.contents() {
        for line in unpacked(&object).lines() {
            note("line", line);
        }
    }
    traces
}

/// Everything that the relay holds of the other conversation, byte for byte.
async fn kept(relay: &Fake) -> (Vec<Message>, Vec<EventRecord>, Vec<EventId>, Vec<String>) {
    let ports = &relay.ports;
    let mut messages = ports.dead_letters.messages();
    messages.retain(|message| message.body.contains(OTHERS));
    messages.sort_by(|one, other| one.body.cmp(&other.body));
    let mut records = ports.table.records();
    records.retain(|record| record.conversation_id.as_deref() == Some(OTHERS));
    let ids: BTreeSet<EventId> = records
        .iter()
        .map(|record| record.event_id.clone())
        .collect();
    let mut bodies = ports.table.kept_bodies();
    bodies.retain(|id| ids.contains(id));
    let mut lines = Vec::new();
    // A drain puts the time into its line, and its run into the key.
    let keys = ports.archive.keys().into_iter();
    for key in keys.filter(|key| key.contains("/a-0001") || key.starts_with("dead-letters/")) {
        let object = ports.archive.get(&key).await.expect("there");
        let text = unpacked(&object);
        let others = text.lines().filter(|line| line.contains(OTHERS));
        lines.extend(others.map(|line| format!("{key} {line}")));
    }
    lines.sort();
    (messages, records, bodies, lines)
}

async fn run(relay: &Fake, request: Value) -> Result<Answer, ReplayError> {
    let request = Request::parse(request, "a test").expect("a request");
    relay
        .handle(request, Instant::now() + Duration::from_mins(15))
        .await
}

async fn erased(relay: &Fake, request: Value) -> Report {
    match run(relay, request).await.expect("carried out") {
        Answer::Erase(report) => report,
        answer => panic!("{answer:?}"),
    }
}

fn of_ours() -> Value {
    json!({ "action": "erase", "conversationId": OURS, "why": "a test order" })
}

fn ids_of_ours() -> Vec<EventId> {
    let numbers = (0..PLACES).chain([9]);
    numbers
        .map(|number| id_of(&of_conversation(OURS, number)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_erased_conversation_is_left_anywhere() {
    for request in [
        of_ours(),
        json!({ "action": "erase", "eventIds": ids_of_ours(), "why": "a test order" }),
    ] {
        let relay = world().await;
        let before = kept(&relay).await;
        assert_eq!(traces(&relay, OURS).await.len(), 5, "every place has some");
        let report = erased(&relay, request.clone()).await;
        assert!(report.complete && report.failures == 0, "{report:?}");
        assert_eq!(traces(&relay, OURS).await, BTreeMap::new(), "{request}");
        let Done::Erase {
            erased,
            objects_rewritten,
            versions_deleted,
            remains,
        } = &report.done
        else {
            panic!("{report:?}")
        };
        assert_eq!(
            (*erased, *objects_rewritten, *versions_deleted),
            (7, 2, 3),
            "{report:?}"
        );
        assert!(
            remains
                .iter()
                .all(|place| !place.place.contains("dead-letter")),
            "{remains:?}"
        );
        assert_eq!(kept(&relay).await, before, "{request}");
        for record in relay.ports.table.records() {
            if record.state == State::Erased {
                assert_eq!(record.history.len(), 1, "{record:?}");
                assert_eq!(record.history[0].action, "erase");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_erased_event_is_not_delivered_again() {
    let relay = world().await;
    erased(&relay, of_ours()).await;
    for number in 0..5 {
        let late = of_conversation(OURS, number);
        let event = event_of(&late);
        let found = relay.ports.table.get(&event.id).await.expect("read");
        assert_eq!(
            found.map(|record| record.state),
            Some(State::Erased),
            "{number}"
        );
    }
    // An event that waits without a record is dropped by the processor, and a later one is not.
    let erasures: Erasures = relay.ports.table.erasures().await.expect("read");
    let mut waiting = event_of(&of_conversation(OURS, 77));
    waiting.received_at = FakeClock.now() - Duration::from_mins(30);
    assert!(erasures.cover(&waiting, waiting.received_at));
    waiting.received_at = FakeClock.now();
    assert!(!erasures.cover(&waiting, waiting.received_at));
    let bodies = relay.ports.table.kept_bodies();
    assert_eq!(bodies, [id_of(&of_conversation(OTHERS, 1))]);
    // A copy that comes into the dead-letter queue is removed, as that of a delivered event is.
    send_to_dead_letters(&relay, [of_conversation(OURS, 1)]).await;
    let reconciled = report(&relay, json!({ "action": "reconcile" })).await;
    assert_eq!(reconciled.removed, 2, "{reconciled:?}");
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

/// It has no record, waited in the events queue during the erasure, and used up its receives there.
#[tokio::test(start_paused = true)]
async fn erased_event_that_sqs_moves_later_is_no_dead_letter() {
    for request in [
        json!({ "action": "reconcile" }),
        json!({ "action": "archive", "olderThanDays": 0 }),
        json!({ "action": "replay", "filter": { "source": "webhook" }, "why": "again" }),
    ] {
        let relay = world().await;
        let waiting = of_conversation(OURS, 78).with_identity(FakeClock.now());
        tokio::time::advance(Duration::from_secs(1)).await;
        erased(&relay, of_ours()).await;
        let later = of_conversation(OTHERS, 79).with_identity(FakeClock.now());
        send_to_dead_letters(&relay, [waiting.clone(), later.clone()]).await;
        let done = report(&relay, request.clone()).await;
        assert!(done.complete && done.failures == 0, "{request}: {done:?}");
        let record = record_of(&relay, &waiting).await;
        assert_eq!(record.state, State::Erased, "{request}");
        assert_eq!(record.history[0].action, "erase");
        assert_ne!(record_of(&relay, &later).await.state, State::Erased);
        assert_eq!(traces(&relay, OURS).await, BTreeMap::new(), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_after_the_erasure_are_left_alone() {
    let relay = Arc::new(world().await);
    let erasing = tokio::spawn({
        let relay = Arc::clone(&relay);
        async move { erased(&relay, of_ours()).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let later = |number| of_conversation(OURS, number).with_identity(FakeClock.now());
    deliver(&relay, &later(50)).await;
    send_to_dead_letters(&relay, [later(51)]).await;
    assert!(erasing.await.expect("no panic").complete);
    let record = record_of(&relay, &of_conversation(OURS, 50)).await;
    assert_eq!(record.state, State::Delivered);
    let left = traces(&relay, OURS).await;
    assert_eq!(left.get("dead letter"), Some(&1), "{left:?}");
    assert!(!left.contains_key("line"), "{left:?}");
}

/// Every call of the table and of the archive is a place at which the invocation can be killed.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_anywhere_is_completed_by_the_next() {
    for background in [false, true] {
        for of_table in [true, false] {
            for calls in 0.. {
                let relay = Arc::new(world().await);
                let before = kept(&relay).await;
                let mut request = of_ours();
                if background {
                    request["runId"] = "a-run".into();
                    let Request::Start(start) =
                        Request::parse(request.clone(), "a test").expect("a request")
                    else {
                        panic!("no start")
                    };
                    relay.enlist(&start).await.expect("noted");
                    request["begin"] = true.into();
                }
                if of_table {
                    relay.ports.table.halt_after(calls);
                } else {
                    relay.ports.archive.halt_after(calls);
                }
                let doomed = tokio::spawn({
                    let (relay, request) = (Arc::clone(&relay), request.clone());
                    async move { run(&relay, request).await.map(drop) }
                });
                tokio::time::sleep(Duration::from_mins(5)).await;
                let has_ended = doomed.is_finished();
                doomed.abort();
                relay.ports.table.resume();
                relay.ports.archive.resume();
                tokio::time::advance(Duration::from_mins(16)).await;
                run(&relay, request.clone()).await.expect("carried out");
                let left = traces(&relay, OURS).await;
                assert_eq!(left, BTreeMap::new(), "{background} {of_table} {calls}");
                if background {
                    let status = json!({ "action": "status", "runId": "a-run" });
                    let status = json!(handle(&relay, status).await.expect("known"));
                    assert_eq!(status["background"]["report"]["erased"], 7, "{calls}");
                }
                let after = kept(&relay).await;
                assert_eq!(after, before, "{background} {of_table} {calls}");
                if has_ended {
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_under_a_name_goes_on_behind_the_last_object() {
    let mut relay = world().await;
    relay.settings.processor_timeout = Duration::from_secs(5);
    let mut request = of_ours();
    request["runId"] = "a-run".into();
    let Request::Start(start) = Request::parse(request.clone(), "a test").expect("a request")
    else {
        panic!("no start")
    };
    relay.enlist(&start).await.expect("noted");
    // Killed while it searches the objects, and some seconds after a save.
    let relay = Arc::new(relay);
    let begun = start.payload.clone();
    relay.ports.archive.halt_after(9);
    let doomed = tokio::spawn({
        let (relay, request) = (Arc::clone(&relay), begun.clone());
        async move { run(&relay, request).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(!doomed.is_finished());
    doomed.abort();
    relay.ports.archive.resume();
    tokio::time::advance(Duration::from_mins(16)).await;
    // Received after the run began, and before it goes on.
    let later = of_conversation(OURS, 60).with_identity(FakeClock.now());
    deliver(&relay, &later).await;
    run(&relay, begun).await.expect("carried out");
    let status = json!({ "action": "status", "runId": "a-run" });
    let status = json!(handle(&relay, status).await.expect("known"));
    let report = &status["background"]["report"];
    assert_eq!(status["background"]["state"], "ended", "{status}");
    assert_eq!(
        (&report["erased"], &report["complete"]),
        (&json!(7), &json!(true)),
        "{status}"
    );
    assert_eq!(record_of(&relay, &later).await.state, State::Delivered);
}

#[tokio::test(start_paused = true)]
async fn a_run_without_time_for_the_wait_says_what_it_left() {
    let relay = world().await;
    let answer = handle(&relay, of_ours()).await.expect("carried out");
    let Answer::Erase(report) = answer else {
        panic!("{answer:?}")
    };
    assert!(!report.complete && report.failures == 1, "{report:?}");
    let Done::Erase { remains, .. } = &report.done else {
        panic!("{report:?}")
    };
    assert!(remains[0].place.contains("archive bucket"), "{remains:?}");
    assert!(erased(&relay, of_ours()).await.complete);
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_erasure_finds_nothing() {
    let relay = world().await;
    erased(&relay, of_ours()).await;
    let again = erased(&relay, of_ours()).await;
    let Done::Erase {
        erased: 0,
        objects_rewritten: 0,
        versions_deleted: 0,
        ..
    } = again.done
    else {
        panic!("{again:?}")
    };
    assert!(again.complete);
}

#[tokio::test(start_paused = true)]
async fn a_hidden_dead_letter_leaves_the_erasure_incomplete() {
    let relay = world().await;
    let hidden = relay
        .ports
        .dead_letters
        .hand_out(10, Duration::from_hours(1));
    assert_eq!(hidden.len(), 6);
    assert!(!erased(&relay, of_ours()).await.complete);
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(erased(&relay, of_ours()).await.complete);
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_stays_deleted() {
    let relay = world().await;
    let key = "journal/2026/01/14/09/a-0001.jsonl.gz";
    relay.ports.archive.delete(key);
    erased(&relay, of_ours()).await;
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
    let page = relay.ports.archive.versions(key, None).await;
    let versions = page.expect("listed").versions;
    assert!(
        versions.len() == 1 && versions[0].is_delete_marker,
        "{versions:?}"
    );
    // Nothing is left of this one.
    let emptied = "journal/2026/01/14/10/";
    let page = relay.ports.archive.versions(emptied, None).await;
    assert!(page.expect("listed").versions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn objects_of_another_form_are_reported_and_the_rest_searched() {
    let relay = world().await;
    for number in 0..150 {
        let key = format!("dead-letters/notes-{number:03}.txt");
        relay
            .ports
            .archive
            .put(&key, b"no gzip".to_vec())
            .await
            .expect("written");
    }
    let report = erased(&relay, of_ours()).await;
    assert!(!report.complete, "{report:?}");
    assert_eq!((report.failures, report.failed.len()), (150, 100));
    let failed = &report.failed[0].error;
    assert!(failed.contains("dead-letters/notes-000.txt"), "{failed}");
    let mine = relay.ports.archive.keys().into_iter();
    for key in mine.filter(|key| !key.contains("notes")) {
        let object = relay.ports.archive.get(&key).await.expect("there");
        assert!(!unpacked(&object).contains(OURS), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_dead_letters_are_left_as_they_are() {
    let relay = relay();
    let unrecorded = of_conversation(OTHERS, 1);
    let malformed = Message {
        body: format!("{{ {OURS}"),
        ..message("a", 2)
    };
    send_to_dead_letters(&relay, [unrecorded, malformed]).await;
    let report = erased(&relay, of_ours()).await;
    assert!(report.complete && report.recorded == 0, "{report:?}");
    assert_eq!(relay.ports.table.records(), []);
    assert_eq!(visible(&relay).await, 2);
    let Done::Erase {
        erased: 0, remains, ..
    } = report.done
    else {
        panic!("{report:?}")
    };
    assert!(
        remains[0].what.starts_with("1 messages and lines"),
        "{remains:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_a_sender_that_is_ahead_hides_nothing() {
    let relay = relay();
    let ahead = FakeClock.now() + Duration::from_hours(1);
    let early = |number| of_conversation(OURS, number).with_identity(ahead);
    die(&relay, &early(1), ReasonKind::Permanent, 404).await;
    send_to_dead_letters(&relay, [early(1), early(2)]).await;
    put_object(&relay, "journal/2026/01/14/09/a-0001.jsonl.gz", [early(3)]).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    erased(&relay, of_ours()).await;
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

/// A recovered event is too large for a message, which has the beginning of its body alone. Its record
/// tells the conversation.
#[tokio::test(start_paused = true)]
async fn line_with_the_beginning_of_a_body_is_erased_by_the_record_of_its_event() {
    let relay = relay();
    let whole = of_conversation(OURS, 1).with_identity(FakeClock.now());
    die(&relay, &whole, ReasonKind::Permanent, 404).await;
    let mut cut = whole.clone().named(&id_of(&whole));
    cut.body.truncate(whole.body.len() - 1);
    assert_eq!(id_of(&cut), id_of(&whole));
    put_object(
        &relay,
        "dead-letters/2026/01/14/a/part-0001.jsonl.gz",
        [cut],
    )
    .await;
    tokio::time::advance(Duration::from_secs(1)).await;
    erased(&relay, of_ours()).await;
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_says_so_and_stops() {
    let relay = Arc::new(world().await);
    let mut request = of_ours();
    request["runId"] = "a-run".into();
    let Request::Start(start) = Request::parse(request, "a test").expect("a request") else {
        panic!("no start")
    };
    relay.enlist(&start).await.expect("noted");
    let run = tokio::spawn({
        let (relay, begun) = (Arc::clone(&relay), start.payload.clone());
        async move { run(&relay, begun).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let cancel = json!({ "action": "cancel", "runId": "a-run", "why": "a test order" });
    handle(&relay, cancel).await.expect("cancelled");
    let answer = run.await.expect("no panic").expect("carried out");
    let Answer::Erase(report) = answer else {
        panic!("{answer:?}")
    };
    assert!(report.cancelled && !report.complete, "{report:?}");
    assert!(traces(&relay, OURS).await.contains_key("line"));
}

/// Around a deploy, a run of the archive may come between two invocations of an erasure, of a version
/// that knows of none.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_written_behind_the_search_is_searched() {
    let mut relay = world().await;
    relay.settings.processor_timeout = Duration::from_secs(5);
    let mut request = of_ours();
    request["runId"] = "a-run".into();
    let Request::Start(start) = Request::parse(request, "a test").expect("a request") else {
        panic!("no start")
    };
    relay.enlist(&start).await.expect("noted");
    // Hidden from the first invocation, and archived before the second.
    let hidden = relay
        .ports
        .dead_letters
        .hand_out(10, Duration::from_mins(20));
    assert_eq!(hidden.len(), 6);
    run(&relay, start.payload.clone())
        .await
        .expect("carried out");
    let status = json!({ "action": "status", "runId": "a-run" });
    let status = json!(handle(&relay, status).await.expect("known"));
    assert_eq!(status["background"]["state"], "unfinished", "{status}");
    tokio::time::advance(Duration::from_mins(20)).await;
    // As by a version whose sweeps did not look at the erasures.
    let none = Erasures::default();
    let saved = relay.ports.table.save_erasures(&none).await;
    saved.expect("saved");
    report(&relay, json!({ "action": "archive", "olderThanDays": 0 })).await;
    assert!(traces(&relay, OURS).await.contains_key("line"));
    assert!(relay.enlist(&start).await.expect("noted").1, "it goes on");
    run(&relay, start.payload.clone())
        .await
        .expect("carried out");
    assert_eq!(traces(&relay, OURS).await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn the_report_says_until_when_copies_remain() {
    let mut relay = relay();
    (
        relay.settings.backup_days,
        relay.settings.log_retention_days,
    ) = (7, 90);
    let report = erased(&relay, of_ours()).await;
    let Done::Erase { remains, .. } = report.done else {
        panic!("{report:?}")
    };
    let until = |place: &str| {
        let found = remains
            .iter()
            .find(|remaining| remaining.place.starts_with(place));
        found
            .unwrap_or_else(|| panic!("{place}: {remains:?}"))
            .until
    };
    let days = |days: u64| Some(FakeClock.now() + Duration::from_hours(24 * days));
    assert_eq!(until("point-in-time"), days(7));
    assert_eq!(until("log groups"), days(90));
    assert_eq!(until("events queue"), days(10));
    assert_eq!(until("events table"), days(15));
    for place in ["your system", "Genesys Cloud", "statements"] {
        assert_eq!(until(place), None, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_an_error_and_the_next_run_completes_it() {
    for calls in 0..30 {
        let relay = world().await;
        relay.ports.table.fail_after(calls, 1);
        // It fails, or reports what it could not do.
        let outcome = run(&relay, of_ours()).await;
        relay.ports.table.fail_after(0, 0);
        if let Ok(Answer::Erase(report)) = &outcome {
            let is_told = !report.complete || report.failures > 0;
            let left = traces(&relay, OURS).await;
            assert!(is_told || left.is_empty(), "{calls}: {report:?} {left:?}");
        }
        tokio::time::advance(Duration::from_mins(20)).await;
        erased(&relay, of_ours()).await;
        assert_eq!(traces(&relay, OURS).await, BTreeMap::new(), "{calls}");
    }
    let relay = world().await;
    relay.ports.archive.fail_times(1);
    assert!(matches!(
        run(&relay, of_ours()).await,
        Err(ReplayError::Archive(_))
    ));
}
