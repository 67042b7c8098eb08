//! The steps between the states of a [`Record`].

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{Act, Attempt, Context, Dead, Death, LIFE, Lease, Record, State, StateName};
use crate::event::{Event, EventId, Source};
use crate::reason::{Reason, ReasonKind, excerpt_of};

/// The attempts, and the acts of operators, that a record remembers one by one.
const REMEMBERED: usize = 20;

/// How much of the target's answer each attempt but the newest keeps, in bytes.
const OLD_RESPONSE_BYTES: usize = 256;

/// A retry may come this much before its time: SQS shows it when it should, but clocks differ.
const EARLY: SignedDuration = SignedDuration::from_secs(1);

/// The webhook's id is kept up to this length, which fits an index and an item.
const MAX_ORIGIN_BYTES: usize = 256;

/// An event that is expected elsewhere is believed to be a dead letter this long after that time.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A dead event that comes back although nobody has asked for it waits this long after its death, and twice as long each
/// time: a move task of SQS also moves what dies while it runs, and would bring an event that the target refuses for good
/// back for as long as it runs.
const UNASKED_WAIT: SignedDuration = SignedDuration::from_secs(60);

/// How often that wait doubles: up to about an hour.
const UNASKED_DOUBLINGS: u32 = 6;

/// One step in the life of an event, to be written if the table still holds what it starts from.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub(crate) next: Record,
    pub(crate) guard: Guard,
}

impl Transition {
    /// What the table holds once it is written.
    pub fn next(&self) -> &Record {
        &self.next
    }
}

/// What the table has to hold for a [`Transition`] to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// No record.
    Absent,
    /// The record of this revision.
    Unchanged(Uuid),
}

/// Every step there is: from (`None` is no record), to, and what takes it. The diagram in `ARCHITECTURE.md` is made of it.
pub const STEPS: [(Option<StateName>, StateName, &str); 23] = {
    use StateName::{Archived, Dead, Delivered, Discarded, InProgress, Queued, Retrying};
    [
        (None, InProgress, "claim"),
        (None, Queued, "recover"),
        (Some(Queued), InProgress, "claim"),
        (Some(Retrying), InProgress, "claim when it is time"),
        (Some(InProgress), InProgress, "claim when the lease is over"),
        (Some(Dead), InProgress, "claim after a replay"),
        (Some(Archived), InProgress, "claim"),
        (Some(InProgress), Retrying, "failed"),
        (Some(InProgress), Delivered, "delivered"),
        (Some(InProgress), Dead, "refused, exhausted, crashed"),
        (None, Delivered, "delivered late"),
        (Some(Queued), Delivered, "delivered late"),
        (Some(Retrying), Delivered, "delivered late"),
        (Some(Dead), Delivered, "delivered late"),
        (Some(Archived), Delivered, "delivered late"),
        (Some(Discarded), Delivered, "delivered late"),
        (None, Dead, "reconcile, restore"),
        (Some(Queued), Dead, "reconcile"),
        (Some(Retrying), Dead, "reconcile"),
        (Some(Archived), Dead, "restore, reconcile"),
        (Some(Dead), Dead, "replay, reconcile, restore"),
        (Some(Dead), Archived, "archive"),
        (Some(Dead), Discarded, "discard"),
    ]
};

/// A wish to deliver an event.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// The event.
    pub event: &'a Event,
    /// The message of SQS that brings it.
    pub message_id: &'a str,
    /// Whether SQS hands this message out for the last time.
    pub last: bool,
    /// By when the wish is surely over.
    pub lease_until: Timestamp,
    /// The time now.
    pub now: Timestamp,
}

/// What comes of a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the common case is the large one")]
pub enum Claiming {
    /// The event is free; the claim holds once it is written.
    Free(Claim),
    /// There is nothing left to do: it is delivered, or was discarded.
    Finished(StateName),
    /// Somebody else is at it, or it is not time yet.
    NotBefore(Timestamp),
    /// This very message was found dead, and has still to be moved.
    Dead(Death),
}

