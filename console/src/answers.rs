//! Answers of the functions, as far as the pages show them.

use std::collections::BTreeMap;

use genesys_relay::domain::event_record::OperatorAction;
use genesys_relay::domain::queue_depth::QueueDepth;
use genesys_relay::ports::queue::MoveTask;
use jiff::Timestamp;
use serde::Deserialize;

/// Answer to `status`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) queue: QueueDepth,
    pub(crate) dead_letters: QueueDepth,
    pub(crate) queue_age_seconds: Option<u64>,
    pub(crate) dead_letters_age_seconds: Option<u64>,
    pub(crate) move_task: Option<MoveTask>,
    pub(crate) bulk_replay: Option<BulkReplay>,
    pub(crate) run: Option<CurrentRun>,
    pub(crate) breaker: Option<Breaker>,
    /// Why that cannot be read.
    pub(crate) breaker_error: Option<String>,
    pub(crate) attempts: Vec<Attempts>,
}

/// The operator who started the SQS redrive.
#[derive(Debug, Deserialize)]
pub(crate) struct BulkReplay {
    pub(crate) at: Timestamp,
    pub(crate) by: String,
    pub(crate) why: Option<String>,
}

/// The run that takes from the dead-letter queue, whether of this console or not.
#[derive(Debug, Deserialize)]
pub(crate) struct CurrentRun {
    pub(crate) action: String,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
}

/// State of the breaker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Breaker {
    pub(crate) state: String,
    pub(crate) since: Timestamp,
    pub(crate) why: String,
    pub(crate) by: Option<String>,
    pub(crate) forced: bool,
    pub(crate) probes: u32,
    pub(crate) last_probe: Option<Probe>,
    pub(crate) last_run_at: Timestamp,
}

/// An event that was sent to test whether the target is available.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    pub(crate) at: Timestamp,
    pub(crate) delivered: bool,
    pub(crate) error: Option<String>,
}

/// Counts of the attempts in a minute.
#[derive(Debug, Deserialize)]
pub(crate) struct Attempts {
    pub(crate) minute: Timestamp,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
}

impl Attempts {
    pub(crate) fn total(&self) -> u64 {
        self.delivered + self.failed
    }
}

/// Answer to `list`.
#[derive(Debug, Deserialize)]
pub(crate) struct List {
    pub(crate) items: Vec<DeadLetter>,
    pub(crate) next: Option<String>,
}

/// A dead letter in a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetter {
    pub(crate) event_id: String,
    pub(crate) source: String,
    pub(crate) webhook_id: Option<String>,
    pub(crate) reason: String,
    pub(crate) error: String,
    pub(crate) status_code: Option<u16>,
    pub(crate) received_at: Timestamp,
    pub(crate) dead_at: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) replays: u32,
    pub(crate) replayed_at: Option<Timestamp>,
}

/// Answer to `show`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    #[serde(rename = "eventId")]
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) source: String,
    pub(crate) webhook_id: Option<String>,
    pub(crate) webhook_name: Option<String>,
    pub(crate) conversation_id: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) status_code: Option<u16>,
    pub(crate) dead_at: Option<Timestamp>,
    pub(crate) received_at: Timestamp,
    pub(crate) next_attempt_at: Option<Timestamp>,
    pub(crate) archived_to: Option<String>,
    pub(crate) replayed_at: Option<Timestamp>,
    pub(crate) attempts_made: u32,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) replays: u32,
    pub(crate) history: Vec<OperatorAction>,
    pub(crate) content_type: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Option<String>,
    pub(crate) body_base64: Option<String>,
    pub(crate) expires_at: Timestamp,
}

/// One attempt to deliver an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    pub(crate) at: Timestamp,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) status_code: Option<u16>,
    pub(crate) error: Option<String>,
    pub(crate) response: Option<String>,
}

/// Answer to actions that take from the dead-letter queue, and to dry runs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) matched: u64,
    /// The count of the action, under the action's own name.
    #[serde(
        alias = "replayed",
        alias = "archived",
        alias = "restored",
        alias = "discarded",
        alias = "unlisted"
    )]
    #[serde(default)]
    pub(crate) done: u64,
    pub(crate) recorded: u64,
    pub(crate) removed: u64,
    pub(crate) failures: u64,
    pub(crate) failed: Vec<Failed>,
    pub(crate) remaining: Option<u64>,
    pub(crate) complete: bool,
    pub(crate) move_task: Option<MoveTask>,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
    #[serde(default)]
    pub(crate) items: Vec<DeadLetter>,
    /// In a dry run of a filter, the ids of all that match.
    #[serde(default)]
    pub(crate) event_ids: Vec<String>,
}

/// Answer to a request that starts a background run, and to `status` of one.
#[derive(Debug, Deserialize)]
pub(crate) struct BackgroundAnswer {
    pub(crate) background: Background,
}

/// A background run.
#[derive(Debug, Deserialize)]
pub(crate) struct Background {
    pub(crate) state: BackgroundState,
    pub(crate) report: Option<Report>,
    pub(crate) error: Option<String>,
}

/// State of a background run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackgroundState {
    Waiting,
    Running,
    Ended,
    Failed,
    Unfinished,
}

/// A failure of a run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failed {
    pub(crate) event_id: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) error: String,
}
