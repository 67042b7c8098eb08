//! The use case and its ports.

use crate::deliver::attempt_counter::AttemptCounter;
use crate::deliver::backoff::Backoff;

/// The ports of a [`Processor`].
#[derive(Debug)]
pub struct Ports<E, D, W, T, C> {
    /// The queue that the messages come from.
    pub events: E,
    /// The queue for events that can never be delivered.
    pub dead_letters: D,
    /// Leases and delivery records.
    pub table: W,
    /// The system that events are delivered to.
    pub target: T,
    /// The source of the times in records.
    pub clock: C,
}

/// Delivers events and records each attempt.
pub struct Processor<E, D, W, T, C> {
    /// The queue that the messages come from.
    pub events: E,
    /// The queue for events that can never be delivered.
    pub dead_letters: D,
    /// Leases and delivery records.
    pub table: W,
    /// The system that events are delivered to.
    pub target: T,
    /// The source of the times in records.
    pub clock: C,
    pub(super) backoff: Backoff,
    pub(super) attempts: AttemptCounter,
}

impl<E, D, W, T, C> Processor<E, D, W, T, C> {
    /// A processor over these ports, which retries by this schedule.
    pub fn new(ports: Ports<E, D, W, T, C>, backoff: impl Into<Backoff>) -> Self {
        let Ports {
            events,
            dead_letters,
            table,
            target,
            clock,
        } = ports;
        Self {
            events,
            dead_letters,
            table,
            target,
            clock,
            backoff: backoff.into(),
            attempts: AttemptCounter::default(),
        }
    }
}
