//! The functions, their code, and the mappings that feed the processor.

use aws_sdk_lambda::types::ScalingConfig;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::template::text;
use super::{Named, kebab, named, unless_any};

/// Time by which a function's own clock may be behind CloudFormation's.
const CLOCKS_DIFFER: i64 = 120;

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let mut checks = Vec::new();
    for function in deployment.template.of_type("AWS::Lambda::Function") {
        let name = kebab(function, "Function");
        let runbook = match name.as_str() {
            "ingest" => "operate/runbooks/acks-failing.md",
            "processor" => "operate/runbooks/processor-failing.md",
            "breaker" => "operate/runbooks/breaker.md",
            "recovery" => "operate/runbooks/recovery-behind.md",
            _ => super::stack::RUNBOOK,
        };
        checks.push(named(
            format!("function-{name}"),
            runbook,
            self::function(deployment, function),
        ));
        checks.push(named(
            format!("code-{name}"),
            super::stack::RUNBOOK,
            code(deployment, function),
        ));
    }
    for mapping in deployment
        .template
        .of_type("AWS::Lambda::EventSourceMapping")
    {
        let name = match kebab(mapping, "EventSource").as_str() {
            "processor" => "event-source".to_owned(),
            other => format!("event-source-{other}"),
        };
        checks.push(named(
            name,
            "operate/runbooks/events-too-old.md",
            self::mapping(deployment, mapping),
        ));
    }
    checks
}

async fn function(deployment: &Deployment, function: &str) -> Result<String, Fault> {
    let name = deployment.template.physical(function).unwrap_or_default();
    let answer = deployment.lambda.get_function().function_name(name).send();
    let answer = answer.await.map_err(fault("lambda:GetFunction"))?;
    let found = answer.configuration.ok_or_else(undescribed)?;
    let mut problems = Vec::new();
    let state = found.state().map_or("unknown", |state| state.as_str());
    // A function that was not called for weeks becomes idle, and active with the next call.
    if !matches!(state, "Active" | "Inactive") {
        problems.push(format!(
            "{name} is {state}: {}",
            found.state_reason().unwrap_or("no reason given")
        ));
    }
    let update = found
        .last_update_status()
        .map_or("Successful", |status| status.as_str());
    if update == "Failed" {
        problems.push(format!(
            "its last update failed: {}",
            found
                .last_update_status_reason()
                .unwrap_or("no reason given")
        ));
    }
    let reserved = answer
        .concurrency
        .and_then(|reserved| reserved.reserved_concurrent_executions);
    if reserved == Some(0) {
        problems.push(
            "its reserved concurrency is 0, so that Lambda refuses every invocation".to_owned(),
        );
    }
    let expected = deployment.template.properties(function);
    if let Some(role) = expected["Role"]
        .as_str()
        .filter(|role| Some(*role) != found.role())
    {
        problems.push(format!(
            "it runs as {}, and not as {role}",
            found.role().unwrap_or("no role")
        ));
    }
    // Names only, no values.
    let wanted = expected["Environment"]["Variables"].as_object();
    let given = found.environment();
    if given.is_none_or(|given| given.error().is_none()) {
        let given = given.and_then(|given| given.variables());
        let value = |name: &str| given.and_then(|given| given.get(name)).cloned();
        let differ = wanted.into_iter().flatten();
        let differ = differ.filter(|(name, wanted)| value(name) != Some(text(wanted)));
        problems.extend(
            differ.map(|(name, _)| format!("its variable {name} is not as the template says")),
        );
    }
    let reserved = reserved.map_or_else(String::new, |reserved| format!(", {reserved} reserved"));
    let memory = found.memory_size().unwrap_or_default();
    unless_any(
        &problems,
        format!("{name} is {state}, {memory} MB{reserved}"),
    )
}

/// The function's code is the one that the template names.
async fn code(deployment: &Deployment, function: &str) -> Result<String, Fault> {
    let name = deployment.template.physical(function).unwrap_or_default();
    let answer = deployment.lambda.get_function().function_name(name).send();
    let found = match answer.await.map_err(fault("lambda:GetFunction")) {
        Ok(answer) => answer.configuration.ok_or_else(undescribed)?,
        Err(Fault::Missing(_)) => return Fault::not_here(format!("because {name} does not exist")),
        Err(fault) => return Err(fault),
    };
    let digest = found.code_sha256().unwrap_or_default();
    let place = &deployment.template.properties(function)["Code"];
    let (bucket, key) = (text(&place["S3Bucket"]), text(&place["S3Key"]));
    if let Ok(expected) = artefact(deployment, &bucket, &key).await {
        return if expected == digest {
            Ok(format!("the digest of s3://{bucket}/{key}"))
        } else {
            Fault::failed(format!(
                "stale function: its code has the digest {digest}, and s3://{bucket}/{key} of the template has {expected}"
            ))
        };
    }
    // The artefact is deleted, or not readable for the operator.
    let modified = found.last_modified().unwrap_or_default();
    let Some(changed) = deployment.changed_at.get(function) else {
        return Fault::not_here("neither its artefact nor the time of its deploy can be read");
    };
    let place = format!("s3://{bucket}/{key}");
    judge_times(modified, *changed, &place)
}

