//! The path of an event, from the public URL to the target or the dead letters and back, walked with
//! check events.
//!
//! Each step is a check. The first step that fails ends the walk; the steps behind it are not here,
//! so that one fault is one failure. Whatever is left then expires within an hour, but for a dead
//! letter, which the next run of the archive removes.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{Check, CheckOutcome, Relay, RelayError, WebRequest, Webhook};
use crate::dead_letters::api::{
    Answer, DiscardRequest, EventDetails, ForgetRequest, ListRequest, ReplayRequest, Report,
    RequestBody, ShowRequest, Status, StatusAnswer,
};
use crate::domain::check::{CheckAttempt, CheckEvent, MAX_ATTEMPTS};
use crate::domain::event::{EventId, Source};
use crate::domain::event_record::StateName;
use crate::domain::failure::ReasonKind;
use crate::domain::mac::hmac_sha256;
use crate::ingest::authenticate::{SECRET_HEADER, SIGNATURE_HEADER};
use crate::ports::secrets::SenderSecrets;

pub const ACCEPTED: &str = "signed webhook is accepted";
pub const UNSIGNED: &str = "unsigned webhook is refused";
pub const WRONG: &str = "wrong proof is refused";
pub const CLOSED: &str = "dead letters are closed to the public";
pub const ANSWERS: &str = "look function answers";
pub const BREAKER: &str = "breaker lets events through";
pub const DELIVERED: &str = "event is delivered";
pub const FORGOTTEN: &str = "record of a check is deleted";
pub const RETRIED: &str = "failed event is retried";
pub const DEAD: &str = "refused event becomes a dead letter";
pub const LISTED: &str = "dead letter is listed";
pub const REPLAYED: &str = "replayed event is attempted again";
pub const DISCARDED: &str = "discard ends a dead letter";
pub const LEFT: &str = "nothing is left behind";

/// All steps of a whole walk, in their order.
const WHOLE: [&str; 14] = [
    ANSWERS, BREAKER, ACCEPTED, UNSIGNED, WRONG, CLOSED, DELIVERED, FORGOTTEN, RETRIED, DEAD,
    LISTED, REPLAYED, DISCARDED, LEFT,
];

/// The steps of a walk that leaves the dead letters alone.
const SHORT: [&str; 6] = [ANSWERS, BREAKER, ACCEPTED, UNSIGNED, DELIVERED, LEFT];

/// Upper bound on one step.
const STEP_TIME: Duration = Duration::from_secs(40);

/// The end of the walk that is kept for cleaning up.
const CLEAN_UP_TIME: Duration = Duration::from_secs(20);

/// States that an event of a check leaves no more.
const ENDED: [StateName; 4] = [
    StateName::Delivered,
    StateName::Discarded,
    StateName::Archived,
    StateName::Erased,
];

/// The pause between two looks at an event.
const PAUSE: Duration = Duration::from_millis(500);

/// Upper bound on the dead letters among which one is replayed: a replay receives all of them.
const MOST_DEAD_LETTERS: u64 = 1000;

/// The name of the walk in the history of records and in the audit log.
const WHY: &str = "check of the path";

/// The proof of a sender, by a secret of the relay.
#[derive(Clone)]
pub enum Signer {
    /// The signature of Open Messaging, by this secret.
    Signature(String),
    /// The header with this secret.
    Secret(String),
}

impl Signer {
    /// A signer by the first secret; `None` where the relay has none of a sender.
    pub fn of(secrets: &SenderSecrets) -> Option<Self> {
        let signature = secrets.open_messaging.first().cloned().map(Self::Signature);
        signature.or_else(|| secrets.webhook.first().cloned().map(Self::Secret))
    }

    fn prove(&self, body: &[u8]) -> (HeaderName, Option<HeaderValue>) {
        match self {
            Self::Signature(secret) => {
                let mac = BASE64_STANDARD.encode(hmac_sha256(secret.as_bytes(), &[body]));
                (
                    SIGNATURE_HEADER,
                    HeaderValue::try_from(format!("sha256={mac}")).ok(),
                )
            }
            Self::Secret(secret) => (SECRET_HEADER, HeaderValue::from_str(secret).ok()),
        }
    }

