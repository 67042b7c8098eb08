//! Background runs: started under a name, carried out in an invocation of their own, and watched by
//! `status`.
//!
//! The name makes a repeated start the same start: clients that give up on an answer send a request
//! again. Each write of a run needs the one before it, so that only one of two invocations carries
//! out a run.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::api::{Answer, BackgroundState, BackgroundStatus, Start};
use super::error::ReplayError;
use super::ports::{PortTypes, Ports};
use super::progress::Tracked;
use super::run::{ANSWER_TIME, HIDDEN_PAST_DEADLINE};
use crate::domain::request::Requester;
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::events_table::{BackgroundRun, EventsTable, LeaseName, RunLease};
use crate::ports::queue::Redrive;
use crate::ports::service::Service;
use crate::runtime::logging::{audit, display_chain};

/// Lambda begins a run within an hour (`MaximumEventAgeInSeconds` in the template). One that waits
/// for longer was given up.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_mins(65);

/// While another run holds the lease, Lambda begins a run twice more, within three minutes
/// (`MaximumRetryAttempts`).
const GIVEN_UP_BUSY_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Clients that had no answer repeat a start within minutes. One that comes this long after the end
/// means another run.
const REPEATED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Invocations of a run, each begun by the one before. Lambda itself ends such a chain after about
/// 16 ("Use Lambda recursive loop detection to prevent infinite loops").
const MAX_INVOCATIONS: u32 = 12;

/// Writes of a run that keeps changing, before its cancellation counts as a failure.
const MAX_WRITES: usize = 5;

impl BackgroundRun {
    fn state(&self, now: Timestamp) -> BackgroundState {
        let given_up_after = if self.error.is_some() {
            GIVEN_UP_BUSY_AFTER
        } else {
            GIVEN_UP_AFTER
        };
        let is_running = self.ended_at.is_none() && self.until.is_some_and(|until| until > now);
        if self.cancelled_at.is_some() && !is_running {
            return BackgroundState::Ended;
        }
        match (self.ended_at, self.until, &self.error) {
            (Some(_), _, _) => BackgroundState::Ended,
            (None, None, _) if now.duration_since(self.asked_at) < given_up_after => {
                BackgroundState::Waiting
            }
            (None, Some(_), Some(_)) => BackgroundState::Failed,
            (None, Some(until), None) if until > now => BackgroundState::Running,
            (None, None, _) | (None, Some(_), None) => BackgroundState::Unfinished,
        }
    }

    /// Waits until the invocation that has begun the run has ended, whatever its outcome.
    ///
    /// Lambda begins an invocation that fails at most twice more, after one minute and after two.
    /// If the first was killed early, both would find the run still running: so one waits, and the
    /// other goes on with the run.
    async fn outlast(&self, deadline: Instant, now: Timestamp) -> ReplayError {
        let held = self.lease();
        let left = Duration::try_from(held.until.duration_since(now)).unwrap_or_default();
        sleep_until((Instant::now() + left).min(deadline - ANSWER_TIME)).await;
        ReplayError::Busy(held)
    }

    /// Checks that a request of this digest has started it.
    fn check_request(&self, digest: &str) -> Result<(), ReplayError> {
        let is_other = |own: &String| own != digest;
        if self.request_digest.as_ref().is_some_and(is_other) {
            return Err(ReplayError::NameTaken {
                run_id: self.run_id.clone(),
                why: "it was started with another request".to_owned(),
            });
        }
        Ok(())
    }

    /// Lease that keeps others out while the run is carried out.
    fn lease(&self) -> RunLease {
        let Self {
            revision,
            action,
            requester,
            asked_at,
            began_at,
            until,
            ..
        } = self.clone();
        let since = began_at.unwrap_or(asked_at);
        RunLease {
            owner: revision,
            action,
            by: requester.by,
            since,
            until: until.unwrap_or(since),
        }
    }

