//! Each permission of each role is taken away in turn: what needs it fails as it should, and loses nothing.
//!
//! So a permission that nothing needs is found as well as one that nobody has thought of.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use jiff::Timestamp;
use local::genesys::Webhook;
use local::role::Role;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::recovery::log_failed;
use crate::{Relay, name_of, webhook};

/// Nothing that a function does. Its own runtime writes the logs on AWS, and the emulator asks for no permission.
const LOGS: [&str; 2] = ["logs:CreateLogStream", "logs:PutLogEvents"];

/// The event source mapping's own calls, made in the processor's name (Lambda Developer Guide, "Using Lambda with Amazon
/// SQS"). The emulator's poller makes none, and so needs no permission.
const OF_THE_MAPPING: [&str; 3] = ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"];

/// Asked for in a protocol (Smithy RPC v2 CBOR) whose calls the emulator does not judge. Without it `status` says nothing
/// of one age.
const UNJUDGED: [&str; 1] = ["cloudwatch:GetMetricStatistics"];

/// A permission that is about to be taken away, and the relay that has it.
struct Trial<'a> {
    relay: &'a Relay,
    role: &'a Role,
    action: &'a str,
}

/// Takes the permission away, sees what needs it fail, gives it back, and sees that nothing was lost.
type Probe = for<'a> fn(&'a Trial<'a>) -> LocalBoxFuture<'a, Result<()>>;

impl Trial<'_> {
    async fn take_away(&self) -> Result<()> {
        self.role.take_away(self.action).await
    }

    async fn give_back(&self) -> Result<()> {
        self.role.restore().await
    }

    /// Whether a text tells that this permission is missing.
    fn is_named_in(&self, text: &str) -> bool {
        text.contains(&format!("not authorized to perform: {}", self.action))
    }

    /// Invokes the replay function, which must not be able to do what is asked.
    async fn refused(&self, request: Value, error_type: &str) -> Result<()> {
        let error = self.relay.replay_fails(request, error_type).await?;
        ensure!(self.is_named_in(&error.to_string()), "{error}");
        Ok(())
    }

    /// Waits until a function has logged that this permission is missing.
    async fn until_logged(&self, function: Function) -> Result<()> {
        self.until_log_says(function, |line| self.is_named_in(line)).await
    }

    async fn until_log_says(&self, function: Function, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait::until("the refusal is in the log", || async {
            let lines = self.relay.stack.log_lines(function, 0).await?;
            Ok(lines.iter().any(|line| wanted(&line.content.to_string())).then_some(()))
        })
        .await
    }

    /// An event that the target has refused.
    async fn dead(&self) -> Result<String> {
        let id = self.relay.accept(&webhook(&format!("missing, {}", self.action))).await?;
        self.relay.until_dead(1).await?;
        Ok(id)
    }

    /// Brings the dead letters back, which nothing hinders any more.
    async fn replay(&self, id: &str) -> Result<()> {
        let answer = self.relay.replay(json!({ "action": "replay", "eventIds": [id] })).await?;
        ensure!(answer["replayed"] == 1, "{answer}");
        self.delivered_once(id).await
    }

    async fn delivered_once(&self, id: &str) -> Result<()> {
        self.relay.until_empty().await?;
        let times = self.relay.deliveries().remove(id);
        ensure!(times == Some(1), "{id} was delivered {times:?} times");
        Ok(())
    }
}

/// Tries every permission of a role, on a relay of its own.
async fn try_each(role: &str, exempt: &[&str], probes: &[(&str, Probe)]) -> Result<()> {
    try_each_with("none", role, exempt, probes).await
}

/// The same, on a relay that recovers from this source.
async fn try_each_with(recovery_source: &str, role: &str, exempt: &[&str], probes: &[(&str, Probe)]) -> Result<()> {
    // Long enough for each probe to see it fail, and short enough to wait for.
    let parameters =
        [("BackoffBaseSeconds", 1), ("BackoffCapSeconds", 1), ("MaxReceiveCount", 25), ("ProcessorTimeoutSeconds", 5)];
    let relay = Relay::start_with(Behaviour::script(refuse_once), &parameters, recovery_source).await?;
    let role = relay.stack.role(role).await?;
    let tried = probes.iter().map(|(action, _)| *action).chain(exempt.iter().copied());
    assert_eq!(role.actions(), tried.map(str::to_owned).collect::<BTreeSet<_>>(), "each permission has its probe");
    for (action, probe) in probes {
        let trial = Trial { relay: &relay, role: &role, action };
        let began = std::time::Instant::now();
        probe(&trial).await.with_context(|| format!("without {action}"))?;
        eprintln!("{action}: {:.1?}", began.elapsed());
        relay.until_empty().await.with_context(|| format!("after {action}"))?;
    }
    Ok(())
}

