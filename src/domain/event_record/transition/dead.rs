//! The status of a message in the dead-letter queue, and the transitions of a dead event.

use jiff::{SignedDuration, Timestamp};

use super::{Guard, Transition, crashed, unchanged};
use crate::domain::conversation::conversation_id;
use crate::domain::event::{Event, EventId, Source};
use crate::domain::event_record::{
    Context, Dead, Death, EventRecord, OperatorAction, State, StateName,
};
use crate::domain::failure::{Reason, ReasonKind};

/// An overdue event whose message is in the dead-letter queue counts as dead after this long.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// The facts about a message in the dead-letter queue.
#[derive(Debug, Clone)]
pub struct DeadLetterEvidence<'a> {
    pub event_id: &'a EventId,
    /// The time at which the relay first received it.
    pub received_at: Timestamp,
    /// The time at which SQS accepted this message.
    pub sent_at: Timestamp,
    /// The reason it carries.
    pub reason: Option<&'a Reason>,
    /// The event, if one can be read from it.
    pub event: Option<&'a Event>,
    /// The run that sends the event once more, if the message is of one.
    pub resend: Option<&'a str>,
}

/// The status of a message in the dead-letter queue, by the record of its event.
#[derive(Debug, Clone, PartialEq)]
pub enum DeadLetterStatus {
    /// A dead letter, as recorded.
    Dead(DeadRecord),
    /// A dead letter that is not recorded as one yet.
    Unrecorded(DeadRecord),
    /// A copy of an event that is delivered, discarded or erased.
    Finished(StateName),
    /// A copy of an event that is on its way.
    UnderWay,
}

impl DeadLetterStatus {
    /// Derives the status from the record `found` of its event.
    pub fn of(
        evidence: &DeadLetterEvidence<'_>,
        found: Option<&EventRecord>,
        now: Timestamp,
    ) -> Self {
        let Some(found) = found.filter(|found| !found.is_expired(now)) else {
            return Self::Unrecorded(DeadRecord::begin(evidence, found, now));
        };
        // Delivered before: a copy of it is no dead letter of the resend.
        if found.resend.is_some() && evidence.resend.is_none() {
            return Self::Finished(StateName::Delivered);
        }
        if found.is_finished(evidence.resend) {
            return Self::Finished(found.state.name());
        }
        let late = |expected: Timestamp| expected + GRACE <= now;
        let unexplained = || evidence.death_after(found.last_seen_at, now);
        let died = |death: Death, crashed_at: Option<Timestamp>| {
            let mut next = found.clone();
            if let Some(at) = crashed_at {
                next.remember_attempt(crashed(at));
            }
            next.context.get_or_insert_with(|| evidence.context());
            next.resend = evidence.resend.map(str::to_owned);
            Self::Unrecorded(DeadRecord::of(found, next, death, now))
        };
        match &found.state {
            // A resend that no worker has claimed.
            State::Delivered => died(unexplained(), None),
            State::Discarded(_) | State::Erased => Self::Finished(found.state.name()),
            // It was sent back, and is here again without a claim: it died once more, of something
            // else.
            State::Dead(
                dead @ Dead {
                    replayed_at: Some(at),
                    ..
                },
            ) if evidence.sent_at >= *at && !evidence.is_of(&dead.death) => {
                let next = EventRecord {
                    replays_made: found.replays_made + 1,
                    ..found.clone()
                };
                Self::Unrecorded(DeadRecord::of(
                    found,
                    next,
                    evidence.death_after(*at, now),
                    now,
                ))
            }
            State::Dead(dead @ Dead { listed: true, .. }) => {
                Self::Dead(DeadRecord::recorded(found, dead))
            }
            State::Dead(Dead { death, .. }) | State::Archived { death, .. } => {
                died(death.clone(), None)
            }
            State::InProgress(lease) => match found.state.death(now) {
                Some(death) => died(death, Some(found.last_seen_at)),
                None if late(lease.lease_until) => died(unexplained(), Some(found.last_seen_at)),
                None => Self::UnderWay,
            },
            State::Retrying { next_attempt_at } if late(*next_attempt_at) => {
                died(unexplained(), None)
            }
            State::Queued if late(found.last_seen_at) => died(unexplained(), None),
            State::Retrying { .. } | State::Queued => Self::UnderWay,
        }
    }
}

impl DeadLetterStatus {
    /// The dead event that the table holds as `found`, wherever its message is; `None` if it is not
    /// dead.
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
    /// A dead event whose message is in the dead-letter queue or on its way there.
    pub(in crate::domain::event_record) fn listed(death: Death) -> Self {
        Self {
            death,
            message_id: None,
            replayed_at: None,
            listed: true,
        }
    }
}

impl DeadLetterEvidence<'_> {
    /// The details of its event, without the target.
    fn context(&self) -> Context {
        self.event
            .map(|event| Context::of(event, None))
            .unwrap_or_default()
    }

    /// Returns whether it was sent for this death, a moment after it.
    fn is_of(&self, death: &Death) -> bool {
        self.reason
            .filter(|reason| reason.at == death.dead_at)
            .is_some_and(|reason| {
                self.sent_at
                    .duration_since(reason.resent_at.unwrap_or(reason.at))
                    < GRACE
            })
    }

    /// The death by the reason it carries, or by an unknown one.
    fn death(&self, now: Timestamp) -> Death {
        self.death_after(Timestamp::MIN, now)
    }

    /// The death of an event that was alive at `alive`: a move task leaves the reason of an earlier
    /// death on the message.
    fn death_after(&self, alive: Timestamp, now: Timestamp) -> Death {
        match self.reason.filter(|reason| reason.at >= alive) {
            Some(reason) => Death::from(reason.clone()),
            None => Death {
                reason: ReasonKind::Unknown,
                error:
                    "SQS moved the message with no attempt recorded: its receives were throttled or failed early, or \
                        it was sent here by hand"
                        .to_owned(),
                status_code: None,
                dead_at: now,
            },
        }
    }
}

