//! The port to the customer's system. Implement it to deliver by other means than HTTP.
//!
//! `examples/own_target.rs` shows one.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::event::Event;
use crate::ports::pace::{Pace, Turn};

pub use crate::domain::failure::FailureCause;

/// A system that events are delivered to.
pub trait Target: Send + Sync + 'static {
    /// Delivers one event.
    ///
    /// The same event can come again, with the same [`Event::id`]: after a crash, a time-out whose
    /// answer was lost, or a replay. An implementation must return by [`Delivery::deadline`]; it is
    /// aborted soon after.
    fn deliver(&self, delivery: Delivery<'_>) -> impl Future<Output = Outcome> + Send;

    /// The address as the record of a dead event shows it. Must not hold a secret.
    fn address(&self) -> String;
}

/// One attempt to deliver one event.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The event to deliver.
    pub event: &'a Event,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The time by which the attempt must end.
    pub deadline: Instant,
    /// The place of the event in its conversation, where the relay keeps the order and this event
    /// does not come in its place.
    pub order: Option<OutOfOrder>,
    /// The run that sends the event once more, although the target has accepted it before.
    pub resend: Option<&'a str>,
    /// The bound on the rate of requests, if there is one. [`Delivery::turn`] waits for it.
    pub pace: Option<&'a Pace>,
}

/// The reason for which an event does not come in its place in the order of its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfOrder {
    /// It has lost its place, so that its conversation could go on, or never had one.
    Late,
    /// An operator brought it back from the dead letters.
    Replayed,
}

impl OutOfOrder {
    /// The name that the target reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Replayed => "replayed",
        }
    }
}

impl Delivery<'_> {
    /// Waits until a request may be sent. To be called right before each request, also before a
    /// second one for the same event. The turn, if there is a bound, is dropped when the request goes
    /// out.
    ///
    /// # Errors
    /// [`FailureCause::Postponed`] where that would be after the deadline: nothing may be sent then.
    pub async fn turn(&self) -> Result<Option<Turn<'_>>, DeliveryFailure> {
        let Some(pace) = self.pace else {
            return Ok(None);
        };
        let turn = pace.turn(self.deadline).await;
        turn.map(Some).ok_or_else(|| {
            DeliveryFailure::new(
                FailureCause::Postponed,
                "the bound on the target's rate left no room in this invocation",
            )
        })
    }
}

/// The outcome of a delivery. A refusal by the target is an outcome too, not an error of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target has the event.
    Delivered {
        /// The HTTP status, where there is one.
        status: Option<u16>,
    },
    /// The target does not have it, or it is unknown.
    Failed(DeliveryFailure),
}

/// A delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFailure {
    /// The cause, which decides whether it is retried.
    pub cause: FailureCause,
    /// A description for operators. Must not hold a secret.
    pub detail: String,
    /// The beginning of the target's answer.
    pub response: Option<String>,
    /// The delay that the target asked for.
    pub retry_after: Option<Duration>,
}

impl DeliveryFailure {
    /// A failure without an answer.
    pub fn new(cause: FailureCause, detail: impl Into<String>) -> Self {
        Self {
            cause,
            detail: detail.into(),
            response: None,
            retry_after: None,
        }
    }
}
