//! Ports of the breaker, by name.

use crate::ports::clock::Clock;
use crate::ports::event_source::{EventSource, Prober};
use crate::ports::events_table::EventsTable;
use crate::ports::queue::Countable;

/// Adapters behind [`Ports`].
pub trait PortTypes {
    type Events: Countable;
    type Table: EventsTable;
    type EventSource: EventSource;
    type Prober: Prober;
    type Clock: Clock;
}

/// Queues, table, mappings and processor that the use case needs.
pub struct Ports<T: PortTypes> {
    /// Queue of the events.
    pub events: T::Events,
    /// Queue of the events that are in order, if there is one.
    pub ordered: Option<T::Events>,
    /// Counts of attempts, the breaker's state and the lease.
    pub table: T::Table,
    /// Mappings that hand events to the processor, one for each queue.
    pub event_sources: Vec<T::EventSource>,
    /// Processor, which attempts one event.
    pub prober: T::Prober,
    /// Time at which a run begins.
    pub clock: T::Clock,
}
