//! Runs that nobody waits for: started under a name, carried out in an invocation of their own, and watched by `status`.
//!
//! The name makes a start that is repeated the same start: clients that give up on an answer send a request again. Each write
//! of a run needs the one before it, so that of two invocations that take up one run, one does.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::report::Report;
use super::request::Start;
use super::sweep::{ANSWER_TIME, HIDDEN_PAST_DEADLINE};
use super::{Answer, Ports, Replay, ReplayError, Request};
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::events_table::{BackgroundRun, EventsTable, LeaseName, RunLease, TableError};
use crate::ports::queue::Redrive;
use crate::runtime::logging::display_chain;

/// How often a run tells how far it is.
const TELLS_EVERY: Duration = Duration::from_secs(5);

/// Lambda begins a run within an hour (`MaximumEventAgeInSeconds` in the template). One that waits for longer was given up.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_mins(65);

/// Where another run is at work, Lambda begins it twice more, within three minutes (`MaximumRetryAttempts`).
const GIVEN_UP_BUSY_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Clients that had no answer repeat a start within minutes. One that comes this long after the end means another run.
const REPEATED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// A run in the background, as people see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownBackground {
    run_id: String,
    /// What it does.
    action: String,
    by: String,
    why: Option<String>,
    state: BackgroundState,
    asked_at: Timestamp,
    began_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// How far it is, or what came of it: what the action answers where somebody waits.
    report: Option<Value>,
    /// Why it did not begin, or failed.
    error: Option<String>,
}

/// How far a run in the background is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackgroundState {
    /// Lambda has not begun it yet, or another run holds the queue: `error` says which. Lambda begins it again.
    Waiting,
    /// It is running.
    Running,
    /// It has answered: `report`.
    Ended,
    /// It failed: `error`. Lambda begins it again where that was soon after its start; the same request does in any case.
    Failed,
    /// It was cut off, or Lambda gave it up before it began. Lambda begins it again where that was soon after its start; the
    /// same request under the same name does in any case.
    Unfinished,
}

impl BackgroundRun {
    fn state(&self, now: Timestamp) -> BackgroundState {
        let given_up_after = if self.error.is_some() { GIVEN_UP_BUSY_AFTER } else { GIVEN_UP_AFTER };
        match (self.ended_at, self.until, &self.error) {
            (Some(_), _, _) => BackgroundState::Ended,
            (None, None, _) if now.duration_since(self.asked_at) < given_up_after => BackgroundState::Waiting,
            (None, Some(_), Some(_)) => BackgroundState::Failed,
            (None, Some(until), None) if until > now => BackgroundState::Running,
            (None, None, _) | (None, Some(_), None) => BackgroundState::Unfinished,
        }
    }

    /// Waits until the invocation that has begun it has ended, whatever became of it.
    ///
    /// Lambda begins an invocation that fails at most twice more, after one minute and after two. Where the first was killed
    /// early, both would find it running still: so one waits, and the other goes on with the run.
    async fn outlast(&self, deadline: Instant, now: Timestamp) -> ReplayError {
        let held = self.lease();
        let left = Duration::try_from(held.until.duration_since(now)).unwrap_or_default();
        sleep_until((Instant::now() + left).min(deadline - ANSWER_TIME)).await;
        ReplayError::Busy(held)
    }

    /// What keeps others out while it is carried out.
    fn lease(&self) -> RunLease {
        let Self { revision, action, by, asked_at, began_at, until, .. } = self.clone();
        let since = began_at.unwrap_or(asked_at);
        RunLease { owner: revision, action, by, since, until: until.unwrap_or(since) }
    }

    fn shown(self, now: Timestamp) -> ShownBackground {
        let state = self.state(now);
        let Self { run_id, action, by, why, asked_at, began_at, ended_at, report, error, .. } = self;
        let report = report.and_then(|report| serde_json::from_str(&report).ok());
        ShownBackground { run_id, action, by, why, state, asked_at, began_at, ended_at, report, error }
    }
}

/// A run in the background while it is carried out.
pub(super) struct Tracked(Mutex<(BackgroundRun, Instant)>);

impl<P: Ports> Replay<P> {
    /// Notes a run that is to be carried out in the background, and says whether it still has to be handed over.
    ///
    /// # Errors
    /// Where another run is at work: this one would only wait.
    pub async fn enlist(&self, start: &Start) -> Result<(ShownBackground, bool), ReplayError> {
        let now = self.clock.now();
        if let Some(found) = self.table.background_run(&start.run_id, now).await? {
            return self.enlist_again(found, start, now).await;
        }
        if let Some(held) = self.table.lease(LeaseName::DeadLetters, now).await? {
            return Err(ReplayError::Busy(held));
        }
        if let Some(task) = self.redrive.latest_move().await?.filter(crate::ports::queue::MoveTask::is_active) {
            return Err(ReplayError::Moving { moved: task.moved });
        }
        let run = BackgroundRun {
            run_id: start.run_id.clone(),
            revision: Uuid::new_v4(),
            action: start.action.clone(),
            request_digest: Some(start.digest.clone()),
            by: start.requester.by.clone(),
            why: start.requester.why.clone(),
            asked_at: now,
            began_at: None,
            until: None,
            ended_at: None,
            report: None,
            error: None,
        };
        // Whoever was faster has noted the same.
        self.table.save_background_run(&run, None, now).await?;
        Ok((run.shown(now), true))
    }

