//! What has to hold, whatever happens; and who saw what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Mutex;
use std::time::Duration;

use genesys_relay::clock::Clock as _;
use genesys_relay::event::EventId;
use genesys_relay::record::{REPLAY_CEILING, Record, State};
use genesys_relay::testing::{FakeClock, FakeQueue, FakeTable};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::lock;
use crate::scenario::Scenario;

/// Clocks differ by so much, and SQS counts in whole seconds.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(6);

/// How far a `Retry-After` can put off an attempt.
const RETRY_AFTER_CEILING: Duration = Duration::from_hours(1);

/// A lease ends this long after its invocation, as `ARCHITECTURE.md` says.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// The observer of one run.
pub(crate) struct Law {
    began: Instant,
    speaks: bool,
    base: Duration,
    cap: Duration,
    processor_time: Duration,
    events: FakeQueue,
    dead_letters: FakeQueue,
    table: FakeTable,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Every event that a queue has had, or that the sender was told is safe.
    known: BTreeSet<EventId>,
    /// How often the target has taken an event.
    taken: BTreeMap<EventId, u32>,
    archived: BTreeSet<EventId>,
    /// What an operator has asked to drop.
    discarded: BTreeSet<EventId>,
    /// The longest `Retry-After` that the target gave for an event since it last took it on.
    retry_after: BTreeMap<EventId, Duration>,
    violation: Option<String>,
    trace: DefaultHasher,
}

impl Law {
    pub(crate) fn new(
        scenario: &Scenario,
        speaks: bool,
        events: &FakeQueue,
        dead_letters: &FakeQueue,
        table: &FakeTable,
    ) -> Self {
        Self {
            began: Instant::now(),
            speaks,
            base: scenario.base,
            cap: scenario.cap,
            processor_time: scenario.processor_time,
            events: events.clone(),
            dead_letters: dead_letters.clone(),
            table: table.clone(),
            seen: Mutex::default(),
        }
    }