/// Refuses the first delivery of what is called `missing`, and is not there for the first of what is called `late`.
fn refuse_once(request: &ReceivedRequest) -> Answer {
    match name_of(&request.body).as_str() {
        name if name.starts_with("missing") && request.nth == 1 => Answer::status(404),
        name if name.starts_with("late") && request.nth == 1 => Answer::status(503),
        _ => Answer::status(200),
    }
}

#[tokio::test]
async fn ingest_accepts_nothing_that_it_may_not_keep_or_check() -> Result<()> {
    let probes: [(&str, Probe); 2] = [
        ("sqs:SendMessage", |trial| nothing_is_accepted_that_cannot_be_sent(trial).boxed_local()),
        ("secretsmanager:GetSecretValue", |trial| nothing_is_judged_without_secrets(trial).boxed_local()),
    ];
    try_each("IngestRole", &LOGS, &probes).await
}

async fn nothing_is_accepted_that_cannot_be_sent(trial: &Trial<'_>) -> Result<()> {
    let url = trial.relay.stack.webhook_url()?;
    let malformed = Webhook::with_shared_secret("no json");
    trial.take_away().await?;
    for webhook in [webhook("unsent"), malformed.clone()] {
        let (status, answer) = webhook.send(&url).await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let (status, _) = malformed.send(&url).await?;
    ensure!(status == 400, "a malformed body is refused, and kept");
    trial.relay.until_dead(1).await?;
    purge(trial.relay).await?;
    let id = trial.relay.accept(&webhook("unsent")).await?;
    trial.delivered_once(&id).await
}

async fn nothing_is_judged_without_secrets(trial: &Trial<'_>) -> Result<()> {
    let url = trial.relay.stack.webhook_url()?;
    trial.take_away().await?;
    // What has read them keeps them for a while.
    trial.relay.kill(Function::Ingest).await?;
    let forged = Webhook { authentication: ("X-Webhook-Secret", "forged".to_owned()), ..webhook("unchecked") };
    for webhook in [webhook("unchecked"), forged] {
        let (status, answer) = webhook.send(&url).await?;
        ensure!(status == 503, "{webhook:?}: {status} {answer}");
    }
    trial.until_logged(Function::Ingest).await?;
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let accepted = wait::until("they are read again, which is tried at most every few seconds", || async {
        let (status, answer) = webhook("unchecked").send(&url).await?;
        Ok((status == 200).then_some(answer))
    })
    .await?;
    trial.delivered_once(accepted["eventId"].as_str().unwrap_or_default()).await
}

#[tokio::test]
async fn the_processor_delivers_nothing_that_it_may_not_claim_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 5] = [
        ("dynamodb:PutItem", |trial| an_event_that_cannot_be_claimed_waits(trial).boxed_local()),
        ("dynamodb:GetItem", |trial| an_event_that_cannot_be_read_waits(trial).boxed_local()),
        ("secretsmanager:GetSecretValue", |trial| an_event_waits_for_the_credentials(trial).boxed_local()),
        ("sqs:SendMessage", |trial| an_event_that_cannot_be_buried_stays(trial).boxed_local()),
        ("sqs:ChangeMessageVisibility", |trial| a_retry_comes_late(trial).boxed_local()),
    ];
    let exempt: Vec<_> = LOGS.into_iter().chain(OF_THE_MAPPING).collect();
    try_each("ProcessorRole", &exempt, &probes).await
}

