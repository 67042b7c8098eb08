//! Errors of a run.

use jiff::Timestamp;

use super::report::Report;
use crate::ports::delivery_log::DeliveryLogError;
use crate::ports::events_table::RunLease;
use crate::ports::service::ServiceError;

/// A run that failed, and its report so far. All of that is durable; the next run begins at its
/// checkpoint.
#[derive(Debug, thiserror::Error)]
#[error(
    "the recovery failed after fetching {} entries: {} new, {} known, {} unreadable; it has read up to {}",
    .report.fetched, .report.new, .report.known, .report.unreadable, .report.to
)]
pub struct FailedRun {
    /// The cause.
    #[source]
    pub error: RecoverError,
    /// The work done before the failure.
    pub report: Box<Report>,
}

/// Cause of a failed run.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another run holds the lease.
    #[error("{0}; try again later")]
    Busy(RunLease),
    /// The range begins before the oldest record that the table still holds.
    #[error(
        "the run would begin at {from}, but records of events before {oldest} have expired (they live for 15 days), so \
         that events which were delivered would be delivered again; set \"force\": true to accept that"
    )]
    TooOld {
        /// Beginning of the run.
        from: Timestamp,
        /// Beginning of the time whose records are all kept.
        oldest: Timestamp,
    },
    /// The delivery log could not be read.
    #[error("failed to read failed deliveries from Genesys Cloud")]
    DeliveryLog(#[from] DeliveryLogError),
    /// Some entries could not be fetched; all others are queued.
    #[error(
        "could not fetch {count} entries from Genesys Cloud in this run; everything else is queued, and the checkpoint waits \
         for them (the first that is missing: {first})"
    )]
    Unavailable {
        /// Number of entries in this run. 0 where an earlier run met them.
        count: u64,
        /// Cause of the first.
        first: String,
    },
    /// A queue or the events table failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}
