//! Each permission of each role is taken away in turn: what needs it fails as it should, and loses
//! nothing.
//!
//! This finds permissions that are not needed, and permissions that are missing.

mod breaker;
mod ingest;
mod journal;
mod look;
mod ordered;
mod processor;
mod recovery;
mod replay;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use genesys_relay::domain::circuit::State;
use jiff::{SignedDuration, Timestamp};
use local::genesys::Webhook;
use local::role::Role;
use local::stack::{Function, FunctionError, QueueCounts};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};

use crate::order::{message, text_of};
use crate::recovery::log_failed;
use crate::relay::{QUICK, Relay, assert_has, name_of, webhook};

/// Used by no function. The runtime writes the logs and the traces on AWS, and the
/// emulator asks for no permission.
const OF_THE_RUNTIME: [&str; 4] = [
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
];

/// The event source mapping's own calls, made in the processor's name (Lambda Developer Guide,
/// "Using Lambda with Amazon SQS"). The emulator's poller makes none, and so needs no permission.
const OF_THE_MAPPING: [&str; 3] = [
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
];

/// Asked for in a protocol (Smithy RPC v2 CBOR) whose calls the emulator does not judge. Without it
/// `status` says nothing of one age.
const UNJUDGED: [&str; 1] = ["cloudwatch:GetMetricStatistics"];

/// Long enough for each probe to see it fail, and short enough to wait for.
const PARAMETERS: [(&str, &str); 4] = [QUICK[0], QUICK[1], QUICK[2], ("MaxReceiveCount", "25")];

/// A permission that is about to be taken away, and the relay that has it.
struct Trial<'a> {
    relay: &'a Relay,
    role: &'a Role,
    action: &'a str,
    /// Part of the ARN of the resources that it is taken away on; empty for all.
    resource: &'a str,
}

/// Takes the permission away, sees what needs it fail, gives it back, and sees that nothing was
/// lost.
type Probe = for<'a> fn(&'a Trial<'a>) -> LocalBoxFuture<'a, Result<()>>;

fn probe(action: &'static str, probe: Probe) -> (&'static str, Probe) {
    (action, probe)
}

/// Probes by the permissions that they take away.
macro_rules! probes {
    ($($action:literal => $probe:expr),* $(,)?) => {
        [$(probe($action, |trial| ($probe)(trial).boxed_local())),*]
    };
}
use probes;

impl Trial<'_> {
    async fn take_away(&self) -> Result<()> {
        self.role.take_away_on(self.action, self.resource).await
    }

    async fn give_back(&self) -> Result<()> {
        self.role.restore().await
    }

    /// True where a text says that this permission is missing.
    fn is_named_in(&self, text: &str) -> bool {
        text.contains(&format!("not authorized to perform: {}", self.action))
    }

    /// Invokes the replay function, which must fail for want of this permission.
    async fn refused(&self, request: Value, error_type: &str) -> Result<()> {
        let error = self.relay.replay_fails(request, error_type).await?;
        ensure!(self.is_named_in(&error.to_string()), "{error}");
        Ok(())
    }

    /// Waits until a function has logged that this permission is missing.
    async fn until_logged(&self, function: Function) -> Result<()> {
        let is_it = |line: &Value| self.is_named_in(&line.to_string());
        let wait = self.relay.until_logged(function, 1, self.action, is_it);
        wait.await.map(drop)
    }

    /// Sends an event that the target accepts, as a message of a conversation where the permission
    /// is for those.
    async fn accept(&self, name: &str) -> Result<String> {
        let webhook = match self.resource {
            "" => webhook(name),
            _ => message(name, 0),
        };
        self.relay.accept(&webhook).await
    }

    /// Sends an event that the target refuses the first time.
    async fn dead(&self) -> Result<String> {
        let id = self.accept(&format!("missing, {}", self.action)).await?;
        self.relay.until_dead(1).await?;
        Ok(id)
    }

    fn was_tried(&self, id: &str) -> bool {
        !self.relay.target.requests_of(id).is_empty()
    }

    /// Replays a dead letter, which nothing hinders any more.
    async fn replay(&self, id: &str) -> Result<()> {
        assert_has(&self.replay_answer(id).await?, json!({ "replayed": 1 }));
        self.delivered_once(id).await
    }

    async fn replay_answer(&self, id: &str) -> Result<Value> {
        let request = json!({ "action": "replay", "eventIds": [id] });
        self.relay.replay(request).await
    }

    async fn delivered_once(&self, id: &str) -> Result<()> {
        self.relay.until_empty().await?;
        let times = self.relay.deliveries().remove(id);
        ensure!(times == Some(1), "{id} was delivered {times:?} times");
        Ok(())
    }
}

