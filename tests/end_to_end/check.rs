//! `cargo relay check`: green on a whole deployment, and each thing that is broken on purpose is
//! named by its own check alone, with its runbook.

mod break_account;
mod break_ways;
mod permissions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_sdk_cloudwatch::types::MetricDatum;
use aws_sdk_dynamodb::types::{PointInTimeRecoverySpecification, TimeToLiveSpecification};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule,
};
use console::aws::Place;
use console::check::{Checks, Gap, Options, Report};
use futures_util::future::LocalBoxFuture;
use genesys_relay::check::path::ACCEPTED;
use genesys_relay::check::{Check, CheckOutcome};
use local::clients::{Keys, REGION};
use local::stack::{Function, StackOptions, secret};
use local::target::{Behaviour, Target};
use local::tls::{Authority, Front};
use local::wait;
use serde_json::{Value, json};

use crate::relay::Relay;

const INTEGRATION: &str = "22222222-3333-4444-8555-666666666666";
const BUS: &str = "local.partner/genesys.com/cloud/00000000-0000-4000-8000-000000000001/example";

/// What the local AWS lacks even after [`Site::complete`].
const GAPS: [Gap; 1] = [("account-concurrency", "the local AWS has no quotas")];

/// Runbooks of the checks.
const REDEPLOY: &str = "operate/runbooks/redeploy-and-rollback.md";
const TARGET: &str = "operate/runbooks/target-down.md";
const WRONG_SECRET: &str = "operate/runbooks/wrong-secret.md";
const NOTHING_ARRIVES: &str = "operate/runbooks/nothing-arrives.md";
const ALARMS: &str = "operate/alarms.md";
const ARCHIVE: &str = "operate/runbooks/archive-failing.md";
const RECOVERY: &str = "operate/runbooks/recovery-behind.md";
const BREAKER: &str = "operate/runbooks/breaker.md";
const TOO_OLD: &str = "operate/runbooks/events-too-old.md";

