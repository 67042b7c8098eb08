//! Ports of the statement, by name.

use crate::ports::archive::Archive;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::hourly_counts::HourlyCounts;
use crate::ports::queue::Countable;
use crate::ports::sent_messages::SentMessages;

/// Adapters behind [`Ports`].
pub trait PortTypes {
    type Sent: SentMessages;
    type Table: EventsTable;
    type Events: Countable;
    type Archive: Archive;
    type Counts: HourlyCounts;
    type Clock: Clock;
}

/// The books, and the places of the statements.
pub struct Ports<T: PortTypes> {
    /// Genesys's book.
    pub sent: T::Sent,
    /// The relay's book, the lease, and the progress of a statement.
    pub table: T::Table,
    /// Queues of events, which may hold some without a record.
    pub events: T::Events,
    /// Bucket of the statements.
    pub archive: T::Archive,
    /// AWS's counts.
    pub counts: T::Counts,
    pub clock: T::Clock,
}
