//! The use case over stand-ins, on virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::delivery_log::{Failed, Part, Unreadable};
use crate::event::Event;
use crate::genesys::HttpError;
use crate::reason::ReasonKind;
use crate::record::{Attempt, Claim, ClaimRequest, Claiming, Context, Death, State, StateName};
use crate::testing::{FakeClock, FakeQueue, FakeTable};

const OVERLAP: SignedDuration = SignedDuration::from_mins(15);
const INVOCATION: Duration = Duration::from_mins(5);
const PAGE: usize = 7;

/// What Genesys Cloud has not delivered.
#[derive(Clone)]
struct Lost {
    name: String,
    /// When it happened, by the clock of Genesys Cloud.
    at: Timestamp,
    /// From when on the log lists it, by our clock.
    listed_at: Timestamp,
    body: String,
}

/// A log whose clock is off by `skew`, that takes its time, and that can be made to fail.
#[derive(Clone, Default)]
struct FakeLog {
    lost: Arc<Mutex<Vec<Lost>>>,
    unreadable: Arc<Mutex<Vec<String>>>,
    /// What cannot be had, by its time.
    withheld: Arc<Mutex<Vec<Timestamp>>>,
    /// So many of its first parts hold something more that cannot be had.
    withheld_first: Arc<Mutex<usize>>,
    read_takes: Arc<Mutex<Duration>>,
    fails: Arc<Mutex<usize>>,
    /// Whether a later run can go on in the same window.
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

