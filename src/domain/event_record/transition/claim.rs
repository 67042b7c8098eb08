//! Claims: the right to deliver an event, and the transitions that the owner can make.

use jiff::{SignedDuration, Timestamp};

use super::{BulkReplay, Guard, REMEMBERED, Transition, crashed, unchanged};
use crate::domain::conversation::conversation_id;
use crate::domain::event::{Event, EventId};
use crate::domain::event_record::{
    Attempt, Context, Dead, Death, DeliveryLease, EventRecord, OperatorAction, REPLAY_CEILING,
    State, StateName,
};
use crate::domain::resend::Resend;

/// A retry may come this much before its time: SQS shows it when it should, but clocks differ.
const EARLY: SignedDuration = SignedDuration::from_secs(1);

/// A dead event that comes back without a replay waits this long after its death, and twice as long
/// each time: a move task of SQS also moves events that die while it runs, and would bring a
/// refused event back for as long as it runs.
const UNASKED_WAIT: SignedDuration = SignedDuration::from_secs(60);

/// A message whose event was replayed too often waits this long before it goes back to the dead
/// letters, for the same reason.
const PAST_CEILING_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// A request for the right to deliver an event.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    pub event: &'a Event,
    /// The id of the message that carries it.
    pub message_id: &'a str,
    /// The time at which SQS accepted that message.
    pub sent_at: Timestamp,
    /// The newest bulk replay, where the claim [depends on
    /// it](EventRecord::depends_on_bulk_replay).
    pub bulk: Option<&'a BulkReplay>,
    /// True at the last receive of the message.
    pub last: bool,
    /// The conversation whose later events wait for this one, where the message has a place in its
    /// order.
    pub conversation: Option<&'a str>,
    /// The run that sends the event once more, where the message is of one.
    pub resend: Option<&'a Resend>,
    /// The end of the lease.
    pub lease_until: Timestamp,
    /// The time now.
    pub now: Timestamp,
}

/// The result of a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimResult {
    /// The event can be delivered once the claim is written.
    Claimed(Claim),
    /// The event was delivered, discarded or erased before.
    AlreadyFinished(Finished),
    /// Another body had the id first: the event gets this id.
    Other(EventId),
    /// Another worker is delivering it, or its next attempt is later.
    TooEarly(Timestamp),
    /// The same, and it has lost the place in the order in which this message comes.
    OutOfPlace(Timestamp),
    /// The message must go to the dead letters: its event is dead and not moved yet, or was
    /// replayed too often.
    AlreadyDead(Death),
}

/// An event that is delivered, or was discarded or erased before.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Delivered, discarded or erased.
    pub state: StateName,
    /// The time at which the relay received the message that created its record.
    pub received_at: Timestamp,
    /// The time of the last write of its record: it was finished by then.
    pub recorded_at: Timestamp,
    /// The transition to write before the message is deleted: the record takes the digest of the
    /// first body with one, so that a later one is not taken for the same event.
    pub noted: Option<Transition>,
}

impl Finished {
    fn of(found: &EventRecord, request: ClaimRequest<'_>) -> Self {
        let digest =
            if found.digest.is_none() && found.state.is_final() && found.state != State::Erased {
                request.event.digest()
            } else {
                None
            };
        let noted = digest.map(|digest| {
            let next = EventRecord {
                digest: Some(digest),
                ..found.clone()
            };
            found.transition(next, found.state.clone(), request.now)
        });
        let state = if found.resend.is_some() {
            StateName::Delivered
        } else {
            found.state.name()
        };
        Self {
            state,
            received_at: found.received_at,
            recorded_at: found.last_seen_at,
            noted,
        }
    }
}

/// The right to deliver an event and to record the outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    transition: Transition,
    /// The conversation whose later events wait for this one: it comes in its place in the order.
    conversation: Option<String>,
}

impl Claim {
    /// Requests an event of which the table holds `found`.
    pub fn on(found: Option<&EventRecord>, request: ClaimRequest<'_>) -> ClaimResult {
        let has_lost_place =
            request.conversation.is_some() && found.is_some_and(|found| !found.has_place());
        match Self::request(found, request) {
            ClaimResult::TooEarly(time) if has_lost_place => ClaimResult::OutOfPlace(time),
            result => result,
        }
    }