    fn status(self, now: Timestamp) -> BackgroundStatus {
        let state = self.state(now);
        let Self {
            run_id,
            action,
            requester,
            asked_at,
            began_at,
            ended_at,
            report,
            error,
            ..
        } = self;
        let report = report.and_then(|report| serde_json::from_str(&report).ok());
        BackgroundStatus {
            run_id,
            action,
            by: requester.by,
            why: requester.why,
            state,
            asked_at,
            began_at,
            ended_at,
            report,
            error,
        }
    }
}

/// Background runs of the events table.
pub(super) struct BackgroundRuns<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
}

/// Run that an invocation is asked to carry out.
pub(super) enum Turn {
    /// This invocation carries it out.
    Ours(Tracked),
    /// Another invocation has carried it out.
    Ended(BackgroundStatus),
}

impl<T: PortTypes> BackgroundRuns<'_, T> {
    /// Saves a background run, and returns whether it must still be handed over. Fails while
    /// another run holds the lease, for which this one would only wait.
    pub(super) async fn enlist(
        &self,
        start: &Start,
    ) -> Result<(BackgroundStatus, bool), ReplayError> {
        let now = self.ports.clock.now();
        if let Some(found) = self.ports.table.background_run(&start.run_id, now).await? {
            return self.enlist_again(found, start, now).await;
        }
        if let Some(held) = self.ports.table.lease(LeaseName::DeadLetters, now).await? {
            return Err(ReplayError::Busy(held));
        }
        if let Some(task) = self
            .ports
            .redrive
            .latest_move()
            .await?
            .filter(crate::ports::queue::MoveTask::is_active)
        {
            return Err(ReplayError::Moving { moved: task.moved });
        }
        let run = BackgroundRun {
            run_id: start.run_id.clone(),
            revision: Uuid::new_v4(),
            action: start.action.clone(),
            request_digest: Some(start.digest.clone()),
            requester: start.requester.clone(),
            asked_at: now,
            began_at: None,
            until: None,
            ended_at: None,
            invocations: 0,
            position: None,
            cancelled_at: None,
            report: None,
            error: None,
        };
        // A faster invocation has saved the same.
        self.ports
            .table
            .save_background_run(&run, None, now)
            .await?;
        Ok((run.status(now), true))
    }

    /// Starts a run again under its name: for a client that had no answer, or after the run was cut
    /// off.
    async fn enlist_again(
        &self,
        found: BackgroundRun,
        start: &Start,
        now: Timestamp,
    ) -> Result<(BackgroundStatus, bool), ReplayError> {
        let taken = |why: String| {
            Err(ReplayError::NameTaken {
                run_id: start.run_id.clone(),
                why,
            })
        };
        found.check_request(&start.digest)?;
        if let Some(ended_at) = found
            .ended_at
            .filter(|ended_at| now.duration_since(*ended_at) > REPEATED_WITHIN)
        {
            return taken(format!("it ended at {ended_at}"));
        }
        match found.state(now) {
            BackgroundState::Running | BackgroundState::Ended => Ok((found.status(now), false)),
            BackgroundState::Waiting => Ok((found.status(now), true)),
            BackgroundState::Failed | BackgroundState::Unfinished => {
                let revision = Uuid::new_v4();
                let (began_at, until, error) = (None, None, None);
                let run = BackgroundRun {
                    revision,
                    asked_at: now,
                    invocations: 0,
                    began_at,
                    until,
                    error,
                    ..found.clone()
                };
                // A faster invocation has started it again already.
                self.ports
                    .table
                    .save_background_run(&run, Some(found.revision), now)
                    .await?;
                Ok((run.status(now), true))
            }
        }
    }

    /// Ends a run at its next step, or one that is not running at once.
    pub(super) async fn cancel(
        &self,
        run_id: &str,
        requester: &Requester,
    ) -> Result<BackgroundStatus, ReplayError> {
        for _ in 0..MAX_WRITES {
            let now = self.ports.clock.now();
            let found = self.ports.table.background_run(run_id, now).await?;
            let found = found.ok_or_else(|| ReplayError::UnknownRun(run_id.to_owned()))?;
            let state = found.state(now);
            if state == BackgroundState::Ended {
                return Ok(found.status(now));
            }
            let mut run = BackgroundRun {
                revision: Uuid::new_v4(),
                cancelled_at: Some(now),
                ..found.clone()
            };
            if state != BackgroundState::Running {
                run.ended_at = Some(now);
                run.error = Some(format!("cancelled by {}", requester.by));
            }
            if self
                .ports
                .table
                .save_background_run(&run, Some(found.revision), now)
                .await?
            {
                audit!("cancel", requester, run_id, "cancelled background run");
                return Ok(run.status(now));
            }
            // The run has saved its progress in between.
        }
        let error = Service::DynamoDb.unavailable("the run keeps changing");
        Err(error.into())
    }

    pub(super) async fn status(&self, run_id: &str) -> Result<BackgroundStatus, ReplayError> {
        let now = self.ports.clock.now();
        let found = self.ports.table.background_run(run_id, now).await?;
        let run = found.ok_or_else(|| ReplayError::UnknownRun(run_id.to_owned()))?;
        Ok(run.status(now))
    }

    /// Begins a run that was handed over, unless another invocation has ended it. Fails while
    /// another carries it out.
    ///
    /// Its requester is that of the start. An invocation could give another, and another request.
    pub(super) async fn begin(
        &self,
        run_id: &str,
        digest: &str,
        deadline: Instant,
    ) -> Result<Turn, ReplayError> {
        let now = self.ports.clock.now();
        let found = self.ports.table.background_run(run_id, now).await?;
        let found = found.ok_or_else(|| ReplayError::UnknownRun(run_id.to_owned()))?;
        found.check_request(digest)?;
        match found.state(now) {
            BackgroundState::Ended => return self.status(run_id).await.map(Turn::Ended),
            BackgroundState::Running => return Err(found.outlast(deadline, now).await),
            BackgroundState::Waiting | BackgroundState::Failed | BackgroundState::Unfinished => {}
        }
        let left = SignedDuration::try_from(
            deadline.saturating_duration_since(Instant::now()) + HIDDEN_PAST_DEADLINE,
        );
        let until = left.ok().and_then(|left| now.checked_add(left).ok());
        let begun = BackgroundRun {
            revision: Uuid::new_v4(),
            began_at: Some(now),
            until,
            invocations: found.invocations.saturating_add(1),
            error: None,
            ..found.clone()
        };
        if !self
            .ports
            .table
            .save_background_run(&begun, Some(found.revision), now)
            .await?
        {
            // Another invocation was faster. Lambda begins this one again, in case that one is
            // killed.
            return Err(ReplayError::Busy(begun.lease()));
        }
        Ok(Turn::Ours(Tracked::new(begun)))
    }

    /// Returns whether a run that this invocation has carried out goes on in another one.
    pub(super) async fn goes_on(&self, run_id: &str) -> Result<bool, ReplayError> {
        let now = self.ports.clock.now();
        let found = self.ports.table.background_run(run_id, now).await?;
        Ok(found.is_some_and(|run| {
            run.state(now) == BackgroundState::Unfinished
                && run.position.is_some()
                && run.invocations < MAX_INVOCATIONS
        }))
    }

    /// Saves the outcome of a run.
    pub(super) async fn end(
        &self,
        tracked: &Tracked,
        outcome: Result<Answer, ReplayError>,
    ) -> Result<Answer, ReplayError> {
        let now = self.ports.clock.now();
        let ended = |run: &mut BackgroundRun| match &outcome {
            Ok(answer) => {
                run.report = Some(json!(answer).to_string());
                let goes_on = run.position.is_some() && run.cancelled_at.is_none();
                if goes_on && !answer.is_complete() {
                    // The same request goes on from there.
                    run.until = Some(now);
                } else {
                    run.ended_at = Some(now);
                }
            }
            Err(error) => {
                run.error = Some(excerpt(&display_chain(error)));
                if matches!(error, ReplayError::Busy(_) | ReplayError::Moving { .. }) {
                    (run.began_at, run.until) = (None, None);
                }
            }
        };
        tracked.save(self.ports, ended).await?;
        outcome
    }
}
