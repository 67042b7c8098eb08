//! Errors of a slice.

use jiff::civil::Date;

use crate::ports::archive::ArchiveError;
use crate::ports::delivery_log::DeliveryLogError;
use crate::ports::service::ServiceError;

/// Cause of a slice that failed. What was counted before it is saved.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// A statement of another day is in progress.
    #[error(
        "the statement of {0} is in progress; repeat {{\"action\":\"statement\"}} until it is written, then ask again"
    )]
    InProgress(Date),
    /// Another run has saved its progress meanwhile.
    #[error("another run has continued the statement; this one has saved nothing")]
    Overtaken,
    /// The day lies outside of the calendar.
    #[error("{0} is no day that can be stated")]
    NoDay(Date),
    /// The bucket has as many statements of the day as it may have.
    #[error("the bucket has 99 objects of {0} already; none of them follows the newest statement")]
    TooMany(Date),
    /// Genesys's book could not be read.
    #[error("failed to read the messages of Genesys Cloud")]
    Genesys(#[from] DeliveryLogError),
    /// The bucket failed.
    #[error("failed to read or write a statement")]
    Archive(#[from] ArchiveError),
    /// The saved progress cannot be read or written.
    #[error("the progress in the table's item #statement cannot be read or written")]
    State(#[from] serde_json::Error),
    /// The table failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl StatementError {
    /// The type of the error in the answer of the function.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InProgress(_) | Self::Overtaken => "Busy",
            Self::NoDay(_) => "InvalidRequest",
            Self::TooMany(_) | Self::Archive(_) => "ArchiveError",
            Self::Genesys(error) => error.kind(),
            Self::State(_) => "TableError",
            Self::Service(error) => error.kind(),
        }
    }
}