/// A failed check that is expected: its name, its runbook, and a part of its evidence.
type Expected = (&'static str, &'static str, &'static str);

/// A relay with every optional part, a target behind TLS, and the checks of it.
struct Site {
    relay: Relay,
    front: Front,
    servers: Authority,
    checks: Checks,
    /// Breaks that were not named as expected.
    unexpected: Mutex<Vec<String>>,
}

impl Site {
    async fn start() -> Result<Self> {
        let target = Target::start(Behaviour::Fine).await?;
        let servers = Authority::new("servers")?;
        let front = Front::start(&servers, &target.url()).await?;
        let options = StackOptions::new(format!("{}/events", front.url())).event_bus(BUS);
        let parameters = [
            ("Breaker", "on"),
            ("RecoverySource", "open-messaging"),
            ("RecoveryIds", INTEGRATION),
            ("Order", "conversation"),
            ("JournalDays", "3"),
        ];
        let relay = Relay::start_with(target, options, &parameters).await?;
        let place = place(&relay, relay.stack.keys()).await;
        let checks = Checks::with_gaps(place, GAPS.to_vec())?;
        let site = Self {
            relay,
            front,
            servers,
            checks,
            unexpected: Mutex::default(),
        };
        site.complete().await?;
        Ok(site)
    }

    /// Does what AWS does by itself and the local AWS does not: it ignores parts of the template,
    /// makes no metrics, and mails nothing.
    async fn complete(&self) -> Result<()> {
        let stack = &self.relay.stack;
        self.set_secret(json!({})).await?;
        let url = stack.output("WebhookUrl")?;
        self.relay.genesys.set_integration(INTEGRATION, url);
        for schedule in stack.aws().schedules().await? {
            stack.aws().set_schedule(&schedule, true).await?;
        }
        self.set_ttl(true).await?;
        self.set_backups(true).await?;
        self.set_lifecycle().await?;
        self.subscribe().await?;
        self.put_metric("GenesysRelay/relay", "BreakerOpen", None)
            .await?;
        for function in [Function::Breaker, Function::Replay, Function::Recovery] {
            let name = stack.function_name(function)?;
            self.put_metric("AWS/Lambda", "Invocations", Some(name))
                .await?;
        }
        Ok(())
    }

    async fn put_metric(
        &self,
        namespace: &str,
        metric: &str,
        function: Option<&str>,
    ) -> Result<()> {
        let dimension = function.map(|name| {
            let dimension = aws_sdk_cloudwatch::types::Dimension::builder();
            dimension.name("FunctionName").value(name).build()
        });
        let datum = MetricDatum::builder()
            .metric_name(metric)
            .set_dimensions(dimension.map(|dimension| vec![dimension]))
            .timestamp(SystemTime::now().into())
            .value(if function.is_some() { 1.0 } else { 0.0 })
            .build();
        let request = self.relay.stack.cloudwatch().put_metric_data();
        let request = request.namespace(namespace).metric_data(datum);
        request.send().await?;
        Ok(())
    }

    async fn set_ttl(&self, is_on: bool) -> Result<()> {
        let stack = &self.relay.stack;
        let ttl = TimeToLiveSpecification::builder().attribute_name("expires_at");
        let request = stack.dynamodb().update_time_to_live();
        let request = request.table_name(stack.output("EventsTableName")?);
        let request = request.time_to_live_specification(ttl.enabled(is_on).build()?);
        request.send().await?;
        Ok(())
    }

    async fn set_backups(&self, is_on: bool) -> Result<()> {
        let stack = &self.relay.stack;
        let backups = PointInTimeRecoverySpecification::builder();
        let backups = backups.point_in_time_recovery_enabled(is_on).build()?;
        let request = stack.dynamodb().update_continuous_backups();
        let request = request.table_name(stack.output("EventsTableName")?);
        let request = request.point_in_time_recovery_specification(backups);
        request.send().await?;
        Ok(())
    }

    async fn set_lifecycle(&self) -> Result<()> {
        let stack = &self.relay.stack;
        let mut lifecycle = BucketLifecycleConfiguration::builder();
        for (prefix, days) in [("dead-letters/", 365), ("journal/", 3)] {
            let rule = LifecycleRule::builder()
                .id(prefix)
                .status(ExpirationStatus::Enabled)
                .filter(
                    aws_sdk_s3::types::LifecycleRuleFilter::builder()
                        .prefix(prefix)
                        .build(),
                )
                .expiration(LifecycleExpiration::builder().days(days).build());
            lifecycle = lifecycle.rules(rule.build()?);
        }
        let request = stack.s3().put_bucket_lifecycle_configuration();
        let request = request.bucket(stack.output("ArchiveBucketName")?);
        let request = request.lifecycle_configuration(lifecycle.build()?);
        request.send().await?;
        Ok(())
    }

    /// Subscribes a queue to the alarms, which needs no confirmation. Returns the subscription.
    async fn subscribe(&self) -> Result<String> {
        let stack = &self.relay.stack;
        let subscription = [
            ("TopicArn", stack.output("AlarmTopicArn")?),
            ("Protocol", "sqs"),
            ("Endpoint", stack.output("QueueArn")?),
        ];
        let answer = stack.aws().query("sns", "Subscribe", &subscription).await?;
        let arn = answer["SubscriptionArn"].as_str();
        Ok(arn.context("a subscription")?.to_owned())
    }

    /// Sets the secret of local runs, with the target's authority and these fields.
    async fn set_secret(&self, fields: Value) -> Result<()> {
        let mut all = secret();
        all["targetCa"] = self.servers.pem().into();
        for (name, value) in fields.as_object().context("an object")? {
            all[name] = value.clone();
        }
        self.relay.stack.set_secret(&all).await
    }

    /// Breaks something, notes if other checks than these fail, and mends it.
    fn breaks<'a>(
        &'a self,
        what: &'a str,
        expected: &'a [Expected],
        harm: impl Future<Output = Result<()>> + 'a,
        mend: impl Future<Output = Result<()>> + 'a,
    ) -> LocalBoxFuture<'a, Result<()>> {
        // They are large.
        let (harm, mend) = (Box::pin(harm), Box::pin(mend));
        let work = async move {
            // Each minute, on AWS.
            self.run_breaker().await?;
            harm.await.with_context(|| format!("to break: {what}"))?;
            let report = self.checks.run(Options::default()).await?;
            mend.await.with_context(|| format!("to mend: {what}"))?;
            if let Err(error) = assert_failed(what, &report, expected) {
                let mut unexpected = self.unexpected.lock();
                let unexpected = unexpected.as_mut().map_err(|error| anyhow!("{error}"))?;
                unexpected.push(format!("{error}"));
            }
            Ok(())
        };
        Box::pin(work)
    }

    async fn run_breaker(&self) -> Result<()> {
        let run = json!({ "action": "run", "by": "schedule" });
        self.relay.until_free(Function::Breaker, &run).await?;
        Ok(())
    }

    async fn is_green(&self) -> Result<Report> {
        self.run_breaker().await?;
        let report = self.checks.run(Options::default()).await?;
        assert_failed("nothing", &report, &[])?;
        Ok(report)
    }
}

