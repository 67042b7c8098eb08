//! The breaker minute by minute, over stand-ins, on virtual time.

mod order;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, advance};
use uuid::Uuid;

use super::watchdog::release_if_stale;
use super::*;
use crate::domain::attempts::{Attempts, minute_of};
use crate::domain::circuit::{Circuit, Override, Policy, Probed, Settings, State};
use crate::domain::event::EventId;
use crate::domain::message::Message;
use crate::domain::request::Requester;
use crate::ports::clock::Clock as _;
use crate::ports::event_source::EventSource as _;
use crate::ports::events_table::{EventsTable as _, LeaseName, RunLease};
use crate::ports::queue::{Countable as _, Sender as _};
use crate::ports::service::{Fault, Service, ServiceError};
use crate::testing::{FakeClock, FakeEventSource, FakePorts, FakeProber, FakeQueue, FakeTable};

type TheBreaker = Breaker<FakePorts>;

fn breaker() -> TheBreaker {
    FakeClock::start_over();
    let ports = Ports {
        events: FakeQueue::default(),
        table: FakeTable::default(),
        ordered: None,
        event_sources: vec![FakeEventSource::default()],
        prober: FakeProber::default(),
        clock: FakeClock,
    };
    Breaker {
        ports,
        policy: Policy {
            failure_percent: 90,
            maximum_concurrency: 10,
            processor_timeout: None,
        },
        is_on: true,
    }
}

/// A breaker whose processor has a bound on its rate, and may run for a minute.
fn breaker_with_rate() -> TheBreaker {
    let mut breaker = breaker();
    breaker.policy.processor_timeout = Some(Duration::from_mins(1));
    breaker
}

async fn ask(
    breaker: &TheBreaker,
    override_state: Option<Override>,
) -> Result<BreakerStatus, BreakerError> {
    let requester = Requester {
        by: "a test".to_owned(),
        why: Some("to see".to_owned()),
        ..Requester::default()
    };
    breaker
        .handle(
            &Request {
                override_state,
                requester,
            },
            Instant::now() + Duration::from_mins(1),
        )
        .await
}

/// Sets the mapping as its owner does.
async fn switch(breaker: &TheBreaker, enabled: bool, maximum_concurrency: u32) {
    let settings = set(enabled, maximum_concurrency);
    breaker.ports.event_sources[0]
        .set(settings)
        .await
        .expect("set");
}

/// Runs the watchdog.
async fn watch(breaker: &TheBreaker) -> Result<(), ServiceError> {
    let (ports, now) = (&breaker.ports, FakeClock.now());
    let requester = Requester {
        by: "a schedule".to_owned(),
        ..Requester::default()
    };
    release_if_stale(&ports.table, &ports.event_sources, 10, &requester, now).await
}

fn id(number: u32) -> EventId {
    format!("{number:02}-event").parse().expect("an id")
}

/// Counts attempts of this minute: so many failed, at so many events, each first of all, and so
/// many succeeded at once.
async fn count(breaker: &TheBreaker, failed: u32, events: u32, delivered: u32) {
    let mut attempts = Attempts::default();
    (0..failed).for_each(|number| attempts.count(&id(number % events), 1 + number / events, false));
    (0..delivered).for_each(|number| attempts.count(&id(number), 1, true));
    breaker
        .ports
        .table
        .count_attempts(minute_of(FakeClock.now()), &attempts)
        .await
        .expect("counted");
}

/// A minute with such attempts, in which the breaker runs.
async fn minute(breaker: &TheBreaker, failed: u32, events: u32, delivered: u32) -> BreakerStatus {
    count(breaker, failed, events, delivered).await;
    let shown = ask(breaker, None).await.expect("a run");
    advance(Duration::from_mins(1)).await;
    shown
}

/// Two minutes in which everything fails.
async fn an_outage(breaker: &TheBreaker) -> BreakerStatus {
    minute(breaker, 0, 0, 5).await;
    minute(breaker, 20, 20, 0).await;
    minute(breaker, 20, 20, 0).await
}

/// The circuit as it was saved last.
async fn saved(breaker: &TheBreaker) -> Circuit {
    let circuit = breaker.ports.table.circuit().await;
    circuit.expect("read").expect("saved")
}

