//! What a message in the dead-letter queue is, and how a dead event goes on from there.

use jiff::{SignedDuration, Timestamp};

use super::{Guard, Transition, crashed, unchanged};
use crate::domain::event::{Event, EventId, Source};
use crate::domain::event_record::{Context, Dead, Death, EventRecord, OperatorAction, State, StateName};
use crate::domain::failure::{Reason, ReasonKind};

/// An event that is expected elsewhere is believed to be a dead letter this long after that time.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

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
pub enum DeadLetterStatus {
    /// A dead letter, as recorded.
    Dead(DeadRecord),
    /// A dead letter whose record does not say so yet.
    Unrecorded(DeadRecord),
    /// A copy of an event that is delivered or discarded.
    Finished(StateName),
    /// A copy of an event that is on its way.
    UnderWay,
}

impl DeadLetterStatus {
    /// Looks at a dead letter of whose event the table holds `found`.
    pub fn of(letter: &Letter<'_>, found: Option<&EventRecord>, now: Timestamp) -> Self {
        let Some(found) = found.filter(|found| !found.is_expired(now)) else {
            return Self::Unrecorded(DeadRecord::begin(letter, found, now));
        };
        let late = |expected: Timestamp| expected + GRACE <= now;
        let unexplained = || letter.death_after(found.last_seen_at, now);
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
            // It was sent back, and is here again without a claim: it died once more, of something else.
            State::Dead(dead @ Dead { replayed_at: Some(at), .. })
                if letter.sent_at >= *at && !letter.is_of(&dead.death) =>
            {
                let next = EventRecord { replays_made: found.replays_made + 1, ..found.clone() };
                Self::Unrecorded(DeadRecord::of(found, next, letter.death_after(*at, now), now))
            }
            State::Dead(dead @ Dead { listed: true, .. }) => Self::Dead(DeadRecord::recorded(found, dead)),
            State::Dead(Dead { death, .. }) | State::Archived { death, .. } => died(death.clone(), None),
            State::InProgress(lease) => match found.state.death(now) {
                Some(death) => died(death, Some(found.last_seen_at)),
                None if late(lease.lease_until) => died(unexplained(), Some(found.last_seen_at)),
                None => Self::UnderWay,
            },
            State::Retrying { next_attempt_at } if late(*next_attempt_at) => died(unexplained(), None),
            State::Queued if late(found.last_seen_at) => died(unexplained(), None),
            State::Retrying { .. } | State::Queued => Self::UnderWay,
        }
    }
}

impl DeadLetterStatus {
    /// The dead event that the table holds as `found`, wherever its message is; `None` if it is not dead.
    pub fn recorded(found: &EventRecord, now: Timestamp) -> Option<Self> {
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
    pub(in crate::domain::event_record) fn listed(death: Death) -> Self {
        Self { death, message_id: None, replayed_at: None, listed: true }
    }
}

impl Letter<'_> {
    /// What it tells; not where it was to go.
    fn context(&self) -> Context {
        self.event.map(|event| Context::of(event, None)).unwrap_or_default()
    }

    /// Whether it is the message of this very death, and was not moved since: SQS took it a moment after the processor sent it.
    fn is_of(&self, death: &Death) -> bool {
        self.reason
            .filter(|reason| reason.at == death.dead_at)
            .is_some_and(|reason| self.sent_at.duration_since(reason.resent_at.unwrap_or(reason.at)) < GRACE)
    }

    /// The reason it carries, or that nobody knows.
    fn death(&self, now: Timestamp) -> Death {
        self.death_after(Timestamp::MIN, now)
    }

    /// The same of an event that was alive at `alive`: a move task leaves the reason of an earlier death on the message.
    fn death_after(&self, alive: Timestamp, now: Timestamp) -> Death {
        match self.reason.filter(|reason| reason.at >= alive) {
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
    fn recorded(found: &EventRecord, dead: &Dead) -> Self {
        let step = Transition { next: found.clone(), guard: Guard::Unchanged(found.revision) };
        Self { step, dead: dead.clone() }
    }

    /// A record that is not yet that of a dead event.
    fn of(found: &EventRecord, next: EventRecord, death: Death, now: Timestamp) -> Self {
        let dead = Dead::listed(death);
        Self { step: found.step(next, State::Dead(dead.clone()), now), dead }
    }

    fn begin(letter: &Letter<'_>, forgotten: Option<&EventRecord>, now: Timestamp) -> Self {
        let dead = Dead::listed(letter.death(now));
        let state = State::Dead(dead.clone());
        let source = letter.event.map_or(Source::Generic, |event| event.source);
        let webhook_id = letter.event.and_then(|event| event.webhook_id.as_deref());
        let mut next = EventRecord::new(letter.event_id, source, webhook_id, letter.received_at, state, now);
        next.context = Some(letter.context());
        next.digest = letter.event.and_then(Event::digest);
        Self { step: Transition { next, guard: unchanged(forgotten) }, dead }
    }

    /// What to write for the record to say that the event is dead.
    pub fn transition(&self) -> &Transition {
        &self.step
    }

    /// The same, with who found out.
    #[must_use]
    pub fn noted(mut self, act: OperatorAction) -> Self {
        self.step.next.remember_act(act);
        self
    }

    /// The record.
    pub fn record(&self) -> &EventRecord {
        &self.step.next
    }

    /// Why it is dead.
    pub fn death(&self) -> &Death {
        &self.dead.death
    }

    /// It is about to be sent back into the queue. It stays dead until somebody claims it there.
    pub fn replayed(&self, act: OperatorAction) -> Transition {
        let replayed_at = Some(act.at);
        self.act(act, State::Dead(Dead { replayed_at, message_id: None, ..self.dead.clone() }))
    }

    /// The object `key` holds it.
    pub fn archived(&self, act: OperatorAction, key: &str) -> Transition {
        self.act(act, State::Archived { death: self.dead.death.clone(), archived_to: key.to_owned() })
    }

    /// It is not needed.
    pub fn discarded(&self, act: OperatorAction) -> Transition {
        self.act(act, State::Discarded(self.dead.death.clone()))
    }

    /// Its message is not in the dead-letter queue.
    pub fn unlisted(&self, now: Timestamp) -> Transition {
        let dead = Dead { listed: false, ..self.dead.clone() };
        self.record().step(self.record().clone(), State::Dead(dead), now)
    }

    fn act(&self, act: OperatorAction, state: State) -> Transition {
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
pub(crate) fn restored(letter: &Letter<'_>, found: Option<&EventRecord>, act: OperatorAction) -> Option<Transition> {
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
