//! Duplicates, and events whose record cannot be read or written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::sqs::Sqs;
use genesys_relay::domain::event::{Event, Source};
use genesys_relay::domain::event_record::{
    DeadLetterStatus, DeadRecord, EventRecord, OperatorAction, State, StateName, Transition,
};
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::domain::message::Message;
use genesys_relay::ports::clock::{Clock, SystemClock};
use genesys_relay::ports::events_table::{EventsTable, Written};
use genesys_relay::ports::queue::Sender;
use local::genesys::{WEBHOOK_SECRET, Webhook};
use local::stack::{Function, LogLine};
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::{clients, wait};
use tokio::net::TcpListener;

use crate::{Relay, webhook};

/// A lease is over after ten seconds, and what was killed comes back after thirty.
const SHORT: (&str, u32) = ("ProcessorTimeoutSeconds", 5);

/// A target may take some seconds, and a lease is over after fifteen.
const MEDIUM: (&str, u32) = ("ProcessorTimeoutSeconds", 10);

/// Retries after a second.
const QUICK: [(&str, u32); 2] = [("BackoffBaseSeconds", 1), ("BackoffCapSeconds", 1)];

/// Time for an attempt that is held while another processor starts.
const PATIENT: [(&str, u32); 2] = [
    ("ProcessorTimeoutSeconds", 20),
    ("TargetTimeoutSeconds", 15),
];

const ROLE: &str = "ProcessorRole";
const WRITES: &str = "dynamodb:PutItem";

fn table(relay: &Relay) -> Result<DynamoDb> {
    Ok(DynamoDb::new(
        relay.stack.config(),
        relay.stack.output("EventsTableName")?.to_owned(),
    ))
}

async fn record(relay: &Relay, id: &str) -> Result<Option<EventRecord>> {
    Ok(table(relay)?.get(&id.parse()?).await?)
}

async fn state(relay: &Relay, id: &str) -> Result<Option<StateName>> {
    Ok(record(relay, id).await?.map(|record| record.state.name()))
}

async fn until_state(relay: &Relay, id: &str, expected: StateName) -> Result<EventRecord> {
    let what = format!("{id} is {expected}");
    wait::until(&what, || async {
        Ok(record(relay, id)
            .await?
            .filter(|record| record.state.name() == expected))
    })
    .await
}

/// The lines in which the processor says this, about any event.
async fn said(relay: &Relay, text: &str) -> Result<Vec<LogLine>> {
    let mut lines = relay.stack.log_lines(Function::Processor, 0).await?;
    lines.retain(|line| {
        ["message", "error"].iter().any(|field| {
            line.content[field]
                .as_str()
                .is_some_and(|said| said.contains(text))
        })
    });
    Ok(lines)
}

/// Waits until the processor has said this so often. A line shows when its invocation is over.
async fn until_said(relay: &Relay, text: &str, times: usize) -> Result<()> {
    let what = format!("the processor says {times} times: {text}");
    let lines = async || Ok(Some(said(relay, text).await?).filter(|lines| lines.len() >= times));
    wait::until(&what, lines).await.map(drop)
}

/// Statuses of the target for the deliveries of an event, in their order.
fn answers(relay: &Relay, id: &str) -> Vec<Option<u16>> {
    relay
        .target
        .requests_of(id)
        .into_iter()
        .map(|request| request.answer.and_then(|answer| answer.status))
        .collect()
}

/// The first delivery of an event is treated so, all others are taken.
fn at_first(answer: Answer) -> Behaviour {
    Behaviour::script(move |request: &ReceivedRequest| match request.nth {
        1 => answer.clone(),
        _ => Answer::status(200),
    })
}

/// An event that was refused for good, and the target mended since.
async fn relay_with_a_dead_letter(webhook: &Webhook) -> Result<(Relay, String)> {
    let relay = Relay::start(at_first(Answer::status(404)), &[SHORT]).await?;
    let id = relay.accept(webhook).await?;
    relay.until_dead(1).await?;
    assert_eq!(state(&relay, &id).await?, Some(StateName::Dead));
    Ok((relay, id))
}