/// The right to deliver an event and to say how that went.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim(Transition);

impl Claim {
    /// Asks for an event of which the table holds `found`.
    pub fn on(found: Option<&Record>, request: ClaimRequest<'_>) -> Claiming {
        let now = request.now;
        let Some(found) = found else { return Claiming::Free(Self::first(None, request)) };
        if found.is_expired(now) {
            return Claiming::Free(Self::first(Some(found), request));
        }
        let mut next = match &found.state {
            State::Delivered | State::Discarded(_) => return Claiming::Finished(found.state.name()),
            State::InProgress(lease) if lease.lease_until > now => return Claiming::NotBefore(lease.lease_until),
            State::Retrying { next_attempt_at } if *next_attempt_at > now + EARLY => {
                return Claiming::NotBefore(*next_attempt_at);
            }
            State::Dead(Dead { message_id: Some(id), death, .. }) if id == request.message_id => {
                return Claiming::Dead(death.clone());
            }
            State::Dead(Dead { replayed_at: None, death, .. }) if unasked_until(found, death, now) > now => {
                return Claiming::NotBefore(unasked_until(found, death, now));
            }
            State::Queued | State::Retrying { .. } => found.clone(),
            State::InProgress(lease) => {
                let mut next = found.clone();
                next.remember_attempt(crashed(found.last_seen_at));
                if lease.last {
                    next.leave_the_dead();
                }
                next
            }
            State::Dead(_) => {
                let mut next = found.clone();
                next.leave_the_dead();
                next
            }
            State::Archived { .. } => Record { round: 0, ..found.clone() },
        };
        next.attempts_made += 1;
        next.round += 1;
        Claiming::Free(Self(found.step(next, lease(request), now)))
    }

    /// The first claim on an event, or the first after `forgotten`.
    fn first(forgotten: Option<&Record>, request: ClaimRequest<'_>) -> Self {
        let Event { id, source, origin, received_at, .. } = request.event;
        let mut next = Record::new(id, *source, origin.as_deref(), *received_at, lease(request), request.now);
        next.attempts_made = 1;
        next.round = 1;
        Self(Transition { next, guard: unchanged(forgotten) })
    }

    /// What to write for the claim to hold.
    pub fn transition(&self) -> &Transition {
        &self.0
    }

    /// Which attempt this is in the event's whole life, from 1.
    pub fn attempt(&self) -> u32 {
        self.record().attempts_made
    }

    /// Which attempt this is since the event was last claimed from nothing, the dead letters or the archive, from 1.
    pub fn round(&self) -> u32 {
        self.record().round
    }

    /// The target has the event.
    pub fn delivered(&self, attempt: Attempt) -> Transition {
        let now = attempt.at;
        self.after(attempt, State::Delivered, now)
    }

    /// The target has the event, although the lease was lost and the table holds `found` by now: that it has it is true
    /// whoever holds the lease. `None` where that is recorded already.
    pub fn delivered_late(&self, attempt: Attempt, found: Option<&Record>) -> Option<Transition> {
        let now = attempt.at;
        let Some(found) = found else {
            return Some(Transition { guard: Guard::Absent, ..self.delivered(attempt) });
        };
        if found.state == State::Delivered {
            return None;
        }
        let mut next = found.clone();
        next.remember_attempt(attempt);
        Some(found.step(next, State::Delivered, now))
    }

    /// Another attempt will come, not before `next_attempt_at`.
    pub fn retrying(&self, attempt: Attempt, next_attempt_at: Timestamp, now: Timestamp) -> Transition {
        self.after(attempt, State::Retrying { next_attempt_at }, now)
    }

    /// No other attempt will come. SQS moves the message, or we do if it is `to_move`, by its id.
    pub fn dead(&self, attempt: Attempt, death: Death, to_move: Option<&str>, context: Context) -> Transition {
        let now = death.dead_at;
        let dead = Dead { message_id: to_move.map(str::to_owned), ..Dead::listed(death) };
        let mut step = self.after(attempt, State::Dead(dead), now);
        step.next.context = Some(context);
        step
    }

