//! What has to hold, whatever happens; and who saw what.

use std::collections::{BTreeMap, BTreeSet};
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

/// Clocks differ by so much, and SQS counts in whole seconds.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(6);

/// How far a `Retry-After` can put off an attempt.
const RETRY_AFTER_CEILING: Duration = Duration::from_hours(1);

/// A record lives for 15 days after its last change.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(15 * 24);

/// A lease ends this long after its invocation, as `docs/design/event-record.md` says.
const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// How long the breaker may hold a good event back while the target is there: one probe a minute, of which some hit an event
/// that the target cannot digest, and some fail.
const HELD_AT_MOST: Duration = Duration::from_mins(15);

/// A minute, but for what its schedule and the probe before can be late.
const BETWEEN_PROBES: Duration = Duration::from_secs(15);

/// The observer of one run.
pub(crate) struct Invariants {
    began: Instant,
    speaks: bool,
    base: Duration,
    cap: Duration,
    processor_time: Duration,
    /// Whether copies of messages, or clocks that differ, can use up receives.
    is_disorderly: bool,
    events: FakeQueue,
    dead_letters: FakeQueue,
    table: FakeTable,
    /// How many events have these bodies, where each is told from the others and is one event however often it comes.
    told: BTreeMap<String, usize>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Every event that a queue has had, or that the sender was told is safe.
    known: BTreeSet<EventId>,
    /// How often the target has taken an event.
    taken: BTreeMap<EventId, u32>,
    /// What senders know of their events, by what their bodies say.
    labels: BTreeMap<String, Labelled>,
    /// When it took an event with this label first, after the beginning.
    taken_after: BTreeMap<String, Duration>,
    /// When the breaker opened first, after the beginning.
    opened_after: Option<Duration>,
    /// When the last probe was made.
    probed_at: Option<Instant>,
    /// Since when good events wait that nobody has tried, while the target is there.
    held_since: Option<Instant>,
    /// What the archive holds.
    archived: BTreeSet<EventId>,
    /// What an operator has asked to drop.
    unwanted: BTreeSet<EventId>,
    /// Dead letters that nobody has tried to deliver.
    undeliverable: BTreeSet<EventId>,
    /// What came more often than once, or was hit by a death, a throttle or a fault: the relay may not know why it died.
    disturbed: BTreeSet<EventId>,
    /// What the record of an event said last, whether or not it has expired since.
    last: BTreeMap<EventId, StateName>,
    /// Since when an event is recorded as delivered or discarded.
    finished: BTreeMap<EventId, Timestamp>,
    /// What the relay heard of the target last: the status, and how long it was to wait.
    heard: BTreeMap<EventId, (Option<u16>, Duration)>,
    /// Before when a failed event must not be delivered again.
    not_before: BTreeMap<EventId, Timestamp>,
    violation: Option<String>,
    trace: DefaultHasher,
}

/// The events whose bodies say the same.
#[derive(Default)]
struct Labelled {
    /// Those that were accepted, by the numbers that only their senders know.
    accepted: BTreeSet<usize>,
    /// Those that their senders gave up.
    given_up: BTreeSet<usize>,
    /// Requests that the relay may have stored.
    requests: usize,
    /// The names that the relay has given them: messages of queues, deliveries, archived.
    queued: BTreeSet<EventId>,
    /// Under which their records can be: also where another body had an id first.
    recorded: BTreeSet<EventId>,
    taken: BTreeSet<EventId>,
    archived: BTreeSet<EventId>,
    /// A copy that was written anew may stand for any of those that share its id: which of them is lost is open.
    is_open: bool,
}

/// What a body says of itself.
pub(crate) fn label_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let label = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    label.map_or_else(String::new, |(label, _)| format!("<{label}>"))
}

