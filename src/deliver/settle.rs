//! One record on its way to an end: claimed, delivered, recorded, and where nothing else helps, buried.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Disposition, LEASE_PAST_DEADLINE, Processor, ReceivedMessage, millis};
use crate::domain::event::Event;
use crate::domain::event_record::{Attempt, Claim, ClaimRequest, ClaimResult, Context, Finished, State, Transition};
use crate::domain::failure::{Reason, ReasonKind};
use crate::domain::retry::{RetryDecision, retry_decision};
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::events_table::{EventsTable, TableError, Written};
use crate::ports::queue::{Sender, VisibilityTimeout};
use crate::ports::target::{Cause, Delivery, Failure, Outcome, Target};
use crate::runtime::logging::{self, display_chain};
use crate::runtime::metrics::{self, Class};

/// Deliveries end this long before the invocation does, so that their outcome can still be recorded and told to SQS.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// That a delivery was made is not tried to be recorded any more this long before the invocation ends.
const RECORD_TIME: Duration = Duration::from_millis(1750);

/// How often a claim is tried that others keep changing under our hands.
const MAX_CLAIM_RETRIES: usize = 3;

/// How long an event is left alone that others keep changing under our hands.
const CONTENDED: SignedDuration = SignedDuration::from_secs(1);

/// Senders repeat what was not answered within minutes: what comes later is no repetition, but may have a key that never changes.
const LATE_DUPLICATE: SignedDuration = SignedDuration::from_hours(1);

/// Between two tries to record a delivery.
const RECORD_PAUSE: Duration = Duration::from_millis(200);

/// How far a record has come.
pub(super) enum ClaimOutcome {
    /// Its event is claimed, and can be delivered.
    Claimed(Box<Event>, Box<Claim>),
    /// It is at its end.
    Ended(Disposition),
}

