//! Holds events back while the target is down: it disables the event source mappings, so events
//! stay queued, attempts one event from time to time, and enables the mappings again once the
//! target has accepted one.
//!
//! An event that waits in a queue uses up no receive and no attempt. The breaker owns two settings
//! of each event source mapping, `Enabled` and `MaximumConcurrency`, and sets both every minute.
//! The rules are in [`crate::domain::circuit`]; [`watchdog`] acts where the breaker itself has
//! stopped.

mod ports;
mod request;
mod run;
mod status;
#[cfg(test)]
mod tests;
pub mod watchdog;

pub use self::ports::{PortTypes, Ports};
pub use self::request::Request;
pub use self::run::{Breaker, BreakerError};
pub use self::status::{BreakerStatus, ProbeStatus};
