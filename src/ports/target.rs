//! The port to the customer's system, for whoever wants to deliver by other means than HTTP.
//!
//! `examples/own_target.rs` puts a target of its own into a processor.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::event::Event;

/// Where events are delivered.
pub trait Target: Send + Sync + 'static {
    /// Delivers one event and says how it went.
    ///
    /// The same event can come again, with the same [`Event::id`]: after a crash, a time-out whose answer was lost, or
    /// a replay. An implementation must be done by [`Delivery::deadline`]; it is aborted soon after.
    fn deliver(&self, delivery: Delivery<'_>) -> impl Future<Output = Outcome> + Send;

    /// Where that is, as the record of a dead event names it. Never holds a secret.
    fn address(&self) -> String;
}

/// One attempt to deliver one event.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// What to deliver.
    pub event: &'a Event,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// When the attempt has to be over.
    pub deadline: Instant,
}

/// How a delivery went. A target that refused is an outcome like any other, not an error of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target has the event.
    Delivered {
        /// The HTTP status, where there is one.
        status: Option<u16>,
    },
    /// The target does not have it, or nobody knows.
    Failed(Failure),
}

/// Why a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure, which decides whether it is tried again.
    pub cause: Cause,
    /// What happened, for a person to read. Never holds a secret.
    pub detail: String,
    /// The beginning of what the target answered.
    pub response: Option<String>,
    /// How long the target asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without an answer.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), response: None, retry_after: None }
    }
}

/// The kinds of failures; [`crate::domain::retry::retry_decision`] says which are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An HTTP status that is not 2xx.
    Status(u16),
    /// No answer in time. The target may have the event all the same.
    TimedOut,
    /// No connection, or it broke.
    Connection,
    /// The relay was not able to send, for a reason of its own that may pass.
    NotSent,
    /// The target, or code in front of it, will never take this event.
    Refused,
}

impl Cause {
    /// The HTTP status, if the target answered with one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::TimedOut | Self::Connection | Self::NotSent | Self::Refused => None,
        }
    }
}
