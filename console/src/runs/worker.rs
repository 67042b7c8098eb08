//! Carries out a run: asks the relay step by step, waits while another run is in progress, and
//! follows SQS redrives.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::dead_letters::api::{
    BackgroundAnswer, BackgroundState, BackgroundStatus, CancelRequest, DiscardRequest,
    MAX_MESSAGES, ReplayRequest, Report, RequestBody, Status,
};
use genesys_relay::domain::event::EventId;
use genesys_relay::ports::queue::MoveTask;
use genesys_relay::runtime::logging::display_chain;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::run::{End, Run};
use crate::functions::{Function, InvokeError};
use crate::relay::Relay;

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

/// Attempts to start a step that is not answered, or does not get on. The run id makes it one step.
const MAX_STARTS: u32 = 3;

/// Carries out one run.
pub(super) struct Worker {
    pub(super) relay: Arc<Relay>,
    pub(super) run: Arc<Run>,
}

impl Worker {
    pub(super) async fn work(self) {
        let end = self.carry_out().await.err().unwrap_or(End::Finished);
        let mut progress = self.run.lock();
        progress.waiting = None;
        progress.end = Some(end);
    }

    /// Carries out the whole run. An error is its end before all was done.
    async fn carry_out(&self) -> Result<(), End> {
        match &self.run.order.request {
            RequestBody::Replay(ReplayRequest {
                event_ids: Some(ids),
                ..
            })
            | RequestBody::Discard(DiscardRequest {
                event_ids: Some(ids),
                ..
            }) => self.step_by_step(ids).await,
            RequestBody::Replay(_) => self.all().await,
            RequestBody::Resend(_) => self.resend().await,
            request => {
                self.run.add(self.step(request).await?, None);
                Ok(())
            }
        }
    }

    /// Sends delivered events again, by one run of the relay under the name that the operator was
    /// shown: it can be cancelled, and started again.
    async fn resend(&self) -> Result<(), End> {
        let order = &self.run.order;
        self.run.lock().asked = order.counted;
        let report = self.background(&order.request, &order.name).await?;
        let (is_cancelled, is_complete, found) =
            (report.cancelled, report.complete, report.matched);
        self.run.add(report, None);
        if is_cancelled {
            return Err(End::Cancelled);
        }
        if is_complete {
            self.compare(found);
        } else {
            self.run.lock().note = Some(format!(
                "The run is not complete: the list of failures says why, or it has reached its bound of {MAX_MESSAGES} events."
            ));
        }
        Ok(())
    }

    /// Remarks that the run has found another number of events than the dry run.
    fn compare(&self, found: u64) {
        let counted = self.run.order.counted;
        if let Some(counted) = counted.filter(|counted| *counted != found) {
            self.run.lock().note = Some(format!(
                "The dry run counted {counted}; the run found {found}. Events came or left in between."
            ));
        }
    }

    /// Handles the events in steps.
    async fn step_by_step(&self, ids: &[EventId]) -> Result<(), End> {
        self.run.lock().asked = Some(ids.len() as u64);
        let size = (ids.len() / STEPS).clamp(SMALLEST_STEP, LARGEST_STEP);
        for ids in ids.chunks(size) {
            if self.run.is_cancelled() {
                return Err(End::Cancelled);
            }
            let mut request = self.run.order.request.clone();
            match &mut request {
                RequestBody::Replay(request) => request.event_ids = Some(ids.to_vec()),
                RequestBody::Discard(request) => request.event_ids = Some(ids.to_vec()),
                _ => {}
            }
            // The report is complete if each event was handled or is among the failures.
            let (report, asked) = (self.step(&request).await?, ids.len() as u64);
            let complete = report.complete || report.done.total() + report.failures >= asked;
            self.run.add(Report { complete, ..report }, Some(asked));
        }
        let mut progress = self.run.lock();
        let (asked, done) = (ids.len() as u64, progress.done);
        if done != asked && progress.note.is_none() {
            progress.note = Some(format!(
                "{asked} were requested and {done} were {}. The list below shows the others.",
                self.run.done()
            ));
        }
        Ok(())
    }

