//! Carries a run out: asks the relay step by step, waits for whoever is at work, and follows what SQS does by itself.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::runtime::logging::display_chain;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::run::{End, Run, Which, Work};
use crate::answers::{Background, BackgroundState, Followed, MoveTask, Report, Status};
use crate::functions::{Function, FunctionError, Functions, InvokeError};

/// A page shows so many steps of a run, as far as steps are neither tiny nor longer than a function likes to work.
const STEPS: usize = 20;
const SMALLEST_STEP: usize = 10;
const LARGEST_STEP: usize = 500;

/// While somebody else is at work, and while SQS moves.
const PAUSE: Duration = Duration::from_secs(2);

/// The first look at a step that was started; each after it comes twice as late, up to [`PAUSE`].
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// A step that was cut off, or that nobody has begun, is asked for again under its name after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A step is started under its name so many times where no answer comes: the name makes it one.
const STARTS: u32 = 3;

/// Does what a run is for.
pub(super) struct Worker {
    pub(super) functions: Arc<dyn Functions>,
    pub(super) run: Arc<Run>,
}

impl Worker {
    pub(super) async fn work(self) {
        let outcome = match &self.run.work {
            Work::Replay { which, rate, force } => self.replay(which, *rate, *force).await,
            Work::Discard { ids } => self.step_by_step("discard", ids, &Map::new()).await,
            Work::Archive { older_than_days } => {
                self.whole("archive", fields([("olderThanDays", older_than_days.clone())])).await
            }
            Work::Restore { key } => self.whole("restore", fields([("key", json!(key))])).await,
            Work::Reconcile => self.whole("reconcile", Map::new()).await,
        };
        let mut progress = self.run.lock();
        progress.waiting = None;
        progress.end = Some(outcome.unwrap_or_else(|error| End::Stopped(display_chain(&error))));
    }

    async fn replay(&self, which: &Which, rate: Option<u32>, force: bool) -> Result<End, InvokeError> {
        let mut options = Map::new();
        if let Some(rate) = rate {
            options.insert("ratePerSecond".to_owned(), rate.into());
        }
        if force {
            options.insert("force".to_owned(), true.into());
        }
        match which {
            Which::Ids(ids) => self.step_by_step("replay", ids, &options).await,
            Which::All { counted } => {
                options.insert("all".to_owned(), true.into());
                self.everything(&options, *counted).await
            }
        }
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
            let Some(report) = self.carried_out(action, &fields).await? else { return Ok(End::Cancelled) };
            let asked = ids.len() as u64;
            let complete = report.complete || report.done + report.failures >= asked;
            self.run.add(Report { complete, ..report }, Some(asked));
        }
        let mut progress = self.run.lock();
        let (asked, done) = (ids.len() as u64, progress.done);
        if done != asked && progress.note.is_none() {
            let what = self.run.work.done();
            progress.note =
                Some(format!("{asked} were asked for, and {done} were {what}: below is where the others are."));
        }
        drop(progress);
        Ok(End::Finished)
    }

    /// Has one invocation do it all.
    async fn whole(&self, action: &str, fields: Map<String, Value>) -> Result<End, InvokeError> {
        let Some(report) = self.carried_out(action, &fields).await? else { return Ok(End::Cancelled) };
        self.run.add(report, None);
        Ok(End::Finished)
    }

    /// Has SQS move all of them, or one invocation where SQS cannot.
    async fn everything(&self, options: &Map<String, Value>, counted: Option<u64>) -> Result<End, InvokeError> {
        let before = self.ask::<Status>(json!({ "action": "status" })).await?.move_task;
        let Some(report) = self.carried_out("replay", options).await? else { return Ok(End::Cancelled) };
        if let Some(counted) = counted.filter(|counted| *counted != report.matched) {
            self.run.lock().note = Some(format!(
                "The dry run counted {counted}, and now there were {}: others died or came back in the meantime.",
                report.matched
            ));
        }
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
                    let unknown = format!("SQS moves them, and how far it is, is not known: {}", display_chain(&error));
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
            self.functions.invoke(Function::Replay, self.run.requester.request("cancel", Map::new())).await?;
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

    /// Has a change carried out in an invocation of its own, and follows it to its end. `None` where it was cancelled before it
    /// began.
    async fn carried_out(&self, action: &str, fields: &Map<String, Value>) -> Result<Option<Report>, InvokeError> {
        let run_id = Uuid::new_v4().simple().to_string();
        let mut fields = fields.clone();
        fields.insert("runId".to_owned(), run_id.as_str().into());
        let request = self.run.requester.request(action, fields);
        let Some(mut run) = self.start(&request).await? else { return Ok(None) };
        let (mut pause, mut asked_at) = (FIRST_LOOK, Instant::now());
        loop {
            self.run.lock().under_way = run.report.as_ref().map_or(0, |report| report.done);
            match (run.state, run.report, run.error) {
                (BackgroundState::Ended, Some(report), _) => return Ok(Some(report)),
                (BackgroundState::Ended, None, _) => {
                    return Err(InvokeError::Unanswered("the run has ended without a report".into()));
                }
                (BackgroundState::Failed, _, error) => {
                    let message = error.unwrap_or_else(|| "the run failed".to_owned());
                    return Err(InvokeError::Refused(FunctionError { kind: "Failed".to_owned(), message }));
                }
                (BackgroundState::Waiting | BackgroundState::Unfinished, ..) if asked_at.elapsed() >= ASK_AGAIN => {
                    asked_at = Instant::now();
                    match self.start(&request).await? {
                        Some(started) => run = started,
                        None => return Ok(None),
                    }
                    continue;
                }
                (BackgroundState::Waiting | BackgroundState::Running | BackgroundState::Unfinished, ..) => {}
            }
            sleep(pause).await;
            pause = PAUSE.min(pause * 2);
            run = self.look_after(&run_id).await;
        }
    }

    /// How far a run in the background is. Whether or not anybody can ask, it goes on.
    async fn look_after(&self, run_id: &str) -> Background {
        loop {
            let looked = self.ask::<Followed>(json!({ "action": "status", "runId": run_id })).await;
            match looked {
                Ok(Followed { background }) => {
                    self.run.lock().unheard = None;
                    return background;
                }
                Err(error) => {
                    let unknown = format!("How far it is, is not known: {}", display_chain(&error));
                    self.run.lock().unheard = Some(unknown);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Starts a change under its name, and again while somebody else is at work or Lambda has no room; nothing is done then.
    /// `None` once it is cancelled.
    async fn start(&self, request: &Value) -> Result<Option<Background>, InvokeError> {
        let mut unanswered = 0;
        loop {
            match self.ask::<Followed>(request.clone()).await {
                Err(error) if error.is_temporary() => {
                    self.run.lock().waiting = Some(display_chain(&error));
                    if self.run.is_cancelled() {
                        return Ok(None);
                    }
                }
                Err(InvokeError::Unanswered(_)) if unanswered + 1 < STARTS => unanswered += 1,
                outcome => {
                    self.run.lock().waiting = None;
                    return outcome.map(|Followed { background }| Some(background));
                }
            }
            sleep(PAUSE).await;
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