async fn start(source: &str, more: &[(&str, &str)]) -> Result<Relay> {
    let parameters = [&PARAMETERS[..], &[("RecoverySource", source)], more].concat();
    let relay = Relay::start(Behaviour::script(refuse_once), &parameters).await?;
    relay.set_visibility(12).await?;
    Ok(relay)
}

/// Tries every permission of a role.
async fn try_each(
    relay: &Relay,
    role: &str,
    exempt: &[&str],
    probes: &[(&str, Probe)],
) -> Result<()> {
    try_each_on(relay, role, "", exempt, probes).await
}

/// Tries every permission of a role on resources whose ARN contains `resource`.
async fn try_each_on(
    relay: &Relay,
    role: &str,
    resource: &str,
    exempt: &[&str],
    probes: &[(&str, Probe)],
) -> Result<()> {
    let role = relay.stack.role(role).await?;
    try_policy(relay, &role, resource, exempt, probes).await
}

/// Tries every permission of one policy of a role on resources whose ARN contains `resource`.
async fn try_policy(
    relay: &Relay,
    role: &Role,
    resource: &str,
    exempt: &[&str],
    probes: &[(&str, Probe)],
) -> Result<()> {
    let tried = probes
        .iter()
        .map(|(action, _)| *action)
        .chain(exempt.iter().copied());
    let tried: BTreeSet<_> = tried.map(str::to_owned).collect();
    let granted = role.actions_on(resource);
    assert_eq!(granted, tried, "each permission has its probe");
    for (action, probe) in probes {
        eprintln!("without {action} {resource}");
        let trial = Trial {
            relay,
            role,
            action,
            resource,
        };
        probe(&trial)
            .await
            .with_context(|| format!("without {action}"))?;
        relay
            .until_empty()
            .await
            .with_context(|| format!("after {action}"))?;
    }
    Ok(())
}

/// Refuses the first delivery of what is called `missing`, and fails at the first of what is called
/// `late`.
fn refuse_once(request: &ReceivedRequest) -> Answer {
    match &*(name_of(&request.body) + &text_of(request)) {
        name if name.starts_with("missing") && request.nth == 1 => Answer::status(404),
        name if name.starts_with("late") && request.nth == 1 => Answer::status(503),
        _ => Answer::status(200),
    }
}

#[tokio::test]
async fn ingest_and_processor_lose_nothing_without_a_permission() -> Result<()> {
    let relay = start("none", &[]).await?;
    ingest::try_all(&relay).await?;
    processor::try_all(&relay).await
}

#[tokio::test]
async fn replay_and_schedules_lose_nothing_without_a_permission() -> Result<()> {
    let relay = start("none", &[("JournalDays", "7")]).await?;
    replay::try_schedules(&relay).await?;
    Box::pin(replay::try_all(&relay)).await
}

#[tokio::test]
async fn look_and_journal_fail_openly_without_a_permission() -> Result<()> {
    let relay = start("none", &[("JournalDays", "7")]).await?;
    journal::try_all(&relay).await?;
    look::try_all(&relay).await
}

#[tokio::test]
async fn recovery_loses_nothing_without_a_permission() -> Result<()> {
    recovery::try_all(&start("webhook-deliveries", &[]).await?).await
}

#[tokio::test]
async fn statement_fails_openly_without_a_permission() -> Result<()> {
    let relay = start("open-messaging", &[]).await?;
    Box::pin(recovery::try_statements(&relay)).await
}

#[tokio::test]
async fn order_holds_without_a_permission_on_its_queue() -> Result<()> {
    let ordered = [
        ("Order", "conversation"),
        ("OrderPatienceSeconds", "900"),
        ("Breaker", "on"),
    ];
    ordered::try_all(&start("webhook-deliveries", &ordered).await?).await
}

#[tokio::test]
async fn breaker_holds_back_no_event_without_a_permission() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[("Breaker", "on")]).await?;
    breaker::try_all(&relay).await
}
