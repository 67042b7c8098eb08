//! Delays before a message that was not delivered can be received again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::event::Event;
use crate::domain::retry::Schedule;
use crate::ports::queue::ReceivedMessage;
use crate::ports::target::DeliveryFailure;

/// A whole conversation waits for a message that cannot be processed, whose receives say little: the
/// delay grows to that of this attempt.
pub(super) const LONGEST_ORDERED_RETRY: u32 = 5;

/// Instruction to SQS about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Delete it: its event was delivered, or is durable in the dead-letter queue.
    Delete,
    /// Make it visible again at this time.
    RetryAt(Instant),
    /// Put a new message in its place, to be received from this time on: its receives do not count.
    /// It goes to the standard queue, so that an event of the ordered queue leaves the line.
    RenewAt(Instant),
}

/// A retry schedule with the randomness that spreads retries: events that failed together do not
/// come back together.
pub struct Backoff {
    schedule: Schedule,
    rng: Mutex<fastrand::Rng>,
}

impl From<Schedule> for Backoff {
    fn from(schedule: Schedule) -> Self {
        Self {
            schedule,
            rng: Mutex::default(),
        }
    }
}

impl Backoff {
    /// A backoff with a generator of its own, for runs that can be repeated.
    pub fn with_rng(schedule: Schedule, rng: fastrand::Rng) -> Self {
        Self {
            schedule,
            rng: Mutex::new(rng),
        }
    }

    /// Returns whether this number of attempts, or of receives, is the last one allowed.
    pub(super) fn is_last(&self, number: u32) -> bool {
        self.schedule.is_last(number)
    }

    /// Returns whether SQS moves the message to the dead letters unless it is deleted. In the ordered
    /// queue it does not: those behind a failing message use up receives without an attempt.
    pub(super) fn is_last_receive(&self, received: &ReceivedMessage) -> bool {
        !received.is_ordered && self.is_last(received.receive_count)
    }

    /// Draws the delay after attempt number `attempt`.
    pub(super) fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.schedule.delay(attempt, retry_after, &mut rng)
    }

    /// Retries after a drawn delay. A message at its last receive is visible at once, and SQS moves
    /// it to the dead letters.
    pub(super) fn retry(
        &self,
        received: &ReceivedMessage,
        attempt: u32,
        retry_after: Option<Duration>,
    ) -> Disposition {
        let attempt = if received.is_ordered {
            attempt.min(LONGEST_ORDERED_RETRY)
        } else {
            attempt
        };
        self.retry_at(received, Instant::now() + self.delay(attempt, retry_after))
    }

    /// Retries at this time. A message at its last receive is visible at once, and SQS moves it to
    /// the dead letters.
    pub(super) fn retry_at(&self, received: &ReceivedMessage, at: Instant) -> Disposition {
        Disposition::RetryAt(if self.is_last_receive(received) {
            Instant::now()
        } else {
            at
        })
    }

    /// Logs one line for a failed delivery, with what happens next.
    pub(super) fn log_failure(
        &self,
        received: &ReceivedMessage,
        event: Option<&Event>,
        failure: &DeliveryFailure,
        disposition: Disposition,
    ) {
        let (next, delay) = match disposition {
            Disposition::Delete => ("dead letter", None),
            Disposition::RetryAt(_) if self.is_last_receive(received) => ("redrive", None),
            Disposition::RetryAt(at) | Disposition::RenewAt(at) => {
                ("retry", Some(at.saturating_duration_since(Instant::now())))
            }
        };
        tracing::warn!(
            event_id = event
                .map(|event| event.id.as_str())
                .or_else(|| received.message.event_id()),
            source = event.map(|event| event.source.as_str()),
            message_id = received.message_id,
            attempt = received.receive_count,
            status = failure.cause.status(),
            error = failure.detail,
            next,
            delay_ms = delay.map(millis),
            "delivery failed"
        );
    }
}

/// The whole milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
