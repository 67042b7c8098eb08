//! The end of an attempt: it is recorded, and a dead event is sent to the dead-letter queue.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout_at};

use crate::deliver::attempt::postpone;
use crate::deliver::backoff::Disposition;
use crate::deliver::order::{NextAttempt, measure_wait, uncounted};
use crate::deliver::ports::PortTypes;
use crate::deliver::processor::Processor;
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim, Context, Transition};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::retry::{RetryDecision, retry_decision};
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, Written};
use crate::ports::queue::{ReceivedMessage, Sender};
use crate::ports::run_lease::LEASE_PAST_DEADLINE;
use crate::ports::target::{DeliveryFailure, FailureCause, Target};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Stop retrying to record a delivery this long before the deadline.
const RECORD_TIME: Duration = Duration::from_millis(1750);

/// Failures of the credentials count once an event is this old: the breaker holds events back for as
/// long.
const LONGEST_UNCOUNTED: SignedDuration = SignedDuration::from_hours(3 * 24);

/// The status by which targets refuse credentials without permission, and content.
const FORBIDDEN: u16 = 403;

/// The pause between two tries to record a delivery.
const RECORD_PAUSE: Duration = Duration::from_millis(200);

/// Upper bound on the delay of a retry of a check event: a check has two minutes for its whole way.
const CHECK_RETRY: Duration = Duration::from_secs(2);

impl<T: PortTypes> Processor<T> {
    /// Records a delivery, retrying until shortly before the deadline. Only then may SQS delete the
    /// message.
    pub(super) async fn record_delivery(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        deadline: Instant,
    ) -> Disposition {
        let write = async {
            let mut transition = claim.delivered(attempt.clone());
            loop {
                match self.ports.table.write(&transition).await {
                    Ok(Written::Done) => {
                        // A worker that could not record a death may have kept the body.
                        return transition.next().has_surplus_body() || claim.crashes_before() > 0;
                    }
                    Ok(Written::Lost(found)) => {
                        match claim.delivered_late(attempt.clone(), found.as_deref()) {
                            Some(late) => transition = late,
                            None => return false,
                        }
                    }
                    Err(error) => {
                        tracing::warn!(event_id = %event.id, error = display_chain(&error), "failed to record the delivery; retrying");
                    }
                }
                sleep(RECORD_PAUSE).await;
            }
        };
        let recorded = timeout_at(deadline - RECORD_TIME, write).await;
        let is_ended = recorded.is_ok() || self.backoff.is_last_receive(received);
        if is_ended && claim.resend().is_none() {
            self.note_for_journal(received, event);
        }
        if let Ok(has_surplus_body) = recorded {
            // Before the message is deleted: after a crash it comes again, and the body is deleted
            // then.
            if has_surplus_body {
                self.delete_body(event).await;
            }
            return Disposition::Delete;
        }
        if self.backoff.is_last_receive(received) {
            // Kept, it would be a dead letter, and a replay would deliver it again.
            tracing::error!(event_id = %event.id, "failed to record the delivery at the last receive; deleting the message");
            return Disposition::Delete;
        }
        tracing::error!(event_id = %event.id, "failed to record the delivery; the target will receive the event again");
        Disposition::RetryAt(deadline + LEASE_PAST_DEADLINE)
    }

    /// Records and logs a failed attempt, and decides when the next one comes.
    pub(super) async fn record_failure(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &DeliveryFailure,
        deadline: Instant,
    ) -> Disposition {
        let disposition = self
            .write_failure(received, event, claim, attempt, failure, deadline)
            .await;
        let is_retried = match disposition {
            Disposition::Delete => false,
            Disposition::RetryAt(_) => !self.backoff.is_last_receive(received),
            Disposition::RenewAt(_) => failure.cause != FailureCause::Postponed,
        };
        if is_retried && !event.is_check() {
            metrics::RETRIED.add(1);
        }
        self.backoff
            .log_failure(received, Some(event), failure, disposition);
        disposition
    }