/// A way to the stack for the owner of these keys.
async fn place(relay: &Relay, keys: &Keys) -> Place {
    let endpoint = relay.stack.endpoint();
    Place::at(
        &endpoint,
        REGION.into(),
        keys.id.clone(),
        keys.secret.clone(),
    )
    .await
}

/// Holds the checks that are neither `ok` nor `not here` to those that are expected.
fn assert_failed(what: &str, report: &Report, expected: &[Expected]) -> Result<()> {
    let is_bad = |outcome| matches!(outcome, CheckOutcome::Failed | CheckOutcome::NotAllowed);
    let bad: Vec<_> = report
        .checks
        .iter()
        .filter(|check| is_bad(check.outcome))
        .collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let is_expected = bad.len() == expected.len()
        && expected.iter().all(|(name, runbook, says)| {
            bad.iter().any(|check| {
                check.name == *name
                    && check.outcome == CheckOutcome::Failed
                    && check.runbook.as_deref() == Some(*runbook)
                    && check.evidence.contains(says)
                    && docs.join(runbook).exists()
            })
        });
    let list = |checks: &[&Check]| {
        let checks = checks.iter();
        let lines =
            checks.map(|check| format!("  {} {}: {}", check.outcome, check.name, check.evidence));
        lines.collect::<Vec<_>>().join("\n")
    };
    ensure!(
        is_expected,
        "broken: {what}; expected: {expected:?}; found:\n{}",
        list(&bad)
    );
    Ok(())
}

#[tokio::test]
async fn whole_deployment_is_green_and_each_broken_thing_is_named() -> Result<()> {
    let site = Site::start().await?;
    let work = async {
        let report = site.is_green().await?;
        let not_here = report
            .checks
            .iter()
            .filter(|check| check.outcome == CheckOutcome::NotHere);
        let not_here: Vec<_> = not_here.map(|check| check.name.as_str()).collect();
        assert_eq!(not_here, ["account-concurrency"], "{report}");
        break_ways::functions(&site).await?;
        break_ways::queues(&site).await?;
        break_ways::api_and_rule(&site).await?;
        break_account::table(&site).await?;
        break_account::bucket(&site).await?;
        break_account::secrets(&site).await?;
        break_account::roles(&site).await?;
        break_account::alarms(&site).await?;
        break_account::schedules(&site).await?;
        break_ways::genesys(&site).await?;
        break_ways::target(&site).await?;
        site.is_green().await?;
        // The last, since a deleted function does not come back.
        break_ways::look(&site).await?;
        let unexpected = site.unexpected.lock().map_err(|error| anyhow!("{error}"))?;
        ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
        Ok(())
    };
    site.relay.stack.guard(Box::pin(work)).await
}

