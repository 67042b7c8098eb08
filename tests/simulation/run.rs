//! One run: a time with faults, a time without, and the checks at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::dead_letters::{Answer, Report};
use genesys_relay::domain::book::Book;
use genesys_relay::domain::event::Source;
use genesys_relay::domain::event_record::{State, StateName};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::events_table::EventsTable as _;
use genesys_relay::ports::queue::Countable as _;
use genesys_relay::testing::{FakeClock, FakeQueue};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::faults::{Crashed, Tally};
use crate::genesys;
use crate::invariants::{is_check, label_of};
use crate::scenario::{Scenario, Sent, request};
use crate::world::World;

/// Longest time without faults until the events queue is empty. Where only poison events are left,
/// the breaker takes that for an outage, which ends after three days.
const DRAINED_WITHIN: Duration = Duration::from_hours(96);

/// Life of the record of a check event, with the skew of clocks.
const LIFE_OF_CHECKS: Duration = Duration::from_secs(3610);

/// Records of one page of a scan: fewer than there are in most runs.
const SCANNED_AT_ONCE: usize = 7;

/// Runs of `reconcile` after which table and queue must agree.
const MAX_RECONCILE_RUNS: usize = 6;

/// Result of a run.
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) simulated: Duration,
    pub(crate) tally: Tally,
    pub(crate) repeats: u64,
    pub(crate) trace: u64,
    pub(crate) violation: Option<String>,
    /// Time at which the target first accepted each event, by its label.
    pub(crate) taken_after: BTreeMap<String, Duration>,
    /// Time at which the breaker first opened.
    pub(crate) opened_after: Option<Duration>,
    /// State and number of attempts of each poison event when the faults ended.
    pub(crate) poison: Vec<(StateName, u32)>,
}

/// Runs a scenario on a runtime with a paused clock.
pub(crate) fn run(scenario: Scenario, verbose: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime
        .expect("a runtime")
        .block_on(simulate(scenario, verbose))
}

async fn simulate(scenario: Scenario, verbose: bool) -> Outcome {
    // Of earlier runs.
    drop(crate::panicked());
    FakeClock::start_over();
    let began = Instant::now();
    let world = World::new(scenario, verbose);
    world.invariants.note(|| format!("{:#?}", world.scenario));
    world.deploy().await;
    start(&world);
    sleep(world.scenario.length).await;
    let poison = world
        .scenario
        .events
        .iter()
        .filter(|sent| sent.poison)
        .filter_map(Sent::id);
    let poison = poison.filter_map(|id| world.table.record(&id));
    let poison = poison
        .map(|record| (record.state.name(), record.attempts_made))
        .collect();
    if let Err(what) = check_book(&world, None).await {
        world.invariants.violate(&what);
    }
    world.faults.end();
    world.events.calm_down();
    world.dead_letters.calm_down();
    world.line.queue.calm_down();
    world.line.dead_letters.calm_down();
    world.journal.calm_down();
    world.invariants.note(|| "the faults have ended".to_owned());
    tokio::spawn(Arc::clone(&world).watch_line());
    if let Err(what) = settle(&world).await {
        world.invariants.violate(&what);
    }
    Outcome {
        events: world.invariants.known().len() as u64,
        simulated: began.elapsed(),
        tally: world.faults.tally(),
        repeats: world.invariants.repeats(),
        trace: world.invariants.fingerprint(),
        violation: world.invariants.violation().or_else(crate::panicked),
        taken_after: world.invariants.taken_after(),
        opened_after: world.invariants.opened_after(),
        poison,
    }
}

