//! Requests and answers that the function, the HTTP API and the console share.

mod answer;
mod report;
mod request;
mod status;

use serde::{Deserialize, Serialize};

use crate::ports::queue::MoveTask;

pub use self::answer::{AttemptDetails, DeadLetter, EventDetails, List};
pub use self::report::{Done, Failed, Missing, Report};
pub use self::request::{
    ArchiveRequest, CancelRequest, DiscardRequest, Filter, ListRequest, Listing, ReconcileRequest,
    ReplayRequest, Request, RequestBody, RestoreRequest, Selection, ShowRequest, Start,
};
pub use self::status::{
    AttemptsOfMinute, BackgroundReport, BackgroundState, BackgroundStatus, BulkReplayStatus,
    RunInProgress, Status, StatusAnswer,
};

pub(super) use self::answer::ARRIVES_WITHIN;
pub(super) use self::report::too_often;
pub(super) use self::request::{DEFAULT_MAX_MESSAGES, Which};

/// Answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Answer {
    /// To `status`, and to a request that starts a background run.
    Status(StatusAnswer),
    /// To `list`.
    List(List),
    /// To `show`.
    Show(Box<EventDetails>),
    /// To `replay`.
    Replay(Report),
    /// To `cancel`.
    #[serde(rename_all = "camelCase")]
    Cancel {
        /// True if a move task was running.
        cancelled: bool,
        /// Newest move task.
        move_task: Option<MoveTask>,
    },
    /// To `reconcile`.
    Reconcile(Report),
    /// To `archive`.
    Archive(Report),
    /// To `restore`.
    Restore(Report),
    /// To `discard`.
    Discard(Report),
}

impl From<BackgroundStatus> for Answer {
    fn from(background: BackgroundStatus) -> Self {
        Self::Status(StatusAnswer::Background {
            background: Box::new(background),
        })
    }
}