    async fn write_failure(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &DeliveryFailure,
        deadline: Instant,
    ) -> Disposition {
        let number = Some(claim.attempt());
        match self.decide(event, claim, failure) {
            RetryDecision::Permanent => {
                let reason = self.reason(ReasonKind::Permanent, failure, number);
                let context = Context::of(event, Some(self.ports.target.address()));
                let transition = claim.dead(
                    attempt,
                    reason.clone().into(),
                    Some(&received.message_id),
                    context,
                );
                let otherwise = self
                    .backoff
                    .retry(received, claim.attempts_since_claim(), None);
                self.keep_body(event).await;
                match self.write(event, &transition, otherwise, deadline).await {
                    Ok(()) => {
                        count_dead(event, &reason);
                        self.send_to_dead_letters(received, Some(event), &reason)
                            .await
                    }
                    Err(disposition) => disposition,
                }
            }
            RetryDecision::Retry
                if self.backoff.is_last_receive(received)
                    || self.backoff.is_last(claim.attempts_since_claim()) =>
            {
                let reason = self.reason(ReasonKind::Exhausted, failure, number);
                let context = Context::of(event, Some(self.ports.target.address()));
                // SQS moves a message unchanged, at its last receive: where the message does not name
                // its event, or was renewed, we send one.
                let is_moved = received.message.event_id() == Some(event.id.as_str())
                    && self.backoff.is_last_receive(received);
                let to_move = (!is_moved).then_some(&*received.message_id);
                let transition = claim.dead(attempt, reason.clone().into(), to_move, context);
                let redrive = Disposition::RetryAt(Instant::now());
                self.keep_body(event).await;
                let written = self.write(event, &transition, redrive, deadline).await;
                if written == Err(Disposition::Delete) {
                    return Disposition::Delete;
                }
                let disposition = if is_moved {
                    redrive
                } else {
                    self.send_to_dead_letters(received, Some(event), &reason)
                        .await
                };
                // An event neither recorded nor sent with its reason is counted by the sweep.
                if written.is_ok() || disposition == Disposition::Delete {
                    count_dead(event, &reason);
                }
                disposition
            }
            RetryDecision::RetryUncounted => {
                if failure.cause == FailureCause::Postponed {
                    return self.give_back(received, event, claim, deadline).await;
                }
                let now = self.ports.clock.now();
                measure_wait(claim, now);
                // By all attempts, since none of these counts.
                let delay = self.backoff.delay(claim.attempt(), failure.retry_after);
                let later = uncounted(claim.is_in_place(), Instant::now() + delay);
                let transition = claim.retrying_uncounted(attempt, now + delay, now);
                self.write(event, &transition, later, deadline)
                    .await
                    .err()
                    .unwrap_or(later)
            }
            RetryDecision::Retry => {
                let delay = self
                    .backoff
                    .delay(claim.attempts_since_claim(), failure.retry_after);
                let delay = if event.is_check() {
                    delay.min(CHECK_RETRY)
                } else {
                    delay
                };
                let now = self.ports.clock.now();
                measure_wait(claim, now);
                let next = if received.is_ordered {
                    self.retry_in_order(claim, delay, failure.retry_after, now)
                } else {
                    NextAttempt::Here(delay)
                };
                let (transition, retry, otherwise) = match next {
                    NextAttempt::Here(delay) => {
                        let retry = Disposition::RetryAt(Instant::now() + delay);
                        (claim.retrying(attempt, now + delay, now), retry, retry)
                    }
                    NextAttempt::OutOfOrder => (
                        claim.clone().leaving().retrying(attempt, now + delay, now),
                        Disposition::RenewAt(Instant::now() + delay),
                        self.stay(received),
                    ),
                };
                self.write(event, &transition, otherwise, deadline)
                    .await
                    .err()
                    .unwrap_or(retry)
            }
        }
    }

    /// Sends back an event that was claimed, and for which the rate leaves no room.
    pub(super) async fn give_back(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        deadline: Instant,
    ) -> Disposition {
        let disposition = postpone(received, claim.is_in_place(), deadline);
        let now = self.ports.clock.now();
        let left = deadline.saturating_duration_since(Instant::now());
        let transition = claim.postponed(now + left, now);
        self.write(event, &transition, disposition, deadline)
            .await
            .err()
            .unwrap_or(disposition)
    }

    /// Sends back a claimed event that leaves the line before it is attempted.
    pub(super) async fn lose_place(
        &self,
        received: &ReceivedMessage,
        event: &Event,
        claim: Claim,
        deadline: Instant,
    ) -> Disposition {
        let (elsewhere, now) = (Disposition::RenewAt(Instant::now()), self.ports.clock.now());
        let transition = claim.leaving().postponed(now, now);
        match self
            .write(event, &transition, self.stay(received), deadline)
            .await
        {
            Ok(()) => elsewhere,
            Err(disposition) => disposition,
        }
    }

