//! The journal of delivered events: its queue, the runs that write it, and the operator who sends
//! events again or erases them.

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::dead_letters::{Answer, ReplayError, Request};
use genesys_relay::domain::event_record::StateName;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::testing::{FakeClock, FakeQueue};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{OPERATOR_CALL, REPLAY_TIME, World, action, remote};
use crate::faults::{Crashed, Process, Service};
use crate::invariants::{label_of, place_of};
use crate::ports::Remote;
use crate::scenario::journal_request;

/// Longest time that a run is started again and again once the faults have ended.
const ENDED_WITHIN: Duration = Duration::from_hours(6);

impl World {
    /// The queue of the journal, where the relay keeps one.
    pub(super) fn journal_queue(&self, process: &Process) -> Option<Remote<FakeQueue>> {
        self.scenario.journal.as_ref()?;
        Some(remote(process, &self.journal, Service::Journal))
    }

    /// Starts the schedule that writes the journal, and the operator.
    pub(crate) fn start_journal(self: &Arc<Self>) {
        let Some(plan) = self.scenario.journal.clone() else {
            return;
        };
        self.every(
            plan.drained_every,
            json!({ "action": "journal", "by": "schedule" }),
        );
        for (after, request) in plan.runs {
            let world = Arc::clone(self);
            tokio::spawn(async move {
                sleep(after).await;
                drop(world.finish_run(&request).await);
            });
        }
        let Some(pause) = plan.operator_every else {
            return;
        };
        let world = Arc::clone(self);
        tokio::spawn(async move {
            let mut earlier = Vec::new();
            for number in 0.. {
                sleep(pause.mul_f64(world.random(|rng| rng.f64() * 2.0))).await;
                if world.faults.have_ended() {
                    return;
                }
                let (taken, queued) = world.invariants.nameable();
                let (now, length) = (FakeClock.now(), world.scenario.length);
                let request = world.random(|rng| {
                    journal_request(rng, number, now, length, (&taken, &queued), &earlier)
                });
                world
                    .invariants
                    .note(|| format!("operator request: {request}"));
                if request["runId"].is_string() && request["action"] != "cancel" {
                    earlier.push(request.clone());
                }
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.start_run(&request).await });
            }
        });
    }

    /// Carries out a request of an operator. One with a name is handed over, and Lambda begins it up
    /// to three times.
    async fn start_run(self: &Arc<Self>, request: &Value) -> Result<(), Crashed> {
        let is_dry = request["dryRun"] == true;
        match request["action"].as_str() {
            Some("resend") if !is_dry => self.invariants.resend_asked(request),
            Some("erase") => self.invariants.erasure_asked(request),
            _ => {}
        }
        let Request::Start(start) = Self::parse(request) else {
            let run = request["runId"].as_str().unwrap_or_default();
            if request["action"] == "cancel" {
                self.invariants.resend_cancel_asked(run);
            }
            let answer = self.replay_for(request, request).await?;
            if request["action"] == "cancel" && answer.is_ok() {
                self.invariants.resend_cancelled(run);
            }
            return Ok(());
        };
        let process = self.process("start", OPERATOR_CALL);
        let function = self.dead_letters_of(&process);
        let started = process.invoke(REPLAY_TIME, function.enlist(&start)).await?;
        self.invariants.note(|| match &started {
            Ok((status, is_open)) => format!("start: {}, {is_open}", json!(status)),
            Err(error) => format!("start: {error}"),
        });
        match started {
            Ok((_, true)) => {
                self.invariants.resend_started(request);
                self.carry_out(&start.payload, request).await;
            }
            Ok((status, false)) => self.note_report(request, &json!(status), &process),
            Err(_) => {}
        }
        Ok(())
    }

    /// Begins a run up to three times while it fails, and in further invocations while the time of
    /// one is not enough.
    async fn carry_out(&self, payload: &Value, asked: &Value) {
        let run_id = asked["runId"].as_str().unwrap_or_default();
        let mut failures = 0;
        while failures < 3 {
            if !matches!(self.replay_for(payload, asked).await, Ok(Ok(_))) {
                failures += 1;
                sleep(Duration::from_mins(failures)).await;
                continue;
            }
            let process = self.process("look", OPERATOR_CALL);
            let function = self.dead_letters_of(&process);
            let goes_on = process.invoke(REPLAY_TIME, function.goes_on(run_id)).await;
            if !matches!(goes_on, Ok(Ok(true))) {
                return;
            }
            failures = 0;
            self.faults.count("runs that went on in another invocation");
        }
    }

    /// Starts a run again until it has ended.
    async fn finish_run(self: &Arc<Self>, request: &Value) -> Result<(), String> {
        let began = Instant::now();
        loop {
            // A planned crash is no other than a failure.
            let _ = self.start_run(request).await;
            if let Some(run) = request["runId"].as_str() {
                let status = json!({ "action": "status", "runId": run });
                let _ = self.replay_for(&status, request).await;
            }
            if !self.invariants.is_open(request) {
                return Ok(());
            }
            if began.elapsed() > ENDED_WITHIN && self.faults.have_ended() {
                return Err(format!("{request} does not end"));
            }
            sleep(Duration::from_mins(5)).await;
        }
    }

    /// Carries out a request, which may be the payload of a run that `asked` has started.
    async fn replay_for(
        &self,
        request: &Value,
        asked: &Value,
    ) -> Result<Result<Answer, ReplayError>, Crashed> {
        let process = self.process(action(request), OPERATOR_CALL);
        let answer = self.replay_by(&process, request).await;
        if let Ok(Ok(answer)) = &answer {
            self.note_report(asked, &json!(answer), &process);
        }
        answer
    }

    /// Notes the report of a run that has ended, and searches for what is left of what it erased.
    /// `process` has given the answer.
    fn note_report(&self, asked: &Value, answer: &Value, process: &Process) {
        let is_dry = asked["dryRun"] == true;
        if !matches!(asked["action"].as_str(), Some("resend" | "erase")) || is_dry {
            return;
        }
        let background = &answer["background"];
        let answer = if background.is_object() {
            background
        } else {
            answer
        };
        let report = if answer["report"].is_object() {
            &answer["report"]
        } else {
            answer
        };
        if answer["state"].is_string() && answer["state"] != "ended" {
            return;
        }
        self.invariants.run_ended(asked, report);
        if asked["action"] == "erase" && report["complete"] == true {
            self.faults.count("runs that erased");
            let problem = self.erased_content(false);
            if let Some(problem) = problem.or_else(|| self.left_in_queue(asked, process)) {
                self.invariants.violate(&problem);
            }
        }
    }

    /// The first message that a run has left of what it erased: in the journal's queue, or in a queue
    /// of dead letters. SQS may have moved a message there since the run searched it.
    fn left_in_queue(&self, asked: &Value, process: &Process) -> Option<String> {
        let queues = [
            (&self.dead_letters, false),
            (&self.line.dead_letters, false),
            (&self.journal, true),
        ];
        queues.into_iter().find_map(|(queue, is_journal)| {
            let searched = self.invariants.searched_by(process, queue.is_fifo())?;
            let is_left = |message: &Message, sent_at| {
                let (id, label) = (
                    self.id_of(message, sent_at),
                    label_of(message.body.as_bytes()),
                );
                let is_missed = is_journal || searched.contains(&place_of(message, sent_at));
                let is_left = is_missed && self.invariants.is_erased_by(asked, &id, &label);
                is_left.then_some((id, label))
            };
            // SQS may hand out once more what it has deleted; the next sweep removes that.
            let left = queue.held_undeleted(is_left).into_iter().flatten().next()?;
            Some(format!(
                "{left:?} is left in a queue that the run which erased it has searched"
            ))
        })
    }

    /// The first place that has something of what is erased. In the queues of events it may be until
    /// their messages are received, and until then SQS may move it to the dead letters.
    fn erased_content(&self, is_at_end: bool) -> Option<String> {
        if !self.invariants.has_erasures() {
            return None;
        }
        let now = FakeClock.now();
        let bodies = self.table.kept_bodies();
        if let Some(id) = bodies
            .iter()
            .find(|id| self.invariants.is_record_erased(id))
        {
            return Some(format!("the body of {id} is kept although it is erased"));
        }
        for record in self.table.records() {
            if record.is_expired(now) || !self.invariants.is_record_erased(&record.event_id) {
                continue;
            }
            let text = json!(record).to_string();
            let has_content = text.contains("\"c-") || !label_of(text.as_bytes()).is_empty();
            if record.state.name() != StateName::Erased || has_content {
                return Some(format!(
                    "the record of {} is left of what is erased: {text}",
                    record.event_id
                ));
            }
        }
        if let Some(problem) = self.invariants.erased_line(self.archive.contents().iter()) {
            return Some(problem);
        }
        if !is_at_end {
            return None;
        }
        let queues = [
            &self.events,
            &self.dead_letters,
            &self.line.queue,
            &self.line.dead_letters,
            &self.journal,
        ];
        let held = queues.iter().flat_map(|queue| {
            queue.held(|message, sent_at| {
                (
                    self.id_of(message, sent_at),
                    label_of(message.body.as_bytes()),
                )
            })
        });
        let mut held = held.filter(|(id, label)| self.invariants.is_erased(id, label));
        held.next()
            .map(|left| format!("{left:?} is left in a queue although it is erased"))
    }

    /// Writes the journal to its end, and ends all runs that have begun, without faults. Then one
    /// more resend of everything.
    pub(crate) async fn end_journal(self: &Arc<Self>) -> Result<(), String> {
        if self.scenario.journal.is_none() {
            return Ok(());
        }
        self.write_journal().await?;
        for request in self.invariants.open_runs() {
            self.finish_run(&request).await?;
        }
        let since = FakeClock.now() - self.scenario.length - Duration::from_hours(1);
        self.cancel_a_run(&json!({ "since": since })).await?;
        let last = json!({ "action": "resend", "runId": "last", "filter": { "since": since }, "why": "lost" });
        self.finish_run(&last).await
    }

    /// Cancels a slow resend of everything while it sends.
    async fn cancel_a_run(self: &Arc<Self>, filter: &Value) -> Result<(), String> {
        let slow = json!({
            "action": "resend", "runId": "slow", "filter": filter, "ratePerSecond": 1, "why": "lost",
        });
        let (world, request) = (Arc::clone(self), slow.clone());
        let run = tokio::spawn(async move { world.start_run(&request).await });
        sleep(Duration::from_secs(8)).await;
        // A planned crash, or the run has ended already.
        let _ = self
            .start_run(&json!({ "action": "cancel", "runId": "slow" }))
            .await;
        drop(run.await);
        if self.invariants.is_open(&slow) {
            self.finish_run(&slow).await?;
        }
        Ok(())
    }

    /// Checks what must hold of the journal, of resends and of erasures when all is done.
    pub(crate) async fn check_journal(self: &Arc<Self>) -> Result<(), String> {
        if self.scenario.journal.is_none() {
            return Ok(());
        }
        self.write_journal().await?;
        for (what, count) in self.invariants.counts() {
            self.faults.count_many(what, count);
        }
        self.invariants
            .check_journal(|label| self.is_poison(label))?;
        self.erased_content(true).map_or(Ok(()), Err)
    }

    async fn write_journal(self: &Arc<Self>) -> Result<(), String> {
        let began = Instant::now();
        while !self.journal.messages().is_empty() {
            if began.elapsed() > ENDED_WITHIN {
                return Err("the journal's queue is not empty".to_owned());
            }
            drop(
                self.replay(&json!({ "action": "journal", "by": "schedule" }))
                    .await,
            );
            sleep(Duration::from_mins(5)).await;
        }
        Ok(())
    }
}
