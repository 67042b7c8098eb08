//! The end of the record of a check event, which leaves nothing behind.

use uuid::Uuid;

use crate::domain::event::{EventId, Source};
use crate::domain::event_record::{EventRecord, State, StateName};

/// A conditional delete of the record of a check event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgetting<'a> {
    pub(crate) event_id: &'a EventId,
    /// The record must still be this revision.
    pub(crate) revision: Uuid,
}

/// The reason for which a record is not forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unforgettable {
    /// The record is what keeps later copies of the event from the target.
    #[error("it is an event of the source {0}, and no check event")]
    NotCheck(Source),
    /// A message of it is in a queue, and would begin a new record.
    #[error("it is {0}, and neither DELIVERED nor DISCARDED")]
    NotFinished(StateName),
}

impl EventRecord {
    /// The delete of this record, if it is that of a check event whose way has ended.
    pub fn forget(&self) -> Result<Forgetting<'_>, Unforgettable> {
        if self.source != Source::Check {
            return Err(Unforgettable::NotCheck(self.source));
        }
        match self.state {
            State::Delivered | State::Discarded(_) => Ok(Forgetting {
                event_id: &self.event_id,
                revision: self.revision,
            }),
            State::Queued
            | State::InProgress(_)
            | State::Retrying { .. }
            | State::Dead(_)
            | State::Archived { .. }
            | State::Erased => Err(Unforgettable::NotFinished(self.state.name())),
        }
    }
}