/// Actions of an operator on a dead letter that change its record.
async fn decide(
    relay: &Relay,
    id: &str,
    step: impl FnOnce(&DeadRecord, OperatorAction) -> Transition,
) -> Result<()> {
    let found = record(relay, id).await?.context("a record")?;
    let now = SystemClock.now();
    let Some(DeadLetterStatus::Dead(dead)) = DeadLetterStatus::recorded(&found, now) else {
        anyhow::bail!("not dead: {found:?}")
    };
    let act = OperatorAction {
        action: "a decision".to_owned(),
        at: now,
        by: "an operator".to_owned(),
        why: None,
    };
    assert_eq!(table(relay)?.write(&step(&dead, act)).await?, Written::Done);
    Ok(())
}

async fn send(relay: &Relay, message: &Message) -> Result<()> {
    Ok(Sqs::new(relay.stack.config())
        .queue(relay.stack.output("QueueUrl")?.to_owned())
        .send(message)
        .await?)
}

#[tokio::test]
async fn a_webhook_that_comes_twice_is_delivered_once() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT]).await?;
    let id = relay.accept(&webhook("twice")).await?;
    assert_eq!(relay.accept(&webhook("twice")).await?, id);
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);

    // And long after it was delivered.
    assert_eq!(relay.accept(&webhook("twice")).await?, id);
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!((found.state, found.attempts_made), (State::Delivered, 1));
    until_said(&relay, "duplicate", 2).await
}

#[tokio::test]
async fn reserialised_webhook_is_the_same_event() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT]).await?;
    let written = [
        r#"{"webhookId":"w1","timestamp":"2026-01-15T12:00:00Z","payload":{"text":"Grüße","number":1.0}}"#,
        "{ \"payload\": {\"number\": 1, \"text\": \"Gr\\u00fc\\u00dfe\"},\r\n \"timestamp\": \"2026-01-15T12:00:00Z\", \"webhookId\": \"w1\" }",
    ];
    let id = relay
        .accept(&Webhook::with_shared_secret(written[0]))
        .await?;
    relay.until_empty().await?;
    assert_eq!(
        relay
            .accept(&Webhook::with_shared_secret(written[1]))
            .await?,
        id
    );
    relay.until_empty().await?;
    let requests = relay.target.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(&requests[0].body[..], written[0].as_bytes());
    assert_eq!(state(&relay, &id).await?, Some(StateName::Delivered));
    Ok(())
}

#[tokio::test]
async fn a_message_that_was_sent_twice_is_delivered_once() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT]).await?;
    let message = Message::from_event(Event {
        id: "an-event".parse()?,
        source: Source::Webhook,
        received_at: "2026-01-15T12:00:00Z".parse()?,
        content_type: Some("application/json".to_owned()),
        headers: [].into(),
        body: b"{}".to_vec(),
        webhook_id: None,
        is_copy: false,
    });
    // As a rule of EventBridge sends it: without a word of ours.
    let bare = Message {
        body: r#"{"id":"1","detail-type":"v2.users.u1.presence","time":"2026-01-15T12:00:00Z","detail":
            {"topicName":"v2.users.u1.presence","eventBody":{"id":"u1"},"timestamp":"2026-01-15T12:00:00Z"}}"#
            .to_owned(),
        attributes: [].into(),
        group: None,
        trace: None,
    };
    let published_again = Message {
        body: bare.body.replace(r#""id":"1""#, r#""id":"2""#),
        ..bare.clone()
    };
    for message in [&message, &message, &bare, &bare, &published_again] {
        send(&relay, message).await?;
    }
    relay.until_empty().await?;
    let requests = relay.target.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in requests {
        assert_eq!(
            state(&relay, &request.event_id).await?,
            Some(StateName::Delivered)
        );
    }
    Ok(())
}

