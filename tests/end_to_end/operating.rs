//! Means of an operator: alarms that are delivered, a dashboard that shows them, queries whose
//! fields exist, metrics in the logs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_cloudwatch::types::{MetricDatum, StateValue};
use aws_sdk_sqs::types::QueueAttributeName;
use local::genesys::Webhook;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::relay::{RETRIES, Relay, assert_has, name_of, webhook};

/// Subscribes a queue to the topic of the alarms, and returns its URL.
async fn subscribe(relay: &Relay) -> Result<String> {
    let (sqs, topic) = (relay.stack.sqs(), relay.stack.output("AlarmTopicArn")?);
    let lets_the_topic_send = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "sqs:SendMessage", "Resource": "*",
        "Condition": { "ArnEquals": { "aws:SourceArn": topic } },
    }] });
    let request = sqs.create_queue().queue_name("operator");
    let request = request.attributes(QueueAttributeName::Policy, lets_the_topic_send.to_string());
    let queue = request.send().await?.queue_url.context("a queue")?;
    let request = sqs.get_queue_attributes().queue_url(&queue);
    let attributes = request
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await?
        .attributes;
    let arn = attributes
        .unwrap_or_default()
        .remove(&QueueAttributeName::QueueArn);
    let subscription = [
        ("TopicArn", topic),
        ("Protocol", "sqs"),
        ("Endpoint", &arn.context("its ARN")?),
    ];
    let aws = relay.stack.aws();
    aws.query("sns", "Subscribe", &subscription).await?;
    Ok(queue)
}

/// Waits until all these alarms have told the queue that they are in this state, and returns their
/// notices.
async fn until_told(
    relay: &Relay,
    queue: &str,
    names: &BTreeSet<String>,
    state: &str,
) -> Result<Vec<Value>> {
    let sqs = relay.stack.sqs();
    let mut told = BTreeMap::new();
    while told.len() < names.len() {
        let message = wait::until("an alarm tells the queue", || async {
            let request = sqs.receive_message().queue_url(queue).wait_time_seconds(1);
            Ok(request.send().await?.messages.unwrap_or_default().pop())
        })
        .await?;
        let envelope: Value = serde_json::from_str(message.body().context("a body")?)?;
        let text = envelope["Message"].as_str().context("a message")?;
        let notice: Value = serde_json::from_str(text)?;
        let name = notice["AlarmName"].as_str().context("a name")?.to_owned();
        ensure!(
            notice["NewStateValue"] == state && names.contains(&name),
            "{notice}"
        );
        told.insert(name, notice);
        let request = sqs.delete_message().queue_url(queue);
        request
            .set_receipt_handle(message.receipt_handle)
            .send()
            .await?;
    }
    Ok(told.into_values().collect())
}

/// Sets the state of each alarm, as the local AWS makes no metrics of the logs.
#[tokio::test]
async fn every_alarm_reaches_its_subscribers_and_the_dashboard_shows_it() -> Result<()> {
    // With everything that can be off.
    let parameters = [
        ("AlarmEmail", "operator@example.com"),
        ("Breaker", "on"),
        ("Order", "conversation"),
        ("RecoverySource", "open-messaging"),
        ("Statement", "on"),
        ("CanaryMinutes", "60"),
    ];
    let relay = Relay::start(Behaviour::Fine, &parameters).await?;
    let queue = subscribe(&relay).await?;
    let cloudwatch = relay.stack.cloudwatch();
    let described = cloudwatch.describe_alarms().send().await?;
    let alarms = described.metric_alarms();
    let names = alarms.iter().filter_map(|alarm| alarm.alarm_name.clone());
    let names: BTreeSet<_> = names.collect();
    assert_eq!(names.len(), 29, "{names:?}");

    let name = relay.stack.output("DashboardName")?;
    let dashboard = cloudwatch
        .get_dashboard()
        .dashboard_name(name)
        .send()
        .await?;
    let body: Value = serde_json::from_str(dashboard.dashboard_body().context("a body")?)?;
    let shown = body
        .pointer("/widgets/0/properties/alarms")
        .and_then(Value::as_array);
    let shown = shown.context("alarms")?.iter().filter_map(Value::as_str);
    let arns = alarms.iter().filter_map(|alarm| alarm.alarm_arn());
    assert_eq!(shown.collect::<BTreeSet<_>>(), arns.collect(), "{body}");
    assert!(!body.to_string().contains("${"), "{body}");

    for (state, value) in [("ALARM", StateValue::Alarm), ("OK", StateValue::Ok)] {
        for name in &names {
            let request = cloudwatch.set_alarm_state().alarm_name(name);
            let request = request.state_reason("a test").state_value(value.clone());
            request.send().await?;
        }
        for notice in until_told(&relay, &queue, &names, state).await? {
            let description = notice["AlarmDescription"]
                .as_str()
                .context("a description")?;
            let (_, runbook) = description.split_once(" Runbook: ").context("a runbook")?;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(runbook);
            ensure!(path.is_file(), "{description}");
        }
    }

    // An alarm that changes by itself: four are fewer than the threshold, five are not.
    for (count, state) in [(4.0, "OK"), (5.0, "ALARM")] {
        let datum = MetricDatum::builder()
            .metric_name("Rejected")
            .value(count)
            .build();
        let request = cloudwatch.put_metric_data().namespace("GenesysRelay/relay");
        request.metric_data(datum).send().await?;
        let request = cloudwatch
            .describe_alarms()
            .alarm_names("relay-alarm-unauthorized");
        let of_it = request.send().await?;
        let found = of_it.metric_alarms()[0]
            .state_value()
            .map(StateValue::as_str);
        assert_eq!(found, Some(state), "{count}");
    }
    // Both look at this metric, and the local AWS does not tell its dimensions apart.
    let both = ["relay-alarm-failed-acks", "relay-alarm-unauthorized"].map(str::to_owned);
    until_told(&relay, &queue, &both.into(), "ALARM").await?;
    Ok(())
}

