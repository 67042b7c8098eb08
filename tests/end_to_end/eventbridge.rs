//! Events that come over a bus of EventBridge instead of a webhook.
//!
//! The local AWS refuses sources that begin with `aws.`, as `PutEvents` does on AWS, so that the
//! bus plays a partner of its own. It does not use the dead-letter queue of a rule: what AWS would
//! leave there is put there by hand.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_sdk_sqs::types::MessageAttributeValue;
use genesys_relay::domain::event::Identity;
use genesys_relay::domain::json::Json;
use genesys_relay::ports::clock::{Clock as _, SystemClock};
use local::genesys_cloud::GenesysCloud;
use local::stack::{Function, Stack, StackOptions};
use local::target::{Answer, Behaviour, ReceivedRequest, Target};
use local::wait;
use serde_json::{Value, json};

use crate::Relay;

/// The bus, and the source of its events, which the local deploy puts in place of `aws.partner`.
const BUS: &str = "local.partner/genesys.com/cloud/00000000-0000-4000-8000-000000000001/example";

/// Starts a relay that takes the events of these topics from the bus.
async fn relay(behaviour: Behaviour, topics: Option<&str>) -> Result<Relay> {
    let target = Target::start(behaviour).await?;
    let options = StackOptions::new(target.url())
        .event_bus(BUS)
        .set("Breaker", "off");
    let options = topics.into_iter().fold(options, |options, topics| {
        options.set("EventTopics", topics)
    });
    Ok(Relay {
        stack: Stack::start(options).await?,
        target,
        genesys: GenesysCloud::start().await?,
    })
}

/// A sample of `events/`, from the source that has the bus.
fn sample(name: &str) -> Result<Value> {
    let path = format!(
        "{}/events/eventbridge-{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut event: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    event["source"] = BUS.into();
    Ok(event)
}

/// The id under which the relay knows an event.
fn id_of(body: &[u8]) -> Result<String> {
    Ok(
        Identity::of(Json::parse(body)?, SystemClock.now(), None, || {
            panic!("nothing tells it apart")
        })
        .id
        .to_string(),
    )
}

/// Messages in the events queue, without a consumer.
async fn only_message(relay: &Relay) -> Result<String> {
    relay
        .stack
        .until_queues("it is in the queue", |counts| counts.events.visible == 1)
        .await?;
    let request = relay
        .stack
        .sqs()
        .receive_message()
        .queue_url(relay.stack.output("QueueUrl")?);
    let request = request
        .max_number_of_messages(10)
        .visibility_timeout(0)
        .message_attribute_names("All");
    let messages = request.send().await?.messages.unwrap_or_default();
    let [message] = &messages[..] else {
        anyhow::bail!("not one message: {messages:?}")
    };
    assert_eq!(message.message_attributes, None, "the bare event");
    Ok(message.body.clone().unwrap_or_default())
}

async fn only_dead_letter(relay: &Relay, filter: Value) -> Result<Value> {
    let mut request = filter;
    request["action"] = "list".into();
    let list = relay.replay(request).await?;
    assert_eq!(list["count"], 1, "{list}");
    Ok(list["items"][0].clone())
}

#[tokio::test]
async fn an_event_of_the_bus_reaches_the_target_as_eventbridge_hands_it_on() -> Result<()> {
    let relay = relay(Behaviour::Fine, Some("v2.users.*.activity")).await?;
    relay.set_delivering(false).await?;
    let event = sample("user-activity")?;
    let of_another_source = {
        let mut event = event.clone();
        event["source"] = "local.partner/example.com/orders".into();
        event
    };
    for unwanted in [
        of_another_source,
        sample("transcription")?,
        sample("flow-outcome")?,
    ] {
        relay.stack.put_event(BUS, &unwanted).await?;
    }
    let envelope_id = relay.stack.put_event(BUS, &event).await?;
    let sent = only_message(&relay).await?;
    relay.set_delivering(true).await?;
    relay.until_empty().await?;

    let requests = relay.target.requests();
    let [request] = &requests[..] else {
        anyhow::bail!("not delivered once: {requests:?}")
    };
    assert_eq!(&request.body[..], sent.as_bytes(), "byte for byte");
    let received: Value = serde_json::from_slice(&request.body)?;
    for field in ["source", "detail-type", "detail"] {
        assert_eq!(received[field], event[field], "{field}");
    }
    assert_eq!(received["id"], envelope_id);
    let id = id_of(&request.body)?;
    for (name, value) in [
        ("webhook-id", id.as_str()),
        ("idempotency-key", &id),
        ("content-type", "application/json"),
        ("x-relay-source", "eventbridge"),
    ] {
        assert_eq!(
            request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok()),
            Some(value),
            "{name}"
        );
    }
    assert_eq!(relay.show(&id).await?["state"], "DELIVERED");
    Ok(())
}

