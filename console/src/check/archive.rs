//! The archive bucket.

use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus, LifecycleExpiration};
use serde_json::Value;

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::template::{policy_differences, text};
use super::{Named, named, unless_any};

const BUCKET: &str = "ArchiveBucket";

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let runbook = "operate/runbooks/archive-failing.md";
    vec![
        named("archive-versions", runbook, versions(deployment)),
        named("archive-lifecycle", runbook, lifecycle(deployment)),
        named("archive-public-access", runbook, public_access(deployment)),
        named("archive-policy", runbook, policy(deployment)),
    ]
}

fn name(deployment: &Deployment) -> &str {
    deployment.template.physical(BUCKET).unwrap_or_default()
}

async fn versions(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .s3
        .get_bucket_versioning()
        .bucket(name(deployment))
        .send();
    let answer = answer.await.map_err(fault("s3:GetBucketVersioning"))?;
    match answer.status {
        Some(BucketVersioningStatus::Enabled) => {
            Ok("an object that was deleted by mistake can be brought back".to_owned())
        }
        _ => Fault::failed("versioning is off: an object that is deleted by mistake is lost"),
    }
}

async fn lifecycle(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .s3
        .get_bucket_lifecycle_configuration()
        .bucket(name(deployment))
        .send();
    let found = match answer.await.map_err(fault("s3:GetLifecycleConfiguration")) {
        Ok(answer) => answer.rules.unwrap_or_default(),
        Err(Fault::Missing(_)) => Vec::new(),
        Err(fault) => return Err(fault),
    };
    let expected = &deployment.template.properties(BUCKET)["LifecycleConfiguration"]["Rules"];
    let (mut problems, mut said) = (Vec::new(), Vec::new());
    for wanted in expected.as_array().into_iter().flatten() {
        let Some(prefix) = wanted["Prefix"].as_str() else {
            continue;
        };
        let days = text(&wanted["ExpirationInDays"]);
        let rule = found.iter().find(|rule| {
            let of_filter = rule.filter().and_then(|filter| filter.prefix());
            #[expect(deprecated, reason = "CloudFormation writes the older form")]
            let prefix_of_rule = rule.prefix().or(of_filter);
            prefix_of_rule == Some(prefix) && rule.status() == &ExpirationStatus::Enabled
        });
        let given = rule
            .and_then(|rule| rule.expiration())
            .and_then(LifecycleExpiration::days);
        match given {
            Some(given) if given.to_string() == days => {
                said.push(format!("{prefix} after {days} days"));
            }
            Some(given) => problems.push(format!(
                "{prefix} expires after {given} days, and the template says {days}"
            )),
            None => problems.push(format!("nothing expires below {prefix}")),
        }
    }
    unless_any(&problems, format!("objects expire: {}", said.join(", ")))
}

async fn public_access(deployment: &Deployment) -> Result<String, Fault> {
    let answer = deployment
        .s3
        .get_public_access_block()
        .bucket(name(deployment))
        .send();
    let found = match answer.await.map_err(fault("s3:GetBucketPublicAccessBlock")) {
        Ok(answer) => answer.public_access_block_configuration,
        Err(Fault::Missing(_)) => None,
        Err(fault) => return Err(fault),
    };
    let found = found.ok_or_else(|| Fault::Failed("nothing blocks public access".to_owned()))?;
    let switches = [
        ("BlockPublicAcls", found.block_public_acls()),
        ("BlockPublicPolicy", found.block_public_policy()),
        ("IgnorePublicAcls", found.ignore_public_acls()),
        ("RestrictPublicBuckets", found.restrict_public_buckets()),
    ];
    let off = switches.iter().filter(|(_, is_on)| *is_on != Some(true));
    let problems: Vec<_> = off.map(|(name, _)| format!("{name} is off")).collect();
    unless_any(&problems, "public access is blocked")
}

async fn policy(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let expected = template.of_type("AWS::S3::BucketPolicy");
    let Some(expected) = expected.first() else {
        return Fault::failed("the deployed template has no policy of the bucket");
    };
    let expected = &template.properties(expected)["PolicyDocument"];
    let answer = deployment
        .s3
        .get_bucket_policy()
        .bucket(name(deployment))
        .send();
    let found = match answer.await.map_err(fault("s3:GetBucketPolicy")) {
        Ok(answer) => answer.policy.unwrap_or_default(),
        Err(Fault::Missing(_)) => String::new(),
        Err(fault) => return Err(fault),
    };
    let found: Value = serde_json::from_str(&found).unwrap_or_default();
    unless_any(
        &policy_differences(expected, &found),
        "the bucket refuses calls without TLS",
    )
}