impl<E, D, W, T, C> Processor<E, D, W, T, C>
where
    E: VisibilityTimeout,
    D: Sender,
    W: EventsTable,
    T: Target,
    C: Clock,
{
    /// Brings a record to its end, and says what SQS is to do with it.
    pub(super) async fn settle(&self, record: &ReceivedMessage, deadline: Instant) -> Disposition {
        match self.begin(record, deadline).await {
            ClaimOutcome::Claimed(event, claim) => self.deliver(record, &event, &claim, deadline).await,
            ClaimOutcome::Ended(settlement) => settlement,
        }
    }

    /// Brings a record to where its event can be delivered, or to its end.
    pub(super) async fn begin(&self, record: &ReceivedMessage, deadline: Instant) -> ClaimOutcome {
        let mut event = match record.message.to_event(record.stamp()) {
            Ok(event) => event,
            Err(error) => {
                let failure = Failure::new(Cause::Refused, display_chain(&error));
                let reason = self.reason(ReasonKind::Malformed, &failure, None);
                let settlement = self.send_to_dead_letters(record, None, &reason).await;
                if settlement == Disposition::Delete {
                    metrics::DEAD.add(reason.reason, 1);
                }
                self.log_failure(record, None, &failure, settlement);
                return ClaimOutcome::Ended(settlement);
            }
        };
        let mut claiming = self.claim(record, &event, deadline).await;
        if let Ok(ClaimResult::Other(id)) = claiming {
            let shared = std::mem::replace(&mut event.id, id);
            claiming = self.claim(record, &event, deadline).await;
            if matches!(&claiming, Ok(ClaimResult::Claimed(claim)) if claim.attempt() == 1) {
                tracing::warn!(
                    event_id = %event.id, %shared, source = %event.source, message_id = record.message_id,
                    "delivering an event of its own whose id another body had first"
                );
                metrics::REUSED_IDS.add(1);
            }
        }
        let settlement = match claiming {
            Ok(ClaimResult::Claimed(claim)) => {
                let event = if record.message.has_lost_attributes() { claim.restore(event) } else { event };
                return ClaimOutcome::Claimed(Box::new(event), Box::new(claim));
            }
            Ok(ClaimResult::AlreadyFinished(finished)) => {
                note_duplicate(record, &event, &finished);
                Disposition::Delete
            }
            // Two ids of SHA-256 that are equal: it is never known for a duplicate.
            Ok(ClaimResult::Other(_)) => self.again(record, record.receive_count, None),
            Ok(ClaimResult::TooEarly(time)) => {
                let left = Duration::try_from(time.duration_since(self.clock.now())).unwrap_or_default();
                let settlement = self.again_at(record, Instant::now() + left);
                let failure =
                    Failure::new(Cause::NotSent, "it is being delivered already, or waits for its next attempt");
                self.log_failure(record, Some(&event), &failure, settlement);
                settlement
            }
            Ok(ClaimResult::AlreadyDead(death)) => {
                // It died in an earlier invocation.
                let reason = Reason { resent_at: Some(self.clock.now()), ..death.into() };
                let settlement = self.send_to_dead_letters(record, Some(&event), &reason).await;
                self.log_failure(record, Some(&event), &Failure::new(Cause::Refused, reason.detail), settlement);
                settlement
            }
            Err(error) => {
                let settlement = self.again(record, record.receive_count, None);
                let failure = Failure::new(Cause::NotSent, display_chain(&error));
                self.log_failure(record, Some(&event), &failure, settlement);
                settlement
            }
        };
        ClaimOutcome::Ended(settlement)
    }

    /// Claims the event, in one write where it is new.
    async fn claim(
        &self,
        record: &ReceivedMessage,
        event: &Event,
        deadline: Instant,
    ) -> Result<ClaimResult, TableError> {
        let mut found = match record.receive_count {
            // Most likely nobody has seen it before: the write will tell.
            ..=1 => None,
            _ => self.table.get(&event.id).await?.map(Box::new),
        };
        let now = self.clock.now();
        let request = ClaimRequest {
            event,
            message_id: &record.message_id,
            sent_at: record.sent_at,
            bulk: None,
            last: self.schedule.is_last(record.receive_count),
            lease_until: now + (deadline + LEASE_PAST_DEADLINE).saturating_duration_since(Instant::now()),
            now,
        };
        let mut bulk = None;
        for _ in 0..MAX_CLAIM_RETRIES {
            if found.as_ref().is_some_and(|found| found.depends_on_bulk_replay(&record.message_id, now)) {
                bulk = self.table.bulk_replay().await?;
            }
            let claiming = Claim::on(found.as_deref(), ClaimRequest { bulk: bulk.as_ref(), ..request });
            // Whoever finished the event may have ended before that.
            if matches!(claiming, ClaimResult::AlreadyFinished(_))
                && found.as_ref().is_some_and(|found| found.has_surplus_body())
            {
                self.delete_body(event).await;
            }
            let step = match &claiming {
                ClaimResult::Claimed(claim) => claim.transition(),
                ClaimResult::AlreadyFinished(Finished { noted: Some(step), .. }) => step,
                ClaimResult::AlreadyFinished(Finished { noted: None, .. })
                | ClaimResult::Other(_)
                | ClaimResult::TooEarly(_)
                | ClaimResult::AlreadyDead(_) => return Ok(claiming),
            };
            match self.table.write(step).await? {
                Written::Done => return Ok(claiming),
                Written::Lost(instead) => found = instead,
            }
        }
        Ok(ClaimResult::TooEarly(now + CONTENDED))
    }

    async fn deliver(&self, record: &ReceivedMessage, event: &Event, claim: &Claim, deadline: Instant) -> Disposition {
        let (attempt, outcome) = self.attempt(event, claim, deadline).await;
        self.attempts.count(&event.id, claim.attempt(), outcome.is_ok(), attempt.at);
        match outcome {
            Ok(()) => self.record_delivery(record, event, claim, attempt, deadline).await,
            Err(failure) => self.failed(record, event, claim, attempt, &failure, deadline).await,
        }
    }

    /// Records an attempt that failed, and says when another comes.
    pub(super) async fn failed(
        &self,
        record: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &Failure,
        deadline: Instant,
    ) -> Disposition {
        let settlement = self.record_failure(record, event, claim, attempt, failure, deadline).await;
        if matches!(settlement, Disposition::RetryAt(_)) && !self.schedule.is_last(record.receive_count) {
            metrics::RETRIED.add(1);
        }
        self.log_failure(record, Some(event), failure, settlement);
        settlement
    }

    /// Asks the target to take the event, once.
    pub(super) async fn attempt(
        &self,
        event: &Event,
        claim: &Claim,
        deadline: Instant,
    ) -> (Attempt, Result<(), Failure>) {
        let started = Instant::now();
        let delivery = Delivery { event, attempt: claim.attempt(), deadline: deadline - SETTLE_TIME };
        let outcome = self.target.deliver(delivery).await;
        let took = started.elapsed();
        measure(&outcome, took);
        let attempt = Attempt {
            at: self.clock.now(),
            duration_ms: Some(millis(took)),
            status: None,
            error: None,
            response: None,
        };
        match outcome {
            Outcome::Delivered { status } => {
                let age = attempt.at.duration_since(event.received_at);
                metrics::DELIVERED.add(1);
                metrics::AGE_AT_DELIVERY.time(age.try_into().unwrap_or_default());
                // What has failed before is told of to its end.
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

    /// Records that the target has the event, as long as there is time. Only then may SQS forget the message.
    pub(super) async fn record_delivery(
        &self,
        record: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        deadline: Instant,
    ) -> Disposition {
        let write = async {
            let mut step = claim.delivered(attempt.clone());
            loop {
                match self.table.write(&step).await {
                    Ok(Written::Done) => return step.next().has_surplus_body(),
                    Ok(Written::Lost(found)) => match claim.delivered_late(attempt.clone(), found.as_deref()) {
                        Some(late) => step = late,
                        None => return false,
                    },
                    Err(error) => {
                        tracing::warn!(event_id = %event.id, error = display_chain(&error), "a delivery is not recorded yet");
                    }
                }
                sleep(RECORD_PAUSE).await;
            }
        };
        if let Ok(has_surplus_body) = timeout_at(deadline - RECORD_TIME, write).await {
            // Before the message is deleted: after a crash it comes again, and this is made up for.
            if has_surplus_body {
                self.delete_body(event).await;
            }
            return Disposition::Delete;
        }
        if self.schedule.is_last(record.receive_count) {
            // Kept, it would be a dead letter, and a replay would deliver it again.
            tracing::error!(event_id = %event.id, "delivered for the last time, and not recorded");
            return Disposition::Delete;
        }
        tracing::error!(event_id = %event.id, "delivered, and not recorded: the target will get it again");
        Disposition::RetryAt(deadline + LEASE_PAST_DEADLINE)
    }

    async fn record_failure(
        &self,
        record: &ReceivedMessage,
        event: &Event,
        claim: &Claim,
        attempt: Attempt,
        failure: &Failure,
        deadline: Instant,
    ) -> Disposition {
        let number = Some(claim.attempt());
        match retry_decision(failure.cause, failure.retry_after.is_some() || claim.has_unanswered_attempt()) {
            RetryDecision::Permanent => {
                let reason = self.reason(ReasonKind::Permanent, failure, number);
                let context = Context::of(event, Some(self.target.address()));
                let step = claim.dead(attempt, reason.clone().into(), Some(&record.message_id), context);
                let otherwise = self.again(record, claim.attempts_since_claim(), None);
                self.keep_body(event).await;
                match self.write(event, &step, otherwise, deadline).await {
                    None => {
                        metrics::DEAD.add(reason.reason, 1);
                        self.send_to_dead_letters(record, Some(event), &reason).await
                    }
                    Some(settlement) => settlement,
                }
            }
            RetryDecision::Retry if self.schedule.is_last(record.receive_count) => {
                let reason = self.reason(ReasonKind::Exhausted, failure, number);
                let context = Context::of(event, Some(self.target.address()));
                // SQS moves a message as it is: where that does not say who its event is, we send one that does.
                let is_named = record.message.event_id() == Some(event.id.as_str());
                let to_move = (!is_named).then_some(&*record.message_id);
                let step = claim.dead(attempt, reason.clone().into(), to_move, context);
                let redrive = Disposition::RetryAt(Instant::now());
                self.keep_body(event).await;
                let written = self.write(event, &step, redrive, deadline).await;
                if written == Some(Disposition::Delete) {
                    return Disposition::Delete;
                }
                let settlement =
                    if is_named { redrive } else { self.send_to_dead_letters(record, Some(event), &reason).await };
                // What is neither recorded nor sent with its reason is counted by the sweep.
                if written.is_none() || settlement == Disposition::Delete {
                    metrics::DEAD.add(reason.reason, 1);
                }
                settlement
            }
            RetryDecision::Retry => {
                let delay = self.delay(claim.attempts_since_claim(), failure.retry_after);
                let (now, at) = (self.clock.now(), Instant::now() + delay);
                let step = claim.retrying(attempt, now + delay, now);
                self.write(event, &step, Disposition::RetryAt(at), deadline).await.unwrap_or(Disposition::RetryAt(at))
            }
        }
    }

    /// Keeps the body of an event that dies.
    async fn keep_body(&self, event: &Event) {
        match self.table.keep_body(&event.id, &event.body, self.clock.now()).await {
            Ok(true) => {}
            Ok(false) => tracing::info!(event_id = %event.id, "the body is too large to be kept beside its record"),
            // The message itself has it: that is no reason to hold the event up.
            Err(error) => tracing::warn!(event_id = %event.id, error = display_chain(&error), "the body is not kept"),
        }
    }

    /// Deletes the kept body of an event that is at its end. What is left expires.
    async fn delete_body(&self, event: &Event) {
        if let Err(error) = self.table.delete_body(&event.id).await {
            tracing::warn!(event_id = %event.id, error = display_chain(&error), "failed to delete the kept body; it expires");
        }
    }

    /// Writes a step. `None` stands for success; else it says what to do, `otherwise` while somebody else is at the event.
    async fn write(
        &self,
        event: &Event,
        step: &Transition,
        otherwise: Disposition,
        deadline: Instant,
    ) -> Option<Disposition> {
        match self.table.write(step).await {
            Ok(Written::Done) => None,
            Ok(Written::Lost(Some(instead))) if matches!(instead.state, State::Delivered | State::Discarded(_)) => {
                tracing::info!(event_id = %event.id, state = %instead.state.name(), "somebody else was faster");
                // Kept a moment ago, for a death that was none.
                if step.next().context.is_some() {
                    self.delete_body(event).await;
                }
                Some(Disposition::Delete)
            }
            Ok(Written::Lost(_)) => {
                tracing::warn!(event_id = %event.id, "the lease ran out, and somebody else is at the event");
                Some(otherwise)
            }
            Err(error) => {
                tracing::error!(event_id = %event.id, error = display_chain(&error), "how the attempt went is not recorded");
                let lease = deadline + LEASE_PAST_DEADLINE;
                let Disposition::RetryAt(at) = otherwise else { return Some(otherwise) };
                Some(Disposition::RetryAt(at.max(lease)))
            }
        }
    }

    fn reason(&self, kind: ReasonKind, failure: &Failure, attempt: Option<u32>) -> Reason {
        Reason {
            reason: kind,
            detail: excerpt(&failure.detail),
            status_code: failure.cause.status(),
            response: failure.response.as_deref().map(excerpt),
            attempt,
            at: self.clock.now(),
            resent_at: None,
        }
    }

    /// Sends the message to the dead-letter queue with its reason. Only then may SQS delete it here.
    async fn send_to_dead_letters(
        &self,
        record: &ReceivedMessage,
        event: Option<&Event>,
        reason: &Reason,
    ) -> Disposition {
        let message = record.message.clone().with_identity(record.stamp()).with_reason(reason);
        let message = event.into_iter().fold(message, |message, event| message.named(&event.id));
        match self.dead_letters.send(&message).await {
            Ok(()) => Disposition::Delete,
            Err(error) => {
                tracing::error!(
                    event_id = record.message.event_id(),
                    message_id = record.message_id,
                    error = display_chain(&error),
                    "the dead-letter queue did not take the event; it stays in the events queue"
                );
                self.again(record, record.receive_count, None)
            }
        }
    }
}

/// Says that an event was delivered or discarded before.
fn note_duplicate(record: &ReceivedMessage, event: &Event, finished: &Finished) {
    let (event_id, message_id, state) = (&event.id, &record.message_id, finished.state);
    metrics::DUPLICATES.add(event.source, 1);
    // Copies of one message have one time of receipt: so much later it was sent anew.
    let later = event.received_at.duration_since(finished.received_at);
    if later > LATE_DUPLICATE {
        tracing::warn!(
            %event_id, message_id, %state, source = %event.source, first_received_at = %finished.received_at,
            "duplicate, sent more than an hour after the first: the sender's key or time may be the same on every event"
        );
    } else {
        tracing::info!(%event_id, message_id, %state, "duplicate");
    }
}

/// How the target answered, if it was asked at all.
fn measure(outcome: &Outcome, took: Duration) {
    let status = match outcome {
        Outcome::Delivered { status } => *status,
        Outcome::Failed(Failure { cause: Cause::NotSent | Cause::Refused, .. }) => return,
        Outcome::Failed(Failure { cause, .. }) => cause.status(),
    };
    metrics::TARGET_TIME.time(took);
    metrics::TARGET_ANSWERS.add(Class::of(status), 1);
}
