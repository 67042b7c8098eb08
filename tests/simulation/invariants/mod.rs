//! Invariants of a run, and the observations that they are checked against.

mod book;
mod journal;
mod order;
mod retries;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Mutex;
use std::time::Duration;

use genesys_relay::domain::check::CheckEvent;
use genesys_relay::domain::event::{EventId, Source};
use genesys_relay::domain::event_record::{EventRecord, REPLAY_CEILING, State, StateName};
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::target::Delivery;
use genesys_relay::testing::{FakeClock, FakeQueue, FakeTable};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use self::journal::Book;
pub(crate) use self::journal::place_of;
use self::order::Line;
use crate::faults::Process;
use crate::lock;
use crate::scenario::{Scenario, Sent};

/// Allowance for the skew of clocks and for the whole seconds of SQS.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(6);

/// Life of a record after its last change.
const RECORD_LIFE: SignedDuration = SignedDuration::from_hours(15 * 24);

/// Time from the end of an invocation to the end of its leases.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// Longest time for which the breaker may hold back a good event while the target works. There is
/// one probe a minute; some hit poison, some fail.
const LONGEST_HOLD: Duration = Duration::from_mins(15);

/// Time of the probes with which poison leaves its conversation.
const PROBES_IN_PLACE: Duration = Duration::from_mins(5);

/// One minute less the delays of the schedule and of the previous probe.
const SHORTEST_PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Observer of one run.
pub(crate) struct Invariants {
    began: Instant,
    verbose: bool,
    base: Duration,
    cap: Duration,
    max_receives: u32,
    /// `OrderPatienceSeconds`.
    patience: Duration,
    processor_time: Duration,
    /// Upper bound on the requests a second to the target.
    rate: Option<u32>,
    /// Copies of messages or wrong clocks can use up receives.
    is_disorderly: bool,
    queues: Vec<FakeQueue>,
    table: FakeTable,
    /// Number of events by label, for events whose requests are all known as one event.
    distinct: BTreeMap<String, usize>,
    seen: Mutex<Seen>,
    /// Changes of the queues and of the knowledge at the last check of losses.
    checked: Mutex<Option<Vec<usize>>>,
    line: Mutex<Line>,
    book: Mutex<Book>,
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
    /// Numbers of the runs that wrote objects, by their random ids.
    run_numbers: BTreeMap<String, usize>,
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
    /// Times of receipt that the messages of an event name.
    received_at: BTreeMap<EventId, BTreeSet<Timestamp>>,
    /// Time of the last write of each record.
    written_at: BTreeMap<EventId, Timestamp>,
    /// Events that a resend delivers again.
    resending: BTreeSet<EventId>,
    /// Events whose records the recovery has begun.
    recovered: BTreeSet<EventId>,
    /// Time since which an event is recorded as delivered, discarded or erased, and which of it.
    finished: BTreeMap<EventId, (Timestamp, StateName)>,
    /// Last answer of the target that the relay received: status and `Retry-After`.
    heard: BTreeMap<EventId, (Option<u16>, Duration)>,
    /// Events whose last attempt should not count, and whether it may all the same.
    uncounted: BTreeMap<EventId, bool>,
    /// Times of the requests of the last second.
    requests: VecDeque<Instant>,
    /// Invocations of the processor that run: batches, and probes.
    running: [u32; 2],
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

/// Invocation of the processor, until it is dropped.
pub(crate) struct Running<'a> {
    invariants: &'a Invariants,
    is_probe: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.invariants.seen).running[usize::from(self.is_probe)] -= 1;
    }
}

/// Label that a body contains.
pub(crate) fn label_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let label = text
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    label.map_or_else(String::new, |(label, _)| format!("<{label}>"))
}

/// Returns whether a message is that of a check event. Nothing else holds of those than that they
/// are kept apart.
pub(crate) fn is_check(message: &Message) -> bool {
    CheckEvent::parse(message.body.as_bytes()).is_some()
}

