//! What the operator has started: work that goes on while pages come and go.
//!
//! Dead letters are taken by their ids, some at a time, so that progress shows and a run can be cancelled between. The ids
//! are fixed when it begins: an event that is refused once more is not taken again by the same run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use genesys_relay::logging::chain;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::answers::{Failed, List, MoveTask, Report, Status};
use crate::functions::{Function, Functions, InvokeError};
use crate::selection::{Filter, Selection};

/// A page shows so many steps of a run, as far as steps are neither tiny nor longer than a function likes to work.
const STEPS: usize = 20;
const SMALLEST_STEP: usize = 10;
const LARGEST_STEP: usize = 500;

/// So many dead letters are taken by their ids. For more there is SQS's own move task, or another run.
const MOST: usize = 10_000;

/// How many of them are asked for at a time.
const PAGE: usize = 1000;

/// Failures that are shown one by one.
const MAX_LISTED: usize = 200;

/// While somebody else is at work, and while SQS moves.
const PAUSE: Duration = Duration::from_secs(2);

/// What can be done with dead letters.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Bring them back.
    Replay { selection: Selection, rate: Option<u32>, force: bool },
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

/// Does what a run is for.
struct Worker {
    functions: Arc<dyn Functions>,
    run: Arc<Run>,
}

impl Worker {
    async fn work(self) {
        let outcome = match &self.run.work {
            Work::Replay { selection, rate, force } => self.replay(selection, *rate, *force).await,
            Work::Discard { ids } => self.step_by_step("discard", ids, &Map::new()).await,
            Work::Archive { older_than_days } => {
                self.whole("archive", fields([("olderThanDays", older_than_days.clone())])).await
            }
            Work::Restore { key } => self.whole("restore", fields([("key", json!(key))])).await,
            Work::Reconcile => self.whole("reconcile", Map::new()).await,
        };
        let mut progress = self.run.lock();
        progress.waiting = None;
        progress.end = Some(outcome.unwrap_or_else(|error| End::Stopped(chain(&error))));
    }

    async fn replay(&self, selection: &Selection, rate: Option<u32>, force: bool) -> Result<End, InvokeError> {
        let mut options = Map::new();
        if let Some(rate) = rate {
            options.insert("ratePerSecond".to_owned(), rate.into());
        }
        if force {
            options.insert("force".to_owned(), true.into());
        }
        match selection {
            Selection::Ids(ids) => self.step_by_step("replay", ids, &options).await,
            Selection::Matching(filter) => {
                let Some(ids) = self.matching(filter).await? else { return Ok(End::Cancelled) };
                self.step_by_step("replay", &ids, &options).await
            }
            Selection::All => {
                options.extend(selection.request());
                self.everything(&options).await
            }
        }
    }

    /// The ids of all that match now; `None` once it is cancelled.
    async fn matching(&self, filter: &Filter) -> Result<Option<Vec<String>>, InvokeError> {
        let mut request = filter.request();
        request.extend(fields([("action", json!("list")), ("limit", json!(PAGE))]));
        let mut ids = Vec::new();
        loop {
            if self.run.is_cancelled() {
                return Ok(None);
            }
            let list: List = self.ask(request.clone().into()).await?;
            ids.extend(list.items.into_iter().map(|letter| letter.event_id));
            self.run.lock().waiting = Some(format!("looking for those that match: {} so far", ids.len()));
            let Some(next) = list.next else { break };
            if ids.len() >= MOST {
                ids.truncate(MOST);
                self.run.lock().note =
                    Some(format!("There are more: a run takes {MOST} at most. Start another one after it."));
                break;
            }
            request.insert("next".to_owned(), next.into());
        }
        self.run.lock().waiting = None;
        Ok(Some(ids))
    }

    /// Names the events to the function, some at a time.
    async fn step_by_step(
        &self,
        action: &str,
        ids: &[String],
        options: &Map<String, Value>,
    ) -> Result<End, InvokeError> {
        self.run.lock().asked = Some(ids.len() as u64);
        for ids in ids.chunks(step(ids.len())) {
            if self.run.is_cancelled() {
                return Ok(End::Cancelled);
            }
            let mut fields = options.clone();
            fields.insert("eventIds".to_owned(), json!(ids));
            // Each is answered for: it was done, or is among the failures.
            let Some(report) = self.patiently::<Report>(action, &fields).await? else { return Ok(End::Cancelled) };
            let asked = ids.len() as u64;
            let complete = report.complete || report.done + report.failures >= asked;
            self.run.add(Report { complete, ..report }, Some(asked));
        }
        Ok(End::Finished)
    }

