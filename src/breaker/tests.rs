//! The breaker minute by minute, over stand-ins, on virtual time.

use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::attempts::minute_of;
use crate::event::EventId;
use crate::request::Origin;
use crate::testing::{FakeClock, FakeEventSource, FakeProber, FakeTable};

type TheBreaker = Breaker<FakeTable, FakeEventSource, FakeProber, FakeClock>;

fn breaker() -> TheBreaker {
    FakeClock::start_over();
    Breaker {
        table: FakeTable::default(),
        event_source: FakeEventSource::default(),
        prober: FakeProber::default(),
        clock: FakeClock,
        policy: Policy { failure_percent: 90, maximum_concurrency: 10 },
        is_on: true,
    }
}

async fn ask(breaker: &TheBreaker, wish: Option<Wish>) -> Result<Shown, BreakerError> {
    let origin = Origin { by: "a test".to_owned(), why: Some("to see".to_owned()) };
    breaker.handle(&Request { wish, origin }, Instant::now() + Duration::from_mins(1)).await
}

/// A minute in which so many attempts at so many events failed, and so many succeeded.
async fn minute(breaker: &TheBreaker, failed: u32, events: u32, delivered: u32) -> Shown {
    let mut attempts = Attempts::default();
    for number in 0..failed {
        let id: EventId = format!("{:02}-event", number % events.max(1)).parse().expect("an id");
        attempts.failed(&id);
    }
    (0..delivered).for_each(|_| attempts.succeeded());
    breaker.table.count_attempts(minute_of(FakeClock.now()), &attempts).await.expect("counted");
    let shown = ask(breaker, None).await.expect("a run");
    advance(Duration::from_mins(1)).await;
    shown
}

/// Two minutes in which everything fails.
async fn an_outage(breaker: &TheBreaker) -> Shown {
    // Of the minute in which it began to look, it knows nothing.
    minute(breaker, 0, 0, 5).await;
    minute(breaker, 20, 20, 0).await;
    minute(breaker, 20, 20, 0).await
}

fn set(enabled: bool, maximum_concurrency: u32) -> Settings {
    Settings { enabled, maximum_concurrency }
}

