//! Days of the relay in milliseconds: its own use cases over models of all that they call, on virtual time, with faults at
//! every call, and the promise held against whatever comes of it.
//!
//! A seed decides everything. `GENESYS_RELAY_SEEDS` says how many are run, and `GENESYS_RELAY_SEED` replays one, with all that
//! happens in it.

mod faults;
mod genesys;
mod law;
mod ports;
mod run;
mod scenario;
mod target;
mod world;

use std::env;
use std::io::{Write as _, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::faults::{Death, Tally};
use crate::run::{Outcome, run};
use crate::scenario::Scenario;

/// So many invocations of each function die at each of their awaits, one after the other.
const INVOCATIONS: u64 = 6;

/// Seeds that every test run goes through.
const SEEDS: u64 = 10_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something also when the test passes.
fn say(line: &str) {
    // There is nobody to tell when this fails.
    let _ = writeln!(stderr(), "{line}");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is {value}, and no number")))
}

/// What all seeds come to.
#[derive(Default)]
struct Total {
    seeds: u64,
    events: u64,
    repeats: u64,
    simulated: Duration,
    tally: Tally,
    violations: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.repeats += outcome.repeats;
        self.simulated += outcome.simulated;
        for (what, count) in outcome.tally {
            *self.tally.entry(what).or_default() += count;
        }
        self.violations.extend(outcome.violation.map(|violation| (seed, violation)));
    }

    fn say(&self) {
        let days = self.simulated.as_secs() / (24 * 3600);
        say(&format!("simulation: {} seeds, {} events, {days} days", self.seeds, self.events));
        let counts: Vec<_> = self.tally.iter().map(|(what, count)| format!("{count} {what}")).collect();
        say(&format!("simulation: {}", counts.join(", ")));
        let broken = self.violations.len();
        say(&format!(
            "simulation: the law was broken by {broken} seeds; {} deliveries repeated, all unrecorded",
            self.repeats
        ));
    }
}

#[test]
fn nothing_is_lost_in_any_weather() {
    if let Some(seed) = number("GENESYS_RELAY_SEED") {
        let outcome = run(Scenario::of(seed), true);
        assert_eq!(outcome.violation, None, "seed {seed}");
        return;
    }
    let seeds = number("GENESYS_RELAY_SEEDS").unwrap_or(SEEDS);
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || lock(&total).violations.len() >= 5 {
                        return;
                    }
                    let outcome = run(Scenario::of(seed), false);
                    lock(&total).add(seed, outcome);
                }
            });
        }
    });
    let mut total = lock(&total);
    total.violations.sort();
    total.say();
    for (seed, violation) in &total.violations {
        say(&format!("seed {seed}: {violation}"));
        say(&format!("  GENESYS_RELAY_SEED={seed} cargo test --test simulation nothing_is_lost"));
    }
    assert!(total.violations.is_empty(), "the law was broken");
}

#[test]
fn every_await_is_a_place_to_die() {
    let mut line = Vec::new();
    for of in ["ingest", "processor", "recovery", "reconcile", "archive", "restore", "replay"] {
        let mut places = 0;
        for nth in 0..INVOCATIONS {
            for after in 0.. {
                let outcome = run(Scenario::with_death(Death { of, nth, after }), false);
                assert_eq!(outcome.violation, None, "{of}, invocation {nth}, dead after {after} places");
                if !outcome.tally.contains_key("crashes") {
                    break;
                }
                places += 1;
            }
        }
        assert!(places > 0, "{of} never died");
        line.push(format!("{of} {places}"));
    }
    say(&format!("simulation: died at every await, and nothing was lost: {}", line.join(", ")));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let [one, other] = [(); 2].map(|()| run(Scenario::of(seed), false));
        assert_eq!((one.trace, one.tally), (other.trace, other.tally), "seed {seed}");
    }
}