    /// A signer of the same kind whose proof holds under no secret.
    fn wrong(&self) -> Self {
        let secret = Uuid::new_v4().to_string();
        match self {
            Self::Signature(_) => Self::Signature(secret),
            Self::Secret(_) => Self::Secret(secret),
        }
    }
}

/// A walk along the path of one relay.
pub struct Path<W, R> {
    pub webhook: W,
    pub relay: R,
    /// The proof of its events; `None` where the relay has no secret of a sender.
    pub signer: Option<Signer>,
    /// True to send the first event to the target.
    pub to_target: bool,
    /// The requester in the history of records; `None` for the caller's own name.
    pub by: Option<String>,
    pub run: Uuid,
    /// The end of the walk.
    pub deadline: Instant,
}

/// A step that did not succeed.
enum Fault {
    Failed(String, &'static str),
    NotAllowed(String),
    NotHere(String),
}

type Passed<T> = Result<(T, String, Option<Duration>), Fault>;

/// The steps so far.
#[derive(Default)]
struct Trail {
    checks: Vec<Check>,
    broken: Option<&'static str>,
}

impl Trail {
    /// Notes a step. Returns its value, if it succeeded.
    fn note<T>(&mut self, name: &'static str, passed: Passed<T>) -> Option<T> {
        let (check, value) = match passed {
            Ok((value, evidence, took)) => {
                let check = Check::ok(name, evidence);
                (took.into_iter().fold(check, Check::took), Some(value))
            }
            Err(Fault::Failed(evidence, runbook)) => (Check::failed(name, evidence, runbook), None),
            Err(Fault::NotAllowed(permission)) => (Check::not_allowed(name, permission), None),
            Err(Fault::NotHere(why)) => (Check::not_here(name, why), None),
        };
        self.checks.push(check);
        value
    }

    /// Notes a step that all later ones need.
    fn need<T>(&mut self, name: &'static str, passed: Passed<T>) -> Option<T> {
        let value = self.note(name, passed);
        if value.is_none() {
            self.broken = Some(name);
        }
        value
    }

    /// Returns whether a step was taken.
    fn is_noted(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.name == name)
    }

    /// Returns whether a step was taken and succeeded.
    fn is_ok(&self, name: &str) -> bool {
        let is_ok = |check: &Check| check.name == name && check.outcome == CheckOutcome::Ok;
        self.checks.iter().any(is_ok)
    }

    /// All steps of this list: those that were not taken are not here.
    fn end(mut self, names: &[&'static str]) -> Vec<Check> {
        for name in names {
            if !self.is_noted(name) {
                let failed = self.broken.unwrap_or(ACCEPTED);
                self.checks.push(Check::because_failed(*name, failed));
            }
        }
        self.checks
    }
}

impl<W: Webhook, R: Relay> Path<W, R> {
    /// Takes the whole walk, with an event that dies. It sends nothing that is to be accepted unless
    /// the stack knows check events and its breaker lets them through.
    pub async fn check(&self) -> Vec<Check> {
        let mut trail = Trail::default();
        let attempts = if self.to_target {
            dying(CheckAttempt::Target)
        } else {
            vec![CheckAttempt::Deliver]
        };
        let first = self.event("delivery", attempts);
        let status = self.ready(&mut trail).await;
        let accepted = match &status {
            Some(_) => trail.need(ACCEPTED, self.accept(&first).await).is_some(),
            None => false,
        };
        self.refusals(&mut trail, &first, accepted).await;
        let closed = self.status_of(WebRequest::DeadLetters).await;
        trail.note(
            CLOSED,
            refused(closed, &[401, 403], accepted, "operate/http-api.md"),
        );
        if let Some(status) = status.filter(|_| accepted) {
            let second = self.event("dead letter", dying(CheckAttempt::Retry));
            if self
                .walk(&mut trail, &status, &first, &second)
                .await
                .is_none()
            {
                self.clean_up(&mut trail, &first, &second).await;
            }
        }
        trail.end(&WHOLE)
    }

