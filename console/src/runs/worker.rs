//! Carries out a run: asks the relay step by step, waits while another run is in progress, and
//! follows SQS redrives.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::ports::queue::MoveTask;
use genesys_relay::runtime::logging::display_chain;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::run::{End, Run, Which, Work, request};
use crate::answers::{Background, BackgroundAnswer, BackgroundState, Report, Status};
use crate::functions::{Function, FunctionError, Functions, InvokeError};

/// Steps of a run, within the bounds of a step's size.
const STEPS: usize = 20;
const SMALLEST_STEP: usize = 10;
const LARGEST_STEP: usize = 500;

/// Pause between two requests while another run is in progress or SQS redrives.
const PAUSE: Duration = Duration::from_secs(2);

/// Pause before the first status request of a step. It doubles with each, up to [`PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A step that was cut off, or has not begun, is requested again under its run id after this time.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Attempts to start a step that is not answered. The run id makes it one step.
const MAX_STARTS: u32 = 3;

/// Carries out one run.
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
                self.in_one_step(
                    "archive",
                    fields([("olderThanDays", older_than_days.clone())]),
                )
                .await
            }
            Work::Restore { key } => {
                self.in_one_step("restore", fields([("key", json!(key))]))
                    .await
            }
            Work::Reconcile => self.in_one_step("reconcile", Map::new()).await,
        };
        let mut progress = self.run.lock();
        progress.waiting = None;
        progress.end = Some(outcome.unwrap_or_else(|error| End::Stopped(display_chain(&error))));
    }

    async fn replay(
        &self,
        which: &Which,
        rate: Option<u32>,
        force: bool,
    ) -> Result<End, InvokeError> {
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
                self.all(&options, *counted).await
            }
        }
    }

    /// Handles the events in steps.
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
            // The report is complete if each event was handled or is among the failures.
            let Some(report) = self.carried_out(action, &fields).await? else {
                return Ok(End::Cancelled);
            };
            let asked = ids.len() as u64;
            let complete = report.complete || report.done + report.failures >= asked;
            self.run.add(Report { complete, ..report }, Some(asked));
        }
        let mut progress = self.run.lock();
        let (asked, done) = (ids.len() as u64, progress.done);
        if done != asked && progress.note.is_none() {
            let what = self.run.work.done();
            progress.note = Some(format!(
                "{asked} were requested and {done} were {what}. The list below shows the others."
            ));
        }
        drop(progress);
        Ok(End::Finished)
    }

    /// Handles all in one invocation.
    async fn in_one_step(
        &self,
        action: &str,
        fields: Map<String, Value>,
    ) -> Result<End, InvokeError> {
        let Some(report) = self.carried_out(action, &fields).await? else {
            return Ok(End::Cancelled);
        };
        self.run.add(report, None);
        Ok(End::Finished)
    }

    /// Replays all by an SQS redrive, or by one invocation if a redrive is not possible.
    async fn all(
        &self,
        options: &Map<String, Value>,
        counted: Option<u64>,
    ) -> Result<End, InvokeError> {
        let before = self
            .ask::<Status>(json!({ "action": "status" }))
            .await?
            .move_task;
        let Some(report) = self.carried_out("replay", options).await? else {
            return Ok(End::Cancelled);
        };
        if let Some(counted) = counted.filter(|counted| *counted != report.matched) {
            self.run.lock().note = Some(format!(
                "The dry run counted {counted}; the run found {}. Dead letters came or left in between.",
                report.matched
            ));
        }
        let Some(task) = report.move_task.clone() else {
            self.run.add(report, None);
            return Ok(End::Finished);
        };
        // Compared by the clock of SQS only: this machine's clock can differ.
        if task.started_at.is_some()
            && before.is_some_and(|before| before.started_at == task.started_at)
        {
            return Ok(End::Stopped(
                "Another SQS redrive is already running. Nothing was started.".to_owned(),
            ));
        }
        self.show(&task);
        Ok(self.follow(task).await)
    }

    /// Follows an SQS redrive to its end. The redrive continues even while its progress cannot be
    /// read.
    async fn follow(&self, mut task: MoveTask) -> End {
        let mut is_cancel_sent = false;
        while task.is_active() {
            match self.latest_redrive(&mut is_cancel_sent).await {
                Ok(Some(newest)) if newest.started_at == task.started_at => {
                    self.show(&newest);
                    task = newest;
                }
                Ok(_) => {
                    return End::Stopped(
                        "SQS no longer reports this redrive. Its outcome is unknown.".into(),
                    );
                }
                Err(error) => {
                    let unknown = format!(
                        "SQS redrive in progress; could not read its state: {}",
                        display_chain(&error)
                    );
                    self.run.lock().waiting = Some(unknown);
                    sleep(PAUSE).await;
                }
            }
        }
        match task.status.as_str() {
            "COMPLETED" => End::Finished,
            "CANCELLED" => End::Cancelled,
            _ => {
                End::Stopped(task.failure.unwrap_or_else(|| {
                    format!("The redrive ended with the status {}", task.status)
                }))
            }
        }
    }

    /// Sends the cancellation once, and reads the newest redrive.
    async fn latest_redrive(
        &self,
        is_cancel_sent: &mut bool,
    ) -> Result<Option<MoveTask>, InvokeError> {
        if self.run.is_cancelled() && !*is_cancel_sent {
            self.functions
                .invoke(
                    Function::Replay,
                    request(&self.run.requester, "cancel", Map::new()),
                )
                .await?;
            *is_cancel_sent = true;
        }
        sleep(PAUSE / 2).await;
        let status: Status = self.ask(json!({ "action": "status" })).await?;
        self.run.lock().remaining = Some(status.dead_letters.total());
        Ok(status.move_task)
    }

    fn show(&self, task: &MoveTask) {
        let mut progress = self.run.lock();
        (progress.asked, progress.looked_at, progress.done) =
            (task.to_move, task.moved, task.moved);
        progress.waiting = task
            .is_active()
            .then(|| format!("SQS redrive in progress: {}", task.status));
    }

    /// Starts a change in the background and follows it to its end. `None` if it was cancelled
    /// before it began.
    async fn carried_out(
        &self,
        action: &str,
        fields: &Map<String, Value>,
    ) -> Result<Option<Report>, InvokeError> {
        let run_id = Uuid::new_v4().simple().to_string();
        let mut fields = fields.clone();
        fields.insert("runId".to_owned(), run_id.as_str().into());
        let request = request(&self.run.requester, action, fields);
        let Some(mut run) = self.start(&request).await? else {
            return Ok(None);
        };
        let (mut pause, mut asked_at) = (FIRST_PAUSE, Instant::now());
        loop {
            self.run.lock().under_way = run.report.as_ref().map_or(0, |report| report.done);
            match (run.state, run.report, run.error) {
                (BackgroundState::Ended, Some(report), _) => return Ok(Some(report)),
                (BackgroundState::Ended, None, _) => {
                    return Err(InvokeError::Unanswered(
                        "the run ended without a report".into(),
                    ));
                }
                (BackgroundState::Failed, _, error) => {
                    let message = error.unwrap_or_else(|| "the run failed".to_owned());
                    return Err(InvokeError::Refused(FunctionError {
                        kind: "Failed".to_owned(),
                        message,
                    }));
                }
                (BackgroundState::Waiting | BackgroundState::Unfinished, ..)
                    if asked_at.elapsed() >= RETRY_AFTER =>
                {
                    asked_at = Instant::now();
                    match self.start(&request).await? {
                        Some(started) => run = started,
                        None => return Ok(None),
                    }
                    continue;
                }
                (
                    BackgroundState::Waiting
                    | BackgroundState::Running
                    | BackgroundState::Unfinished,
                    ..,
                ) => {}
            }
            sleep(pause).await;
            pause = PAUSE.min(pause * 2);
            run = self.progress_of(&run_id).await;
        }
    }

    /// Reads the progress of a background run, until the relay answers. The run continues
    /// meanwhile.
    async fn progress_of(&self, run_id: &str) -> Background {
        loop {
            let answer = self
                .ask::<BackgroundAnswer>(json!({ "action": "status", "runId": run_id }))
                .await;
            match answer {
                Ok(BackgroundAnswer { background }) => {
                    self.run.lock().unheard = None;
                    return background;
                }
                Err(error) => {
                    let unknown = format!(
                        "Could not read the state of the run: {}",
                        display_chain(&error)
                    );
                    self.run.lock().unheard = Some(unknown);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Starts a background run, again while another run is in progress or Lambda throttles. `None`
    /// once it is cancelled.
    async fn start(&self, request: &Value) -> Result<Option<Background>, InvokeError> {
        let mut unanswered = 0;
        loop {
            match self.ask::<BackgroundAnswer>(request.clone()).await {
                Err(error) if error.is_temporary() => {
                    self.run.lock().waiting = Some(display_chain(&error));
                    if self.run.is_cancelled() {
                        return Ok(None);
                    }
                }
                Err(InvokeError::Unanswered(_)) if unanswered + 1 < MAX_STARTS => unanswered += 1,
                outcome => {
                    self.run.lock().waiting = None;
                    return outcome.map(|BackgroundAnswer { background }| Some(background));
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
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}
