//! Report of a run over the dead letters.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::DeadLetter;
use crate::domain::event::{EventId, Source};
use crate::domain::event_record::REPLAY_CEILING;
use crate::ports::queue::MoveTask;
use crate::runtime::metrics;

/// Dead letters, and failures, that an answer lists one by one.
const MAX_LISTED: usize = 100;

/// Report of a run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Dead letters that the request asks for, among those that the run has seen. Of a `resend`, all
    /// delivered events that it asks for, also beyond `maxMessages`.
    pub matched: u64,
    /// Action of the run, and how often it succeeded.
    #[serde(flatten)]
    pub done: Done,
    /// Dead letters that the run has seen and left alone. Of a `resend`, events that are delivered no
    /// more: `failed` says why.
    #[serde(default)]
    pub skipped: u64,
    /// Dead letters that had no record of their death, and have one now.
    pub recorded: u64,
    /// Copies of delivered or discarded events that were removed.
    pub removed: u64,
    /// Number of failures.
    pub failures: u64,
    /// The first hundred failures.
    pub failed: Vec<Failed>,
    /// Approximate number of messages left in the dead-letter queue; `None` where the count failed.
    /// Of a `resend`, the events that are still to be sent.
    pub remaining: Option<u64>,
    /// True if the run has seen every message that was there when it began. Otherwise the request
    /// can be repeated.
    pub complete: bool,
    /// True if the run only counted.
    #[serde(default)]
    pub dry_run: bool,
    /// True if an operator has ended the run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cancelled: bool,
    /// The move task, when SQS does the work.
    pub move_task: Option<MoveTask>,
    /// In a dry run of a filter, the ids of all that match: a replay of these ids replays these and
    /// no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_ids: Vec<EventId>,
    /// In a dry run, the first hundred that match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<DeadLetter>,
    /// In a dry run of a `resend`, the events by the hour of their delivery.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<HourCount>,
    /// Of a `resend`, approximate number of delivered events that wait for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_yet_journalled: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Number of events of one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourCount {
    /// Beginning of the hour.
    pub hour: Timestamp,
    pub events: u64,
}

/// Action of a run, and how often it succeeded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Done {
    /// Dead letters sent back.
    Replay {
        /// Events in the events queue again.
        replayed: u64,
    },
    /// Dead letters archived.
    Archive {
        /// Events in the archive, and no longer in the queue.
        archived: u64,
        /// Keys of the objects that hold them.
        keys: Vec<String>,
    },
    /// Archived object brought back.
    Restore {
        /// Events that are dead letters again.
        restored: u64,
    },
    /// Dead letters dropped.
    Discard {
        /// Events dropped.
        discarded: u64,
    },
    /// Delivered events sent once more.
    Resend {
        /// Events in the events queues again, or delivered since.
        resent: u64,
    },
    /// Delivered events written into the journal.
    Journal {
        /// Events in objects of the archive, and no longer in the journal's queue.
        journalled: u64,
    },
    /// Events erased.
    Erase {
        /// Events of which content was found and erased.
        erased: u64,
        /// Objects of the archive and of the journal that were written again without them.
        objects_rewritten: u64,
        /// Versions of objects that were deleted for good.
        versions_deleted: u64,
        /// Places that may still hold something of the events.
        remains: Vec<Remaining>,
    },
    /// Records made to agree with the dead-letter queue.
    Reconcile {
        /// Dead events without a message in the queue, no longer listed.
        unlisted: u64,
    },
    /// Records of check events deleted.
    Forget {
        /// Check events without a record now.
        forgotten: u64,
    },
}

/// Place that may still hold something of erased events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    pub place: String,
    /// Description of what it holds, for a person to read.
    pub what: String,
    /// Time at which it expires; `None` where the relay does not decide that.
    pub until: Option<Timestamp>,
}

