//! Dead letters, replays of everything and the ceiling.

use super::*;

/// A message in the dead-letter queue, sent at this time.
fn evidence(event: &Event, sent_at: Timestamp) -> DeadLetterEvidence<'_> {
    DeadLetterEvidence {
        event_id: &event.id,
        received_at: event.received_at,
        sent_at,
        reason: None,
        event: Some(event),
        resend: None,
    }
}

/// The status of such a message.
fn found(record: Option<&EventRecord>, sent_at: Timestamp, now: Timestamp) -> DeadLetterStatus {
    DeadLetterStatus::of(&evidence(&event(), sent_at), record, now)
}

#[test]
fn overdue_event_is_a_dead_letter_after_a_minute() {
    let act = OperatorAction {
        at: start() + SignedDuration::from_secs(7),
        ..act(start())
    };
    let claimed = claim(None, "m", false, start());
    let due = start() + SignedDuration::from_mins(15);
    for (record, expected, attempts) in [
        (
            claimed.transition().next.clone(),
            start() + SignedDuration::from_secs(65),
            1,
        ),
        (
            claimed.retrying(attempt(start()), due, start()).next,
            due,
            1,
        ),
        (
            EventRecord::queued(&event(), None, act.clone()).next,
            act.at,
            0,
        ),
    ] {
        let late = expected + SignedDuration::from_secs(60);
        assert_eq!(
            found(Some(&record), start(), late - MILLISECOND),
            DeadLetterStatus::UnderWay,
            "{record:?}"
        );
        let DeadLetterStatus::Unrecorded(dead) = found(Some(&record), start(), late) else {
            panic!("{record:?}")
        };
        assert_eq!(
            (dead.death().reason, dead.record().attempts.len()),
            (ReasonKind::Unknown, attempts)
        );
    }
    // A crash on the last receive needs no such patience.
    let last = claim(None, "m", true, start()).transition().next.clone();
    let end = start() + SignedDuration::from_secs(65);
    let DeadLetterStatus::Unrecorded(dead) = found(Some(&last), start(), end) else {
        panic!("not dead")
    };
    assert_eq!(
        (dead.death().reason, dead.record().attempts.len()),
        (ReasonKind::Crashed, 1)
    );
    assert_eq!(dead.record().attempts[0].at, start());
}

#[test]
fn message_sent_since_its_replay_is_a_new_death() {
    let claimed = claim(None, "m", false, start());
    let dead = claimed
        .dead(attempt(start()), death(start()), None, Context::default())
        .next;
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&dead, start()) else {
        panic!("not dead")
    };
    let replayed_at = start() + SignedDuration::from_secs(9);
    let replayed = dead.replayed(act(replayed_at)).next;
    let now = replayed_at + SignedDuration::from_secs(1);
    assert!(
        matches!(
            found(Some(&replayed), replayed_at - MILLISECOND, now),
            DeadLetterStatus::Dead(_)
        ),
        "the one before"
    );
    for sent_at in [replayed_at, now] {
        let DeadLetterStatus::Unrecorded(again) = found(Some(&replayed), sent_at, now) else {
            panic!("{sent_at}")
        };
        assert_eq!(
            (again.record().replays_made, again.death().reason),
            (1, ReasonKind::Unknown)
        );
    }
}

#[test]
fn unknown_dead_letter_is_recorded_with_its_details() {
    let (sent_at, now) = (
        start() + SignedDuration::from_secs(3),
        start() + SignedDuration::from_secs(9),
    );
    let DeadLetterStatus::Unrecorded(dead) = found(None, sent_at, now) else {
        panic!("recorded")
    };
    let record = dead.record();
    assert_eq!(
        (
            record.received_at,
            record.first_seen_at,
            dead.death().dead_at
        ),
        (start(), now, now)
    );
    assert_eq!(
        (
            record.source,
            record.webhook_id.as_deref(),
            record.attempts_made
        ),
        (Source::Webhook, Some("w"), 0)
    );
    let context = record.context.as_ref().expect("a context");
    assert_eq!(
        (context.webhook_name.as_deref(), context.target.as_deref()),
        (Some("orders"), None)
    );
}

#[test]
fn event_that_returns_unasked_waits_longer_each_time() {
    let (mut now, mut record, mut waits) = (start(), None, Vec::new());
    for number in 0..REPLAY_CEILING {
        let message = number.to_string();
        let claimed = claim(record.as_ref(), &message, false, now);
        let dead = claimed
            .dead(attempt(now), death(now), Some(&message), Context::default())
            .next;
        let ClaimResult::TooEarly(time) =
            Claim::on(Some(&dead), request(&event(), "moved", false, now))
        else {
            panic!("a move task could bring it back for as long as it runs")
        };
        waits.push(time.duration_since(now).as_secs() / 60);
        (now, record) = (time, Some(dead));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16]);
}

