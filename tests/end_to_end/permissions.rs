//! Each permission of each role is taken away in turn: what needs it fails as it should, and loses
//! nothing.
//!
//! This finds permissions that are not needed, and permissions that are missing.

mod breaker;
mod ingest;
mod processor;
mod recovery;
mod replay;

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

/// Nothing that a function does. Its own runtime writes the logs and the traces on AWS, and the
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

/// A permission that is about to be taken away, and the relay that has it.
struct Trial<'a> {
    relay: &'a Relay,
    role: &'a Role,
    action: &'a str,
}

/// Takes the permission away, sees what needs it fail, gives it back, and sees that nothing was
/// lost.
type Probe = for<'a> fn(&'a Trial<'a>) -> LocalBoxFuture<'a, Result<()>>;

impl Trial<'_> {
    async fn take_away(&self) -> Result<()> {
        self.role.take_away(self.action).await
    }

    async fn give_back(&self) -> Result<()> {
        self.role.restore().await
    }

    /// True where a text says that this permission is missing.
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
        self.until_log_says(function, |line| self.is_named_in(line))
            .await
    }

    async fn until_log_says(
        &self,
        function: Function,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<()> {
        wait::until("the refusal is in the log", || async {
            let lines = self.relay.stack.log_lines(function, 0).await?;
            Ok(lines
                .iter()
                .any(|line| wanted(&line.content.to_string()))
                .then_some(()))
        })
        .await
    }

    /// An event that the target has refused.
    async fn dead(&self) -> Result<String> {
        let id = self
            .relay
            .accept(&webhook(&format!("missing, {}", self.action)))
            .await?;
        self.relay.until_dead(1).await?;
        Ok(id)
    }

    /// Brings the dead letters back, which nothing hinders any more.
    async fn replay(&self, id: &str) -> Result<()> {
        let answer = self
            .relay
            .replay(json!({ "action": "replay", "eventIds": [id] }))
            .await?;
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
async fn try_each_with(
    recovery_source: &str,
    role: &str,
    exempt: &[&str],
    probes: &[(&str, Probe)],
) -> Result<()> {
    // Long enough for each probe to see it fail, and short enough to wait for.
    let parameters = [
        ("BackoffBaseSeconds", 1),
        ("BackoffCapSeconds", 1),
        ("MaxReceiveCount", 25),
        ("ProcessorTimeoutSeconds", 5),
    ];
    let relay =
        Relay::start_with(Behaviour::script(refuse_once), &parameters, recovery_source).await?;
    try_on(&relay, role, exempt, probes).await
}

/// The same, on this relay.
async fn try_on(
    relay: &Relay,
    role: &str,
    exempt: &[&str],
    probes: &[(&str, Probe)],
) -> Result<()> {
    let role = relay.stack.role(role).await?;
    let tried = probes
        .iter()
        .map(|(action, _)| *action)
        .chain(exempt.iter().copied());
    assert_eq!(
        role.actions(),
        tried.map(str::to_owned).collect::<BTreeSet<_>>(),
        "each permission has its probe"
    );
    for (action, probe) in probes {
        let trial = Trial {
            relay,
            role: &role,
            action,
        };
        let began = std::time::Instant::now();
        probe(&trial)
            .await
            .with_context(|| format!("without {action}"))?;
        eprintln!("{action}: {:.1?}", began.elapsed());
        relay
            .until_empty()
            .await
            .with_context(|| format!("after {action}"))?;
    }
    Ok(())
}

/// Empties the dead-letter queue, of what is hidden too.
async fn purge(relay: &Relay) -> Result<()> {
    relay
        .stack
        .sqs()
        .purge_queue()
        .queue_url(relay.stack.output("DeadLetterQueueUrl")?)
        .send()
        .await?;
    Ok(())
}

/// Refuses the first delivery of what is called `missing`, and is not there for the first of what
/// is called `late`.
fn refuse_once(request: &ReceivedRequest) -> Answer {
    match name_of(&request.body).as_str() {
        name if name.starts_with("missing") && request.nth == 1 => Answer::status(404),
        name if name.starts_with("late") && request.nth == 1 => Answer::status(503),
        _ => Answer::status(200),
    }
}
