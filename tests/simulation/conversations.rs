//! Order of conversations where little fails: around crashes, behind poison, and beside others.

use std::time::Duration;

use crate::faults::{PlannedCrash, Tally};
use crate::run::{Outcome, run};
use crate::scenario::{Kind, OrderPlan, Scenario, Sent};
use crate::{number, print_line};

/// Seeds of stacks that keep the order, in every test run.
const SEEDS: u64 = 300;

/// Seeds of targets with a breaker that always fail on some events.
const BREAKER_SEEDS: u64 = 20;

const PATIENCE: Duration = Duration::from_mins(2);

/// Time to notice, to hide and to hand out, beyond the patience.
const SLACK: Duration = Duration::from_secs(30);

fn count(outcome: &Outcome, what: &str) -> u64 {
    outcome.tally.get(what).copied().unwrap_or(0)
}

fn nth(number: usize) -> u32 {
    u32::try_from(number).expect("few")
}

/// A stack that keeps the order, and nothing else that fails but poison.
fn calm(events: Vec<Sent>, length: Duration) -> Scenario {
    Scenario {
        events,
        length,
        throttled_per_thousand: 0,
        concurrency: 10,
        max_receives: 10,
        cap: Duration::from_mins(15),
        order: Some(OrderPlan::constant(PATIENCE)),
        ..Scenario::with_order_and_crash(PlannedCrash {
            of: "none",
            nth: 0,
            after: 0,
        })
    }
}

fn sent(number: usize, conversation: usize, at: Duration, poison: bool) -> Sent {
    Sent {
        number,
        kind: Kind::Webhook,
        at: vec![at],
        poison,
        conversation: Some(conversation),
    }
}

#[test]
fn order_holds_around_a_crash_at_any_call() {
    for (of, invocations) in [("processor", 6), ("ingest", 8)] {
        let mut crashes = 0;
        for nth in 0..invocations {
            for after in 0.. {
                let crash = PlannedCrash { of, nth, after };
                let outcome = run(Scenario::with_order_and_crash(crash), false);
                assert_eq!(
                    outcome.violation, None,
                    "{of}, invocation {nth}, crashed after {after} points"
                );
                if count(&outcome, "crashes") == 0 {
                    break;
                }
                crashes += 1;
            }
        }
        assert!(crashes > 20, "{of} crashed {crashes} times only");
        print_line(&format!(
            "simulation: {of} crashed {crashes} times in the middle of conversations"
        ));
    }
}

#[test]
fn order_holds_in_every_condition() {
    let seeds = number("GENESYS_RELAY_SEEDS").map_or(SEEDS, |seeds| SEEDS.max(seeds / 10));
    let mut tally = Tally::default();
    for seed in (0..seeds).map(|seed| seed * 10 + 4) {
        let outcome = run(Scenario::of(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        for (what, count) in outcome.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    for what in [
        "events that left their conversation",
        "deliveries in order",
        "deliveries marked late",
        "deliveries marked replayed",
        "batches with several conversations",
        "changes of order",
    ] {
        let count = tally.get(what).copied().unwrap_or(0);
        print_line(&format!(
            "simulation: {seeds} seeds with order: {count} {what}"
        ));
        assert!(count > 0, "{what}");
    }
}

#[test]
fn conversation_goes_on_when_the_patience_is_over() {
    // The third of ten, and both first of another conversation.
    let poison =
        |conversation, place| conversation == 0 && place == 2 || conversation == 1 && place < 2;
    let seconds = Duration::from_secs;
    let events = (0..2).flat_map(|conversation| {
        (0..10).map(move |place| {
            let at = seconds(10) + seconds(1) * nth(place);
            sent(
                10 * conversation + place,
                conversation,
                at,
                poison(conversation, place),
            )
        })
    });
    let events: Vec<_> = events.collect();
    let outcome = run(calm(events.clone(), Duration::from_hours(1)), false);
    assert_eq!(outcome.violation, None);
    assert_eq!(count(&outcome, "events that left their conversation"), 3);
    for event in events.iter().filter(|event| !event.poison) {
        let conversation = event.conversation.expect("one");
        let place = event.number % 10;
        let ahead = (0..place)
            .filter(|ahead| poison(conversation, *ahead))
            .count();
        let waited = outcome.taken_after[&event.label()].saturating_sub(event.at[0]);
        let longest = (PATIENCE + SLACK) * nth(ahead) + SLACK;
        assert!(waited < longest, "{} waited {waited:?}", event.label());
    }
}

#[test]
fn breaker_holds_no_conversation_back_while_the_target_works() {
    let mut opened = 0;
    for seed in 0..BREAKER_SEEDS {
        let scenario = Scenario::with_retryable_poison(seed);
        let conversations = 1 + usize::try_from(seed % 40).expect("few");
        let events = scenario.events.into_iter().map(|sent| Sent {
            conversation: Some(sent.number % conversations),
            ..sent
        });
        let scenario = Scenario {
            events: events.collect(),
            order: Some(OrderPlan::constant(PATIENCE)),
            ..scenario
        };
        let outcome = run(scenario, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        opened += u64::from(outcome.opened_after.is_some());
    }
    print_line(&format!(
        "simulation: {BREAKER_SEEDS} seeds with conversations and poison; the breaker opened in {opened}"
    ));
    assert!(opened > 0);
}

#[test]
fn failing_conversation_delays_no_other() {
    let minutes = Duration::from_mins;
    let [without, with] = [false, true].map(|fails| {
        let events: Vec<_> = (0..100 * 8)
            .map(|number| {
                let (conversation, place) = (number % 100, number / 100);
                let at = Duration::from_secs(30) * nth(place)
                    + Duration::from_millis(17) * nth(conversation);
                sent(number, conversation, at, fails && conversation == 7)
            })
            .collect();
        let outcome = run(calm(events.clone(), minutes(60)), false);
        assert_eq!(outcome.violation, None);
        let others = events.iter().filter(|event| event.conversation != Some(7));
        let mut ages: Vec<_> = others
            .map(|event| outcome.taken_after[&event.label()].saturating_sub(event.at[0]))
            .collect();
        ages.sort_unstable();
        let p99 = ages[ages.len() * 99 / 100];
        print_line(&format!(
            "simulation: one of 100 conversations fails: {fails}; the others' age at delivery is {:?} at the median, {p99:?} at 99 %",
            ages[ages.len() / 2]
        ));
        p99
    });
    assert!(
        with <= without.mul_f64(1.2),
        "{with:?} instead of {without:?}"
    );
}
