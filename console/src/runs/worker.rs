//! Carries a run out: asks the relay step by step, waits for whoever is at work, and follows what SQS does by itself.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::logging::chain;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{End, Run, Work};
use crate::answers::{List, MoveTask, Report, Status};
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

/// While somebody else is at work, and while SQS moves.
const PAUSE: Duration = Duration::from_secs(2);

/// Does what a run is for.
pub(super) struct Worker {
    pub(super) functions: Arc<dyn Functions>,
    pub(super) run: Arc<Run>,
}

impl Worker {
    pub(super) async fn work(self) {
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
