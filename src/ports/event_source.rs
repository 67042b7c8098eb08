//! The event source mapping that hands the events of the queue to the processor, and the processor that probes.

use std::error::Error as StdError;
use std::future::Future;

use jiff::Timestamp;

use crate::domain::circuit::{Probed, Settings};

/// Why the event source mapping could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum EventSourceError {
    /// Lambda did not answer, throttled, failed, or is at the last change still: the same call may succeed later.
    #[error("the event source mapping is unavailable")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// Lambda refused the call: the same call fails again until somebody changes something.
    #[error("Lambda refused to read or change the event source mapping")]
    Refused(#[source] Box<dyn StdError + Send + Sync>),
}

/// What hands the events of the queue to the processor.
pub trait EventSource: Send + Sync + 'static {
    /// How it is set; `None` while a change is under way.
    fn settings(&self) -> impl Future<Output = Result<Option<Settings>, EventSourceError>> + Send;

    /// Sets it. That takes effect some seconds later.
    fn set(&self, settings: Settings) -> impl Future<Output = Result<(), EventSourceError>> + Send;
}

/// What lets one event through.
pub trait Prober: Send + Sync + 'static {
    /// Lets one event of the queue through to the target, if one is due. The target last took an event at `delivered_at`.
    fn probe(
        &self,
        delivered_at: Option<Timestamp>,
    ) -> impl Future<Output = Result<Probed, Box<dyn StdError + Send + Sync>>> + Send;
}
