//! Status of the relay, and of one background run.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::breaker;
use crate::domain::canary::CanaryRun;
use crate::domain::event::EventId;
use crate::domain::event_record::{BulkReplay, EventRecord, State};
use crate::domain::queue_depth::QueueDepth;
use crate::ports::events_table::RunLease;
use crate::ports::queue::MoveTask;

/// Answer to `status`, with a run id or without.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusAnswer {
    /// Status of one background run.
    Background(BackgroundAnswer),
    /// Status of the relay.
    Relay(Box<Status>),
}

/// Answer to `status` of a background run, and to the request that starts it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackgroundAnswer {
    /// The run.
    pub background: Box<BackgroundStatus>,
}

/// Queue depths, the current run, the breaker, and the attempts of the last minutes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Depth of the events queue.
    pub queue: QueueDepth,
    /// Depth of the dead-letter queue.
    pub dead_letters: QueueDepth,
    /// Age of the oldest message of the events queue in seconds, by CloudWatch; `None` where it is
    /// unknown.
    pub queue_age_seconds: Option<u64>,
    /// Age of the oldest dead letter in seconds, since the relay received it.
    pub dead_letters_age_seconds: Option<u64>,
    /// Newest move task.
    pub move_task: Option<MoveTask>,
    /// Newest replay of everything, if the relay has started one.
    pub bulk_replay: Option<BulkReplayStatus>,
    /// Run that holds the lease on the dead letters.
    pub run: Option<RunInProgress>,
    /// State of the breaker; `None` before its first check.
    pub breaker: Option<breaker::BreakerStatus>,
    /// Error of reading the breaker: a later version of the relay has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker_error: Option<String>,
    /// Upper bound on the requests a second to the target, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_rate_per_second: Option<u32>,
    /// Order of the conversations, where the stack keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderStatus>,
    /// Attempts of the last minutes, the newest first.
    pub attempts: Vec<AttemptsOfMinute>,
    /// The canary, where the stack has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
}

/// The canary and its newest runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Minutes between two runs.
    pub minutes: u32,
    /// Oldest first, fifty at most.
    pub runs: Vec<CanaryRun>,
}

/// Way in which the stack keeps the order of conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderMode {
    /// Events of a conversation go to the ordered queue.
    Conversation,
    /// Nothing goes to the ordered queue; what it holds is delivered in its order.
    Draining,
}

/// Order of the conversations: its queues, and the conversations that wait.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderStatus {
    pub mode: OrderMode,
    /// Depth of the ordered queue.
    pub queue: QueueDepth,
    /// Depth of its own dead-letter queue.
    pub dead_letters: QueueDepth,
    pub waiting: WaitingConversations,
}

/// Conversations that wait for one of their events.
#[derive(Debug, Serialize, Deserialize)]
pub struct WaitingConversations {
    /// Those that have waited longest, the longest wait first.
    pub items: Vec<WaitingConversation>,
    /// True if there are more.
    pub more: bool,
}

/// Conversation that waits, and the event that it waits for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingConversation {
    /// Group of the conversation in the queue.
    pub conversation: String,
    /// Event that failed and is retried in its place.
    pub event_id: EventId,
    /// End of its first attempt that failed.
    pub since: Timestamp,
    /// Attempts at it, since it was sent or replayed.
    pub attempts: u32,
    /// Time of its next attempt; `None` during one.
    pub next_attempt_at: Option<Timestamp>,
    /// Error of its last attempt.
    pub error: Option<String>,
}

impl WaitingConversation {
    /// Describes the conversation that waits for the event of a record, if one does.
    pub(in crate::dead_letters) fn of(record: EventRecord) -> Option<Self> {
        let waiting = record.waiting?;
        let next_attempt_at = match record.state {
            State::Retrying { next_attempt_at } => Some(next_attempt_at),
            _ => None,
        };
        Some(Self {
            conversation: waiting.conversation,
            event_id: record.event_id,
            since: waiting.since,
            attempts: record.attempts_since_claim,
            next_attempt_at,
            error: record
                .attempts
                .into_iter()
                .rev()
                .find_map(|attempt| attempt.error),
        })
    }
}

/// Newest replay of everything.
#[derive(Debug, Serialize, Deserialize)]
pub struct BulkReplayStatus {
    /// Time of the request.
    pub at: Timestamp,
    /// Name of the requester.
    pub by: String,
    /// Reason, if the requester gave one.
    pub why: Option<String>,
    /// True if it includes events that were replayed too often.
    #[serde(default)]
    pub force: bool,
}

impl From<BulkReplay> for BulkReplayStatus {
    fn from(BulkReplay { act, forced }: BulkReplay) -> Self {
        let force = forced.is_some_and(|forced| forced.at == act.at);
        Self {
            at: act.at,
            by: act.by,
            why: act.why,
            force,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptsOfMinute {
    /// Beginning of the minute.
    pub minute: Timestamp,
    /// Attempts that succeeded.
    pub delivered: u64,
    pub failed: u64,
    /// Failed attempts whose cause were the relay's own credentials.
    #[serde(default)]
    pub credentials_failed: u64,
}

impl AttemptsOfMinute {
    /// Returns the number of attempts.
    pub fn total(&self) -> u64 {
        self.delivered + self.failed
    }
}

/// Run that holds the lease on the dead letters.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInProgress {
    pub action: String,
    /// Name of the requester.
    pub by: String,
    /// Beginning of the run.
    pub since: Timestamp,
    /// End of the lease: other runs can begin then, even if this one never releases it.
    pub until: Timestamp,
}

impl From<RunLease> for RunInProgress {
    fn from(
        RunLease {
            action,
            by,
            since,
            until,
            owner: _,
        }: RunLease,
    ) -> Self {
        Self {
            action,
            by,
            since,
            until,
        }
    }
}

/// Background run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackgroundStatus {
    /// Name of the run.
    pub run_id: String,
    /// Action of the run.
    pub action: String,
    /// Name of the requester.
    pub by: String,
    /// Reason, if the requester gave one.
    pub why: Option<String>,
    /// State of the run.
    pub state: BackgroundState,
    /// Time of the request.
    pub asked_at: Timestamp,
    /// Beginning of the run.
    pub began_at: Option<Timestamp>,
    /// End of the run.
    pub ended_at: Option<Timestamp>,
    /// Report so far, or the whole report once the run has ended.
    pub report: Option<BackgroundReport>,
    /// Reason for which it did not begin, or failed.
    pub error: Option<String>,
}

/// Report of a background run.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackgroundReport {
    /// Action of the run, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The report itself.
    #[serde(flatten)]
    pub report: Report,
}

/// State of a background run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackgroundState {
    /// Lambda has not begun it yet, or another run holds the lease: `error` says which. Lambda
    /// begins it again.
    Waiting,
    Running,
    /// It has answered: `report`.
    Ended,
    /// It failed: `error`. Lambda begins it again if it failed soon after its start; the same
    /// request always does.
    Failed,
    /// It was cut off, or Lambda gave it up before it began. Lambda begins it again if that was
    /// soon after its start; the same request under the same name always does.
    Unfinished,
}
