//! Means of an operator: alarms that are delivered, a dashboard that shows them, queries whose
//! fields exist.

use std::collections::BTreeSet;
use std::path::Path;

use aws_sdk_cloudwatch::types::{MetricDatum, StateValue};
use aws_sdk_sqs::types::QueueAttributeName;
use local::target::Answer;
use yaml_rust2::{Yaml, YamlLoader};

use super::*;

/// Subscribes a queue to the topic of the alarms, as one of the ways to be told.
async fn subscribe(relay: &Relay) -> Result<String> {
    let (sqs, topic) = (relay.stack.sqs(), relay.stack.output("AlarmTopicArn")?);
    let lets_the_topic_send = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" }, "Action": "sqs:SendMessage", "Resource": "*",
        "Condition": { "ArnEquals": { "aws:SourceArn": topic } },
    }] });
    let request = sqs.create_queue().queue_name("operator");
    let request = request.attributes(QueueAttributeName::Policy, lets_the_topic_send.to_string());
    let queue = request.send().await?.queue_url.context("a queue")?;
    let wanted = sqs
        .get_queue_attributes()
        .queue_url(&queue)
        .attribute_names(QueueAttributeName::QueueArn);
    let arn = wanted
        .send()
        .await?
        .attributes
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

/// Waits until all these alarms have told the queue that they are in this state, and gives what
/// they said of themselves.
async fn until_told(
    relay: &Relay,
    queue: &str,
    names: &BTreeSet<String>,
    state: &str,
) -> Result<Vec<Value>> {
    let mut told = BTreeMap::new();
    while told.len() < names.len() {
        let message = wait::until("an alarm tells the queue", || async {
            let request = relay
                .stack
                .sqs()
                .receive_message()
                .queue_url(queue)
                .wait_time_seconds(1);
            Ok(request.send().await?.messages.unwrap_or_default().pop())
        })
        .await?;
        let envelope: Value = serde_json::from_str(message.body().context("a body")?)?;
        let notice: Value =
            serde_json::from_str(envelope["Message"].as_str().context("a message")?)?;
        let name = notice["AlarmName"].as_str().context("a name")?.to_owned();
        anyhow::ensure!(
            notice["NewStateValue"] == state && names.contains(&name),
            "{notice}"
        );
        told.insert(name, notice);
        let handle = message.receipt_handle().context("a handle")?;
        relay
            .stack
            .sqs()
            .delete_message()
            .queue_url(queue)
            .receipt_handle(handle)
            .send()
            .await?;
    }
    Ok(told.into_values().collect())
}