impl Invariants {
    pub(crate) fn new(
        scenario: &Scenario,
        verbose: bool,
        queues: [&FakeQueue; 4],
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
            max_receives: scenario.max_receives,
            patience: scenario
                .order
                .as_ref()
                .map_or(Duration::ZERO, |plan| plan.patience),
            processor_time: scenario.processor_time,
            rate: scenario.rate,
            is_disorderly: scenario.disorder || scenario.clocks_differ,
            queues: queues.map(FakeQueue::clone).to_vec(),
            table: table.clone(),
            distinct,
            seen: Mutex::default(),
            checked: Mutex::default(),
            line: Mutex::default(),
            book: Mutex::new(Book::new(scenario)),
        }
    }

    /// An object's key with the number of a run in place of its random id, so that the order of keys
    /// is the same in all runs of a seed.
    pub(crate) fn stable_key(&self, key: &str) -> String {
        let ids = 0..key.len().saturating_sub(35);
        let is_id = |at: &usize| {
            let part = key.get(*at..at + 36);
            part.is_some_and(|part| part.parse::<Uuid>().is_ok())
        };
        let Some(at) = ids.filter(|at| key.is_char_boundary(*at)).find(is_id) else {
            return key.to_owned();
        };
        let mut seen = lock(&self.seen);
        let next = seen.run_numbers.len();
        let number = *seen
            .run_numbers
            .entry(key[at..at + 36].to_owned())
            .or_insert(next);
        format!("{}{number:06}{}", &key[..at], &key[at + 36..])
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
        let (book, seen) = (lock(&self.book), lock(&self.seen));
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
            let is_discarded = |id: &&EventId| {
                seen.last.get(*id) == Some(&StateName::Discarded)
                    || book.is_erasure_asked(id, label)
            };
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
        if is_check(message) {
            return;
        }
        let now = FakeClock.now();
        let (id, received_at) = message.identity(now);
        let digest = message.to_event(now).ok().and_then(|event| event.digest());
        let mut seen = lock(&self.seen);
        seen.changes += 1;
        let own = digest.map(|digest| id.with_body(&digest));
        for id in [&id].into_iter().chain(&own) {
            let times = seen.received_at.entry(id.clone()).or_default();
            times.insert(received_at);
        }
        let labelled = seen
            .labels
            .entry(label_of(message.body.as_bytes()))
            .or_default();
        labelled.queued.insert(id.clone());
        labelled.recorded.insert(id.clone());
        let ids = [&id].into_iter().chain(&own).cloned();
        lock(&self.book).queued(
            ids,
            &label_of(message.body.as_bytes()),
            message.received_at(now),
        );
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

    /// Notes that the target accepted an event, and checks its place in the order.
    pub(crate) fn taken(&self, process: &Process, delivery: &Delivery<'_>, keeps_order: bool) {
        let Delivery { event, order, .. } = *delivery;
        if keeps_order && !self.has_taken(&event.id) {
            self.check_order(event, order);
        }
        self.note_acceptance(process, delivery, keeps_order);
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
    /// Each poison event in a conversation takes its patience, and some probes, from those behind it.
    pub(crate) fn breaker_ran(&self, is_open: bool, holds_back_good_events: bool, poison: u32) {
        let longest = LONGEST_HOLD + (self.patience + PROBES_IN_PLACE) * poison;
        let mut seen = lock(&self.seen);
        if is_open {
            seen.opened_after
                .get_or_insert_with(|| self.began.elapsed());
        }
        seen.held_since =
            holds_back_good_events.then(|| seen.held_since.unwrap_or_else(Instant::now));
        if seen
            .held_since
            .is_some_and(|since| since.elapsed() > longest)
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

    /// Checks that no other invocation of the processor runs beside a probe, where the rate has a
    /// bound: together they could send more. It runs until what is returned is dropped.
    pub(crate) fn processor_begins(&self, is_probe: bool) -> Running<'_> {
        let running = {
            let mut seen = lock(&self.seen);
            seen.running[usize::from(is_probe)] += 1;
            seen.running
        };
        if self.rate.is_some() && running[1] > 0 && running != [0, 1] {
            self.violate("a probe runs beside another invocation of the processor");
        }
        Running {
            invariants: self,
            is_probe,
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
    pub(crate) fn delivery_started(&self, delivery: &Delivery<'_>) {
        let (id, now) = (&delivery.event.id, FakeClock.now());
        let (finished, not_before) = {
            let mut seen = lock(&self.seen);
            seen.heard.remove(id);
            seen.uncounted.remove(id);
            // A resend may deliver once more what was delivered before, and a worker that had begun
            // what is erased now.
            let may_deliver = |how: StateName| match how {
                StateName::Delivered => delivery.resend.is_some(),
                how => how == StateName::Erased,
            };
            let finished = seen.finished.get(id).filter(|(_, how)| !may_deliver(*how));
            let finished = finished.map(|(at, _)| *at);
            (finished, seen.not_before.remove(id))
        };
        self.check_redelivery(id, &label_of(&delivery.event.body), delivery.resend);
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
    pub(crate) fn written(
        &self,
        process: &Process,
        before: Option<&EventRecord>,
        after: &EventRecord,
    ) {
        if after.source == Source::Check {
            return;
        }
        let by = process.name();
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
        {
            let mut seen = lock(&self.seen);
            seen.written_at.insert(id.clone(), now);
            if after.resend.is_some() {
                seen.resending.insert(id.clone());
            } else {
                seen.resending.remove(id);
            }
            if by == "recovery" {
                seen.recovered.insert(id.clone());
            } else if before.is_none_or(|before| before.first_seen_at != after.first_seen_at) {
                seen.recovered.remove(id);
            }
        }
        self.note_written(process, before, after);
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
                self.check_patience(before, after, *next_attempt_at);
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
                self.check_exhaustion(after, &dead.death);
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

    /// Checks that a delivered or discarded event stays so for the life of its record.
    fn remember(&self, after: &EventRecord, now: Timestamp) {
        let (id, name) = (&after.event_id, after.state.name());
        let is_resent = self.is_resent(id);
        let mut seen = lock(&self.seen);
        seen.changes += 1;
        let was = seen.last.insert(id.clone(), name);
        let since = seen.finished.get(id).copied();
        let since = since.filter(|(since, _)| now < *since + RECORD_LIFE - TOLERANCE);
        let is_final = matches!(
            name,
            StateName::Delivered | StateName::Discarded | StateName::Erased
        );
        let may_change = match since {
            None => true,
            Some((_, StateName::Erased)) => name == StateName::Erased,
            Some((_, StateName::Discarded)) => is_final,
            Some(_) => is_final || is_resent,
        };
        if is_final {
            seen.finished.insert(id.clone(), (now, name));
        } else if let Some((_, how)) = since {
            // What was delivered stays so for all messages but those of resends.
            seen.finished.insert(id.clone(), (now, how));
        } else {
            seen.finished.remove(id);
        }
        if !may_change {
            drop(seen);
            self.violate(&format!("{id} changed from {was:?} back to {name:?}"));
        }
    }

    /// Checks that each event is in a queue, at the target, in the archive, or discarded. Only a
    /// change can have lost one since the last check.
    pub(crate) fn check_nothing_lost(&self) {
        let changes = lock(&self.seen).changes;
        let removed = self.queues.iter().map(FakeQueue::removed);
        let now: Vec<_> = removed.chain([changes]).collect();
        if lock(&self.checked).replace(now.clone()) == Some(now) {
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
        for (id, label) in self.queues.iter().flat_map(|queue| queue.held(identity)) {
            by_label.entry(label).or_default().insert(id.clone());
            queued.insert(id);
        }
        let (book, seen) = (lock(&self.book), lock(&self.seen));
        for (label, labelled) in seen.labels.iter().filter(|(_, labelled)| !labelled.is_open) {
            let is_discarded = |id: &&EventId| {
                seen.last.get(*id) == Some(&StateName::Discarded)
                    || book.is_erasure_asked(id, label)
            };
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
                drop((book, seen));
                return self.violate(&what);
            }
        }
        let is_safe = |id: &&EventId| {
            queued.contains(id.as_str())
                || seen.taken.contains_key(*id)
                || seen.archived.contains(*id)
                || seen.last.get(*id) == Some(&StateName::Discarded)
                || book.is_id_erasure_asked(id)
        };
        let lost: Vec<_> = seen
            .known
            .iter()
            .filter(|id| !is_safe(id))
            .cloned()
            .collect();
        drop((book, seen));
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