/// Words of the language of CloudWatch Logs Insights that the queries use.
const LANGUAGE: [&str; 16] = [
    "fields",
    "filter",
    "stats",
    "sort",
    "limit",
    "by",
    "as",
    "in",
    "or",
    "asc",
    "desc",
    "count",
    "count_distinct",
    "max",
    "coalesce",
    "ispresent",
];

/// Fields and texts that a query names, but for those of CloudWatch and those that it defines.
fn named_in(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    // Every second part stands between quotes.
    let parts: Vec<_> = query.split('"').collect();
    let texts = parts
        .iter()
        .skip(1)
        .step_by(2)
        .map(|text| (*text).to_owned());
    let code: Vec<_> = parts.iter().step_by(2).copied().collect();
    let code = code.join(" ");
    let words = code.split(|c: char| !(c.is_alphanumeric() || "_@`".contains(c)));
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let defined = words
        .windows(2)
        .filter(|pair| pair[0] == "as")
        .map(|pair| pair[1]);
    let defined: BTreeSet<_> = defined.collect();
    let is_field = |word: &&&str| {
        !word.starts_with(|c: char| c == '@' || c.is_numeric())
            && !LANGUAGE.contains(word)
            && !defined.contains(*word)
    };
    let fields = words
        .iter()
        .filter(is_field)
        .map(|word| word.trim_matches('`').to_owned());
    (fields.collect(), texts.collect())
}

fn queries() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/observability.yaml");
    let template = YamlLoader::load_from_str(&std::fs::read_to_string(path)?)?.remove(0);
    let resources = template["Resources"]
        .as_hash()
        .context("resources")?
        .values();
    let text = |query: &Yaml| {
        query["Properties"]["QueryString"]
            .as_str()
            .map(str::to_owned)
    };
    resources
        .filter(|found| found["Type"].as_str() == Some("AWS::Logs::QueryDefinition"))
        .map(|query| text(query).context("a query"))
        .collect()
}

/// The local AWS runs no queries, and makes no metrics of the logs.
#[tokio::test]
async fn the_functions_log_the_fields_of_queries_and_metrics() -> Result<()> {
    let script = |request: &ReceivedRequest| match (name_of(&request.body).as_str(), request.nth) {
        ("retried", 1) => Answer::status(503),
        ("dead", 1) => Answer::status(404),
        _ => Answer::status(200),
    };
    let relay = Relay::start(Behaviour::script(script), &RETRIES).await?;
    let ids = relay.accept_all(["retried", "dead"].map(webhook)).await?;
    relay.until_dead(1).await?;
    let request = json!({ "action": "replay", "eventIds": [ids[1]], "why": "the route is there", "by": "an operator" });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 1 }));
    relay.until_empty().await?;
    let (status, _) = relay.send(&Webhook::with_shared_secret("not JSON")).await?;
    assert_eq!(status, 400);
    // Looks, of which one has a caller whom IAM knows.
    let answer = relay.stack.call_api("GET", "/dlq").await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let question = json!({ "action": "conversation", "id": "a-conversation" });
    relay.stack.invoke(Function::Look, &question).await??;
    for query in queries()? {
        let (fields, mut texts) = named_in(&query);
        assert!(fields.len() > 3, "{query}: {fields:?}");
        // It stands for the id of an event.
        texts.remove("the event's id");
        wait::until(
            &format!("all that this asks for is logged: {query}"),
            || async {
                let (mut logged, mut messages) = (BTreeSet::new(), BTreeSet::new());
                for function in Function::ALL {
                    for line in relay.log(function).await? {
                        let line = line.as_object().cloned().unwrap_or_default();
                        messages.extend(
                            line.get("message")
                                .and_then(Value::as_str)
                                .map(str::to_owned),
                        );
                        logged.extend(line.into_iter().map(|(name, _)| name));
                    }
                }
                Ok((logged.is_superset(&fields) && messages.is_superset(&texts)).then_some(()))
            },
        )
        .await?;
    }

    let name = relay.stack.function_name(Function::Ingest)?;
    let stack = name.strip_suffix("-ingest").context("a name")?;
    let namespace = format!("GenesysRelay/{stack}");
    let has_written = async |function, metric: &str| {
        let is_it = |line: Value| {
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            let mut metrics = directive["Metrics"].as_array().into_iter().flatten();
            directive["Namespace"] == namespace
                && metrics.any(|one| one["Name"] == metric)
                && !line[metric].is_null()
        };
        anyhow::Ok(relay.log(function).await?.into_iter().any(is_it))
    };
    wait::until("each has written its metrics", || async {
        // A function writes after it has answered, which is read here with its next invocation.
        relay.accept(&webhook("again")).await?;
        relay
            .replay(json!({ "action": "reconcile", "ifNeeded": true }))
            .await?;
        let written = has_written(Function::Ingest, "Accepted").await?
            && has_written(Function::Processor, "Delivered").await?
            && has_written(Function::Replay, "OldestDeadLetterAge").await?;
        Ok(written.then_some(()))
    })
    .await
}
