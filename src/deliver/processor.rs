//! The use case: its ports and its state between messages.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::deliver::attempt_counter::AttemptCounter;
use crate::deliver::backoff::Backoff;
use crate::deliver::erased::KnownErasures;
use crate::deliver::journal::Journal;
use crate::deliver::ports::{PortTypes, Ports};
use crate::ports::pace::Pace;

/// The way in which a stack keeps the order of conversations.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// The time for which a conversation waits for an event that fails, from its first failure on.
    pub patience: Duration,
    /// The time that one request to the target may take.
    pub request_time: Duration,
}

/// Delivers events and records each attempt.
pub struct Processor<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    pub(super) backoff: Backoff,
    pub(super) attempts: AttemptCounter,
    pub(super) journal: Journal,
    pub(super) erasures: KnownErasures,
    pub(super) pace: Option<Pace>,
    pub(super) order: Option<Order>,
    /// The time at which the target last accepted an event from this process.
    accepted_at: Mutex<Option<Timestamp>>,
}

impl<T: PortTypes> Processor<T> {
    /// A processor over these ports, which retries by this schedule.
    pub fn new(ports: Ports<T>, backoff: impl Into<Backoff>) -> Self {
        Self {
            ports,
            backoff: backoff.into(),
            attempts: AttemptCounter::default(),
            journal: Journal::default(),
            erasures: KnownErasures::default(),
            pace: None,
            order: None,
            accepted_at: Mutex::default(),
        }
    }

    /// A processor that keeps to a rate, if there is one.
    #[must_use]
    pub fn with_pace(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    /// A processor that keeps the order of conversations, if the stack does.
    #[must_use]
    pub fn with_order(self, order: Option<Order>) -> Self {
        Self { order, ..self }
    }

    pub(super) fn note_accepted(&self, at: Timestamp) {
        *self
            .accepted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    pub(super) fn accepted_at(&self) -> Option<Timestamp> {
        *self
            .accepted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
