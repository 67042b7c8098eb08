//! One attempt: the event of a message is claimed, and the target is asked once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::deliver::backoff::{Disposition, millis};
use crate::deliver::order::uncounted;
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::domain::check::{CheckAttempt, CheckEvent};
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim, ClaimRequest, ClaimResult, Finished, StateName};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::resend::Resend;
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::ReceivedMessage;
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::ports::service::{Fault, ServiceError};
use crate::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use crate::runtime::logging::{self, display_chain};
use crate::runtime::metrics::{self, Class};

/// Deliveries end this long before the invocation does, so that their outcome can still be recorded
/// and told to SQS.
pub const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Tries to claim an event whose record other workers keep changing.
pub(super) const MAX_CLAIM_RETRIES: usize = 3;

/// The delay of an event whose record other workers keep changing.
const CONTENDED: SignedDuration = SignedDuration::from_secs(1);

/// Senders repeat an unanswered request within minutes. A later duplicate may have a key that never
/// changes.
const LATE_DUPLICATE: SignedDuration = SignedDuration::from_hours(1);

/// The state of a message after the attempt to claim its event.
pub(super) enum ClaimOutcome {
    /// The event is claimed and can be delivered.
    Claimed(Box<Event>, Box<Claim>),
    /// There is nothing to deliver.
    Ended(Disposition),
}

impl<T: PortTypes> Processor<T> {
    /// Delivers the event of a message, and returns what SQS must do with the message.
    pub(super) async fn deliver(
        &self,
        received: &ReceivedMessage,
        deadline: Instant,
    ) -> Disposition {
        let disposition = self.deliver_once(received, deadline).await;
        self.leave_line(received, disposition).await
    }

    async fn deliver_once(&self, received: &ReceivedMessage, deadline: Instant) -> Disposition {
        let room = self
            .pace
            .as_ref()
            .map(|pace| pace.admit(deadline - SETTLE_TIME));
        let is_full = room.as_ref().is_some_and(Option::is_none);
        // A message that was received before may belong to a dead event, by its id: a new message in
        // its place would not.
        let is_simple = received.is_ordered || received.receive_count <= 1;
        if is_full && is_simple && !Self::is_used_up(received) {
            return postpone(received, received.is_ordered, deadline);
        }
        let was_received_before = received.receive_count > 1;
        let begun = self.begin(received, was_received_before, deadline).await;
        let (event, claim) = match begun {
            ClaimOutcome::Claimed(event, claim) => (event, claim),
            ClaimOutcome::Ended(disposition) => return disposition,
        };
        if self.loses_place(received, &claim) {
            return self.lose_place(received, &event, *claim, deadline).await;
        }
        if is_full {
            return self.give_back(received, &event, &claim, deadline).await;
        }
        let (attempt, outcome) = self.attempt(&event, &claim, deadline).await;
        let ended = match &outcome {
            Ok(()) => Ok(()),
            Err(failure) => Err(failure.cause),
        };
        if !event.is_check() {
            self.attempts
                .count(&event.id, claim.attempt(), ended, attempt.at);
        }
        match outcome {
            Ok(()) => {
                self.record_delivery(received, &event, &claim, attempt, deadline)
                    .await
            }
            Err(failure) => {
                self.record_failure(received, &event, &claim, attempt, &failure, deadline)
                    .await
            }
        }
    }