#[tokio::test]
async fn of_two_processors_one_delivers_and_the_other_waits() -> Result<()> {
    let relay = Relay::start(at_first(Answer::held(200)), &PATIENT).await?;
    let id = relay.accept(&webhook("slow")).await?;
    relay
        .target
        .until("a delivery is under way", |requests| requests.len() == 1)
        .await?;
    assert_eq!(state(&relay, &id).await?, Some(StateName::InProgress));
    assert_eq!(relay.accept(&webhook("slow")).await?, id);
    until_said(&relay, "another worker is delivering the event", 1).await?;
    relay.target.release();
    // The copy is kept until it is known how the delivery went.
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!((found.state, found.attempts_made), (State::Delivered, 1));
    until_said(&relay, "duplicate", 1).await
}

#[tokio::test]
async fn a_copy_does_not_shorten_the_backoff() -> Result<()> {
    // Time for a copy to be turned away.
    let backoff = Duration::from_secs(30);
    let later = Answer {
        retry_after: Some(backoff.as_secs().to_string()),
        ..Answer::status(503)
    };
    let relay = Relay::start(at_first(later), &[SHORT]).await?;
    let id = relay.accept(&webhook("early")).await?;
    let found = until_state(&relay, &id, StateName::Retrying).await?;
    let State::Retrying { next_attempt_at } = found.state else {
        anyhow::bail!("{found:?}")
    };
    assert_eq!(relay.accept(&webhook("early")).await?, id);
    until_said(&relay, "its next attempt is later", 1).await?;
    relay.until_empty().await?;

    assert_eq!(answers(&relay, &id), [Some(503), Some(200)]);
    let requests = relay.target.requests_of(&id);
    assert!(requests[1].at - requests[0].at >= backoff);
    assert_eq!(
        requests[1].headers["x-relay-attempt"], "2",
        "to be turned away is no attempt"
    );
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!((found.state, found.attempts_made), (State::Delivered, 2));
    assert!(found.attempts[0].at < next_attempt_at && found.attempts[1].at >= next_attempt_at);
    Ok(())
}

#[tokio::test]
async fn an_event_that_comes_again_after_it_died_is_delivered() -> Result<()> {
    let (relay, id) = relay_with_a_dead_letter(&webhook("dead")).await?;
    assert_eq!(relay.accept(&webhook("dead")).await?, id);
    let found = until_state(&relay, &id, StateName::Delivered).await?;
    assert_eq!(answers(&relay, &id), [Some(404), Some(200)]);
    assert_eq!(
        (
            found.attempts_made,
            found.attempts_since_claim,
            found.replays_made
        ),
        (2, 1, 1),
        "it has left the dead letters"
    );
    // Its message is still there; a sweep finds that it is not needed any more.
    relay.until_dead(1).await
}

#[tokio::test]
async fn an_event_that_comes_again_after_it_was_discarded_is_not_delivered() -> Result<()> {
    let (relay, id) = relay_with_a_dead_letter(&webhook("discarded")).await?;
    decide(&relay, &id, DeadRecord::discarded).await?;
    assert_eq!(relay.accept(&webhook("discarded")).await?, id);
    until_said(&relay, "duplicate", 1).await?;
    relay.until_dead(1).await?;
    assert_eq!(answers(&relay, &id), [Some(404)]);
    assert_eq!(state(&relay, &id).await?, Some(StateName::Discarded));
    Ok(())
}

#[tokio::test]
async fn an_event_that_comes_again_after_it_was_archived_is_delivered() -> Result<()> {
    let (relay, id) = relay_with_a_dead_letter(&webhook("archived")).await?;
    decide(&relay, &id, |dead, act| dead.archived(act, "an object")).await?;
    assert_eq!(relay.accept(&webhook("archived")).await?, id);
    let found = until_state(&relay, &id, StateName::Delivered).await?;
    assert_eq!(answers(&relay, &id), [Some(404), Some(200)]);
    assert_eq!(
        (
            found.attempts_made,
            found.attempts_since_claim,
            found.replays_made
        ),
        (2, 1, 0),
        "an archive is no dead-letter queue"
    );
    relay.until_dead(1).await
}

