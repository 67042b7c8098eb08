//! From the webhook to the target, or to the dead letters.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_sqs::types::Message;
use local::genesys::Webhook;
use local::stack::{Function, Stack};
use local::target::{Answer, Behaviour, ReceivedRequest};
use serde_json::Value;

use crate::{Relay, name_of, webhook};

/// Ten seconds and a little more would be a long test; this is the shortest processor.
const SHORT_TIMEOUT: (&str, u32) = ("ProcessorTimeoutSeconds", 5);

/// Retries after a second.
const QUICK_RETRIES: [(&str, u32); 2] = [("BackoffBaseSeconds", 1), ("BackoffCapSeconds", 1)];

async fn dead_letters(stack: &Stack) -> Result<Vec<Message>> {
    let request = stack
        .sqs()
        .receive_message()
        .queue_url(stack.output("DeadLetterQueueUrl")?);
    let request = request
        .max_number_of_messages(10)
        .message_attribute_names("All")
        .visibility_timeout(0);
    Ok(request.send().await?.messages.unwrap_or_default())
}

fn reason_of(message: &Message) -> Option<Value> {
    let reason = message
        .message_attributes()?
        .get("reason")?
        .string_value()?;
    serde_json::from_str(reason).ok()
}

async fn set_mapping(stack: &Stack, enabled: bool) -> Result<()> {
    let mappings = stack.lambda().list_event_source_mappings().send().await?;
    let mapping = mappings
        .event_source_mappings()
        .first()
        .context("a mapping")?;
    let id = mapping.uuid().context("an id")?;
    stack
        .lambda()
        .update_event_source_mapping()
        .uuid(id)
        .enabled(enabled)
        .send()
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_reaches_the_target_byte_for_byte_and_once() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let body = " {\"channel\":{\"id\":\"c1\"}, \"direction\":\"Outbound\", \"type\":\"Text\",\"id\":\"m1\",\"text\":\"Grüße 😀\"}\r\n";
    let id = relay.accept(&Webhook::signed(body)).await?;
    relay.until_empty().await?;
    let requests = relay.target.requests();
    let [request] = &requests[..] else {
        anyhow::bail!("not delivered once: {requests:?}")
    };
    assert_eq!(&request.body[..], body.as_bytes());
    assert_eq!(request.event_id, id);
    for (name, value) in [
        ("idempotency-key", id.as_str()),
        ("x-relay-attempt", "1"),
        ("x-relay-source", "open-messaging"),
        ("content-type", "application/json"),
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
    assert!(
        request.headers.contains_key("x-hub-signature-256"),
        "what Genesys signed can be checked again"
    );
    Ok(())
}

/// Three of ten can never be delivered, two only at the third attempt.
fn mixed(request: &ReceivedRequest) -> Answer {
    match name_of(&request.body).as_str() {
        "3" | "5" | "7" => Answer {
            body: "no such order".to_owned(),
            ..Answer::status(422)
        },
        "4" | "8" if request.nth < 3 => Answer::status(503),
        _ => Answer::status(200),
    }
}

#[tokio::test]
async fn each_event_of_a_mixed_batch_goes_its_own_way() -> Result<()> {
    let relay = Relay::start(Behaviour::script(mixed), &[]).await?;
    // Polling begins when all ten are there, so that they make one batch.
    set_mapping(&relay.stack, false).await?;
    for name in 0..10 {
        relay.accept(&webhook(&name.to_string())).await?;
    }
    relay
        .stack
        .until_queues("all ten wait", |counts| counts.events.visible == 10)
        .await?;
    set_mapping(&relay.stack, true).await?;
    relay.until_dead(3).await?;

    let requests = relay.target.requests();
    for name in 0..10 {
        let of_this: Vec<_> = requests
            .iter()
            .filter(|request| name_of(&request.body) == name.to_string())
            .collect();
        let expected = if name == 4 || name == 8 { 3 } else { 1 };
        assert_eq!(of_this.len(), expected, "event {name}");
        for (attempt, request) in (1..).zip(&of_this) {
            assert_eq!(
                request.headers["x-relay-attempt"],
                attempt.to_string().as_str(),
                "event {name}"
            );
        }
        let pauses: Vec<_> = of_this
            .windows(2)
            .map(|pair| pair[1].at - pair[0].at)
            .collect();
        for (pause, least) in pauses.into_iter().zip([2, 4]) {
            assert!(
                pause >= Duration::from_secs(least),
                "event {name} came back after {pause:?}"
            );
        }
    }
    // The longest distance is what was asked for, since a busy machine polls late: 2 s and 4 s, and
    // up to 1 s of jitter.
    let lines = relay.stack.log_lines(Function::Processor, 0).await?;
    let mut asked: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            Some((
                line.content["attempt"].as_u64()?,
                line.content["delay_ms"].as_u64()?,
            ))
        })
        .collect();
    asked.sort_unstable();
    let [first, second, third, fourth] = asked[..] else {
        anyhow::bail!("not four retries: {asked:?}")
    };
    for (attempt, delay) in [first, second] {
        assert!(attempt == 1 && delay <= 3000, "{asked:?}");
    }
    for (attempt, delay) in [third, fourth] {
        assert!(attempt == 2 && delay <= 5000, "{asked:?}");
    }

    let mut dead_names = Vec::new();
    for dead in dead_letters(&relay.stack).await? {
        let reason = reason_of(&dead).context("a reason")?;
        assert_eq!(
            (&reason["reason"], &reason["statusCode"]),
            (&"permanent".into(), &422.into())
        );
        assert_eq!(
            (&reason["attempt"], &reason["response"]),
            (&1.into(), &"no such order".into())
        );
        dead_names.push(name_of(dead.body().unwrap_or_default().as_bytes()));
    }
    dead_names.sort();
    assert_eq!(dead_names, ["3", "5", "7"]);
    Ok(())
}

