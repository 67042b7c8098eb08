//! The alarms, the topic that they go to, and the metrics that they watch.

use aws_sdk_cloudwatch::types::StateValue;

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::schedules::{LAG, sum};
use super::template::{policy_differences, text};
use super::{Named, named, unless_any};

const PAGE: &str = "operate/alarms.md";

/// A metric that the breaker writes each minute.
const HEARTBEAT: &str = "BreakerOpen";

/// Metrics that show traffic.
const TRAFFIC: [&str; 2] = ["Accepted", "Delivered"];

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named("alarms", PAGE, alarms(deployment)),
        named("alarms-quiet", PAGE, quiet(deployment)),
        named("alarms-topic", PAGE, topic(deployment)),
        named("alarms-subscribed", PAGE, subscribed(deployment)),
        named("metrics", PAGE, metrics(deployment)),
    ]
}

async fn deployed(
    deployment: &Deployment,
) -> Result<Vec<aws_sdk_cloudwatch::types::MetricAlarm>, Fault> {
    let prefix = format!("{}-", deployment.name());
    let mut pages = deployment
        .cloudwatch
        .describe_alarms()
        .alarm_name_prefix(prefix)
        .into_paginator()
        .send();
    let mut alarms = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(fault("cloudwatch:DescribeAlarms"))?;
        alarms.extend(page.metric_alarms.unwrap_or_default());
    }
    Ok(alarms)
}

async fn alarms(deployment: &Deployment) -> Result<String, Fault> {
    let (found, wanted) = (deployed(deployment).await?, &deployment.alarms);
    if wanted.is_empty() {
        return Fault::failed("the stack has no alarms");
    }
    let topic = deployment.output("AlarmTopicArn")?;
    let mut problems = Vec::new();
    for name in wanted {
        match found.iter().find(|alarm| alarm.alarm_name() == Some(name)) {
            None => problems.push(format!("{name} is missing")),
            Some(alarm) if alarm.actions_enabled() == Some(false) => {
                problems.push(format!("the actions of {name} are disabled"));
            }
            Some(alarm) if !alarm.alarm_actions().iter().any(|action| action == topic) => {
                problems.push(format!("{name} does not go to the topic of the stack"));
            }
            Some(_) => {}
        }
    }
    unless_any(&problems, format!("{} alarms go to {topic}", wanted.len()))
}

/// No alarm is raised now.
async fn quiet(deployment: &Deployment) -> Result<String, Fault> {
    let (found, wanted) = (deployed(deployment).await?, &deployment.alarms);
    let raised = found
        .iter()
        .filter(|alarm| alarm.state_value() == Some(&StateValue::Alarm));
    let raised: Vec<_> = raised
        .filter_map(|alarm| {
            let name = alarm
                .alarm_name()
                .filter(|name| wanted.iter().any(|wanted| wanted == name))?;
            Some(format!(
                "{name} is in ALARM: {}",
                alarm.state_reason().unwrap_or("no reason given")
            ))
        })
        .collect();
    unless_any(&raised, "no alarm is in ALARM")
}

/// The topic takes what CloudWatch publishes.
async fn topic(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let policies = template.of_type("AWS::SNS::TopicPolicy");
    let Some(policy) = policies.first() else {
        return Fault::failed("the deployed template has no policy of the topic");
    };
    let wanted = &template.properties(policy)["PolicyDocument"];
    let parameters = [("TopicArn", deployment.output("AlarmTopicArn")?)];
    let answer = deployment
        .signed
        .query("sns:GetTopicAttributes", &parameters)
        .await?;
    let mut attributes = answer["Attributes"].as_array().into_iter().flatten();
    let found = attributes.find(|attribute| attribute["key"] == "Policy");
    let found = found.map(|found| text(&found["value"])).unwrap_or_default();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap_or_default();
    unless_any(
        &policy_differences(wanted, &found),
        "the alarms of this stack may publish",
    )
}

/// The topic has a subscription, and each is confirmed.
async fn subscribed(deployment: &Deployment) -> Result<String, Fault> {
    let topic = deployment.output("AlarmTopicArn")?;
    let (mut subscriptions, mut next) = (Vec::new(), String::new());
    loop {
        let mut parameters = vec![("TopicArn", topic)];
        if !next.is_empty() {
            parameters.push(("NextToken", next.as_str()));
        }
        let answer = deployment
            .signed
            .query("sns:ListSubscriptionsByTopic", &parameters)
            .await?;
        subscriptions.extend(
            answer["Subscriptions"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
        );
        match answer["NextToken"].as_str() {
            Some(token) if !token.is_empty() => token.clone_into(&mut next),
            _ => break,
        }
    }
    subscriptions.retain(|subscription| subscription["SubscriptionArn"] != "Deleted");
    let (confirmed, pending): (Vec<_>, Vec<_>) = subscriptions
        .iter()
        .partition(|subscription| text(&subscription["SubscriptionArn"]).starts_with("arn:"));
    let protocols = |of: &[&serde_json::Value]| {
        let protocols: Vec<_> = of
            .iter()
            .map(|subscription| text(&subscription["Protocol"]))
            .collect();
        protocols.join(", ")
    };
    match (confirmed.is_empty(), pending.is_empty()) {
        (true, true) => {
            Fault::failed("nothing is subscribed to the topic: set AlarmEmail, or subscribe")
        }
        (_, false) => Fault::failed(format!(
            "{} subscriptions are not confirmed ({}): open the link in the mail of AWS",
            pending.len(),
            protocols(&pending)
        )),
        (false, true) => Ok(format!(
            "{} confirmed subscriptions ({})",
            confirmed.len(),
            protocols(&confirmed)
        )),
    }
}

/// The relay's metrics arrive in CloudWatch.
async fn metrics(deployment: &Deployment) -> Result<String, Fault> {
    let namespace = format!("GenesysRelay/{}", deployment.name());
    let Some(_) = sum(deployment, &namespace, HEARTBEAT, None).await? else {
        if deployment
            .age("BreakerSchedule")
            .is_some_and(|age| age < LAG)
        {
            return Fault::not_here(
                "deployed minutes ago: CloudWatch shows metrics some minutes late",
            );
        }
        return Fault::failed(format!(
            "CloudWatch has no value of {HEARTBEAT} in {namespace} of the last day: the breaker does not run, or its log lines do not become metrics"
        ));
    };
    let mut said = Vec::new();
    for name in TRAFFIC {
        let count = sum(deployment, &namespace, name, None)
            .await?
            .unwrap_or_default();
        said.push(format!("{name} {count}"));
    }
    Ok(format!("in the last day: {}", said.join(", ")))
}
