//! Crashes and runs that are killed, or meet another.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use local::stack::{Function, QueueCounts};
use tokio::time::sleep;

use super::*;

/// Seconds of an invocation of replay, for tests that kill one: what it hid, and its lease, last
/// half a minute longer.
const SHORT_RUN: i32 = 15;

#[tokio::test]
async fn a_crash_on_the_last_attempt_is_seen_and_mended() -> Result<()> {
    // The first attempt fails, and the last one hangs, so that the processor is surely at it when
    // it is killed.
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer::status(503),
        2 => Answer {
            delay: Duration::from_secs(30),
            ..Answer::status(200)
        },
        _ => Answer::status(200),
    };
    let [base, cap, receives] = TWO_ATTEMPTS;
    let relay = Relay::start(
        Behaviour::script(script),
        &[base, cap, receives, ("ProcessorTimeoutSeconds", 5)],
    )
    .await?;
    let id = relay.accept(&webhook("crashing")).await?;
    relay
        .target
        .until("the last attempt hangs", |requests| requests.len() == 2)
        .await?;
    assert!(relay.kill(Function::Processor).await? > 0);
    let shown = relay.show(&id).await?;
    assert!(
        shown["state"] == "IN_PROGRESS" || shown["reason"] == "crashed",
        "{shown}"
    );

    let crashed = wait::until("its lease is over", || async {
        Ok(
            Some(list(&relay, json!({ "reason": "crashed" }), 10).await?)
                .filter(|items| !items.is_empty()),
        )
    })
    .await?;
    assert_eq!(
        (
            crashed.len(),
            &crashed[0]["eventId"],
            &crashed[0]["attempts"]
        ),
        (1, &json!(id), &json!(2))
    );
    assert_eq!(relay.show(&id).await?["state"], "DEAD");
    relay.until_dead(1).await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "ifNeeded": true }))
        .await?;
    assert_eq!(answer["recorded"], 1, "{answer}");
    let shown = relay.show(&id).await?;
    assert_eq!(
        (&shown["reason"], &shown["attempts"][0]["statusCode"]),
        (&"crashed".into(), &503.into()),
        "{shown}"
    );
    assert_eq!(
        shown["attempts"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    assert!(shown["body"].is_string(), "{shown}");

    assert_eq!(
        relay
            .replay(json!({ "action": "replay", "filter": { "reason": "crashed" } }))
            .await?["replayed"],
        1
    );
    relay.until_empty().await?;
    assert_eq!(relay.show(&id).await?["state"], "DELIVERED");
    Ok(())
}

/// Waits until a run hides more messages than `before`, or than at the fewest since: those of an
/// earlier run come back.
async fn until_hiding(relay: &Relay, before: u32) -> Result<()> {
    let fewest = Cell::new(before);
    let hiding = |counts: QueueCounts| {
        counts.dead_letters.in_flight
            > fewest.replace(fewest.get().min(counts.dead_letters.in_flight))
    };
    relay
        .stack
        .until_queues("a run has begun", hiding)
        .await
        .map(drop)
}

#[tokio::test]
async fn one_run_at_a_time_takes_from_the_dead_letters() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..12)).await?;
    relay.target.behave(Behaviour::Fine);
    let first = json!({ "action": "replay", "filter": { "statusCode": 404 }, "ratePerSecond": 2, "by": "the first" });
    let second = async {
        until_hiding(&relay, 0).await?;
        for request in [
            json!({ "action": "replay", "eventIds": [ids[0]] }),
            json!({ "action": "replay", "all": true }),
            json!({ "action": "reconcile" }),
            json!({ "action": "archive", "olderThanDays": 0 }),
            json!({ "action": "discard", "eventIds": [ids[0]], "why": "a test order" }),
        ] {
            let error = relay.replay_fails(request, "Busy").await?;
            let message = error.0["errorMessage"].as_str().unwrap_or_default();
            assert!(message.contains("replay by the first"), "{message}");
        }
        let status = relay.replay(json!({ "action": "status" })).await?;
        assert_eq!(
            (&status["run"]["action"], &status["run"]["by"]),
            (&"replay".into(), &"the first".into()),
            "{status}"
        );
        Ok(())
    };
    let (answer, ()) = tokio::try_join!(relay.replay(first), second)?;
    assert_eq!(
        (&answer["replayed"], &answer["remaining"]),
        (&12.into(), &0.into()),
        "{answer}"
    );
    relay.until_empty().await?;
    assert!(relay.deliveries().into_values().eq([1; 12]), "each once");
    Ok(())
}