    /// Replays all by an SQS redrive, or by one invocation if a redrive is not possible.
    async fn all(&self) -> Result<(), End> {
        let before = self
            .relay
            .look::<Status>(RequestBody::Status)
            .await?
            .move_task;
        let report = self.step(&self.run.order.request).await?;
        self.compare(report.matched);
        let Some(task) = report.move_task.clone() else {
            self.run.add(report, None);
            return Ok(());
        };
        // Compared by the clock of SQS only: this machine's clock can differ.
        let is_same = |before: MoveTask| before.started_at == task.started_at;
        if task.started_at.is_some() && before.is_some_and(is_same) {
            return Err(stopped(
                "Another SQS redrive is already running. Nothing was started.",
            ));
        }
        self.show(&task);
        self.follow(task).await
    }

    /// Follows an SQS redrive to its end. The redrive continues even while its progress cannot be
    /// read.
    async fn follow(&self, mut task: MoveTask) -> Result<(), End> {
        let mut is_cancel_sent = false;
        while task.is_active() {
            match self.latest_redrive(&mut is_cancel_sent).await {
                Ok(Some(newest)) if newest.started_at == task.started_at => {
                    self.show(&newest);
                    task = newest;
                }
                Ok(_) => {
                    let unknown = "SQS no longer reports this redrive. Its outcome is unknown.";
                    return Err(stopped(unknown));
                }
                Err(error) => {
                    let error = display_chain(&error);
                    self.run.lock().waiting = Some(format!(
                        "SQS redrive in progress; could not read its state: {error}"
                    ));
                    sleep(PAUSE).await;
                }
            }
        }
        match task.status.as_str() {
            "COMPLETED" => Ok(()),
            "CANCELLED" => Err(End::Cancelled),
            status => Err(End::Stopped(task.failure.unwrap_or_else(|| {
                format!("The redrive ended with the status {status}")
            }))),
        }
    }

    /// Sends the cancellation once, and reads the newest redrive.
    async fn latest_redrive(
        &self,
        is_cancel_sent: &mut bool,
    ) -> Result<Option<MoveTask>, InvokeError> {
        if self.run.is_cancelled() && !*is_cancel_sent {
            let cancel = RequestBody::Cancel(CancelRequest::default());
            self.act::<Value>(&json!(cancel)).await?;
            *is_cancel_sent = true;
        }
        sleep(PAUSE / 2).await;
        let status: Status = self.relay.look(RequestBody::Status).await?;
        self.run.lock().remaining = Some(status.dead_letters.total());
        Ok(status.move_task)
    }

    fn show(&self, task: &MoveTask) {
        let mut progress = self.run.lock();
        (progress.asked, progress.looked_at, progress.done) =
            (task.to_move, task.moved, task.moved);
        let waiting = || format!("SQS redrive in progress: {}", task.status);
        progress.waiting = task.is_active().then(waiting);
    }

    /// Carries out a change under a name of its own.
    async fn step(&self, request: &RequestBody) -> Result<Report, End> {
        let run_id = Uuid::new_v4().simple().to_string();
        self.background(request, &run_id).await
    }

