//! One run: bad weather, then good weather, and what is there in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::dead_letters::{Answer, Report};
use genesys_relay::domain::event_record::{State, StateName};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::queue::Countable as _;
use genesys_relay::testing::FakeClock;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::faults::{Died, Tally};
use crate::genesys;
use crate::law::label_of;
use crate::scenario::{Scenario, Sent, request};
use crate::world::World;

/// How long the relay may take in good weather until all that waits is delivered or dead. Where nothing is left but what
/// the target refuses for good, the breaker takes that for an outage, and lets it die after three days.
const DRAINED_WITHIN: Duration = Duration::from_hours(96);

/// Runs of `reconcile` after which table and queue have to agree.
const ROUNDS: usize = 6;

/// What a run was like.
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) simulated: Duration,
    pub(crate) tally: Tally,
    pub(crate) repeats: u64,
    pub(crate) trace: u64,
    pub(crate) violation: Option<String>,
    /// When the target took each event first, by its label.
    pub(crate) taken_after: BTreeMap<String, Duration>,
    /// When the breaker opened first.
    pub(crate) opened_after: Option<Duration>,
    /// Where the events stood that the target never takes, and how often each was attempted, when the weather became fine.
    pub(crate) poison: Vec<(StateName, u32)>,
}

/// Runs a seed on a runtime of its own, whose clock is paused.
pub(crate) fn run(scenario: Scenario, speaks: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(simulate(scenario, speaks))
}

async fn simulate(scenario: Scenario, speaks: bool) -> Outcome {
    // Of runs before.
    drop(crate::panicked());
    FakeClock::start_over();
    let began = Instant::now();
    let world = World::new(scenario, speaks);
    world.law.note(|| format!("{:#?}", world.scenario));
    world.deploy().await;
    start(&world);
    sleep(world.scenario.length).await;
    let poison = world.scenario.events.iter().filter(|sent| sent.poison).filter_map(Sent::id);
    let poison = poison.filter_map(|id| world.table.record(&id));
    let poison = poison.map(|record| (record.state.name(), record.attempts_made)).collect();
    world.weather.calm_down();
    world.events.calm_down();
    world.dead_letters.calm_down();
    world.law.note(|| "the weather is fine".to_owned());
    if let Err(what) = settle(&world).await {
        world.law.violate(&what);
    }
    Outcome {
        events: world.law.known().len() as u64,
        simulated: began.elapsed(),
        tally: world.weather.tally(),
        repeats: world.law.repeats(),
        trace: world.law.fingerprint(),
        violation: world.law.violation().or_else(crate::panicked),
        taken_after: world.law.taken_after(),
        opened_after: world.law.opened_after(),
        poison,
    }
}

/// Starts all that acts by itself.
fn start(world: &Arc<World>) {
    tokio::spawn(Arc::clone(world).map());
    for sent in &world.scenario.events {
        for (nth, at) in sent.at.iter().enumerate() {
            let (world, sent, at) = (Arc::clone(world), sent.clone(), Instant::now() + *at);
            tokio::spawn(async move {
                sleep_until(at).await;
                genesys::send(world, sent, nth).await;
            });
        }
    }
    let every = |pause: Duration, request: serde_json::Value| {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            loop {
                sleep(pause).await;
                if world.weather.is_calm() {
                    return;
                }
                // Lambda begins an asynchronous invocation that failed again, after one minute and after two.
                for retry in 1..=3 {
                    if matches!(world.replay(&request).await, Ok(Ok(_))) {
                        break;
                    }
                    sleep(Duration::from_mins(retry)).await;
                }
            }
        });
    };
    every(world.scenario.reconcile_every, json!({ "action": "reconcile", "ifNeeded": true }));
    every(world.scenario.archive_every, json!({ "action": "archive" }));
    if let Some(pause) = world.scenario.recover_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            while !world.weather.is_calm() {
                let _ = world.recover().await;
                sleep(pause).await;
            }
        });
    }
    if let Some(pause) = world.scenario.breaker_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            // Also in good weather: what was held back is let go.
            let mut put_off = 0;
            loop {
                sleep(pause).await;
                // Lambda throttles asynchronous invocations, and delivers them together later.
                put_off += 1;
                if world.scenario.clocks_differ && put_off < 4 && world.dice(|rng| rng.u32(..8)) == 0 {
                    continue;
                }
                let (world, runs) = (Arc::clone(&world), std::mem::take(&mut put_off));
                tokio::spawn(async move {
                    for _ in 0..runs {
                        world.look_at_the_target().await;
                    }
                });
            }
        });
    }
    if let Some(pause) = world.scenario.operator_every {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            loop {
                sleep(pause.mul_f64(world.dice(|rng| rng.f64() * 2.0))).await;
                if world.weather.is_calm() {
                    return;
                }
                let listed: Vec<_> = listed(&world).into_iter().collect();
                let request = world.dice(|rng| request(rng, &listed, &world.archive.keys()));
                world.law.note(|| format!("an operator asks: {request}"));
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
                // What it held comes back, and its lease ends.
                sleep(Duration::from_mins(20)).await;
                drop(world.replay(&request).await);
            }
        });
    }
    if let Some(after) = world.scenario.rotation {
        tokio::spawn(Arc::clone(world).rotate_secret(after));
    }
}