    /// Takes the walk of the canary, which leaves the dead letters alone. It sends nothing while the
    /// breaker holds events back.
    pub async fn check_delivery(&self) -> Vec<Check> {
        let mut trail = Trail::default();
        let event = self.event("canary", vec![CheckAttempt::Retry, CheckAttempt::Deliver]);
        let _ = self.walk_short(&mut trail, &event).await;
        trail.end(&SHORT)
    }

    async fn walk_short(&self, trail: &mut Trail, event: &CheckEvent) -> Option<()> {
        self.ready(trail).await?;
        let accepted = trail.need(ACCEPTED, self.accept(event).await).is_some();
        let unsigned = self.status_of(webhook(None, event)).await;
        trail.note(UNSIGNED, refused(unsigned, &[401], accepted, UNSIGNED_PAGE));
        if !accepted {
            return None;
        }
        trail.need(DELIVERED, self.delivered(event, 2).await)?;
        trail.need(LEFT, self.forget(&event.id(), self.step_end()).await)
    }

    /// The steps before the first event.
    async fn ready(&self, trail: &mut Trail) -> Option<Box<Status>> {
        let status = trail.need(ANSWERS, self.status().await)?;
        trail.need(BREAKER, breaker(&status))?;
        Some(status)
    }

    /// The steps behind the first answer.
    async fn walk(
        &self,
        trail: &mut Trail,
        status: &Status,
        first: &CheckEvent,
        second: &CheckEvent,
    ) -> Option<()> {
        trail.need(DELIVERED, self.delivered(first, 1).await)?;
        // Before anything dies: only who may act can remove a dead letter.
        trail.need(FORGOTTEN, self.forget(&first.id(), self.step_end()).await)?;
        let dead_letters = status.dead_letters.total();
        if dead_letters > MOST_DEAD_LETTERS {
            let why = format!(
                "the dead-letter queue holds {dead_letters} messages, and a replay would receive all of them; \
                 at most {MOST_DEAD_LETTERS} are searched"
            );
            for name in [RETRIED, DEAD, LISTED, REPLAYED, DISCARDED, LEFT] {
                trail.note::<()>(name, Err(Fault::NotHere(why.clone())));
            }
            return Some(());
        }
        let id = second.id();
        if let Err(fault) = self.accept(second).await {
            return trail.need(RETRIED, Err(fault));
        }
        self.walk_dead_letter(trail, &id).await?;
        trail.need(LEFT, self.forget(&id, self.step_end()).await)
    }

    /// Ends the events of a walk that did not reach its end, and says which one is left.
    async fn clean_up(&self, trail: &mut Trail, first: &CheckEvent, second: &CheckEvent) {
        let end = self.deadline.min(Instant::now() + CLEAN_UP_TIME);
        let mut left = Vec::new();
        let is_forgotten = trail.is_ok(FORGOTTEN);
        let is_sent = trail.is_noted(RETRIED);
        for (event, is_open) in [(first, !is_forgotten), (second, is_sent)] {
            if !is_open {
                continue;
            }
            let id = event.id();
            if let Err(state) = self.end_event(&id, end).await {
                left.push(format!(
                    "the event {id} is left ({state}); in an hour its record expires, and a dead letter goes with the next \
                     run of the archive, or with {}",
                    json!(discard(&id, None))
                ));
            }
        }
        if !left.is_empty() && !trail.is_noted(LEFT) {
            trail.note::<()>(LEFT, Err(Fault::NotHere(left.join("; "))));
        }
    }

    /// Ends one event: discards it where it is dead, and forgets it. Fails with its state.
    async fn end_event(&self, id: &EventId, end: Instant) -> Result<(), String> {
        let show = RequestBody::Show(ShowRequest {
            event_id: id.clone(),
            by: self.by.clone(),
        });
        loop {
            let state = match self.ask(&show, end).await {
                Ok(Answer::Show(shown)) => match shown.state {
                    StateName::Dead => {
                        let discarded = self.act(discard(id, self.by.clone()), end).await;
                        discarded.map_err(|_| describe(&shown))?;
                        continue;
                    }
                    StateName::Delivered | StateName::Discarded => {
                        let forgotten = self.forget(id, end).await;
                        return forgotten.map(drop).map_err(|_| describe(&shown));
                    }
                    _ => describe(&shown),
                },
                Ok(other) => return Err(format!("answered {}", json!(other)["action"])),
                Err(RelayError::Refused { kind, .. }) if kind == "NotFound" => {
                    "no worker has claimed it".to_owned()
                }
                Err(error) => error.to_string(),
            };
            self.pause(end, String::new).await.map_err(|_| state)?;
        }
    }

