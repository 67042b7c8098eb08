//! One run: its request, its requester and its progress.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use genesys_relay::dead_letters::api::{Done, Failed, Report, RequestBody};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::lock::Lock;

/// Failures that a run keeps to list them.
const MAX_LISTED: usize = 200;

/// The order that a form gives.
pub(crate) struct Order {
    pub(crate) request: RequestBody,
    /// Reason that the operator gave.
    pub(crate) why: Option<String>,
    /// Name of the run, which the form has made up.
    pub(crate) name: String,
    /// The dry run's count of all.
    pub(crate) counted: Option<u64>,
    /// Path of the page from which it was given.
    pub(crate) back: String,
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
            RequestBody::Resend(_) => ("resend", "sent again"),
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
        let is_open = has_steps || self.is_resend() || progress.waiting.is_some();
        progress.end.is_none() && is_open
    }

    /// Returns whether the run has stopped and can go on: the relay keeps its position under its
    /// name.
    pub(crate) fn can_go_on(&self, progress: &Progress) -> bool {
        self.is_resend() && matches!(progress.end, Some(End::Stopped(_)))
    }

    /// Returns whether it is one run of the relay, under the name that the operator was shown.
    pub(crate) fn is_resend(&self) -> bool {
        matches!(self.order.request, RequestBody::Resend(_))
    }

    /// The request of a run of the relay, as `by` sends it.
    pub(crate) fn request_of(&self, by: &str) -> Value {
        let mut request = json!(self.order.request);
        for (field, value) in [
            ("runId", self.order.name.as_str()),
            ("why", self.order.why.as_deref().unwrap_or_default()),
            ("by", by),
        ] {
            request[field] = value.into();
        }
        request
    }

    /// Lets a run that has stopped go on. Returns whether it had.
    pub(super) fn reopen(&self) -> bool {
        let mut progress = self.lock();
        let is_open = self.can_go_on(&progress);
        if is_open {
            (progress.end, progress.note) = (None, None);
            self.is_cancelled.store(false, Ordering::Relaxed);
        }
        is_open
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
