//! Simulation: the relay's use cases over models of all services, on virtual time, with faults at
//! every call. Invariants are checked throughout and at the end.
//!
//! A seed decides everything. `cargo xtask simulate --seeds N` runs many, and `cargo xtask simulate
//! --seed N` replays one with a log.

mod conversations;
mod credentials;
mod faults;
mod genesys;
mod invariants;
mod mapping;
mod ports;
mod run;
mod scenario;
mod target;
mod timeliness;
mod world;

use std::cell::RefCell;
use std::env;
use std::io::{Write as _, stderr};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use crate::faults::{PlannedCrash, Tally};
use crate::run::{Outcome, run};
use crate::scenario::Scenario;

/// Invocations of each function that crash before and after each of their calls, one crash per run.
const INVOCATIONS: u64 = 6;

/// Seeds of every test run. `cargo xtask simulate` runs more.
const SEEDS: u64 = 10_000;

/// Seeds of stacks with a journal, beside those among [`SEEDS`].
const JOURNAL_SEEDS: u64 = 300;

/// Seeds of targets whose credentials expire, are revoked and rotate.
const CREDENTIALS_SEEDS: u64 = 100;

/// Seeds of breakers before a target with a bound on its rate.
const RATE_SEEDS: u64 = 50;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line, also when the test passes.
fn print_line(line: &str) {
    // A line that cannot be printed is lost.
    let _ = writeln!(stderr(), "{line}");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value}, and no number"))
    })
}

thread_local! {
    /// Panic of the relay's own code on this thread.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the relay's last panic. The target panics on purpose, without the hook.
fn panicked() -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANIC.set(Some(format!("the relay panicked: {info}")));
            before(info);
        }));
    });
    PANIC.take()
}

/// Totals of all seeds.
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
        self.violations
            .extend(outcome.violation.map(|violation| (seed, violation)));
    }

    fn print(&self) {
        let days = self.simulated.as_secs() / (24 * 3600);
        print_line(&format!(
            "simulation: {} seeds, {} events, {days} days",
            self.seeds, self.events
        ));
        let counts: Vec<_> = self
            .tally
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        print_line(&format!("simulation: {}", counts.join(", ")));
        let broken = self.violations.len();
        print_line(&format!(
            "simulation: {broken} seeds broke an invariant; {} deliveries repeated, all unrecorded",
            self.repeats
        ));
    }
}

#[test]
fn no_event_is_lost_under_any_faults() {
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
    total.print();
    for (seed, violation) in &total.violations {
        print_line(&format!("seed {seed}: {violation}"));
        print_line(&format!("  cargo xtask simulate --seed {seed}"));
    }
    assert!(total.violations.is_empty(), "an invariant was broken");
}

#[test]
fn no_event_is_lost_by_a_crash_around_any_call() {
    let mut line = Vec::new();
    let undisturbed = run(
        Scenario::with_crash(PlannedCrash {
            of: "none",
            nth: 0,
            after: 0,
        }),
        false,
    );
    assert_eq!(undisturbed.violation, None);
    for done in [
        "runs that replayed",
        "runs that archived",
        "runs that restored",
        "runs that discarded",
    ] {
        assert!(
            undisturbed.tally.contains_key(done),
            "nothing to crash in: {:?}",
            undisturbed.tally
        );
    }
    for of in [
        "ingest",
        "processor",
        "recovery",
        "reconcile",
        "archive",
        "restore",
        "replay",
        "discard",
    ] {
        let mut crashes = 0;
        for nth in 0..INVOCATIONS {
            for after in 0.. {
                let outcome = run(Scenario::with_crash(PlannedCrash { of, nth, after }), false);
                assert_eq!(
                    outcome.violation, None,
                    "{of}, invocation {nth}, crashed after {after} points"
                );
                if !outcome.tally.contains_key("crashes") {
                    break;
                }
                crashes += 1;
            }
        }
        assert!(crashes > 0, "{of} never crashed");
        line.push(format!("{of} {crashes}"));
    }
    print_line(&format!(
        "simulation: crashed before and after every call, and nothing was lost: {}",
        line.join(", ")
    ));
}

#[test]
fn resends_and_erasures_hold_around_a_crash_at_any_call() {
    let run = |crash| run(Scenario::with_journal_and_crash(crash), false);
    let undisturbed = run(PlannedCrash {
        of: "none",
        nth: 0,
        after: 0,
    });
    assert_eq!(undisturbed.violation, None);
    for done in [
        "resends that ended",
        "erasures that ended",
        "events delivered by resends",
    ] {
        assert!(
            undisturbed.tally.get(done) > Some(&0),
            "{done}: {:?}",
            undisturbed.tally
        );
    }
    let mut line = Vec::new();
    for (of, invocations) in [
        ("resend", 4),
        ("erase", 2),
        ("journal", 4),
        ("start", 4),
        ("processor", 6),
    ] {
        let mut crashes = 0;
        for nth in 0..invocations {
            for after in 0.. {
                let outcome = run(PlannedCrash { of, nth, after });
                assert_eq!(
                    outcome.violation, None,
                    "{of}, invocation {nth}, crashed after {after} points"
                );
                if !outcome.tally.contains_key("crashes") {
                    break;
                }
                crashes += 1;
            }
        }
        assert!(crashes > 0, "{of} never crashed");
        line.push(format!("{of} {crashes}"));
    }
    print_line(&format!(
        "simulation: resends and erasures with a crash before and after every call: {}",
        line.join(", ")
    ));
}