    /// Claims the event of a message. A message that cannot be delivered is settled here.
    pub(super) async fn begin(
        &self,
        received: &ReceivedMessage,
        was_received_before: bool,
        deadline: Instant,
    ) -> ClaimOutcome {
        let read = received.message.to_event(received.stamp());
        let read = read.and_then(|event| Ok((event, received.message.resend()?)));
        let (mut event, resend) = match read {
            Ok(read) => read,
            Err(error) => {
                let failure = DeliveryFailure::new(FailureCause::Refused, display_chain(&error));
                let reason = self.reason(ReasonKind::Malformed, &failure, None);
                let disposition = self.send_to_dead_letters(received, None, &reason).await;
                if disposition == Disposition::Delete {
                    metrics::DEAD.add(reason.reason, 1);
                }
                self.backoff
                    .log_failure(received, None, &failure, disposition);
                return ClaimOutcome::Ended(disposition);
            }
        };
        let mut claimed = self
            .claim(received, &event, resend.as_ref(), deadline)
            .await;
        if let Ok(ClaimResult::Other(id)) = claimed {
            let shared = std::mem::replace(&mut event.id, id);
            claimed = self
                .claim(received, &event, resend.as_ref(), deadline)
                .await;
            if matches!(&claimed, Ok(ClaimResult::Claimed(claim)) if claim.attempt() == 1) {
                tracing::warn!(
                    event_id = %event.id, %shared, source = %event.source, message_id = received.message_id,
                    "another body had the event's id first; delivering under an id of its own"
                );
                metrics::REUSED_IDS.add(1);
            }
        }
        let disposition = match claimed {
            Ok(ClaimResult::Claimed(claim)) => {
                let event = if received.message.has_lost_attributes() {
                    claim.restore(event)
                } else {
                    event
                };
                return ClaimOutcome::Claimed(Box::new(event), Box::new(claim));
            }
            Ok(ClaimResult::AlreadyFinished(finished)) => {
                note_duplicate(received, &event, &finished);
                // The worker that delivered it may have ended before it was in the journal, and this
                // may be its message. A move task or a renewal lets the receives begin at 0 again.
                let is_earlier = was_received_before || event.received_at <= finished.recorded_at;
                if finished.state == StateName::Delivered && is_earlier && resend.is_none() {
                    self.note_for_journal(received, &event);
                }
                Disposition::Delete
            }
            // Two equal SHA-256 ids: it is never taken for a duplicate.
            Ok(ClaimResult::Other(_)) => self.backoff.retry(received, received.receive_count, None),
            Ok(early @ (ClaimResult::TooEarly(time) | ClaimResult::OutOfPlace(time))) => {
                let left = Duration::try_from(time.duration_since(self.ports.clock.now()))
                    .unwrap_or_default();
                let disposition = if let ClaimResult::OutOfPlace(_) = early {
                    Disposition::RenewAt(Instant::now() + left)
                } else {
                    self.wait(received, left)
                };
                let failure = DeliveryFailure::new(
                    FailureCause::NotSent,
                    "another worker is delivering the event, or its next attempt is later",
                );
                self.backoff
                    .log_failure(received, Some(&event), &failure, disposition);
                disposition
            }
            Ok(ClaimResult::AlreadyDead(death)) => {
                // It died in an earlier invocation.
                let reason = Reason {
                    resent_at: Some(self.ports.clock.now()),
                    ..death.into()
                };
                let disposition = self
                    .send_to_dead_letters(received, Some(&event), &reason)
                    .await;
                let failure = DeliveryFailure::new(FailureCause::Refused, reason.detail);
                self.backoff
                    .log_failure(received, Some(&event), &failure, disposition);
                disposition
            }
            Err(error) => {
                // A record that only a later version can read would hold its conversation for days.
                let disposition = if received.is_ordered && error.fault == Fault::Unreadable {
                    Disposition::RenewAt(Instant::now())
                } else {
                    self.backoff.retry(received, received.receive_count, None)
                };
                let failure = DeliveryFailure::new(FailureCause::NotSent, display_chain(&error));
                self.backoff
                    .log_failure(received, Some(&event), &failure, disposition);
                disposition
            }
        };
        ClaimOutcome::Ended(disposition)
    }

    /// Claims an event, in one write where it is new.
    async fn claim(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        resend: Option<&Resend>,
        deadline: Instant,
    ) -> Result<ClaimResult, ServiceError> {
        if self.is_erased(received, event).await? {
            return self.erase(event).await;
        }
        let mut found = match received.receive_count {
            // Most likely new: the write tells.
            ..=1 if resend.is_none() => None,
            _ => self.ports.table.get(&event.id).await?.map(Box::new),
        };
        let now = self.ports.clock.now();
        let request = ClaimRequest {
            event,
            message_id: &received.message_id,
            sent_at: received.sent_at,
            bulk: None,
            last: self.backoff.is_last_receive(received),
            conversation: received
                .message
                .group
                .as_deref()
                .filter(|_| received.is_ordered),
            resend,
            lease_until: now
                + (deadline + LEASE_PAST_DEADLINE).saturating_duration_since(Instant::now()),
            now,
        };
        let mut bulk = None;
        for _ in 0..MAX_CLAIM_RETRIES {
            if found
                .as_ref()
                .is_some_and(|found| found.depends_on_bulk_replay(&received.message_id, now))
            {
                bulk = self.ports.table.bulk_replay().await?;
            }
            let claimed = Claim::on(
                found.as_deref(),
                ClaimRequest {
                    bulk: bulk.as_ref(),
                    ..request
                },
            );
            // The worker that finished the event may have ended before it deleted the body.
            if matches!(claimed, ClaimResult::AlreadyFinished(_))
                && found.as_ref().is_some_and(|found| found.has_surplus_body())
            {
                self.delete_body(event).await;
            }
            let transition = match &claimed {
                ClaimResult::Claimed(claim) => claim.transition(),
                ClaimResult::AlreadyFinished(Finished {
                    noted: Some(transition),
                    ..
                }) => transition,
                ClaimResult::AlreadyFinished(Finished { noted: None, .. })
                | ClaimResult::Other(_)
                | ClaimResult::TooEarly(_)
                | ClaimResult::OutOfPlace(_)
                | ClaimResult::AlreadyDead(_) => return Ok(claimed),
            };
            match self.ports.table.write(transition).await? {
                Written::Done => return Ok(claimed),
                Written::Lost(instead) => found = instead,
            }
        }
        Ok(ClaimResult::TooEarly(now + CONTENDED))
    }