    fn after(&self, attempt: Attempt, state: State, now: Timestamp) -> Transition {
        let mut next = self.record().clone();
        next.remember_attempt(attempt);
        self.record().step(next, state, now)
    }

    pub(super) fn record(&self) -> &Record {
        &self.0.next
    }
}

/// A message that lies in the dead-letter queue.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// Its event.
    pub event_id: &'a EventId,
    /// When the relay first received it.
    pub received_at: Timestamp,
    /// When SQS took this message.
    pub sent_at: Timestamp,
    /// The reason it carries.
    pub reason: Option<&'a Reason>,
    /// What could be read from it; nothing where it is no event.
    pub event: Option<&'a Event>,
}

/// What a message in the dead-letter queue is, by the record of its event.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A dead letter, as recorded.
    Dead(DeadRecord),
    /// A dead letter whose record does not say so yet.
    Unrecorded(DeadRecord),
    /// A copy of an event that is delivered or discarded.
    Finished(StateName),
    /// A copy of an event that is on its way.
    UnderWay,
}

impl Finding {
    /// Looks at a dead letter of whose event the table holds `found`.
    pub fn of(letter: &Letter<'_>, found: Option<&Record>, now: Timestamp) -> Self {
        let Some(found) = found.filter(|found| !found.is_expired(now)) else {
            return Self::Unrecorded(DeadRecord::begin(letter, found, now));
        };
        let late = |expected: Timestamp| expected + GRACE <= now;
        let died = |death: Death, crashed_at: Option<Timestamp>| {
            let mut next = found.clone();
            if let Some(at) = crashed_at {
                next.remember_attempt(crashed(at));
            }
            next.context.get_or_insert_with(|| letter.context());
            Self::Unrecorded(DeadRecord::of(found, next, death, now))
        };
        match &found.state {
            State::Delivered | State::Discarded(_) => Self::Finished(found.state.name()),
            // It was sent back, and is here again without a claim: it died anew, of something else.
            State::Dead(Dead { replayed_at: Some(at), .. }) if letter.sent_at >= *at => {
                let next = Record { replays_made: found.replays_made + 1, ..found.clone() };
                Self::Unrecorded(DeadRecord::of(found, next, letter.death(now), now))
            }
            State::Dead(dead @ Dead { listed: true, .. }) => Self::Dead(DeadRecord::recorded(found, dead)),
            State::Dead(Dead { death, .. }) | State::Archived { death, .. } => died(death.clone(), None),
            State::InProgress(lease) => match found.state.death(now) {
                Some(death) => died(death, Some(found.last_seen_at)),
                None if late(lease.lease_until) => died(letter.death(now), Some(found.last_seen_at)),
                None => Self::UnderWay,
            },
            State::Retrying { next_attempt_at } if late(*next_attempt_at) => died(letter.death(now), None),
            State::Queued if late(found.last_seen_at) => died(letter.death(now), None),
            State::Retrying { .. } | State::Queued => Self::UnderWay,
        }
    }
}

impl Finding {
    /// The dead event that the table holds as `found`, wherever its message is; `None` if it is not dead.
    pub fn recorded(found: &Record, now: Timestamp) -> Option<Self> {
        let death = found.state.death(now).filter(|_| !found.is_expired(now))?;
        if let State::Dead(dead) = &found.state {
            return Some(Self::Dead(DeadRecord::recorded(found, dead)));
        }
        let mut next = found.clone();
        next.remember_attempt(crashed(found.last_seen_at));
        Some(Self::Unrecorded(DeadRecord::of(found, next, death, now)))
    }
}

impl Dead {
    /// Dead by `death`, its message in the dead-letter queue or on its way there.
    pub(super) fn listed(death: Death) -> Self {
        Self { death, message_id: None, replayed_at: None, listed: true }
    }
}

