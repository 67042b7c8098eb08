//! Events that come over a bus of EventBridge instead of a webhook.
//!
//! The local AWS refuses sources that begin with `aws.`, as `PutEvents` does on AWS, so that the
//! bus plays a partner of its own. It does not use the dead-letter queue of a rule: what AWS would
//! leave there is put there by hand.

use anyhow::{Context, Result};
use aws_sdk_sqs::types::MessageAttributeValue;
use genesys_relay::domain::event::Identity;
use genesys_relay::domain::json::Json;
use genesys_relay::ports::clock::{Clock as _, SystemClock};
use local::stack::Function;
use local::target::{Answer, Behaviour};
use serde_json::{Value, json};

use crate::relay::{REFUSED, Relay, assert_has, at_first};

/// The bus, and the source of its events, which the local deploy puts in place of `aws.partner`.
const BUS: &str = "local.partner/genesys.com/cloud/00000000-0000-4000-8000-000000000001/example";

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

/// Id under which the relay knows an event.
fn id_of(body: &[u8]) -> Result<String> {
    let lone = || panic!("nothing tells it apart");
    let identity = Identity::of(Json::parse(body)?, SystemClock.now(), None, lone);
    Ok(identity.id.to_string())
}

/// The only message of the events queue, which has no consumer.
async fn only_message(relay: &Relay) -> Result<String> {
    let one = |counts: local::stack::QueueCounts| counts.events.visible == 1;
    relay.stack.until_queues("it is in the queue", one).await?;
    let request = relay.stack.sqs().receive_message();
    let request = request
        .queue_url(relay.stack.output("QueueUrl")?)
        .visibility_timeout(0);
    let request = request
        .max_number_of_messages(10)
        .message_attribute_names("All");
    let messages = request.send().await?.messages.unwrap_or_default();
    let [message] = &messages[..] else {
        anyhow::bail!("not one message: {messages:?}")
    };
    assert_eq!(message.message_attributes, None, "the bare event");
    Ok(message.body.clone().unwrap_or_default())
}

async fn only_dead_letter(relay: &Relay, mut filter: Value) -> Result<Value> {
    filter["action"] = "list".into();
    let mut list = relay.replay(filter).await?;
    assert_eq!(list["count"], 1, "{list}");
    Ok(list["items"][0].take())
}

#[tokio::test]
async fn an_event_of_the_bus_reaches_the_target_as_eventbridge_sends_it() -> Result<()> {
    let parameters = [
        ("EventBusName", BUS),
        ("EventTopics", "v2.users.*.activity"),
    ];
    let relay = Relay::start(Behaviour::Fine, &parameters).await?;
    relay.set_delivering(false).await?;
    let event = sample("user-activity")?;
    let mut of_another_source = event.clone();
    of_another_source["source"] = "local.partner/example.com/orders".into();
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
        assert_eq!(request.headers[name], value, "{name}");
    }
    assert_has(&relay.show(&id).await?, json!({ "state": "DELIVERED" }));

    // The rule tries for a day, and names the dead-letter queue.
    let ask = async |operation: &str, request: Value| {
        let operation = format!("AWSEvents.{operation}");
        relay.stack.aws().json("events", &operation, &request).await
    };
    let rules = ask("ListRules", json!({ "EventBusName": BUS })).await?;
    assert_eq!(rules["Rules"].as_array().map(Vec::len), Some(1), "{rules}");
    let of_rule = json!({ "EventBusName": BUS, "Rule": rules["Rules"][0]["Name"] });
    let targets = ask("ListTargetsByRule", of_rule).await?;
    let target = &targets["Targets"][0];
    assert_eq!(
        targets["Targets"].as_array().map(Vec::len),
        Some(1),
        "{targets}"
    );
    assert_eq!(target["Arn"], relay.stack.output("QueueArn")?);
    let dead_letters = target["DeadLetterConfig"]["Arn"]
        .as_str()
        .context("a queue")?;
    let queue = relay.stack.output("DeadLetterQueueUrl")?.rsplit('/').next();
    assert_eq!(dead_letters.rsplit(':').next(), queue);
    let retries = json!({ "MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185 });
    assert_eq!(target["RetryPolicy"], retries);
    Ok(())
}

/// On one relay, which takes all topics.
#[tokio::test]
async fn events_of_the_bus_are_recognised_die_and_come_back() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[("EventBusName", BUS)]).await?;
    an_event_that_genesys_publishes_again_is_a_duplicate(&relay).await?;
    an_event_that_the_target_refuses_can_be_replayed(&relay).await?;
    what_eventbridge_gave_up_is_listed_and_replayed(&relay).await
}

