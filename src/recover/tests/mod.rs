//! The use case over stand-ins, on virtual time.

mod life;
mod windows;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::candidate::Candidate;
use super::*;
use crate::domain::event::{Event, EventId, SenderKey, Source};
use crate::domain::event_record::{
    Attempt, Claim, ClaimRequest, ClaimResult, Context, Death, EventRecord, LIFE, OperatorAction,
    State, StateName,
};
use crate::domain::failure::ReasonKind;
use crate::domain::message::Message;
use crate::ports::delivery_log::{Entry, Failed, Part, Unreadable, Window};
use crate::ports::events_table::Written;
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::testing::{FakeClock, FakePorts, FakeQueue, FakeTable};

const OVERLAP: SignedDuration = SignedDuration::from_mins(15);
const INVOCATION: Duration = Duration::from_mins(5);
const PAGE: usize = 7;

/// An event that Genesys Cloud failed to deliver.
#[derive(Clone)]
struct Lost {
    name: String,
    /// Its time, by the clock of Genesys Cloud.
    at: Timestamp,
    /// Time from which on the log lists it, by our clock.
    listed_at: Timestamp,
    body: String,
}

/// A log whose clock is off by `skew`, that takes its time, and that can be made to fail.
#[derive(Clone, Default)]
struct FakeLog {
    lost: Arc<Mutex<Vec<Lost>>>,
    unreadable: Arc<Mutex<Vec<String>>>,
    /// Entries that cannot be fetched, by their time.
    withheld: Arc<Mutex<Vec<Timestamp>>>,
    /// Number of first parts that hold one more entry which cannot be fetched.
    withheld_first: Arc<Mutex<usize>>,
    read_takes: Arc<Mutex<Duration>>,
    fails: Arc<Mutex<usize>>,
    /// True if a later run can continue in the same window.
    resumes: Arc<Mutex<bool>>,
}

impl DeliveryLog for FakeLog {
    type Place = usize;