impl Letter<'_> {
    /// What it tells; not where it was to go.
    fn context(&self) -> Context {
        self.event.map(|event| Context::of(event, None)).unwrap_or_default()
    }

    /// The reason it carries, or that nobody knows.
    fn death(&self, now: Timestamp) -> Death {
        match self.reason {
            Some(reason) => Death::from(reason.clone()),
            None => Death {
                reason: ReasonKind::Unknown,
                error: "SQS moved it here without a word from the processor: its receives were throttled or failed \
                        early, or somebody sent it"
                    .to_owned(),
                status_code: None,
                dead_at: now,
            },
        }
    }
}

/// The record of a dead event, and the steps that lead on from there.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadRecord {
    step: Transition,
    dead: Dead,
}

impl DeadRecord {
    /// A record of which nothing has to be written.
    fn recorded(found: &Record, dead: &Dead) -> Self {
        let step = Transition { next: found.clone(), guard: Guard::Unchanged(found.revision) };
        Self { step, dead: dead.clone() }
    }

    /// A record that is not yet that of a dead event.
    fn of(found: &Record, next: Record, death: Death, now: Timestamp) -> Self {
        let dead = Dead::listed(death);
        Self { step: found.step(next, State::Dead(dead.clone()), now), dead }
    }

    fn begin(letter: &Letter<'_>, forgotten: Option<&Record>, now: Timestamp) -> Self {
        let dead = Dead::listed(letter.death(now));
        let state = State::Dead(dead.clone());
        let source = letter.event.map_or(Source::Generic, |event| event.source);
        let origin = letter.event.and_then(|event| event.origin.as_deref());
        let mut next = Record::new(letter.event_id, source, origin, letter.received_at, state, now);
        next.context = Some(letter.context());
        Self { step: Transition { next, guard: unchanged(forgotten) }, dead }
    }

    /// What to write for the record to say that the event is dead.
    pub fn transition(&self) -> &Transition {
        &self.step
    }

    /// The same, with who found out.
    #[must_use]
    pub fn noted(mut self, act: Act) -> Self {
        self.step.next.remember_act(act);
        self
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.step.next
    }

    /// Why it is dead.
    pub fn death(&self) -> &Death {
        &self.dead.death
    }

    /// It is about to be sent back into the queue. It stays dead until somebody claims it there.
    pub fn replayed(&self, act: Act) -> Transition {
        let replayed_at = Some(act.at);
        self.act(act, State::Dead(Dead { replayed_at, message_id: None, ..self.dead.clone() }))
    }

    /// The object `key` holds it.
    pub fn archived(&self, act: Act, key: &str) -> Transition {
        self.act(act, State::Archived { death: self.dead.death.clone(), archived_to: key.to_owned() })
    }

    /// It is not needed.
    pub fn discarded(&self, act: Act) -> Transition {
        self.act(act, State::Discarded(self.dead.death.clone()))
    }

    /// Its message is not in the dead-letter queue.
    pub fn unlisted(&self, now: Timestamp) -> Transition {
        let dead = Dead { listed: false, ..self.dead.clone() };
        self.record().step(self.record().clone(), State::Dead(dead), now)
    }

    fn act(&self, act: Act, state: State) -> Transition {
        let at = act.at;
        let mut next = self.record().clone();
        next.remember_act(act);
        self.record().step(next, state, at)
    }
}

/// An event that comes back from the archive, of which the table holds `found`.
///
/// `None` where it is no longer the archive's to give: it lies in the dead-letter queue, is under way, delivered or
/// discarded.
pub(crate) fn restored(letter: &Letter<'_>, found: Option<&Record>, act: Act) -> Option<Transition> {
    let now = act.at;
    let Some(found) = found.filter(|found| !found.is_expired(now)) else {
        let mut begun = DeadRecord::begin(letter, found, now).step;
        begun.next.remember_act(act);
        return Some(begun);
    };
    let (State::Archived { death, .. } | State::Dead(Dead { death, listed: false, .. })) = &found.state else {
        return None;
    };
    let mut next = found.clone();
    next.remember_act(act);
    Some(found.step(next, State::Dead(Dead::listed(death.clone())), now))
}