#[tokio::test]
async fn the_rule_tries_for_a_day_and_names_the_dead_letter_queue() -> Result<()> {
    let relay = relay(Behaviour::Fine, None).await?;
    let ask = async |operation: &str, request: Value| {
        let operation = format!("AWSEvents.{operation}");
        relay.stack.aws().json("events", &operation, &request).await
    };
    let rules = ask("ListRules", json!({ "EventBusName": BUS })).await?;
    anyhow::ensure!(
        rules["Rules"].as_array().map(Vec::len) == Some(1),
        "{rules}"
    );
    let of_rule = json!({ "EventBusName": BUS, "Rule": rules["Rules"][0]["Name"] });
    let targets = ask("ListTargetsByRule", of_rule).await?;
    anyhow::ensure!(
        targets["Targets"].as_array().map(Vec::len) == Some(1),
        "{targets}"
    );
    let target = &targets["Targets"][0];
    assert_eq!(target["Arn"], relay.stack.output("QueueArn")?);
    let dead_letters = target["DeadLetterConfig"]["Arn"]
        .as_str()
        .context("a queue")?;
    let queue = relay.stack.output("DeadLetterQueueUrl")?.rsplit('/').next();
    assert_eq!(dead_letters.rsplit(':').next(), queue);
    assert_eq!(
        target["RetryPolicy"],
        json!({ "MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185 })
    );
    Ok(())
}

#[tokio::test]
async fn an_event_that_genesys_publishes_again_is_a_duplicate() -> Result<()> {
    let relay = relay(Behaviour::Fine, None).await?;
    let event = sample("transcription")?;
    let first = relay.stack.put_event(BUS, &event).await?;
    let delivered = relay
        .target
        .until("it is delivered", |requests| !requests.is_empty())
        .await?;
    let id = delivered[0].event_id.clone();
    relay.until_empty().await?;
    let again = relay.stack.put_event(BUS, &event).await?;
    assert_ne!(again, first, "in a new envelope");
    relay.until_empty().await?;
    wait::until("it is recognised", || async {
        let lines = relay.stack.log_lines(Function::Processor, 0).await?;
        let of_it = |line: &Value| line["message"] == "duplicate" && line["event_id"] == json!(id);
        Ok((lines.iter().filter(|line| of_it(&line.content)).count() == 1).then_some(()))
    })
    .await?;
    assert_eq!(relay.deliveries(), BTreeMap::from([(id.clone(), 1)]));
    assert_eq!(relay.show(&id).await?["state"], "DELIVERED");

    // The next change of the same conversation is an event of its own.
    let mut next = event;
    next["detail"]["eventBody"]["transcripts"][0]["isFinal"] = false.into();
    relay.stack.put_event(BUS, &next).await?;
    relay.until_empty().await?;
    assert_eq!(relay.deliveries().into_values().collect::<Vec<_>>(), [1, 1]);
    Ok(())
}

#[tokio::test]
async fn an_event_of_the_bus_that_the_target_refuses_is_dead_and_can_be_replayed() -> Result<()> {
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer {
            body: "no such user".to_owned(),
            ..Answer::status(422)
        },
        _ => Answer::status(200),
    };
    let relay = relay(Behaviour::script(script), None).await?;
    relay
        .stack
        .put_event(BUS, &sample("user-activity")?)
        .await?;
    relay.until_dead(1).await?;
    let letter = only_dead_letter(
        &relay,
        json!({ "source": "eventbridge", "reason": "permanent" }),
    )
    .await?;
    assert_eq!(letter["statusCode"], 422, "{letter}");
    let answer = relay
        .replay(json!({ "action": "replay", "filter": { "source": "eventbridge" } }))
        .await?;
    assert_eq!(answer["replayed"], 1, "{answer}");
    relay.until_empty().await?;
    let id = letter["eventId"].as_str().context("an id")?;
    assert_eq!(relay.target.requests_of(id).len(), 2);
    assert_eq!(relay.show(id).await?["state"], "DELIVERED");
    Ok(())
}

/// Leaves an event in the dead-letter queue as EventBridge does when it cannot put it into the
/// events queue.
async fn leave(relay: &Relay, body: &str, attributes: &[(&str, &str)]) -> Result<()> {
    let mut request = relay
        .stack
        .sqs()
        .send_message()
        .queue_url(relay.stack.output("DeadLetterQueueUrl")?);
    let rule = format!("arn:aws:events:us-east-1:000000000000:rule/{BUS}/relay-genesys");
    let queue = relay.stack.output("QueueArn")?;
    for (name, value) in [("RULE_ARN", rule.as_str()), ("TARGET_ARN", queue)]
        .iter()
        .chain(attributes)
    {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(*value)
            .build()?;
        request = request.message_attributes(*name, value);
    }
    request.message_body(body).send().await?;
    Ok(())
}

#[tokio::test]
async fn what_eventbridge_gave_up_is_listed_with_its_reason_and_brought_back() -> Result<()> {
    let relay = relay(
        Behaviour::Status {
            code: 404,
            retry_after: None,
        },
        None,
    )
    .await?;
    let [refused, given_up] =
        [sample("user-activity")?, sample("flow-outcome")?].map(|event| event.to_string());
    let error = ("ERROR_MESSAGE", "not authorised to send to the queue");
    leave(
        &relay,
        &refused,
        &[
            ("ERROR_CODE", "NO_PERMISSIONS"),
            error,
            ("RETRY_ATTEMPTS", "0"),
        ],
    )
    .await?;
    let exhausted = ("EXHAUSTED_RETRY_CONDITION", "MaximumRetryAttempts");
    leave(
        &relay,
        &given_up,
        &[
            ("ERROR_CODE", "THROTTLING"),
            exhausted,
            ("RETRY_ATTEMPTS", "185"),
        ],
    )
    .await?;
    let answer = relay.replay(json!({ "action": "reconcile" })).await?;
    assert_eq!(answer["recorded"], 2, "{answer}");

    let of_exhausted = only_dead_letter(&relay, json!({ "reason": "exhausted" })).await?;
    assert_eq!(of_exhausted["eventId"], id_of(given_up.as_bytes())?);
    let id = id_of(refused.as_bytes())?;
    let letter = only_dead_letter(
        &relay,
        json!({ "source": "eventbridge", "reason": "permanent" }),
    )
    .await?;
    let shown = relay.show(&id).await?;
    assert_eq!(
        (&letter["eventId"], &shown["body"]),
        (&json!(id), &json!(refused))
    );
    for of in [&letter, &shown] {
        let error = of["error"].as_str().unwrap_or_default();
        assert!(
            error.contains("EventBridge") && error.contains("NO_PERMISSIONS"),
            "{of}"
        );
    }

    // It dies once more, of something else: no word of EventBridge is left.
    assert_eq!(
        relay
            .replay(json!({ "action": "replay", "eventIds": [id] }))
            .await?["replayed"],
        1
    );
    relay
        .target
        .until("it is refused", |requests| requests.len() == 1)
        .await?;
    relay.until_dead(2).await?;
    let shown = relay.show(&id).await?;
    assert_eq!(
        (&shown["reason"], &shown["attempts"][0]["statusCode"]),
        (&json!("permanent"), &json!(404)),
        "{shown}"
    );
    let letters = relay.dead_letters().await?;
    let mut attributes = letters
        .iter()
        .filter(|letter| letter.body() == Some(&refused));
    let attributes = attributes
        .next()
        .and_then(|letter| letter.message_attributes())
        .context("attributes")?;
    assert!(
        attributes.contains_key("reason") && !attributes.contains_key("ERROR_CODE"),
        "{attributes:?}"
    );

    relay.target.behave(Behaviour::Fine);
    let answer = relay
        .replay(json!({ "action": "replay", "filter": { "source": "eventbridge" } }))
        .await?;
    assert_eq!(answer["replayed"], 2, "{answer}");
    relay.until_empty().await?;
    assert_eq!(relay.deliveries().into_values().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(relay.show(&id).await?["state"], "DELIVERED");
    Ok(())
}