/// Starts senders, schedules and operators.
fn start(world: &Arc<World>) {
    tokio::spawn(Arc::clone(world).map());
    if world.scenario.order.is_some() {
        tokio::spawn(Arc::clone(world).map_ordered());
        tokio::spawn(Arc::clone(world).change_order());
    }
    for sent in &world.scenario.events {
        for (nth, at) in sent.at.iter().enumerate() {
            let (world, sent, at) = (Arc::clone(world), sent.clone(), Instant::now() + *at);
            tokio::spawn(async move {
                sleep_until(at).await;
                genesys::send(world, sent, nth).await;
            });
        }
    }
    world.every(
        world.scenario.reconcile_every,
        json!({ "action": "reconcile", "ifNeeded": true }),
    );
    world.every(world.scenario.archive_every, json!({ "action": "archive" }));
    world.start_journal();
    genesys::send_checks(world);
    if let Some(pause) = world.scenario.recover_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            while !world.faults.have_ended() {
                let _ = world.recover().await;
                sleep(pause).await;
            }
        });
    }
    start_breaker(world);
    if let Some(pause) = world.scenario.operator_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            loop {
                sleep(pause.mul_f64(world.random(|rng| rng.f64() * 2.0))).await;
                if world.faults.have_ended() {
                    return;
                }
                let listed: Vec<_> = listed(&world).into_iter().collect();
                let request = world.random(|rng| request(rng, &listed, &archived(&world)));
                world
                    .invariants
                    .note(|| format!("operator request: {request}"));
                drop(world.replay(&request).await);
                world.table.delete_expired(FakeClock.now());
            }
        });
    }
    for (after, request) in world.scenario.requests.clone() {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(after).await;
            if world.replay(&request).await.is_err() {
                // Its messages become visible again, and its lease ends.
                sleep(Duration::from_mins(20)).await;
                drop(world.replay(&request).await);
            }
        });
    }
    tokio::spawn(Arc::clone(world).rotate_target_secret());
    if let Some(after) = world.scenario.rotation {
        tokio::spawn(Arc::clone(world).rotate_secret(after));
    }
}

impl World {
    /// Starts a schedule of the replay function.
    pub(crate) fn every(self: &Arc<Self>, pause: Duration, request: serde_json::Value) {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(pause).await;
                if world.faults.have_ended() {
                    return;
                }
                // Lambda retries a failed asynchronous invocation after one minute and after two.
                for retry in 1..=3 {
                    if matches!(world.replay(&request).await, Ok(Ok(_))) {
                        break;
                    }
                    sleep(Duration::from_mins(retry)).await;
                }
            }
        });
    }
}

/// Starts the breaker's schedule, and the operator who overrides it.
fn start_breaker(world: &Arc<World>) {
    if let Some(pause) = world.scenario.breaker_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            // Also without faults, so that the breaker closes.
            let mut put_off = 0;
            loop {
                sleep(pause).await;
                // Lambda throttles asynchronous invocations and delivers them together later.
                put_off += 1;
                if world.scenario.clocks_differ
                    && put_off < 4
                    && world.random(|rng| rng.u32(..8)) == 0
                {
                    continue;
                }
                let (world, runs) = (Arc::clone(&world), std::mem::take(&mut put_off));
                tokio::spawn(async move {
                    for _ in 0..runs {
                        world.run_breaker("run").await;
                    }
                });
            }
        });
    }
    if let Some(longest) = world.scenario.overrides_within {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let mut actions = ["open", "close", "automatic"].iter().cycle();
            while !world.faults.have_ended() {
                sleep(longest.mul_f64(world.random(fastrand::Rng::f64))).await;
                if let Some(action) = actions.next() {
                    world.run_breaker(action).await;
                }
            }
            while world.run_breaker("automatic").await.is_none() {
                sleep(Duration::from_mins(1)).await;
            }
        });
    }
}

/// Keys of the archived dead letters.
fn archived(world: &World) -> Vec<String> {
    let mut keys = world.archive.keys();
    keys.retain(|key| !key.starts_with("journal/"));
    keys
}

/// Ids of the dead events in the index.
fn listed(world: &World) -> BTreeSet<String> {
    let dead = |record: genesys_relay::domain::event_record::EventRecord| match record.state {
        State::Dead(dead) if dead.listed => Some(record.event_id.to_string()),
        _ => None,
    };
    world.table.records().into_iter().filter_map(dead).collect()
}