/// The record of a dead event, and the transitions from there.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadRecord {
    transition: Transition,
    dead: Dead,
}

impl DeadRecord {
    /// A record of which nothing has to be written.
    fn recorded(found: &EventRecord, dead: &Dead) -> Self {
        let transition = Transition {
            next: found.clone(),
            guard: Guard::Unchanged(found.revision),
        };
        Self {
            transition,
            dead: dead.clone(),
        }
    }

    /// A record that is not yet that of a dead event.
    fn of(found: &EventRecord, next: EventRecord, death: Death, now: Timestamp) -> Self {
        let dead = Dead::listed(death);
        Self {
            transition: found.transition(next, State::Dead(dead.clone()), now),
            dead,
        }
    }

    fn begin(
        evidence: &DeadLetterEvidence<'_>,
        forgotten: Option<&EventRecord>,
        now: Timestamp,
    ) -> Self {
        let dead = Dead::listed(evidence.death(now));
        let state = State::Dead(dead.clone());
        let source = evidence.event.map_or(Source::Generic, |event| event.source);
        let webhook_id = evidence.event.and_then(|event| event.webhook_id.as_deref());
        let mut next = EventRecord::new(
            evidence.event_id,
            source,
            webhook_id,
            evidence.received_at,
            state,
            now,
        );
        next.context = Some(evidence.context());
        next.digest = evidence.event.and_then(Event::digest);
        next.resend = evidence.resend.map(str::to_owned);
        next.conversation_id = evidence.event.and_then(conversation_id);
        Self {
            transition: Transition {
                next,
                guard: unchanged(forgotten),
            },
            dead,
        }
    }

    /// The transition that records the death.
    pub fn transition(&self) -> &Transition {
        &self.transition
    }

    /// Adds the action that found it.
    #[must_use]
    pub fn noted(mut self, act: OperatorAction) -> Self {
        self.transition.next.remember_act(act);
        self
    }

    pub fn record(&self) -> &EventRecord {
        &self.transition.next
    }

    /// The reason and time of its death.
    pub fn death(&self) -> &Death {
        &self.dead.death
    }

    /// Records a replay, before the message is sent. The event stays dead until it is claimed.
    pub fn replayed(&self, act: OperatorAction) -> Transition {
        let replayed_at = Some(act.at);
        self.act(
            act,
            State::Dead(Dead {
                replayed_at,
                message_id: None,
                ..self.dead.clone()
            }),
        )
    }

    /// Records the archive object that holds it.
    pub fn archived(&self, act: OperatorAction, key: &str) -> Transition {
        self.act(
            act,
            State::Archived {
                death: self.dead.death.clone(),
                archived_to: key.to_owned(),
            },
        )
    }

    /// Records that an operator discarded it. A resend alone is discarded, and not the event that
    /// was delivered before: it can be sent once more by another run.
    pub fn discarded(&self, act: OperatorAction) -> Transition {
        let Some(run) = &self.record().resend else {
            return self.act(act, State::Discarded(self.dead.death.clone()));
        };
        let mut transition = self.act(act, State::Delivered);
        transition.next.end_resend(Some(run));
        transition
    }

    /// Records that its message is not in the dead-letter queue.
    pub fn unlisted(&self, now: Timestamp) -> Transition {
        let dead = Dead {
            listed: false,
            ..self.dead.clone()
        };
        self.record()
            .transition(self.record().clone(), State::Dead(dead), now)
    }

    fn act(&self, act: OperatorAction, state: State) -> Transition {
        let at = act.at;
        let mut next = self.record().clone();
        next.remember_act(act);
        self.record().transition(next, state, at)
    }
}

/// An event that comes back from the archive, of which the table holds `found`.
///
/// `None` if the archive's copy is out of date: the event is in the dead-letter queue, in progress,
/// delivered or discarded.
pub(crate) fn restored(
    evidence: &DeadLetterEvidence<'_>,
    found: Option<&EventRecord>,
    act: OperatorAction,
) -> Option<Transition> {
    let now = act.at;
    let Some(found) = found.filter(|found| !found.is_expired(now)) else {
        let mut begun = DeadRecord::begin(evidence, found, now).transition;
        begun.next.remember_act(act);
        return Some(begun);
    };
    // Archived before its delivery, or for a resend that has delivered it since: what is dead now is
    // another resend, and has another message.
    let is_late = found.resend.is_some() && evidence.resend.is_none();
    if is_late || found.is_finished(evidence.resend) {
        return None;
    }
    let (State::Archived { death, .. }
    | State::Dead(Dead {
        death,
        listed: false,
        ..
    })) = &found.state
    else {
        return None;
    };
    let mut next = found.clone();
    next.remember_act(act);
    Some(found.transition(next, State::Dead(Dead::listed(death.clone())), now))
}
