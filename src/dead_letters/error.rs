//! Reasons for which a request is not carried out.

use crate::domain::erasure::TooManyErasures;
use crate::domain::event::EventId;
use crate::ports::archive::ArchiveError;
use crate::ports::events_table::RunLease;
use crate::ports::service::ServiceError;

/// Reason for which a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A move task of SQS is running.
    #[error("a move task is running ({moved} moved); wait for it or cancel it first")]
    Moving {
        /// Messages moved so far.
        moved: u64,
    },
    /// Another run holds the lease that the request needs.
    #[error("{0}; try again later")]
    Busy(RunLease),
    /// The events table has no record of the event.
    #[error(
        "the event {0} has no record; SQS's own dead letters are listed within five minutes, and records live for 15 days \
         after their last change"
    )]
    Unknown(EventId),
    /// The events table has no record of the event, and the queues hold messages that may have
    /// none.
    #[error(
        "the event {0} has no record yet, and {1} messages in the queues may not be listed yet: it is one of them, or unknown. \
         Messages of the dead-letter queue are listed within five minutes, or at once by {{\"action\":\"reconcile\"}}"
    )]
    NotListed(EventId, u64),
    /// No background run has this name.
    #[error("no run is named {0:?}; a run is kept for 15 days")]
    UnknownRun(String),
    /// A background run of another request has this name.
    #[error("runId: {run_id:?} is the name of another run: {why}; choose another name")]
    NameTaken {
        /// Name of the run.
        run_id: String,
        /// Difference between the two.
        why: String,
    },
    /// The stack keeps no journal.
    #[error(
        "this stack keeps no journal of delivered events; set its parameter JournalDays to the days to keep it"
    )]
    NoJournal,
    /// The object to restore is one of the journal.
    #[error(
        "key: the object {0:?} is one of the journal, whose events were delivered; to send them once more, use the action \
         resend"
    )]
    Journalled(String),
    /// The stack keeps no index of conversations.
    #[error(
        "this stack keeps no index of conversations; set its parameter ConversationIndex to \"on\", or give eventIds"
    )]
    NoConversationIndex,
    /// More conversations are erased than can be remembered.
    #[error("{0}; repeat the request when the oldest of them is 15 days ago, or give eventIds")]
    TooManyErasures(#[from] TooManyErasures),
    /// A service failed before anything was done, as far as is known.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The archive failed before anything was done, as far as is known.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}
