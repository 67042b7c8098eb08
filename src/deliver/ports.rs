//! Ports of the deliveries, by name.

use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::queue::{Receiver, Sender};
use crate::ports::target::Target;

/// Adapters behind [`Ports`].
pub trait PortTypes: 'static {
    type Events: Sender + Receiver;
    type DeadLetters: Sender;
    type Table: EventsTable;
    type Target: Target;
    type Clock: Clock;
}

/// Queues, table and target that the use case needs.
pub struct Ports<T: PortTypes> {
    /// Queue that the messages come from, and to which events go that lose their place in the order.
    pub events: T::Events,
    /// Queue that keeps the order of conversations, if the stack has one.
    pub ordered: Option<T::Events>,
    /// Queue for events that can never be delivered.
    pub dead_letters: T::DeadLetters,
    /// Queue of delivered events, from which the journal is written, if the stack keeps one.
    pub journal: Option<T::DeadLetters>,
    /// Leases and delivery records.
    pub table: T::Table,
    /// System that events are delivered to.
    pub target: T::Target,
    /// Time in records.
    pub clock: T::Clock,
}
