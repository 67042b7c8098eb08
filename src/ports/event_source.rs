//! The ports to the event source mapping of the processor, and to the processor as a probe.

use std::error::Error as StdError;
use std::future::Future;

use jiff::Timestamp;

use crate::domain::circuit::{Probed, Settings};
use crate::ports::service::ServiceError;

/// An event source mapping from a queue of events to the processor.
pub trait EventSource: Send + Sync + 'static {
    /// Current settings; `None` during a change.
    fn settings(&self) -> impl Future<Output = Result<Option<Settings>, ServiceError>> + Send;

    /// Changes the settings, which takes effect some seconds later.
    fn set(&self, settings: Settings) -> impl Future<Output = Result<(), ServiceError>> + Send;
}

/// Sender of probes.
pub trait Prober: Send + Sync + 'static {
    /// Lets one event of the queue through to the target, if one is due. The target last took an
    /// event at `delivered_at`.
    fn probe(
        &self,
        delivered_at: Option<Timestamp>,
    ) -> impl Future<Output = Result<Probed, Box<dyn StdError + Send + Sync>>> + Send;
}
