//! What a run over the dead letters did, as the operator reads it.

use serde::Serialize;

use super::list::DeadLetter;
use crate::domain::event::EventId;
use crate::ports::queue::MoveTask;
use crate::runtime::metrics;

/// Dead letters, and failures, that an answer lists one by one.
const MAX_LISTED: usize = 100;

/// What a run did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Dead letters that the request asks for, as far as the run looked.
    pub matched: u64,
    /// What was done with them.
    #[serde(flatten)]
    pub done: Done,
    /// Dead letters that were looked at and left.
    pub skipped: u64,
    /// Dead letters that had no record, or a record that did not say so, and have one now.
    pub recorded: u64,
    /// Copies of delivered or discarded events that were removed.
    pub removed: u64,
    /// How many failures there were.
    pub failures: u64,
    /// What went wrong, the first hundred times.
    pub failed: Vec<Failed>,
    /// How many lie in the dead-letter queue now, approximately; nothing when that could not be asked.
    pub remaining: Option<u64>,
    /// Whether the run looked at all that was there when it began. If not, the request can be repeated.
    pub complete: bool,
    /// Whether this only counted.
    pub dry_run: bool,
    /// The move task, when SQS does the work.
    pub move_task: Option<MoveTask>,
    /// In a dry run of a filter, the ids of all that match: what to ask for to have these replayed, and no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event_ids: Vec<EventId>,
    /// In a dry run, the first hundred that match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<DeadLetter>,
}

/// What a run was for, and how often it succeeded.
#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Done {
    /// To bring dead letters back.
    Replay {
        /// How many are in the events queue again.
        replayed: u64,
    },
    /// To archive dead letters.
    Archive {
        /// How many are in the archive, and no longer in the queue.
        archived: u64,
        /// The objects that hold them.
        keys: Vec<String>,
    },
    /// To bring an archived object back.
    Restore {
        /// How many are dead letters again.
        restored: u64,
    },
    /// To drop dead letters.
    Discard {
        /// How many are gone.
        discarded: u64,
    },
    /// To make the records say what lies in the dead-letter queue.
    Reconcile {
        /// Dead events whose message is not there, and that lists show no longer.
        unlisted: u64,
    },
}

impl Done {
    /// One more.
    pub(super) fn count(&mut self) {
        let (count, metric) = match self {
            Self::Replay { replayed } => (replayed, Some(metrics::REPLAYED)),
            Self::Archive { archived, .. } => (archived, Some(metrics::ARCHIVED)),
            Self::Restore { restored } => (restored, Some(metrics::RESTORED)),
            Self::Discard { discarded } => (discarded, Some(metrics::DISCARDED)),
            Self::Reconcile { unlisted } => (unlisted, None),
        };
        *count += 1;
        if let Some(metric) = metric {
            metric.add(1);
        }
    }
}

/// Something that was asked for and not done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// The event, unless it is all of them.
    pub event_id: Option<String>,
    /// What became of an event whose message was not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Missing>,
    /// What went wrong.
    pub error: String,
}

/// Why a message was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Nobody knows the event.
    Unknown,
    /// It is hidden for a while, or is on its way here or back.
    Pending,
    /// It is not dead: it is being delivered or waits for its next attempt.
    Alive,
    /// The target has it.
    Delivered,
    /// The archive has it.
    Archived,
    /// Somebody discarded it.
    Discarded,
    /// It lay here for too long, and SQS has deleted it.
    Expired,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new(done: Done) -> Self {
        Self {
            matched: 0,
            done,
            skipped: 0,
            recorded: 0,
            removed: 0,
            failures: 0,
            failed: Vec::new(),
            remaining: None,
            complete: false,
            dry_run: false,
            move_task: None,
            event_ids: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Counts a failure, and lists it while there is room.
    pub(super) fn fail(&mut self, event_id: Option<&str>, error: &str) {
        self.note(Failed { event_id: event_id.map(str::to_owned), state: None, error: error.to_owned() });
    }

    /// An event whose message was not there.
    pub(super) fn miss(&mut self, event_id: &str, state: Missing, error: String) {
        self.note(Failed { event_id: Some(event_id.to_owned()), state: Some(state), error });
    }

    fn note(&mut self, failed: Failed) {
        self.failures += 1;
        if self.failed.len() < MAX_LISTED {
            self.failed.push(failed);
        }
    }

    /// Lists a dead letter while there is room.
    pub(super) fn list(&mut self, letter: DeadLetter) {
        if self.items.len() < MAX_LISTED {
            self.items.push(letter);
        }
    }
}
