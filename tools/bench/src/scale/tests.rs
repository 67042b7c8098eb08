use super::model::batch;
use super::outage::{Outage, drain_seconds};
use super::simulation::{Scenario, Seen, number, run};
use super::*;
use crate::cost;

fn near(found: f64, expected: f64, share: f64) {
    assert!(
        (found - expected).abs() <= expected.abs() * share,
        "{found} is not {expected} within {}",
        percent(share)
    );
}

fn load(events_per_second: f64, failing: f64) -> Load {
    Load {
        events_per_second,
        failing,
        target_ms: 100.0,
    }
}

fn need(load: &Load, settings: &Settings, name: &str) -> f64 {
    quotas(load, settings)
        .iter()
        .find(|quota| quota.name == name)
        .expect("a quota")
        .need
}

#[test]
fn an_event_that_dies_is_in_flight_for_eighteen_minutes() {
    // 2 + 4 + … + 512 s, the mean jitter of 0.5 0.5 0.5 0.5 1.5 3 6 12.5 25.5 s, and ten batches of
    // one, 113 ms each.
    near(
        AS_SHIPPED.seconds_in_flight(&load(1.0, 1.0)),
        1022.0 + 50.5 + 1.13,
        1e-9,
    );
    near(AS_SHIPPED.seconds_in_flight(&load(1.0, 0.0)), 0.113, 1e-9);
    // One failure in a hundred: 1 % of 2.5 s, 0.01 % of 4.5 s …
    near(
        AS_SHIPPED.seconds_in_flight(&load(1.0, 0.01)),
        0.1141 + 0.025 + 0.000_45,
        0.001,
    );
}

#[test]
fn a_hundred_failing_events_a_second_just_fit_into_the_quota_of_messages_in_flight() {
    near(
        need(&load(100.0, 1.0), &AS_SHIPPED, "messages in flight"),
        107_382.0,
        1e-6,
    );
    assert!(
        binding(&load(112.0, 1.0), &RAISED)
            .iter()
            .any(|quota| quota.name == "messages in flight")
    );
}

#[test]
fn the_needs_are_what_a_hand_comes_to() {
    // 800 events a second in batches of ten that take 132 ms.
    near(
        need(&load(800.0, 0.0), &AS_SHIPPED, "`MaximumConcurrency`"),
        10.56,
        1e-9,
    );
    // Two write units for each.
    near(
        need(&load(800.0, 0.0), &AS_SHIPPED, "writes of a new table"),
        1600.0,
        1e-9,
    );
    // 8 ms for each ack, and the batches.
    near(
        need(&load(800.0, 0.0), &AS_SHIPPED, "concurrency of the account"),
        6.4 + 10.56,
        1e-9,
    );
    // When all die, the last claim and the death are in the index.
    near(
        need(
            &load(10.0, 1.0),
            &AS_SHIPPED,
            "writes of the dead-letter index",
        ),
        20.0,
        1e-9,
    );
    near(
        AS_SHIPPED.attempts_per_second(&load(1.0, 0.0)),
        757.58,
        1e-4,
    );
    near(load(1.0, 0.5).attempts(3), 1.75, 1e-9);
    near(load(1.0, 0.5).dying(3), 0.125, 1e-9);
}

#[test]
fn more_load_never_needs_less_and_more_failures_neither() {
    for settings in [AS_SHIPPED, RAISED] {
        let needs = |load: Load| {
            quotas(&load, &settings)
                .iter()
                .map(|quota| quota.need)
                .collect::<Vec<_>>()
        };
        for percent in 0..100 {
            let failing = f64::from(percent) / 100.0;
            let now = needs(load(100.0, failing));
            for more in [
                needs(load(101.0, failing)),
                needs(load(100.0, failing + 0.01)),
            ] {
                assert!(
                    now.iter().zip(&more).all(|(now, more)| more >= now),
                    "{now:?} {more:?}"
                );
            }
        }
    }
}

