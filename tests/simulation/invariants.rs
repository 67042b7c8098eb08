//! Invariants of a run, and the observations that they are checked against.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Mutex;
use std::time::Duration;

use genesys_relay::domain::event::{Event, EventId};
use genesys_relay::domain::event_record::{Death, EventRecord, REPLAY_CEILING, State, StateName};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::testing::{FakeClock, FakeQueue, FakeTable};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::lock;
use crate::scenario::{Scenario, Sent};

/// Allowance for the skew of clocks and for the whole seconds of SQS.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(6);

/// Longest delay by a `Retry-After`.
const RETRY_AFTER_CEILING: Duration = Duration::from_hours(1);

/// Age of an event from which failures of the relay's credentials count.
const UNCOUNTED: SignedDuration = SignedDuration::from_hours(3 * 24);

/// Life of a record after its last change.
const RECORD_LIFE: SignedDuration = SignedDuration::from_hours(15 * 24);

/// Time from the end of an invocation to the end of its leases.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// Longest time for which the breaker may hold back a good event while the target works. There is
/// one probe a minute; some hit poison, some fail.
const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// One minute less the delays of the schedule and of the previous probe.
const SHORTEST_PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Observer of one run.
pub(crate) struct Invariants {
    began: Instant,
    verbose: bool,
    base: Duration,
    cap: Duration,
    processor_time: Duration,
    /// Upper bound on the requests a second to the target.
    rate: Option<u32>,
    /// Copies of messages or wrong clocks can use up receives.
    is_disorderly: bool,
    events: FakeQueue,
    dead_letters: FakeQueue,
    table: FakeTable,
    /// Number of events by label, for events whose requests are all known as one event.
    distinct: BTreeMap<String, usize>,
    seen: Mutex<Seen>,
    /// Changes of both queues and of the knowledge at the last check of losses.
    checked: Mutex<Option<[usize; 3]>>,
}

#[derive(Default)]
struct Seen {
    /// Number of changes that can make an event a lost one.
    changes: usize,
    /// Events that a queue has had, or that were acknowledged to the sender.
    known: BTreeSet<EventId>,
    /// Number of times the target has accepted an event.
    taken: BTreeMap<EventId, u32>,
    /// Knowledge of the senders, by label.
    labels: BTreeMap<String, Labelled>,
    /// Time at which it first accepted an event with this label.
    taken_after: BTreeMap<String, Duration>,
    /// Time at which the breaker first opened.
    opened_after: Option<Duration>,
    /// Time of the last probe.
    probed_at: Option<Instant>,
    /// Start of the time in which good events are held back although the target works.
    held_since: Option<Instant>,
    /// Events in the archive.
    archived: BTreeSet<EventId>,
    /// Events that an operator has asked to discard.
    discard_requests: BTreeSet<EventId>,
    /// Dead letters that cannot be delivered.
    undeliverable: BTreeSet<EventId>,
    /// Events that came more than once or met a crash or fault: the relay may not know the reason
    /// of their failure.
    disturbed: BTreeSet<EventId>,
    /// Last state of each record, also of expired ones.
    last: BTreeMap<EventId, StateName>,
    /// Time since which an event is recorded as delivered or discarded.
    finished: BTreeMap<EventId, Timestamp>,
    /// Last answer of the target that the relay received: status and `Retry-After`.
    heard: BTreeMap<EventId, (Option<u16>, Duration)>,
    /// Events whose last attempt should not count, and whether it may all the same.
    uncounted: BTreeMap<EventId, bool>,
    /// Times of the requests of the last second.
    requests: VecDeque<Instant>,
    /// Earliest time of the next attempt at a failed event.
    not_before: BTreeMap<EventId, Timestamp>,
    violation: Option<String>,
    trace: DefaultHasher,
}