impl Invariants {
    pub(crate) fn new(
        scenario: &Scenario,
        speaks: bool,
        events: &FakeQueue,
        dead_letters: &FakeQueue,
        table: &FakeTable,
    ) -> Self {
        let mut told = BTreeMap::<String, usize>::new();
        for sent in &scenario.events {
            *told.entry(sent.label()).or_default() += 1;
        }
        for sent in scenario.events.iter().filter(|sent| !sent.is_told()) {
            told.remove(&sent.label());
        }
        Self {
            began: Instant::now(),
            speaks,
            base: scenario.base,
            cap: scenario.cap,
            processor_time: scenario.processor_time,
            is_disorderly: scenario.disorder || scenario.clocks_differ,
            events: events.clone(),
            dead_letters: dead_letters.clone(),
            table: table.clone(),
            told,
            seen: Mutex::default(),
        }
    }

    /// Something worth telling to who replays a seed.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.speaks {
            crate::say(&format!("{:>14.3} s  {}", self.began.elapsed().as_secs_f64(), what()));
        }
    }

    /// Adds something, and when it happened, to the fingerprint of the run.
    pub(crate) fn trace(&self, what: &impl Hash) {
        (self.began.elapsed(), what).hash(&mut lock(&self.seen).trace);
    }

    /// What happened, as one number that another run of the same seed has to have too.
    pub(crate) fn fingerprint(&self) -> u64 {
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

    /// A sender has asked the relay to take an event.
    pub(crate) fn requested(&self, label: &str) {
        lock(&self.seen).labels.entry(label.to_owned()).or_default().requests += 1;
    }

    /// A sender gave an event up. Others that share its id are open from now on.
    pub(crate) fn given_up(&self, sent: &Sent, sharing: impl Iterator<Item = String>) {
        let mut seen = lock(&self.seen);
        seen.labels.entry(sent.label()).or_default().given_up.insert(sent.number);
        for label in sharing {
            seen.labels.entry(label).or_default().is_open = true;
        }
    }

    /// What was given up is in the relay's hands once the recovery has come up to the present.
    pub(crate) fn recovered(&self) -> Result<(), String> {
        let mut seen = lock(&self.seen);
        for (label, labelled) in seen.labels.iter_mut().filter(|(_, labelled)| !labelled.is_open) {
            let Labelled { accepted, given_up, queued, .. } = labelled;
            accepted.extend(given_up.iter());
            if !given_up.is_empty() && queued.len() < accepted.len() {
                return Err(format!("the recovery has not found {label}: {} of {}", queued.len(), accepted.len()));
            }
        }
        Ok(())
    }

    /// Each event that its sender meant was brought to the target, but for what `is_excused`; and nothing that was sent or
    /// recovered once has become two.
    pub(crate) fn check_labels(&self, excused: impl Fn(&str) -> bool) -> Result<(), String> {
        let seen = lock(&self.seen);
        for (label, labelled) in &seen.labels {
            let Labelled { accepted, given_up, requests, recorded, taken, is_open, .. } = labelled;
            let is_discarded = |id: &&EventId| seen.last.get(*id) == Some(&StateName::Discarded);
            let done = taken.union(&recorded.iter().filter(is_discarded).cloned().collect()).count();
            if !is_open && !excused(label) && done < accepted.len() {
                return Err(format!("{label}: {} events were meant, and {done} came", accepted.len()));
            }
            if taken.len() > requests + given_up.len() {
                return Err(format!("{label}: {requests} requests and {} recoveries made {taken:?}", given_up.len()));
            }
            if self.told.get(label).is_some_and(|events| taken.len() > *events) {
                return Err(format!("{label} came as {taken:?}, which are more than were meant"));
            }
        }
        Ok(())
    }

    /// A queue has it.
    pub(crate) fn entered(&self, message: &Message, is_undeliverable: bool) {
        let now = FakeClock.now();
        let id = message.identity(now).0;
        let digest = message.to_event(now).ok().and_then(|event| event.digest());
        let mut seen = lock(&self.seen);
        let labelled = seen.labels.entry(label_of(message.body.as_bytes())).or_default();
        labelled.queued.insert(id.clone());
        let own = digest.map(|digest| id.with_body(&digest));
        labelled.recorded.insert(id.clone());
        // A copy of what has an id of its own.
        let again = own.filter(|own| !labelled.recorded.insert(own.clone()));
        seen.disturbed.extend(again);
        if is_undeliverable {
            seen.undeliverable.insert(id.clone());
        }
        if !seen.known.insert(id.clone()) {
            seen.disturbed.insert(id);
        }
    }

    /// Something got between an event and what the processor would have said of it.
    pub(crate) fn disturbed(&self, id: EventId) {
        lock(&self.seen).disturbed.insert(id);
    }

    /// The sender was told that it is safe.
    pub(crate) fn accepted(&self, id: &EventId, sent: &Sent) {
        {
            let mut seen = lock(&self.seen);
            seen.known.insert(id.clone());
            seen.labels.entry(sent.label()).or_default().accepted.insert(sent.number);
        }
        self.account();
    }

    pub(crate) fn is_disturbed(&self, id: &EventId) -> bool {
        lock(&self.seen).disturbed.contains(id)
    }

    pub(crate) fn archived(&self, events: impl Iterator<Item = (EventId, String)>) {
        let mut seen = lock(&self.seen);
        for (id, label) in events {
            seen.labels.entry(label).or_default().archived.insert(id.clone());
            seen.archived.insert(id);
        }
    }

    pub(crate) fn discard_is_asked(&self, ids: impl Iterator<Item = EventId>) {
        lock(&self.seen).unwanted.extend(ids);
    }

    /// The target has the event.
    pub(crate) fn taken(&self, event: &Event) {
        let mut seen = lock(&self.seen);
        *seen.taken.entry(event.id.clone()).or_default() += 1;
        seen.labels.entry(label_of(&event.body)).or_default().taken.insert(event.id.clone());
        seen.taken_after.entry(label_of(&event.body)).or_insert_with(|| self.began.elapsed());
    }

    /// The breaker has looked: whether events are held back, and whether a good one among them was never tried although the
    /// target is there.
    pub(crate) fn looked(&self, is_open: bool, is_unfair: bool) {
        let mut seen = lock(&self.seen);
        if is_open {
            seen.opened_after.get_or_insert_with(|| self.began.elapsed());
        }
        seen.held_since = is_unfair.then(|| seen.held_since.unwrap_or_else(Instant::now));
        if seen.held_since.is_some_and(|since| since.elapsed() > HELD_AT_MOST) {
            drop(seen);
            self.violate("events that nobody has tried are held back although the target is there");
        }
    }

    /// A probe was made: one a minute, whenever the breaker's runs come.
    pub(crate) fn probed(&self) {
        let before = lock(&self.seen).probed_at.replace(Instant::now());
        if before.is_some_and(|at| at.elapsed() < BETWEEN_PROBES) {
            self.violate("a target that is away is hit by more than a probe a minute");
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

    /// The relay heard that a delivery failed.
    pub(crate) fn heard(&self, id: &EventId, status: Option<u16>, retry_after: Option<Duration>) {
        lock(&self.seen).heard.insert(id.clone(), (status, retry_after.unwrap_or_default()));
    }

    pub(crate) fn known(&self) -> BTreeSet<EventId> {
        lock(&self.seen).known.clone()
    }

    /// What the target took more often than once: so many deliveries too many.
    pub(crate) fn repeats(&self) -> u64 {
        lock(&self.seen).taken.values().map(|times| u64::from(times - 1)).sum()
    }

    /// An event is about to be delivered: never after its delivery was recorded, and not before its backoff is over.
    pub(crate) fn delivery_begins(&self, id: &EventId) {
        let now = FakeClock.now();
        let (finished, not_before) = {
            let mut seen = lock(&self.seen);
            seen.heard.remove(id);
            (seen.finished.get(id).copied(), seen.not_before.remove(id))
        };
        if finished.is_some_and(|since| now < since + REMEMBERED - TOLERANCE) {
            self.violate(&format!("{id} is delivered again although it is recorded as delivered or discarded"));
        }
        if not_before.is_some_and(|time| now + TOLERANCE < time) {
            self.violate(&format!("{id} is delivered again before its backoff is over"));
        }
    }

    /// A record was written, by this process.
    pub(crate) fn written(&self, by: &str, before: Option<&EventRecord>, after: &EventRecord) {
        let (id, now) = (&after.event_id, FakeClock.now());
        let name = |record: &EventRecord| record.state.name().as_str();
        self.trace(&(id, before.map(name), name(after), after.attempts_since_claim, after.replays_made));
        self.note(|| {
            format!("{id}: {} → {}, attempt {}", before.map_or("nothing", name), name(after), after.attempts_since_claim)
        });
        self.remember(after, now);
        match (before.map(|before| &before.state), &after.state) {
            (_, State::Delivered) if !self.has_taken(id) => {
                self.violate(&format!("{id} is recorded as delivered, and the target has never had it"));
            }
            (_, State::Discarded(_)) if !lock(&self.seen).unwanted.contains(id) => {
                self.violate(&format!("{id} was discarded, and nobody had asked"));
            }
            (_, State::Archived { .. }) if !lock(&self.seen).archived.contains(id) => {
                self.violate(&format!("{id} is recorded as archived, and the archive does not hold it"));
            }
            (_, State::Retrying { next_attempt_at }) => {
                // A probe that says nothing about the event lets it begin anew; one that does is an attempt like any other.
                let wait = Duration::try_from(next_attempt_at.duration_since(after.last_seen_at)).unwrap_or_default();
                let is_anew = by == "probe" && wait + Duration::from_millis(2) < self.wait(after.attempts_since_claim);
                self.check_backoff(after, if is_anew { 1 } else { after.attempts_since_claim }, *next_attempt_at);
            }
            (Some(State::Retrying { next_attempt_at }), State::InProgress(_)) if *next_attempt_at > now + TOLERANCE => {
                self.violate(&format!("{id} is claimed before its backoff is over"));
            }
            (Some(State::Dead(_)), State::InProgress(_))
                if before.is_some_and(|it| it.replays_made >= REPLAY_CEILING) =>
            {
                let replay = after.history.iter().rfind(|act| act.action == "replay");
                if replay.and_then(|act| act.why.as_deref()) != Some("force") {
                    self.violate(&format!("{id} is claimed past the ceiling"));
                }
            }
            (Some(State::InProgress(lease)), State::InProgress(_)) if lease.lease_until > now + TOLERANCE => {
                self.violate(&format!("{id} is claimed although its lease is not over"));
            }
            (Some(State::Dead(old)), State::Dead(new)) if new.replayed_at != old.replayed_at => {
                let is_forced = after.history.last().is_some_and(|act| act.why.as_deref() == Some("force"));
                if new.replayed_at.is_some() && !is_forced && before.is_some_and(|it| it.replays_made >= REPLAY_CEILING)
                {
                    self.violate(&format!("{id} is replayed past the ceiling"));
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
                self.violate(&format!("the lease on {id} is longer than its invocation"));
            }
        }
    }

    /// What is delivered or discarded stays so, for as long as it is remembered.
    fn remember(&self, after: &EventRecord, now: Timestamp) {
        let (id, name) = (&after.event_id, after.state.name());
        let mut seen = lock(&self.seen);
        let was = seen.last.insert(id.clone(), name);
        let since = seen.finished.get(id).copied();
        if matches!(name, StateName::Delivered | StateName::Discarded) {
            seen.finished.insert(id.clone(), now);
        } else if since.is_some_and(|since| now < since + REMEMBERED - TOLERANCE) {
            drop(seen);
            self.violate(&format!("{id} was {was:?}, and is {name:?} again"));
        } else {
            seen.finished.remove(id);
        }
    }

    /// An event that was alive did not die before its last word: that would be an earlier death of it.
    fn check_time_of_death(&self, before: Option<&EventRecord>, death: &Death, by: &str) {
        let Some(before) = before.filter(|_| by != "restore") else { return };
        let alive_at = match &before.state {
            State::Queued | State::InProgress(_) | State::Retrying { .. } => before.last_seen_at,
            State::Dead(dead) if dead.death != *death => dead.replayed_at.unwrap_or(before.last_seen_at),
            State::Dead(_) | State::Delivered | State::Archived { .. } | State::Discarded(_) => return,
        };
        if death.dead_at + TOLERANCE < alive_at {
            self.violate(&format!("{} died at {}, and was alive at {alive_at}", before.event_id, death.dead_at));
        }
    }

    /// A reason is the true one, where the relay could know it.
    fn check_reason(&self, id: &EventId, death: &Death) {
        let (heard, is_disturbed, is_undeliverable) = {
            let seen = lock(&self.seen);
            (seen.heard.get(id).copied(), seen.disturbed.contains(id), seen.undeliverable.contains(id))
        };
        let is_final = |status: u16| (300..500).contains(&status) && ![408, 421, 425, 429].contains(&status);
        let is_conflict = |status: u16| [409, 423].contains(&status);
        let status = heard.and_then(|(status, _)| status);
        // A conflict with what the target has taken is its work on an earlier attempt.
        let is_in_progress = status.is_some_and(is_conflict) && self.has_taken(id);
        let holds = match death.reason {
            ReasonKind::Permanent => status == death.status_code && status.is_some_and(is_final) && !is_in_progress,
            ReasonKind::Exhausted => {
                let is_for_good = |status| is_final(status) && !is_conflict(status);
                heard.is_some() && status == death.status_code && !status.is_some_and(is_for_good)
            }
            ReasonKind::Malformed => is_undeliverable,
            ReasonKind::Crashed | ReasonKind::Unknown => self.is_disorderly || is_disturbed,
            ReasonKind::Unreadable => false,
        };
        // What was disturbed may have died of something that the relay was not told any more.
        if !holds && !is_disturbed {
            let reason = death.reason.as_str();
            self.violate(&format!(
                "{id} is dead of {reason} {:?}, and the target last said {heard:?}",
                death.status_code
            ));
        }
    }

    /// The wait after this many attempts in a row, without jitter.
    fn wait(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempts.saturating_sub(1)).and_then(|factor| self.base.checked_mul(factor));
        doubled.map_or(self.cap, |doubled| doubled.min(self.cap))
    }

    /// The wait before the next attempt: min(cap, base · 2ⁿ⁻¹), plus jitter of at most 1 s or a tenth, or what the target asks.
    fn check_backoff(&self, record: &EventRecord, attempts: u32, next_attempt_at: Timestamp) {
        let wait = next_attempt_at.duration_since(record.last_seen_at);
        let least = self.wait(attempts);
        let asked = lock(&self.seen).heard.get(&record.event_id).map_or(Duration::ZERO, |(_, asked)| *asked);
        let asked = asked.min(RETRY_AFTER_CEILING);
        let most = (least + (least / 10).max(Duration::from_secs(1))).max(asked);
        let least = least.max(asked);
        // The time in the table is in whole milliseconds.
        let slack = SignedDuration::from_millis(2);
        let (least, most) = (SignedDuration::try_from(least), SignedDuration::try_from(most));
        let (Ok(least), Ok(most)) = (least, most) else { return };
        lock(&self.seen).not_before.insert(record.event_id.clone(), FakeClock.now() + least);
        if wait + slack < least || wait - slack > most {
            self.violate(&format!("{} waits for {wait}, and not for {least} to {most}", record.event_id));
        }
    }

    /// Nothing that the relay ever had is nowhere.
    pub(crate) fn account(&self) {
        let identity = |message: &Message, sent_at| {
            let id = match message.event_id() {
                Some(id) => id.to_owned(),
                None => message.identity(sent_at).0.to_string(),
            };
            (id, label_of(message.body.as_bytes()))
        };
        let mut queued: BTreeSet<String> = BTreeSet::new();
        let mut by_label: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, label) in self.events.held(identity).into_iter().chain(self.dead_letters.held(identity)) {
            by_label.entry(label).or_default().insert(id.clone());
            queued.insert(id);
        }
        let seen = lock(&self.seen);
        for (label, labelled) in seen.labels.iter().filter(|(_, labelled)| !labelled.is_open) {
            let is_discarded = |id: &&EventId| seen.last.get(*id) == Some(&StateName::Discarded);
            let mut safe = by_label.remove(label).unwrap_or_default();
            let elsewhere = labelled.taken.iter().chain(&labelled.archived);
            safe.extend(elsewhere.chain(labelled.recorded.iter().filter(is_discarded)).map(ToString::to_string));
            if safe.len() < labelled.accepted.len() {
                let what =
                    format!("LOST: {label}, {} of {}", labelled.accepted.len() - safe.len(), labelled.accepted.len());
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