/// Sets the state of an alarm, as the local AWS makes no metrics.
#[tokio::test]
async fn every_alarm_reaches_who_is_subscribed_and_the_dashboard_shows_it() -> Result<()> {
    let (target, genesys) = (
        Target::start(Behaviour::Fine).await?,
        GenesysCloud::start().await?,
    );
    // With all that can be off.
    let options = StackOptions::new(target.url()).set("AlarmEmail", "operator@example.com");
    let options = options.recovering_from(&genesys.url(), "open-messaging", &recovery::IDS);
    let relay = Relay {
        stack: Stack::start(options).await?,
        target,
        genesys,
    };
    let queue = subscribe(&relay).await?;
    let cloudwatch = relay.stack.cloudwatch();
    let alarms = cloudwatch
        .describe_alarms()
        .send()
        .await?
        .metric_alarms
        .unwrap_or_default();
    let names: BTreeSet<_> = alarms
        .iter()
        .filter_map(|alarm| alarm.alarm_name.clone())
        .collect();
    assert_eq!(names.len(), 21, "{names:?}");

    let name = relay.stack.output("DashboardName")?;
    let body = cloudwatch
        .get_dashboard()
        .dashboard_name(name)
        .send()
        .await?
        .dashboard_body
        .context("a body")?;
    let body: Value = serde_json::from_str(&body)?;
    let shown = body["widgets"][0]["properties"]["alarms"]
        .as_array()
        .context("alarms")?;
    let shown: BTreeSet<_> = shown.iter().filter_map(Value::as_str).collect();
    assert_eq!(
        shown,
        alarms
            .iter()
            .filter_map(|alarm| alarm.alarm_arn())
            .collect(),
        "{body}"
    );
    assert!(!body.to_string().contains("${"), "{body}");

    for (state, value) in [("ALARM", StateValue::Alarm), ("OK", StateValue::Ok)] {
        for name in &names {
            let request = cloudwatch
                .set_alarm_state()
                .alarm_name(name)
                .state_reason("a test");
            request.state_value(value.clone()).send().await?;
        }
        for notice in until_told(&relay, &queue, &names, state).await? {
            let description = notice["AlarmDescription"]
                .as_str()
                .context("a description")?;
            let (_, runbook) = description.split_once(" Runbook: ").context("a runbook")?;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(runbook);
            anyhow::ensure!(path.is_file(), "{description}");
        }
    }

    // One that finds out by itself: four are fewer than the threshold, five are not.
    for (count, state) in [(4.0, "OK"), (5.0, "ALARM")] {
        let datum = MetricDatum::builder()
            .metric_name("Rejected")
            .value(count)
            .build();
        cloudwatch
            .put_metric_data()
            .namespace("GenesysRelay/relay")
            .metric_data(datum)
            .send()
            .await?;
        let of_it = cloudwatch
            .describe_alarms()
            .alarm_names("relay-alarm-unauthorized")
            .send()
            .await?;
        let alarm = of_it.metric_alarms().first().context("the alarm")?;
        anyhow::ensure!(
            alarm.state_value().map(StateValue::as_str) == Some(state),
            "{count}: {alarm:?}"
        );
        if state == "OK" {
            continue;
        }
        // Both look at this metric, and the local AWS does not tell its dimensions apart.
        let both = ["relay-alarm-failed-acks", "relay-alarm-unauthorized"]
            .map(str::to_owned)
            .into();
        until_told(&relay, &queue, &both, state).await?;
    }
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

/// The fields and the texts that a query names, but for what CloudWatch adds and what it names
/// itself.
fn named_in(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    // Every second part stands between quotes.
    let parts: Vec<_> = query.split('"').collect();
    let texts = parts
        .iter()
        .skip(1)
        .step_by(2)
        .map(|text| (*text).to_owned())
        .collect();
    let code = parts
        .iter()
        .step_by(2)
        .copied()
        .collect::<Vec<_>>()
        .join(" ");
    let words: Vec<_> = code
        .split(|c: char| !(c.is_alphanumeric() || "_@`".contains(c)))
        .collect();
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let own: BTreeSet<_> = words
        .windows(2)
        .filter(|pair| pair[0] == "as")
        .map(|pair| pair[1])
        .collect();
    let is_field = |word: &&str| {
        !word.starts_with(|c: char| c == '@' || c.is_numeric())
            && !LANGUAGE.contains(word)
            && !own.contains(word)
    };
    (
        words
            .into_iter()
            .filter(is_field)
            .map(|word| word.trim_matches('`').to_owned())
            .collect(),
        texts,
    )
}

fn queries() -> Result<Vec<String>> {
    let template = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/observability.yaml"),
    )?;
    let template = YamlLoader::load_from_str(&template)?.remove(0);
    let resources = template["Resources"]
        .as_hash()
        .context("resources")?
        .values();
    let queries =
        resources.filter(|found| found["Type"].as_str() == Some("AWS::Logs::QueryDefinition"));
    let text = |query: &Yaml| {
        query["Properties"]["QueryString"]
            .as_str()
            .map(str::to_owned)
    };
    queries
        .map(|query| text(query).context("a query"))
        .collect()
}

/// The local AWS does not run such queries. That what they ask for is there can be seen all the
/// same.
#[tokio::test]
async fn the_saved_queries_ask_for_fields_that_the_functions_log() -> Result<()> {
    let script = |request: &local::target::ReceivedRequest| match (
        name_of(&request.body).as_str(),
        request.nth,
    ) {
        ("retried", 1) => Answer::status(503),
        ("dead", 1) => Answer::status(404),
        _ => Answer::status(200),
    };
    let relay = Relay::start(Behaviour::script(script), &[("BackoffBaseSeconds", 1)]).await?;
    let ids = relay.accept_all(["retried", "dead"].map(webhook)).await?;
    relay.until_dead(1).await?;
    let request = json!({ "action": "replay", "eventIds": [ids[1]], "why": "the route is there", "by": "an operator" });
    assert_eq!(relay.replay(request).await?["replayed"], 1);
    relay.until_empty().await?;
    let (status, _) = Webhook::with_shared_secret("not JSON")
        .send(&relay.stack.webhook_url()?)
        .await?;
    assert_eq!(status, 400);

    for query in queries()? {
        let (fields, texts) = named_in(&query);
        assert!(fields.len() > 3, "{query}: {fields:?}");
        // It stands for the id of an event.
        let texts: BTreeSet<_> = texts
            .into_iter()
            .filter(|text| text != "the event's id")
            .collect();
        wait::until(
            &format!("all that this asks for is logged: {query}"),
            || async {
                let (mut logged, mut messages) = (BTreeSet::new(), BTreeSet::new());
                for function in Function::ALL {
                    for line in relay.stack.log_lines(function, 0).await? {
                        logged.extend(
                            line.content
                                .as_object()
                                .into_iter()
                                .flatten()
                                .map(|(name, _)| name.clone()),
                        );
                        messages.extend(line.content["message"].as_str().map(str::to_owned));
                    }
                }
                Ok((logged.is_superset(&fields) && messages.is_superset(&texts)).then_some(()))
            },
        )
        .await?;
    }
    Ok(())
}
