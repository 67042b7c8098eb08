//! Delay of good events by the breaker while the target fails on others.

use std::time::Duration;

use genesys_relay::domain::event_record::StateName;

use crate::run::run;
use crate::scenario::{Kind, Scenario, Sent};
use crate::{number, print_line};

/// Seeds of targets that always fail on some events.
const SEEDS: u64 = 20;

/// Longest extra wait that the breaker may cause for nine of ten good events.
const MAX_EXTRA_WAIT: Duration = Duration::from_secs(30);

fn sent(number: usize, at: Duration, poison: bool) -> Sent {
    Sent {
        number,
        kind: Kind::Webhook,
        at: vec![at],
        poison,
        conversation: None,
    }
}

fn nth(number: usize) -> u32 {
    u32::try_from(number).expect("few")
}

/// Checks that nine of ten good events wait hardly longer with a breaker than without, in order and
/// out of order.
fn assert_good_events_are_on_time(events: &[Sent], length: Duration) {
    for disorder in [false, true] {
        let [without, with] = [None, Some(Duration::from_mins(1))].map(|breaker_every| {
            let scenario = Scenario {
                events: events.to_vec(),
                away: None,
                length,
                breaker_every,
                concurrency: 10,
                disorder,
                poison_is_retryable: true,
                ..Scenario::with_breaker(503, Duration::from_mins(1), None)
            };
            let outcome = run(scenario, false);
            assert_eq!(outcome.violation, None);
            let wait = |sent: &Sent| outcome.taken_after[&sent.label()].saturating_sub(sent.at[0]);
            let mut waits: Vec<_> = events.iter().filter(|sent| !sent.poison).map(wait).collect();
            waits.sort_unstable();
            let ninth_tenth = waits[waits.len() * 9 / 10];
            // Events of the last hours may still be in backoff.
            let dead = outcome.poison.iter().filter(|(state, _)| *state == StateName::Dead);
            let (dead, most) = (dead.count(), outcome.poison.iter().map(|(_, attempts)| *attempts).max());
            print_line(&format!(
                "simulation: breaker {}, disorder {disorder}: good events waited {:?} at the median, {ninth_tenth:?} at 90 %, \
                 {:?} at most; {dead} of {} others dead, after {most:?} attempts at most",
                breaker_every.is_some(),
                waits[waits.len() / 2],
                waits[waits.len() - 1],
                outcome.poison.len(),
            ));
            (ninth_tenth, dead, most)
        });
        assert!(
            with.0 <= without.0 + MAX_EXTRA_WAIT,
            "{with:?} instead of {without:?}"
        );
        assert!(
            with.1 * 10 >= without.1 * 9 && with.2 <= without.2.map(|most| 3 * most),
            "{with:?} instead of {without:?}"
        );
    }
}

#[test]
fn thirty_poison_events_do_not_delay_the_others() {
    let minutes = Duration::from_mins;
    let days = minutes(3 * 24 * 60);
    let bad = (0..30).map(|number| sent(1_000_000 + number, minutes(3), true));
    let good = (0..3 * 24 * 12)
        .map(|number| sent(number, minutes(5) * nth(number) + minutes(1) / 2, false));
    let events: Vec<_> = bad.chain(good).collect();
    assert_good_events_are_on_time(&events, days + minutes(10));
}

#[test]
fn good_half_is_on_time_when_the_target_fails_on_the_other_half() {
    let every = Duration::from_secs(20);
    let of = |number: usize| {
        sent(
            number,
            every * nth(number) + Duration::from_secs(30),
            number * 7 % 10 < 5,
        )
    };
    let events: Vec<_> = (0..2 * 3600 / 20).map(of).collect();
    assert_good_events_are_on_time(&events, Duration::from_mins(2 * 60 + 10));
}

#[test]
fn breaker_opens_within_two_minutes_of_an_outage() {
    let minutes = Duration::from_mins;
    for second in (0..60).step_by(12) {
        let began = minutes(10) + Duration::from_secs(second);
        let steady = (0..).map(|number| sent(number, Duration::from_secs(4) * nth(number), false));
        let scenario = Scenario {
            events: steady.take_while(|sent| sent.at[0] < minutes(20)).collect(),
            away: Some((began..minutes(40), 503)),
            length: minutes(60),
            disorder: second % 24 == 0,
            ..Scenario::with_breaker(503, minutes(1), None)
        };
        let outcome = run(scenario, false);
        assert_eq!(outcome.violation, None);
        let seen_after = outcome
            .opened_after
            .expect("it opened")
            .checked_sub(began)
            .expect("not before");
        assert!(
            seen_after.as_secs() <= 120,
            "the breaker opened {seen_after:?} after the outage at second {second}"
        );
        let count = |what| outcome.tally.get(what).copied().unwrap_or(0);
        // Plus the batch that was in flight when the mapping was disabled.
        let others = count("deliveries while held back") - count("probes");
        assert!(others <= 10, "{:?}", outcome.tally);
        assert_eq!(count("events dead"), 0, "{:?}", outcome.tally);
    }
}

#[test]
fn no_good_event_is_held_back_while_the_target_works() {
    let seeds = number("GENESYS_RELAY_SEEDS").map_or(SEEDS, |seeds| SEEDS.max(seeds / 100));
    let mut opened = 0;
    for seed in 0..seeds {
        let outcome = run(Scenario::with_retryable_poison(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        opened += u64::from(outcome.opened_after.is_some());
    }
    print_line(&format!(
        "simulation: {seeds} seeds with poison events; the breaker opened in {opened}"
    ));
    assert!(
        opened * 5 > seeds,
        "the breaker opened in {opened} of {seeds}"
    );
}