fn taken() -> Probed {
    Probed::Delivered { event_id: "e".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn it_opens_when_nearly_everything_fails_for_minutes() {
    let breaker = breaker();
    assert_eq!(an_outage(&breaker).await.state, "open");
    assert_eq!(breaker.event_source.now(), set(false, 2));
}

#[tokio::test(start_paused = true)]
async fn it_stays_closed_for_what_is_no_outage() {
    for (failed, events, delivered, what) in [
        (200, 4, 0, "few events that fail often are poison"),
        (80, 80, 20, "most do, and not nearly all"),
        (0, 0, 1000, "nothing is wrong"),
        (0, 0, 0, "nothing happens"),
    ] {
        let breaker = breaker();
        for _ in 0..6 {
            assert_eq!(minute(&breaker, failed, events, delivered).await.state, "closed", "{what}");
        }
        assert_eq!(breaker.event_source.now(), set(true, 10), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_minute_is_not_enough() {
    let breaker = breaker();
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(minute(&breaker, 100, 100, 0).await.state, "closed");
    for _ in 0..5 {
        assert_eq!(minute(&breaker, 0, 0, 1).await.state, "closed");
    }
}

#[tokio::test(start_paused = true)]
async fn it_closes_by_way_of_the_smallest_concurrency() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.prober.will(Ok(Probed::Failed { event_id: "e".to_owned(), error: "503".to_owned() }));
    breaker.prober.will(Err("the processor does not answer".to_owned()));
    breaker.prober.will(Ok(Probed::Nothing));
    breaker.prober.will(Ok(taken()));
    for (state, probes) in [("open", 1), ("open", 2), ("open", 2), ("closing", 3)] {
        let shown = minute(&breaker, 0, 0, 0).await;
        assert_eq!((shown.state, shown.probes), (state, probes));
    }
    for concurrency in [2, 4, 8] {
        assert_eq!(breaker.event_source.now(), set(true, concurrency));
        minute(&breaker, 0, 0, 50).await;
    }
    let shown = minute(&breaker, 0, 0, 50).await;
    assert_eq!((shown.state, breaker.event_source.now()), ("closed", set(true, 10)));
}

#[tokio::test(start_paused = true)]
async fn it_opens_again_at_once_when_the_target_is_not_yet_back() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.prober.will(Ok(taken()));
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "closing");
    let shown = minute(&breaker, 20, 20, 0).await;
    assert_eq!((shown.state, shown.probes), ("open", 0));
    assert_eq!(breaker.event_source.now(), set(false, 2));
}

#[tokio::test(start_paused = true)]
async fn after_three_days_it_lets_events_go_to_the_dead_letters_and_closes_when_the_target_is_back() {
    let breaker = breaker();
    an_outage(&breaker).await;
    advance(Duration::from_hours(3 * 24)).await;
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "exhausting");
    assert_eq!(breaker.event_source.now(), set(true, 10), "all have to be through before they expire");
    assert_eq!(minute(&breaker, 60, 60, 0).await.state, "exhausting", "that they fail is known");
    minute(&breaker, 0, 0, 10).await;
    minute(&breaker, 0, 0, 80).await;
    assert_eq!(minute(&breaker, 0, 0, 80).await.state, "closing");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_says_stays_until_somebody_says_otherwise() {
    let breaker = breaker();
    let open = ask(&breaker, Some(Wish::Open)).await.expect("opened");
    assert_eq!(
        (open.state, open.forced, open.by.as_deref(), open.why.as_str()),
        ("open", true, Some("a test"), "to see")
    );
    breaker.prober.will(Ok(taken()));
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "open", "nobody looks whether the target is back");
    assert_eq!(breaker.event_source.now(), set(false, 2));
    let automatic = ask(&breaker, Some(Wish::Automatic)).await.expect("let go");
    assert_eq!((automatic.state, automatic.forced), ("closing", false));
    ask(&breaker, Some(Wish::Closed)).await.expect("closed");
    for _ in 0..5 {
        assert_eq!(minute(&breaker, 50, 50, 0).await.state, "closed");
    }
    assert_eq!(breaker.event_source.now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn what_was_opened_by_hand_is_not_open_for_ever() {
    let breaker = breaker();
    ask(&breaker, Some(Wish::Open)).await.expect("opened");
    advance(Duration::from_hours(3 * 24)).await;
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "exhausting");
}

#[tokio::test(start_paused = true)]
async fn it_takes_back_what_somebody_else_has_set() {
    let breaker = breaker();
    breaker.event_source.set(set(false, 5)).await.expect("set");
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(breaker.event_source.now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_turned_off_lets_events_flow() {
    let mut breaker = breaker();
    an_outage(&breaker).await;
    breaker.is_on = false;
    assert_eq!(minute(&breaker, 50, 50, 0).await.state, "off");
    assert_eq!(breaker.event_source.now(), set(true, 10));
    assert!(matches!(ask(&breaker, Some(Wish::Open)).await, Err(BreakerError::Off)));
    breaker.event_source.set(set(false, 5)).await.expect("set");
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(breaker.event_source.now(), set(false, 5), "without a breaker the mapping is its owner's");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_comes_back_for_a_moment_now_and_then_does_not_hold_events_back_for_ever() {
    let breaker = breaker();
    an_outage(&breaker).await;
    for _ in 0..2 {
        advance(Duration::from_hours(24)).await;
        breaker.prober.will(Ok(taken()));
        assert_eq!(minute(&breaker, 0, 0, 0).await.state, "closing");
        assert_eq!(minute(&breaker, 20, 20, 0).await.state, "open");
    }
    let shown = ask(&breaker, Some(Wish::Automatic)).await.expect("as it is");
    assert_eq!((shown.state, shown.forced), ("open", false), "that begins nothing anew");
    advance(Duration::from_hours(24)).await;
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "exhausting");
}

#[tokio::test(start_paused = true)]
async fn how_long_nobody_could_look_is_known() {
    let breaker = breaker();
    an_outage(&breaker).await;
    let opened = breaker.table.circuit().await.expect("read").expect("saved").since;
    let looked_at = async || breaker.table.circuit().await.expect("read").expect("saved").looked_at;
    for _ in 0..6 {
        breaker.prober.will(Err("the processor does not answer".to_owned()));
        minute(&breaker, 0, 0, 0).await;
        assert_eq!(looked_at().await, None, "it has not been possible");
    }
    minute(&breaker, 0, 0, 0).await;
    assert!(looked_at().await.is_some_and(|at| at > opened), "there was nothing to see by, and that is nobody's fault");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_act_is_known_as_broken() {
    let breaker = breaker();
    minute(&breaker, 0, 0, 5).await;
    let looked = async || breaker.table.circuit().await.expect("read").expect("saved").last_run_at;
    let before = looked().await;
    breaker.event_source.set(set(false, 5)).await.expect("set");
    breaker.event_source.fail(true);
    assert!(matches!(ask(&breaker, None).await, Err(BreakerError::EventSource(_))));
    assert_eq!(looked().await, before);

    // The mapping is off, and the table says closed: somebody else turns it on.
    breaker.event_source.fail(false);
    advance(Duration::from_mins(10)).await;
    relieve(&breaker.table, &breaker.event_source, 10, "a schedule", FakeClock.now()).await.expect("relieved");
    assert_eq!(breaker.event_source.now(), set(true, 10));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_turned_off_lets_go_once_whatever_it_was() {
    let mut breaker = breaker();
    ask(&breaker, Some(Wish::Closed)).await.expect("closed");
    breaker.event_source.set(set(false, 2)).await.expect("set");
    breaker.is_on = false;
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(breaker.event_source.now(), set(true, 10));
    breaker.event_source.set(set(false, 5)).await.expect("set");
    advance(Duration::from_mins(20)).await;
    minute(&breaker, 0, 0, 0).await;
    relieve(&breaker.table, &breaker.event_source, 10, "a schedule", FakeClock.now()).await.expect("nothing to do");
    assert_eq!(breaker.event_source.now(), set(false, 5), "it is its owner's");

    breaker.is_on = true;
    assert_eq!(minute(&breaker, 0, 0, 0).await.state, "closed");
    assert_eq!(breaker.event_source.now(), set(true, 10), "and the breaker's again");
}

#[tokio::test(start_paused = true)]
async fn one_run_at_a_time() {
    let breaker = breaker();
    let now = FakeClock.now();
    let lease = Lease {
        owner: Uuid::new_v4(),
        action: "breaker".to_owned(),
        by: "another run".to_owned(),
        since: now,
        until: now + Duration::from_secs(30),
    };
    assert_eq!(breaker.table.acquire(Exclusive::Breaker, &lease, now).await.expect("taken"), None);
    assert!(matches!(ask(&breaker, None).await, Err(BreakerError::Busy(_))));
    advance(Duration::from_secs(31)).await;
    ask(&breaker, None).await.expect("its lease is over");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_down_leaves_everything_as_it_is() {
    let breaker = breaker();
    an_outage(&breaker).await;
    breaker.table.fail();
    assert!(matches!(ask(&breaker, None).await, Err(BreakerError::Table(_))));
    assert_eq!(breaker.event_source.now(), set(false, 2));
}
