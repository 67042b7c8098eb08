//! From the dead letters back to the target.

use anyhow::Result;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use serde_json::json;

use crate::{Relay, name_of, webhook};

/// Answers 404 to what is called `missing…` and 422 to all else.
fn refuse(request: &ReceivedRequest) -> Answer {
    Answer::status(if name_of(&request.body).starts_with("missing") {
        404
    } else {
        422
    })
}

async fn relay_with_dead_letters(names: &[&str]) -> Result<Relay> {
    let relay = Relay::start(Behaviour::script(refuse), &[]).await?;
    for name in names {
        relay.accept(&webhook(name)).await?;
    }
    relay.until_dead(u32::try_from(names.len())?).await?;
    relay.target.behave(Behaviour::Fine);
    Ok(relay)
}

fn delivered(relay: &Relay) -> Vec<String> {
    let fine = |request: &ReceivedRequest| {
        request
            .answer
            .as_ref()
            .is_some_and(|answer| answer.status == Some(200))
    };
    let mut names: Vec<_> = relay
        .target
        .requests()
        .into_iter()
        .filter(fine)
        .map(|request| name_of(&request.body))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_filter_brings_back_just_what_matches() -> Result<()> {
    let relay =
        relay_with_dead_letters(&["missing 1", "invalid 1", "missing 2", "invalid 2"]).await?;
    let filter = json!({ "reason": "permanent", "statusCode": 404 });
    let before = relay.stack.queue_counts().await?;

    let answer = relay
        .replay(json!({ "action": "replay", "filter": filter, "dryRun": true }))
        .await?;
    assert_eq!(
        (&answer["matched"], &answer["replayed"], &answer["dryRun"]),
        (&2.into(), &0.into(), &true.into())
    );
    assert_eq!(answer["items"][0]["statusCode"], 404);
    assert_eq!(
        relay.stack.queue_counts().await?,
        before,
        "a dry run leaves all as it was"
    );

    let request =
        json!({ "action": "replay", "filter": filter, "why": "the orders are there now" });
    let answer = relay.replay(request).await?;
    assert_eq!(
        (
            &answer["matched"],
            &answer["replayed"],
            &answer["remaining"]
        ),
        (&2.into(), &2.into(), &2.into())
    );
    relay.until_dead(2).await?;
    assert_eq!(delivered(&relay), ["missing 1", "missing 2"]);
    Ok(())
}

#[tokio::test]
async fn everything_comes_back_by_a_move_task() -> Result<()> {
    let relay = relay_with_dead_letters(&["missing 1", "invalid 1", "invalid 2"]).await?;
    let before = relay.stack.queue_counts().await?;
    let answer = relay
        .replay(json!({ "action": "replay", "all": true, "dryRun": true }))
        .await?;
    assert_eq!(
        (&answer["matched"], &answer["moveTask"]),
        (&3.into(), &json!(null))
    );
    assert_eq!(
        relay.stack.queue_counts().await?,
        before,
        "a dry run leaves all as it was"
    );

    let answer = relay
        .replay(json!({ "action": "replay", "all": true, "ratePerSecond": 50 }))
        .await?;
    assert_eq!(
        (&answer["matched"], &answer["moveTask"]["ratePerSecond"]),
        (&3.into(), &50.into())
    );
    relay.until_empty().await?;
    assert_eq!(delivered(&relay), ["invalid 1", "invalid 2", "missing 1"]);
    let status = relay.replay(json!({ "action": "status" })).await?;
    assert_eq!(status["moveTask"]["moved"], 3, "{status}");
    assert_eq!(
        status["deadLetters"],
        json!({ "visible": 0, "inFlight": 0, "delayed": 0 })
    );
    Ok(())
}

#[tokio::test]
async fn a_move_task_can_be_cancelled_and_excludes_another() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let names: Vec<_> = (100..160).map(|name| name.to_string()).collect();
    let queue = relay.stack.output("DeadLetterQueueUrl")?;
    for name in &names {
        let body = String::from_utf8(webhook(name).body)?;
        relay
            .stack
            .sqs()
            .send_message()
            .queue_url(queue)
            .message_body(body)
            .send()
            .await?;
    }
    // One a second, for a minute: it runs while the next requests come.
    relay
        .replay(json!({ "action": "replay", "all": true, "ratePerSecond": 1 }))
        .await?;
    let second = relay
        .stack
        .invoke(
            Function::Replay,
            &json!({ "action": "replay", "filter": { "statusCode": 422 } }),
        )
        .await?;
    let error = second.expect_err("busy");
    assert_eq!(error.0["errorType"], "Busy", "{error}");

    let answer = relay.replay(json!({ "action": "cancel" })).await?;
    assert_eq!(answer["cancelled"], true);
    let stopped = local::wait::until("the task has stopped", || async {
        let status = relay.replay(json!({ "action": "status" })).await?;
        Ok(Some(status).filter(|status| status["moveTask"]["status"] == "CANCELLED"))
    })
    .await?;
    let moved = stopped["moveTask"]["moved"].as_u64().unwrap_or_default();
    assert!(moved < 60, "{stopped}");
    relay.until_dead(u32::try_from(60 - moved)?).await?;
    relay
        .replay(json!({ "action": "replay", "all": true }))
        .await?;
    relay.until_empty().await?;
    assert_eq!(delivered(&relay), names);
    Ok(())
}

#[tokio::test]
async fn a_replayed_event_can_die_again_with_a_reason_of_its_own() -> Result<()> {
    let relay = relay_with_dead_letters(&["missing"]).await?;
    relay.target.behave(Behaviour::Status {
        code: 410,
        retry_after: None,
    });
    relay
        .replay(json!({ "action": "replay", "all": true }))
        .await?;
    relay
        .target
        .until("the event is tried again", |requests| requests.len() == 2)
        .await?;
    relay.until_dead(1).await?;
    let filter = json!({ "statusCode": 410 });
    let answer = relay
        .replay(json!({ "action": "replay", "filter": filter, "dryRun": true }))
        .await?;
    assert_eq!(answer["matched"], 1, "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_not_understood_names_the_field_and_does_nothing() -> Result<()> {
    let relay = relay_with_dead_letters(&["missing"]).await?;
    let request = json!({ "action": "replay", "all": true, "dryrun": true });
    let error = relay
        .stack
        .invoke(Function::Replay, &request)
        .await?
        .expect_err("refused");
    assert_eq!(error.0["errorType"], "InvalidRequest");
    assert!(
        error.0["errorMessage"]
            .as_str()
            .is_some_and(|message| message.contains("dryrun")),
        "{error}"
    );
    relay.until_dead(1).await?;
    Ok(())
}