fn set(enabled: bool, maximum_concurrency: u32) -> Settings {
    Settings {
        enabled,
        maximum_concurrency,
    }
}

fn taken() -> Probed {
    Probed::Delivered {
        event_id: "e".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn it_opens_when_nearly_everything_fails_for_minutes() {
    let breaker = breaker();
    assert_eq!(an_outage(&breaker).await.state, "open");
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
}

#[tokio::test(start_paused = true)]
async fn it_stays_closed_for_what_is_no_outage() {
    for (failed, events, delivered, what) in [
        (200, 4, 0, "few events that fail often are poison"),
        (
            400,
            40,
            8,
            "later attempts at what failed say nothing, and nearly a fifth of the first succeed",
        ),
        (80, 80, 20, "most do, and not nearly all"),
        (0, 1, 1000, "nothing is wrong"),
        (0, 1, 0, "nothing happens"),
    ] {
        let breaker = breaker();
        for _ in 0..6 {
            assert_eq!(
                minute(&breaker, failed, events, delivered).await.state,
                "closed",
                "{what}"
            );
        }
        assert_eq!(
            breaker.ports.event_sources[0].now(),
            set(true, 10),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_minute_is_not_enough() {
    let breaker = breaker();
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(minute(&breaker, 100, 100, 0).await.state, "closed");
    for _ in 0..5 {
        assert_eq!(minute(&breaker, 0, 1, 1).await.state, "closed");
    }
}

/// Every attempt at thirty events fails, and sometimes another event comes.
#[tokio::test(start_paused = true)]
async fn events_that_the_target_cannot_digest_are_no_outage_however_often_they_fail() {
    let breaker = breaker();
    for passed in 0..30 {
        let mut attempts = Attempts::default();
        (0..30).for_each(|number| attempts.count(&id(number), 2 + passed, false));
        breaker
            .ports
            .table
            .count_attempts(minute_of(FakeClock.now()), &attempts)
            .await
            .expect("counted");
        let delivered = u32::from(passed % 5 == 0);
        assert_eq!(
            minute(&breaker, 0, 1, delivered).await.state,
            "closed",
            "after {passed} minutes"
        );
    }
}

/// The outage and the run begin in any second of a minute.
#[tokio::test(start_paused = true)]
async fn an_outage_is_seen_within_two_minutes_whenever_it_begins() {
    for (begins, runs) in (0..60)
        .step_by(7)
        .flat_map(|begins| (0..60).step_by(7).map(move |runs| (begins, runs)))
    {
        let breaker = breaker();
        let mut seen_after = None;
        for second in 0..400 {
            if second % 60 == runs && ask(&breaker, None).await.expect("a run").state == "open" {
                seen_after = Some(second - 120 - begins);
                break;
            }
            let mut attempts = Attempts::default();
            (0..4).for_each(|number| {
                attempts.count(&id(second * 4 + number), 1, second < 120 + begins);
            });
            breaker
                .ports
                .table
                .count_attempts(minute_of(FakeClock.now()), &attempts)
                .await
                .expect("counted");
            advance(Duration::from_secs(1)).await;
        }
        let seen_after = seen_after.expect("it opened");
        assert!(
            (15..=128).contains(&seen_after),
            "begins in second {begins}, runs in {runs}: {seen_after} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn it_closes_by_way_of_the_smallest_concurrency() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.ports.prober.will(Ok(Probed::Failed {
        event_id: "e".to_owned(),
        error: "503".to_owned(),
    }));
    breaker
        .ports
        .prober
        .will(Err("the processor does not answer".to_owned()));
    breaker.ports.prober.will(Ok(Probed::Nothing));
    breaker.ports.prober.will(Ok(taken()));
    for (state, probes) in [("open", 1), ("open", 2), ("open", 2), ("closing", 3)] {
        let shown = minute(&breaker, 0, 1, 0).await;
        assert_eq!((&*shown.state, shown.probes), (state, probes));
    }
    for concurrency in [2, 4, 8] {
        assert_eq!(breaker.ports.event_sources[0].now(), set(true, concurrency));
        minute(&breaker, 0, 1, 50).await;
    }
    let shown = minute(&breaker, 0, 1, 50).await;
    assert_eq!(
        (&*shown.state, breaker.ports.event_sources[0].now()),
        ("closed", set(true, 10))
    );
}

/// Lambda delivers what it throttled together.
#[tokio::test(start_paused = true)]
async fn runs_that_come_together_are_one_step() {
    let breaker = breaker();
    an_outage(&breaker).await;
    let twice = async || {
        ask(&breaker, None).await.expect("a run");
        advance(Duration::from_millis(500)).await;
        let shown = ask(&breaker, None).await.expect("a run");
        advance(Duration::from_mins(1)).await;
        (
            shown.state,
            shown.probes,
            breaker.ports.event_sources[0].now().maximum_concurrency,
        )
    };
    (0..2).for_each(|_| {
        breaker.ports.prober.will(Ok(Probed::Failed {
            event_id: "e".to_owned(),
            error: "503".to_owned(),
        }));
    });
    assert_eq!(twice().await, ("open".into(), 1, 2));
    assert_eq!(twice().await, ("open".into(), 2, 2));
    breaker.ports.prober.will(Ok(taken()));
    assert_eq!(twice().await, ("closing".into(), 3, 2));
    assert_eq!(twice().await, ("closing".into(), 3, 4));
    assert_eq!(twice().await, ("closing".into(), 3, 8));
    assert_eq!(twice().await, ("closed".into(), 3, 10));
}

#[tokio::test(start_paused = true)]
async fn no_step_is_taken_before_the_last_has_taken_effect() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.ports.prober.will(Ok(taken()));
    breaker.ports.event_sources[0].change(true);
    assert_eq!(
        minute(&breaker, 0, 1, 0).await.state,
        "open",
        "what was under way comes back still"
    );
    breaker.ports.event_sources[0].change(false);
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closing");
    breaker.ports.event_sources[0].change(true);
    for _ in 0..3 {
        assert_eq!(minute(&breaker, 0, 1, 0).await.maximum_concurrency, Some(2));
    }
    breaker.ports.event_sources[0].change(false);
    assert_eq!(minute(&breaker, 0, 1, 0).await.maximum_concurrency, Some(4));
}

#[tokio::test(start_paused = true)]
async fn it_opens_again_at_once_when_the_target_is_not_yet_back() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.ports.prober.will(Ok(taken()));
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closing");
    let shown = minute(&breaker, 20, 20, 0).await;
    assert_eq!((&*shown.state, shown.probes), ("open", 0));
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
}

#[tokio::test(start_paused = true)]
async fn after_three_days_it_lets_events_go_to_the_dead_letters_and_closes_when_the_target_is_back()
{
    let breaker = breaker();
    an_outage(&breaker).await;
    advance(Duration::from_hours(3 * 24)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "exhausting");
    assert_eq!(
        breaker.ports.event_sources[0].now(),
        set(true, 10),
        "all have to be through before they expire"
    );
    assert_eq!(
        minute(&breaker, 60, 60, 0).await.state,
        "exhausting",
        "that they fail is known"
    );
    minute(&breaker, 0, 1, 10).await;
    minute(&breaker, 0, 1, 80).await;
    assert_eq!(minute(&breaker, 0, 1, 80).await.state, "closing");
}

#[tokio::test(start_paused = true)]
async fn override_stays_until_it_is_changed() {
    let breaker = breaker();
    let open = ask(&breaker, Some(Override::Open)).await.expect("opened");
    assert_eq!(
        (
            &*open.state,
            open.forced,
            open.by.as_deref(),
            open.why.as_str()
        ),
        ("open", true, Some("a test"), "to see")
    );
    breaker.ports.prober.will(Ok(taken()));
    assert_eq!(
        minute(&breaker, 0, 1, 0).await.state,
        "open",
        "an override is not probed"
    );
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
    let automatic = ask(&breaker, Some(Override::Automatic))
        .await
        .expect("done");
    assert_eq!((&*automatic.state, automatic.forced), ("closing", false));
    ask(&breaker, Some(Override::Closed)).await.expect("closed");
    for _ in 0..5 {
        assert_eq!(minute(&breaker, 50, 50, 0).await.state, "closed");
    }
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn breaker_opened_by_hand_exhausts_after_three_days() {
    let breaker = breaker();
    ask(&breaker, Some(Override::Open)).await.expect("opened");
    advance(Duration::from_hours(3 * 24)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "exhausting");
}

/// An operator sees events die, and says stop.
#[tokio::test(start_paused = true)]
async fn override_to_open_while_exhausting_holds_events_back() {
    let breaker = breaker();
    an_outage(&breaker).await;
    advance(Duration::from_hours(3 * 24)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "exhausting");
    let told = ask(&breaker, Some(Override::Open)).await.expect("opened");
    assert_eq!((&*told.state, told.forced), ("open", true));
    for hours in [0, 24, 47] {
        advance(Duration::from_hours(hours)).await;
        assert_eq!(
            minute(&breaker, 0, 1, 0).await.state,
            "open",
            "after {hours} hours more"
        );
        assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
    }
    advance(Duration::from_hours(1)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "exhausting");
}

#[tokio::test(start_paused = true)]
async fn foreign_change_of_the_mapping_is_reverted() {
    let breaker = breaker();
    switch(&breaker, false, 5).await;
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_turned_off_lets_events_flow() {
    let mut breaker = breaker();
    an_outage(&breaker).await;
    breaker.is_on = false;
    assert_eq!(minute(&breaker, 50, 50, 0).await.state, "off");
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
    assert!(matches!(
        ask(&breaker, Some(Override::Open)).await,
        Err(BreakerError::Off)
    ));
    switch(&breaker, false, 5).await;
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(
        breaker.ports.event_sources[0].now(),
        set(false, 5),
        "without a breaker the mapping is its owner's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_that_comes_back_for_a_moment_now_and_then_does_not_hold_events_back_for_ever() {
    let breaker = breaker();
    an_outage(&breaker).await;
    for closed in [false, true] {
        advance(Duration::from_hours(24)).await;
        breaker.ports.prober.will(Ok(taken()));
        assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closing");
        // It stays long enough for the breaker to close, or not.
        for _ in 0..if closed { 40 } else { 0 } {
            minute(&breaker, 0, 1, 20).await;
        }
        minute(&breaker, 20, 20, 0).await;
        assert_eq!(minute(&breaker, 20, 20, 0).await.state, "open");
    }
    let shown = ask(&breaker, Some(Override::Automatic))
        .await
        .expect("as it is");
    assert_eq!(
        (&*shown.state, shown.forced),
        ("open", false),
        "the outage goes on"
    );
    advance(Duration::from_hours(24)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "exhausting");
}

#[tokio::test(start_paused = true)]
async fn time_without_an_answered_probe_is_known() {
    let breaker = breaker();
    an_outage(&breaker).await;
    let opened = saved(&breaker).await.since;
    let looked_at = async || saved(&breaker).await.looked_at;
    for _ in 0..6 {
        breaker
            .ports
            .prober
            .will(Err("the processor does not answer".to_owned()));
        minute(&breaker, 0, 1, 0).await;
        assert_eq!(looked_at().await, None, "it has not been possible");
    }
    minute(&breaker, 0, 1, 0).await;
    assert!(
        looked_at().await.is_some_and(|at| at > opened),
        "answered, with no event to attempt"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_act_is_known_as_broken() {
    let breaker = breaker();
    minute(&breaker, 0, 1, 5).await;
    let looked = async || saved(&breaker).await.last_run_at;
    let before = looked().await;
    switch(&breaker, false, 5).await;
    breaker.ports.event_sources[0].fail(true);
    assert!(matches!(
        ask(&breaker, None).await,
        Err(BreakerError::Service(error)) if error.service == Service::EventSourceMapping
    ));
    assert_eq!(looked().await, before);

    // The mapping is off, and the table says closed: the watchdog enables it.
    breaker.ports.event_sources[0].fail(false);
    advance(Duration::from_mins(10)).await;
    watch(&breaker).await.expect("released");
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_turned_off_lets_go_once_whatever_it_was() {
    let mut breaker = breaker();
    ask(&breaker, Some(Override::Closed)).await.expect("closed");
    switch(&breaker, false, 2).await;
    breaker.is_on = false;
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
    switch(&breaker, false, 5).await;
    advance(Duration::from_mins(20)).await;
    minute(&breaker, 0, 1, 0).await;
    watch(&breaker).await.expect("nothing to do");
    assert_eq!(
        breaker.ports.event_sources[0].now(),
        set(false, 5),
        "it is its owner's"
    );

    breaker.is_on = true;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closed");
    assert_eq!(
        breaker.ports.event_sources[0].now(),
        set(true, 10),
        "and the breaker's again"
    );
}

/// A way back to an older version, say.
#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_is_replaced_by_an_override_or_the_watchdog() {
    for state in [
        Some(Override::Closed),
        Some(Override::Open),
        Some(Override::Automatic),
        None,
    ] {
        let breaker = breaker();
        an_outage(&breaker).await;
        breaker.ports.table.spoil_circuit();
        assert!(matches!(
            ask(&breaker, None).await,
            Err(BreakerError::Service(error)) if error.fault == Fault::Unreadable
        ));
        match state {
            Some(_) => drop(ask(&breaker, state).await.expect("done")),
            None => {
                watch(&breaker).await.expect("done");
            }
        }
        let is_open = state == Some(Override::Open);
        assert_eq!(
            breaker.ports.event_sources[0].now().enabled,
            !is_open,
            "{state:?}"
        );
        let shown = ask(&breaker, None).await.expect("read again");
        assert_eq!(
            &*shown.state,
            if is_open { "open" } else { "closed" },
            "{state:?}"
        );
    }
    let mut breaker = breaker();
    an_outage(&breaker).await;
    breaker.ports.table.spoil_circuit();
    breaker.is_on = false;
    assert_eq!(ask(&breaker, None).await.expect("done").state, "off");
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

/// It cannot start, or is not invoked.
#[tokio::test(start_paused = true)]
async fn a_processor_that_attempts_nothing_of_what_waits_is_noticed() {
    let silent_since = async |breaker: &TheBreaker| {
        let circuit = saved(breaker).await;
        circuit.silent_since(
            breaker.ports.events.depth().await.expect("counted"),
            FakeClock.now(),
        )
    };
    let breaker = breaker();
    minute(&breaker, 0, 1, 5).await;
    let message = Message {
        body: "{}".to_owned(),
        attributes: BTreeMap::default(),
        group: None,
        trace: None,
    };
    breaker.ports.events.send(&message).await.expect("sent");
    for attempted in [1, 1, 1, 0, 0] {
        minute(&breaker, 0, 1, attempted).await;
        assert_eq!(silent_since(&breaker).await, None, "attempts are recent");
    }
    minute(&breaker, 0, 1, 0).await;
    assert!(silent_since(&breaker).await.is_some());
    minute(&breaker, 0, 1, 1).await;
    assert_eq!(silent_since(&breaker).await, None);
    // Received, it may wait for its next attempt.
    breaker.ports.events.hand_out(1, Duration::from_hours(5));
    for _ in 0..18 {
        minute(&breaker, 0, 1, 0).await;
        assert_eq!(silent_since(&breaker).await, None);
    }
    minute(&breaker, 0, 1, 0).await;
    minute(&breaker, 0, 1, 0).await;
    assert!(silent_since(&breaker).await.is_some());
    // Held back, it is not the processor's fault.
    ask(&breaker, Some(Override::Open)).await.expect("opened");
    minute(&breaker, 0, 1, 0).await;
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(silent_since(&breaker).await, None);
}

#[tokio::test(start_paused = true)]
async fn one_run_at_a_time() {
    let breaker = breaker();
    let now = FakeClock.now();
    let lease = RunLease {
        owner: Uuid::new_v4(),
        action: "breaker".to_owned(),
        by: "another run".to_owned(),
        since: now,
        until: now + Duration::from_secs(30),
    };
    assert_eq!(
        breaker
            .ports
            .table
            .acquire(LeaseName::Breaker, &lease, now)
            .await
            .expect("taken"),
        None
    );
    assert!(matches!(
        ask(&breaker, None).await,
        Err(BreakerError::Busy(_))
    ));
    advance(Duration::from_secs(31)).await;
    ask(&breaker, None).await.expect("its lease is over");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_down_leaves_everything_as_it_is() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.ports.table.fail();
    assert!(matches!(
        ask(&breaker, None).await,
        Err(BreakerError::Service(_))
    ));
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
}

#[tokio::test(start_paused = true)]
async fn with_a_rate_a_probe_waits_for_the_last_invocations() {
    let breaker = breaker_with_rate();
    an_outage(&breaker).await;
    breaker.ports.prober.will(Ok(taken()));
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "open", "disabled");
    // The owner, or a deploy.
    switch(&breaker, true, 10).await;
    for _ in 0..3 {
        assert_eq!(minute(&breaker, 0, 1, 0).await.state, "open");
    }
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closing");
    assert_eq!(
        breaker.ports.event_sources[0].now(),
        set(true, 2),
        "at once"
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_rate_nothing_runs_beside_an_unanswered_probe() {
    let breaker = breaker_with_rate();
    an_outage(&breaker).await;
    let probes = async || minute(&breaker, 0, 1, 0).await.probes;
    breaker.ports.prober.will(Err("no answer".to_owned()));
    breaker.ports.prober.will(Err("no answer".to_owned()));
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push(probes().await);
    }
    assert_eq!(made, [0, 0, 1, 1, 2, 2], "the next one waits");
    breaker.ports.prober.will(Err("no answer".to_owned()));
    assert_eq!(probes().await, 3);
    ask(&breaker, Some(Override::Closed)).await.expect("closed");
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
    advance(Duration::from_secs(30)).await;
    assert_eq!(minute(&breaker, 0, 1, 0).await.state, "closed");
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn with_a_rate_the_mapping_is_enabled_after_the_last_invocations() {
    for is_on in [true, false] {
        let mut breaker = breaker_with_rate();
        an_outage(&breaker).await;
        breaker.is_on = is_on;
        if is_on {
            let closed = ask(&breaker, Some(Override::Closed)).await.expect("closed");
            assert_eq!(closed.state, "closed");
        }
        for _ in 0..2 {
            minute(&breaker, 0, 1, 0).await;
            assert_eq!(
                breaker.ports.event_sources[0].now(),
                set(false, 2),
                "{is_on}"
            );
        }
        let state = minute(&breaker, 0, 1, 0).await.state;
        assert_eq!(state, if is_on { "closed" } else { "off" });
        assert_eq!(
            breaker.ports.event_sources[0].now(),
            set(true, 10),
            "{is_on}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn watchdog_waits_for_an_unanswered_probe() {
    let breaker = breaker_with_rate();
    an_outage(&breaker).await;
    advance(Duration::from_mins(10)).await;
    let circuit = Circuit {
        quiet_at: Some(FakeClock.now() + Duration::from_secs(30)),
        ..saved(&breaker).await
    };
    let save = breaker.ports.table.save_circuit(&circuit).await;
    save.expect("saved");
    watch(&breaker).await.expect("nothing to do yet");
    assert_eq!(breaker.ports.event_sources[0].now(), set(false, 2));
    advance(Duration::from_secs(30)).await;
    watch(&breaker).await.expect("released");
    assert_eq!(breaker.ports.event_sources[0].now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn with_a_rate_both_mappings_are_awaited() {
    let mut breaker = breaker_with_rate();
    let other = FakeEventSource::default();
    breaker.ports.event_sources.push(other.clone());
    an_outage(&breaker).await;
    let now = || [breaker.ports.event_sources[0].now(), other.now()];
    other.change(true);
    ask(&breaker, Some(Override::Closed)).await.expect("closed");
    assert_eq!(now(), [set(false, 2); 2], "one may still send");
    other.change(false);
    for _ in 0..2 {
        minute(&breaker, 0, 1, 0).await;
        assert_eq!(now(), [set(false, 2); 2]);
    }
    minute(&breaker, 0, 1, 0).await;
    assert_eq!(now(), [set(true, 10); 2]);
}
