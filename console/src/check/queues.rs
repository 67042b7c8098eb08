//! The queues: their attributes and policies as the template says, and what waits in them.

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::template::{policy_differences, text};
use super::{Named, kebab, named, unless_any};

/// Attributes of a queue by their names in a template.
const ATTRIBUTES: [(&str, QueueAttributeName); 7] = [
    (
        "MessageRetentionPeriod",
        QueueAttributeName::MessageRetentionPeriod,
    ),
    ("MaximumMessageSize", QueueAttributeName::MaximumMessageSize),
    ("VisibilityTimeout", QueueAttributeName::VisibilityTimeout),
    ("RedrivePolicy", QueueAttributeName::RedrivePolicy),
    ("RedriveAllowPolicy", QueueAttributeName::RedriveAllowPolicy),
    ("FifoQueue", QueueAttributeName::FifoQueue),
    ("KmsMasterKeyId", QueueAttributeName::KmsMasterKeyId),
];

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let mut checks = Vec::new();
    for queue in deployment.template.of_type("AWS::SQS::Queue") {
        let name = match kebab(queue, "Queue").as_str() {
            "dead-letter" => "queue-dead-letters".to_owned(),
            "ordered-dead-letter" => "queue-ordered-dead-letters".to_owned(),
            other => format!("queue-{other}"),
        };
        checks.push(named(
            name,
            super::stack::RUNBOOK,
            self::queue(deployment, queue),
        ));
    }
    checks.push(named(
        "queue-policies",
        super::stack::RUNBOOK,
        policies(deployment),
    ));
    checks
}

async fn queue(deployment: &Deployment, queue: &str) -> Result<String, Fault> {
    let url = deployment.template.physical(queue).unwrap_or_default();
    let answer = deployment
        .sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All)
        .send();
    let answer = answer.await.map_err(fault("sqs:GetQueueAttributes"))?;
    let found = answer.attributes.unwrap_or_default();
    let expected = deployment.template.properties(queue);
    let mut problems = Vec::new();
    for (name, attribute) in ATTRIBUTES {
        let Some(wanted) = expected.get(name) else {
            continue;
        };
        match found.get(&attribute) {
            Some(given) if is_same(wanted, given) => {}
            Some(given) => problems.push(format!(
                "{name} is {given}, and the template says {}",
                text(wanted)
            )),
            None => problems.push(format!(
                "{name} is missing; the template says {}",
                text(wanted)
            )),
        }
    }
    let count = |attribute| found.get(&attribute).map_or("0", String::as_str);
    let waiting = count(QueueAttributeName::ApproximateNumberOfMessages);
    let in_flight = count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
    unless_any(
        &problems,
        format!("as deployed; {waiting} messages wait, {in_flight} are in flight"),
    )
}

/// Compares an attribute, which SQS writes as text, with the template.
fn is_same(wanted: &Value, given: &str) -> bool {
    match wanted {
        Value::Object(wanted) => {
            let given: Value = serde_json::from_str(given).unwrap_or_default();
            wanted
                .iter()
                .all(|(name, wanted)| match (wanted, &given[name]) {
                    (Value::Array(wanted), Value::Array(given)) => wanted == given,
                    (wanted, given) => text(wanted) == text(given),
                })
        }
        wanted => text(wanted) == given,
    }
}

/// Every queue refuses calls without TLS, and takes what EventBridge sends.
async fn policies(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let mut problems = Vec::new();
    let queues = template.of_type("AWS::SQS::Queue");
    let mut policies: Vec<(String, Value)> = Vec::new();
    for policy in template.of_type("AWS::SQS::QueuePolicy") {
        let policy = template.properties(policy);
        for url in policy["Queues"].as_array().into_iter().flatten() {
            policies.push((text(url), policy["PolicyDocument"].clone()));
        }
    }
    for queue in &queues {
        let url = template.physical(queue).unwrap_or_default();
        let Some((_, expected)) = policies.iter().find(|(of, _)| of == url) else {
            problems.push(format!("{queue}: the template has no policy for it"));
            continue;
        };
        let answer = deployment
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::Policy)
            .send();
        let found = match answer.await.map_err(fault("sqs:GetQueueAttributes")) {
            Ok(answer) => answer.attributes.unwrap_or_default(),
            // Named by the check of the queue.
            Err(Fault::Missing(_)) => continue,
            Err(fault) => return Err(fault),
        };
        let found = found
            .get(&QueueAttributeName::Policy)
            .map(String::as_str)
            .unwrap_or_default();
        let found: Value = serde_json::from_str(found).unwrap_or_default();
        let differences = policy_differences(expected, &found);
        problems.extend(
            differences
                .iter()
                .map(|difference| format!("{queue}: {difference}")),
        );
    }
    unless_any(
        &problems,
        format!(
            "{} queues refuse calls without TLS, and have the permissions of the template",
            queues.len()
        ),
    )
}