    /// Something worth telling to who replays a seed.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let now = self.began.elapsed();
        lock(&self.seen).trace.write_u128(now.as_nanos());
        if self.speaks {
            crate::say(&format!("{:>14.3} s  {}", now.as_secs_f64(), what()));
        }
    }

    /// What happened, as one number that another run of the same seed has to have too.
    pub(crate) fn trace(&self) -> u64 {
        lock(&self.seen).trace.finish()
    }

    pub(crate) fn violate(&self, what: &str) {
        self.note(|| format!("VIOLATION: {what}"));
        let mut seen = lock(&self.seen);
        let at = self.began.elapsed().as_secs_f64();
        seen.violation.get_or_insert_with(|| format!("{what} (after {at:.3} s)"));
    }

    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.seen).violation.clone()
    }

    /// A queue has it.
    pub(crate) fn entered(&self, id: EventId) {
        lock(&self.seen).known.insert(id);
    }

    /// The sender was told that it is safe.
    pub(crate) fn accepted(&self, id: &EventId) {
        lock(&self.seen).known.insert(id.clone());
        self.account();
    }

    pub(crate) fn archived(&self, ids: impl Iterator<Item = EventId>) {
        lock(&self.seen).archived.extend(ids);
    }

    pub(crate) fn discard_is_asked(&self, ids: impl Iterator<Item = EventId>) {
        lock(&self.seen).discarded.extend(ids);
    }

    pub(crate) fn is_discard_asked(&self, id: &EventId) -> bool {
        lock(&self.seen).discarded.contains(id)
    }

    /// The target has the event.
    pub(crate) fn taken(&self, id: &EventId) {
        *lock(&self.seen).taken.entry(id.clone()).or_default() += 1;
    }

    pub(crate) fn has_taken(&self, id: &EventId) -> bool {
        lock(&self.seen).taken.contains_key(id)
    }

    pub(crate) fn retry_after(&self, id: &EventId, wait: Duration) {
        lock(&self.seen).retry_after.insert(id.clone(), wait);
    }

    pub(crate) fn known(&self) -> BTreeSet<EventId> {
        lock(&self.seen).known.clone()
    }

    /// What the target took more often than once: so many deliveries too many.
    pub(crate) fn repeats(&self) -> u64 {
        lock(&self.seen).taken.values().map(|times| u64::from(times - 1)).sum()
    }

    /// An event is about to be delivered: never after its delivery was recorded.
    pub(crate) fn delivery_begins(&self, id: &EventId) {
        lock(&self.seen).retry_after.remove(id);
        let record = self.table.record(id).filter(|record| !record.is_expired(FakeClock.now() - TOLERANCE));
        if let Some(State::Delivered | State::Discarded(_)) = record.map(|record| record.state) {
            self.violate(&format!("{id} is delivered again although it is recorded as delivered or discarded"));
        }
    }

    /// A record was written.
    pub(crate) fn written(&self, before: Option<&Record>, after: &Record) {
        self.note(|| {
            let before = before.map_or("nothing", |before| before.state.name().as_str());
            format!("{}: {before} → {}, round {}", after.event_id, after.state.name(), after.round)
        });
        let now = FakeClock.now();
        match (before.map(|before| &before.state), &after.state) {
            (_, State::Delivered) if !self.has_taken(&after.event_id) => {
                self.violate(&format!("{} is recorded as delivered, and the target has never had it", after.event_id));
            }
            (_, State::Discarded(_)) if !lock(&self.seen).discarded.contains(&after.event_id) => {
                self.violate(&format!("{} was discarded, and nobody had asked", after.event_id));
            }
            (_, State::Archived { .. }) if !lock(&self.seen).archived.contains(&after.event_id) => {
                self.violate(&format!("{} is recorded as archived, and the archive does not hold it", after.event_id));
            }
            (_, State::Retrying { next_attempt_at }) => self.check_backoff(after, *next_attempt_at),
            (Some(State::Retrying { next_attempt_at }), State::InProgress(_)) if *next_attempt_at > now + TOLERANCE => {
                self.violate(&format!("{} is claimed before its backoff is over", after.event_id));
            }
            (Some(State::InProgress(lease)), State::InProgress(_)) if lease.lease_until > now + TOLERANCE => {
                self.violate(&format!("{} is claimed although its lease is not over", after.event_id));
            }
            (Some(State::Dead(old)), State::Dead(new)) if new.replayed_at != old.replayed_at => {
                let is_forced = after.history.last().is_some_and(|act| act.why.as_deref() == Some("force"));
                if new.replayed_at.is_some() && !is_forced && before.is_some_and(|it| it.replays_made >= REPLAY_CEILING)
                {
                    self.violate(&format!("{} is replayed past the ceiling", after.event_id));
                }
            }
            _ => {}
        }
        if let State::InProgress(lease) = &after.state {
            let longest = self.processor_time + LEASE_PAST_DEADLINE;
            if lease.lease_until > now + longest + TOLERANCE {
                self.violate(&format!("the lease on {} is longer than its invocation", after.event_id));
            }
        }
    }

    /// The wait before the next attempt: min(cap, base · 2ⁿ⁻¹), plus jitter of at most 1 s or a tenth, or what the target asks.
    fn check_backoff(&self, record: &Record, next_attempt_at: Timestamp) {
        let wait = next_attempt_at.duration_since(record.last_seen_at);
        let doubled =
            2_u32.checked_pow(record.round.saturating_sub(1)).and_then(|factor| self.base.checked_mul(factor));
        let least = doubled.map_or(self.cap, |doubled| doubled.min(self.cap));
        let asked = lock(&self.seen).retry_after.remove(&record.event_id).unwrap_or_default().min(RETRY_AFTER_CEILING);
        let most = (least + (least / 10).max(Duration::from_secs(1))).max(asked);
        let least = least.max(asked);
        // The time in the table is in whole milliseconds.
        let slack = SignedDuration::from_millis(2);
        let (least, most) = (SignedDuration::try_from(least), SignedDuration::try_from(most));
        let (Ok(least), Ok(most)) = (least, most) else { return };
        if wait + slack < least || wait - slack > most {
            self.violate(&format!("{} waits for {wait}, and not for {least} to {most}", record.event_id));
        }
    }

    /// Nothing that the relay ever had is nowhere.
    pub(crate) fn account(&self) {
        let identity = |message: &genesys_relay::message::Message, sent_at| match message.event_id() {
            Some(id) => id.to_owned(),
            None => message.identity(sent_at).0.to_string(),
        };
        let queued: BTreeSet<String> =
            self.events.held(identity).into_iter().chain(self.dead_letters.held(identity)).collect();
        let seen = lock(&self.seen);
        let is_safe = |id: &&EventId| {
            queued.contains(id.as_str())
                || seen.taken.contains_key(*id)
                || seen.archived.contains(*id)
                || seen.discarded.contains(*id)
        };
        let lost: Vec<_> = seen.known.iter().filter(|id| !is_safe(id)).cloned().collect();
        drop(seen);
        if !lost.is_empty() {
            let mut what = "LOST:".to_owned();
            for id in lost {
                let state = self.table.record(&id).map_or("no record", |record| record.state.name().as_str());
                let _ = write!(what, " {id} ({state})");
            }
            self.violate(&what);
        }
    }
}