    fn request(found: Option<&EventRecord>, request: ClaimRequest<'_>) -> ClaimResult {
        let now = request.now;
        let Some(found) = found else {
            return ClaimResult::Claimed(Self::first(None, request));
        };
        if found.is_expired(now) {
            return ClaimResult::Claimed(Self::first(Some(found), request));
        }
        if let Some(id) = found.other_event(request.event, now) {
            return ClaimResult::Other(id);
        }
        let marked = BulkReplay::marked(request.bulk, found);
        let found = marked.as_ref();
        // Delivered before, and only a resend may deliver it once more.
        let is_late = found.resend.is_some() && request.resend.is_none();
        if is_late || found.is_finished(request.resend.map(|resend| resend.run.as_str())) {
            return ClaimResult::AlreadyFinished(Finished::of(found, request));
        }
        let mut next = match &found.state {
            State::InProgress(lease) if lease.lease_until > now => {
                return ClaimResult::TooEarly(lease.lease_until);
            }
            State::Retrying { next_attempt_at } if *next_attempt_at > now + EARLY => {
                return ClaimResult::TooEarly(*next_attempt_at);
            }
            State::Dead(Dead {
                message_id: Some(id),
                death,
                ..
            }) if id == request.message_id => {
                return ClaimResult::AlreadyDead(death.clone());
            }
            State::Dead(Dead {
                replayed_at: None,
                death,
                ..
            }) if found.replays_made >= REPLAY_CEILING => {
                return past_ceiling(death.clone(), request);
            }
            State::Dead(Dead {
                replayed_at: None,
                death,
                ..
            }) if unasked_until(found, death, now) > now => {
                return ClaimResult::TooEarly(unasked_until(found, death, now));
            }
            State::Queued | State::Retrying { .. } => found.clone(),
            State::InProgress(lease) => {
                if let Some(death) = found
                    .state
                    .death(now)
                    .filter(|_| found.replays_made >= REPLAY_CEILING)
                    && request
                        .bulk
                        .and_then(|bulk| bulk.act_on(found, lease.lease_until))
                        .is_none()
                {
                    return past_ceiling(death, request);
                }
                let mut next = found.clone();
                next.remember_attempt(crashed(found.last_seen_at));
                if lease.last {
                    next.leave_the_dead();
                }
                next.wait_since(found.last_seen_at, in_place(found, request));
                next.fail_since(Some(found.last_seen_at));
                next
            }
            State::Dead(_) => {
                let mut next = found.clone();
                next.leave_the_dead();
                next
            }
            // By a resend; the other two are finished.
            State::Delivered | State::Discarded(_) | State::Erased | State::Archived { .. } => {
                EventRecord {
                    attempts_since_claim: 0,
                    ..found.clone()
                }
            }
        };
        let conversation = in_place(found, request);
        next.begin_resend(request.resend, now);
        next.digest = next.digest.or_else(|| request.event.digest());
        next.conversation_id = next
            .conversation_id
            .or_else(|| conversation_id(request.event));
        next.attempts_made += 1;
        next.attempts_since_claim += 1;
        ClaimResult::Claimed(Self {
            transition: found.transition(next, lease(request, conversation), now),
            conversation: conversation.map(str::to_owned),
        })
    }

    /// The first claim on an event, or the first after `forgotten`.
    fn first(forgotten: Option<&EventRecord>, request: ClaimRequest<'_>) -> Self {
        let state = lease(request, request.conversation);
        let mut next = EventRecord::of(request.event, state, request.now);
        next.begin_resend(request.resend, request.now);
        next.attempts_made = 1;
        next.attempts_since_claim = 1;
        Self {
            transition: Transition {
                next,
                guard: unchanged(forgotten),
            },
            conversation: request.conversation.map(str::to_owned),
        }
    }

    /// The transition that makes the claim valid once written.
    pub fn transition(&self) -> &Transition {
        &self.transition
    }

    /// The number of this attempt at the event, from 1.
    pub fn attempt(&self) -> u32 {
        self.record().attempts_made
    }

    /// The number of this attempt since the event was last claimed as new, from the dead letters or
    /// from the archive.
    pub fn attempts_since_claim(&self) -> u32 {
        self.record().attempts_since_claim
    }

    /// Returns whether an earlier attempt ended without an answer: the target may still be
    /// processing it. One that could not be sent counts as well: an attempt does not tell.
    pub fn has_unanswered_attempt(&self) -> bool {
        self.record()
            .attempts
            .iter()
            .any(|attempt| attempt.status.is_none())
    }

    /// The conversation that waits while this event is attempted; `None` where it has no place in
    /// the order.
    pub fn conversation(&self) -> Option<&str> {
        self.conversation.as_deref()
    }

