//! A stack with a dead letter that is put under the rules of an account, and delivers under them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::QueueAttributeName;
use local::target::Behaviour;
use serde_json::{Value, json};

use crate::relay::{REFUSED, RETRIES, Relay, webhook};

const DOMAIN: &str = "relay.example.com";
const CERTIFICATE: &str = "arn:aws:acm:us-east-1:000000000000:certificate/of-a-test";

/// Outputs that name what holds events and secrets.
const RETAINED: [&str; 6] = [
    "QueueUrl",
    "DeadLetterQueueUrl",
    "EventsTableName",
    "ArchiveBucketName",
    "SecretArn",
    "SigningSecretArn",
];

/// The permissions boundary that the documentation shows. The local AWS holds the functions to it.
fn boundary() -> Result<String> {
    let page = "docs/operate/permissions-boundary-and-tags.md";
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page))?;
    let (_, block) = page.split_once("```json\n").context("a block of JSON")?;
    let (policy, _) = block.split_once("```").context("its end")?;
    Ok(serde_json::from_str::<Value>(policy)?.to_string())
}

/// Bounds each role. The local AWS heeds a boundary, but not the one of a template.
async fn bound_roles(relay: &Relay, boundary: &str) -> Result<usize> {
    let aws = relay.stack.aws();
    let roles = aws.query("iam", "ListRoles", &[]).await?;
    let names = roles["Roles"].as_array().context("roles")?.iter();
    let names = names.filter_map(|role| role["RoleName"].as_str());
    let mut bounded = 0;
    for name in names.filter(|name| name.starts_with("relay-")) {
        let request = [("RoleName", name), ("PermissionsBoundary", boundary)];
        aws.query("iam", "PutRolePermissionsBoundary", &request)
            .await?;
        bounded += 1;
    }
    Ok(bounded)
}

async fn key_of(relay: &Relay, queue: &str) -> Result<Option<String>> {
    let name = QueueAttributeName::KmsMasterKeyId;
    let request = relay.stack.sqs().get_queue_attributes();
    let request = request.queue_url(relay.stack.output(queue)?);
    let answer = request.attribute_names(name.clone()).send().await?;
    Ok(answer.attributes.and_then(|mut all| all.remove(&name)))
}

#[tokio::test]
async fn rules_of_an_account_replace_nothing_and_hold_up_no_event() -> Result<()> {
    let mut relay = Relay::start(REFUSED, &RETRIES).await?;
    let dead = relay.accept_dead(["dead before"]).await?;
    let retained = |relay: &Relay| -> Result<Vec<String>> {
        let outputs = RETAINED.iter();
        outputs
            .map(|output| Ok(relay.stack.output(output)?.to_owned()))
            .collect()
    };
    let before = retained(&relay)?;

    let aws = relay.stack.aws().clone();
    let key = aws
        .json("kms", "TrentService.CreateKey", &json!({}))
        .await?;
    let key = key["KeyMetadata"]["Arn"].as_str().context("a key")?;
    let policy = [("PolicyName", "boundary"), ("PolicyDocument", &boundary()?)];
    let policy = aws.query("iam", "CreatePolicy", &policy).await?;
    let boundary = policy["Policy"]["Arn"].as_str().context("a boundary")?;

    let half = relay.stack.redeploy(&[("DomainName", DOMAIN)]).await;
    let refused = half.err().context("half a domain was deployed")?;
    ensure!(
        format!("{refused:#}").contains("DomainName and CertificateArn must both be set"),
        "{refused:#}"
    );

    let rules = [
        ("KmsKeyArn", key),
        ("PermissionsBoundaryArn", boundary),
        ("DomainName", DOMAIN),
        ("CertificateArn", CERTIFICATE),
        ("VpcSubnetIds", "subnet-01234567,subnet-89abcdef"),
        ("VpcSecurityGroupIds", "sg-01234567"),
        ("TargetRatePerSecond", "100"),
        ("TargetSigV4Service", "execute-api"),
        (
            "TargetSigV4Arn",
            "arn:aws:execute-api:us-east-1:000000000000:api/prod/POST/*",
        ),
    ];
    relay.stack.redeploy(&rules).await?;
    assert_eq!(retained(&relay)?, before);
    for queue in ["QueueUrl", "DeadLetterQueueUrl"] {
        assert_eq!(key_of(&relay, queue).await?.as_deref(), Some(key));
    }
    assert_eq!(bound_roles(&relay, boundary).await?, 7);
    assert_eq!(
        relay.stack.output("WebhookUrl")?,
        format!("https://{DOMAIN}/webhook/genesys")
    );
    ensure!(relay.stack.output("DomainTarget")?.starts_with("d-"));

    relay.target.behave(Behaviour::Fine);
    let sent = relay.accept(&webhook("sent under the rules")).await?;
    let request = json!({ "action": "replay", "eventIds": dead, "why": "a test" });
    relay.replay(request).await?;
    relay.until_empty().await?;
    for id in dead.iter().chain([&sent]) {
        assert_eq!(relay.show(id).await?["state"], "DELIVERED", "{id}");
    }

    let off = rules.map(|(name, _)| (name, if name.ends_with("PerSecond") { "0" } else { "" }));
    relay.stack.redeploy(&off).await?;
    assert_eq!(retained(&relay)?, before);
    relay.accept(&webhook("sent without them")).await?;
    relay.until_empty().await
}