    /// Decides whether the event is retried, and whether the attempt counts.
    ///
    /// A 403 may be about the event: a gateway refuses its content, or the client may not write such
    /// a thing. If the target has accepted another event since this one was last attempted, the
    /// credentials are good, at least in part, and the attempt counts. A 401 is never about the
    /// event. After three days without good credentials an attempt counts as well, so that the event
    /// becomes a dead letter, which operators see; a replay begins them again.
    fn decide(&self, event: &Event, claim: &Claim, failure: &DeliveryFailure) -> RetryDecision {
        let are_good = || {
            // An error of a clock costs an attempt.
            let before = claim.attempted_before_at();
            before.is_some_and(|before| self.accepted_at() >= Some(before))
        };
        let since = event.received_at.max(claim.last_act_at());
        let age = self.ports.clock.now().duration_since(since);
        let cause = match failure.cause {
            FailureCause::Credentials(Some(FORBIDDEN)) if are_good() => FailureCause::NotSent,
            FailureCause::Credentials(_) if age > LONGEST_UNCOUNTED => FailureCause::NotSent,
            cause => cause,
        };
        retry_decision(
            cause,
            failure.retry_after.is_some() || claim.has_unanswered_attempt(),
        )
    }

    /// Keeps the body of a dying event. That of a check event is of no use to anyone.
    async fn keep_body(&self, event: &Event) {
        if event.is_check() {
            return;
        }
        match self
            .ports
            .table
            .keep_body(&event.id, &event.body, self.ports.clock.now())
            .await
        {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(event_id = %event.id, "body too large to keep beside its record");
            }
            // The message has it too: no reason to hold the event up.
            Err(error) => {
                tracing::warn!(event_id = %event.id, error = display_chain(&error), "failed to keep the body");
            }
        }
    }

    /// Deletes the kept body of a finished event. A body that stays expires.
    pub(super) async fn delete_body(&self, event: &Event) {
        if let Err(error) = self.ports.table.delete_body(&event.id).await {
            tracing::warn!(event_id = %event.id, error = display_chain(&error), "failed to delete the kept body; it expires");
        }
    }

    /// Writes a transition. Where that fails, returns the disposition: `otherwise` while another
    /// worker owns the event.
    async fn write(
        &self,
        event: &Event,
        transition: &Transition,
        otherwise: Disposition,
        deadline: Instant,
    ) -> Result<(), Disposition> {
        match self.ports.table.write(transition).await {
            Ok(Written::Done) => Ok(()),
            Ok(Written::Lost(Some(instead)))
                if instead.is_finished(transition.next().resend.as_deref()) =>
            {
                tracing::info!(event_id = %event.id, state = %instead.state.name(), "another worker finished the event first");
                // The body was kept a moment ago for a death that did not happen. Another resend can
                // need it by now.
                if transition.next().context.is_some() && !instead.state.may_need_body() {
                    self.delete_body(event).await;
                }
                Err(Disposition::Delete)
            }
            Ok(Written::Lost(_)) => {
                tracing::warn!(event_id = %event.id, "lease expired; another worker owns the event");
                Err(otherwise)
            }
            Err(error) => {
                tracing::error!(event_id = %event.id, error = display_chain(&error), "failed to record the attempt");
                let lease = deadline + LEASE_PAST_DEADLINE;
                Err(match otherwise {
                    Disposition::Delete => Disposition::Delete,
                    Disposition::RetryAt(at) => Disposition::RetryAt(at.max(lease)),
                    Disposition::RenewAt(at) => Disposition::RenewAt(at.max(lease)),
                })
            }
        }
    }

    /// Builds the reason that a dead letter carries.
    pub(super) fn reason(
        &self,
        kind: ReasonKind,
        failure: &DeliveryFailure,
        attempt: Option<u32>,
    ) -> Reason {
        Reason {
            status_code: failure.cause.status(),
            response: failure.response.as_deref().map(excerpt),
            attempt,
            ..Reason::new(kind, &failure.detail, self.ports.clock.now())
        }
    }

    /// Sends a message to the dead-letter queue with its reason. Only then may SQS delete it from
    /// the events queue.
    pub(super) async fn send_to_dead_letters(
        &self,
        received: &ReceivedMessage,
        event: Option<&Event>,
        reason: &Reason,
    ) -> Disposition {
        let message = received
            .message
            .clone()
            .with_identity(received.stamp())
            .with_reason(reason);
        let message = event
            .into_iter()
            .fold(message, |message, event| message.named(&event.id));
        match self.ports.dead_letters.send(&message).await {
            Ok(()) => Disposition::Delete,
            Err(error) => {
                tracing::error!(
                    event_id = received.message.event_id(),
                    message_id = received.message_id,
                    error = display_chain(&error),
                    "failed to send to the dead-letter queue; the event stays in the events queue"
                );
                self.backoff.retry(received, received.receive_count, None)
            }
        }
    }
}

/// Counts an event that became a dead letter.
fn count_dead(event: &Event, reason: &Reason) {
    if !event.is_check() {
        metrics::DEAD.add(reason.reason, 1);
    }
}
