//! What the breaker costs good events: little, whatever the target cannot digest, and in whichever order the queue hands out.

use std::time::Duration;

use genesys_relay::domain::event_record::StateName;

use crate::run::run;
use crate::scenario::{Kind, Scenario, Sent};
use crate::{number, say};

/// Seeds of targets that cannot digest some events.
const SEEDS: u64 = 20;

/// Nine of ten good events may wait so much longer than without a breaker: not until a probe happens to take them.
const LONGER: Duration = Duration::from_secs(30);

fn sent(number: usize, at: Duration, poison: bool) -> Sent {
    Sent { number, kind: Kind::Webhook, at: vec![at], poison }
}

fn nth(number: usize) -> u32 {
    u32::try_from(number).expect("few")
}

/// How long nine of ten good events wait at the most, with and without a breaker, oldest first and in any order; and what
/// became of the others.
fn good_events_wait_hardly_longer(events: &[Sent], length: Duration) {
    for disorder in [false, true] {
        let [without, with] = [None, Some(Duration::from_mins(1))].map(|breaker_every| {
            let scenario = Scenario {
                events: events.to_vec(),
                away: None,
                length,
                breaker_every,
                concurrency: 10,
                disorder,
                indigestible: true,
                ..Scenario::with_breaker(503, Duration::from_mins(1), None)
            };
            let outcome = run(scenario, false);
            assert_eq!(outcome.violation, None);
            let wait = |sent: &Sent| outcome.taken_after[&sent.label()].saturating_sub(sent.at[0]);
            let mut waits: Vec<_> = events.iter().filter(|sent| !sent.poison).map(wait).collect();
            waits.sort_unstable();
            let ninth_tenth = waits[waits.len() * 9 / 10];
            // What came within the last hours may be at it still.
            let dead = outcome.poison.iter().filter(|(state, _)| *state == StateName::Dead);
            let (dead, most) = (dead.count(), outcome.poison.iter().map(|(_, attempts)| *attempts).max());
            say(&format!(
                "simulation: breaker {}, disorder {disorder}: good events waited {:?} at the median, {ninth_tenth:?} at 90 %, \
                 {:?} at most; {dead} of {} others dead, after {most:?} attempts at most",
                breaker_every.is_some(),
                waits[waits.len() / 2],
                waits[waits.len() - 1],
                outcome.poison.len(),
            ));
            (ninth_tenth, dead, most)
        });
        assert!(with.0 <= without.0 + LONGER, "{with:?} instead of {without:?}");
        assert!(
            with.1 * 10 >= without.1 * 9 && with.2 <= without.2.map(|most| 3 * most),
            "{with:?} instead of {without:?}"
        );
    }
}

#[test]
fn thirty_events_that_the_target_cannot_digest_do_not_hold_back_the_others() {
    let minutes = Duration::from_mins;
    let days = minutes(3 * 24 * 60);
    let bad = (0..30).map(|number| sent(1_000_000 + number, minutes(3), true));
    let good = (0..3 * 24 * 12).map(|number| sent(number, minutes(5) * nth(number) + minutes(1) / 2, false));
    let events: Vec<_> = bad.chain(good).collect();
    good_events_wait_hardly_longer(&events, days + minutes(10));
}

#[test]
fn a_target_that_cannot_digest_half_of_the_events_gets_the_others_in_time() {
    let every = Duration::from_secs(20);
    let of = |number: usize| sent(number, every * nth(number) + Duration::from_secs(30), number * 7 % 10 < 5);
    let events: Vec<_> = (0..2 * 3600 / 20).map(of).collect();
    good_events_wait_hardly_longer(&events, Duration::from_mins(2 * 60 + 10));
}

#[test]
fn an_outage_is_seen_within_two_minutes_whenever_it_begins_and_gets_probes_alone() {
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
        let seen_after = outcome.opened_after.expect("it opened").checked_sub(began).expect("not before");
        // Give or take the run itself.
        assert!(seen_after.as_secs() <= 120, "the outage of second {second} was seen after {seen_after:?}");
        let count = |what| outcome.tally.get(what).copied().unwrap_or(0);
        // And the batch that was under way when the mapping was disabled.
        let others = count("deliveries while held back") - count("probes");
        assert!(others <= 10, "{:?}", outcome.tally);
        assert_eq!(count("events dead"), 0, "{:?}", outcome.tally);
    }
}

#[test]
fn no_good_event_is_held_back_for_long_while_the_target_is_there() {
    let seeds = number("GENESYS_RELAY_SEEDS").map_or(SEEDS, |seeds| SEEDS.max(seeds / 100));
    let mut opened = 0;
    for seed in 0..seeds {
        let outcome = run(Scenario::with_indigestible_events(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        opened += u64::from(outcome.opened_after.is_some());
    }
    say(&format!(
        "simulation: targets that cannot digest some events: {seeds} seeds, in {opened} of which the breaker opened"
    ));
    assert!(opened * 5 > seeds, "the breaker opened in {opened} of {seeds}");
}