    /// Returns whether the event comes in its place in the order of its conversation. A duplicate of
    /// one that lost its place does not.
    pub fn is_in_place(&self) -> bool {
        self.conversation.is_some()
    }

    /// The run that sends the event once more with this claim.
    pub fn resend(&self) -> Option<&str> {
        self.record().resend.as_deref()
    }

    /// Replays of the event so far.
    pub fn replays_made(&self) -> u32 {
        self.record().replays_made
    }

    /// The time since which the conversation waits for this event; `None` before its first failure.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.record().waiting.as_ref().map(|waiting| waiting.since)
    }

    /// The time since which it waits, as far as the event or the target is the reason.
    pub fn failing_since(&self) -> Option<Timestamp> {
        self.record().waiting.as_ref()?.failing_since
    }

    /// The number of last attempts of which their workers recorded nothing.
    pub fn crashes_before(&self) -> usize {
        let newest = self.record().attempts.iter().rev();
        newest
            .take_while(|attempt| attempt.duration_ms.is_none())
            .count()
    }

    /// Restores the type and headers of an event whose message has lost them, from the record.
    #[must_use]
    pub fn restore(&self, event: Event) -> Event {
        let Some(Context {
            content_type,
            headers,
            ..
        }) = self.record().context.clone()
        else {
            return event;
        };
        Event {
            content_type: content_type.or(event.content_type),
            headers,
            ..event
        }
    }

    /// The target has the event.
    pub fn delivered(&self, attempt: Attempt) -> Transition {
        let now = attempt.at;
        let mut transition = self.after(attempt, State::Delivered, now);
        transition.next.end_resend(self.resend());
        transition
    }

    /// The target has the event, although the lease was lost and the table holds `found` by now:
    /// the delivery is a fact with or without the lease. `None` if it is recorded already, or the
    /// event was erased.
    pub fn delivered_late(
        &self,
        attempt: Attempt,
        found: Option<&EventRecord>,
    ) -> Option<Transition> {
        let now = attempt.at;
        let Some(found) = found else {
            return Some(Transition {
                guard: Guard::Absent,
                ..self.delivered(attempt)
            });
        };
        let is_recorded = found.state == State::Delivered && found.is_finished(self.resend());
        if is_recorded || found.state == State::Erased {
            return None;
        }
        let mut next = found.clone();
        next.remember_attempt(attempt);
        next.end_resend(self.resend());
        Some(found.transition(next, State::Delivered, now))
    }

    /// A retry will come, not before `next_attempt_at`.
    pub fn retrying(
        &self,
        attempt: Attempt,
        next_attempt_at: Timestamp,
        now: Timestamp,
    ) -> Transition {
        let at = attempt.at;
        let mut transition = self.after(attempt, State::Retrying { next_attempt_at }, now);
        transition.next.wait_since(at, self.conversation.as_deref());
        transition.next.fail_since(Some(at));
        transition
    }

    /// A retry will come, and the attempt does not count: its failure says nothing about the event.
    pub fn retrying_uncounted(
        &self,
        attempt: Attempt,
        next_attempt_at: Timestamp,
        now: Timestamp,
    ) -> Transition {
        let mut transition = self.retrying(attempt, next_attempt_at, now);
        transition.next.attempts_since_claim = self.attempts_since_claim().saturating_sub(1);
        transition.next.fail_since(None);
        transition
    }

    /// The event leaves the line of its conversation, and no event waits for it.
    #[must_use]
    pub fn leaving(self) -> Self {
        Self {
            conversation: None,
            ..self
        }
    }

    /// The target was not asked: the record is as if the event had not been claimed.
    pub fn postponed(&self, next_attempt_at: Timestamp, now: Timestamp) -> Transition {
        let mut next = self.record().clone();
        next.attempts_made = next.attempts_made.saturating_sub(1);
        next.attempts_since_claim = next.attempts_since_claim.saturating_sub(1);
        next.wait_since(now, self.conversation.as_deref());
        self.record()
            .transition(next, State::Retrying { next_attempt_at }, now)
    }

    /// The end of the attempt before this one, if the record has it.
    pub fn attempted_before_at(&self) -> Option<Timestamp> {
        self.record().attempts.last().map(|attempt| attempt.at)
    }

    /// The time of the last action of an operator on the event; long ago without one.
    pub fn last_act_at(&self) -> Timestamp {
        let newest = self.record().history.last();
        newest.map_or(Timestamp::MIN, |act| act.at)
    }

    /// No retry will come. SQS moves the message, or the relay does if it is `to_move`, by its id.
    pub fn dead(
        &self,
        attempt: Attempt,
        death: Death,
        to_move: Option<&str>,
        context: Context,
    ) -> Transition {
        let now = death.dead_at;
        let dead = Dead {
            message_id: to_move.map(str::to_owned),
            ..Dead::listed(death)
        };
        let mut transition = self.after(attempt, State::Dead(dead), now);
        transition.next.context = Some(context);
        transition
    }

    fn after(&self, attempt: Attempt, state: State, now: Timestamp) -> Transition {
        let mut next = self.record().clone();
        next.remember_attempt(attempt);
        self.record().transition(next, state, now)
    }

    pub(in crate::domain::event_record) fn record(&self) -> &EventRecord {
        &self.transition.next
    }
}

