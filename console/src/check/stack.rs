//! The stack itself, and the roles of its functions.

use std::future::ready;

use serde_json::Value;

use super::call::Fault;
use super::deployment::Deployment;
use super::template::policy_differences;
use super::{Named, kebab, named, unless_any};

pub(super) const RUNBOOK: &str = "operate/runbooks/redeploy-and-rollback.md";

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let mut checks = vec![named("stack", RUNBOOK, ready(stack(deployment)))];
    for role in deployment.template.of_type("AWS::IAM::Role") {
        let name = format!("role-{}", kebab(role, "Role"));
        checks.push(named(name, RUNBOOK, self::role(deployment, role)));
    }
    checks
}

/// A stack whose last operation succeeded, or that was rolled back to a deploy that did.
fn stack(deployment: &Deployment) -> Result<String, Fault> {
    let status = deployment
        .stack
        .stack_status()
        .map_or("no status", |status| status.as_str());
    let reason = deployment.stack.stack_status_reason().unwrap_or_default();
    if !matches!(
        status,
        "CREATE_COMPLETE"
            | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
            | "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"
            | "UPDATE_COMPLETE"
            | "UPDATE_ROLLBACK_COMPLETE"
            | "IMPORT_COMPLETE"
    ) {
        return Fault::failed(format!("its status is {status}: {reason}"));
    }
    if let Err(missing) = &deployment.functions {
        return Fault::failed(missing.clone());
    }
    let outputs = deployment.outputs.len();
    Ok(format!("{status}, {outputs} outputs"))
}

/// Policies of a role as the template says.
async fn role(deployment: &Deployment, role: &str) -> Result<String, Fault> {
    let template = &deployment.template;
    let name = template.physical(role).unwrap_or_default();
    let expected = template.properties(role);
    let signed = &deployment.signed;
    let (mut problems, mut permissions) = (Vec::new(), 0);
    let listed = signed
        .query("iam:ListRolePolicies", &[("RoleName", name)])
        .await?;
    let mut unknown: Vec<String> = listed["PolicyNames"]
        .as_array()
        .into_iter()
        .flatten()
        .map(super::template::text)
        .collect();
    for policy in expected["Policies"].as_array().into_iter().flatten() {
        let policy_name = policy["PolicyName"].as_str().unwrap_or_default();
        unknown.retain(|listed| listed != policy_name);
        let parameters = [("RoleName", name), ("PolicyName", policy_name)];
        let found = match signed.query("iam:GetRolePolicy", &parameters).await {
            Ok(found) => document(&found["PolicyDocument"])?,
            // Then every permission is missing.
            Err(Fault::Missing(_)) => Value::Null,
            Err(fault) => return Err(fault),
        };
        let expected = &policy["PolicyDocument"];
        permissions += expected["Statement"].as_array().map_or(0, Vec::len);
        problems.extend(policy_differences(expected, &found));
    }
    problems.extend(
        unknown
            .iter()
            .map(|policy| format!("the policy {policy} was added")),
    );
    unless_any(
        &problems,
        format!("{name} has the {permissions} statements of the template"),
    )
}

/// IAM gives documents percent-encoded.
fn document(encoded: &Value) -> Result<Value, Fault> {
    let encoded = encoded.as_str().unwrap_or_default();
    // Not a form: a plus sign is one.
    let pairs = format!("document={}", encoded.replace('+', "%2B"));
    let decoded = form_urlencoded::parse(pairs.as_bytes()).next();
    let decoded = decoded
        .map(|(_, text)| text.into_owned())
        .unwrap_or_default();
    serde_json::from_str(&decoded)
        .map_err(|error| Fault::Failed(format!("IAM gave a policy that is no JSON: {error}")))
}