    /// Has one invocation do it all.
    async fn whole(&self, action: &str, fields: Map<String, Value>) -> Result<End, InvokeError> {
        let Some(report) = self.patiently::<Report>(action, &fields).await? else { return Ok(End::Cancelled) };
        self.run.add(report, None);
        Ok(End::Finished)
    }

    /// Has SQS move all of them, or one invocation where SQS cannot.
    async fn everything(&self, options: &Map<String, Value>) -> Result<End, InvokeError> {
        let before = self.ask::<Status>(json!({ "action": "status" })).await?.move_task;
        let Some(report) = self.patiently::<Report>("replay", options).await? else { return Ok(End::Cancelled) };
        let Some(task) = report.move_task.clone() else {
            self.run.add(report, None);
            return Ok(End::Finished);
        };
        // Told apart by the clock of SQS alone, which need not be that of this machine.
        if task.started_at.is_some() && before.is_some_and(|before| before.started_at == task.started_at) {
            return Ok(End::Stopped("Somebody else has SQS move them already: nothing was started.".to_owned()));
        }
        self.show(&task);
        Ok(self.follow(task).await)
    }

    /// Shows how SQS moves, until it says that this has ended. It goes on whether or not anybody can ask how far it is.
    async fn follow(&self, mut task: MoveTask) -> End {
        let mut is_told = false;
        while task.is_active() {
            match self.look(&mut is_told).await {
                Ok(Some(newest)) if newest.started_at == task.started_at => {
                    self.show(&newest);
                    task = newest;
                }
                Ok(_) => {
                    return End::Stopped(
                        "SQS tells nothing of this move any more: how it has ended is not known.".into(),
                    );
                }
                Err(error) => {
                    let unknown = format!("SQS moves them, and how far it is, is not known: {}", chain(&error));
                    self.run.lock().waiting = Some(unknown);
                    sleep(PAUSE).await;
                }
            }
        }
        match task.status.as_str() {
            "COMPLETED" => End::Finished,
            "CANCELLED" => End::Cancelled,
            _ => End::Stopped(task.failure.unwrap_or_else(|| format!("The move has ended: {}", task.status))),
        }
    }

    /// Passes on that the run was cancelled, and asks for the newest move.
    async fn look(&self, is_told: &mut bool) -> Result<Option<MoveTask>, InvokeError> {
        if self.run.is_cancelled() && !*is_told {
            self.functions.invoke(Function::Replay, self.run.origin.request("cancel", Map::new())).await?;
            *is_told = true;
        }
        sleep(PAUSE / 2).await;
        let status: Status = self.ask(json!({ "action": "status" })).await?;
        self.run.lock().remaining = Some(status.dead_letters.total());
        Ok(status.move_task)
    }

    fn show(&self, task: &MoveTask) {
        let mut progress = self.run.lock();
        (progress.asked, progress.looked_at, progress.done) = (task.to_move, task.moved, task.moved);
        progress.waiting = task.is_active().then(|| format!("SQS moves them: {}", task.status));
    }

    /// Asks for a change, and again while somebody else is at work or Lambda has no room; nothing is done then. `None` once it is cancelled.
    async fn patiently<T: DeserializeOwned>(
        &self,
        action: &str,
        fields: &Map<String, Value>,
    ) -> Result<Option<T>, InvokeError> {
        loop {
            match self.ask(self.run.origin.request(action, fields.clone())).await {
                Err(error) if error.is_temporary() => {
                    self.run.lock().waiting = Some(chain(&error));
                    if self.run.is_cancelled() {
                        return Ok(None);
                    }
                    sleep(PAUSE).await;
                }
                outcome => {
                    self.run.lock().waiting = None;
                    return outcome.map(Some);
                }
            }
        }
    }

    async fn ask<T: DeserializeOwned>(&self, request: Value) -> Result<T, InvokeError> {
        let answer = self.functions.invoke(Function::Replay, request).await?;
        serde_json::from_value(answer).map_err(|error| InvokeError::Unanswered(error.into()))
    }
}

fn step(of: usize) -> usize {
    (of / STEPS).clamp(SMALLEST_STEP, LARGEST_STEP)
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