    fn name(&self) -> &'static str {
        "fake"
    }

    fn longest_span(&self) -> u32 {
        3600
    }

    fn resume(&self, place: usize) -> Option<usize> {
        lock(&self.resumes).then_some(place.saturating_sub(PAGE))
    }

    async fn read(
        &self,
        window: Window,
        place: usize,
        deadline: Instant,
    ) -> Result<Part<usize>, DeliveryLogError> {
        let takes = *lock(&self.read_takes);
        if Instant::now() + takes >= deadline {
            return Err(DeliveryLogError::OutOfTime("as the test says".into()));
        }
        sleep(takes).await;
        if *lock(&self.fails) > 0 {
            *lock(&self.fails) -= 1;
            return Err(DeliveryLogError::Failed("as the test says".into()));
        }
        let now = FakeClock.now();
        let lost = lock(&self.lost);
        let mut listed: Vec<&Lost> = lost
            .iter()
            .filter(|lost| window.holds(lost.at) && lost.listed_at <= now)
            .collect();
        listed.sort_by_key(|lost| lost.at);
        let failed = |lost: &&Lost| {
            Entry::Failed(Failed {
                delivery: lost.name.clone(),
                entry: lost.name.clone(),
                at: Some(lost.at),
                is_copy: lost.body.contains("Open"),
                body: lost.body.clone().into_bytes(),
                content_type: Some("application/json".to_owned()),
                headers: BTreeMap::new(),
                sender_key: None,
                note: "503 from https://example.com/".to_owned(),
            })
        };
        let more = listed.len() > place + PAGE;
        let mut entries: Vec<Entry> = listed.iter().skip(place).take(PAGE).map(failed).collect();
        if place / PAGE < *lock(&self.withheld_first) {
            entries.push(Entry::Unavailable("as the test says".to_owned()));
        }
        if !more {
            let withheld = lock(&self.withheld)
                .iter()
                .filter(|at| window.holds(**at))
                .count();
            entries
                .extend((0..withheld).map(|_| Entry::Unavailable("as the test says".to_owned())));
            let unreadable = |whole: &String| {
                let (whole, problem) = (whole.clone(), "it cannot be read".to_owned());
                Entry::Unreadable(Unreadable {
                    name: whole.clone(),
                    whole,
                    problem,
                    webhook_id: None,
                })
            };
            entries.extend(lock(&self.unreadable).iter().map(unreadable));
        }
        Ok(Part {
            entries,
            next: more.then_some(place + PAGE),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

type Fake = Recover<FakePorts<FakeLog>>;

fn relay() -> Fake {
    let ports = Ports {
        log: FakeLog::default(),
        events: FakeQueue::default(),
        dead_letters: FakeQueue::default(),
        table: FakeTable::default(),
        clock: FakeClock,
    };
    Recover {
        ports,
        overlap: OVERLAP,
    }
}

fn now() -> Timestamp {
    FakeClock.now()
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// A webhook of the tutorials' envelope, told from others by its name.
fn envelope(name: &str) -> String {
    json!({ "webhookId": "w", "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" })
        .to_string()
}

fn id_of(name: &str) -> EventId {
    let body = envelope(name);
    let json = crate::domain::json::Json::parse(body.as_bytes()).expect("JSON");
    crate::domain::event::Identity::of(json, now(), None, || panic!("its time tells")).id
}

fn event_of(name: &str) -> Event {
    let message = Message {
        body: envelope(name),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    };
    message.to_event(now()).expect("an event")
}

trait Testing {
    fn lose(&self, name: &str, at: Timestamp, listed_at: Timestamp);
    async fn run(&self, request: Value) -> Result<Report, FailedRun>;
    async fn go_on(&self) -> Report;
    fn queued(&self) -> BTreeMap<String, usize>;
}

impl Testing for Fake {
    fn lose(&self, name: &str, at: Timestamp, listed_at: Timestamp) {
        lock(&self.ports.log.lost).push(Lost {
            name: name.to_owned(),
            at,
            listed_at,
            body: envelope(name),
        });
    }

    async fn run(&self, request: Value) -> Result<Report, FailedRun> {
        let request = Request::parse(request, "a test", now()).expect("understood");
        self.recover(&request, Instant::now() + INVOCATION).await
    }

    /// As the schedule does.
    async fn go_on(&self) -> Report {
        self.run(json!({})).await.expect("a run")
    }

    /// Number of copies of each event in the queue, by name.
    fn queued(&self) -> BTreeMap<String, usize> {
        let mut queued = BTreeMap::new();
        for message in self.ports.events.messages() {
            let body: Value = serde_json::from_str(&message.body).expect("JSON");
            let name = body["payload"]["name"].as_str().expect("a name").to_owned();
            *queued.entry(name).or_default() += 1;
        }
        queued
    }
}

fn counts(report: &Report) -> [u64; 5] {
    [
        report.fetched,
        report.new,
        report.known,
        report.unreadable,
        report.skipped,
    ]
}

#[tokio::test(start_paused = true)]
async fn unknown_event_is_queued_once_and_recorded() {
    let relay = relay();
    for number in 0..20 {
        relay.lose(&format!("e{number}"), now() - minutes(5), now());
    }
    let report = relay.go_on().await;
    assert_eq!(
        (counts(&report), report.complete),
        ([20, 20, 0, 0, 0], true)
    );
    let record = relay
        .ports
        .table
        .get(&id_of("e7"))
        .await
        .expect("read")
        .expect("a record");
    assert_eq!(record.state, State::Queued);
    assert_eq!(record.history[0].action, "recover");
    assert_eq!(
        record.history[0].why.as_deref(),
        Some("delivery e7: 503 from https://example.com/")
    );
    assert_eq!(record.received_at, now() - minutes(5));
    for _ in 0..2 {
        assert_eq!(
            counts(&relay.go_on().await),
            [20, 0, 20, 0, 0],
            "the overlap shows them again"
        );
    }
    assert_eq!(relay.queued().len(), 20);
    assert!(relay.queued().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_what_ingest_would_have_sent() {
    let relay = relay();
    relay.lose("e", now() - minutes(5), now());
    relay.go_on().await;
    let message = relay.ports.events.messages().remove(0);
    let event = message.to_event(now()).expect("an event");
    assert_eq!(
        (event.id, &event.body[..]),
        (id_of("e"), envelope("e").as_bytes())
    );
    assert_eq!(
        (event.source, event.content_type.as_deref()),
        (Source::Webhook, Some("application/json"))
    );
    assert_eq!(message.group.as_deref(), Some("w"));
}

#[tokio::test(start_paused = true)]
async fn known_event_is_not_sent_again_in_any_state() {
    let relay = relay();
    let act = |action: &str| OperatorAction {
        action: action.to_owned(),
        at: now(),
        by: "a test".to_owned(),
        why: None,
    };
    let attempt = || Attempt {
        at: now(),
        duration_ms: None,
        status: None,
        error: None,
        response: None,
    };
    let death = || Death {
        reason: ReasonKind::Permanent,
        error: "no".to_owned(),
        status_code: None,
        dead_at: now(),
    };
    for state in [
        "queued",
        "in progress",
        "retrying",
        "delivered",
        "dead",
        "archived",
        "discarded",
    ] {
        let event = event_of(state);
        relay.lose(state, now() - minutes(1), now());
        let lease_until = now() + minutes(1);
        let request = ClaimRequest {
            event: &event,
            message_id: "m",
            sent_at: now(),
            bulk: None,
            resend: None,
            last: false,
            conversation: None,
            lease_until,
            now: now(),
        };
        let ClaimResult::Claimed(claim) = Claim::on(None, request) else {
            panic!("not free")
        };
        let dead = || claim.dead(attempt(), death(), None, Context::default());
        let mut steps = vec![claim.transition().clone()];
        match state {
            "queued" => steps = vec![EventRecord::queued(&event, None, act("recover"))],
            "retrying" => steps.push(claim.retrying(attempt(), now() + minutes(1), now())),
            "delivered" => steps.push(claim.delivered(attempt())),
            "dead" | "archived" | "discarded" => steps.push(dead()),
            _ => {}
        }
        for step in &steps {
            relay.ports.table.write(step).await.expect("written");
        }
        let record = relay
            .ports
            .table
            .get(&event.id)
            .await
            .expect("read")
            .expect("a record");
        if let Some(crate::domain::event_record::DeadLetterStatus::Dead(dead)) =
            crate::domain::event_record::DeadLetterStatus::recorded(&record, now())
        {
            match state {
                "archived" => drop(
                    relay
                        .ports
                        .table
                        .write(&dead.archived(act("archive"), "key"))
                        .await
                        .expect("written"),
                ),
                "discarded" => drop(
                    relay
                        .ports
                        .table
                        .write(&dead.discarded(act("discard")))
                        .await
                        .expect("written"),
                ),
                _ => {}
            }
        }
    }
    let states: HashSet<&str> = relay
        .ports
        .table
        .records()
        .iter()
        .map(|record| record.state.name().as_str())
        .collect();
    assert_eq!(states.len(), 7, "all of them: {states:?}");
    assert_eq!(counts(&relay.go_on().await), [7, 0, 7, 0, 0]);
    assert!(relay.ports.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_event_is_a_new_one() {
    let relay = relay();
    relay.lose("e", now() - minutes(1), now());
    relay.go_on().await;
    sleep(Duration::try_from(LIFE).expect("positive")).await;
    relay.lose("e", now() - minutes(1), now());
    let report = relay
        .run(json!({ "from": (now() - minutes(2)).to_string() }))
        .await
        .expect("a run");
    assert_eq!(counts(&report), [1, 1, 0, 0, 0]);
    assert_eq!(relay.ports.table.only_record().state, State::Queued);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_between_any_two_calls_of_the_table_loses_nothing() {
    for calls in 0.. {
        let relay = relay();
        relay.go_on().await;
        for number in 0..12 {
            relay.lose(&format!("e{number}"), now() - minutes(10), now());
        }
        lock(&relay.ports.log.unreadable).push("{\"strange\":true}".to_owned());
        relay.ports.table.halt_after(calls);
        let ended = timeout(Duration::from_mins(4), relay.run(json!({}))).await;
        relay.ports.table.resume();
        if ended.is_ok() {
            assert!(calls > 12, "there are more calls than that");
            return;
        }
        sleep(INVOCATION).await;
        let report = relay.go_on().await;
        assert!(report.complete);
        let queued = relay.queued();
        assert_eq!(queued.len(), 12, "killed before call {calls}");
        assert!(queued.values().all(|copies| *copies <= 2));
        assert_eq!(relay.ports.table.records().len(), 13);
        assert_eq!(relay.go_on().await.new, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_exclude_each_other() {
    let relay = Arc::new(relay());
    relay.lose("e", now() - minutes(1), now());
    *lock(&relay.ports.log.read_takes) = Duration::from_secs(10);
    let other = tokio::spawn({
        let relay = Arc::clone(&relay);
        async move { relay.go_on().await }
    });
    sleep(Duration::from_secs(1)).await;
    let failed = relay
        .run(json!({}))
        .await
        .expect_err("another run holds the lease");
    let RecoverError::Busy(held) = failed.error else {
        panic!("{failed}")
    };
    let lease = SignedDuration::try_from(INVOCATION + LEASE_PAST_DEADLINE).expect("short");
    assert_eq!(
        held.until.duration_since(held.since),
        lease,
        "for longer than its invocation lasts"
    );
    let dry = relay
        .run(json!({ "dryRun": true }))
        .await
        .expect("looks on");
    assert_eq!(dry.fetched, 1);
    assert!(other.await.expect("a run").complete);
    relay.go_on().await;
    assert_eq!(relay.queued()["e"], 1);
}

#[tokio::test(start_paused = true)]
async fn unreadable_item_is_one_whole_dead_letter() {
    let relay = relay();
    lock(&relay.ports.log.unreadable).push("{\"strange\":true}".to_owned());
    lock(&relay.ports.log.lost).push(Lost {
        name: "plain".to_owned(),
        at: now() - minutes(1),
        listed_at: now(),
        body: "plain text".to_owned(),
    });
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    lock(&relay.ports.log.lost).push(Lost {
        name: "large".to_owned(),
        at: now(),
        listed_at: now(),
        body: large.clone(),
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counts(&relay.go_on().await), [3, 0, 0, 3, 0]);
    assert_eq!(counts(&relay.go_on().await), [3, 0, 3, 0, 0]);
    let letters = relay.ports.dead_letters.messages();
    let kinds: BTreeMap<_, _> = letters
        .iter()
        .map(|letter| {
            (
                letter.body.chars().take(8).collect::<String>(),
                letter.reason(now()).expect("a reason").reason,
            )
        })
        .collect();
    let expected = [
        ("plain te", ReasonKind::Malformed),
        ("{\"strang", ReasonKind::Unreadable),
        ("{\"text\":", ReasonKind::Unreadable),
    ];
    assert_eq!(
        kinds,
        expected
            .map(|(start, kind)| (start.to_owned(), kind))
            .into()
    );
    assert!(relay.ports.events.messages().is_empty());
    let mut bodies = Vec::new();
    for record in relay.ports.table.records() {
        assert_eq!(record.state.name(), StateName::Dead);
        bodies.push(
            relay
                .ports
                .table
                .body(&record.event_id, now())
                .await
                .expect("read")
                .expect("kept"),
        );
    }
    bodies.sort_unstable();
    assert_eq!(
        bodies,
        [
            b"plain text".to_vec(),
            b"{\"strange\":true}".to_vec(),
            large.into_bytes()
        ],
        "each whole"
    );
    let message = letters
        .iter()
        .find(|letter| letter.body.starts_with("{\"text\":"))
        .expect("the large one");
    let lost = lock(&relay.ports.log.lost)[1].clone();
    let whole = EventId::of_fetched(&[lost.name.as_bytes(), lost.body.as_bytes()]);
    assert_ne!(
        message.event_id(),
        Some(whole.as_str()),
        "it does not pass for the event"
    );
}

/// The event of a dead letter is delivered before the recovery can record it.
#[tokio::test(start_paused = true)]
async fn body_kept_in_vain_is_taken_back_unless_another_death_keeps_it() {
    for dies_again in [false, true] {
        let relay = relay();
        lock(&relay.ports.log.unreadable).push("strange".to_owned());
        let event = Event {
            id: EventId::of_fetched(&[b"strange"]),
            ..event_of("strange")
        };
        let table = relay.ports.table.clone();
        relay.ports.dead_letters.delay_sends(Duration::from_secs(5));
        sleep(Duration::from_secs(1)).await;
        let meanwhile = async {
            sleep(Duration::from_secs(1)).await;
            let request = ClaimRequest {
                event: &event,
                message_id: "m",
                sent_at: now(),
                bulk: None,
                resend: None,
                last: false,
                conversation: None,
                lease_until: now() + minutes(1),
                now: now(),
            };
            let ClaimResult::Claimed(claim) = Claim::on(None, request) else {
                panic!("not free")
            };
            let attempt = Attempt {
                at: now(),
                duration_ms: None,
                status: None,
                error: None,
                response: None,
            };
            for step in [claim.transition(), &claim.delivered(attempt)] {
                assert_eq!(table.write(step).await.expect("written"), Written::Done);
            }
            // The recovery keeps the body, and its write takes until after the second death.
            table.slow_down(Duration::from_secs(10));
            sleep(Duration::from_secs(8)).await;
            if dies_again {
                let kept = table.keep_body(&event.id, b"strange", now()).await;
                assert!(kept.expect("kept"));
            }
        };
        let (report, ()) = tokio::join!(relay.go_on(), meanwhile);
        assert_eq!(report.unreadable, 1);
        let kept = relay.ports.table.kept_bodies();
        assert_eq!(kept.contains(&event.id), dies_again);
        assert_eq!(relay.ports.table.only_record().state, State::Delivered);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_byte_that_fits_into_a_message_is_queued_and_the_next_one_kept() {
    let candidate = |bytes: usize| {
        let body = json!({ "webhookId": "w", "payload": "x".repeat(bytes), "timestamp": "2026-01-15T12:00:00Z" });
        let failed = Failed {
            delivery: "d".to_owned(),
            entry: "d".to_owned(),
            at: Some(now()),
            body: body.to_string().into_bytes(),
            is_copy: false,
            content_type: None,
            headers: BTreeMap::new(),
            sender_key: None,
            note: String::new(),
        };
        Candidate::of(failed, now())
    };
    let most = crate::domain::message::MAX_MESSAGE_BYTES;
    let room = most - candidate(0).message.size();
    let fits = candidate(room);
    assert_eq!(
        (fits.message.size(), fits.found.reason.is_none()),
        (most, true)
    );
    let reason = candidate(room + 1).found.reason.expect("too large");
    assert_eq!(reason.reason, ReasonKind::Unreadable);
}

#[tokio::test(start_paused = true)]
async fn equal_bodies_are_one_event_per_logged_delivery() {
    let candidate = |entry: &str, body: &str, key: Option<&str>, is_copy: bool| {
        let failed = Failed {
            delivery: "d".to_owned(),
            entry: entry.to_owned(),
            at: None,
            body: body.as_bytes().to_vec(),
            is_copy,
            content_type: None,
            headers: BTreeMap::new(),
            sender_key: SenderKey::of(key, None),
            note: String::new(),
        };
        let (today, later) = (
            Candidate::of(failed.clone(), now()),
            Candidate::of(failed, now() + minutes(1500)),
        );
        assert_eq!(
            today.found.event.id, later.found.event.id,
            "the next run repeats it"
        );
        today.found.event.id
    };
    for body in ["no JSON", r#"{"a":1}"#] {
        for key in [None, Some("static"), Some("${input.key}")] {
            for is_copy in [false, true] {
                let of = |entry| candidate(entry, body, key, is_copy);
                assert_ne!(of("d1"), of("d2"), "{body} {key:?}");
            }
        }
    }
    assert_ne!(
        candidate("d1", "one text", None, false),
        candidate("d1", "another", None, false)
    );
    let copy = |body| candidate("d1", body, None, true);
    assert_eq!(
        copy(r#"{"a":1}"#),
        copy(r#"{"a":1,"conversationId":"c"}"#),
        "the log has rewritten it"
    );
}

/// The log need not say when it had an event, and the key that ingest went by counts all the same.
#[tokio::test(start_paused = true)]
async fn an_envelope_with_a_key_is_the_event_that_came_by_itself() {
    for (key, id) in [
        (Some("k"), None),
        (Some("${input.key}"), Some("i")),
        (Some("static"), Some("i")),
    ] {
        for at in [None, Some(now())] {
            let failed = Failed {
                delivery: "d".to_owned(),
                entry: "d".to_owned(),
                at,
                body: envelope("e").into_bytes(),
                is_copy: false,
                content_type: None,
                headers: BTreeMap::new(),
                sender_key: SenderKey::of(key, id),
                note: String::new(),
            };
            let body = envelope("e");
            let json = crate::domain::json::Json::parse(body.as_bytes()).expect("JSON");
            let key = SenderKey::of(key, id);
            let came = crate::domain::event::Identity::of(json, now(), key.as_ref(), || {
                panic!("its time tells")
            });
            assert_eq!(
                Candidate::of(failed, now()).found.event.id,
                came.id,
                "{at:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_be_queued_and_does_nothing() {
    let relay = relay();
    relay.lose("e", now() - minutes(1), now());
    lock(&relay.ports.log.unreadable).push("{\"strange\":true}".to_owned());
    let report = relay.run(json!({ "dryRun": true })).await.expect("a run");
    assert_eq!(
        (counts(&report), report.dry_run, report.cursor),
        ([2, 1, 0, 1, 0], true, None)
    );
    let shown = serde_json::to_value(&report.items).expect("JSON");
    assert_eq!(shown[0]["eventId"], id_of("e").as_str());
    assert_eq!(
        shown[0]["note"],
        "delivery e: 503 from https://example.com/"
    );
    assert!(
        relay.ports.events.messages().is_empty() && relay.ports.dead_letters.messages().is_empty()
    );
    assert!(relay.ports.table.records().is_empty());
    assert_eq!(relay.go_on().await.new, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_lists_the_first_hundred_and_counts_all() {
    let relay = relay();
    for number in 0..101 {
        relay.lose(&format!("e{number}"), now() - minutes(1), now());
    }
    let report = relay.run(json!({ "dryRun": true })).await.expect("a run");
    assert_eq!((report.items.len(), report.new), (100, 101));
}

#[tokio::test(start_paused = true)]
async fn several_failures_of_one_event_are_one_event() {
    let relay = relay();
    for number in 0..20 {
        relay.lose(
            "e",
            now() - minutes(1) + SignedDuration::from_secs(number),
            now(),
        );
    }
    let dry = relay.run(json!({ "dryRun": true })).await.expect("a run");
    assert_eq!(counts(&dry), [20, 1, 19, 0, 0]);
    assert_eq!(counts(&relay.go_on().await), [20, 1, 19, 0, 0]);
}