#[tokio::test]
async fn a_replay_that_is_killed_and_repeated_loses_nothing_and_delivers_nothing_twice()
-> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..150)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": "killed and repeated" });
    let mut killed = 0;
    for later in (0..8).map(|times| Duration::from_millis(17) * times) {
        let hidden = relay.stack.queue_counts().await?.dead_letters.in_flight;
        let mut run = pin!(relay.stack.invoke(Function::Replay, &request));
        // On a busy machine a run may be over before it is seen.
        let outcome = tokio::select! {
            outcome = &mut run => outcome?,
            seen = until_hiding(&relay, hidden) => {
                seen?;
                sleep(later).await;
                relay.kill(Function::Replay).await?;
                run.await?
            }
        };
        if relay.stack.queue_counts().await?.dead_letters.visible == 0 {
            break;
        }
        if outcome.is_err() {
            killed += 1;
            relay.replay_fails(request.clone(), "Busy").await?;
            // Its lease ends by itself, which need not be waited for each time.
            let_lease_end(&relay).await?;
        }
    }
    assert!(killed >= 3, "{killed} runs were killed");
    let last = wait::until("one run after the other brings back the rest", || async {
        match relay.stack.invoke(Function::Replay, &request).await? {
            Ok(report) => Ok(Some(report).filter(|report| report["remaining"] == 0)),
            Err(error) if error.0["errorType"] == "Busy" => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    eprintln!("{killed} runs were killed; the last one: {last}");
    relay.until_empty().await?;
    let deliveries = relay.deliveries();
    assert_eq!(deliveries.len(), ids.len(), "nothing is lost");
    assert!(
        deliveries.values().all(|times| *times == 1),
        "nothing is delivered twice: {deliveries:?}"
    );
    Ok(())
}

/// Takes the lease from a run that is no more.
async fn let_lease_end(relay: &Relay) -> Result<()> {
    let request = relay
        .stack
        .dynamodb()
        .delete_item()
        .table_name(relay.stack.output("EventsTableName")?);
    request
        .key(
            "event_id",
            AttributeValue::S("lease#dead-letters".to_owned()),
        )
        .send()
        .await?;
    Ok(())
}

#[tokio::test]
async fn killed_run_blocks_others_until_its_lease_ends_at_most() -> Result<()> {
    let (relay, ids) = relay_with(&[], &missing(0..20)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request =
        json!({ "action": "replay", "filter": { "statusCode": 404 }, "ratePerSecond": 5 });
    let (outcome, ()) = tokio::try_join!(relay.stack.invoke(Function::Replay, &request), async {
        relay
            .target
            .until("some are delivered", |requests| requests.len() > ids.len())
            .await?;
        relay.kill(Function::Replay).await.map(drop)
    })?;
    assert!(outcome.is_err(), "killed: {outcome:?}");
    relay.replay_fails(request.clone(), "Busy").await?;
    let run = relay.replay(json!({ "action": "status" })).await?["run"].take();
    let since: Timestamp = run["since"]
        .as_str()
        .with_context(|| format!("{run}"))?
        .parse()?;
    let until: Timestamp = run["until"]
        .as_str()
        .with_context(|| format!("{run}"))?
        .parse()?;
    // The time it had to work, and half a minute in which what it hid comes back.
    assert!(
        until.duration_since(since) <= SignedDuration::from_secs(i64::from(SHORT_RUN) + 30),
        "{run}"
    );
    let mut replayed = 0;
    while relay.stack.queue_counts().await?.dead_letters.total() > 0 {
        let report = wait::until("the lease is over", || async {
            match relay.stack.invoke(Function::Replay, &request).await? {
                Ok(report) => Ok(Some(report)),
                Err(error) if error.0["errorType"] == "Busy" => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        assert!(Timestamp::now() >= until, "not before: {report}");
        replayed += report["replayed"].as_u64().unwrap_or_default();
    }
    assert!(replayed > 0);
    relay.until_empty().await?;
    assert!(relay.deliveries().into_values().eq([1; 20]), "each once");
    Ok(())
}