/// Checks that without faults all work ends, and that operators can bring every event to the
/// target.
async fn settle(world: &Arc<World>) -> Result<(), String> {
    // By then Genesys Cloud has ended its retries, and the lease of each killed run has expired.
    sleep(Duration::from_mins(20)).await;
    drain(world).await?;
    if world.scenario.recover_every.is_some() {
        recover(world).await?;
        drain(world).await?;
    }
    reconcile(world).await?;
    check_end(world).await?;
    world.end_journal().await?;
    drain(world).await?;
    for key in archived(world) {
        ask(world, json!({ "action": "restore", "key": key })).await?;
    }
    // A replayed event becomes a dead letter again if the target refuses it.
    for _ in 0..2 {
        ask(
            world,
            json!({ "action": "replay", "all": true, "force": true, "why": "force" }),
        )
        .await?;
        sleep(Duration::from_mins(2)).await;
        drain(world).await?;
        reconcile(world).await?;
    }
    check_end(world).await?;
    world.check_journal().await?;
    check_book(world, Some(&dead_letter_ids(world))).await?;
    let dead_letter_ids: BTreeSet<String> = dead_letter_labels(world);
    world
        .invariants
        .check_labels(|label| world.is_poison(label) && dead_letter_ids.contains(label))?;
    check_checks(world).await
}

/// Checks that an hour, a run of the archive and one of reconcile leave nothing of the check events.
async fn check_checks(world: &World) -> Result<(), String> {
    if world.scenario.checks.is_empty() {
        return Ok(());
    }
    // The dead letter goes with the run, a copy of it with the next reconcile, and the record an hour
    // later.
    sleep(LIFE_OF_CHECKS).await;
    ask(world, json!({ "action": "archive" })).await?;
    ask(world, json!({ "action": "reconcile" })).await?;
    sleep(LIFE_OF_CHECKS).await;
    world.table.delete_expired(FakeClock.now());
    let records = world.table.records().into_iter();
    let records: Vec<_> = records
        .filter(|record| record.source == Source::Check)
        .map(|record| format!("{} is {}", record.event_id, record.state.name()))
        .collect();
    let queues = [&world.events, &world.dead_letters, &world.journal];
    let held: Vec<_> = queues
        .iter()
        .map(|queue| {
            let checks = queue.held(|message, _| is_check(message)).into_iter();
            checks.filter(|is_check| *is_check).count()
        })
        .collect();
    let ids = world.scenario.checks.iter().map(|(_, check)| check.id());
    let ids: BTreeSet<_> = ids.collect();
    let mut bodies = world.table.kept_bodies();
    bodies.retain(|id| ids.contains(id));
    if !(records.is_empty() && held.iter().all(|count| *count == 0) && bodies.is_empty()) {
        return Err(format!(
            "of check events are left: records {records:?}, messages of the queues {held:?}, bodies {bodies:?}"
        ));
    }
    Ok(())
}

/// Waits until the queues of events are empty.
async fn drain(world: &World) -> Result<(), String> {
    let limit = Instant::now() + DRAINED_WITHIN;
    let left = async |queue: &FakeQueue| queue.depth().await.is_ok_and(|depth| depth.total() > 0);
    while left(&world.events).await || left(&world.line.queue).await {
        if Instant::now() > limit {
            return Err(format!(
                "the events queue is not empty after {DRAINED_WITHIN:?} without faults"
            ));
        }
        sleep(Duration::from_mins(1)).await;
    }
    // The last invocations end.
    sleep(Duration::from_mins(2)).await;
    Ok(())
}

/// Runs the recovery up to the present, when it must know what Genesys Cloud gave up.
async fn recover(world: &World) -> Result<(), String> {
    for _ in 0..200 {
        sleep(Duration::from_mins(5)).await;
        if world.recover().await == Ok(true) {
            return world.invariants.recovered();
        }
    }
    Err("the recovery does not reach the present".to_owned())
}

async fn ask(world: &World, request: serde_json::Value) -> Result<Answer, String> {
    match world.replay(&request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{request} failed without faults: {error}")),
        // A planned crash: the run's messages become visible again, and its lease ends.
        Err(Crashed) => {
            sleep(Duration::from_mins(20)).await;
            let again = world.replay(&request).await;
            again
                .map_err(|Crashed| format!("{request} crashed twice"))?
                .map_err(|error| format!("{request}: {error}"))
        }
    }
}

