//! Copies, leases and what is recorded late.

use super::*;
use crate::deliver::attempt::is_late;

#[tokio::test(start_paused = true)]
async fn duplicate_is_acknowledged_once() {
    let processor = fine();
    let copy = || ReceivedMessage {
        message_id: "copy".to_owned(),
        ..record("event", 1)
    };
    assert!(receive(&processor, record("event", 1)).await.is_empty());
    assert!(
        processor
            .process(vec![copy(), record("event", 2)], a_minute())
            .await
            .is_empty()
    );
    assert_eq!(processor.ports.target.deliveries(), 1);
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
}

#[test]
fn duplicate_is_late_after_an_hour() {
    let first = FakeClock.now();
    for (minutes, is_expected) in [(0, false), (59, false), (61, true)] {
        let again = first + SignedDuration::from_mins(minutes);
        assert_eq!(is_late(first, again), is_expected, "{minutes}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_copies_at_once_one_is_delivered_and_the_other_waits() {
    let processor = processor(|_, _| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        deliver().await
    });
    let copy = ReceivedMessage {
        message_id: "copy".to_owned(),
        ..record("event", 1)
    };
    assert_eq!(
        processor
            .process(vec![record("event", 1), copy], a_minute())
            .await,
        ["copy"]
    );
    let lease = Duration::from_mins(1) + LEASE_PAST_DEADLINE;
    let (_, delay) = processor
        .ports
        .events
        .visibility_changes()
        .pop()
        .expect("a change");
    assert_eq!(
        delay,
        lease.checked_sub(Duration::from_secs(1)).expect("longer")
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_comes_before_its_time_waits_for_it() {
    let processor = processor(|_, _| fail(FailureCause::Status(503)));
    receive(&processor, record("event", 1)).await;
    let (_, backoff) = processor
        .ports
        .events
        .visibility_changes()
        .pop()
        .expect("a change");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(receive(&processor, record("event", 2)).await, ["event"]);
    let (_, left) = processor
        .ports
        .events
        .visibility_changes()
        .pop()
        .expect("a change");
    assert_eq!(
        left,
        backoff
            .checked_sub(Duration::from_millis(500))
            .expect("longer")
    );
    assert_eq!(processor.ports.table.only_record().attempts_made, 1);
}

#[tokio::test(start_paused = true)]
async fn crashed_worker_is_followed_after_its_lease() {
    let processor = processor(|_, attempt| async move {
        if attempt == 1 {
            std::future::pending::<()>().await;
        }
        deliver().await
    });
    let crash = start(&processor);
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash.abort();
    assert_eq!(
        receive(&processor, record("event", 2)).await,
        ["event"],
        "the lease stands"
    );
    tokio::time::advance(Duration::from_mins(1) + LEASE_PAST_DEADLINE).await;
    assert!(receive(&processor, record("event", 3)).await.is_empty());
    let record = processor.ports.table.only_record();
    assert_eq!((record.state, record.attempts_made), (State::Delivered, 2));
    assert!(
        record.attempts[0]
            .error
            .as_ref()
            .is_some_and(|error| error.contains("ended before"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_on_the_last_receive_is_a_death() {
    let processor = processor(|_, _| std::future::pending::<Outcome>());
    let deadline = Instant::now() + Duration::from_secs(10);
    assert_eq!(
        processor.process(vec![record("event", 4)], deadline).await,
        ["event"]
    );
    assert_eq!(
        processor.ports.events.visibility_changes()[0].1,
        Duration::ZERO,
        "SQS moves it"
    );
    let record = processor.ports.table.only_record();
    assert_eq!(
        record.state.death(FakeClock.now()),
        None,
        "the lease stands"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    let death = record.state.death(FakeClock.now()).expect("dead");
    assert_eq!(death.reason, ReasonKind::Crashed);
}

#[tokio::test(start_paused = true)]
async fn without_the_table_nothing_is_delivered_and_nothing_acknowledged() {
    let processor = fine();
    processor.ports.table.fail();
    for receive_count in 1..=4 {
        assert_eq!(
            receive(&processor, record("event", receive_count)).await,
            ["event"]
        );
    }
    let delays: Vec<_> = processor
        .ports
        .events
        .visibility_changes()
        .iter()
        .map(|(_, delay)| delay.as_secs())
        .collect();
    assert!(matches!(delays[..], [2..=3, 4..=5, 8..=9, 0]), "{delays:?}");
    assert_eq!(processor.ports.target.deliveries(), 0);
}

#[tokio::test(start_paused = true)]
async fn unrecorded_delivery_is_acknowledged_at_the_last_receive_only() {
    for (receive_count, kept) in [(1, 1), (4, 0)] {
        let processor = fine();
        // The erasures are read, and a first receive is claimed with one call; a later one is looked
        // up before.
        processor
            .ports
            .table
            .fail_after(if receive_count == 1 { 2 } else { 3 }, usize::MAX);
        let deadline = Instant::now() + Duration::from_secs(20);
        let answer = processor
            .process(vec![record("event", receive_count)], deadline)
            .await;
        assert_eq!(answer.len(), kept, "receive {receive_count}");
        assert_eq!(processor.ports.target.deliveries(), 1);
        if let Some((_, delay)) = processor.ports.events.visibility_changes().pop() {
            assert!(
                delay >= LEASE_PAST_DEADLINE,
                "not before the lease is over: {delay:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_falters_once_costs_no_second_delivery() {
    let processor = fine();
    // The erasures are read, and the claim is written.
    processor.ports.table.fail_after(2, 3);
    assert!(receive(&processor, record("event", 1)).await.is_empty());
    assert_eq!(processor.ports.target.deliveries(), 1);
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
}

/// Claims the event of a record as another worker whose clock is far ahead, so that any lease is
/// over for it.
async fn overtake(processor: &Fake, name: &str) -> (Claim, Attempt) {
    let found = processor.ports.table.only_record();
    let copy = record(name, 1);
    let event = copy.message.to_event(copy.sent_at).expect("readable");
    let now = FakeClock.now() + Duration::from_mins(10);
    let request = ClaimRequest {
        event: &event,
        message_id: "copy",
        sent_at: now,
        bulk: None,
        resend: None,
        last: false,
        conversation: None,
        lease_until: now + Duration::from_mins(1),
        now,
    };
    let ClaimResult::Claimed(claim) = Claim::on(Some(&found), request) else {
        panic!("not free")
    };
    assert_eq!(
        processor
            .ports
            .table
            .write(claim.transition())
            .await
            .expect("written"),
        Written::Done
    );
    (
        claim,
        Attempt {
            at: now,
            duration_ms: None,
            status: Some(503),
            error: None,
            response: None,
        },
    )
}

/// Has the other worker record a death, which an operator may then discard.
async fn die(processor: &Fake, claim: &Claim, attempt: Attempt, is_discarded: bool) {
    let (now, error) = (attempt.at, "as the test says".to_owned());
    let death = Death {
        reason: ReasonKind::Permanent,
        error,
        status_code: None,
        dead_at: now,
    };
    let step = claim.dead(attempt, death, None, Context::default());
    processor.ports.table.write(&step).await.expect("written");
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(step.next(), now) else {
        panic!("not dead")
    };
    if is_discarded {
        let act = OperatorAction {
            action: "discard".to_owned(),
            at: now,
            by: "a test".to_owned(),
            why: None,
        };
        processor
            .ports
            .table
            .write(&dead.discarded(act))
            .await
            .expect("written");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_without_the_lease_overwrites_nothing() {
    let processor = processor(|_, attempt| async move {
        if attempt == 1 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            return fail(FailureCause::Status(404)).await;
        }
        deliver().await
    });
    let slow = start(&processor);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (claim, attempt) = overtake(&processor, "event").await;
    processor
        .ports
        .table
        .write(&claim.delivered(attempt))
        .await
        .expect("written");
    assert!(
        slow.await.expect("no panic").is_empty(),
        "acknowledged: it is delivered"
    );
    assert_eq!(processor.ports.table.only_record().state, State::Delivered);
    assert!(processor.ports.dead_letters.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_what_was_discarded_meanwhile_is_acknowledged() {
    let processor = processor(|_, _| async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        fail(FailureCause::Status(503)).await
    });
    let slow = start(&processor);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (claim, attempt) = overtake(&processor, "event").await;
    die(&processor, &claim, attempt, true).await;
    assert!(slow.await.expect("no panic").is_empty());
    assert_eq!(
        processor.ports.table.only_record().state.name(),
        StateName::Discarded
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_recorded_over_whatever_came_after_its_lease() {
    let (failed, dead, discarded, forgotten) = (1, 2, 3, 4);
    for meanwhile in 0..=forgotten {
        let processor = processor(|_, _| async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            deliver().await
        });
        let slow = start(&processor);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (claim, attempt) = overtake(&processor, "event").await;
        let now = attempt.at;
        if meanwhile == failed {
            processor
                .ports
                .table
                .write(&claim.retrying(attempt, now, now))
                .await
                .expect("written");
        } else if meanwhile == dead || meanwhile == discarded {
            die(&processor, &claim, attempt, meanwhile == discarded).await;
        } else if meanwhile == forgotten {
            processor.ports.table.delete_expired(Timestamp::MAX);
        }
        assert!(slow.await.expect("no panic").is_empty(), "acknowledged");
        let record = processor.ports.table.only_record();
        assert_eq!(record.state, State::Delivered);
        assert_eq!(
            record.attempts_made,
            if meanwhile == forgotten { 1 } else { 2 }
        );
        assert_eq!(
            record.attempts.last().and_then(|attempt| attempt.status),
            Some(200)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_others_keep_from_being_written_is_none() {
    for (overtaken, deliveries) in [(0, 2), (1, 2), (2, 2), (3, 1), (usize::MAX, 1)] {
        let processor = processor(|_, _| fail(FailureCause::Status(503)));
        receive(&processor, record("event", 1)).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        processor.ports.table.overtake(overtaken);
        assert_eq!(receive(&processor, record("event", 2)).await, ["event"]);
        assert_eq!(
            processor.ports.target.deliveries(),
            deliveries,
            "overtaken {overtaken} times"
        );
        if deliveries == 1 {
            assert_eq!(
                processor.ports.events.visibility_changes()[1].1,
                Duration::from_secs(1)
            );
            assert_eq!(processor.ports.table.only_record().attempts_made, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unrecorded_attempt_is_repeated_after_its_lease() {
    let lease = Duration::from_mins(1) + LEASE_PAST_DEADLINE;
    for (status, retry_after, receive_count, delay) in [
        (503, None, 1, lease),
        (404, None, 1, lease),
        (
            429,
            Some(lease + Duration::from_secs(1)),
            1,
            lease + Duration::from_secs(1),
        ),
        (503, None, 4, Duration::ZERO),
    ] {
        let processor = processor(move |_, _| async move {
            let failure = DeliveryFailure::new(FailureCause::Status(status), "as the test says");
            Outcome::Failed(DeliveryFailure {
                retry_after,
                ..failure
            })
        });
        // The erasures are read and the claim is written, and nothing after that; a later receive is
        // looked up before.
        processor
            .ports
            .table
            .fail_after(if receive_count == 1 { 2 } else { 3 }, usize::MAX);
        assert_eq!(
            receive(&processor, record("event", receive_count)).await,
            ["event"]
        );
        assert_eq!(
            processor.ports.events.visibility_changes()[0].1,
            delay,
            "{status} at receive {receive_count}"
        );
        assert!(processor.ports.dead_letters.messages().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn replay_restarts_the_backoff_and_keeps_the_count() {
    let told = Arc::<Mutex<Vec<u32>>>::default();
    let processor = processor({
        let told = Arc::clone(&told);
        move |_, attempt| {
            told.lock().expect("not poisoned").push(attempt);
            fail(FailureCause::Status(503))
        }
    });
    receive_until_done(&processor, "event", 4).await;
    let dead = processor.ports.table.only_record();
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&dead, FakeClock.now())
    else {
        panic!("{dead:?}")
    };
    let act = OperatorAction {
        action: "replay".to_owned(),
        at: FakeClock.now(),
        by: "a test".to_owned(),
        why: None,
    };
    processor
        .ports
        .table
        .write(&dead.replayed(act))
        .await
        .expect("written");
    let replayed = ReceivedMessage {
        message_id: "replayed".to_owned(),
        ..record("event", 1)
    };
    receive(&processor, replayed).await;
    let (_, delay) = processor
        .ports
        .events
        .visibility_changes()
        .pop()
        .expect("a change");
    assert!((2..=3).contains(&delay.as_secs()), "{delay:?}");
    let record = processor.ports.table.only_record();
    assert_eq!(
        (
            record.attempts_made,
            record.attempts_since_claim,
            record.replays_made
        ),
        (5, 1, 1)
    );
    assert_eq!(
        *told.lock().expect("not poisoned"),
        [1, 2, 3, 4, 5],
        "the target is told of its whole life"
    );
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_delivered_event_is_gone_whatever_crashed() {
    for calls in 0..5 {
        let processor = processor(|_, attempt| {
            if attempt == 1 {
                fail(FailureCause::Status(404))
            } else {
                deliver()
            }
        });
        receive(&processor, record("replayed", 1)).await;
        let id = processor.ports.table.only_record().event_id;
        assert_eq!(processor.ports.table.kept_bodies(), [id]);
        tokio::time::advance(Duration::from_mins(5)).await;
        processor.ports.table.halt_after(calls);
        let again = || {
            vec![ReceivedMessage {
                message_id: "moved".to_owned(),
                ..record("replayed", 1)
            }]
        };
        let doomed = tokio::spawn({
            let processor = Arc::clone(&processor);
            let records = again();
            async move {
                processor
                    .process(records, Instant::now() + Duration::from_mins(1))
                    .await
            }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        doomed.abort();
        processor.ports.table.resume();
        // What was not acknowledged comes again.
        tokio::time::advance(Duration::from_mins(10)).await;
        processor
            .process(
                vec![ReceivedMessage {
                    receive_count: 2,
                    ..again().remove(0)
                }],
                a_minute(),
            )
            .await;
        assert_eq!(
            processor.ports.table.only_record().state,
            State::Delivered,
            "{calls}"
        );
        assert_eq!(processor.ports.table.kept_bodies(), [], "{calls}");
    }
}

/// The death is not recorded, but the body was kept for it.
#[tokio::test(start_paused = true)]
async fn the_body_of_an_unrecorded_death_is_gone_with_the_delivery() {
    let processor = processor(|_, attempt| {
        if attempt == 1 {
            fail(FailureCause::Status(404))
        } else {
            deliver()
        }
    });
    let table = &processor.ports.table;
    // The erasures are read, the claim is written, the body is kept, and nothing after that.
    table.fail_after(3, usize::MAX);
    assert_eq!(receive(&processor, record("event", 1)).await, ["event"]);
    table.fail_after(0, 0);
    assert_eq!(table.kept_bodies().len(), 1);
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(receive(&processor, record("event", 2)).await.is_empty());
    assert_eq!(table.only_record().state, State::Delivered);
    assert_eq!(table.kept_bodies(), []);
}