    /// Asks the target once to accept the event.
    pub(super) async fn attempt(
        &self,
        event: &Event,
        claim: &Claim,
        deadline: Instant,
    ) -> (Attempt, Result<(), DeliveryFailure>) {
        let started = Instant::now();
        let delivery = Delivery {
            event,
            attempt: claim.attempt(),
            deadline: deadline - SETTLE_TIME,
            order: self.out_of_order(event, claim),
            resend: claim.resend(),
            pace: self.pace.as_ref(),
        };
        let check = CheckEvent::of(event);
        let outcome = match check.map(|check| check.outcome(claim.attempt())) {
            None | Some(CheckAttempt::Target) => self.ports.target.deliver(delivery).await,
            Some(CheckAttempt::Deliver) => Outcome::Delivered { status: None },
            Some(CheckAttempt::Retry) => asked_to_fail(503),
            Some(CheckAttempt::Refuse) => asked_to_fail(400),
        };
        let took = started.elapsed();
        if !event.is_check() {
            measure(&outcome, took);
        }
        let attempt = Attempt {
            at: self.ports.clock.now(),
            duration_ms: Some(millis(took)),
            status: None,
            error: None,
            response: None,
        };
        match outcome {
            Outcome::Delivered { status } => {
                if !event.is_check() {
                    self.note_accepted(attempt.at);
                    let age = attempt.at.duration_since(event.received_at);
                    metrics::DELIVERED.add(1);
                    metrics::AGE_AT_DELIVERY.time(age.try_into().unwrap_or_default());
                }
                // An event that failed before is logged to its end.
                if claim.attempt() > 1 || logging::should_log(&event.id) {
                    tracing::info!(
                        event_id = %event.id,
                        source = %event.source,
                        attempt = claim.attempt(),
                        status,
                        duration_ms = attempt.duration_ms,
                        age_ms = attempt.at.as_millisecond() - event.received_at.as_millisecond(),
                        "delivered"
                    );
                }
                (Attempt { status, ..attempt }, Ok(()))
            }
            Outcome::Failed(failure) => {
                let attempt = Attempt {
                    status: failure.cause.status(),
                    error: Some(excerpt(&failure.detail)),
                    response: failure.response.clone(),
                    ..attempt
                };
                (attempt, Err(failure))
            }
        }
    }
}

/// Sends back an event for which the rate leaves no room in this invocation.
pub(super) fn postpone(
    received: &ReceivedMessage,
    is_in_place: bool,
    deadline: Instant,
) -> Disposition {
    metrics::POSTPONED.add(1);
    tracing::debug!(
        event_id = received.message.event_id(),
        message_id = received.message_id,
        "postponed: the bound on the target's rate leaves no room in this invocation"
    );
    uncounted(is_in_place, deadline)
}

/// Logs and counts a message whose event was delivered or discarded before.
fn note_duplicate(received: &ReceivedMessage, event: &Event, finished: &Finished) {
    let (event_id, message_id, state) = (&event.id, &received.message_id, finished.state);
    if !event.is_check() {
        metrics::DUPLICATES.add(event.source, 1);
    }
    if is_late(finished.received_at, event.received_at) {
        tracing::warn!(
            %event_id, message_id, %state, source = %event.source, first_received_at = %finished.received_at,
            "duplicate, sent more than an hour after the first: the sender's key or time may be the same on every event"
        );
    } else {
        tracing::info!(%event_id, message_id, %state, "duplicate");
    }
}

/// Returns whether an event was received again so late that its sender's key or time may be
/// constant. Copies of one message have one time of receipt.
pub(super) fn is_late(first: Timestamp, again: Timestamp) -> bool {
    again.duration_since(first) > LATE_DUPLICATE
}

/// The outcome of an attempt at a check event that asks for this failure.
fn asked_to_fail(status: u16) -> Outcome {
    Outcome::Failed(DeliveryFailure::new(
        FailureCause::Status(status),
        format!("the check event asks for a {status} at this attempt"),
    ))
}

/// Records the target's answer, if the target was asked.
fn measure(outcome: &Outcome, took: Duration) {
    if let Outcome::Failed(DeliveryFailure {
        cause: FailureCause::Credentials(_),
        ..
    }) = outcome
    {
        metrics::CREDENTIALS_FAILED.add(1);
    }
    let status = match outcome {
        Outcome::Delivered { status } => *status,
        Outcome::Failed(DeliveryFailure {
            cause:
                FailureCause::NotSent
                | FailureCause::Credentials(None)
                | FailureCause::Postponed
                | FailureCause::Refused,
            ..
        }) => return,
        Outcome::Failed(DeliveryFailure { cause, .. }) => cause.status(),
    };
    metrics::TARGET_TIME.time(took);
    metrics::TARGET_ANSWERS.add(Class::of(status), 1);
}
