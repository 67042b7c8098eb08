//! Ports of the recovery, by name.

use crate::ports::clock::Clock;
use crate::ports::delivery_log::DeliveryLog;
use crate::ports::events_table::EventsTable;
use crate::ports::queue::Sender;

/// Adapters behind [`Ports`].
pub trait PortTypes {
    type Log: DeliveryLog;
    type Events: Sender;
    type DeadLetters: Sender;
    type Table: EventsTable;
    type Clock: Clock;
}

/// Log, queues and table that the use case needs.
pub struct Ports<T: PortTypes> {
    /// Failed deliveries.
    pub log: T::Log,
    /// Queue for missing events.
    pub events: T::Events,
    /// Queue for entries that are no events.
    pub dead_letters: T::DeadLetters,
    /// Records, the checkpoint and the lease.
    pub table: T::Table,
    /// Time at which a run begins.
    pub clock: T::Clock,
}