async fn an_event_that_genesys_publishes_again_is_a_duplicate(relay: &Relay) -> Result<()> {
    let event = sample("transcription")?;
    let first = relay.stack.put_event(BUS, &event).await?;
    relay.until_at_target(|_| true).await?;
    let id = relay.target.requests()[0].event_id.clone();
    relay.until_empty().await?;
    let again = relay.stack.put_event(BUS, &event).await?;
    assert_ne!(again, first, "in a new envelope");
    let is_it = |line: &Value| line["message"] == "duplicate" && line["event_id"] == json!(id);
    relay
        .until_logged(Function::Processor, 1, "duplicate", is_it)
        .await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&[&id]);

    // The next change of the same conversation is an event of its own.
    let mut next = event;
    next["detail"]["eventBody"]["transcripts"][0]["isFinal"] = false.into();
    relay.stack.put_event(BUS, &next).await?;
    relay
        .until_at_target(|request| request.event_id != id)
        .await?;
    relay.until_empty().await
}

async fn an_event_that_the_target_refuses_can_be_replayed(relay: &Relay) -> Result<()> {
    relay.target.behave(at_first(Answer {
        body: "no such user".to_owned(),
        ..Answer::status(422)
    }));
    relay
        .stack
        .put_event(BUS, &sample("user-activity")?)
        .await?;
    relay.until_dead(1).await?;
    let filter = json!({ "source": "eventbridge", "reason": "permanent" });
    let letter = only_dead_letter(relay, filter).await?;
    assert_has(&letter, json!({ "statusCode": 422 }));
    let request = json!({ "action": "replay", "filter": { "source": "eventbridge" } });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 1 }));
    relay.until_empty().await?;
    let id = letter["eventId"].as_str().context("an id")?;
    assert_eq!(relay.answers(id), [Some(422), Some(200)]);
    assert_has(&relay.show(id).await?, json!({ "state": "DELIVERED" }));
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

async fn what_eventbridge_gave_up_is_listed_and_replayed(relay: &Relay) -> Result<()> {
    relay.target.behave(REFUSED);
    let [refused, given_up] =
        [sample("user-activity")?, sample("flow-outcome")?].map(|mut event| {
            event["detail"]["timestamp"] = "2026-01-15T12:34:56Z".into();
            event["detail"]["eventBody"]["left"] = true.into();
            event.to_string()
        });
    let attributes = [
        ("ERROR_CODE", "NO_PERMISSIONS"),
        ("ERROR_MESSAGE", "not authorised to send to the queue"),
        ("RETRY_ATTEMPTS", "0"),
    ];
    leave(relay, &refused, &attributes).await?;
    let attributes = [
        ("ERROR_CODE", "THROTTLING"),
        ("EXHAUSTED_RETRY_CONDITION", "MaximumRetryAttempts"),
        ("RETRY_ATTEMPTS", "185"),
    ];
    leave(relay, &given_up, &attributes).await?;
    let answer = relay.replay(json!({ "action": "reconcile" })).await?;
    assert_has(&answer, json!({ "recorded": 2 }));

    let exhausted = only_dead_letter(relay, json!({ "reason": "exhausted" })).await?;
    assert_eq!(exhausted["eventId"], id_of(given_up.as_bytes())?);
    let id = id_of(refused.as_bytes())?;
    let filter = json!({ "source": "eventbridge", "reason": "permanent" });
    let letter = only_dead_letter(relay, filter).await?;
    let shown = relay.show(&id).await?;
    assert_eq!(letter["eventId"], id);
    assert_eq!(shown["body"], refused);
    for of in [&letter, &shown] {
        let error = of["error"].as_str().unwrap_or_default();
        let is_told = error.contains("EventBridge") && error.contains("NO_PERMISSIONS");
        assert!(is_told, "{of}");
    }

    // It dies once more, of something else: no word of EventBridge is left.
    let request = json!({ "action": "replay", "eventIds": [id] });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 1 }));
    relay
        .until_at_target(|request| request.event_id == id)
        .await?;
    relay.until_dead(2).await?;
    let again = json!({ "reason": "permanent", "/attempts/0/statusCode": 404 });
    assert_has(&relay.show(&id).await?, again);
    let letters = relay.dead_letters().await?;
    let letter = letters
        .iter()
        .find(|letter| letter.body() == Some(&refused));
    let attributes = letter.and_then(|letter| letter.message_attributes());
    let attributes = attributes.context("attributes")?;
    let is_clean = attributes.contains_key("reason") && !attributes.contains_key("ERROR_CODE");
    assert!(is_clean, "{attributes:?}");

    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "source": "eventbridge" } });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 2 }));
    relay.until_empty().await?;
    assert!(relay.deliveries().into_values().all(|times| times == 1));
    assert_has(&relay.show(&id).await?, json!({ "state": "DELIVERED" }));
    Ok(())
}
