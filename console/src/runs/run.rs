//! One run: its request, its requester and its progress.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use genesys_relay::dead_letters::api::{Done, Failed, Filter, Report, RequestBody};
use genesys_relay::domain::request::Requester;
use jiff::Timestamp;

use crate::lock::Lock;

/// Failures that a run keeps to list them.
const MAX_LISTED: usize = 200;

/// The order that a form gives.
pub(crate) struct Order {
    pub(crate) request: RequestBody,
    pub(crate) requester: Requester,
    /// The dry run's count of all dead letters.
    pub(crate) counted: Option<u64>,
    /// Filter of the list from which it was given.
    pub(crate) filter: Filter,
}

/// One run.
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) order: Order,
    pub(crate) began_at: Timestamp,
    is_cancelled: AtomicBool,
    progress: Lock<Progress>,
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
    pub(super) fn new(id: u32, order: Order) -> Self {
        Self {
            id,
            order,
            began_at: Timestamp::now(),
            is_cancelled: AtomicBool::new(false),
            progress: Lock::default(),
        }
    }

    /// The relay's name for the action, and the participle that follows a count of dead letters.
    fn words(&self) -> (&'static str, &'static str) {
        match &self.order.request {
            RequestBody::Replay(_) => ("replay", "replayed"),
            RequestBody::Discard(_) => ("discard", "discarded"),
            RequestBody::Archive(_) => ("archive", "archived"),
            RequestBody::Restore(_) => ("restore", "restored"),
            _ => ("reconcile", "removed from the list"),
        }
    }

    pub(crate) fn action(&self) -> &'static str {
        self.words().0
    }

    pub(crate) fn done(&self) -> &'static str {
        self.words().1
    }

    pub(crate) fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Ends the run after the current step.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns whether cancelling has an effect: not once its only invocation has begun.
    pub(crate) fn can_be_cancelled(&self, progress: &Progress) -> bool {
        let request = &self.order.request;
        let has_steps = matches!(request, RequestBody::Replay(_) | RequestBody::Discard(_));
        progress.end.is_none() && (has_steps || progress.waiting.is_some())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// Adds the report of one invocation that was asked for `asked` dead letters.
    pub(super) fn add(&self, report: Report, asked: Option<u64>) {
        let mut progress = self.lock();
        progress.looked_at += asked.unwrap_or(report.matched);
        progress.done += report.done.total();
        progress.under_way = 0;
        progress.recorded += report.recorded;
        progress.removed += report.removed;
        progress.failures += report.failures;
        let room = MAX_LISTED.saturating_sub(progress.failed.len());
        progress.failed.extend(report.failed.into_iter().take(room));
        if let Done::Archive { keys, .. } = report.done {
            progress.keys.extend(keys);
        }
        progress.remaining = report.remaining.or(progress.remaining);
        if !report.complete {
            progress.note =
                Some("Some dead letters were not checked: they were in flight, or time ran out. Run it again.".into());
        }
    }
}