async fn an_event_that_cannot_be_claimed_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.relay.accept(&webhook("unclaimed")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(trial.relay.target.requests_of(&id).is_empty(), "delivered without a claim");
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_that_cannot_be_read_waits(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    // The first attempt needs no look at the table, and fails.
    let id = trial.relay.accept(&webhook("late, unread")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(trial.relay.target.requests_of(&id).len() == 1, "tried again, whoever else might be at it");
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_waits_for_the_credentials(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    trial.relay.kill(Function::Processor).await?;
    let id = trial.relay.accept(&webhook("without credentials")).await?;
    trial.until_logged(Function::Processor).await?;
    ensure!(trial.relay.target.requests_of(&id).is_empty(), "delivered without the target's credentials");
    trial.give_back().await?;
    trial.delivered_once(&id).await
}

async fn an_event_that_cannot_be_buried_stays(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.relay.accept(&webhook("missing, unburied")).await?;
    trial.until_logged(Function::Processor).await?;
    let counts = trial.relay.stack.queue_counts().await?;
    ensure!((counts.events.total(), counts.dead_letters.total()) == (1, 0), "{counts:?}");
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    ensure!(trial.relay.target.requests_of(&id).len() == 1, "what was refused for good is not tried again");
    trial.replay(&id).await
}

async fn a_retry_comes_late(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    let id = trial.relay.accept(&webhook("late, and later")).await?;
    trial.until_logged(Function::Processor).await?;
    trial.delivered_once(&id).await?;
    let requests = trial.relay.target.requests_of(&id);
    let pause = requests[1].at - requests[0].at;
    // The queue's own visibility timeout, six times that of the function, less the delivery.
    ensure!(pause >= Duration::from_secs(25), "it came back after {pause:?}");
    trial.give_back().await
}

#[tokio::test]
async fn replay_says_what_it_may_not_do_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 16] = [
        ("sqs:GetQueueAttributes", |trial| {
            a_request_fails(trial, json!({ "action": "status" }), "QueueError").boxed_local()
        }),
        ("sqs:ListMessageMoveTasks", |trial| no_run_begins_beside_a_move(trial).boxed_local()),
        ("sqs:StartMessageMoveTask", |trial| nothing_is_moved(trial).boxed_local()),
        ("sqs:CancelMessageMoveTask", |trial| a_move_goes_on(trial).boxed_local()),
        ("sqs:ReceiveMessage", |trial| a_replay_fails(trial, "QueueError").boxed_local()),
        ("sqs:SendMessage", |trial| what_cannot_be_sent_stays(trial).boxed_local()),
        ("sqs:DeleteMessage", |trial| a_copy_stays_behind(trial).boxed_local()),
        ("sqs:ChangeMessageVisibility", |trial| what_was_not_taken_stays_hidden(trial).boxed_local()),
        ("dynamodb:Query", |trial| a_request_fails(trial, json!({ "action": "list" }), "TableError").boxed_local()),
        ("dynamodb:GetItem", |trial| a_request_fails(trial, json!({ "action": "status" }), "TableError").boxed_local()),
        ("dynamodb:BatchGetItem", |trial| a_replay_fails(trial, "TableError").boxed_local()),
        ("dynamodb:PutItem", |trial| a_replay_fails(trial, "TableError").boxed_local()),
        ("dynamodb:DeleteItem", |trial| a_lease_stands(trial).boxed_local()),
        ("s3:PutObject", |trial| nothing_is_archived(trial).boxed_local()),
        ("s3:GetObject", |trial| nothing_is_restored(trial).boxed_local()),
        ("lambda:InvokeFunction", |trial| nothing_goes_on_in_the_background(trial).boxed_local()),
    ];
    let exempt: Vec<_> = LOGS.into_iter().chain(UNJUDGED).collect();
    try_each("ReplayRole", &exempt, &probes).await
}

async fn a_request_fails(trial: &Trial<'_>, request: Value, error_type: &str) -> Result<()> {
    trial.take_away().await?;
    trial.refused(request.clone(), error_type).await?;
    trial.give_back().await?;
    trial.relay.replay(request).await.map(drop)
}

async fn a_replay_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    trial.refused(json!({ "action": "replay", "eventIds": [id] }), error_type).await?;
    trial.give_back().await?;
    trial.relay.until_dead(1).await?;
    trial.replay(&id).await
}

async fn no_run_begins_beside_a_move(trial: &Trial<'_>) -> Result<()> {
    trial.take_away().await?;
    for request in [json!({ "action": "status" }), json!({ "action": "reconcile" })] {
        trial.refused(request, "QueueError").await?;
    }
    trial.give_back().await?;
    let status = trial.relay.replay(json!({ "action": "status" })).await?;
    ensure!(status["run"].is_null(), "a run that did not begin holds no lease: {status}");
    Ok(())
}

async fn nothing_is_moved(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let request = json!({ "action": "replay", "all": true });
    trial.take_away().await?;
    trial.refused(request.clone(), "QueueError").await?;
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.relay.replay(request).await?;
    trial.delivered_once(&id).await
}

async fn a_move_goes_on(trial: &Trial<'_>) -> Result<()> {
    let bodies: Vec<_> = (0..200).map(|number| format!("{{\"pasted\":{number}}}")).collect();
    trial.relay.bury(&bodies).await?;
    trial.relay.replay(json!({ "action": "replay", "all": true, "ratePerSecond": 1 })).await?;
    let cancel = json!({ "action": "cancel" });
    trial.take_away().await?;
    trial.refused(cancel.clone(), "QueueError").await?;
    trial.give_back().await?;
    let answer = trial.relay.replay(cancel).await?;
    ensure!(answer["cancelled"] == true, "{answer}");
    purge(trial.relay).await
}