/// Events with one label.
#[derive(Default)]
struct Labelled {
    /// Accepted events, by their senders' numbers.
    accepted: BTreeSet<usize>,
    /// Events that their senders gave up.
    given_up: BTreeSet<usize>,
    /// Requests that the relay may have stored.
    requests: usize,
    /// Event ids in queues.
    queued: BTreeSet<EventId>,
    /// Ids of their records, also those given where another body has the id.
    recorded: BTreeSet<EventId>,
    taken: BTreeSet<EventId>,
    archived: BTreeSet<EventId>,
    /// A rebuilt copy may stand for any event with its id, so that a loss cannot be told.
    is_open: bool,
}

/// Label that a body contains.
pub(crate) fn label_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let label = text
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    label.map_or_else(String::new, |(label, _)| format!("<{label}>"))
}

impl Invariants {
    pub(crate) fn new(
        scenario: &Scenario,
        verbose: bool,
        events: &FakeQueue,
        dead_letters: &FakeQueue,
        table: &FakeTable,
    ) -> Self {
        let mut distinct = BTreeMap::<String, usize>::new();
        for sent in &scenario.events {
            *distinct.entry(sent.label()).or_default() += 1;
        }
        for sent in scenario.events.iter().filter(|sent| !sent.is_distinct()) {
            distinct.remove(&sent.label());
        }
        Self {
            began: Instant::now(),
            verbose,
            base: scenario.base,
            cap: scenario.cap,
            processor_time: scenario.processor_time,
            rate: scenario.rate,
            is_disorderly: scenario.disorder || scenario.clocks_differ,
            events: events.clone(),
            dead_letters: dead_letters.clone(),
            table: table.clone(),
            distinct,
            seen: Mutex::default(),
            checked: Mutex::default(),
        }
    }