#[tokio::test]
async fn an_event_that_keeps_failing_dies_after_its_last_receive() -> Result<()> {
    let down = Behaviour::Status {
        code: 500,
        retry_after: None,
    };
    let relay = Relay::start(
        down,
        &[QUICK_RETRIES[0], QUICK_RETRIES[1], ("MaxReceiveCount", 3)],
    )
    .await?;
    let id = relay.accept(&webhook("exhausted")).await?;
    relay.until_dead(1).await?;
    assert_eq!(relay.target.requests_of(&id).len(), 3);
    let dead = dead_letters(&relay.stack)
        .await?
        .pop()
        .context("a dead letter")?;
    assert_eq!(
        name_of(dead.body().unwrap_or_default().as_bytes()),
        "exhausted"
    );
    assert!(reason_of(&dead).is_none(), "SQS's redrive attaches nothing");
    Ok(())
}

#[tokio::test]
async fn a_target_that_asks_for_time_is_given_it() -> Result<()> {
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer {
            retry_after: Some("5".to_owned()),
            ..Answer::status(429)
        },
        _ => Answer::status(200),
    };
    let relay = Relay::start(Behaviour::script(script), &QUICK_RETRIES).await?;
    let id = relay.accept(&webhook("throttled")).await?;
    relay.until_empty().await?;
    let requests = relay.target.requests_of(&id);
    assert_eq!(requests.len(), 2);
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(5));
    Ok(())
}

#[tokio::test]
async fn a_processor_that_dies_in_mid_batch_loses_nothing() -> Result<()> {
    // All first deliveries hang, so that the processor is busy when it is killed.
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer {
            delay: Duration::from_secs(30),
            ..Answer::status(200)
        },
        _ => Answer::status(200),
    };
    let relay = Relay::start(Behaviour::script(script), &[SHORT_TIMEOUT]).await?;
    let ids = [
        relay.accept(&webhook("one")).await?,
        relay.accept(&webhook("two")).await?,
    ];
    relay
        .target
        .until("a delivery is under way", |requests| !requests.is_empty())
        .await?;
    let pids = relay.stack.pids_of(Function::Processor)?;
    assert!(!pids.is_empty(), "a processor runs");
    for pid in pids {
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status()?;
        assert!(killed.success());
    }
    relay.until_empty().await?;
    // A delivery that hung got no answer, so its event must have come again.
    assert!(
        relay
            .target
            .requests()
            .iter()
            .any(|request| request.nth == 2)
    );
    for id in ids {
        let last = relay
            .target
            .requests_of(&id)
            .pop()
            .and_then(|request| request.answer)
            .context("delivered")?;
        assert!(
            last.delay.is_zero(),
            "{id} was acknowledged without an answer"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_message_that_a_person_sends_in_the_console_is_delivered_and_poison_is_not() -> Result<()>
{
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let queue = relay.stack.output("QueueUrl")?;
    for body in ["{\"pasted\":true}", "no json at all"] {
        relay
            .stack
            .sqs()
            .send_message()
            .queue_url(queue)
            .message_body(body)
            .send()
            .await?;
    }
    relay.until_dead(1).await?;
    let requests = relay.target.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(&requests[0].body[..], b"{\"pasted\":true}");
    let reason = reason_of(&dead_letters(&relay.stack).await?[0]).context("a reason")?;
    assert_eq!(reason["reason"], "malformed");
    Ok(())
}
