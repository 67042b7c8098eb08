//! Things broken in the account: storage, secrets, roles, alarms and schedules.

use anyhow::{Context as _, Result};
use aws_sdk_cloudwatch::types::StateValue;
use aws_sdk_s3::types::{
    BucketVersioningStatus, PublicAccessBlockConfiguration, VersioningConfiguration,
};
use serde_json::{Value, json};

use super::{ALARMS, ARCHIVE, BREAKER, REDEPLOY, Site, WRONG_SECRET};

pub(super) async fn table(site: &Site) -> Result<()> {
    let says = "TTL is DISABLED";
    site.breaks(
        "TTL off",
        &[("table-ttl", REDEPLOY, says)],
        site.set_ttl(false),
        site.set_ttl(true),
    )
    .await?;
    let says = "point-in-time recovery is off";
    site.breaks(
        "backups off",
        &[("table-backups", REDEPLOY, says)],
        site.set_backups(false),
        site.set_backups(true),
    )
    .await
}

pub(super) async fn bucket(site: &Site) -> Result<()> {
    let (s3, bucket) = (
        site.relay.stack.s3(),
        site.relay.stack.output("ArchiveBucketName")?,
    );
    let versions = |status: BucketVersioningStatus| {
        let versioning = VersioningConfiguration::builder().status(status).build();
        let request = s3.put_bucket_versioning().bucket(bucket);
        let request = request.versioning_configuration(versioning);
        async move { Ok(request.send().await.map(drop)?) }
    };
    site.breaks(
        "versioning off",
        &[("archive-versions", ARCHIVE, "versioning is off")],
        versions(BucketVersioningStatus::Suspended),
        versions(BucketVersioningStatus::Enabled),
    )
    .await?;
    site.breaks(
        "lifecycle missing",
        &[(
            "archive-lifecycle",
            ARCHIVE,
            "nothing expires below dead-letters/",
        )],
        async {
            Ok(s3
                .delete_bucket_lifecycle()
                .bucket(bucket)
                .send()
                .await
                .map(drop)?)
        },
        site.set_lifecycle(),
    )
    .await?;
    let public = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .block_public_policy(true)
        .ignore_public_acls(true)
        .restrict_public_buckets(true)
        .build();
    site.breaks(
        "public access not blocked",
        &[(
            "archive-public-access",
            ARCHIVE,
            "nothing blocks public access",
        )],
        async {
            Ok(s3
                .delete_public_access_block()
                .bucket(bucket)
                .send()
                .await
                .map(drop)?)
        },
        async {
            let request = s3.put_public_access_block().bucket(bucket);
            Ok(request
                .public_access_block_configuration(public)
                .send()
                .await
                .map(drop)?)
        },
    )
    .await?;
    let policy = s3.get_bucket_policy().bucket(bucket).send().await?;
    let policy = policy.policy.context("the policy")?;
    site.breaks(
        "policy of the bucket removed",
        &[("archive-policy", ARCHIVE, "the denial of s3:*")],
        async {
            Ok(s3
                .delete_bucket_policy()
                .bucket(bucket)
                .send()
                .await
                .map(drop)?)
        },
        async {
            let request = s3.put_bucket_policy().bucket(bucket).policy(policy);
            Ok(request.send().await.map(drop)?)
        },
    )
    .await
}

pub(super) async fn secrets(site: &Site) -> Result<()> {
    site.breaks(
        "a secret with a newline",
        &[(
            "secret",
            WRONG_SECRET,
            "openMessagingSecrets has a line break",
        )],
        site.set_secret(json!({ "openMessagingSecrets": ["open-messaging-secret-0002\n"] })),
        site.set_secret(json!({})),
    )
    .await?;
    site.breaks(
        "no secret of a sender",
        &[("secret", WRONG_SECRET, "every webhook is refused")],
        site.set_secret(json!({ "openMessagingSecrets": [], "webhookSecrets": [] })),
        site.set_secret(json!({})),
    )
    .await?;
    let (manager, whole) = (
        site.relay.stack.secrets_manager(),
        site.relay.stack.output("SecretArn")?,
    );
    site.breaks(
        "a secret that is no JSON",
        &[("secret", WRONG_SECRET, "not a JSON object")],
        async {
            let request = manager.put_secret_value().secret_id(whole);
            Ok(request
                .secret_string("{\"webhookSecrets\": a-secret}")
                .send()
                .await
                .map(drop)?)
        },
        site.set_secret(json!({})),
    )
    .await?;
    let signing = site.relay.stack.output("SigningSecretArn")?;
    let before = site.relay.stack.secret("SigningSecretArn").await?;
    let set = |text: String| {
        let request = manager
            .put_secret_value()
            .secret_id(signing)
            .secret_string(text);
        async move { Ok(request.send().await.map(drop)?) }
    };
    site.breaks(
        "an empty signing secret",
        &[(
            "signing-secret",
            "operate/runbooks/target-credentials.md",
            "deliveries are not signed",
        )],
        set(json!({ "targetSigningSecrets": "" }).to_string()),
        set(before.to_string()),
    )
    .await
}

