//! The steps, taken in every order that chance comes up with.

mod dead_letters;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::domain::event::Event;
use crate::domain::resend::Resend;
use crate::domain::text::excerpt;

fn start() -> Timestamp {
    "2026-01-15T12:00:00Z".parse().expect("a timestamp")
}

fn event() -> Event {
    Event {
        id: "an-event".parse().expect("an id"),
        source: Source::Webhook,
        received_at: start(),
        content_type: None,
        headers: BTreeMap::new(),
        body: br#"{"webhookId":"w","webhookName":"orders","payload":{"conversationId":"c"},"timestamp":"t"}"#.to_vec(),
        webhook_id: Some("w".to_owned()),
        is_copy: false,
    }
}

fn request<'a>(
    event: &'a Event,
    message_id: &'a str,
    last: bool,
    now: Timestamp,
) -> ClaimRequest<'a> {
    ClaimRequest {
        event,
        message_id,
        sent_at: start(),
        bulk: None,
        resend: None,
        last,
        conversation: None,
        lease_until: now + SignedDuration::from_secs(65),
        now,
    }
}

fn claim(found: Option<&EventRecord>, message_id: &str, last: bool, now: Timestamp) -> Claim {
    match Claim::on(found, request(&event(), message_id, last, now)) {
        ClaimResult::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn attempt(at: Timestamp) -> Attempt {
    Attempt {
        at,
        duration_ms: Some(1),
        status: Some(500),
        error: None,
        response: Some("x".repeat(1000)),
    }
}

fn death(now: Timestamp) -> Death {
    Death {
        reason: ReasonKind::Exhausted,
        error: excerpt("as the test says"),
        status_code: Some(500),
        dead_at: now,
    }
}

fn bulk_replay(at: Timestamp, force: bool) -> BulkReplay {
    BulkReplay {
        act: act(at),
        forced: force.then(|| act(at)),
    }
}

fn act(at: Timestamp) -> OperatorAction {
    OperatorAction {
        action: "a test".to_owned(),
        at,
        by: "an operator".to_owned(),
        why: None,
    }
}

/// Actions that may be tried on an event.
#[derive(Debug, Clone, Copy)]
enum Try {
    Wait(i64),
    Recover,
    Claim { message: u8, last: bool },
    Deliver,
    Fail(i64),
    Die { to_move: bool },
    Reconcile,
    Replay,
    Archive,
    Restore,
    Discard,
    Unlist,
    Resend { run: u8 },
    Erase,
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let one = prop_oneof![
        (0..100_i64).prop_map(Try::Wait),
        (0..1_000_000_i64).prop_map(Try::Wait),
        (0..2_u8, any::<bool>()).prop_map(|(message, last)| Try::Claim { message, last }),
        (0..2_u8, any::<bool>()).prop_map(|(message, last)| Try::Claim { message, last }),
        Just(Try::Recover),
        Just(Try::Deliver),
        (0..900_i64).prop_map(Try::Fail),
        any::<bool>().prop_map(|to_move| Try::Die { to_move }),
        Just(Try::Reconcile),
        Just(Try::Replay),
        Just(Try::Archive),
        Just(Try::Restore),
        Just(Try::Discard),
        Just(Try::Unlist),
        (0..3_u8).prop_map(|run| Try::Resend { run }),
        (0..3_u8).prop_map(|run| Try::Resend { run }),
        prop::bool::weighted(0.1).prop_map(|erases| if erases { Try::Erase } else { Try::Deliver }),
    ];
    prop::collection::vec(one, 1..60)
}

/// An event, its record, and the claims that workers hold or believe to hold.
#[derive(Default)]
struct World {
    record: Option<EventRecord>,
    claims: Vec<Claim>,
}

impl World {
    /// Writes as the table does. Says whether it was written.
    fn write(&mut self, Transition { next, guard }: Transition, now: Timestamp) -> bool {
        let holds = match guard {
            Guard::Absent => self.record.is_none(),
            Guard::Unchanged(revision) => self
                .record
                .as_ref()
                .is_some_and(|found| found.revision == revision),
        };
        if !holds {
            return false;
        }
        let before = self.record.replace(next);
        let next = self.record.as_ref().expect("just written");
        let is_forgotten = before.as_ref().is_some_and(|before| before.is_expired(now));
        let from = before.as_ref().map(|before| before.state.name());
        let is_known = |(one, to, _): &(Option<StateName>, StateName, &str)| {
            *to == next.state.name() && (*one == from || (is_forgotten && one.is_none()))
        };
        assert!(
            TRANSITIONS.iter().any(is_known),
            "{from:?} to {} is no transition",
            next.state.name()
        );
        assert_eq!(next.expires_at, next.last_seen_at + LIFE);
        assert!(next.attempts.len() <= 20 && next.history.len() <= 20);
        if let Some(before) = before.filter(|_| !is_forgotten) {
            assert_ne!(before.state, State::Erased, "it is for ever");
            if next.state == State::Erased {
                assert!(next.attempts.is_empty() && next.context.is_none());
                assert_eq!((next.history.len(), &next.webhook_id), (1, &None));
                assert_eq!((&next.conversation_id, next.resent.len()), (&None, 0));
                return true;
            }
            assert!(
                next.replays_made >= before.replays_made
                    && next.attempts_made >= before.attempts_made
            );
            let is_resent = next.resend.is_some() || next.resent.len() > before.resent.len();
            if before.state == State::Delivered {
                assert!(is_resent, "it is for ever, but for a resend");
            }
            if before.resend.is_some() {
                assert!(
                    is_resent || matches!(next.state, State::Delivered),
                    "{next:?}"
                );
            }
            if let State::Discarded(_) = before.state {
                assert_eq!(next.state, State::Delivered, "it was on its way already");
            }
            if next.replays_made > before.replays_made {
                let claimed =
                    next.attempts_since_claim == 1 && next.state.name() == StateName::InProgress;
                let came_back = matches!(
                    before.state,
                    State::Dead(Dead {
                        replayed_at: Some(_),
                        ..
                    })
                );
                assert!(
                    before.state.death(now).is_some() && (claimed || came_back),
                    "only a replay leaves the dead"
                );
            }
        }
        true
    }

    fn dead(&self, now: Timestamp) -> Option<DeadRecord> {
        match DeadLetterStatus::recorded(self.record.as_ref()?, now)? {
            DeadLetterStatus::Dead(dead) => Some(dead),
            DeadLetterStatus::Unrecorded(_)
            | DeadLetterStatus::Finished(_)
            | DeadLetterStatus::UnderWay => None,
        }
    }

    fn attempt(&mut self, attempted: Try, now: Timestamp) {
        let context = Context::of(&event(), None);
        let event = event();
        let evidence = DeadLetterEvidence {
            event_id: &event.id,
            received_at: event.received_at,
            sent_at: event.received_at,
            reason: None,
            event: Some(&event),
            resend: None,
        };
        let step = match attempted {
            Try::Wait(_) => None,
            Try::Recover => match &self.record {
                Some(found) if !found.is_expired(now) => None,
                found => Some(EventRecord::queued(&event, found.as_ref(), act(now))),
            },
            Try::Erase => {
                let found = self.record.as_ref();
                EventRecord::erased(&event.id, event.source, event.received_at, found, act(now))
            }
            Try::Claim { .. } | Try::Resend { .. } => {
                let (message, last, run) = match attempted {
                    Try::Claim { message, last } => (message.to_string(), last, None),
                    Try::Resend { run } => (format!("resend-{run}"), false, Some(run)),
                    _ => unreachable!("a claim"),
                };
                let run = run.map(|run| Resend {
                    run: run.to_string(),
                    by: "an operator".to_owned(),
                    why: None,
                });
                let request = ClaimRequest {
                    resend: run.as_ref(),
                    ..request(&event, &message, last, now)
                };
                match Claim::on(self.record.as_ref(), request) {
                    ClaimResult::Claimed(claim) => {
                        let before = self.record.as_ref().filter(|found| !found.is_expired(now));
                        if let (Some(before), Some(run)) = (before, &run) {
                            assert!(!before.resent.contains(&run.run), "delivered by this run");
                        }
                        assert!(
                            self.write(claim.transition().clone(), now),
                            "no other write came first"
                        );
                        self.claims.push(claim);
                        None
                    }
                    ClaimResult::TooEarly(time) => {
                        assert!(time > now, "an ended lease is not waited for");
                        None
                    }
                    ClaimResult::AlreadyFinished(_)
                    | ClaimResult::Other(_)
                    | ClaimResult::OutOfPlace(_)
                    | ClaimResult::AlreadyDead(_) => None,
                }
            }
            Try::Deliver => self.claims.pop().and_then(|claim| match &self.record {
                Some(found) if found.revision == claim.record().revision => {
                    Some(claim.delivered(attempt(now)))
                }
                found => claim.delivered_late(attempt(now), found.as_ref()),
            }),
            Try::Fail(seconds) => {
                let next = now + SignedDuration::from_secs(seconds);
                self.claims
                    .pop()
                    .map(|claim| claim.retrying(attempt(now), next, now))
            }
            Try::Die { to_move } => self.claims.pop().map(|claim| {
                claim.dead(
                    attempt(now),
                    death(now),
                    to_move.then_some("0"),
                    context.clone(),
                )
            }),
            Try::Reconcile => match DeadLetterStatus::of(&evidence, self.record.as_ref(), now) {
                DeadLetterStatus::Unrecorded(dead) => Some(dead.transition().clone()),
                DeadLetterStatus::Dead(_)
                | DeadLetterStatus::Finished(_)
                | DeadLetterStatus::UnderWay => None,
            },
            Try::Replay => self.dead(now).map(|dead| dead.replayed(act(now))),
            Try::Archive => self.dead(now).map(|dead| dead.archived(act(now), "a/key")),
            Try::Discard => self.dead(now).map(|dead| dead.discarded(act(now))),
            Try::Unlist => self.dead(now).map(|dead| dead.unlisted(now)),
            Try::Restore => restored(&evidence, self.record.as_ref(), act(now)),
        };
        if let Some(step) = step {
            self.write(step, now);
        }
    }
}

proptest! {
    #[test]
    fn no_try_takes_another_step_than_the_diagram(tries in tries()) {
        let (mut world, mut now) = (World::default(), start());
        for attempted in tries {
            if let Try::Wait(seconds) = attempted {
                now += SignedDuration::from_secs(seconds);
            }
            world.attempt(attempted, now);
            if let Some(record) = &world.record {
                let dead = matches!(&record.state, State::Dead(dead) if dead.listed);
                let last = matches!(&record.state, State::InProgress(lease) if lease.last);
                prop_assert_eq!(record.state.is_indexed(), dead || last);
            }
        }
        // A late enough claim is granted, or finds the event finished, or needs `force`.
        now += SignedDuration::from_hours(2);
        let end = Claim::on(world.record.as_ref(), request(&event(), "another", false, now));
        let is_past_ceiling = world.record.is_some_and(|record| record.replays_made >= REPLAY_CEILING);
        let holds = match end {
            ClaimResult::Claimed(_) | ClaimResult::AlreadyFinished(_) => true,
            ClaimResult::AlreadyDead(_) => is_past_ceiling,
            ClaimResult::TooEarly(_) | ClaimResult::OutOfPlace(_) | ClaimResult::Other(_) => false,
        };
        prop_assert!(holds);
    }
}

#[test]
fn a_claim_is_held_until_its_lease_is_over() {
    let first = claim(None, "m", false, start());
    let record = first.transition().next.clone();
    let later = start() + SignedDuration::from_secs(64);
    let ClaimResult::TooEarly(time) =
        Claim::on(Some(&record), request(&event(), "other", false, later))
    else {
        panic!("not held")
    };
    assert_eq!(time, start() + SignedDuration::from_secs(65));
    let second = claim(Some(&record), "other", false, time);
    assert_eq!((second.attempt(), second.attempts_since_claim()), (2, 2));
}

const MILLISECOND: SignedDuration = SignedDuration::from_millis(1);

/// Returns whether another worker may claim the event at this time.
fn is_free(record: &EventRecord, now: Timestamp) -> bool {
    matches!(
        Claim::on(Some(record), request(&event(), "other", false, now)),
        ClaimResult::Claimed(_)
    )
}

#[test]
fn a_retry_is_free_a_second_before_its_time_and_no_earlier() {
    let due = start() + SignedDuration::from_secs(30);
    let record = claim(None, "m", false, start())
        .retrying(attempt(start()), due, start())
        .next;
    let early = due - SignedDuration::from_secs(1);
    assert_eq!(
        [early - MILLISECOND, early, due].map(|now| is_free(&record, now)),
        [false, true, true]
    );
    let ClaimResult::TooEarly(time) =
        Claim::on(Some(&record), request(&event(), "m", false, start()))
    else {
        panic!("too early")
    };
    assert_eq!(time, due);
}

#[test]
fn a_record_says_when_what_happened() {
    let (at, later) = (
        start() + SignedDuration::from_secs(5),
        start() + SignedDuration::from_mins(5),
    );
    let first = claim(None, "m", false, at).transition().next.clone();
    assert_eq!(
        (first.received_at, first.first_seen_at, first.last_seen_at),
        (start(), at, at)
    );
    let State::InProgress(lease) = &first.state else {
        panic!("{first:?}")
    };
    assert_eq!(lease.lease_until, at + SignedDuration::from_secs(65));
    // It was never heard of again.
    let second = claim(Some(&first), "m", false, later)
        .transition()
        .next
        .clone();
    assert_eq!(
        (
            second.received_at,
            second.first_seen_at,
            second.last_seen_at
        ),
        (start(), at, later)
    );
    assert_eq!(
        second
            .attempts
            .iter()
            .map(|attempt| attempt.at)
            .collect::<Vec<_>>(),
        [at]
    );
}

#[test]
fn a_crash_on_the_last_receive_is_a_death_when_its_lease_ends() {
    let record = claim(None, "m", true, start()).transition().next.clone();
    let end = start() + SignedDuration::from_secs(65);
    assert_eq!(record.state.death(end - MILLISECOND), None);
    for now in [end, end + SignedDuration::from_hours(1)] {
        let death = record.state.death(now).expect("dead");
        assert_eq!((death.reason, death.dead_at), (ReasonKind::Crashed, end));
    }
    assert!(record.is_expired(start() + LIFE) && !record.is_expired(start() + LIFE - MILLISECOND));
    // A replay restarts the backoff.
    let again = claim(Some(&record), "another", false, end);
    assert_eq!(
        (
            again.attempt(),
            again.attempts_since_claim(),
            again.record().replays_made
        ),
        (2, 1, 1)
    );
    let unfinished = claim(None, "m", false, start()).transition().next.clone();
    let again = claim(Some(&unfinished), "m", false, end);
    assert_eq!(
        (
            again.attempt(),
            again.attempts_since_claim(),
            again.record().replays_made
        ),
        (2, 2, 0),
        "it never died"
    );
}

#[test]
fn expired_record_is_replaced() {
    let record = claim(None, "m", false, start())
        .delivered(attempt(start()))
        .next;
    let later = start() + LIFE;
    assert!(matches!(
        Claim::on(
            Some(&record),
            request(&event(), "m", false, later - SignedDuration::from_secs(1))
        ),
        ClaimResult::AlreadyFinished(Finished {
            state: StateName::Delivered,
            noted: None,
            ..
        })
    ));
    let again = claim(Some(&record), "m", false, later);
    assert_eq!(
        (again.attempt(), again.transition().guard),
        (1, Guard::Unchanged(record.revision))
    );
}

#[test]
fn a_message_that_died_is_only_moved_again_and_a_replay_of_it_is_claimed() {
    let claimed = claim(None, "m", false, start());
    let dead = claimed
        .dead(
            attempt(start()),
            death(start()),
            Some("m"),
            Context::default(),
        )
        .next;
    assert!(matches!(
        Claim::on(Some(&dead), request(&event(), "m", false, start())),
        ClaimResult::AlreadyDead(_)
    ));
    let Some(DeadLetterStatus::Dead(dead_record)) = DeadLetterStatus::recorded(&dead, start())
    else {
        panic!("not dead")
    };
    // Also the message itself, should SQS keep its id on the way back; and no other is taken for it
    // before.
    for message_id in ["another", "m"] {
        let replayed = claim(
            Some(&dead_record.replayed(act(start())).next),
            message_id,
            false,
            start(),
        );
        assert_eq!(
            (
                replayed.attempt(),
                replayed.attempts_since_claim(),
                replayed.record().replays_made
            ),
            (2, 1, 1)
        );
    }
    let later = start() + SignedDuration::from_mins(1);
    assert_eq!(claim(Some(&dead), "m2", false, later).attempt(), 2);
    let archived = claim(
        Some(&dead_record.archived(act(start()), "a/key").next),
        "another",
        false,
        start(),
    );
    assert_eq!(
        (
            archived.attempt(),
            archived.attempts_since_claim(),
            archived.record().replays_made
        ),
        (2, 1, 0)
    );
}

#[test]
fn older_answers_are_kept_shorter() {
    let mut record = None;
    let mut now = start();
    for _ in 0..25 {
        let claimed = claim(record.as_ref(), "m", false, now);
        record = Some(claimed.retrying(attempt(now), now, now).next);
        now += SignedDuration::from_secs(1);
    }
    let record = record.expect("written");
    assert_eq!((record.attempts_made, record.attempts.len()), (25, 20));
    let lengths: Vec<_> = record
        .attempts
        .iter()
        .filter_map(|attempt| Some(attempt.response.as_ref()?.len()))
        .collect();
    assert!(lengths[..19].iter().all(|length| *length == 256) && lengths[19] == 1000);
    let oldest = start() + SignedDuration::from_secs(5);
    assert_eq!(record.attempts[0].at, oldest, "the newest are kept");
    let mut record = claim(None, "m", false, start()).dead(
        attempt(start()),
        death(start()),
        None,
        Context::default(),
    );
    for second in 0..25 {
        let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&record.next, start())
        else {
            panic!("not dead")
        };
        record = dead.replayed(act(start() + SignedDuration::from_secs(second)));
    }
    let history = record.next.history;
    assert_eq!((history.len(), history[0].at), (20, oldest));
}

#[test]
fn the_context_is_read_from_the_body() {
    let context = Context::of(&event(), Some("https://example.com/".to_owned()));
    assert_eq!(context.webhook_name.as_deref(), Some("orders"));
}

#[test]
fn headers_are_kept_while_there_is_room_for_name_and_value() {
    for (bytes, kept) in [(16 * 1024 - 1, 1), (16 * 1024, 0)] {
        let headers = [("x".to_owned(), "v".repeat(bytes))].into();
        assert_eq!(
            Context::of(&Event { headers, ..event() }, None)
                .headers
                .len(),
            kept,
            "{bytes} bytes and a name"
        );
    }
    let headers = [
        ("a".to_owned(), "v".repeat(9000)),
        ("b".to_owned(), "v".repeat(9000)),
    ]
    .into();
    assert_eq!(
        Context::of(&Event { headers, ..event() }, None)
            .headers
            .len(),
        1,
        "all together"
    );
}

#[test]
fn the_diagram_of_the_architecture_is_that_of_the_code() {
    let name = |state: Option<StateName>| state.map_or("[*]", StateName::as_str);
    let arrow = |(from, to, what): &(Option<StateName>, StateName, &str)| {
        format!("    {} --> {}: {what}\n", name(*from), name(Some(*to)))
    };
    // From everywhere: the text says so.
    let is_drawn = |(_, to, _): &&(Option<StateName>, StateName, &str)| *to != StateName::Erased;
    let diagram: String = TRANSITIONS.iter().filter(is_drawn).map(arrow).collect();
    let diagram = format!("```mermaid\nstateDiagram-v2\n{diagram}```\n");
    let architecture = include_str!("../../../../ARCHITECTURE.md");
    assert!(
        architecture.contains(&diagram),
        "ARCHITECTURE.md has to show:\n{diagram}"
    );
}
