//! Delivers the events of the queue: in batches, or one at a time to a target that may be down.
//!
//! The rooms, from below: `backoff` decides when a message comes back, `order` when an event leaves
//! the line of its conversation, `journal` keeps delivered events, `outcome` records the end of an
//! attempt, `erased` drops what was erased, `attempt` claims an event and asks the target once.
//! `batch` and `probe` are the two entries.

mod attempt;
mod attempt_counter;
mod backoff;
mod batch;
mod erased;
mod journal;
mod order;
mod outcome;
mod ports;
mod probe;
mod processor;
mod renew;
#[cfg(test)]
mod tests;
mod visibility;

pub use self::attempt::SETTLE_TIME;
pub use self::backoff::Backoff;
pub use self::ports::{PortTypes, Ports};
pub use self::processor::{Order, Processor};