pub(super) async fn roles(site: &Site) -> Result<()> {
    for (role, action, check) in [
        ("IngestRole", "sqs:SendMessage", "role-ingest"),
        ("ProcessorRole", "dynamodb:PutItem", "role-processor"),
        ("ReplayRole", "sqs:StartMessageMoveTask", "role-replay"),
        (
            "BreakerRole",
            "lambda:UpdateEventSourceMapping",
            "role-breaker",
        ),
        ("ScheduleRole", "lambda:InvokeFunction", "role-schedule"),
    ] {
        let role = site.relay.stack.role(role).await?;
        let what = format!("{action} taken from {check}");
        site.breaks(
            &what,
            &[(check, REDEPLOY, action)],
            role.take_away(action),
            role.restore(),
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn alarms(site: &Site) -> Result<()> {
    let stack = &site.relay.stack;
    let subscriptions = [("TopicArn", stack.output("AlarmTopicArn")?)];
    let aws = stack.aws();
    let found = aws
        .query("sns", "ListSubscriptionsByTopic", &subscriptions)
        .await?;
    let arn = found["Subscriptions"][0]["SubscriptionArn"]
        .as_str()
        .context("a subscription")?;
    site.breaks(
        "a topic without subscription",
        &[("alarms-subscribed", ALARMS, "nothing is subscribed")],
        async {
            aws.query("sns", "Unsubscribe", &[("SubscriptionArn", arn)])
                .await
                .map(drop)
        },
        async { site.subscribe().await.map(drop) },
    )
    .await?;

    let topic = stack.output("AlarmTopicArn")?;
    let publish = json!({
        "Effect": "Allow", "Principal": { "Service": "cloudwatch.amazonaws.com" },
        "Action": "sns:Publish", "Resource": topic,
        "Condition": {
            "StringEquals": { "aws:SourceAccount": "000000000000" },
            "ArnLike": { "aws:SourceArn": "arn:aws:cloudwatch:us-east-1:000000000000:alarm:relay-*" },
        },
    });
    let allow = |statements: Vec<Value>| async move {
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        let parameters = [
            ("TopicArn", topic),
            ("AttributeName", "Policy"),
            ("AttributeValue", &policy.to_string()),
        ];
        let set = aws.query("sns", "SetTopicAttributes", &parameters);
        set.await.map(drop)
    };
    site.breaks(
        "a topic that takes no alarms",
        &[("alarms-topic", ALARMS, "sns:Publish on")],
        allow(Vec::new()),
        allow(vec![publish]),
    )
    .await?;

    let cloudwatch = stack.cloudwatch();
    let alarms = cloudwatch.describe_alarms().send().await?;
    let mut names = alarms
        .metric_alarms()
        .iter()
        .filter_map(|alarm| alarm.alarm_name());
    let alarm = names.next().context("an alarm")?;
    site.breaks(
        "actions of an alarm disabled",
        &[("alarms", ALARMS, "are disabled")],
        async {
            Ok(cloudwatch
                .disable_alarm_actions()
                .alarm_names(alarm)
                .send()
                .await
                .map(drop)?)
        },
        async {
            Ok(cloudwatch
                .enable_alarm_actions()
                .alarm_names(alarm)
                .send()
                .await
                .map(drop)?)
        },
    )
    .await?;
    let state = |state: StateValue| {
        let request = cloudwatch
            .set_alarm_state()
            .alarm_name(alarm)
            .state_value(state);
        async move { Ok(request.state_reason("a test").send().await.map(drop)?) }
    };
    site.breaks(
        "an alarm raised",
        &[("alarms-quiet", ALARMS, "is in ALARM: a test")],
        state(StateValue::Alarm),
        state(StateValue::Ok),
    )
    .await
}

pub(super) async fn schedules(site: &Site) -> Result<()> {
    let aws = site.relay.stack.aws();
    for (part, check, runbook) in [
        ("BreakerSchedule", "schedule-breaker", BREAKER),
        ("ArchiveSchedule", "schedule-archive", ARCHIVE),
    ] {
        let schedules = aws.schedules().await?;
        let mut schedules = schedules.iter();
        let name = schedules
            .find(|name| name.contains(part))
            .context("a schedule")?;
        site.breaks(
            "a schedule disabled",
            &[(check, runbook, "it is DISABLED")],
            aws.set_schedule(name, false),
            aws.set_schedule(name, true),
        )
        .await?;
    }
    Ok(())
}