/// Dead once more than an operator may replay it without insisting, at `start()`.
fn dead_past_the_ceiling(is_crashed: bool) -> EventRecord {
    let claimed = claim(
        None,
        "m",
        is_crashed,
        start() - SignedDuration::from_secs(65),
    );
    let dead = claimed.dead(attempt(start()), death(start()), None, Context::default());
    let step = if is_crashed {
        claimed.transition()
    } else {
        &dead
    };
    EventRecord {
        replays_made: REPLAY_CEILING,
        ..step.next.clone()
    }
}

#[test]
fn event_past_the_ceiling_needs_force() {
    let hour = SignedDuration::from_hours(1);
    for (found, at) in [false, true]
        .map(dead_past_the_ceiling)
        .into_iter()
        .zip([start(), start()])
    {
        assert!(
            found.depends_on_bulk_replay("moved", at),
            "{:?}",
            found.state
        );
        for (bulk, may) in [
            (None, false),
            (Some(bulk_replay(at, false)), false),
            (Some(bulk_replay(at, true)), true),
            // A later one without force leaves it what an earlier one has asked for.
            (
                Some(BulkReplay {
                    forced: Some(act(at)),
                    ..bulk_replay(at + SignedDuration::from_hours(1), false)
                }),
                true,
            ),
            // It was not dead when that replay began.
            (
                Some(bulk_replay(at - SignedDuration::from_secs(1), true)),
                false,
            ),
        ] {
            let sent_at = at + SignedDuration::from_secs(1);
            let claiming = |now| {
                let event = event();
                let request = request(&event, "moved", false, now);
                Claim::on(
                    Some(&found),
                    ClaimRequest {
                        sent_at,
                        bulk: bulk.as_ref(),
                        ..request
                    },
                )
            };
            let (first, later) = (claiming(sent_at), claiming(sent_at + hour));
            if may {
                assert!(matches!(first, ClaimResult::Claimed(_)), "{first:?}");
            } else {
                // It waits, since a move task that still runs would bring it back at once.
                assert_eq!(first, ClaimResult::TooEarly(sent_at + hour));
                assert!(matches!(later, ClaimResult::AlreadyDead(_)), "{later:?}");
            }
        }
    }
}

#[test]
fn forced_replay_is_known_by_its_action() {
    let found = dead_past_the_ceiling(false);
    let later = start() + SignedDuration::from_hours(1);
    let bulk = BulkReplay {
        forced: Some(act(start())),
        ..bulk_replay(later, false)
    };
    assert_eq!(
        BulkReplay::marked(Some(&bulk), &found).history.last(),
        Some(&act(start()))
    );
    let fresh = EventRecord {
        replays_made: 0,
        ..found
    };
    assert_eq!(
        BulkReplay::marked(Some(&bulk), &fresh).history.last(),
        Some(&act(later))
    );
}

#[test]
fn a_bulk_replay_asks_for_what_was_dead_when_it_began() {
    let claimed = claim(None, "m", false, start());
    let dead = claimed
        .dead(
            attempt(start()),
            death(start()),
            Some("m"),
            Context::default(),
        )
        .next;
    assert!(
        !dead.depends_on_bulk_replay("m", start()),
        "its own message has still to be moved"
    );
    assert!(dead.depends_on_bulk_replay("moved", start()));
    let early = bulk_replay(start() - SignedDuration::from_secs(1), false);
    assert_eq!(
        *BulkReplay::marked(Some(&early), &dead),
        dead,
        "it died after that"
    );
    let bulk = bulk_replay(start(), false);
    let event = event();
    let asked = ClaimRequest {
        bulk: Some(&bulk),
        ..request(&event, "moved", false, start())
    };
    let ClaimResult::Claimed(claim) = Claim::on(Some(&dead), asked) else {
        panic!("it was asked for")
    };
    let next = &claim.transition().next;
    assert_eq!(
        (next.replays_made, next.history.last()),
        (1, Some(&bulk.act))
    );
}

#[test]
fn a_death_that_has_yet_to_come_holds_nothing_back() {
    let comes_back = |dead_at: Timestamp, now: Timestamp| {
        let mut dead = claim(None, "m", false, start()).dead(
            attempt(start()),
            death(start()),
            None,
            Context::default(),
        );
        dead.next.state = State::Dead(Dead::listed(death(dead_at)));
        Claim::on(Some(&dead.next), request(&event(), "moved", false, now))
    };
    for absurd in [
        Timestamp::MAX,
        start() + LIFE,
        start() + SignedDuration::from_secs(2),
    ] {
        assert!(
            matches!(comes_back(absurd, start()), ClaimResult::Claimed(_)),
            "{absurd}"
        );
    }
    assert!(matches!(
        comes_back(Timestamp::MIN, start()),
        ClaimResult::Claimed(_)
    ));
    // Clocks differ.
    let soon = start() + SignedDuration::from_secs(1);
    assert_eq!(
        comes_back(soon, start()),
        ClaimResult::TooEarly(soon + SignedDuration::from_secs(60))
    );
}

