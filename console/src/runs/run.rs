//! One run: its work, its requester and its progress.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use genesys_relay::domain::request::Requester;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::answers::{Failed, Report};
use crate::selection::Filter;

/// Failures that a run keeps to list them.
const MAX_LISTED: usize = 200;

/// Dead letters that a run replays.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// The ids that a dry run or the operator named.
    Ids(Vec<String>),
    /// All dead letters; `counted` is the dry run's count.
    All { counted: Option<u64> },
}

/// Work of a run.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Send dead letters back to the events queue.
    Replay {
        which: Which,
        rate: Option<u32>,
        force: bool,
    },
    /// Delete dead letters.
    Discard { ids: Vec<String> },
    /// Move old dead letters to the archive.
    Archive { older_than_days: Value },
    /// Move an archived object back to the dead-letter queue.
    Restore { key: String },
    /// Make the list of dead letters match the queue.
    Reconcile,
}

impl Work {
    /// The relay's name for the action.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Discard { .. } => "discard",
            Self::Archive { .. } => "archive",
            Self::Restore { .. } => "restore",
            Self::Reconcile => "reconcile",
        }
    }

    /// Tells whether the relay does it in one invocation, which cannot be cancelled once it has
    /// begun.
    fn is_one_invocation(&self) -> bool {
        match self {
            Self::Replay { .. } | Self::Discard { .. } => false,
            Self::Archive { .. } | Self::Restore { .. } | Self::Reconcile => true,
        }
    }

    /// The participle that follows a count of dead letters.
    pub(crate) fn done(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replayed",
            Self::Discard { .. } => "discarded",
            Self::Archive { .. } => "archived",
            Self::Restore { .. } => "restored",
            Self::Reconcile => "removed from the list",
        }
    }
}

/// Builds a request for `action` with these fields, the operator and the reason.
pub(crate) fn request(
    requester: &Requester,
    action: &str,
    mut fields: Map<String, Value>,
) -> Value {
    fields.insert("action".to_owned(), action.into());
    fields.insert("by".to_owned(), requester.by.as_str().into());
    if let Some(why) = &requester.why {
        fields.insert("why".to_owned(), why.as_str().into());
    }
    fields.into()
}

/// One run.
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) work: Work,
    pub(crate) requester: Requester,
    pub(crate) began_at: Timestamp,
    /// Filter of the list from which it was started.
    pub(crate) filter: Filter,
    is_cancelled: AtomicBool,
    progress: Mutex<Progress>,
}

/// Progress of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Dead letters to handle, once the number is known.
    pub(crate) asked: Option<u64>,
    /// Dead letters handled, successfully or not.
    pub(crate) looked_at: u64,
    /// Dead letters handled successfully, in finished steps.
    pub(crate) done: u64,
    /// Dead letters handled successfully, in the current step.
    pub(crate) under_way: u64,
    /// Dead letters whose record was created or corrected.
    pub(crate) recorded: u64,
    /// Removed copies of delivered or discarded events.
    pub(crate) removed: u64,
    /// Number of failures.
    pub(crate) failures: u64,
    /// The first failures.
    pub(crate) failed: Vec<Failed>,
    /// Keys of the archive's objects that it wrote.
    pub(crate) keys: Vec<String>,
    /// Dead letters left in the queue.
    pub(crate) remaining: Option<u64>,
    /// Reason why it waits.
    pub(crate) waiting: Option<String>,
    /// Error because of which its progress is unknown.
    pub(crate) unheard: Option<String>,
    /// Remark for the operator.
    pub(crate) note: Option<String>,
    /// Outcome, once it has ended.
    pub(crate) end: Option<End>,
}

/// Outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Cancelled,
    /// Stopped by this error. Finished steps stay done.
    Stopped(String),
}

impl Run {
    pub(super) fn new(id: u32, work: Work, requester: Requester, filter: Filter) -> Self {
        Self {
            id,
            work,
            requester,
            began_at: Timestamp::now(),
            filter,
            is_cancelled: AtomicBool::new(false),
            progress: Mutex::default(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Ends the run after the current step.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Tells whether cancelling has an effect: not once its only invocation has begun.
    pub(crate) fn can_be_cancelled(&self, progress: &Progress) -> bool {
        progress.end.is_none() && (progress.waiting.is_some() || !self.work.is_one_invocation())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the report of one invocation that was asked for `asked` dead letters.
    pub(super) fn add(&self, report: Report, asked: Option<u64>) {
        let mut progress = self.lock();
        progress.looked_at += asked.unwrap_or(report.matched);
        progress.done += report.done;
        progress.under_way = 0;
        progress.recorded += report.recorded;
        progress.removed += report.removed;
        progress.failures += report.failures;
        let room = MAX_LISTED.saturating_sub(progress.failed.len());
        progress.failed.extend(report.failed.into_iter().take(room));
        progress.keys.extend(report.keys);
        progress.remaining = report.remaining.or(progress.remaining);
        if !report.complete {
            progress.note =
                Some("Some dead letters were not checked: they were in flight, or time ran out. Run it again.".into());
        }
    }
}