impl Record {
    /// An event that was fetched and has been sent into the queue: one that the table did not know, or has `forgotten`.
    ///
    /// Written after the send, it loses where the processor was faster, and then says nothing new.
    pub fn queued(event: &Event, forgotten: Option<&Self>, act: Act) -> Transition {
        let Event { id, source, origin, received_at, .. } = event;
        let mut next = Self::new(id, *source, origin.as_deref(), *received_at, State::Queued, act.at);
        next.remember_act(act);
        Transition { next, guard: unchanged(forgotten) }
    }

    fn new(
        event_id: &EventId,
        source: Source,
        origin: Option<&str>,
        received_at: Timestamp,
        state: State,
        now: Timestamp,
    ) -> Self {
        Self {
            event_id: event_id.clone(),
            revision: Uuid::new_v4(),
            state,
            source,
            origin: origin.map(|origin| excerpt_of(origin, MAX_ORIGIN_BYTES)),
            received_at,
            first_seen_at: now,
            last_seen_at: now,
            attempts_made: 0,
            round: 0,
            replays_made: 0,
            attempts: Vec::new(),
            history: Vec::new(),
            context: None,
            expires_at: now + LIFE,
        }
    }

    /// From this record to `next`, in `state`.
    fn step(&self, next: Self, state: State, now: Timestamp) -> Transition {
        debug_assert!(
            STEPS.iter().any(|(from, to, _)| *from == Some(self.state.name()) && *to == state.name()),
            "{} to {} is no step",
            self.state.name(),
            state.name()
        );
        let next = Self { revision: Uuid::new_v4(), state, last_seen_at: now, expires_at: now + LIFE, ..next };
        Transition { next, guard: Guard::Unchanged(self.revision) }
    }

    fn leave_the_dead(&mut self) {
        self.replays_made += 1;
        self.round = 0;
    }

    fn remember_attempt(&mut self, attempt: Attempt) {
        if let Some(response) = self.attempts.last_mut().and_then(|newest| newest.response.as_mut()) {
            *response = excerpt_of(response, OLD_RESPONSE_BYTES);
        }
        self.attempts.push(attempt);
        let forgotten = self.attempts.len().saturating_sub(REMEMBERED);
        self.attempts.drain(..forgotten);
    }

    fn remember_act(&mut self, act: Act) {
        self.history.push(act);
        let forgotten = self.history.len().saturating_sub(REMEMBERED);
        self.history.drain(..forgotten);
    }
}

impl From<Reason> for Death {
    fn from(reason: Reason) -> Self {
        Self { reason: reason.reason, error: reason.detail, status_code: reason.status_code, dead_at: reason.at }
    }
}

/// Until when a dead event waits that nobody has asked for.
///
/// The time of its death may come from a message or from the archive. One that has yet to come is nobody's, and would hold
/// the event back for as long as somebody likes: it is no reason to wait.
fn unasked_until(found: &Record, death: &Death, now: Timestamp) -> Timestamp {
    if death.dead_at.duration_since(now) > EARLY {
        return now;
    }
    let wait = UNASKED_WAIT * 2_i32.pow(found.replays_made.min(UNASKED_DOUBLINGS));
    // Fails for calendar units only.
    death.dead_at.saturating_add(wait).unwrap_or(now)
}

fn lease(request: ClaimRequest<'_>) -> State {
    State::InProgress(Lease { lease_until: request.lease_until, last: request.last })
}

fn unchanged(found: Option<&Record>) -> Guard {
    found.map_or(Guard::Absent, |found| Guard::Unchanged(found.revision))
}

/// The attempt of somebody who claimed at `since` and was never heard of again.
fn crashed(since: Timestamp) -> Attempt {
    Attempt {
        at: since,
        duration_ms: None,
        status: None,
        error: Some("the processor ended before it could record how this attempt went".to_owned()),
        response: None,
    }
}