/// Judges a function by the time of its last change and, in seconds, of its last deploy.
fn judge_times(modified: &str, changed: i64, artefact: &str) -> Result<String, Fault> {
    // Lambda writes the offset without a colon.
    let time: Timestamp = modified.replace("+0000", "Z").parse().map_err(|error| {
        Fault::Failed(format!("Lambda's time {modified} cannot be read: {error}"))
    })?;
    if time.as_second() > changed + CLOCKS_DIFFER {
        let changed = Timestamp::from_second(changed).unwrap_or_default();
        return Fault::failed(format!(
            "stale function: it was changed at {time}, after its last deploy at {changed}"
        ));
    }
    Ok(format!(
        "not changed since its deploy ({artefact} cannot be read)"
    ))
}

fn undescribed() -> Fault {
    Fault::Failed("Lambda did not describe the function".to_owned())
}

/// The digest of an object, as Lambda writes it.
async fn artefact(deployment: &Deployment, bucket: &str, key: &str) -> Result<String, Fault> {
    let object = deployment.s3.get_object().bucket(bucket).key(key).send();
    let object = object.await.map_err(fault("s3:GetObject"))?;
    let (mut body, mut digest) = (object.body, Sha256::new());
    while let Some(chunk) = body.next().await {
        digest.update(chunk.map_err(|error| Fault::Failed(error.to_string()))?);
    }
    Ok(BASE64_STANDARD.encode(digest.finalize()))
}

async fn mapping(deployment: &Deployment, mapping: &str) -> Result<String, Fault> {
    let id = deployment.template.physical(mapping).unwrap_or_default();
    let found = deployment.lambda.get_event_source_mapping().uuid(id).send();
    let found = found.await.map_err(fault("lambda:GetEventSourceMapping"))?;
    let expected = deployment.template.properties(mapping);
    let mut problems = Vec::new();
    let state = found.state().unwrap_or("unknown");
    // It holds the mapping back or lets few invocations run, unless it is closed or off.
    let breaker = deployment
        .status()
        .ok()
        .and_then(|status| status.breaker.as_ref());
    let is_held = breaker.is_some_and(|breaker| !matches!(&*breaker.state, "closed" | "off"));
    // The breaker may hold it.
    if matches!(state, "Disabled" | "Disabling") {
        deployment.status()?;
    }
    match state {
        "Enabled" | "Creating" | "Enabling" | "Updating" => {}
        "Disabled" | "Disabling" if is_held => {}
        _ => problems.push(format!("it is {state}, and the breaker does not hold it")),
    }
    let wanted = list(&expected["FunctionResponseTypes"]);
    let given: Vec<_> = found
        .function_response_types()
        .iter()
        .map(|kind| kind.as_str().to_owned())
        .collect();
    if wanted != given {
        problems.push(format!(
            "it does not report the failures of single events ({} is missing)",
            wanted.join(", ")
        ));
    }
    let scaling = found
        .scaling_config()
        .and_then(ScalingConfig::maximum_concurrency);
    let numbers = [
        (
            "BatchSize",
            text(&expected["BatchSize"]),
            found.batch_size(),
        ),
        (
            "MaximumConcurrency",
            text(&expected["ScalingConfig"]["MaximumConcurrency"]),
            scaling,
        ),
    ];
    for (name, wanted, given) in numbers {
        let is_limited = is_held && name == "MaximumConcurrency";
        if !is_limited && given.map(|given| given.to_string()).as_deref() != Some(&wanted) {
            let given = given.map_or_else(|| "not set".to_owned(), |given| given.to_string());
            problems.push(format!("{name} is {given}, and the template says {wanted}"));
        }
    }
    if found.event_source_arn() != expected["EventSourceArn"].as_str() {
        problems.push(format!(
            "it reads {}",
            found.event_source_arn().unwrap_or("nothing")
        ));
    }
    let function = text(&expected["FunctionName"]);
    let fed = found.function_arn().unwrap_or_default();
    if !fed.ends_with(&format!(":{function}")) {
        problems.push(format!("it invokes {fed}, and not {function}"));
    }
    let held = if is_held { ", held by the breaker" } else { "" };
    unless_any(
        &problems,
        format!(
            "{state}{held}, batches of {}, reports single failures",
            text(&expected["BatchSize"])
        ),
    )
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_after_the_deploy_is_a_stale_function() {
        let modified = "2026-11-30T12:00:00.123+0000";
        let at: Timestamp = modified.replace("+0000", "Z").parse().expect("a time");
        assert!(judge_times(modified, at.as_second() - 60, "a").is_ok());
        let stale = judge_times(modified, at.as_second() - 3600, "a");
        assert!(
            matches!(&stale, Err(Fault::Failed(says)) if says.starts_with("stale function")),
            "{stale:?}"
        );
    }
}