#[tokio::test]
async fn synthetic_event_takes_the_whole_path_and_leaves_nothing() -> Result<()> {
    let site = Site::start().await?;
    let send = Options {
        send: true,
        to_target: false,
    };
    let work = async {
        site.run_breaker().await?;
        let report = site.checks.run(send).await?;
        assert_failed("nothing, with --send", &report, &[])?;
        let of_path = |check: &&Check| check.name.contains(' ');
        let path: Vec<_> = report.checks.iter().filter(of_path).collect();
        ensure!(
            path.len() > 10 && path.iter().all(|check| check.outcome == CheckOutcome::Ok),
            "{report}"
        );
        let requests = site.relay.target.requests();
        ensure!(requests.is_empty(), "the target got {requests:?}");
        let left = site.relay.stack.states().await?;
        // The item of the breaker.
        ensure!(
            left == BTreeMap::from([("closed".to_owned(), 1)]),
            "records are left: {left:?}"
        );
        site.relay.until_empty().await?;

        let role = site.relay.stack.role("IngestRole").await?;
        role.take_away("sqs:SendMessage").await?;
        let report = site.checks.run(send).await?;
        role.restore().await?;
        let expected = [
            ("role-ingest", REDEPLOY, "sqs:SendMessage"),
            (ACCEPTED, NOTHING_ARRIVES, "answered 503"),
        ];
        assert_failed("ingest may not send", &report, &expected)?;

        let to_target = Options {
            to_target: true,
            ..send
        };
        let report = site.checks.run(to_target).await?;
        assert_failed("nothing, with --to-target", &report, &[])?;
        let requests = site.relay.target.requests();
        ensure!(requests.len() == 1, "the target got {requests:?}");
        Ok(())
    };
    site.relay.stack.guard(Box::pin(work)).await
}

#[tokio::test]
async fn policy_to_check_allows_every_check_and_look_alone_names_what_is_missing() -> Result<()> {
    let site = Site::start().await?;
    let work = async {
        site.run_breaker().await?;
        let relay = &site.relay;
        let keys = relay
            .stack
            .user("checker", &["LookPolicyArn", "CheckPolicyArn"])
            .await?;
        let checks = Checks::with_gaps(place(relay, &keys).await, GAPS.to_vec())?;
        let report = checks.run(Options::default()).await?;
        assert_failed("nothing, and with CheckPolicy", &report, &[])?;
        assert_eq!(report.exit_code(), 0);

        let keys = relay.stack.user("looker", &["LookPolicyArn"]).await?;
        let checks = Checks::with_gaps(place(relay, &keys).await, GAPS.to_vec())?;
        let report = checks.run(Options::default()).await?;
        assert_eq!(report.count(CheckOutcome::Failed), 0, "{report}");
        assert_eq!(report.exit_code(), 2, "{report}");
        let denied = report
            .checks
            .iter()
            .find(|check| check.outcome == CheckOutcome::NotAllowed);
        let says = denied.map(|check| check.evidence.as_str());
        assert_eq!(says, Some("cloudformation:GetTemplate"), "{report}");
        Ok(())
    };
    site.relay.stack.guard(Box::pin(work)).await
}

/// Waits until a function has taken a change.
async fn until_active(site: &Site, function: Function) -> Result<()> {
    let name = site.relay.stack.function_name(function)?;
    wait::until("the function is active", || async {
        let request = site.relay.stack.lambda().get_function_configuration();
        let found = request.function_name(name).send().await?;
        let state = found.state().map(|state| state.as_str().to_owned());
        Ok((state.as_deref() == Some("Active")).then_some(()))
    })
    .await
}