impl Done {
    /// Returns how often the action succeeded.
    pub fn total(&self) -> u64 {
        match *self {
            Self::Replay { replayed: total }
            | Self::Archive {
                archived: total, ..
            }
            | Self::Restore { restored: total }
            | Self::Discard { discarded: total }
            | Self::Resend { resent: total }
            | Self::Journal { journalled: total }
            | Self::Erase { erased: total, .. }
            | Self::Reconcile { unlisted: total }
            | Self::Forget { forgotten: total } => total,
        }
    }

    /// Counts one success, also in its metric.
    pub(in crate::dead_letters) fn count(&mut self) {
        if let Some(metric) = self.note() {
            metric.add(1);
        }
    }

    /// Counts one success with an event of this source. No metric counts a check event.
    pub(in crate::dead_letters) fn count_of(&mut self, source: Source) {
        let metric = self.note();
        if let Some(metric) = metric.filter(|_| source != Source::Check) {
            metric.add(1);
        }
    }

    /// Counts one success, and returns its metric.
    fn note(&mut self) -> Option<metrics::Count> {
        let (count, metric) = match self {
            Self::Replay { replayed } => (replayed, Some(metrics::REPLAYED)),
            Self::Archive { archived, .. } => (archived, Some(metrics::ARCHIVED)),
            Self::Restore { restored } => (restored, Some(metrics::RESTORED)),
            Self::Discard { discarded } => (discarded, Some(metrics::DISCARDED)),
            Self::Resend { resent } => (resent, Some(metrics::RESENT)),
            Self::Journal { journalled } => (journalled, None),
            Self::Erase { erased, .. } => (erased, Some(metrics::ERASED)),
            Self::Reconcile { unlisted } => (unlisted, None),
            Self::Forget { forgotten } => (forgotten, None),
        };
        *count += 1;
        metric
    }
}

/// Failure of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// The event; `None` where the failure concerns the whole run.
    pub event_id: Option<String>,
    /// State of an event whose message was not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Missing>,
    /// Error, for a person to read.
    pub error: String,
}

/// State of an event whose message was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// The event has no record.
    Unknown,
    /// Its message is hidden for a while, or on its way to or from the dead-letter queue.
    Pending,
    /// It is not dead: it is being delivered or waits for its next attempt.
    Alive,
    /// It is a dead letter.
    Dead,
    /// The target has it.
    Delivered,
    /// The archive has it.
    Archived,
    /// An operator discarded it.
    Discarded,
    /// An operator erased it.
    Erased,
    /// Its message was in the queue for too long, and SQS deleted it.
    Expired,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

impl Report {
    pub(in crate::dead_letters) fn new(done: Done) -> Self {
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
            cancelled: false,
            move_task: None,
            event_ids: Vec::new(),
            items: Vec::new(),
            hours: Vec::new(),
            not_yet_journalled: None,
        }
    }

    /// Counts a failure, and lists it while there is room.
    pub(in crate::dead_letters) fn fail(&mut self, event_id: Option<&str>, error: &str) {
        self.note(Failed {
            event_id: event_id.map(str::to_owned),
            state: None,
            error: error.to_owned(),
        });
    }

    /// Counts an event whose message was not found, and lists it while there is room.
    pub(in crate::dead_letters) fn miss(&mut self, event_id: &str, state: Missing, error: String) {
        self.note(Failed {
            event_id: Some(event_id.to_owned()),
            state: Some(state),
            error,
        });
    }

    fn note(&mut self, failed: Failed) {
        self.failures += 1;
        if self.failed.len() < MAX_LISTED {
            self.failed.push(failed);
        }
    }

    /// Lists a dead letter while there is room.
    pub(in crate::dead_letters) fn list(&mut self, dead_letter: DeadLetter) {
        if self.items.len() < MAX_LISTED {
            self.items.push(dead_letter);
        }
    }
}

/// Refusal of a replay of an event that was replayed too often.
pub(in crate::dead_letters) fn too_often() -> String {
    format!(
        "it was replayed {REPLAY_CEILING} times already; to replay it all the same say \"force\": true"
    )
}