async fn what_cannot_be_sent_stays(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.relay.replay(json!({ "action": "replay", "eventIds": [id] })).await?;
    ensure!(answer["replayed"] == 0 && trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;

    // The way out of the archive leads into the other queue.
    let archived = trial.relay.replay(json!({ "action": "archive", "olderThanDays": 0 })).await?;
    let restore = json!({ "action": "restore", "key": archived["keys"][0] });
    trial.take_away().await?;
    let answer = trial.relay.replay(restore.clone()).await?;
    ensure!(answer["restored"] == 0 && trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.give_back().await?;
    let shown = trial.relay.show(&id).await?;
    ensure!(shown["state"] == "ARCHIVED", "{shown}");
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

async fn a_copy_stays_behind(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.relay.replay(json!({ "action": "replay", "eventIds": [id] })).await?;
    ensure!(answer["replayed"] == 1 && trial.is_named_in(&answer["failed"].to_string()), "{answer}");
    trial.give_back().await?;
    let copies = |counts: local::stack::QueueCounts| (counts.events.total(), counts.dead_letters.in_flight) == (0, 1);
    trial.relay.stack.until_queues("a copy is left, and hidden", copies).await?;
    ensure!(trial.relay.deliveries().get(&id) == Some(&1), "delivered once");
    purge(trial.relay).await
}

async fn what_was_not_taken_stays_hidden(trial: &Trial<'_>) -> Result<()> {
    trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.relay.replay(json!({ "action": "replay", "filter": { "statusCode": 422 } })).await?;
    ensure!((&answer["skipped"], &answer["remaining"]) == (&json!(1), &json!(1)), "{answer}");
    trial.until_log_says(Function::Replay, |line| line.contains("dead letters stay hidden")).await?;
    let counts = trial.relay.stack.queue_counts().await?.dead_letters;
    ensure!((counts.visible, counts.in_flight) == (0, 1), "{counts:?}");
    trial.give_back().await?;
    purge(trial.relay).await
}

async fn a_lease_stands(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    let answer = trial.relay.replay(json!({ "action": "replay", "eventIds": [id] })).await?;
    ensure!(answer["replayed"] == 1, "{answer}");
    trial.until_logged(Function::Replay).await?;
    trial.relay.replay_fails(json!({ "action": "reconcile" }), "Busy").await?;
    trial.give_back().await?;
    trial.delivered_once(&id).await?;
    // It would end by itself, with the time that the run had.
    let request = trial.relay.stack.dynamodb().delete_item().table_name(trial.relay.stack.output("EventsTableName")?);
    request.key("event_id", AttributeValue::S("lease#dead-letters".to_owned())).send().await?;
    trial.relay.replay(json!({ "action": "reconcile" })).await.map(drop)
}

async fn nothing_is_archived(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    trial.take_away().await?;
    trial.refused(json!({ "action": "archive", "olderThanDays": 0 }), "ArchiveError").await?;
    trial.relay.until_dead(1).await?;
    trial.give_back().await?;
    trial.replay(&id).await
}

async fn nothing_is_restored(trial: &Trial<'_>) -> Result<()> {
    let id = trial.dead().await?;
    let answer = trial.relay.replay(json!({ "action": "archive", "olderThanDays": 0 })).await?;
    let restore = json!({ "action": "restore", "key": answer["keys"][0] });
    trial.take_away().await?;
    // What may not be read and what is not there are the same to S3.
    let error = trial.relay.replay_fails(restore.clone(), "ArchiveError").await?;
    ensure!(error.to_string().contains("can be read"), "{error}");
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    trial.relay.replay(restore).await?;
    trial.replay(&id).await
}

/// A retry over HTTP that cannot be finished in time, since the event lies behind thousands of others.
async fn nothing_goes_on_in_the_background(trial: &Trial<'_>) -> Result<()> {
    let bodies: Vec<_> = (0..3000).map(|number| format!("{{\"in front\":{number}}}")).collect();
    trial.relay.bury(&bodies).await?;
    let id = trial.relay.accept(&webhook("missing, behind all others")).await?;
    trial.relay.until_dead(3001).await?;
    trial.relay.set_timeout(Function::Replay, 10).await?;
    let retry = format!("/dlq/{id}/retry");
    trial.take_away().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    ensure!(answer.status == 503 && !answer.header("retry-after").is_empty(), "{answer:?}");
    trial.until_logged(Function::Replay).await?;
    trial.give_back().await?;
    let answer = trial.relay.stack.call_api("POST", &retry).await?;
    ensure!(answer.status == 202, "{answer:?}");
    ensure!(trial.relay.show(&id).await?["state"] == "DEAD");
    purge(trial.relay).await
}

#[tokio::test]
async fn recovery_says_what_it_may_not_do_and_loses_nothing() -> Result<()> {
    let probes: [(&str, Probe); 6] = [
        ("dynamodb:GetItem", |trial| a_recovery_fails(trial, "TableError").boxed_local()),
        ("dynamodb:BatchGetItem", |trial| a_recovery_fails(trial, "TableError").boxed_local()),
        ("dynamodb:PutItem", |trial| a_recovery_fails(trial, "TableError").boxed_local()),
        ("sqs:SendMessage", |trial| a_recovery_fails(trial, "QueueError").boxed_local()),
        ("secretsmanager:GetSecretValue", |trial| a_recovery_fails(trial, "Credentials").boxed_local()),
        ("dynamodb:DeleteItem", |trial| the_lease_of_a_recovery_stands(trial).boxed_local()),
    ];
    try_each_with("webhook-deliveries", "RecoveryRole", &LOGS, &probes).await
}

/// Loses an event that no other probe has.
fn lose(trial: &Trial<'_>) {
    let now = Timestamp::now();
    log_failed(&trial.relay.genesys, usize::try_from(now.as_millisecond()).unwrap_or_default(), now);
}

async fn a_recovery_fails(trial: &Trial<'_>, error_type: &str) -> Result<()> {
    trial.relay.recover(json!({})).await?;
    lose(trial);
    trial.take_away().await?;
    // What has read the secret keeps it for a while.
    trial.relay.kill(Function::Recovery).await?;
    let error = trial.relay.recover_fails(json!({}), error_type).await?;
    ensure!(trial.is_named_in(&error), "{error}");
    trial.relay.until_empty().await?;
    trial.give_back().await?;
    let report = wait::until("the secret is read again, which is tried at most every few seconds", || async {
        Ok(trial.relay.stack.invoke(Function::Recovery, &json!({})).await?.ok())
    })
    .await?;
    ensure!(report["new"] == 1, "{report}");
    trial.relay.until_empty().await
}

async fn the_lease_of_a_recovery_stands(trial: &Trial<'_>) -> Result<()> {
    lose(trial);
    trial.take_away().await?;
    let report = trial.relay.recover(json!({})).await?;
    ensure!(report["new"] == 1, "{report}");
    trial.until_logged(Function::Recovery).await?;
    trial.relay.recover_fails(json!({}), "Busy").await?;
    trial.give_back().await?;
    // It would end by itself, with the time that the run had.
    let request = trial.relay.stack.dynamodb().delete_item().table_name(trial.relay.stack.output("EventsTableName")?);
    request.key("event_id", AttributeValue::S("lease#recovery".to_owned())).send().await?;
    trial.relay.recover(json!({})).await.map(drop)
}

#[tokio::test]
async fn a_schedule_does_nothing_without_its_permission() -> Result<()> {
    let probes: [(&str, Probe); 1] = [("lambda:InvokeFunction", |trial| no_schedule_comes(trial).boxed_local())];
    try_each("ScheduleRole", &[], &probes).await
}

async fn no_schedule_comes(trial: &Trial<'_>) -> Result<()> {
    trial.relay.bury(&["{\"pasted\":1}".to_owned()]).await?;
    trial.take_away().await?;
    trial.relay.let_schedule_come("Reconcile", "refused").await?;
    wait::until("the schedule is refused", || async {
        let log = std::fs::read_to_string(trial.relay.stack.emulator().log_file())?;
        Ok(log.contains("refused may not invoke").then_some(()))
    })
    .await?;
    let listed = async || anyhow::Ok(trial.relay.replay(json!({ "action": "list" })).await?["count"].take());
    ensure!(listed().await? == 0, "nobody has looked at it");
    trial.give_back().await?;
    trial.relay.let_schedule_come("Reconcile", "allowed").await?;
    wait::until("the schedule has given it its record", || async { Ok((listed().await? == 1).then_some(())) }).await?;
    trial.relay.until_dead(1).await?;
    purge(trial.relay).await
}

/// Empties the dead-letter queue, of what is hidden too.
async fn purge(relay: &Relay) -> Result<()> {
    relay.stack.sqs().purge_queue().queue_url(relay.stack.output("DeadLetterQueueUrl")?).send().await?;
    Ok(())
}
