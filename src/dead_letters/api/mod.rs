//! Requests and answers that the function, the HTTP API and the console share.

mod answer;
mod report;
mod request;
mod status;

use serde::{Deserialize, Serialize};

use crate::ports::queue::MoveTask;
use crate::statement::Listing as Statements;

pub use self::answer::{AttemptDetails, Conversation, DeadLetter, EventDetails, List, Place};
pub use self::report::{Done, Failed, HourCount, Missing, Remaining, Report};
pub use self::request::{
    ArchiveRequest, CancelRequest, ConversationRequest, DEFAULT_AGE_DAYS, DiscardRequest,
    EraseRequest, Filter, ForgetRequest, JournalRequest, ListRequest, Listing, MAX_AGE_DAYS,
    MAX_MESSAGES, MAX_RATE, ReconcileRequest, ReplayRequest, Request, RequestBody, ResendFilter,
    ResendRequest, ResendSelection, RestoreRequest, Selection, ShowRequest, Start,
    StatementsRequest,
};
pub use self::status::{
    AttemptsOfMinute, BackgroundAnswer, BackgroundReport, BackgroundState, BackgroundStatus,
    BulkReplayStatus, CanaryStatus, OrderMode, OrderStatus, RunInProgress, Status, StatusAnswer,
    WaitingConversation, WaitingConversations,
};

pub(super) use self::answer::ARRIVES_WITHIN;
pub(super) use self::report::too_often;
pub(super) use self::request::{ConversationQuery, DEFAULT_MAX_MESSAGES, Delivered, Erased, Which};

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
    /// To `conversation`.
    Conversation(Conversation),
    /// To `erase`.
    Erase(Report),
    /// To `resend`.
    Resend(Report),
    /// To `journal`.
    Journal(Report),
    /// To `statements`.
    Statements(Statements),
    /// To `forget`.
    Forget(Report),
}

impl Answer {
    /// Returns whether nothing is left to do for the request.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Replay(report)
            | Self::Reconcile(report)
            | Self::Archive(report)
            | Self::Restore(report)
            | Self::Discard(report)
            | Self::Erase(report)
            | Self::Resend(report)
            | Self::Journal(report)
            | Self::Forget(report) => report.complete,
            Self::Status(_)
            | Self::List(_)
            | Self::Show(_)
            | Self::Cancel { .. }
            | Self::Conversation(_)
            | Self::Statements(_) => true,
        }
    }
}

impl From<BackgroundStatus> for Answer {
    fn from(background: BackgroundStatus) -> Self {
        Self::Status(StatusAnswer::Background(BackgroundAnswer {
            background: Box::new(background),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The console reads answers of older stacks, and of newer ones that have more fields.
    #[test]
    fn answers_may_lack_optional_fields_and_have_unknown_ones() {
        let at = "2026-01-15T12:00:00Z";
        let depth = json!({ "visible": 1, "inFlight": 0, "delayed": 0 });
        let attempts = json!([{ "minute": at, "delivered": 1, "failed": 2 }]);
        let report = json!({
            "action": "replay", "matched": 1, "replayed": 1, "recorded": 0, "removed": 0,
            "failures": 1, "failed": [{ "error": "a test" }], "complete": true,
        });
        let event = json!({
            "action": "show", "eventId": "a", "state": "QUEUED", "source": "webhook",
            "receivedAt": at, "firstSeenAt": at, "lastSeenAt": at, "expiresAt": at, "replays": 0,
            "attemptsMade": 1, "attempts": [{ "at": at }], "history": [], "headers": {},
        });
        let letter = json!({
            "eventId": "a", "source": "webhook", "reason": "permanent", "error": "a test",
            "receivedAt": at, "deadAt": at, "attempts": 1, "replays": 0,
        });
        let breaker = json!({
            "state": "open", "since": at, "why": "a test", "forced": false, "probes": 1,
            "lastProbe": { "at": at, "delivered": false }, "lastRunAt": at,
        });
        let run = json!({
            "runId": "a", "action": "replay", "by": "a test", "state": "running", "askedAt": at,
            "report": report,
        });
        for mut answer in [
            json!({ "action": "status", "queue": depth, "deadLetters": depth, "attempts": attempts,
                "breaker": breaker, "bulkReplay": { "at": at, "by": "a test" } }),
            json!({ "action": "status", "background": run }),
            json!({ "action": "list", "items": [letter] }),
            event,
            report,
        ] {
            answer["ofLaterVersion"] = true.into();
            let read: Result<Answer, _> = serde_json::from_value(answer.clone());
            assert!(read.is_ok(), "{read:?}: {answer}");
        }
    }
}
