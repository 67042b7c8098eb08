//! Failures that say nothing about the event: of the relay's credentials, and of its rate.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::ports::pace::Pace;

/// Receives what the queue shows until it is empty, and returns the number of invocations.
async fn run_queue(processor: &Fake) -> u32 {
    for invocation in 0..1000 {
        if processor.ports.events.messages().is_empty() {
            return invocation;
        }
        processor.ports.events.until_visible().await;
        run_once(processor).await;
    }
    panic!(
        "the queue is not empty: {:?}",
        processor.ports.events.messages()
    )
}

async fn send(processor: &Fake, names: &[&str]) {
    FakeClock::start_over();
    let (events, dead_letters) = (&processor.ports.events, &processor.ports.dead_letters);
    let _ = events.clone().redriving_to(dead_letters, 4);
    for name in names {
        let message = Message {
            body: format!("{{\"name\":\"{name}\"}}"),
            attributes: BTreeMap::from([
                (attribute::EVENT_ID.to_owned(), Attribute::text(*name)),
                (
                    attribute::RECEIVED_AT.to_owned(),
                    Attribute::text(FakeClock.now().to_string()),
                ),
            ]),
            group: None,
            trace: None,
        };
        processor.ports.events.send(&message).await.expect("sent");
    }
}

/// Sends so many events, named by their numbers.
async fn send_numbered(processor: &Fake, count: u32) {
    let names: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    send(
        processor,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
}

/// A processor whose credentials are refused until they are mended.
fn refused_until(mended: &Arc<AtomicBool>, cause: FailureCause) -> Fake {
    let mended = Arc::clone(mended);
    processor(move |_, _| {
        if mended.load(Ordering::Relaxed) {
            deliver()
        } else {
            fail(cause)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn an_event_outlives_its_receives_while_credentials_are_refused() {
    for cause in [
        FailureCause::Credentials(None),
        FailureCause::Credentials(Some(401)),
        FailureCause::Credentials(Some(403)),
    ] {
        let mended = Arc::new(AtomicBool::new(false));
        let processor = refused_until(&mended, cause);
        send(&processor, &["one", "two"]).await;
        let running = {
            let processor = Arc::clone(&processor);
            tokio::spawn(async move { run_queue(&processor).await })
        };
        tokio::time::sleep(Duration::from_hours(24)).await;
        for record in processor.ports.table.records() {
            assert_eq!(record.attempts_since_claim, 0);
            assert!(
                (50..150).contains(&record.attempts_made),
                "{} attempts a day",
                record.attempts_made
            );
        }
        mended.store(true, Ordering::Relaxed);
        running.await.expect("delivered");
        let states = processor.ports.table.records().into_iter();
        assert!(
            states
                .map(|record| record.state)
                .all(|it| it == State::Delivered)
        );
        assert!(processor.ports.dead_letters.messages().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_has_all_its_attempts_beside_those_without_credentials() {
    // By the number of the call, from 0.
    for refused in [0..7, 2..3, 3..9, 1..1] {
        let calls = Arc::new(AtomicU32::new(0));
        let processor = {
            let (calls, refused) = (Arc::clone(&calls), refused.clone());
            processor(move |_, _| {
                let is_refused = refused.contains(&calls.fetch_add(1, Ordering::Relaxed));
                fail(if is_refused {
                    FailureCause::Credentials(Some(401))
                } else {
                    FailureCause::Status(503)
                })
            })
        };
        send(&processor, &["event"]).await;
        run_queue(&processor).await;
        let uncounted = u32::try_from(refused.len()).expect("few");
        assert_eq!(calls.load(Ordering::Relaxed), uncounted + 4, "{refused:?}");
        let State::Dead(dead) = processor.ports.table.only_record().state else {
            panic!("not dead")
        };
        assert_eq!(
            (dead.death.reason, dead.death.status_code),
            (ReasonKind::Exhausted, Some(503))
        );
        assert_eq!(processor.ports.dead_letters.messages().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_403_counts_once_the_target_accepts_others() {
    let processor = processor(|event, _| {
        if is(&event, "refused") {
            fail(FailureCause::Credentials(Some(403)))
        } else {
            deliver()
        }
    });
    send(&processor, &["refused"]).await;
    for round in 0..40 {
        send_more(&processor, round).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        run_once(&processor).await;
    }
    let records = processor.ports.table.records();
    let mut refused = records
        .iter()
        .filter(|it| it.event_id.as_str() == "refused");
    let State::Dead(dead) = &refused.next().expect("a record").state else {
        panic!("not dead")
    };
    assert_eq!(
        (dead.death.reason, dead.death.status_code),
        (ReasonKind::Exhausted, Some(403))
    );
}

async fn send_more(processor: &Fake, round: u32) {
    let message = record(&format!("fine-{round}"), 1).message;
    processor.ports.events.send(&message).await.expect("sent");
}

/// Gives what is visible to the processor, once.
async fn run_once(processor: &Fake) {
    let batch = processor.ports.events.hand_out(10, Duration::from_mins(6));
    let receipts: Vec<_> = batch
        .iter()
        .map(|received| (received.message_id.clone(), received.receipt.clone()))
        .collect();
    let kept = processor.process(batch, a_minute()).await;
    for (id, receipt) in receipts {
        if !kept.contains(&id) {
            processor.ports.events.delete(&[receipt]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_before_the_last_attempt_says_nothing() {
    let calls = Arc::new(AtomicU32::new(0));
    let processor = {
        let calls = Arc::clone(&calls);
        processor(move |_, _| match calls.fetch_add(1, Ordering::Relaxed) {
            1..6 => fail(FailureCause::Credentials(Some(403))),
            _ => deliver(),
        })
    };
    send(&processor, &["first"]).await;
    run_queue(&processor).await;
    let message = record("second", 1).message;
    processor.ports.events.send(&message).await.expect("sent");
    run_queue(&processor).await;
    assert!(processor.ports.dead_letters.messages().is_empty());
    assert_eq!(calls.load(Ordering::Relaxed), 7);
}

#[tokio::test(start_paused = true)]
async fn credentials_refused_for_three_days_make_dead_letters() {
    let processor = processor(|_, _| fail(FailureCause::Credentials(Some(401))));
    send(&processor, &["event"]).await;
    let began = Instant::now();
    run_queue(&processor).await;
    let days = began.elapsed().as_secs_f64() / 86_400.0;
    assert!((3.0..3.2).contains(&days), "{days}");
    assert_eq!(processor.ports.dead_letters.messages().len(), 1);
    let State::Dead(dead) = processor.ports.table.only_record().state else {
        panic!("not dead")
    };
    assert_eq!(
        (dead.death.reason, dead.death.status_code),
        (ReasonKind::Exhausted, Some(401))
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_outlives_its_receives_while_its_event_waits() {
    let mended = Arc::new(AtomicBool::new(false));
    let processor = refused_until(&mended, FailureCause::Credentials(Some(401)));
    // A webhook that came twice.
    send(&processor, &["event", "event"]).await;
    let running = {
        let processor = Arc::clone(&processor);
        tokio::spawn(async move { run_queue(&processor).await })
    };
    tokio::time::sleep(Duration::from_hours(24)).await;
    assert!(processor.ports.dead_letters.messages().is_empty());
    mended.store(true, Ordering::Relaxed);
    running.await.expect("delivered");
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
    assert!(processor.ports.dead_letters.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_event_is_not_attempted_because_the_rate_is_used_up() {
    let (processor, sent) = paced(1, 10);
    let calls = {
        // Refused for good, and its dead letter cannot be sent.
        processor.ports.dead_letters.fail();
        send_numbered(&processor, 10).await;
        let batch = processor.ports.events.hand_out(10, Duration::ZERO);
        let again: Vec<_> = processor.ports.events.hand_out(10, Duration::from_mins(6));
        drop(batch);
        processor.process(again, a_minute()).await;
        sent.lock().expect("not poisoned").len()
    };
    assert_eq!(calls, 5);
    let postponed = processor.ports.table.records().into_iter();
    let postponed: Vec<_> = postponed.filter(|it| it.attempts_made == 0).collect();
    assert_eq!(
        postponed.len(),
        5,
        "claimed, so that a dead one would be known"
    );
    assert!(
        postponed
            .iter()
            .all(|it| it.state.name() == StateName::Retrying)
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_stays_where_its_copy_cannot_be_sent() {
    let processor = processor(|_, _| fail(FailureCause::Credentials(None)));
    send(&processor, &["event"]).await;
    let batch = processor.ports.events.hand_out(1, Duration::from_mins(6));
    let id = batch[0].message_id.clone();
    processor.ports.events.fail_times(1);
    assert_eq!(processor.process(batch, a_minute()).await, [id]);
    assert_eq!(processor.ports.events.messages().len(), 1);
}

/// A processor with a bound of so many requests a second.
fn paced(rate: u32, concurrency: u32) -> (Fake, Arc<Mutex<Vec<Instant>>>) {
    let sent = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = Arc::clone(&sent);
    let target = FakeTarget::new(move |_, _| {
        seen.lock().expect("not poisoned").push(Instant::now());
        deliver()
    });
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let pace = Pace::new(number(rate), number(concurrency), Duration::from_secs(2));
    let processor = over(FakeQueue::default(), target).with_pace(Some(pace));
    (Arc::new(processor), sent)
}

#[tokio::test(start_paused = true)]
async fn what_the_rate_leaves_no_room_for_goes_back_untouched() {
    // One request in ten seconds, and 57 seconds of an invocation for them.
    let (processor, sent) = paced(1, 10);
    send_numbered(&processor, 10).await;
    let began = Instant::now();
    run_once(&processor).await;
    assert_eq!(sent.lock().expect("not poisoned").len(), 5);
    assert_eq!(
        processor.ports.table.records().len(),
        5,
        "and no record of the others"
    );
    assert_eq!(processor.ports.events.messages().len(), 5);
    assert!(
        processor
            .ports
            .events
            .hand_out(10, Duration::ZERO)
            .is_empty()
    );
    tokio::time::sleep_until(began + Duration::from_mins(1)).await;
    let returned = processor.ports.events.hand_out(10, Duration::ZERO);
    assert_eq!(returned.len(), 5);
    assert!(returned.iter().all(|received| received.receive_count == 1));
}

#[tokio::test(start_paused = true)]
async fn every_event_is_delivered_at_the_rate_with_one_attempt() {
    let (processor, sent) = paced(4, 2);
    send_numbered(&processor, 300).await;
    run_queue(&processor).await;
    let sent = sent.lock().expect("not poisoned").clone();
    assert_eq!(sent.len(), 300);
    assert!(
        sent.windows(2)
            .all(|pair| pair[1] - pair[0] >= Duration::from_millis(500))
    );
    let records = processor.ports.table.records();
    assert!(records.iter().all(|record| record.attempts_made == 1));
}