    async fn walk_dead_letter(&self, trail: &mut Trail, id: &EventId) -> Option<()> {
        let retried = |shown: &EventDetails| shown.attempts_made >= 2;
        let shown = self.watch(id, "not attempted twice", &ENDED, retried).await;
        trail.need(
            RETRIED,
            shown.map(|shown| {
                let first = shown
                    .attempts
                    .first()
                    .and_then(|attempt| attempt.status_code);
                let evidence = format!("attempted again after a {}", first.unwrap_or_default());
                let took = between(nth(&shown, 0), nth(&shown, 1).unwrap_or(shown.last_seen_at));
                ((), evidence, took)
            }),
        )?;
        let died = |shown: &EventDetails| shown.state == StateName::Dead;
        let shown = self.watch(id, "not dead", &ENDED, died).await;
        trail.need(
            DEAD,
            shown.and_then(|shown| match (shown.reason, shown.dead_at) {
                (Some(ReasonKind::Permanent), Some(dead_at)) => {
                    let evidence =
                        format!("DEAD as permanent after {} attempts", shown.attempts_made);
                    Ok(((), evidence, between(nth(&shown, 0), dead_at)))
                }
                (reason, _) => Err(Fault::Failed(
                    format!("it is DEAD as {reason:?}, and a refused event dies as permanent"),
                    "operate/runbooks/dead-letters.md",
                )),
            }),
        )?;
        trail.need(LISTED, self.listed(id).await)?;
        let began = Instant::now();
        let replay = RequestBody::Replay(ReplayRequest {
            event_ids: Some(vec![id.clone()]),
            by: self.by.clone(),
            why: Some(WHY.to_owned()),
            ..ReplayRequest::default()
        });
        let again =
            |shown: &EventDetails| shown.attempts_made >= 3 && shown.state == StateName::Dead;
        let shown = match self.act(replay, self.step_end()).await {
            Ok(_) => {
                self.watch(id, "not attempted a third time", &ENDED, again)
                    .await
            }
            Err(fault) => Err(fault),
        };
        trail.need(
            REPLAYED,
            shown.map(|shown| {
                let evidence = format!(
                    "attempt {} after the replay, and DEAD again",
                    shown.attempts_made
                );
                ((), evidence, Some(began.elapsed()))
            }),
        )?;
        let began = Instant::now();
        let ended = |shown: &EventDetails| shown.state == StateName::Discarded;
        let shown = match self
            .act(discard(id, self.by.clone()), self.step_end())
            .await
        {
            Ok(_) => self.watch(id, "not discarded", &[], ended).await,
            Err(fault) => Err(fault),
        };
        trail.need(
            DISCARDED,
            shown.map(|_| ((), "DISCARDED".to_owned(), Some(began.elapsed()))),
        )
    }

    fn event(&self, name: &str, attempts: Vec<CheckAttempt>) -> CheckEvent {
        CheckEvent {
            run: self.run,
            name: name.to_owned(),
            attempts,
        }
    }

    /// Sends an event with a valid proof.
    async fn accept(&self, event: &CheckEvent) -> Passed<()> {
        let Some(signer) = &self.signer else {
            return Err(Fault::NotHere(
                "the stack's secret has neither openMessagingSecrets nor webhookSecrets".to_owned(),
            ));
        };
        let began = Instant::now();
        match self.status_of(webhook(Some(signer), event)).await {
            Ok(200) => Ok(((), "answered 200".to_owned(), Some(began.elapsed()))),
            Ok(401) => Err(Fault::Failed(
                "answered 401: the function compares with another secret than the one that was read here"
                    .to_owned(),
                "operate/runbooks/wrong-secret.md",
            )),
            Ok(status) => Err(Fault::Failed(
                format!("answered {status} in place of 200"),
                "operate/runbooks/nothing-arrives.md",
            )),
            Err(error) => Err(Fault::Failed(error, "operate/runbooks/nothing-arrives.md")),
        }
    }