/// The time until which a dead event waits that was not replayed.
///
/// The time of its death may come from a message or from the archive. A time in the future is
/// false, and would hold the event back without end: the event does not wait for it.
fn unasked_until(found: &EventRecord, death: &Death, now: Timestamp) -> Timestamp {
    if death.dead_at.duration_since(now) > EARLY {
        return now;
    }
    let wait = UNASKED_WAIT * 2_i32.pow(found.replays_made.min(REPLAY_CEILING));
    // Fails for calendar units only.
    death.dead_at.saturating_add(wait).unwrap_or(now)
}

/// The result for a message whose event was replayed too often, without `force`.
fn past_ceiling(death: Death, ClaimRequest { sent_at, now, .. }: ClaimRequest<'_>) -> ClaimResult {
    let until = sent_at.saturating_add(PAST_CEILING_WAIT).unwrap_or(now);
    if until > now {
        ClaimResult::TooEarly(until)
    } else {
        ClaimResult::AlreadyDead(death)
    }
}

impl EventRecord {
    /// Returns whether nothing is left to deliver for a message: of the event, or of the event in
    /// this resend.
    pub fn is_finished(&self, resend: Option<&str>) -> bool {
        let is_resent = |run: &str| self.resent.iter().any(|resent| resent == run);
        match &self.state {
            State::Discarded(_) | State::Erased => true,
            State::Delivered => resend.is_none_or(is_resent),
            _ => resend.is_some_and(is_resent),
        }
    }

    /// Notes the run that delivers the event once more, or that none does.
    fn begin_resend(&mut self, resend: Option<&Resend>, now: Timestamp) {
        let run = resend.map(|resend| resend.run.as_str());
        if let Some(Resend { by, why, .. }) = resend.filter(|_| self.resend.as_deref() != run) {
            self.remember_act(OperatorAction {
                action: "resend".to_owned(),
                at: now,
                by: by.clone(),
                why: why.clone(),
            });
        }
        self.resend = run.map(str::to_owned);
    }

    /// Notes that a run has delivered the event once more, or will not.
    pub(super) fn end_resend(&mut self, run: Option<&str>) {
        self.resend = None;
        self.resent.extend(run.map(str::to_owned));
        let forgotten = self.resent.len().saturating_sub(REMEMBERED);
        self.resent.drain(..forgotten);
    }

    /// Returns whether the event still has its place in the order of its conversation: all its
    /// attempts were made there, and it waits there for the next.
    pub(crate) fn has_place(&self) -> bool {
        match &self.state {
            State::InProgress(lease) => lease.ordered,
            State::Retrying { .. } => self.waiting.is_some(),
            State::Queued
            | State::Delivered
            | State::Dead(_)
            | State::Archived { .. }
            | State::Discarded(_)
            | State::Erased => false,
        }
    }

    /// Returns whether a claim by this message depends on the newest bulk replay: the event is dead
    /// and was not replayed by id.
    pub fn depends_on_bulk_replay(&self, message_id: &str, now: Timestamp) -> bool {
        match &self.state {
            State::Dead(dead) => {
                dead.replayed_at.is_none() && dead.message_id.as_deref() != Some(message_id)
            }
            state => state.death(now).is_some() && self.replays_made >= REPLAY_CEILING,
        }
    }
}

/// The conversation of a claim on an event that still has its place in it, or has a new one by a
/// resend.
fn in_place<'a>(found: &EventRecord, request: ClaimRequest<'a>) -> Option<&'a str> {
    let has_new_place = request.resend.is_some() && found.state == State::Delivered;
    request
        .conversation
        .filter(|_| has_new_place || found.has_place())
}

fn lease(request: ClaimRequest<'_>, conversation: Option<&str>) -> State {
    State::InProgress(DeliveryLease {
        lease_until: request.lease_until,
        last: request.last,
        ordered: conversation.is_some(),
    })
}
