//! The policy to check, with one action denied at a time: the checks that need it are `not allowed`
//! and name it, and no check fails for want of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use console::check::{Checks, Options};
use genesys_relay::check::CheckOutcome;
use local::role::actions_of_policy;
use serde_json::json;

use super::{GAPS, Site, place};

const USER: &str = "checker";

const FUNCTIONS: [&str; 6] = [
    "breaker",
    "ingest",
    "look",
    "processor",
    "recovery",
    "replay",
];
const SCHEDULES: [&str; 5] = ["archive", "breaker", "journal", "reconcile", "recovery"];
const QUEUES: [&str; 6] = [
    "dead-letters",
    "events",
    "journal",
    "ordered",
    "ordered-dead-letters",
    "policies",
];

/// Actions, and the checks that are `not allowed` without them. The local AWS does not judge calls to
/// CloudWatch, which are in a protocol of their own (Smithy RPC v2 CBOR), and has no quotas.
fn needed() -> BTreeMap<String, BTreeSet<String>> {
    let each = |prefix: &str, of: &[&str]| -> Vec<String> {
        of.iter().map(|name| format!("{prefix}-{name}")).collect()
    };
    let one = |name: &str| vec![name.to_owned()];
    let roles = || [each("role", &FUNCTIONS), one("role-schedule")].concat();
    let needed = [
        ("apigateway:GET", one("api-routes")),
        ("cloudformation:DescribeStacks", one("stack")),
        ("cloudformation:GetTemplate", one("stack")),
        ("cloudformation:ListStackResources", one("stack")),
        ("cloudwatch:DescribeAlarms", Vec::new()),
        ("cloudwatch:GetMetricStatistics", Vec::new()),
        ("dynamodb:DescribeContinuousBackups", one("table-backups")),
        ("dynamodb:DescribeTable", one("table")),
        ("dynamodb:DescribeTimeToLive", one("table-ttl")),
        ("events:DescribeRule", one("event-rule")),
        ("events:ListTargetsByRule", one("event-rule")),
        ("iam:GetRolePolicy", roles()),
        ("iam:ListRolePolicies", roles()),
        ("lambda:GetAccountSettings", Vec::new()),
        (
            "lambda:GetEventSourceMapping",
            each("event", &["source", "source-ordered"]),
        ),
        (
            "lambda:GetFunction",
            [each("code", &FUNCTIONS), each("function", &FUNCTIONS)].concat(),
        ),
        (
            "lambda:GetFunctionConfiguration",
            each("target", &["certificate", "connection", "name"]),
        ),
        ("lambda:GetPolicy", one("api-permissions")),
        ("s3:GetBucketPolicy", one("archive-policy")),
        (
            "s3:GetBucketPublicAccessBlock",
            one("archive-public-access"),
        ),
        ("s3:GetBucketVersioning", one("archive-versions")),
        ("s3:GetLifecycleConfiguration", one("archive-lifecycle")),
        ("scheduler:GetSchedule", each("schedule", &SCHEDULES)),
        (
            "secretsmanager:GetSecretValue",
            ["secret", "signing-secret", "target-certificate"]
                .map(str::to_owned)
                .to_vec(),
        ),
        ("sns:GetTopicAttributes", one("alarms-topic")),
        ("sns:ListSubscriptionsByTopic", one("alarms-subscribed")),
        ("sqs:GetQueueAttributes", each("queue", &QUEUES)),
    ];
    let needed = needed.into_iter();
    needed
        .map(|(action, checks)| (action.to_owned(), checks.into_iter().collect()))
        .collect()
}

#[tokio::test]
async fn each_permission_to_check_is_named_where_it_is_missing() -> Result<()> {
    let site = Site::start().await?;
    let work = async {
        let stack = &site.relay.stack;
        let policies = ["LookPolicyArn", "CheckPolicyArn"];
        let keys = stack.user(USER, &policies).await?;
        let checks = Checks::with_gaps(place(&site.relay, &keys).await, GAPS.to_vec())?;
        let actions = actions_of_policy(stack.aws(), stack.output("CheckPolicyArn")?).await?;
        let mut found = BTreeMap::new();
        for action in &actions {
            site.run_breaker().await?;
            let statement = json!({ "Effect": "Deny", "Action": action, "Resource": "*" });
            let document = json!({ "Version": "2012-10-17", "Statement": [statement] });
            let denial = [
                ("UserName", USER),
                ("PolicyName", "denial"),
                ("PolicyDocument", &document.to_string()),
            ];
            stack.aws().query("iam", "PutUserPolicy", &denial).await?;
            let report = checks.run(Options::default()).await?;
            ensure!(
                report.count(CheckOutcome::Failed) == 0,
                "without {action}: {report}"
            );
            let denied = report
                .checks
                .iter()
                .filter(|check| check.outcome == CheckOutcome::NotAllowed);
            let mut names = BTreeSet::new();
            for check in denied {
                ensure!(
                    check.evidence == *action,
                    "without {action}, {}: {}",
                    check.name,
                    check.evidence
                );
                names.insert(check.name.clone());
            }
            found.insert(action.clone(), names);
        }
        assert_eq!(found, needed());
        Ok(())
    };
    site.relay.stack.guard(Box::pin(work)).await
}