#[test]
fn what_binds_first_comes_first_and_a_small_load_exceeds_nothing() {
    let found = binding(&load(10.0, 0.7), &AS_SHIPPED);
    assert!(
        found.len() == 1 && found[0].utilisation() < 0.5,
        "{found:?}"
    );
    let found = binding(&load(50_000.0, 0.7), &AS_SHIPPED);
    assert!(
        found.len() > 4
            && found.is_sorted_by(|one, other| one.utilisation() >= other.utilisation()),
        "{found:?}"
    );
    assert_eq!(
        binding(&load(1000.0, 0.0), &AS_SHIPPED)[0].name,
        "`MaximumConcurrency`"
    );
}

#[test]
fn a_backlog_is_worked_off_by_what_is_left_of_the_capacity() {
    assert_eq!(drain_seconds(3600.0, 110.0, 100.0), Some(360.0));
    assert_eq!(drain_seconds(3600.0, 100.0, 100.0), None);
}

#[test]
fn batches_fill_only_when_no_invocation_is_free() {
    let least = |rate, settings: &Settings| batch(&load(rate, 0.0), settings);
    near(least(10.0, &AS_SHIPPED), 1.0, 1e-9);
    // 400 events a second on ten invocations: 40 batches' worth of a tenth of a second and 2.1 ms
    // for each message.
    near(least(400.0, &AS_SHIPPED), 4.84, 0.02);
    near(least(2000.0, &AS_SHIPPED), 10.0, 1e-9);
    near(least(2000.0, &RAISED), 1.0, 1e-9);
}

#[test]
fn numbers_are_grouped() {
    for (number, text) in [
        (0.0, "0"),
        (0.25, "0.2"),
        (9.96, "10"),
        (999.6, "1,000"),
        (1_234_567.0, "1,234,567"),
    ] {
        assert_eq!(rounded(number), text);
    }
}

// ---- against the simulation
// ------------------------------------------------------------------------------------------

const SEEDS: [u64; 2] = [1, 20_261_124];

fn scenario(events_per_second: f64, failing: f64) -> Scenario {
    let settings = Settings {
        maximum_concurrency: 1000.0,
        ..AS_SHIPPED
    };
    let load = load(events_per_second, failing);
    let (full, single) = (
        settings.batch_seconds(&load),
        Settings {
            batch_size: 1.0,
            ..settings
        }
        .batch_seconds(&load),
    );
    Scenario {
        settings,
        events_per_second,
        failing,
        batch_seconds: full,
        message_seconds: (full - single) / (settings.batch_size - 1.0),
        in_flight: usize::MAX,
        seconds: 20_000.0,
        warm_up_seconds: 2000.0,
    }
}

fn nothing_is_lost(seen: &Seen) {
    assert_eq!(
        seen.arrived,
        seen.delivered + seen.dead + seen.visible + seen.waiting,
        "{seen:?}"
    );
}

#[test]
fn in_the_simulation_as_many_are_in_flight_as_the_model_says() {
    for seed in SEEDS {
        for (failing, events_per_second) in [(0.01, 5.0), (0.3, 5.0), (0.7, 5.0), (1.0, 2.0)] {
            let scenario = scenario(events_per_second, failing);
            let seen = run(scenario, seed);
            nothing_is_lost(&seen);
            let load = load(events_per_second, failing);
            let expected = events_per_second * scenario.settings.seconds_in_flight(&load);
            near(seen.mean_in_flight, expected, 0.04);
            if failing < 1.0 {
                near(
                    number(seen.attempts) / number(seen.arrived),
                    load.attempts(10),
                    0.02,
                );
                let dead = number(seen.dead) / number(seen.arrived);
                assert!((dead - load.dying(10)).abs() < 0.003, "{dead}");
            }
        }
    }
}