/// The dead events that the index shows.
fn listed(world: &World) -> BTreeSet<String> {
    let dead = |record: genesys_relay::domain::event_record::EventRecord| match record.state {
        State::Dead(dead) if dead.listed => Some(record.event_id.to_string()),
        _ => None,
    };
    world.table.records().into_iter().filter_map(dead).collect()
}

/// In good weather everything comes to an end, and operators can bring every event to the target.
async fn settle(world: &World) -> Result<(), String> {
    // Genesys Cloud has given up by then what it could not send, and each killed run's lease is over.
    sleep(Duration::from_mins(20)).await;
    drain(world).await?;
    if world.scenario.recover_every.is_some() {
        recover(world).await?;
        drain(world).await?;
    }
    reconcile(world).await?;
    check_end(world).await?;
    for key in world.archive.keys() {
        ask(world, json!({ "action": "restore", "key": key })).await?;
    }
    // What was brought back dies anew if the target refuses it, and SQS takes copies back and forth.
    for _ in 0..2 {
        ask(world, json!({ "action": "replay", "all": true, "force": true, "why": "force" })).await?;
        sleep(Duration::from_mins(2)).await;
        drain(world).await?;
        reconcile(world).await?;
    }
    check_end(world).await?;
    let buried: BTreeSet<String> = labels_buried(world);
    world.law.check_labels(|label| world.is_poison(label) && buried.contains(label))
}

/// Waits until the events queue is empty.
async fn drain(world: &World) -> Result<(), String> {
    let limit = Instant::now() + DRAINED_WITHIN;
    while world.events.depth().await.is_ok_and(|depth| depth.total() > 0) {
        if Instant::now() > limit {
            return Err(format!("the events queue is not empty after {DRAINED_WITHIN:?} of good weather"));
        }
        sleep(Duration::from_mins(1)).await;
    }
    // The last invocations end.
    sleep(Duration::from_mins(2)).await;
    Ok(())
}

/// Lets the recovery come up to the present; what Genesys Cloud gave up is known by then.
async fn recover(world: &World) -> Result<(), String> {
    for _ in 0..200 {
        sleep(Duration::from_mins(5)).await;
        if world.recover().await == Ok(true) {
            return world.law.recovered();
        }
    }
    Err("the recovery does not come to an end".to_owned())
}

async fn ask(world: &World, request: serde_json::Value) -> Result<Answer, String> {
    match world.replay(&request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{request} failed in good weather: {error}")),
        // One death can be planned; what the run held comes back, and its lease ends.
        Err(Died) => {
            sleep(Duration::from_mins(20)).await;
            let again = world.replay(&request).await;
            again.map_err(|Died| format!("{request} died twice"))?.map_err(|error| format!("{request}: {error}"))
        }
    }
}

/// Reconciles until nothing is left to do.
async fn reconcile(world: &World) -> Result<(), String> {
    for _ in 0..ROUNDS {
        let answer = ask(world, json!({ "action": "reconcile" })).await?;
        let Answer::Reconcile(Report { recorded, removed, failures, complete, .. }) = &answer else {
            return Err("the answer is another one".to_owned());
        };
        if *recorded + *removed + *failures == 0 && *complete && listed(world) == buried(world) {
            return Ok(());
        }
        // A message that SQS moved while its record waits for another attempt, an hour at most, is believed to be dead then.
        sleep(Duration::from_mins(15)).await;
    }
    let (listed, buried) = (listed(world), buried(world));
    Err(format!("{ROUNDS} runs of reconcile did not make table and queue agree: listed {listed:?}, buried {buried:?}"))
}

fn buried(world: &World) -> BTreeSet<String> {
    world.dead_letters.held(|message, sent_at| world.id_of(message, sent_at).to_string()).into_iter().collect()
}

/// What the bodies of the dead letters say.
fn labels_buried(world: &World) -> BTreeSet<String> {
    world.dead_letters.held(|message, _| label_of(message.body.as_bytes())).into_iter().collect()
}

/// Nothing is under way, and each dead letter is in the list, with its reason.
async fn check_end(world: &World) -> Result<(), String> {
    world.law.account();
    let now = FakeClock.now();
    for id in world.table.kept_bodies() {
        let is_surplus = world.table.record(&id).is_some_and(|record| record.has_surplus_body());
        // A call to delete it can have failed; it expires.
        if is_surplus && !world.law.is_disturbed(&id) {
            return Err(format!("the body of {id} is kept, and nobody needs it"));
        }
    }
    for record in world.table.records().into_iter().filter(|record| !record.is_expired(now)) {
        match record.state {
            State::InProgress(_) | State::Retrying { .. } | State::Queued => {
                return Err(format!("nothing is under way, and {} is {}", record.event_id, record.state.name()));
            }
            State::Delivered | State::Dead(_) | State::Archived { .. } | State::Discarded(_) => {}
        }
    }
    let Answer::List(list) = ask(world, json!({ "action": "list", "limit": 1000 })).await? else {
        return Err("the answer is another one".to_owned());
    };
    let shown: BTreeSet<String> = list.items.iter().map(|letter| letter.event_id.to_string()).collect();
    let buried = buried(world);
    if shown != buried {
        return Err(format!("the dead letters are {buried:?}, and the list shows {shown:?}"));
    }
    Ok(())
}