    /// Sends what must be refused.
    async fn refusals(&self, trail: &mut Trail, event: &CheckEvent, accepted: bool) {
        let unsigned = self.status_of(webhook(None, event)).await;
        trail.note(UNSIGNED, refused(unsigned, &[401], accepted, UNSIGNED_PAGE));
        let wrong = match self.signer.as_ref().map(Signer::wrong) {
            Some(signer) => {
                let wrong = self.status_of(webhook(Some(&signer), event)).await;
                refused(wrong, &[401], accepted, UNSIGNED_PAGE)
            }
            None => Err(Fault::NotHere(
                "the relay has no secret of a sender".to_owned(),
            )),
        };
        trail.note(WRONG, wrong);
    }

    /// Sends a request, and returns the status of the answer.
    async fn status_of(&self, request: WebRequest) -> Result<u16, String> {
        timeout_at(self.step_end(), self.webhook.send(request))
            .await
            .unwrap_or_else(|_| Err("the URL did not answer in time".to_owned()))
    }

    async fn status(&self) -> Passed<Box<Status>> {
        let began = Instant::now();
        let status = match self.ask(&RequestBody::Status, self.step_end()).await? {
            Answer::Status(StatusAnswer::Relay(status)) => status,
            other => return Err(unexpected(&other)),
        };
        let took = began.elapsed();
        // An older stack would send a check event to its target.
        let checks = RequestBody::List(ListRequest {
            source: Some(Source::Check),
            limit: Some(1),
            by: self.by.clone(),
            ..ListRequest::default()
        });
        match self.ask(&checks, self.step_end()).await {
            Ok(_) => {
                let evidence = "answered with the status of the relay".to_owned();
                Ok((status, evidence, Some(took)))
            }
            Err(RelayError::Refused { kind, message }) if kind == "InvalidRequest" => {
                Err(Fault::NotHere(format!(
                    "the stack is of a version that knows no check events, and nothing was sent to it: {message}"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until an event is delivered that is to be attempted so often.
    async fn delivered(&self, event: &CheckEvent, attempts: u32) -> Passed<()> {
        let delivered = |shown: &EventDetails| shown.state == StateName::Delivered;
        let ends = [&ENDED[..], &[StateName::Dead]].concat();
        let shown = self
            .watch(&event.id(), "not delivered", &ends, delivered)
            .await?;
        if shown.source != Source::Check {
            return Err(Fault::Failed(
                format!(
                    "the target got it as an event of the source {}: the processor is of a version that knows no checks",
                    shown.source
                ),
                "operate/runbooks/redeploy-and-rollback.md",
            ));
        }
        if shown.attempts_made < attempts {
            return Err(Fault::Failed(
                format!(
                    "delivered at attempt {}, and {attempts} were due",
                    shown.attempts_made
                ),
                "operate/runbooks/processor-failing.md",
            ));
        }
        let evidence = format!("DELIVERED at attempt {}", shown.attempts_made);
        let last = shown
            .attempts
            .last()
            .map_or(shown.last_seen_at, |attempt| attempt.at);
        Ok(((), evidence, between(Some(shown.received_at), last)))
    }

    /// Waits until a dead letter is on the list.
    async fn listed(&self, id: &EventId) -> Passed<()> {
        let shown = self.watch(id, "not dead", &[], |_| true).await?;
        let (began, end) = (Instant::now(), self.step_end());
        loop {
            let list = RequestBody::List(ListRequest {
                source: Some(Source::Check),
                since: Some(shown.received_at),
                by: self.by.clone(),
                ..ListRequest::default()
            });
            match self.ask(&list, self.step_end()).await? {
                Answer::List(list) if list.items.iter().any(|item| item.event_id == *id) => {
                    let evidence = "on the list of source check".to_owned();
                    return Ok(((), evidence, Some(began.elapsed())));
                }
                Answer::List(_) => {}
                other => return Err(unexpected(&other)),
            }
            self.pause(end, || {
                "its record is DEAD, and the list does not show it".to_owned()
            })
            .await?;
        }
    }

    /// Deletes the record of an event.
    async fn forget(&self, id: &EventId, end: Instant) -> Passed<()> {
        let began = Instant::now();
        let request = RequestBody::Forget(ForgetRequest {
            event_ids: vec![id.clone()],
            by: self.by.clone(),
            why: Some(WHY.to_owned()),
        });
        self.act(request, end).await?;
        Ok((
            (),
            "its record is deleted".to_owned(),
            Some(began.elapsed()),
        ))
    }

    /// Looks at an event until it is as it should be, or in a state in which it never will be.
    async fn watch(
        &self,
        id: &EventId,
        late: &str,
        ends: &[StateName],
        is_reached: impl Fn(&EventDetails) -> bool,
    ) -> Result<Box<EventDetails>, Fault> {
        let show = RequestBody::Show(ShowRequest {
            event_id: id.clone(),
            by: self.by.clone(),
        });
        let end = self.step_end();
        let mut seen = "the look function did not answer".to_owned();
        loop {
            match self.ask(&show, end).await {
                Ok(Answer::Show(shown)) if is_reached(&shown) => return Ok(shown),
                Ok(Answer::Show(shown)) if ends.contains(&shown.state) => {
                    return Err(Fault::Failed(
                        format!("{late}: {}", describe(&shown)),
                        "operate/runbooks/processor-failing.md",
                    ));
                }
                Ok(Answer::Show(shown)) => seen = describe(&shown),
                Ok(other) => return Err(unexpected(&other)),
                Err(RelayError::Refused { kind, .. }) if kind == "NotFound" => {
                    "no worker has claimed it".clone_into(&mut seen);
                }
                Err(error @ RelayError::NotAllowed(_)) => return Err(error.into()),
                // The last look may be cut short.
                Err(_) if Instant::now() >= end => {}
                // The next look may succeed.
                Err(error) => seen = error.to_string(),
            }
            self.pause(end, || format!("{late} in time: {seen}"))
                .await?;
        }
    }

    /// Carries out a change of one event. Another run may be in its way for a while.
    async fn act(&self, request: RequestBody, end: Instant) -> Result<Report, Fault> {
        let request = json!(request);
        loop {
            let answered = timeout_at(end, self.relay.act(request.clone())).await;
            let why = match answered.map(|answer| answer.and_then(parse)) {
                Ok(Ok(
                    Answer::Replay(report) | Answer::Discard(report) | Answer::Forget(report),
                )) => {
                    // After an answer that was lost, nothing is left to forget.
                    let is_gone = request["action"] == "forget" && report.failures == 0;
                    if report.done.total() > 0 || is_gone {
                        return Ok(report);
                    }
                    let failed = report.failed.first().map(|failed| failed.error.clone());
                    failed.unwrap_or_else(|| "the function found no such event".to_owned())
                }
                Ok(Ok(other)) => return Err(unexpected(&other)),
                Ok(Err(error @ RelayError::NotAllowed(_))) => return Err(error.into()),
                Ok(Err(RelayError::Refused { kind, message })) if kind == "Busy" => {
                    if Instant::now() + PAUSE > end {
                        return Err(Fault::NotHere(format!(
                            "another run was in the way: {message}"
                        )));
                    }
                    message
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the replay function did not answer in time".to_owned(),
            };
            self.pause(end, || format!("{} failed: {why}", request["action"]))
                .await?;
        }
    }

    async fn ask(&self, request: &RequestBody, end: Instant) -> Result<Answer, RelayError> {
        timeout_at(end, self.relay.look(json!(request)))
            .await
            .map_err(|_| {
                RelayError::Unreachable("the look function did not answer in time".to_owned())
            })?
            .and_then(parse)
    }

    /// The end of a step that begins now. Time is left for what must be cleaned up.
    fn step_end(&self) -> Instant {
        (self.deadline - CLEAN_UP_TIME).min(Instant::now() + STEP_TIME)
    }

    /// Waits before the next look, unless the step has no time left for one.
    async fn pause(&self, end: Instant, late: impl FnOnce() -> String) -> Result<(), Fault> {
        if Instant::now() + PAUSE > end {
            return Err(Fault::Failed(
                late(),
                "operate/runbooks/processor-failing.md",
            ));
        }
        sleep(PAUSE).await;
        Ok(())
    }
}

/// The page about senders that are not authenticated.
const UNSIGNED_PAGE: &str = "operate/runbooks/wrong-secret.md";

impl From<RelayError> for Fault {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::NotAllowed(permission) => Self::NotAllowed(permission),
            RelayError::Refused { .. } | RelayError::Unreachable(_) => {
                Self::Failed(error.to_string(), "operate/runbooks/README.md")
            }
        }
    }
}

/// The attempts of an event that dies at the second one, and however often it is replayed.
fn dying(first: CheckAttempt) -> Vec<CheckAttempt> {
    let mut attempts = vec![CheckAttempt::Refuse; MAX_ATTEMPTS];
    attempts[0] = first;
    attempts
}

fn webhook(signer: Option<&Signer>, event: &CheckEvent) -> WebRequest {
    let body = event.body();
    let proof = signer.map(|signer| signer.prove(&body));
    WebRequest::Webhook {
        proof: proof.and_then(|(name, value)| Some((name, value?))),
        body,
    }
}

/// A step whose request must be refused. Where not even a valid request was accepted, any other
/// answer says no more than that.
fn refused(
    answer: Result<u16, String>,
    expected: &[u16],
    accepted: bool,
    runbook: &'static str,
) -> Passed<()> {
    let evidence = match answer {
        Ok(status) if expected.contains(&status) => {
            return Ok(((), format!("answered {status}"), None));
        }
        Ok(status @ 200..=299) => {
            let evidence = format!("answered {status}: it is open to everyone");
            return Err(Fault::Failed(evidence, runbook));
        }
        Ok(status) => format!("answered {status}"),
        Err(error) => error,
    };
    if accepted {
        Err(Fault::Failed(evidence, runbook))
    } else {
        Err(Fault::NotHere("no event was accepted either".to_owned()))
    }
}

fn breaker(status: &Status) -> Passed<()> {
    let Some(breaker) = &status.breaker else {
        return Ok(((), "no breaker has run yet".to_owned(), None));
    };
    let evidence = format!(
        "{} since {:.0}: {}",
        breaker.state, breaker.since, breaker.why
    );
    if breaker.state == "open" {
        return Err(Fault::Failed(evidence, "operate/runbooks/breaker.md"));
    }
    Ok(((), evidence, None))
}

fn parse(answer: Value) -> Result<Answer, RelayError> {
    serde_json::from_value(answer)
        .map_err(|error| RelayError::Unreachable(format!("cannot read the answer: {error}")))
}

fn unexpected(answer: &Answer) -> Fault {
    Fault::Failed(
        format!(
            "answered another action: {:.200}",
            json!(answer).to_string()
        ),
        "operate/runbooks/README.md",
    )
}

fn discard(id: &EventId, by: Option<String>) -> RequestBody {
    RequestBody::Discard(DiscardRequest {
        event_ids: Some(vec![id.clone()]),
        filter: None,
        by,
        why: WHY.to_owned(),
    })
}

fn nth(shown: &EventDetails, position: usize) -> Option<Timestamp> {
    shown.attempts.get(position).map(|attempt| attempt.at)
}

/// The time between two times of a record.
fn between(from: Option<Timestamp>, to: Timestamp) -> Option<Duration> {
    to.duration_since(from?).try_into().ok()
}

fn describe(shown: &EventDetails) -> String {
    let error = shown
        .attempts
        .last()
        .and_then(|attempt| attempt.error.as_deref());
    format!(
        "it is {} after {} attempts{}{}",
        shown.state,
        shown.attempts_made,
        if error.is_some() { ": " } else { "" },
        error.unwrap_or_default()
    )
}