    async fn read(&self, window: Window, place: usize, deadline: Instant) -> Result<Part<usize>, GenesysError> {
        let takes = *lock(&self.read_takes);
        if Instant::now() + takes >= deadline {
            return Err(GenesysError::OutOfTime { what: "a page".to_owned(), why: "as the test says".to_owned() });
        }
        sleep(takes).await;
        if *lock(&self.fails) > 0 {
            *lock(&self.fails) -= 1;
            let last = crate::genesys::Trouble::Http(HttpError::TimedOut);
            return Err(GenesysError::Unavailable { what: "a page".to_owned(), tries: 5, last });
        }
        let now = FakeClock.now();
        let lost = lock(&self.lost);
        let mut listed: Vec<&Lost> =
            lost.iter().filter(|lost| window.holds(lost.at) && lost.listed_at <= now).collect();
        listed.sort_by_key(|lost| lost.at);
        let failed = |lost: &&Lost| {
            Entry::Failed(Failed {
                delivery: lost.name.clone(),
                at: Some(lost.at),
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
            entries.push(Entry::Withheld("as the test says".to_owned()));
        }
        if !more {
            let withheld = lock(&self.withheld).iter().filter(|at| window.holds(**at)).count();
            entries.extend((0..withheld).map(|_| Entry::Withheld("as the test says".to_owned())));
            let unreadable = |whole: &String| {
                let (whole, problem) = (whole.clone(), "nobody understands it".to_owned());
                Entry::Unreadable(Unreadable { name: whole.clone(), whole, problem, origin: None })
            };
            entries.extend(lock(&self.unreadable).iter().map(unreadable));
        }
        Ok(Part { entries, next: more.then_some(place + PAGE) })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

type Fake = Recover<FakeLog, FakeQueue, FakeQueue, FakeTable, FakeClock>;

fn relay() -> Fake {
    Recover {
        log: FakeLog::default(),
        events: FakeQueue::default(),
        dead_letters: FakeQueue::default(),
        table: FakeTable::default(),
        clock: FakeClock,
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
    json!({ "webhookId": "w", "payload": { "name": name }, "timestamp": "2026-01-15T12:00:00Z" }).to_string()
}

fn id_of(name: &str) -> EventId {
    let body = envelope(name);
    let json = crate::json::Json::parse(body.as_bytes()).expect("JSON");
    crate::event::Identity::of(json, now(), None).id
}

fn event_of(name: &str) -> Event {
    let message = Message { body: envelope(name), attributes: BTreeMap::new(), group: None };
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
        lock(&self.log.lost).push(Lost { name: name.to_owned(), at, listed_at, body: envelope(name) });
    }

    async fn run(&self, request: Value) -> Result<Report, FailedRun> {
        let request = Request::parse(request, "a test", now()).expect("understood");
        self.recover(&request, Instant::now() + INVOCATION).await
    }

    /// As the schedule does.
    async fn go_on(&self) -> Report {
        self.run(json!({})).await.expect("a run")
    }

    /// How often each event is in the queue, by name.
    fn queued(&self) -> BTreeMap<String, usize> {
        let mut queued = BTreeMap::new();
        for message in self.events.messages() {
            let body: Value = serde_json::from_str(&message.body).expect("JSON");
            let name = body["payload"]["name"].as_str().expect("a name").to_owned();
            *queued.entry(name).or_default() += 1;
        }
        queued
    }
}

fn counts(report: &Report) -> [u64; 5] {
    [report.fetched, report.new, report.known, report.unreadable, report.passed_over]
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_queued_once_and_remembered() {
    let relay = relay();
    for number in 0..20 {
        relay.lose(&format!("e{number}"), now() - minutes(5), now());
    }
    let report = relay.go_on().await;
    assert_eq!((counts(&report), report.complete), ([20, 20, 0, 0, 0], true));
    let record = relay.table.get(&id_of("e7")).await.expect("read").expect("a record");
    assert_eq!(record.state, State::Queued);
    assert_eq!(record.history[0].action, "recover");
    assert_eq!(record.history[0].why.as_deref(), Some("delivery e7: 503 from https://example.com/"));
    assert_eq!(record.received_at, now() - minutes(5));
    for _ in 0..2 {
        assert_eq!(counts(&relay.go_on().await), [20, 0, 20, 0, 0], "the overlap shows them again");
    }
    assert_eq!(relay.queued().len(), 20);
    assert!(relay.queued().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_what_ingest_would_have_sent() {
    let relay = relay();
    relay.lose("e", now() - minutes(5), now());
    relay.go_on().await;
    let message = relay.events.messages().remove(0);
    let event = message.to_event(now()).expect("an event");
    assert_eq!((event.id, &event.body[..]), (id_of("e"), envelope("e").as_bytes()));
    assert_eq!((event.source, event.content_type.as_deref()), (Source::Webhook, Some("application/json")));
    assert_eq!(message.group.as_deref(), Some("w"));
}

#[tokio::test(start_paused = true)]
async fn what_the_table_knows_is_not_sent_again_whatever_its_state() {
    let relay = relay();
    let act = |action: &str| Act { action: action.to_owned(), at: now(), by: "a test".to_owned(), why: None };
    let attempt = || Attempt { at: now(), duration_ms: None, status: None, error: None, response: None };
    let death = || Death { reason: ReasonKind::Permanent, error: "no".to_owned(), status_code: None, dead_at: now() };
    for state in ["queued", "in progress", "retrying", "delivered", "dead", "archived", "discarded"] {
        let event = event_of(state);
        relay.lose(state, now() - minutes(1), now());
        let lease_until = now() + minutes(1);
        let request = ClaimRequest { event: &event, message_id: "m", last: false, lease_until, now: now() };
        let Claiming::Free(claim) = Claim::on(None, request) else { panic!("not free") };
        let dead = || claim.dead(attempt(), death(), None, Context::default());
        let mut steps = vec![claim.transition().clone()];
        match state {
            "queued" => steps = vec![Record::queued(&event, None, act("recover"))],
            "retrying" => steps.push(claim.retrying(attempt(), now() + minutes(1), now())),
            "delivered" => steps.push(claim.delivered(attempt())),
            "dead" | "archived" | "discarded" => steps.push(dead()),
            _ => {}
        }
        for step in &steps {
            relay.table.write(step).await.expect("written");
        }
        let record = relay.table.get(&event.id).await.expect("read").expect("a record");
        if let Some(crate::record::Finding::Dead(dead)) = crate::record::Finding::recorded(&record, now()) {
            match state {
                "archived" => drop(relay.table.write(&dead.archived(act("archive"), "key")).await.expect("written")),
                "discarded" => drop(relay.table.write(&dead.discarded(act("discard"))).await.expect("written")),
                _ => {}
            }
        }
    }
    let states: HashSet<&str> = relay.table.records().iter().map(|record| record.state.name().as_str()).collect();
    assert_eq!(states.len(), 7, "all of them: {states:?}");
    assert_eq!(counts(&relay.go_on().await), [7, 0, 7, 0, 0]);
    assert!(relay.events.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_event_is_a_new_one() {
    let relay = relay();
    relay.lose("e", now() - minutes(1), now());
    relay.go_on().await;
    sleep(Duration::try_from(LIFE).expect("positive")).await;
    relay.lose("e", now() - minutes(1), now());
    let report = relay.run(json!({ "from": (now() - minutes(2)).to_string() })).await.expect("a run");
    assert_eq!(counts(&report), [1, 1, 0, 0, 0]);
    assert_eq!(relay.table.only_record().state, State::Queued);
}

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
        *lock(&relay.log.fails) = 1;
        let failed = relay.run(json!({})).await.expect_err("no answer");
        assert!(matches!(failed.error, RecoverError::Genesys(GenesysError::Unavailable { .. })));
    }
    let failed_report = {
        *lock(&relay.log.fails) = 1;
        relay.run(json!({})).await.expect_err("no answer").report
    };
    assert_eq!(failed_report.behind_seconds, Some(2 * 60 * 60 + 15 * 60), "and it says how far it is behind");
    sleep(Duration::from_hours(2)).await;
    let report = relay.go_on().await;
    assert_eq!((report.new, report.complete, report.behind_seconds), (240, true, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_first_run_that_fails_is_where_the_next_begins() {
    let relay = relay();
    relay.lose("e", now() - minutes(10), now());
    *lock(&relay.log.fails) = 1;
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
    relay.events.fail_times(1);
    let failed = relay.run(json!({})).await.expect_err("not all are queued");
    assert!(matches!(failed.error, RecoverError::Queue(_)), "{failed}");
    assert_eq!(failed.report.cursor, first);
    relay.table.fail_after(9, 1);
    let failed = relay.run(json!({})).await.expect_err("not all are recorded");
    assert!(matches!(failed.error, RecoverError::Table(_)), "{failed}");
    assert_eq!(failed.report.cursor, first);
    let report = relay.go_on().await;
    assert!(report.cursor > first);
    let queued = relay.queued();
    assert_eq!(queued.len(), 30);
    assert!(queued.values().all(|copies| *copies <= 2), "only what could not be recorded is there twice");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_between_any_two_calls_of_the_table_loses_nothing() {
    for calls in 0.. {
        let relay = relay();
        relay.go_on().await;
        for number in 0..12 {
            relay.lose(&format!("e{number}"), now() - minutes(10), now());
        }
        lock(&relay.log.unreadable).push("{\"strange\":true}".to_owned());
        relay.table.halt_after(calls);
        let ended = timeout(Duration::from_mins(4), relay.run(json!({}))).await;
        relay.table.resume();
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
        assert_eq!(relay.table.records().len(), 13);
        assert_eq!(relay.go_on().await.new, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_is_waited_for_and_holds_up_nothing_else() {
    let relay = relay();
    relay.go_on().await;
    let start = now();
    lock(&relay.log.withheld).push(start + minutes(70));
    for minute in 0..300 {
        relay.lose(&format!("e{minute}"), start + minutes(minute), start);
    }
    sleep(Duration::from_hours(5)).await;
    for new in [300, 0] {
        let failed = relay.run(json!({})).await.expect_err("something is missing");
        assert!(matches!(failed.error, RecoverError::Withheld { count: 1, .. }), "{failed}");
        assert_eq!((failed.report.new, failed.report.withheld), (new, 1));
        let waits_before = start + minutes(70);
        assert!(failed.report.cursor.is_some_and(|cursor| cursor <= waits_before), "{:?}", failed.report);
        assert!(failed.report.behind_seconds.is_some_and(|behind| behind > 3 * 60 * 60), "{:?}", failed.report);
    }
    lock(&relay.log.withheld).clear();
    let report = relay.go_on().await;
    assert_eq!((report.complete, report.cursor), (true, Some(now() - OVERLAP)));
    assert_eq!(relay.queued().len(), 300);
}

/// More is withheld than one run tries, and more is there than one run reads: all else is recovered all the same, and the
/// checkpoint waits.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_starves_nothing_behind_it() {
    let relay = relay();
    *lock(&relay.log.resumes) = true;
    relay.go_on().await;
    *lock(&relay.log.withheld_first) = 12;
    let start = now();
    for second in 0..300 {
        relay.lose(&format!("e{second}"), start + SignedDuration::from_secs(second), start);
    }
    sleep(Duration::from_mins(10)).await;
    *lock(&relay.log.read_takes) = Duration::from_secs(30);
    let mut runs = 0;
    while relay.queued().len() < 300 {
        let failed = relay.run(json!({})).await.expect_err("something is missing");
        assert!(matches!(failed.error, RecoverError::Withheld { .. }), "{failed}");
        assert!(failed.report.cursor.is_some_and(|cursor| cursor <= start));
        runs += 1;
        assert!(runs < 20, "{} of 300", relay.queued().len());
    }
    *lock(&relay.log.withheld_first) = 0;
    *lock(&relay.log.read_takes) = Duration::ZERO;
    while !relay.go_on().await.complete {}
    assert!(relay.queued().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_gets_nowhere_is_a_failure() {
    for resumes in [false, true] {
        let relay = relay();
        *lock(&relay.log.resumes) = resumes;
        relay.go_on().await;
        relay.lose("e", now(), now());
        *lock(&relay.log.read_takes) = INVOCATION;
        let failed = relay.run(json!({})).await.expect_err("there is no time for anything");
        assert!(matches!(failed.error, RecoverError::Genesys(GenesysError::OutOfTime { .. })), "{failed}");
        *lock(&relay.log.read_takes) = Duration::ZERO;
        assert_eq!(relay.go_on().await.new, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_exclude_each_other() {
    let relay = Arc::new(relay());
    relay.lose("e", now() - minutes(1), now());
    *lock(&relay.log.read_takes) = Duration::from_secs(10);
    let other = tokio::spawn({
        let relay = Arc::clone(&relay);
        async move { relay.go_on().await }
    });
    sleep(Duration::from_secs(1)).await;
    let failed = relay.run(json!({})).await.expect_err("another is at work");
    assert!(matches!(failed.error, RecoverError::Busy(_)), "{failed}");
    let dry = relay.run(json!({ "dryRun": true })).await.expect("looks on");
    assert_eq!(dry.fetched, 1);
    assert!(other.await.expect("a run").complete);
    relay.go_on().await;
    assert_eq!(relay.queued()["e"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_short_goes_on_where_it_stopped() {
    goes_on_where_it_stopped(false).await;
    goes_on_where_it_stopped(true).await;
}

async fn goes_on_where_it_stopped(resumes: bool) {
    let relay = relay();
    *lock(&relay.log.resumes) = resumes;
    relay.go_on().await;
    for second in 0..3600 {
        let at = now() + SignedDuration::from_secs(second);
        relay.lose(&format!("e{second}"), at, at);
    }
    sleep(Duration::from_mins(75)).await;
    // An hour's 515 pages take 17 minutes; a run has less than five.
    *lock(&relay.log.read_takes) = Duration::from_secs(2);
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
    *lock(&relay.log.read_takes) = Duration::from_secs(30);
    let mut request =
        json!({ "from": from.to_string(), "to": (from + minutes(300)).to_string(), "why": "a test", "by": "me" });
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
    assert_eq!(relay.queued().len(), 300, "and not what lies behind");
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_can_be_moved_by_hand() {
    let relay = relay();
    relay.lose("poison", now() + minutes(1), now());
    relay.lose("behind", now() + minutes(4), now());
    let start = now();
    relay
        .table
        .save_checkpoint("fake", &Checkpoint { cursor: start, span_seconds: 60, resume: None })
        .await
        .expect("saved");
    sleep(Duration::from_hours(1)).await;
    let from = start + minutes(2);
    let report = relay.run(json!({ "from": from.to_string(), "moveCursor": true })).await.expect("a run");
    assert_eq!((report.from, report.new, report.complete), (from, 1, true));
    assert_eq!(report.cursor, Some(now() - OVERLAP));
    // Back as well: what is read again is known.
    let report = relay.run(json!({ "from": start.to_string(), "moveCursor": true })).await.expect("a run");
    assert_eq!((report.new, report.known), (1, 1));
    let too_old = json!({ "from": (now() - LIFE - minutes(1)).to_string(), "moveCursor": true });
    let failed = relay.run(too_old).await.expect_err("refused");
    assert!(matches!(failed.error, RecoverError::TooOld { .. }), "{failed}");
    assert!(relay.go_on().await.complete, "and nothing has moved");
}

/// A message that fails late, in a part of its window that was read before the run was cut short.
#[tokio::test(start_paused = true)]
async fn what_fails_while_a_window_is_read_in_several_runs_is_not_missed() {
    let relay = relay();
    *lock(&relay.log.resumes) = true;
    relay.go_on().await;
    let start = now();
    for number in 0..40 {
        relay.lose(&format!("e{number}"), start + minutes(1), start + minutes(1));
    }
    sleep(Duration::from_mins(5)).await;
    *lock(&relay.log.read_takes) = Duration::from_mins(1);
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
async fn what_may_be_forgotten_needs_force() {
    let relay = relay();
    relay.go_on().await;
    let from = now() - LIFE + minutes(59);
    relay.lose("old", from, now());
    let failed = relay.run(json!({ "from": from.to_string() })).await.expect_err("refused");
    assert!(matches!(failed.error, RecoverError::TooOld { .. }), "{failed}");
    let report = relay.run(json!({ "from": from.to_string(), "force": true })).await.expect("a run");
    assert_eq!(report.new, 1);
    // The same when nothing has been read for too long.
    sleep(Duration::try_from(LIFE).expect("positive")).await;
    let failed = relay.run(json!({})).await.expect_err("refused");
    assert!(matches!(failed.error, RecoverError::TooOld { .. }), "{failed}");
    assert!(relay.run(json!({ "force": true })).await.expect("a run").complete);
    relay.go_on().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_understood_is_a_dead_letter_whole_and_once() {
    let relay = relay();
    lock(&relay.log.unreadable).push("{\"strange\":true}".to_owned());
    lock(&relay.log.lost).push(Lost {
        name: "plain".to_owned(),
        at: now() - minutes(1),
        listed_at: now(),
        body: "plain text".to_owned(),
    });
    let large = format!("{{\"text\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    lock(&relay.log.lost).push(Lost { name: "large".to_owned(), at: now(), listed_at: now(), body: large.clone() });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counts(&relay.go_on().await), [3, 0, 0, 3, 0]);
    assert_eq!(counts(&relay.go_on().await), [3, 0, 3, 0, 0]);
    let letters = relay.dead_letters.messages();
    let kinds: BTreeMap<_, _> = letters
        .iter()
        .map(|letter| (letter.body.chars().take(8).collect::<String>(), letter.reason(now()).expect("a reason").reason))
        .collect();
    let expected = [
        ("plain te", ReasonKind::Malformed),
        ("{\"strang", ReasonKind::Unreadable),
        ("{\"text\":", ReasonKind::Unreadable),
    ];
    assert_eq!(kinds, expected.map(|(start, kind)| (start.to_owned(), kind)).into());
    assert!(relay.events.messages().is_empty());
    let mut bodies = Vec::new();
    for record in relay.table.records() {
        assert_eq!(record.state.name(), StateName::Dead);
        bodies.push(relay.table.body(&record.event_id).await.expect("read").expect("kept"));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, [b"plain text".to_vec(), b"{\"strange\":true}".to_vec(), large.into_bytes()], "each whole");
    let message = letters.iter().find(|letter| letter.body.starts_with("{\"text\":")).expect("the large one");
    let json = crate::json::Json::parse(lock(&relay.log.lost)[1].body.as_bytes())
        .map(|json| crate::event::Identity::of(json, now(), None).id);
    assert_ne!(message.event_id(), Some(json.expect("JSON").as_str()), "it does not pass for the event");
}

#[tokio::test(start_paused = true)]
async fn a_static_key_does_not_merge_texts() {
    let candidate = |body: &str| {
        let failed = Failed {
            delivery: "d".to_owned(),
            at: None,
            body: body.as_bytes().to_vec(),
            content_type: None,
            headers: BTreeMap::new(),
            sender_key: Some("static".to_owned()),
            note: String::new(),
        };
        Candidate::of(failed, now()).event.id
    };
    assert_ne!(candidate("one text"), candidate("another"));
    assert_eq!(candidate("one text"), candidate("one text"));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_be_queued_and_does_nothing() {
    let relay = relay();
    relay.lose("e", now() - minutes(1), now());
    lock(&relay.log.unreadable).push("{\"strange\":true}".to_owned());
    let report = relay.run(json!({ "dryRun": true })).await.expect("a run");
    assert_eq!((counts(&report), report.dry_run, report.cursor), ([2, 1, 0, 1, 0], true, None));
    let shown = serde_json::to_value(&report.items).expect("JSON");
    assert_eq!(shown[0]["eventId"], id_of("e").as_str());
    assert_eq!(shown[0]["note"], "delivery e: 503 from https://example.com/");
    assert!(relay.events.messages().is_empty() && relay.dead_letters.messages().is_empty());
    assert!(relay.table.records().is_empty());
    assert_eq!(relay.go_on().await.new, 1);
}

#[tokio::test(start_paused = true)]
async fn several_failures_of_one_event_are_one_event() {
    let relay = relay();
    for number in 0..20 {
        relay.lose("e", now() - minutes(1) + SignedDuration::from_secs(number), now());
    }
    let dry = relay.run(json!({ "dryRun": true })).await.expect("a run");
    assert_eq!(counts(&dry), [20, 1, 19, 0, 0]);
    assert_eq!(counts(&relay.go_on().await), [20, 1, 19, 0, 0]);
}

/// A life of the relay: what is lost when, how late the log lists it, and what each run meets.
#[derive(Debug, Clone)]
struct Life {
    skew_seconds: i64,
    lost: Vec<(i64, i64)>,
    runs: Vec<(u64, usize, usize)>,
    read_takes_seconds: u64,
    resumes: bool,
}

fn life() -> impl Strategy<Value = Life> {
    // Times are multiples of a minute as windows are, so that many lie exactly on a border.
    let lost = prop::collection::vec((0..600_i64, 0..5 * 60_i64), 0..60);
    let runs = prop::collection::vec((1..90_u64, 0..2_usize, 0..12_usize), 1..20);
    let read_takes = prop_oneof![Just(0_u64), 20..100_u64];
    (prop_oneof![Just(-120), Just(0), Just(120)], lost, runs, read_takes, any::<bool>()).prop_map(
        |(skew_seconds, lost, runs, read_takes_seconds, resumes)| Life {
            skew_seconds,
            lost,
            runs,
            read_takes_seconds,
            resumes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails late, on a border, or while something is down: none is missed, and none is queued again once it is
    /// recorded.
    #[test]
    fn none_is_missed_and_none_is_doubled(life in life()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let relay = relay();
            *lock(&relay.log.resumes) = life.resumes;
            *lock(&relay.log.read_takes) = Duration::from_secs(life.read_takes_seconds);
            let skew = SignedDuration::from_secs(life.skew_seconds);
            let start = now();
            relay.go_on().await;
            for (number, (minute, late)) in life.lost.iter().enumerate() {
                let happened = start + minutes(*minute);
                let listed_at = happened + SignedDuration::from_secs(85 + late);
                relay.lose(&format!("e{number}"), happened + skew, listed_at);
            }
            let mut unrecorded = 0;
            for (pause, genesys_fails, table_calls) in life.runs {
                sleep(Duration::from_mins(pause)).await;
                *lock(&relay.log.fails) = genesys_fails;
                if table_calls > 0 {
                    relay.table.fail_after(table_calls, 1);
                }
                // What was sent and could not be recorded may be sent once more.
                unrecorded += usize::from(relay.run(json!({})).await.is_err());
            }
            relay.table.fail_after(0, 0);
            *lock(&relay.log.fails) = 0;
            sleep(Duration::from_hours(11)).await;
            let mut runs = 0;
            while !relay.go_on().await.complete {
                runs += 1;
                assert!(runs < 200, "it comes to an end");
            }
            let queued = relay.queued();
            assert_eq!(queued.len(), life.lost.len());
            let doubled = queued.values().filter(|copies| **copies > 1).count();
            assert!(doubled <= unrecorded * BATCH, "{doubled} are there twice");
            assert_eq!(relay.go_on().await.new, 0);
        });
    }
}