    /// Prints a line where a single seed is replayed.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            crate::print_line(&format!(
                "{:>14.3} s  {}",
                self.began.elapsed().as_secs_f64(),
                what()
            ));
        }
    }

    /// Adds an observation and its time to the fingerprint of the run.
    pub(crate) fn trace(&self, what: &impl Hash) {
        (self.began.elapsed(), what).hash(&mut lock(&self.seen).trace);
    }

    /// Hash of all observations, equal in all runs of a seed.
    pub(crate) fn fingerprint(&self) -> u64 {
        lock(&self.seen).trace.finish()
    }

    pub(crate) fn violate(&self, what: &str) {
        self.note(|| format!("VIOLATION: {what}"));
        let mut seen = lock(&self.seen);
        let at = self.began.elapsed().as_secs_f64();
        seen.violation
            .get_or_insert_with(|| format!("{what} (after {at:.3} s)"));
    }

    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.seen).violation.clone()
    }

    /// Notes a request of a sender.
    pub(crate) fn requested(&self, label: &str) {
        lock(&self.seen)
            .labels
            .entry(label.to_owned())
            .or_default()
            .requests += 1;
    }

    /// Notes that a sender gave up an event. Losses of others with its id cannot be told from now
    /// on.
    pub(crate) fn given_up(&self, sent: &Sent, sharing: impl Iterator<Item = String>) {
        let mut seen = lock(&self.seen);
        seen.labels
            .entry(sent.label())
            .or_default()
            .given_up
            .insert(sent.number);
        for label in sharing {
            seen.labels.entry(label).or_default().is_open = true;
        }
    }

    /// Checks that the relay has all events that were given up, after the recovery reached the
    /// present.
    pub(crate) fn recovered(&self) -> Result<(), String> {
        let mut seen = lock(&self.seen);
        seen.changes += 1;
        for (label, labelled) in seen
            .labels
            .iter_mut()
            .filter(|(_, labelled)| !labelled.is_open)
        {
            let Labelled {
                accepted,
                given_up,
                queued,
                ..
            } = labelled;
            accepted.extend(given_up.iter());
            if !given_up.is_empty() && queued.len() < accepted.len() {
                return Err(format!(
                    "the recovery has not found {label}: {} of {}",
                    queued.len(),
                    accepted.len()
                ));
            }
        }
        Ok(())
    }

    /// Checks that each event was delivered or is excused, and that no event became two.
    pub(crate) fn check_labels(&self, excused: impl Fn(&str) -> bool) -> Result<(), String> {
        let seen = lock(&self.seen);
        for (label, labelled) in &seen.labels {
            let Labelled {
                accepted,
                given_up,
                requests,
                recorded,
                taken,
                is_open,
                ..
            } = labelled;
            let is_discarded = |id: &&EventId| seen.last.get(*id) == Some(&StateName::Discarded);
            let done = taken
                .union(&recorded.iter().filter(is_discarded).cloned().collect())
                .count();
            if !is_open && !excused(label) && done < accepted.len() {
                return Err(format!(
                    "{label}: {} events were sent and {done} delivered",
                    accepted.len()
                ));
            }
            if taken.len() > requests + given_up.len() {
                return Err(format!(
                    "{label}: {requests} requests and {} recoveries became {taken:?}",
                    given_up.len()
                ));
            }
            if self
                .distinct
                .get(label)
                .is_some_and(|events| taken.len() > *events)
            {
                return Err(format!(
                    "{label} was delivered as {taken:?}, more than were sent"
                ));
            }
        }
        Ok(())
    }

    /// Notes a message in a queue; `is_renewed` where it takes the place of another.
    pub(crate) fn queued_message(
        &self,
        message: &Message,
        is_undeliverable: bool,
        is_renewed: bool,
    ) {
        let now = FakeClock.now();
        let id = message.identity(now).0;
        let digest = message.to_event(now).ok().and_then(|event| event.digest());
        let mut seen = lock(&self.seen);
        seen.changes += 1;
        let labelled = seen
            .labels
            .entry(label_of(message.body.as_bytes()))
            .or_default();
        labelled.queued.insert(id.clone());
        let own = digest.map(|digest| id.with_body(&digest));
        labelled.recorded.insert(id.clone());
        // A copy of an event with an id of its own.
        let again = own.filter(|own| !labelled.recorded.insert(own.clone()));
        if !is_renewed {
            seen.disturbed.extend(again);
        }
        if is_undeliverable {
            seen.undeliverable.insert(id.clone());
        }
        if !seen.known.insert(id.clone()) && !is_renewed {
            seen.disturbed.insert(id);
        }
    }

    /// Notes that faults may have hidden the outcome of an event.
    pub(crate) fn disturbed(&self, id: EventId) {
        lock(&self.seen).disturbed.insert(id);
    }

    /// Notes an acknowledgement to the sender.
    pub(crate) fn accepted(&self, id: &EventId, sent: &Sent) {
        {
            let mut seen = lock(&self.seen);
            seen.changes += 1;
            seen.known.insert(id.clone());
            seen.labels
                .entry(sent.label())
                .or_default()
                .accepted
                .insert(sent.number);
        }
        self.check_nothing_lost();
    }

    pub(crate) fn is_disturbed(&self, id: &EventId) -> bool {
        lock(&self.seen).disturbed.contains(id)
    }

    pub(crate) fn archived(&self, events: impl Iterator<Item = (EventId, String)>) {
        let mut seen = lock(&self.seen);
        for (id, label) in events {
            seen.labels
                .entry(label)
                .or_default()
                .archived
                .insert(id.clone());
            seen.archived.insert(id);
        }
    }

    pub(crate) fn discard_requested(&self, ids: impl Iterator<Item = EventId>) {
        lock(&self.seen).discard_requests.extend(ids);
    }

    /// Notes that the target accepted an event.
    pub(crate) fn taken(&self, event: &Event) {
        let mut seen = lock(&self.seen);
        *seen.taken.entry(event.id.clone()).or_default() += 1;
        seen.labels
            .entry(label_of(&event.body))
            .or_default()
            .taken
            .insert(event.id.clone());
        seen.taken_after
            .entry(label_of(&event.body))
            .or_insert_with(|| self.began.elapsed());
    }

    /// Checks that an open breaker does not hold back good events for long while the target works.
    pub(crate) fn breaker_ran(&self, is_open: bool, holds_back_good_events: bool) {
        let mut seen = lock(&self.seen);
        if is_open {
            seen.opened_after
                .get_or_insert_with(|| self.began.elapsed());
        }
        seen.held_since =
            holds_back_good_events.then(|| seen.held_since.unwrap_or_else(Instant::now));
        if seen
            .held_since
            .is_some_and(|since| since.elapsed() > LONGEST_HOLD)
        {
            drop(seen);
            self.violate("good events are held back although the target works");
        }
    }

    /// Checks that there is at most one probe a minute.
    pub(crate) fn probed(&self) {
        let before = lock(&self.seen).probed_at.replace(Instant::now());
        if before.is_some_and(|at| at.elapsed() < SHORTEST_PROBE_INTERVAL) {
            self.violate("a target in an outage gets more than one probe a minute");
        }
    }

    pub(crate) fn taken_after(&self) -> BTreeMap<String, Duration> {
        lock(&self.seen).taken_after.clone()
    }

    pub(crate) fn opened_after(&self) -> Option<Duration> {
        lock(&self.seen).opened_after
    }

    pub(crate) fn has_taken(&self, id: &EventId) -> bool {
        lock(&self.seen).taken.contains_key(id)
    }

    /// Notes that the relay learned of a failed delivery.
    pub(crate) fn heard(&self, id: &EventId, status: Option<u16>, retry_after: Option<Duration>) {
        lock(&self.seen)
            .heard
            .insert(id.clone(), (status, retry_after.unwrap_or_default()));
    }

    /// Notes that the last attempt at an event should not count; its wait is not checked where it may
    /// count all the same (403).
    pub(crate) fn uncounted(&self, id: &EventId, may_count: bool) {
        lock(&self.seen).uncounted.insert(id.clone(), may_count);
    }

    /// Checks that the target gets no more requests in a second than the rate allows.
    pub(crate) fn requested_of_target(&self) {
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        seen.requests.push_back(now);
        while seen
            .requests
            .front()
            .is_some_and(|at| now - *at >= Duration::from_secs(1))
        {
            seen.requests.pop_front();
        }
        let within = seen.requests.len();
        drop(seen);
        if within > rate as usize {
            self.violate(&format!("{within} requests in a second instead of {rate}"));
        }
    }

    pub(crate) fn known(&self) -> BTreeSet<EventId> {
        lock(&self.seen).known.clone()
    }

    /// Number of repeated deliveries.
    pub(crate) fn repeats(&self) -> u64 {
        lock(&self.seen)
            .taken
            .values()
            .map(|times| u64::from(times - 1))
            .sum()
    }

    /// Checks that a delivery starts neither after a recorded one nor before the end of the
    /// backoff.
    pub(crate) fn delivery_started(&self, id: &EventId) {
        let now = FakeClock.now();
        let (finished, not_before) = {
            let mut seen = lock(&self.seen);
            seen.heard.remove(id);
            seen.uncounted.remove(id);
            (seen.finished.get(id).copied(), seen.not_before.remove(id))
        };
        if finished.is_some_and(|since| now < since + RECORD_LIFE - TOLERANCE) {
            self.violate(&format!(
                "{id} is delivered again although it is recorded as delivered or discarded"
            ));
        }
        if not_before.is_some_and(|time| now + TOLERANCE < time) {
            self.violate(&format!(
                "{id} is delivered again before its backoff is over"
            ));
        }
    }

    /// Checks a change of a record by a process.
    pub(crate) fn written(&self, by: &str, before: Option<&EventRecord>, after: &EventRecord) {
        let (id, now) = (&after.event_id, FakeClock.now());
        let name = |record: &EventRecord| record.state.name().as_str();
        self.trace(&(
            id,
            before.map(name),
            name(after),
            after.attempts_since_claim,
            after.replays_made,
        ));
        self.note(|| {
            format!(
                "{id}: {} → {}, attempt {}",
                before.map_or("nothing", name),
                name(after),
                after.attempts_since_claim
            )
        });
        self.remember(after, now);
        match (before.map(|before| &before.state), &after.state) {
            (_, State::Delivered) if !self.has_taken(id) => {
                self.violate(&format!(
                    "{id} is recorded as delivered but was never sent to the target"
                ));
            }
            (_, State::Discarded(_)) if !lock(&self.seen).discard_requests.contains(id) => {
                self.violate(&format!("{id} was discarded without a request"));
            }
            (_, State::Archived { .. }) if !lock(&self.seen).archived.contains(id) => {
                self.violate(&format!(
                    "{id} is recorded as archived but is not in the archive"
                ));
            }
            (_, State::Retrying { next_attempt_at }) => {
                self.check_retry(by, before, after, *next_attempt_at);
            }
            (Some(State::Retrying { next_attempt_at }), State::InProgress(_))
                if *next_attempt_at > now + TOLERANCE =>
            {
                self.violate(&format!("{id} is claimed before its backoff is over"));
            }
            (Some(State::Dead(_)), State::InProgress(_))
                if before.is_some_and(|it| it.replays_made >= REPLAY_CEILING) =>
            {
                let replay = after.history.iter().rfind(|act| act.action == "replay");
                if replay.and_then(|act| act.why.as_deref()) != Some("force") {
                    self.violate(&format!("{id} is claimed beyond the replay limit"));
                }
            }
            (Some(State::InProgress(lease)), State::InProgress(_))
                if lease.lease_until > now + TOLERANCE =>
            {
                self.violate(&format!("{id} is claimed before its lease expires"));
            }
            (Some(State::Dead(old)), State::Dead(new)) if new.replayed_at != old.replayed_at => {
                let is_forced = after
                    .history
                    .last()
                    .is_some_and(|act| act.why.as_deref() == Some("force"));
                if new.replayed_at.is_some()
                    && !is_forced
                    && before.is_some_and(|it| it.replays_made >= REPLAY_CEILING)
                {
                    self.violate(&format!("{id} is replayed beyond the replay limit"));
                }
            }
            (_, State::Dead(dead)) if dead.replayed_at.is_none() => {
                self.check_reason(id, &dead.death);
                self.check_time_of_death(before, &dead.death, by);
            }
            _ => {}
        }
        if let State::InProgress(lease) = &after.state {
            let longest = self.processor_time + LEASE_PAST_DEADLINE;
            if lease.lease_until > now + longest + TOLERANCE {
                self.violate(&format!("the lease of {id} outlasts its invocation"));
            }
        }
    }

    /// Checks the wait before the next attempt, and that no attempt counts that should not.
    fn check_retry(
        &self,
        by: &str,
        before: Option<&EventRecord>,
        after: &EventRecord,
        next_attempt_at: Timestamp,
    ) {
        let id = &after.event_id;
        let refused = lock(&self.seen).uncounted.get(id).copied();
        let is_uncounted = refused.is_some();
        let may_count = refused == Some(true)
            || after.last_seen_at.duration_since(after.received_at) > UNCOUNTED;
        let attempts = if is_uncounted {
            after.attempts_made
        } else {
            after.attempts_since_claim
        };
        // A failed probe that tells nothing about the event restarts its backoff; otherwise
        // it is an attempt like any other.
        let wait = Duration::try_from(next_attempt_at.duration_since(after.last_seen_at))
            .unwrap_or_default();
        let restarts = by == "probe" && wait + Duration::from_millis(2) < self.wait(attempts);
        // Without a request the record is as before the claim.
        let is_postponed = before.is_some_and(|before| before.attempts_made > after.attempts_made);
        if !(is_postponed || is_uncounted && may_count) {
            let attempts = if restarts { 1 } else { attempts };
            self.check_backoff(after, attempts, next_attempt_at);
        }
        if is_uncounted
            && !may_count
            && before.is_some_and(|it| it.attempts_since_claim <= after.attempts_since_claim)
        {
            self.violate(&format!(
                "{id} has used up an attempt although the relay's credentials failed"
            ));
        }
    }

    /// Checks that a delivered or discarded event stays so for the life of its record.
    fn remember(&self, after: &EventRecord, now: Timestamp) {
        let (id, name) = (&after.event_id, after.state.name());
        let mut seen = lock(&self.seen);
        seen.changes += 1;
        let was = seen.last.insert(id.clone(), name);
        let since = seen.finished.get(id).copied();
        if matches!(name, StateName::Delivered | StateName::Discarded) {
            seen.finished.insert(id.clone(), now);
        } else if since.is_some_and(|since| now < since + RECORD_LIFE - TOLERANCE) {
            drop(seen);
            self.violate(&format!("{id} changed from {was:?} back to {name:?}"));
        } else {
            seen.finished.remove(id);
        }
    }

    /// Checks that the time of a failure is not that of an earlier failure of the event.
    fn check_time_of_death(&self, before: Option<&EventRecord>, death: &Death, by: &str) {
        let Some(before) = before.filter(|_| by != "restore") else {
            return;
        };
        let alive_at = match &before.state {
            State::Queued | State::InProgress(_) | State::Retrying { .. } => before.last_seen_at,
            State::Dead(dead) if dead.death != *death => {
                dead.replayed_at.unwrap_or(before.last_seen_at)
            }
            State::Dead(_) | State::Delivered | State::Archived { .. } | State::Discarded(_) => {
                return;
            }
        };
        if death.dead_at + TOLERANCE < alive_at {
            self.violate(&format!(
                "{} failed for good at {} but was alive at {alive_at}",
                before.event_id, death.dead_at
            ));
        }
    }

    /// Checks the reason of a dead letter, where the relay could know it.
    fn check_reason(&self, id: &EventId, death: &Death) {
        let (heard, is_disturbed, is_undeliverable, refused) = {
            let seen = lock(&self.seen);
            (
                seen.heard.get(id).copied(),
                seen.disturbed.contains(id),
                seen.undeliverable.contains(id),
                seen.uncounted.get(id).copied(),
            )
        };
        if death.reason == ReasonKind::Permanent && refused == Some(false) {
            self.violate(&format!(
                "{id} is dead although the target refused the relay's credentials only"
            ));
        }
        let is_final =
            |status: u16| (300..500).contains(&status) && ![408, 421, 425, 429].contains(&status);
        let is_conflict = |status: u16| [409, 423].contains(&status);
        let status = heard.and_then(|(status, _)| status);
        // A conflict over an accepted event is the target's work on an earlier attempt.
        let is_in_progress = status.is_some_and(is_conflict) && self.has_taken(id);
        let holds = match death.reason {
            ReasonKind::Permanent => {
                status == death.status_code && status.is_some_and(is_final) && !is_in_progress
            }
            ReasonKind::Exhausted => {
                let is_for_good = |status| is_final(status) && !is_conflict(status);
                heard.is_some()
                    && status == death.status_code
                    && (!status.is_some_and(is_for_good) || refused.is_some())
            }
            ReasonKind::Malformed => is_undeliverable,
            ReasonKind::Crashed | ReasonKind::Unknown => self.is_disorderly || is_disturbed,
            ReasonKind::Unreadable => false,
        };
        // Faults may have hidden the reason from the relay.
        if !holds && !is_disturbed {
            let reason = death.reason.as_str();
            self.violate(&format!(
                "{id} is a dead letter with reason {reason} {:?} but the target last answered {heard:?}",
                death.status_code
            ));
        }
    }

    /// The wait after this many attempts in a row, without jitter.
    fn wait(&self, attempts: u32) -> Duration {
        let doubled = 2_u32
            .checked_pow(attempts.saturating_sub(1))
            .and_then(|factor| self.base.checked_mul(factor));
        doubled.map_or(self.cap, |doubled| doubled.min(self.cap))
    }

    /// Checks the wait before the next attempt: min(cap, base · 2ⁿ⁻¹) plus jitter of at most 1 s or
    /// a tenth, or the `Retry-After`.
    fn check_backoff(&self, record: &EventRecord, attempts: u32, next_attempt_at: Timestamp) {
        let wait = next_attempt_at.duration_since(record.last_seen_at);
        let least = self.wait(attempts);
        let asked = lock(&self.seen)
            .heard
            .get(&record.event_id)
            .map_or(Duration::ZERO, |(_, asked)| *asked);
        let asked = asked.min(RETRY_AFTER_CEILING);
        let most = (least + (least / 10).max(Duration::from_secs(1))).max(asked);
        let least = least.max(asked);
        // The time in the table is in whole milliseconds.
        let slack = SignedDuration::from_millis(2);
        let (least, most) = (
            SignedDuration::try_from(least),
            SignedDuration::try_from(most),
        );
        let (Ok(least), Ok(most)) = (least, most) else {
            return;
        };
        lock(&self.seen)
            .not_before
            .insert(record.event_id.clone(), FakeClock.now() + least);
        if wait + slack < least || wait - slack > most {
            self.violate(&format!(
                "{} waits for {wait} instead of {least} to {most}",
                record.event_id
            ));
        }
    }

    /// Checks that each event is in a queue, at the target, in the archive, or discarded. Only a
    /// change can have lost one since the last check.
    pub(crate) fn check_nothing_lost(&self) {
        let changes = lock(&self.seen).changes;
        let now = [self.events.removed(), self.dead_letters.removed(), changes];
        if lock(&self.checked).replace(now) == Some(now) {
            return;
        }
        let identity = |message: &Message, sent_at| {
            let id = match message.event_id() {
                Some(id) => id.to_owned(),
                None => message.identity(sent_at).0.to_string(),
            };
            (id, label_of(message.body.as_bytes()))
        };
        let mut queued: BTreeSet<String> = BTreeSet::new();
        let mut by_label: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, label) in self
            .events
            .held(identity)
            .into_iter()
            .chain(self.dead_letters.held(identity))
        {
            by_label.entry(label).or_default().insert(id.clone());
            queued.insert(id);
        }
        let seen = lock(&self.seen);
        for (label, labelled) in seen.labels.iter().filter(|(_, labelled)| !labelled.is_open) {
            let is_discarded = |id: &&EventId| seen.last.get(*id) == Some(&StateName::Discarded);
            let mut safe = by_label.remove(label).unwrap_or_default();
            let elsewhere = labelled.taken.iter().chain(&labelled.archived);
            safe.extend(
                elsewhere
                    .chain(labelled.recorded.iter().filter(is_discarded))
                    .map(ToString::to_string),
            );
            if safe.len() < labelled.accepted.len() {
                let what = format!(
                    "LOST: {label}, {} of {}",
                    labelled.accepted.len() - safe.len(),
                    labelled.accepted.len()
                );
                drop(seen);
                return self.violate(&what);
            }
        }
        let is_safe = |id: &&EventId| {
            queued.contains(id.as_str())
                || seen.taken.contains_key(*id)
                || seen.archived.contains(*id)
                || seen.last.get(*id) == Some(&StateName::Discarded)
        };
        let lost: Vec<_> = seen
            .known
            .iter()
            .filter(|id| !is_safe(id))
            .cloned()
            .collect();
        drop(seen);
        if !lost.is_empty() {
            let mut what = "LOST:".to_owned();
            for id in lost {
                let state = self
                    .table
                    .record(&id)
                    .map_or("no record", |record| record.state.name().as_str());
                let _ = write!(what, " {id} ({state})");
            }
            self.violate(&what);
        }
    }
}
