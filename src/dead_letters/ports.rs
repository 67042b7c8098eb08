//! Ports of the dead letters, by name.

use super::api::OrderMode;
use crate::domain::event_record::BulkReplay;
use crate::ports::archive::Archive;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::queue::{Countable, MoveTask, Receiver, Redrive, Sender};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

/// Adapters behind [`Ports`].
pub trait PortTypes {
    type Events: Sender + Countable;
    type DeadLetters: Sender + Receiver + Countable;
    type Redrive: Redrive;
    type Table: EventsTable;
    type Archive: Archive;
    type Clock: Clock;
}

/// Queues of the order per conversation.
pub struct OrderedQueues<Q> {
    pub mode: OrderMode,
    /// Queue that keeps the order.
    pub queue: Q,
    /// Queue to which SQS itself moves what it has handed out too often. A run brings its messages
    /// into the dead-letter queue.
    pub dead_letters: Q,
}

/// Queues, table and archive that the use case acts on.
pub struct Ports<T: PortTypes> {
    /// Queue that replayed events go to.
    pub events: T::Events,
    /// Queues of the order per conversation, where the stack keeps it.
    pub ordered: Option<OrderedQueues<T::DeadLetters>>,
    /// Queue of the dead letters.
    pub dead_letters: T::DeadLetters,
    /// Queue of delivered events that wait for the journal, where the stack keeps one.
    pub journal: Option<T::DeadLetters>,
    /// Move task of SQS from the dead-letter queue to the events queue.
    pub redrive: T::Redrive,
    /// Records of the events.
    pub table: T::Table,
    /// Store of old dead letters.
    pub archive: T::Archive,
    /// Time at which a run begins.
    pub clock: T::Clock,
}

impl<T: PortTypes> Ports<T> {
    /// Reads the newest bulk replay, which stands for a mark on each record that was dead when it
    /// began.
    ///
    /// It is saved before its move task starts, and a run can end in between. So one whose move
    /// task has not started is none; while SQS cannot be asked, it counts as started.
    pub(super) async fn bulk_replay(&self) -> Result<Option<BulkReplay>, ServiceError> {
        let Some(bulk) = self.table.bulk_replay().await? else {
            return Ok(None);
        };
        match self.redrive.latest_move().await {
            Ok(task) => Ok(started(bulk, task.as_ref())),
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to check whether the move task of the bulk replay has started"
                );
                Ok(Some(bulk))
            }
        }
    }

    /// Counts the messages that are not in the dead-letter queue, and may be or become dead letters.
    pub(super) async fn outside(&self) -> Result<u64, ServiceError> {
        let mut outside = self.events.depth().await?.total();
        if let Some(ordered) = &self.ordered {
            outside += ordered.queue.depth().await?.total();
            outside += ordered.dead_letters.depth().await?.total();
        }
        Ok(outside)
    }

    /// Counts what is left in the dead-letter queue after a run. A count that fails does not undo
    /// the run.
    pub(super) async fn remaining(&self) -> Option<u64> {
        match self.dead_letters.depth().await {
            Ok(depth) => Some(depth.total()),
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to count the remaining dead letters"
                );
                None
            }
        }
    }
}

/// Returns a bulk replay whose move task has started, where `newest` is the newest move task.
pub(super) fn started(bulk: BulkReplay, newest: Option<&MoveTask>) -> Option<BulkReplay> {
    newest
        .is_some_and(|task| task.may_have_started_since(bulk.act.at))
        .then_some(bulk)
}