    /// Starts a change in the background and follows it to its end.
    async fn background(&self, request: &RequestBody, run_id: &str) -> Result<Report, End> {
        let mut request = json!(request);
        request["runId"] = run_id.into();
        let mut run = self.start(&request).await?;
        let (mut pause, mut asked_at, mut is_cancel_sent) = (FIRST_PAUSE, Instant::now(), false);
        let (mut starts, mut reached) = (0, 0);
        loop {
            let report = run.report.as_ref().map(|report| &report.report);
            if let Some(report) = report {
                self.note_progress(report);
            }
            if self.run.is_resend() && self.run.is_cancelled() && !is_cancel_sent {
                is_cancel_sent = self.cancel(run_id).await;
            }
            let is_late = asked_at.elapsed() >= RETRY_AFTER;
            match run.state {
                BackgroundState::Ended => {
                    let report = run.report.map(|report| report.report);
                    return report.ok_or_else(|| stopped("The run ended without a report."));
                }
                BackgroundState::Failed => {
                    let error = run.error.as_deref();
                    return Err(stopped(error.unwrap_or("The run failed.")));
                }
                BackgroundState::Unfinished if is_late && starts >= MAX_STARTS => {
                    return Err(stopped("The run was started again, and did not get on."));
                }
                BackgroundState::Waiting | BackgroundState::Unfinished if is_late => {
                    asked_at = Instant::now();
                    let total = report.map_or(0, |report| report.done.total());
                    starts = if total > reached { 1 } else { starts + 1 };
                    reached = total;
                    run = self.start(&request).await?;
                    continue;
                }
                BackgroundState::Waiting
                | BackgroundState::Running
                | BackgroundState::Unfinished => {}
            }
            sleep(pause).await;
            pause = PAUSE.min(pause * 2);
            run = self.progress_of(run_id).await?;
        }
    }

    /// Shows the report of a background run so far.
    fn note_progress(&self, report: &Report) {
        let mut progress = self.run.lock();
        progress.under_way = report.done.total();
        if self.run.is_resend() {
            progress.asked = Some(report.matched);
            // What concerns the whole run says why it does not get on.
            let mut failed = report.failed.iter();
            let whole = failed.find(|failed| failed.event_id.is_none());
            progress.waiting = whole.map(|failed| failed.error.clone());
        }
    }

    /// Cancels a background run of the relay. Returns whether the relay knows.
    async fn cancel(&self, run_id: &str) -> bool {
        let cancel = RequestBody::Cancel(CancelRequest {
            run_id: Some(run_id.to_owned()),
            ..CancelRequest::default()
        });
        let outcome = self.act::<Value>(&json!(cancel)).await;
        let failed = |error: &InvokeError| {
            let error = display_chain(error);
            format!("Could not cancel the run yet: {error}")
        };
        self.run.lock().note = outcome.as_ref().err().map(failed);
        outcome.is_ok()
    }

    /// Reads the progress of a background run, until the relay answers. The run continues
    /// meanwhile.
    async fn progress_of(&self, run_id: &str) -> Result<BackgroundStatus, End> {
        let request = json!({ "action": "status", "runId": run_id });
        loop {
            match self.relay.look::<BackgroundAnswer>(&request).await {
                Ok(BackgroundAnswer { background }) => {
                    self.run.lock().unheard = None;
                    return Ok(*background);
                }
                Err(error) if error.is_unreadable() => {
                    return Err(stopped(&format!(
                        "The run goes on, but this console cannot read its state; use one of the \
                         stack's version: {}",
                        display_chain(&error)
                    )));
                }
                Err(error) => {
                    let error = display_chain(&error);
                    self.run.lock().unheard =
                        Some(format!("Could not read the state of the run: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Starts a background run, again while another run is in progress or Lambda throttles.
    async fn start(&self, request: &Value) -> Result<BackgroundStatus, End> {
        let mut unanswered = 0;
        loop {
            match self.act::<BackgroundAnswer>(request).await {
                Err(error) if error.is_temporary() => {
                    self.run.lock().waiting = Some(display_chain(&error));
                    if self.run.is_cancelled() {
                        return Err(End::Cancelled);
                    }
                }
                Err(InvokeError::Unanswered(_)) if unanswered + 1 < MAX_STARTS => unanswered += 1,
                outcome => {
                    self.run.lock().waiting = None;
                    return Ok(*outcome?.background);
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn act<T: DeserializeOwned>(&self, request: &Value) -> Result<T, InvokeError> {
        let why = self.run.order.why.as_deref();
        self.relay.act(Function::Replay, request, why).await
    }
}

impl From<InvokeError> for End {
    fn from(error: InvokeError) -> Self {
        Self::Stopped(display_chain(&error))
    }
}

fn stopped(error: &str) -> End {
    End::Stopped(error.to_owned())
}
