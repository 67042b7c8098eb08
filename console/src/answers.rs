//! What the functions answer, as far as the pages show it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

/// To `status`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) queue: Depth,
    pub(crate) dead_letters: Depth,
    pub(crate) queue_age_seconds: Option<u64>,
    pub(crate) dead_letters_age_seconds: Option<u64>,
    pub(crate) move_task: Option<MoveTask>,
    pub(crate) bulk_replay: Option<BulkReplay>,
    pub(crate) run: Option<OtherRun>,
    pub(crate) breaker: Option<Breaker>,
    /// Why that cannot be read.
    pub(crate) breaker_error: Option<String>,
    pub(crate) attempts: Vec<Attempts>,
}

/// How many messages a queue holds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Depth {
    pub(crate) visible: u64,
    pub(crate) in_flight: u64,
    pub(crate) delayed: u64,
}

impl Depth {
    pub(crate) fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// SQS's own way of moving everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MoveTask {
    pub(crate) status: String,
    pub(crate) moved: u64,
    pub(crate) to_move: Option<u64>,
    pub(crate) failure: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
}

impl MoveTask {
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.status.as_str(), "RUNNING" | "CANCELLING")
    }
}

/// Who has had SQS move everything.
#[derive(Debug, Deserialize)]
pub(crate) struct BulkReplay {
    pub(crate) at: Timestamp,
    pub(crate) by: String,
    pub(crate) why: Option<String>,
}

/// The run that takes from the dead-letter queue, of this console or of somebody else.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OtherRun {
    pub(crate) action: String,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
}

/// What the breaker is.
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

/// An event that was let through to see whether the target is back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    pub(crate) at: Timestamp,
    pub(crate) delivered: bool,
    pub(crate) error: Option<String>,
}

/// What became of the attempts of a minute.
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

/// To `list`.
#[derive(Debug, Deserialize)]
pub(crate) struct List {
    pub(crate) items: Vec<DeadLetter>,
    pub(crate) next: Option<String>,
}

/// One of a list.
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

/// To `show`.
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
    pub(crate) history: Vec<Act>,
    pub(crate) content_type: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Option<String>,
    pub(crate) body_base64: Option<String>,
    pub(crate) expires_at: Timestamp,
}

/// One attempt to deliver.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    pub(crate) at: Timestamp,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) status_code: Option<u16>,
    pub(crate) error: Option<String>,
    pub(crate) response: Option<String>,
}

/// What somebody did with an event.
#[derive(Debug, Deserialize)]
pub(crate) struct Act {
    pub(crate) action: String,
    pub(crate) at: Timestamp,
    pub(crate) by: String,
    pub(crate) why: Option<String>,
}

/// To whatever takes from the dead-letter queue, and to a dry run.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) matched: u64,
    /// How many were replayed, archived, restored, discarded or taken off the list: an answer has one of them.
    #[serde(alias = "replayed", alias = "archived", alias = "restored", alias = "discarded", alias = "unlisted")]
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
    /// In a dry run of a filter, all that match.
    #[serde(default)]
    pub(crate) event_ids: Vec<String>,
}

/// To what starts a run in the background, and to `status` of one.
#[derive(Debug, Deserialize)]
pub(crate) struct Followed {
    pub(crate) background: Background,
}

/// A run in the background.
#[derive(Debug, Deserialize)]
pub(crate) struct Background {
    pub(crate) state: BackgroundState,
    pub(crate) report: Option<Report>,
    pub(crate) error: Option<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackgroundState {
    Waiting,
    Running,
    Ended,
    Failed,
    Unfinished,
}

/// Something that was asked for and not done.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failed {
    pub(crate) event_id: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) error: String,
}