#[tokio::test]
async fn what_a_crash_left_behind_is_delivered_when_its_lease_is_over() -> Result<()> {
    let relay = Relay::start(
        at_first(Answer {
            delay: Duration::from_mins(1),
            ..Answer::status(200)
        }),
        &[SHORT],
    )
    .await?;
    let id = relay.accept(&webhook("crashed")).await?;
    relay
        .target
        .until("a delivery is under way", |requests| requests.len() == 1)
        .await?;
    for pid in relay.stack.pids_of(Function::Processor)? {
        assert!(
            std::process::Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status()?
                .success()
        );
    }
    let found = record(&relay, &id).await?.context("a record")?;
    let State::InProgress(lease) = found.state else {
        anyhow::bail!("{found:?}")
    };
    let left =
        Duration::try_from(lease.lease_until.duration_since(SystemClock.now())).unwrap_or_default();
    let free_at = Instant::now() + left;

    // A copy comes at once, and the message itself after its visibility timeout.
    assert_eq!(relay.accept(&webhook("crashed")).await?, id);
    relay.until_empty().await?;
    let requests = relay.target.requests_of(&id);
    assert_eq!(requests.len(), 2);
    // Both clocks are of this machine, and are not read at the same moment.
    assert!(
        requests[1].at + Duration::from_millis(100) >= free_at,
        "the lease did not hold off another worker"
    );
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!(
        (&found.state, found.attempts_made, found.attempts.len()),
        (&State::Delivered, 2, 2)
    );
    let crash = found.attempts[0].error.as_deref().context("an error")?;
    assert!(crash.contains("ended before it could record"), "{crash}");
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_could_not_be_recorded_is_repeated_with_the_same_key() -> Result<()> {
    let relay = Relay::start(at_first(Answer::held(200)), &[MEDIUM]).await?;
    let role = relay.stack.role(ROLE).await?;
    let id = relay.accept(&webhook("unrecorded")).await?;
    relay
        .target
        .until("a delivery is under way", |requests| requests.len() == 1)
        .await?;
    role.take_away(WRITES).await?;
    relay.target.release();
    until_said(
        &relay,
        "failed to record the delivery; the target will receive the event again",
        1,
    )
    .await?;
    assert_eq!(state(&relay, &id).await?, Some(StateName::InProgress));
    assert_eq!(
        relay.stack.queue_counts().await?.events.total(),
        1,
        "not acknowledged"
    );

    role.restore().await?;
    relay.until_empty().await?;
    let keys: Vec<_> = relay
        .target
        .requests()
        .into_iter()
        .map(|request| request.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys, [id.as_str(); 2]);
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!((found.state, found.attempts_made), (State::Delivered, 2));
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_could_not_be_recorded_at_the_last_receive_is_acknowledged() -> Result<()> {
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer::status(503),
        _ => Answer::held(200),
    };
    let parameters = [QUICK[0], QUICK[1], MEDIUM, ("MaxReceiveCount", 2)];
    let relay = Relay::start(Behaviour::script(script), &parameters).await?;
    let role = relay.stack.role(ROLE).await?;
    let id = relay.accept(&webhook("last")).await?;
    relay
        .target
        .until("the last delivery is under way", |requests| {
            requests.len() == 2
        })
        .await?;
    role.take_away(WRITES).await?;
    relay.target.release();
    until_said(
        &relay,
        "failed to record the delivery at the last receive; deleting the message",
        1,
    )
    .await?;
    relay.until_empty().await?;
    assert_eq!(
        answers(&relay, &id),
        [Some(503), Some(200)],
        "a dead letter would be delivered again by a replay"
    );
    let found = record(&relay, &id).await?.context("a record")?;
    assert!(
        matches!(&found.state, State::InProgress(lease) if lease.last),
        "{found:?}"
    );
    let State::InProgress(lease) = &found.state else {
        anyhow::bail!("{found:?}")
    };
    assert_eq!(
        found
            .state
            .death(lease.lease_until)
            .map(|death| death.reason),
        Some(ReasonKind::Crashed)
    );
    Ok(())
}

/// Cases from the field: each pair is two events, that an older version took for one.
#[tokio::test]
async fn what_says_nothing_makes_no_duplicate() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT]).await?;
    let envelope = |time: &str| {
        format!(r#"{{"webhookId":"w","payload":{{"state":"AWAY"}},"timestamp":{time}}}"#)
    };
    let text = |id: &str, time: &str, text: &str| {
        format!(
            r#"{{"id":{id},"channel":{{"id":"i1","platform":"Open","time":"{time}"}},"type":"Text","text":"{text}","direction":"Outbound"}}"#
        )
    };
    let data_action = r#"{"userId":"guest","topic":"v2.detail.events.conversation.id.user.end","disconnectType":"client"}"#;
    let now = SystemClock.now();
    let (soon, later) = (
        format!("{now:.3}"),
        format!("{:.3}", now + Duration::from_mins(7)),
    );
    let pairs = [
        [data_action.to_owned(), data_action.to_owned()],
        [envelope("null"), envelope("null")],
        [envelope(r#""""#), envelope(r#""""#)],
        [
            envelope(r#""${input.timestamp}""#),
            envelope(r#""${input.timestamp}""#),
        ],
        [
            text(r#""""#, &soon, "first"),
            text(r#""""#, &soon, "second"),
        ],
        [
            text(r#""m1""#, &soon, "on its way"),
            text(r#""m1""#, &later, "delayed"),
        ],
        [
            text(r#""m2""#, &soon, "on its way"),
            text(r#""m2""#, &soon, "delayed"),
        ],
    ];
    let url = relay.stack.webhook_url()?;
    for body in pairs.as_flattened() {
        let request = clients::http()
            .post(&url)
            .header("x-webhook-secret", WEBHOOK_SECRET);
        let answer = request
            .header("idempotency-key", "${input.key}")
            .body(body.clone())
            .send()
            .await?;
        assert_eq!(answer.status(), 200);
    }
    relay.until_empty().await?;
    let requests = relay.target.requests();
    let mut bodies: Vec<String> = requests
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned())
        .collect();
    let mut sent = pairs.as_flattened().to_vec();
    bodies.sort();
    sent.sort();
    assert_eq!(bodies, sent);
    let ids: std::collections::BTreeSet<_> =
        requests.iter().map(|request| &request.event_id).collect();
    assert_eq!(ids.len(), sent.len());
    for id in ids {
        assert_eq!(state(&relay, id).await?, Some(StateName::Delivered));
    }
    until_said(
        &relay,
        "another body had the event's id first; delivering under an id of its own",
        1,
    )
    .await
}

#[tokio::test]
async fn a_key_that_is_the_same_on_every_webhook_drops_no_other_body() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT]).await?;
    let url = relay.stack.webhook_url()?;
    for body in [r#"{"order":1}"#, r#"{"order":2}"#, r#"{"order":2}"#] {
        let request = clients::http()
            .post(&url)
            .header("x-webhook-secret", WEBHOOK_SECRET);
        let answer = request
            .header("webhook-id", "configured-once")
            .body(body)
            .send()
            .await?;
        assert_eq!(answer.status(), 200);
    }
    relay.until_empty().await?;
    let mut bodies: Vec<_> = relay
        .target
        .requests()
        .into_iter()
        .map(|request| request.body)
        .collect();
    bodies.sort();
    assert_eq!(bodies, [r#"{"order":1}"#, r#"{"order":2}"#]);
    Ok(())
}

#[tokio::test]
async fn an_event_waits_for_a_table_that_refuses_it() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[SHORT, QUICK[0], QUICK[1]]).await?;
    let role = relay.stack.role(ROLE).await?;
    role.take_away(WRITES).await?;
    let id = relay.accept(&webhook("waiting")).await?;
    until_said(&relay, "DynamoDB refused the request", 2).await?;
    assert_eq!(
        relay.target.requests().len(),
        0,
        "nothing is delivered without a claim"
    );
    assert_eq!(
        relay.stack.queue_counts().await?.events.total(),
        1,
        "not acknowledged"
    );
    role.restore().await?;
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);
    assert_eq!(state(&relay, &id).await?, Some(StateName::Delivered));
    Ok(())
}

#[tokio::test]
async fn an_event_that_no_table_took_becomes_a_dead_letter() -> Result<()> {
    let parameters = [SHORT, QUICK[0], QUICK[1], ("MaxReceiveCount", 3)];
    let relay = Relay::start(Behaviour::Fine, &parameters).await?;
    let role = relay.stack.role(ROLE).await?;
    role.take_away(WRITES).await?;
    let id = relay.accept(&webhook("refused")).await?;
    relay.until_dead(1).await?;
    assert_eq!(relay.target.requests().len(), 0);
    assert_eq!(state(&relay, &id).await?, None);
    until_said(&relay, "DynamoDB refused the request", 3).await?;

    // The table is back, and so is whatever is sent again.
    role.restore().await?;
    relay.accept(&webhook("refused")).await?;
    until_state(&relay, &id, StateName::Delivered).await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);
    relay.until_dead(1).await
}

#[tokio::test]
async fn a_failure_that_could_not_be_recorded_is_tried_again_when_the_lease_is_over() -> Result<()>
{
    let relay = Relay::start(at_first(Answer::held(404)), &[MEDIUM]).await?;
    let role = relay.stack.role(ROLE).await?;
    let id = relay.accept(&webhook("unrecorded")).await?;
    relay
        .target
        .until("a delivery is under way", |requests| requests.len() == 1)
        .await?;
    role.take_away(WRITES).await?;
    relay.target.release();
    until_said(&relay, "failed to record the attempt", 1).await?;
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(
        (counts.events.total(), counts.dead_letters.total()),
        (1, 0),
        "neither acknowledged nor dead"
    );
    role.restore().await?;
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(404), Some(200)]);
    let found = record(&relay, &id).await?.context("a record")?;
    assert_eq!((found.state, found.attempts_made), (State::Delivered, 2));
    Ok(())
}

/// Lets the processor look for the table here, or where it was deployed.
async fn look_for_the_table(relay: &Relay, endpoint: Option<String>) -> Result<()> {
    const NAME: &str = "AWS_ENDPOINT_URL_DYNAMODB";
    let (lambda, name) = (
        relay.stack.lambda(),
        relay.stack.function_name(Function::Processor)?,
    );
    let configuration = lambda
        .get_function_configuration()
        .function_name(name)
        .send()
        .await?;
    let mut variables = configuration
        .environment()
        .and_then(|all| all.variables())
        .cloned()
        .unwrap_or_default();
    variables.remove(NAME);
    variables.extend(endpoint.map(|endpoint| (NAME.to_owned(), endpoint)));
    let environment = aws_sdk_lambda::types::Environment::builder()
        .set_variables(Some(variables))
        .build();
    lambda
        .update_function_configuration()
        .function_name(name)
        .environment(environment)
        .send()
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_event_waits_for_a_table_that_does_not_answer() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[MEDIUM, QUICK[0], QUICK[1]]).await?;
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    look_for_the_table(&relay, Some(format!("http://{}", silent.local_addr()?))).await?;
    let id = relay.accept(&webhook("silence")).await?;
    until_said(
        &relay,
        "DynamoDB did not answer or throttled the request",
        1,
    )
    .await?;
    // No process listens there any more.
    drop(silent);
    until_said(
        &relay,
        "DynamoDB did not answer or throttled the request",
        3,
    )
    .await?;
    assert_eq!(
        relay.target.requests().len(),
        0,
        "nothing is delivered without a claim"
    );
    assert_eq!(
        relay.stack.queue_counts().await?.events.total(),
        1,
        "not acknowledged"
    );
    look_for_the_table(&relay, None).await?;
    relay.until_empty().await?;
    assert_eq!(answers(&relay, &id), [Some(200)]);
    assert_eq!(state(&relay, &id).await?, Some(StateName::Delivered));
    Ok(())
}
