//! The journal: its drain into objects by the hour.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::*;
use crate::domain::event::Source;
use crate::domain::event_record::OperatorAction;
use crate::ports::archive::{self, Archived};
use crate::ports::events_table::LeaseName;

/// A relay that keeps a journal.
pub(super) fn with_journal() -> Fake {
    let mut relay = relay();
    relay.ports.journal = Some(FakeQueue::default());
    relay
}

pub(super) fn queue(relay: &Fake) -> &FakeQueue {
    relay.ports.journal.as_ref().expect("a journal")
}

/// An event of a conversation.
pub(super) fn in_conversation(conversation: &str, number: u32) -> Message {
    let body = json!({
        "webhookId": "w", "payload": { "conversationId": conversation, "number": number },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Message {
        body: body.to_string(),
        ..message("w", number)
    }
}

/// Delivers an event as the processor does, which sends it to the journal, and a second passes.
pub(super) async fn deliver_for_journal(relay: &Fake, message: &Message) -> Message {
    let message = message.clone().with_identity(FakeClock.now());
    deliver(relay, &message).await;
    queue(relay).send(&message).await.expect("sent");
    tokio::time::advance(Duration::from_secs(1)).await;
    message
}

/// All lines of the journal, with the keys of their objects.
async fn lines(relay: &Fake) -> Vec<(String, Archived)> {
    let mut lines = Vec::new();
    for key in relay.ports.archive.keys() {
        let object = relay.ports.archive.get(&key).await.expect("there");
        let read = archive::read(&object).expect("readable").into_iter();
        lines.extend(read.map(|line| (key.clone(), line)));
    }
    lines
}

async fn drain(relay: &Fake) -> Report {
    let request = json!({ "action": "journal" });
    match handle(relay, request).await.expect("carried out") {
        Answer::Journal(report) => report,
        answer => panic!("{answer:?}"),
    }
}

fn journalled(report: &Report) -> u64 {
    let Done::Journal { journalled } = report.done else {
        panic!("{report:?}")
    };
    journalled
}

#[tokio::test(start_paused = true)]
async fn delivered_events_are_journalled_by_the_hour() {
    let relay = with_journal();
    let mut sent = Vec::new();
    for number in 0..25 {
        sent.push(deliver_for_journal(&relay, &message("a", number)).await);
    }
    tokio::time::advance(Duration::from_hours(2)).await;
    sent.push(deliver_for_journal(&relay, &message("a", 25)).await);
    let report = drain(&relay).await;
    assert_eq!((journalled(&report), report.complete), (26, true));
    assert!(queue(&relay).messages().is_empty());

    let lines = lines(&relay).await;
    let keys: BTreeSet<&String> = lines.iter().map(|(key, _)| key).collect();
    let [noon, later] = &keys.into_iter().collect::<Vec<_>>()[..] else {
        panic!("an object for each hour")
    };
    assert!(noon.starts_with("journal/2026/01/15/12/"), "{noon}");
    assert!(later.starts_with("journal/2026/01/15/14/"), "{later}");
    for (message, (_, line)) in sent.into_iter().zip(lines) {
        assert_eq!(line.reason, None);
        assert_eq!(line.event_id, id_of(&message));
        assert_eq!(line.into_message().expect("readable"), message);
    }
    let nothing = drain(&relay).await;
    assert_eq!((journalled(&nothing), nothing.complete), (0, true));
}

#[tokio::test(start_paused = true)]
async fn object_of_the_journal_is_durable_before_its_messages_go() {
    let relay = with_journal();
    for number in 0..3 {
        deliver_for_journal(&relay, &message("a", number)).await;
    }
    relay.ports.archive.fail_times(1);
    let failed = handle(&relay, json!({ "action": "journal" })).await;
    assert!(matches!(failed, Err(ReplayError::Archive(_))), "{failed:?}");
    let depth = queue(&relay).depth().await.expect("counted");
    assert_eq!(depth.visible, 3, "the next run gets them at once");
    assert_eq!(journalled(&drain(&relay).await), 3);
}

#[tokio::test(start_paused = true)]
async fn drain_that_is_killed_at_any_step_loses_nothing() {
    for (of_archive, calls) in (0..4)
        .map(|calls| (false, calls))
        .chain([(true, 0), (true, 1)])
    {
        let relay = std::sync::Arc::new(with_journal());
        let mut ids = BTreeSet::new();
        for number in 0..30 {
            ids.insert(id_of(
                &deliver_for_journal(&relay, &message("a", number)).await,
            ));
        }
        if of_archive {
            relay.ports.archive.halt_after(calls);
        } else {
            relay.ports.table.halt_after(calls);
        }
        let doomed = tokio::spawn({
            let relay = std::sync::Arc::clone(&relay);
            async move {
                handle(&relay, json!({ "action": "journal" }))
                    .await
                    .map(drop)
            }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        doomed.abort();
        relay.ports.table.resume();
        relay.ports.archive.resume();
        tokio::time::advance(Duration::from_mins(2)).await;
        drain(&relay).await;
        assert!(queue(&relay).messages().is_empty(), "{calls}");
        let kept = lines(&relay).await.into_iter();
        let kept: BTreeSet<_> = kept.map(|(_, line)| line.event_id).collect();
        assert_eq!(kept, ids, "{calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn erased_events_do_not_come_into_the_journal() {
    let relay = with_journal();
    let erased = deliver_for_journal(&relay, &message("a", 1)).await;
    let covered = in_conversation("erased", 2).with_identity(FakeClock.now());
    queue(&relay).send(&covered).await.expect("sent");
    let kept = deliver_for_journal(&relay, &in_conversation("kept", 3)).await;
    let now = FakeClock.now();
    let act = OperatorAction {
        action: "erase".to_owned(),
        at: now,
        by: "a test".to_owned(),
        why: None,
    };
    let found = relay.ports.table.record(&id_of(&erased)).expect("a record");
    let id = id_of(&erased);
    let step = EventRecord::erased(&id, Source::Webhook, now, Some(&found), act);
    let step = step.expect("not erased yet");
    relay.ports.table.write(&step).await.expect("written");
    let mut erasures = relay.ports.table.erasures().await.expect("read");
    erasures.note(Some("erased"), now).expect("noted");
    relay
        .ports
        .table
        .save_erasures(&erasures)
        .await
        .expect("saved");

    let report = drain(&relay).await;
    assert_eq!((journalled(&report), report.skipped), (1, 2));
    assert!(queue(&relay).messages().is_empty());
    let lines = lines(&relay).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1.event_id, id_of(&kept));
}

/// SQS may answer with fewer messages than there are.
#[tokio::test(start_paused = true)]
async fn short_answer_with_a_fresh_message_does_not_end_a_drain() {
    let relay = with_journal();
    deliver_for_journal(&relay, &message("a", 1)).await;
    let filling = keep_filling(&relay);
    let hidden = queue(&relay).hand_out(1, Duration::from_millis(1500));
    assert_eq!(hidden.len(), 1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let report = drain(&relay).await;
    assert!(report.complete, "{report:?}");
    let id = id_of(&message("a", 1));
    assert!(
        lines(&relay)
            .await
            .iter()
            .any(|(_, line)| line.event_id == id)
    );
    filling.abort();
}

/// A lease of another run, for five minutes.
pub(super) fn lease_of(action: &str, now: Timestamp) -> RunLease {
    RunLease {
        owner: Uuid::new_v4(),
        action: action.into(),
        by: "an operator".into(),
        since: now,
        until: now + Duration::from_mins(5),
    }
}

#[tokio::test(start_paused = true)]
async fn schedule_leaves_the_journal_to_a_later_run() {
    let relay = with_journal();
    deliver_for_journal(&relay, &message("a", 1)).await;
    let now = FakeClock.now();
    let other = lease_of("resend", now);
    let table = &relay.ports.table;
    let taken = table.acquire(LeaseName::Journal, &other, now).await;
    assert_eq!(taken.expect("written"), None);
    let by_operator = handle(&relay, json!({ "action": "journal" })).await;
    assert!(matches!(by_operator, Err(ReplayError::Busy(_))));
    let by_schedule = json!({ "action": "journal", "by": "schedule" });
    let Ok(Answer::Journal(report)) = handle(&relay, by_schedule).await else {
        panic!("not answered")
    };
    assert!(!report.complete && journalled(&report) == 0, "{report:?}");
    tokio::time::advance(Duration::from_mins(5)).await;
    assert_eq!(journalled(&drain(&relay).await), 1);
}

#[tokio::test(start_paused = true)]
async fn journal_is_written_beside_a_run_over_the_dead_letters() {
    let relay = with_journal();
    deliver_for_journal(&relay, &message("a", 1)).await;
    let now = FakeClock.now();
    let table = &relay.ports.table;
    let taken = table
        .acquire(LeaseName::DeadLetters, &lease_of("replay", now), now)
        .await;
    assert_eq!(taken.expect("written"), None);
    assert_eq!(journalled(&drain(&relay).await), 1);
}

#[tokio::test(start_paused = true)]
async fn every_object_of_the_journal_can_be_read_however_large_its_messages_are() {
    let relay = with_journal();
    let large = |number: u32| Message {
        body: "\"".repeat(1024 * 1024 - 100) + &number.to_string(),
        ..message("a", number)
    };
    for number in 0..9 {
        queue(&relay).send(&large(number)).await.expect("sent");
    }
    assert_eq!(journalled(&drain(&relay).await), 9);
    assert_eq!(lines(&relay).await.len(), 9);
    assert!(relay.ports.archive.keys().len() >= 3);
}

#[tokio::test(start_paused = true)]
async fn many_hours_are_journalled_with_few_objects_open() {
    let relay = with_journal();
    for number in 0..40 {
        deliver_for_journal(&relay, &message("a", number)).await;
        tokio::time::advance(Duration::from_hours(1)).await;
    }
    assert_eq!(journalled(&drain(&relay).await), 40);
    assert_eq!(relay.ports.archive.keys().len(), 40);
}

/// Sends an event a second to the journal, as a live stack does.
fn keep_filling(relay: &Fake) -> tokio::task::JoinHandle<()> {
    let queue = queue(relay).clone();
    tokio::spawn(async move {
        for number in 1000.. {
            let delivered = message("live", number).with_identity(FakeClock.now());
            queue.send(&delivered).await.expect("sent");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn queue_that_keeps_filling_is_drained_of_what_was_there() {
    let ids = [1, 2].map(|number| id_of(&message("a", number)));
    let resend = json!({ "action": "resend", "eventIds": ids, "why": "a test", "runId": "one" });
    let erase = json!({ "action": "erase", "eventIds": [ids[0]], "why": "a test" });
    for request in [json!({ "action": "journal" }), resend, erase] {
        let relay = with_journal();
        for number in [1, 2] {
            deliver_for_journal(&relay, &message("a", number)).await;
        }
        let filling = keep_filling(&relay);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (began, deadline) = (Instant::now(), Instant::now() + Duration::from_mins(15));
        let mut parsed = Request::parse(request.clone(), "a test").expect("a request");
        if let Request::Start(start) = &parsed {
            relay.enlist(start).await.expect("started");
            parsed = Request::parse(start.payload.clone(), "a test").expect("a request");
        }
        let answer = relay.handle(parsed, deadline).await.expect("carried out");
        let answer = json!(answer);
        assert_eq!(answer["complete"], true, "{answer}");
        assert!(began.elapsed() < Duration::from_mins(3), "{request}");
        filling.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn scheduled_drain_leaves_the_lease_free_in_between() {
    let relay = with_journal();
    for number in 0..1000 {
        queue(&relay)
            .send(&message("a", number))
            .await
            .expect("sent");
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    queue(&relay).delay_receives(Duration::from_secs(10));
    let began = Instant::now();
    let request = json!({ "action": "journal", "by": "schedule" });
    let request = Request::parse(request, "a test").expect("a request");
    let deadline = Instant::now() + Duration::from_mins(15);
    let answer = relay.handle(request, deadline).await.expect("carried out");
    assert!(!json!(answer)["complete"].as_bool().expect("a flag"));
    let held = relay
        .ports
        .table
        .lease(LeaseName::Journal, FakeClock.now())
        .await;
    assert_eq!(held.expect("read"), None);
    assert!(
        began.elapsed() < Duration::from_secs(270),
        "before the next schedule"
    );
}

#[tokio::test(start_paused = true)]
async fn stack_without_a_journal_says_so() {
    let relay = relay();
    for request in [
        json!({ "action": "journal" }),
        json!({ "action": "resend", "eventIds": ["a"], "dryRun": true }),
    ] {
        let error = handle(&relay, request).await.expect_err("no journal");
        assert!(error.to_string().contains("JournalDays"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn restore_refuses_an_object_of_the_journal() {
    let relay = with_journal();
    deliver_for_journal(&relay, &message("a", 1)).await;
    drain(&relay).await;
    let request = json!({ "action": "restore", "key": relay.ports.archive.keys()[0] });
    let error = handle(&relay, request).await.expect_err("refused");
    assert!(error.to_string().contains("resend"), "{error}");
    assert_eq!(visible(&relay).await, 0);
}