/// Reconciles until no difference is left.
async fn reconcile(world: &World) -> Result<(), String> {
    for _ in 0..MAX_RECONCILE_RUNS {
        let answer = ask(world, json!({ "action": "reconcile" })).await?;
        let Answer::Reconcile(Report {
            recorded,
            removed,
            failures,
            complete,
            ..
        }) = &answer
        else {
            return Err("the answer is of another action".to_owned());
        };
        if *recorded + *removed + *failures == 0
            && *complete
            && listed(world) == dead_letter_ids(world)
        {
            return Ok(());
        }
        // A message that SQS moved while its record waits for a retry counts as dead after an hour
        // at most.
        sleep(Duration::from_mins(15)).await;
    }
    let (listed, dead_letter_ids) = (listed(world), dead_letter_ids(world));
    Err(format!(
        "{MAX_RECONCILE_RUNS} runs of reconcile did not make table and queue agree: listed {listed:?}, dead_letter_ids {dead_letter_ids:?}"
    ))
}

fn dead_letter_ids(world: &World) -> BTreeSet<String> {
    world
        .dead_letters
        .held(|message, sent_at| world.id_of(message, sent_at).to_string())
        .into_iter()
        .collect()
}

/// Checks that the relay's book of a scan has every event in its hour and with its end, as the
/// simulation itself counts them. The dead letters tell the end of each once no work is left.
async fn check_book(world: &World, dead: Option<&BTreeSet<String>>) -> Result<(), String> {
    let (now, mut after) = (FakeClock.now(), None);
    world.table.delete_expired(now);
    let mut book = Book::of(Timestamp::MIN..Timestamp::MAX);
    let mut records = BTreeMap::new();
    loop {
        let page = world.table.scan(after.as_deref(), SCANNED_AT_ONCE).await;
        let page = page.map_err(|error| format!("the table cannot be scanned: {error}"))?;
        for record in page.records {
            book.add(&record);
            records.insert(record.event_id.clone(), record);
        }
        page.unreadable
            .into_iter()
            .for_each(|key| book.add_unreadable(key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let counted = world.invariants.count_events(&records, dead)?;
    if *book.hours() != counted || !book.balances() {
        return Err(format!(
            "the relay's book has {:?}, and there are {counted:?}",
            book.hours()
        ));
    }
    Ok(())
}

/// Labels of the dead letters.
fn dead_letter_labels(world: &World) -> BTreeSet<String> {
    world
        .dead_letters
        .held(|message, _| label_of(message.body.as_bytes()))
        .into_iter()
        .collect()
}

/// Checks that no event is in flight, and that the list shows each dead letter.
async fn check_end(world: &World) -> Result<(), String> {
    world.invariants.check_nothing_lost();
    let now = FakeClock.now();
    for id in world.table.kept_bodies() {
        let is_surplus = world
            .table
            .record(&id)
            .is_some_and(|record| record.has_surplus_body());
        // The call to delete it can have failed; the body expires.
        if is_surplus && !world.invariants.is_disturbed(&id) {
            return Err(format!("the body of {id} outlives its use"));
        }
    }
    for record in world
        .table
        .records()
        .into_iter()
        .filter(|record| !record.is_expired(now))
    {
        match record.state {
            State::InProgress(_) | State::Retrying { .. } | State::Queued => {
                return Err(format!(
                    "{} is {} although no work is left",
                    record.event_id,
                    record.state.name()
                ));
            }
            State::Delivered
            | State::Dead(_)
            | State::Archived { .. }
            | State::Discarded(_)
            | State::Erased => {}
        }
    }
    let Answer::List(list) = ask(world, json!({ "action": "list", "limit": 1000 })).await? else {
        return Err("the answer is of another action".to_owned());
    };
    // The record of a check lives for an hour: a dead letter that outlives it may be shown until
    // DynamoDB deletes the record, and gets another by the next run of reconcile.
    let now = FakeClock.now();
    let live = world.table.records().into_iter();
    let live = live.filter(|record| now < record.expires_at);
    let live: BTreeSet<String> = live.map(|record| record.event_id.to_string()).collect();
    let is_settled = |id: &String| !id.starts_with("check-") || live.contains(id);
    let shown = list.items.iter().map(|letter| letter.event_id.to_string());
    let shown: BTreeSet<String> = shown.filter(is_settled).collect();
    let mut dead_letter_ids = dead_letter_ids(world);
    dead_letter_ids.retain(is_settled);
    if shown != dead_letter_ids {
        return Err(format!(
            "the dead letters are {dead_letter_ids:?}, and the list shows {shown:?}"
        ));
    }
    Ok(())
}