    /// Takes up a run that is known by its name: by the same client, which had no answer, or after it was cut off.
    async fn enlist_again(
        &self,
        found: BackgroundRun,
        start: &Start,
        now: Timestamp,
    ) -> Result<(ShownBackground, bool), ReplayError> {
        let taken = |why: String| Err(ReplayError::NameTaken { run_id: start.run_id.clone(), why });
        if found.request_digest.as_ref().is_some_and(|digest| *digest != start.digest) {
            return taken("it was started with another request".to_owned());
        }
        if let Some(ended_at) = found.ended_at.filter(|ended_at| now.duration_since(*ended_at) > REPEATED_WITHIN) {
            return taken(format!("it ended at {ended_at}"));
        }
        match found.state(now) {
            BackgroundState::Running | BackgroundState::Ended => Ok((found.shown(now), false)),
            BackgroundState::Waiting => Ok((found.shown(now), true)),
            BackgroundState::Failed | BackgroundState::Unfinished => {
                let revision = Uuid::new_v4();
                let (began_at, until, error) = (None, None, None);
                let run = BackgroundRun { revision, asked_at: now, began_at, until, error, ..found.clone() };
                // An invocation that was faster has taken it up already, and this one leaves it to it.
                self.table.save_background_run(&run, Some(found.revision), now).await?;
                Ok((run.shown(now), true))
            }
        }
    }

    /// How far a run in the background is.
    pub(super) async fn background(&self, run_id: &str) -> Result<Answer, ReplayError> {
        let now = self.clock.now();
        let found = self.table.background_run(run_id, now).await?;
        let run = found.ok_or_else(|| ReplayError::UnknownRun(run_id.to_owned()))?;
        Ok(Answer::Background { background: Box::new(run.shown(now)) })
    }

    /// Carries out a run that was handed over, unless another invocation has.
    pub(super) async fn carry_out(
        &self,
        run_id: &str,
        request: Request,
        deadline: Instant,
    ) -> Result<Answer, ReplayError> {
        let now = self.clock.now();
        let found = self.table.background_run(run_id, now).await?;
        let found = found.ok_or_else(|| ReplayError::UnknownRun(run_id.to_owned()))?;
        match found.state(now) {
            BackgroundState::Ended => return self.background(run_id).await,
            BackgroundState::Running => return Err(found.outlast(deadline, now).await),
            BackgroundState::Waiting | BackgroundState::Failed | BackgroundState::Unfinished => {}
        }
        let left = SignedDuration::try_from(deadline.saturating_duration_since(Instant::now()) + HIDDEN_PAST_DEADLINE);
        let until = left.ok().and_then(|left| now.checked_add(left).ok());
        let begun =
            BackgroundRun { revision: Uuid::new_v4(), began_at: Some(now), until, error: None, ..found.clone() };
        if !self.table.save_background_run(&begun, Some(found.revision), now).await? {
            // Another invocation was faster. Lambda begins this one again, in case that one is killed.
            return Err(ReplayError::Busy(begun.lease()));
        }
        let tracked = Tracked(Mutex::new((begun, Instant::now())));
        let outcome = self.handle_tracked(request, deadline, Some(&tracked)).await;
        let now = self.clock.now();
        let ended = |run: &mut BackgroundRun| match &outcome {
            Ok(answer) => (run.report, run.ended_at) = (Some(json!(answer).to_string()), Some(now)),
            Err(error) => {
                run.error = Some(excerpt(&display_chain(error)));
                if matches!(error, ReplayError::Busy(_) | ReplayError::Moving { .. }) {
                    (run.began_at, run.until) = (None, None);
                }
            }
        };
        self.tell(&tracked, ended).await?;
        outcome
    }

    /// Tells how far a run is that somebody may watch, every few seconds.
    pub(super) async fn tell_progress(&self, tracked: Option<&Tracked>, report: &Report) {
        let Some(tracked) = tracked else { return };
        if tracked.0.lock().await.1.elapsed() < TELLS_EVERY {
            return;
        }
        if let Err(error) = self.tell(tracked, |run| run.report = Some(json!(report).to_string())).await {
            // It is told again, and the end of it in any case.
            tracing::warn!(error = display_chain(&error), "failed to save how far the run is");
        }
    }

    async fn tell(&self, tracked: &Tracked, change: impl FnOnce(&mut BackgroundRun)) -> Result<(), TableError> {
        let mut held = tracked.0.lock().await;
        let mut run = BackgroundRun { revision: Uuid::new_v4(), ..held.0.clone() };
        change(&mut run);
        if !self.table.save_background_run(&run, Some(held.0.revision), self.clock.now()).await? {
            tracing::warn!(run_id = run.run_id, "another invocation has taken up this run");
        }
        *held = (run, Instant::now());
        Ok(())
    }
}