/// An event that died of a 404 at `start()`, and was replayed a day later. A move task leaves the
/// reason on its message.
fn replayed_a_day_later() -> (EventRecord, crate::domain::failure::Reason, Timestamp) {
    let of_404 = Death {
        reason: ReasonKind::Permanent,
        error: "404".to_owned(),
        status_code: Some(404),
        dead_at: start(),
    };
    let dead = claim(None, "m", false, start())
        .dead(
            attempt(start()),
            of_404.clone(),
            Some("m"),
            Context::default(),
        )
        .next;
    let day = start() + SignedDuration::from_hours(24);
    let replayed = BulkReplay::marked(Some(&bulk_replay(day, false)), &dead).into_owned();
    (replayed, of_404.into(), day)
}

fn found_dead(
    found: &EventRecord,
    reason: &crate::domain::failure::Reason,
    sent_at: Timestamp,
    now: Timestamp,
) -> DeadLetterStatus {
    let event = event();
    let evidence = DeadLetterEvidence {
        event_id: &event.id,
        received_at: event.received_at,
        sent_at,
        reason: Some(reason),
        event: Some(&event),
        resend: None,
    };
    DeadLetterStatus::of(&evidence, Some(found), now)
}

#[test]
fn the_reason_of_an_earlier_death_is_not_that_of_the_next() {
    let (replayed, of_404, day) = replayed_a_day_later();
    let later = day + SignedDuration::from_hours(1);
    let retrying = claim(Some(&replayed), "moved", false, day)
        .retrying(attempt(day), day, day)
        .next;
    let in_progress = claim(Some(&replayed), "moved", false, day)
        .transition()
        .next
        .clone();
    // Moved back; never claimed, or claimed before its receives were throttled.
    for found in [&replayed, &retrying, &in_progress] {
        let DeadLetterStatus::Unrecorded(dead) = found_dead(found, &of_404, day, later) else {
            panic!("not dead: {found:?}")
        };
        assert_eq!(
            (dead.death().reason, dead.death().status_code),
            (ReasonKind::Unknown, None),
            "{found:?}"
        );
        assert!(
            dead.death().dead_at > day,
            "it died before its last attempt"
        );
        // A reason that came later is that of this death.
        let malformed = crate::domain::failure::Reason {
            reason: ReasonKind::Malformed,
            at: later,
            ..of_404.clone()
        };
        let DeadLetterStatus::Unrecorded(dead) = found_dead(found, &malformed, later, later) else {
            panic!("not dead")
        };
        assert_eq!(dead.death().reason, ReasonKind::Malformed);
    }
}

#[test]
fn the_message_of_a_death_that_is_sent_after_the_replay_began_is_of_that_death() {
    let (_, of_404, _) = replayed_a_day_later();
    let soon = start() + SignedDuration::from_secs(1);
    let dead = claim(None, "m", false, start()).dead(
        attempt(start()),
        of_404.clone().into(),
        Some("m"),
        Context::default(),
    );
    let marked = BulkReplay::marked(Some(&bulk_replay(start(), false)), &dead.next).into_owned();
    assert!(matches!(
        found_dead(&marked, &of_404, soon, soon),
        DeadLetterStatus::Dead(_)
    ));
}

#[test]
fn the_message_of_a_death_that_had_to_be_sent_once_more_is_of_that_death_and_none_that_was_moved() {
    let (marked, of_404, day) = replayed_a_day_later();
    let (soon, later) = (
        day + SignedDuration::from_secs(1),
        day + SignedDuration::from_hours(1),
    );
    let sent_once_more = crate::domain::failure::Reason {
        resent_at: Some(day - MILLISECOND),
        ..of_404
    };
    assert!(
        matches!(found_dead(&marked, &sent_once_more, soon, later), DeadLetterStatus::Dead(dead)
        if dead.death().status_code == Some(404))
    );
    let DeadLetterStatus::Unrecorded(moved) = found_dead(&marked, &sent_once_more, later, later)
    else {
        panic!("not moved")
    };
    assert_eq!(moved.death().reason, ReasonKind::Unknown);
}

/// SQS moves a resend whose receives are used up, although no worker has claimed it.
#[test]
fn an_unclaimed_resend_in_the_dead_letter_queue_is_a_dead_letter() {
    let mut record = claim(None, "m", false, start())
        .delivered(attempt(start()))
        .next;
    let event = event();
    let status = |record: &EventRecord, resend| {
        let evidence = DeadLetterEvidence {
            event_id: &event.id,
            received_at: event.received_at,
            sent_at: start(),
            reason: None,
            event: Some(&event),
            resend,
        };
        DeadLetterStatus::of(&evidence, Some(record), start())
    };
    let copy = DeadLetterStatus::Finished(StateName::Delivered);
    assert_eq!(status(&record, None), copy);
    let DeadLetterStatus::Unrecorded(dead) = status(&record, Some("one")) else {
        panic!("no dead letter")
    };
    let dead = &dead.transition().next;
    assert_eq!(dead.resend.as_deref(), Some("one"));
    // A copy without the mark is none of the resend.
    assert_eq!(status(dead, None), copy);
    assert!(matches!(
        status(dead, Some("one")),
        DeadLetterStatus::Dead(_)
    ));
    record.resent.push("one".to_owned());
    assert_eq!(status(&record, Some("one")), copy);
}