#[test]
fn in_the_simulation_batches_are_of_one_while_there_is_room_and_full_when_there_is_none() {
    for seed in SEEDS {
        let seen = run(
            Scenario {
                seconds: 3000.0,
                ..scenario(20.0, 0.0)
            },
            seed,
        );
        near(seen.mean_batches, 20.0 * 0.113, 0.03);
        // Half of what ten invocations carry: what free ones take is what the model calls the
        // least.
        let half = scenario(400.0, 0.0);
        let seen = run(
            Scenario {
                settings: AS_SHIPPED,
                seconds: 300.0,
                warm_up_seconds: 60.0,
                ..half
            },
            seed,
        );
        nothing_is_lost(&seen);
        near(
            number(seen.attempts) / number(seen.begun),
            batch(&load(400.0, 0.0), &AS_SHIPPED),
            0.08,
        );
        // One and a half times of what two invocations carry: the queue grows by the rest.
        let settings = Settings {
            maximum_concurrency: 2.0,
            ..AS_SHIPPED
        };
        let most = settings.attempts_per_second(&load(1.0, 0.0));
        let full = Scenario {
            settings,
            seconds: 300.0,
            warm_up_seconds: 60.0,
            ..scenario(1.5 * most, 0.0)
        };
        let seen = run(full, seed);
        nothing_is_lost(&seen);
        near(seen.mean_batches, 2.0, 0.01);
        near(number(seen.visible), 0.5 * most * 300.0, 0.03);
    }
}

#[test]
fn in_the_simulation_a_full_quota_of_messages_in_flight_lets_no_more_die_than_the_model_says() {
    for seed in SEEDS {
        let scenario = Scenario {
            in_flight: 2000,
            seconds: 8000.0,
            ..scenario(5.0, 1.0)
        };
        let seen = run(scenario, seed);
        nothing_is_lost(&seen);
        assert_eq!(seen.most_in_flight, 2000);
        near(seen.mean_in_flight, 2000.0, 0.01);
        let life = scenario.settings.seconds_in_flight(&load(5.0, 1.0));
        assert!(number(seen.dead) <= 2000.0 / life * 8000.0, "{seen:?}");
        assert!(seen.visible > 0);
    }
}

#[test]
fn in_the_simulation_an_hour_of_outage_leaves_what_the_model_says() {
    for seed in SEEDS {
        let scenario = Scenario {
            seconds: 3600.0,
            warm_up_seconds: 0.0,
            ..scenario(10.0, 1.0)
        };
        let seen = run(scenario, seed);
        nothing_is_lost(&seen);
        let outage = Outage::of(&load(10.0, 0.0), &scenario.settings);
        near(number(seen.dead), outage.dead, 0.03);
        near(number(seen.visible + seen.waiting), outage.kept, 0.03);
        // A target that hangs holds every invocation for ten seconds: few attempts, and few deaths.
        let settings = AS_SHIPPED;
        let hanging = Load {
            target_ms: 10_000.0,
            ..load(20.0, 0.0)
        };
        let scenario = Scenario {
            events_per_second: 20.0,
            ..scenario
        };
        let seen = run(
            Scenario {
                settings,
                batch_seconds: settings.batch_seconds(&hanging),
                ..scenario
            },
            seed,
        );
        nothing_is_lost(&seen);
        let outage = Outage::of(&hanging, &settings);
        assert!(
            number(seen.dead) <= outage.dead && number(seen.visible + seen.waiting) >= outage.kept,
            "{seen:?}"
        );
        near(
            number(seen.attempts),
            3600.0 * settings.attempts_per_second(&hanging),
            0.02,
        );
    }
}

#[test]
fn the_document_holds_these_tables() {
    let printed = markdown();
    let found = cost::marked(include_str!("../../SCALE.md")).expect("markers in SCALE.md");
    assert!(
        found == printed.trim_matches('\n'),
        "put this between the markers of SCALE.md:\n\n{printed}"
    );
}
