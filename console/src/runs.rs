//! What the operator has started: work that goes on while pages come and go.
//!
//! Dead letters are taken by their ids, some at a time, so that progress shows and a run can be cancelled between. The ids
//! are fixed when it begins: an event that is refused once more is not taken again by the same run.

mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::worker::Worker;
use crate::answers::{Failed, Report};
use crate::functions::Functions;
use crate::selection::Filter;

/// Failures that are shown one by one.
const MAX_LISTED: usize = 200;

/// Which dead letters come back.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// These, as a dry run or the operator has named them.
    Ids(Vec<String>),
    /// All. A dry run has counted so many.
    All { counted: Option<u64> },
}

/// What can be done with dead letters.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Bring them back.
    Replay { which: Which, rate: Option<u32>, force: bool },
    /// Drop them.
    Discard { ids: Vec<String> },
    /// Bring old ones into the archive.
    Archive { older_than_days: Value },
    /// Bring an archived object back.
    Restore { key: String },
    /// Make the list agree with the queue.
    Reconcile,
}

impl Work {
    /// Its name, as the relay calls it.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Discard { .. } => "discard",
            Self::Archive { .. } => "archive",
            Self::Restore { .. } => "restore",
            Self::Reconcile => "reconcile",
        }
    }

    /// Whether the relay does it in one invocation, which nobody can stop once it is under way.
    fn is_one_invocation(&self) -> bool {
        match self {
            Self::Replay { .. } | Self::Discard { .. } => false,
            Self::Archive { .. } | Self::Restore { .. } | Self::Reconcile => true,
        }
    }

    /// What has been done with those that are done.
    pub(crate) fn done(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replayed",
            Self::Discard { .. } => "discarded",
            Self::Archive { .. } => "archived",
            Self::Restore { .. } => "restored",
            Self::Reconcile => "taken off the list",
        }
    }
}

/// Who asks, and why: it stands in the audit log and on each record.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) by: String,
    pub(crate) why: Option<String>,
}

impl Origin {
    /// A request for this action, with these fields.
    pub(crate) fn request(&self, action: &str, mut fields: Map<String, Value>) -> Value {
        fields.insert("action".to_owned(), action.into());
        fields.insert("by".to_owned(), self.by.as_str().into());
        if let Some(why) = &self.why {
            fields.insert("why".to_owned(), why.as_str().into());
        }
        fields.into()
    }
}

/// One run.
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) work: Work,
    pub(crate) origin: Origin,
    pub(crate) began_at: Timestamp,
    /// What the list showed from which it was started.
    pub(crate) filter: Filter,
    is_cancelled: AtomicBool,
    progress: Mutex<Progress>,
}

/// How far a run is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// How many there are to do, once that is known.
    pub(crate) asked: Option<u64>,
    /// How many of them were looked at.
    pub(crate) looked_at: u64,
    /// How many were done.
    pub(crate) done: u64,
    /// How many more the step that is under way has done.
    pub(crate) under_way: u64,
    /// How many got a record that says what they are.
    pub(crate) recorded: u64,
    /// How many copies of delivered or discarded events were removed.
    pub(crate) removed: u64,
    pub(crate) failures: u64,
    pub(crate) failed: Vec<Failed>,
    /// The objects of the archive that were written.
    pub(crate) keys: Vec<String>,
    /// How many dead letters are left in all.
    pub(crate) remaining: Option<u64>,
    /// What it waits for.
    pub(crate) waiting: Option<String>,
    /// Why nobody knows how far it is.
    pub(crate) unheard: Option<String>,
    /// What the operator should know beside.
    pub(crate) note: Option<String>,
    /// How it ended.
    pub(crate) end: Option<End>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Cancelled,
    /// By this error. What was done before it stays done.
    Stopped(String),
}

impl Run {
    pub(crate) fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Ends it after the step that is under way.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether to cancel it has an effect: not once its only invocation is under way.
    pub(crate) fn can_be_cancelled(&self, progress: &Progress) -> bool {
        progress.end.is_none() && (progress.waiting.is_some() || !self.work.is_one_invocation())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what one invocation came to, of which so many were asked for.
    fn add(&self, report: Report, asked: Option<u64>) {
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
                Some("Not all could be looked at: some were hidden, or time ran out. Do it once more.".into());
        }
    }
}

/// All runs since the console was started, and by which form.
#[derive(Default)]
pub(crate) struct Runs(Mutex<Started>);

#[derive(Default)]
struct Started {
    runs: BTreeMap<u32, Arc<Run>>,
    forms: BTreeMap<String, u32>,
}

impl Runs {
    /// Starts one, which goes on by itself. The same form, sent again, leads to the run that it has started.
    pub(crate) fn start(
        &self,
        functions: &Arc<dyn Functions>,
        form: &str,
        work: Work,
        origin: Origin,
        filter: Filter,
    ) -> Arc<Run> {
        let mut started = self.lock();
        let Started { runs, forms } = &mut *started;
        if let Some(run) = forms.get(form).and_then(|id| runs.get(id)) {
            return Arc::clone(run);
        }
        let id = runs.keys().next_back().map_or(1, |newest| newest + 1);
        let run = Arc::new(Run {
            id,
            work,
            origin,
            began_at: Timestamp::now(),
            filter,
            is_cancelled: AtomicBool::new(false),
            progress: Mutex::default(),
        });
        runs.insert(id, Arc::clone(&run));
        forms.insert(form.to_owned(), id);
        tokio::spawn(Worker { functions: Arc::clone(functions), run: Arc::clone(&run) }.work());
        run
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Run>> {
        self.lock().runs.get(&id).cloned()
    }

    /// The newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        self.lock().runs.values().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Started> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