#[test]
fn resends_and_erasures_hold_in_every_condition() {
    let seeds =
        number("GENESYS_RELAY_SEEDS").map_or(JOURNAL_SEEDS, |seeds| JOURNAL_SEEDS.max(seeds / 20));
    let (mut tally, mut broken) = (Tally::default(), Vec::new());
    for seed in (0..seeds).map(|seed| SEEDS + seed * 20 + 6) {
        let outcome = run(Scenario::of(seed), false);
        if let Some(violation) = outcome.violation {
            broken.push(format!("seed {seed}: {violation}"));
        }
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let counted = [
        "events in the journal",
        "deliveries of resends",
        "events delivered by resends",
        "resends that ended",
        "erasures that ended",
    ];
    for what in counted {
        let count = tally.get(what).copied().unwrap_or(0);
        print_line(&format!(
            "simulation: {seeds} seeds with a journal: {count} {what}"
        ));
        assert!(count > 0, "{what}");
    }
}

#[test]
fn no_event_dies_while_the_breaker_holds_it_back() {
    // Longer than all receives last, and shorter than the breaker waits.
    let outage = Duration::from_mins(40);
    let outcome = run(Scenario::with_breaker(503, outage, None), false);
    assert_eq!(outcome.violation, None);
    let count = |what| outcome.tally.get(what).copied().unwrap_or(0);
    assert_eq!(count("events dead"), 0, "{:?}", outcome.tally);
    assert!((25..45).contains(&count("probes")), "{:?}", outcome.tally);
    assert_eq!(
        count("deliveries while held back"),
        count("probes"),
        "{:?}",
        outcome.tally
    );
    print_line(&format!(
        "simulation: 40 minutes of outage: {} probes, no dead letter",
        count("probes")
    ));

    // Events that are refused before the breaker opens are dead letters; no event after that.
    let outcome = run(Scenario::with_breaker(404, outage, None), false);
    assert_eq!(outcome.violation, None);
    let count = |what| outcome.tally.get(what).copied().unwrap_or(0);
    assert!(
        count("events dead") < 20 && count("probes") > 25,
        "{:?}",
        outcome.tally
    );
}

#[test]
fn every_event_is_a_dead_letter_before_it_expires_in_an_endless_outage() {
    let outcome = run(
        Scenario::with_breaker(503, Duration::from_hours(4 * 24), None),
        false,
    );
    assert_eq!(outcome.violation, None);
    assert!(
        outcome
            .tally
            .get("events dead")
            .is_some_and(|dead| *dead >= 70),
        "{:?}",
        outcome.tally
    );
}

#[test]
fn no_event_is_lost_by_a_crash_around_any_call_of_the_breaker() {
    let outage = Duration::from_mins(15);
    // Around its opening and its closing.
    for (of, invocations) in [
        ("breaker", 1..6),
        ("breaker", 14..19),
        ("probe", 0..3),
        ("probe", 10..14),
    ] {
        let mut crashes = 0;
        for nth in invocations {
            for after in 0.. {
                let outcome = run(
                    Scenario::with_breaker(503, outage, Some(PlannedCrash { of, nth, after })),
                    false,
                );
                assert_eq!(
                    outcome.violation, None,
                    "{of}, invocation {nth}, crashed after {after} points"
                );
                if !outcome.tally.contains_key("crashes") {
                    break;
                }
                crashes += 1;
            }
        }
        assert!(crashes > 10, "{of} crashed {crashes} times only");
        print_line(&format!("simulation: {of} crashed {crashes} times"));
    }
}

#[test]
fn every_event_is_delivered_once_the_credentials_are_mended() {
    let mut tally = Tally::default();
    for seed in 0..CREDENTIALS_SEEDS {
        let outcome = run(
            Scenario::with_credentials(seed),
            number("GENESYS_RELAY_SEED") == Some(seed),
        );
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.tally.get("events dead"), None, "seed {seed}");
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    let count = |what| tally.get(what).copied().unwrap_or(0);
    print_line(&format!(
        "simulation: {CREDENTIALS_SEEDS} targets with credentials: {} deliveries, {} refused, {} tokens, no dead letter",
        count("deliveries"),
        count("credentials refused"),
        count("tokens asked for")
    ));
}

#[test]
fn no_second_has_more_requests_than_the_rate_probes_included() {
    let mut tally = Tally::default();
    for seed in 0..RATE_SEEDS {
        let outcome = run(
            Scenario::with_rate(seed),
            number("GENESYS_RELAY_SEED") == Some(seed),
        );
        assert_eq!(outcome.violation, None, "seed {seed}");
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    let count = |what| tally.get(what).copied().unwrap_or(0);
    print_line(&format!(
        "simulation: {RATE_SEEDS} targets with a rate: {} deliveries, {} probes, {} answers of probes lost",
        count("deliveries"),
        count("probes"),
        count("answers of probes lost")
    ));
    assert!(count("probes") > RATE_SEEDS, "{tally:?}");
}

#[test]
fn seed_replays_exactly() {
    for seed in 0..60 {
        let [one, other] = [(); 2].map(|()| run(Scenario::of(seed), false));
        assert_eq!(
            (one.trace, one.tally),
            (other.trace, other.tally),
            "seed {seed}"
        );
    }
}
