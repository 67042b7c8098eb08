//! From the webhook to the target or to the dead letters, each event once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use genesys_relay::domain::event_record::State;
use genesys_relay::ports::clock::{Clock as _, SystemClock};
use local::clients;
use local::genesys::{WEBHOOK_SECRET, Webhook};
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use serde_json::Value;

use crate::relay::{QUICK, RETRIES, Relay, at_first, hanging, name_of, webhook};

/// Sends a message to the events queue as a person or a rule would.
async fn send_by_hand(relay: &Relay, body: &str) -> Result<()> {
    let request = relay.stack.sqs().send_message();
    let queue = relay.stack.output("QueueUrl")?;
    request.queue_url(queue).message_body(body).send().await?;
    Ok(())
}

/// Reasons of all dead letters, with their names.
async fn reasons(relay: &Relay) -> Result<Vec<(String, Value)>> {
    let mut reasons = Vec::new();
    for letter in relay.dead_letters().await? {
        let attributes = letter.message_attributes().context("attributes")?;
        let reason = attributes["reason"].string_value().context("a reason")?;
        let name = name_of(letter.body().unwrap_or_default().as_bytes());
        reasons.push((name, serde_json::from_str(reason)?));
    }
    reasons.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(reasons)
}

/// Checks that an event was delivered, and in how many attempts.
async fn check_delivered(relay: &Relay, id: &str, attempts: u32) -> Result<()> {
    let found = relay.record(id).await?.context("a record")?;
    ensure!(
        (&found.state, found.attempts_made) == (&State::Delivered, attempts),
        "{found:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_event_reaches_the_target_byte_for_byte_and_once() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let body = " {\"channel\":{\"id\":\"c1\", \"time\":\"2026-01-15T12:00:00Z\"}, \"direction\":\"Outbound\", \"type\":\"Text\",\"id\":\"m1\",\"text\":\"Grüße 😀\"}\r\n";
    let id = relay.accept(&Webhook::signed(body)).await?;
    // The same event in other bytes, at once and long after it was delivered.
    let again = body.replace("Grüße 😀", "Gr\\u00fc\\u00dfe \\ud83d\\ude00");
    for webhook in [Webhook::signed(body), Webhook::signed(again)] {
        assert_eq!(relay.accept(&webhook).await?, id);
        relay.until_empty().await?;
    }
    relay.until_said("duplicate", 2).await?;
    let requests = relay.target.requests();
    let [request] = &requests[..] else {
        bail!("not delivered once: {requests:?}")
    };
    assert_eq!(&request.body[..], body.as_bytes());
    assert_eq!(request.event_id, id);
    for (name, value) in [
        ("idempotency-key", id.as_str()),
        ("x-relay-attempt", "1"),
        ("x-relay-source", "open-messaging"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request.headers[name], value, "{name}");
    }
    let can_be_checked = request.headers.contains_key("x-hub-signature-256");
    assert!(can_be_checked, "the signature of Genesys");
    check_delivered(&relay, &id, 1).await?;

    // Sent by hand, and by a rule of EventBridge that publishes again.
    let bare = r#"{"id":"1","detail-type":"v2.users.u1.presence","time":"2026-01-15T12:00:00Z","detail":
        {"topicName":"v2.users.u1.presence","eventBody":{"id":"u1"},"timestamp":"2026-01-15T12:00:00Z"}}"#;
    let published_again = bare.replace(r#""id":"1""#, r#""id":"2""#);
    for body in [
        bare,
        bare,
        &published_again,
        "{\"pasted\":true}",
        "no json at all",
    ] {
        send_by_hand(&relay, body).await?;
    }
    relay.until_dead(1).await?;
    let requests = relay.target.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(
        requests
            .iter()
            .any(|request| &request.body[..] == b"{\"pasted\":true}")
    );
    for request in requests {
        check_delivered(&relay, &request.event_id, 1).await?;
    }
    assert_eq!(reasons(&relay).await?[0].1["reason"], "malformed");
    relay.purge().await?;
    webhooks_that_nothing_identifies_are_events_of_their_own(&relay).await
}

/// Cases from the field: each pair is two events, that an older version took for one.
async fn webhooks_that_nothing_identifies_are_events_of_their_own(relay: &Relay) -> Result<()> {
    let envelope = |time: &str| {
        format!(r#"{{"webhookId":"w","payload":{{"state":"AWAY"}},"timestamp":{time}}}"#)
    };
    let text = |id: &str, time: &str, text: &str| {
        let channel = format!(r#"{{"id":"i1","platform":"Open","time":"{time}"}}"#);
        format!(
            r#"{{"id":"{id}","channel":{channel},"type":"Text","text":"{text}","direction":"Outbound"}}"#
        )
    };
    let data_action = r#"{"userId":"guest","topic":"v2.detail.events.conversation.id.user.end","disconnectType":"client"}"#;
    let now = SystemClock.now();
    let (soon, later) = (
        format!("{now:.3}"),
        format!("{:.3}", now + Duration::from_mins(7)),
    );
    let equal = [r"null", r#""""#, r#""${input.timestamp}""#].map(envelope);
    let mut sent: Vec<_> = equal
        .iter()
        .flat_map(|body| [body.clone(), body.clone()])
        .collect();
    sent.extend([data_action, data_action].map(str::to_owned));
    sent.extend([text("", &soon, "first"), text("", &soon, "second")]);
    sent.extend([
        text("m1", &soon, "on its way"),
        text("m1", &later, "delayed"),
    ]);
    sent.extend([
        text("m2", &soon, "on its way"),
        text("m2", &soon, "delayed"),
    ]);
    let before = relay.target.requests().len();
    let post = async |header: &str, key: &str, body: String| {
        let request = clients::http().post(relay.stack.webhook_url()?);
        let request = request
            .header("x-webhook-secret", WEBHOOK_SECRET)
            .header(header, key);
        let answer = request.body(body).send().await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(())
    };
    for body in &sent {
        post("idempotency-key", "${input.key}", body.clone()).await?;
    }
    // A key that is the same on every webhook drops no other body.
    for body in [r#"{"order":1}"#, r#"{"order":2}"#, r#"{"order":2}"#] {
        post("webhook-id", "configured-once", body.to_owned()).await?;
    }
    sent.extend([r#"{"order":1}"#, r#"{"order":2}"#].map(str::to_owned));
    relay.until_empty().await?;
    let requests = &relay.target.requests()[before..];
    let bodies = requests
        .iter()
        .map(|it| String::from_utf8_lossy(&it.body).into_owned());
    let mut bodies: Vec<_> = bodies.collect();
    bodies.sort();
    sent.sort();
    assert_eq!(bodies, sent);
    let ids: BTreeSet<_> = requests.iter().map(|request| &request.event_id).collect();
    assert_eq!(ids.len(), sent.len());
    for id in ids {
        check_delivered(relay, id, 1).await?;
    }
    let another_body = "another body had the event's id first; delivering under an id of its own";
    relay.until_said(another_body, 1).await
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
    relay.set_delivering(false).await?;
    let webhooks = (0..10).map(|name| webhook(&name.to_string()));
    let ids = relay.accept_all(webhooks).await?;
    relay.set_delivering(true).await?;
    relay.until_dead(3).await?;

    for (name, id) in ids.iter().enumerate() {
        let requests = relay.target.requests_of(id);
        let expected = if name == 4 || name == 8 { 3 } else { 1 };
        assert_eq!(requests.len(), expected, "event {name}");
        for request in &requests {
            let attempt = request.nth.to_string();
            assert_eq!(
                request.headers["x-relay-attempt"],
                attempt.as_str(),
                "event {name}"
            );
        }
        for (pair, least) in requests.windows(2).zip([2, 4]) {
            let pause = pair[1].at - pair[0].at;
            assert!(
                pause >= Duration::from_secs(least),
                "event {name} after {pause:?}"
            );
        }
    }
    // A busy machine polls late. The delays that were asked for are 2 s and 4 s, and up to 1 s of
    // jitter.
    let lines = relay.log(Function::Processor).await?;
    let asked = |line: &Value| Some((line["attempt"].as_u64()?, line["delay_ms"].as_u64()?));
    let mut asked: Vec<_> = lines.iter().filter_map(asked).collect();
    asked.sort_unstable();
    assert_eq!(
        asked
            .iter()
            .map(|(attempt, _)| *attempt)
            .collect::<Vec<_>>(),
        [1, 1, 2, 2]
    );
    let is_short =
        |(attempt, delay): &(u64, u64)| *delay <= if *attempt == 1 { 3000 } else { 5000 };
    assert!(asked.iter().all(is_short), "{asked:?}");

    let dead = reasons(&relay).await?;
    assert_eq!(
        dead.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        ["3", "5", "7"]
    );
    for (_, reason) in dead {
        let expected = serde_json::json!({
            "reason": "permanent", "statusCode": 422, "attempt": 1, "response": "no such order",
        });
        crate::relay::assert_has(&reason, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_asks_for_time_gets_it_whatever_copies_come() -> Result<()> {
    // Time for a copy to be turned away.
    let time = Duration::from_secs(15);
    let later = Answer {
        retry_after: Some(time.as_secs().to_string()),
        ..Answer::status(429)
    };
    let relay = Relay::start(at_first(later), &RETRIES).await?;
    let id = relay.accept(&webhook("throttled")).await?;
    relay.until_at_target(|_| true).await?;
    assert_eq!(relay.accept(&webhook("throttled")).await?, id);
    relay.until_said("its next attempt is later", 1).await?;
    relay.until_empty().await?;
    assert_eq!(relay.answers(&id), [Some(429), Some(200)]);
    let requests = relay.target.requests_of(&id);
    assert!(requests[1].at - requests[0].at >= time);
    assert_eq!(
        requests[1].headers["x-relay-attempt"], "2",
        "a copy makes no attempt"
    );
    check_delivered(&relay, &id, 2).await
}

#[tokio::test]
async fn of_two_processors_one_delivers_and_the_other_waits() -> Result<()> {
    // Time for another processor to start.
    let patient = [
        ("ProcessorTimeoutSeconds", "20"),
        ("TargetTimeoutSeconds", "15"),
    ];
    let relay = Relay::start(at_first(Answer::held(200)), &patient).await?;
    let id = relay.accept(&webhook("slow")).await?;
    relay.until_at_target(|_| true).await?;
    assert_eq!(relay.accept(&webhook("slow")).await?, id);
    relay
        .until_said("another worker is delivering the event", 1)
        .await?;
    relay.target.release();
    // The copy is kept until the outcome of the delivery is known.
    relay.until_empty().await?;
    assert_eq!(relay.answers(&id), [Some(200)]);
    check_delivered(&relay, &id, 1).await?;
    relay.until_said("duplicate", 1).await
}

#[tokio::test]
async fn an_event_of_a_killed_processor_is_delivered_after_its_lease() -> Result<()> {
    let relay = Relay::start(at_first(hanging(200)), &QUICK).await?;
    relay.set_visibility(12).await?;
    let id = relay.accept(&webhook("crashed")).await?;
    relay.until_at_target(|_| true).await?;
    assert!(relay.kill(Function::Processor).await? > 0);
    let found = relay.record(&id).await?.context("a record")?;
    let State::InProgress(lease) = found.state else {
        bail!("{found:?}")
    };
    let left = lease.lease_until.duration_since(SystemClock.now());
    let free_at = Instant::now() + Duration::try_from(left).unwrap_or_default();

    // A copy comes at once, and the message itself after its visibility timeout.
    assert_eq!(relay.accept(&webhook("crashed")).await?, id);
    relay.until_empty().await?;
    let requests = relay.target.requests_of(&id);
    assert_eq!(requests.len(), 2);
    // Both clocks are of this machine, and are not read at the same moment.
    let is_after = requests[1].at + Duration::from_millis(100) >= free_at;
    assert!(is_after, "the lease did not hold off another worker");
    check_delivered(&relay, &id, 2).await?;
    let found = relay.record(&id).await?.context("a record")?;
    let crash = found.attempts[0].error.as_deref().context("an error")?;
    assert!(crash.contains("ended before it could record"), "{crash}");
    Ok(())
}
