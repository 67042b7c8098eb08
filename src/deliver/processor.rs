//! The use case: its ports and its state between messages.

use crate::deliver::attempt_counter::AttemptCounter;
use crate::deliver::backoff::Backoff;
use crate::deliver::ports::{PortTypes, Ports};

/// Delivers events and records each attempt.
pub struct Processor<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    pub(super) backoff: Backoff,
    pub(super) attempts: AttemptCounter,
}

impl<T: PortTypes> Processor<T> {
    /// A processor over these ports, which retries by this schedule.
    pub fn new(ports: Ports<T>, backoff: impl Into<Backoff>) -> Self {
        Self {
            ports,
            backoff: backoff.into(),
            attempts: AttemptCounter::default(),
        }
    }
}
