//! A stack with two queues of events, and a mapping for each.

use super::*;

fn breaker() -> TheBreaker {
    let mut breaker = super::breaker();
    breaker.ports.ordered = Some(FakeQueue::default());
    breaker.ports.event_sources.push(FakeEventSource::default());
    breaker
}

fn settings(breaker: &TheBreaker) -> [Settings; 2] {
    [0, 1].map(|position| breaker.ports.event_sources[position].now())
}

#[tokio::test(start_paused = true)]
async fn both_mappings_are_held_back_and_released() {
    let breaker = breaker();
    an_outage(&breaker).await;
    assert_eq!(settings(&breaker), [set(false, 2); 2]);
    breaker.ports.prober.will(Ok(taken()));
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(settings(&breaker), [set(true, 2); 2]);

    switch(&breaker, false, 5).await;
    minute(&breaker, 0, 0, 0).await;
    assert_eq!(settings(&breaker), [set(true, 2); 2]);
}

#[tokio::test(start_paused = true)]
async fn failure_at_one_mapping_does_not_keep_the_other_from_being_set() {
    for broken in [0, 1] {
        let breaker = breaker();
        let mapping = &breaker.ports.event_sources[broken];
        minute(&breaker, 0, 0, 5).await;
        minute(&breaker, 20, 20, 0).await;
        count(&breaker, 20, 20, 0).await;
        mapping.fail(true);
        let before = saved(&breaker).await.last_run_at;
        assert!(ask(&breaker, None).await.is_err());
        assert_eq!(settings(&breaker)[1 - broken], set(false, 2));
        assert_eq!(settings(&breaker)[broken], set(true, 10));
        assert_eq!(
            saved(&breaker).await.last_run_at,
            before,
            "it looks stopped"
        );

        mapping.fail(false);
        ask(&breaker, None).await.expect("a run");
        assert_eq!(settings(&breaker), [set(false, 2); 2]);

        advance(Duration::from_mins(10)).await;
        mapping.fail(true);
        assert!(watch(&breaker).await.is_err());
        assert_eq!(settings(&breaker)[1 - broken], set(true, 10));
        mapping.fail(false);
        watch(&breaker).await.expect("released");
        assert_eq!(settings(&breaker), [set(true, 10); 2]);
        assert_eq!(saved(&breaker).await.state, State::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn no_probe_before_both_mappings_are_off() {
    for changing in [0, 1] {
        let breaker = breaker();
        an_outage(&breaker).await;
        breaker.ports.event_sources[changing].change(true);
        breaker.ports.prober.will(Ok(taken()));
        assert_eq!(minute(&breaker, 0, 0, 0).await.probes, 0);
        breaker.ports.event_sources[changing].change(false);
        assert_eq!(minute(&breaker, 0, 0, 0).await.state, "closing");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_turned_off_enables_both_mappings() {
    let mut breaker = breaker();
    an_outage(&breaker).await;
    breaker.is_on = false;
    assert_eq!(ask(&breaker, None).await.expect("done").state, "off");
    assert_eq!(settings(&breaker), [set(true, 10); 2]);
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_in_order_are_counted() {
    let breaker = breaker();
    let ordered = breaker.ports.ordered.as_ref().expect("a queue");
    let is_silent = async || {
        let depth = breaker.depth().await.expect("counted");
        let silent_since = saved(&breaker).await.silent_since(depth, FakeClock.now());
        silent_since.is_some()
    };
    let message = Message {
        body: "{}".to_owned(),
        attributes: BTreeMap::default(),
        group: Some("c1".to_owned()),
        trace: None,
    };
    for _ in 0..2 {
        ordered.send(&message).await.expect("sent");
    }
    for _ in 0..2 {
        minute(&breaker, 0, 1, 0).await;
        assert!(!is_silent().await);
    }
    minute(&breaker, 0, 1, 0).await;
    assert!(is_silent().await);
    // The one behind it cannot be received, and waits for the next attempt of the first.
    ordered.hand_out(1, Duration::from_hours(5));
    assert!(!is_silent().await);
}
