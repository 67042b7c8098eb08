//! Crashes, and runs that are killed or meet another.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use local::stack::{Function, QueueCounts};
use tokio::time::sleep;

use super::*;
use crate::relay::{QUICK, hanging};

/// Seconds of an invocation of replay, for tests that kill one: its messages stay hidden, and its
/// lease lasts, half a minute longer.
const SHORT_RUN: i32 = 10;

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("order {number}"))
}

#[tokio::test]
async fn a_crash_on_the_last_attempt_is_seen_and_mended() -> Result<()> {
    // The first attempt fails, and the last one hangs until the processor is killed.
    let script = |request: &ReceivedRequest| match request.nth {
        1 => Answer::status(503),
        2 => hanging(200),
        _ => Answer::status(200),
    };
    let [base, cap, time] = QUICK;
    let parameters = [base, cap, time, ("MaxReceiveCount", "2")];
    let relay = Relay::start(Behaviour::script(script), &parameters).await?;
    relay.set_visibility(12).await?;
    let id = relay.accept(&webhook("crashing")).await?;
    relay.until_at_target(|request| request.nth == 2).await?;
    assert!(relay.kill(Function::Processor).await? > 0);
    let crashed = wait::until("its lease ends", || async {
        let items = list(&relay, json!({ "reason": "crashed" }), 10).await?;
        Ok((!items.is_empty()).then_some(items))
    })
    .await?;
    assert_eq!(crashed.len(), 1);
    assert_has(&crashed[0], json!({ "eventId": id, "attempts": 2 }));
    relay.until_dead(1).await?;
    let answer = relay
        .replay(json!({ "action": "reconcile", "ifNeeded": true }))
        .await?;
    assert_has(&answer, json!({ "recorded": 1 }));
    let shown = relay.show(&id).await?;
    let expected = json!({ "state": "DEAD", "reason": "crashed", "/attempts/0/statusCode": 503 });
    assert_has(&shown, expected);
    assert_eq!(
        shown["attempts"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    assert!(shown["body"].is_string(), "{shown}");

    let request = json!({ "action": "replay", "filter": { "reason": "crashed" } });
    assert_has(&relay.replay(request).await?, json!({ "replayed": 1 }));
    relay.until_empty().await?;
    assert_has(&relay.show(&id).await?, json!({ "state": "DELIVERED" }));
    Ok(())
}

/// Waits until a run hides more messages than `before`, or than at the fewest since: those of an
/// earlier run come back.
async fn until_hiding(relay: &Relay, before: u32) -> Result<()> {
    let fewest = Cell::new(before);
    let is_hiding = |counts: QueueCounts| {
        let hidden = counts.dead_letters.in_flight;
        hidden > fewest.replace(fewest.get().min(hidden))
    };
    relay
        .stack
        .until_queues("a run has begun", is_hiding)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_replay_that_is_killed_and_repeated_loses_and_doubles_nothing() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let ids = relay.accept_dead(numbered(100)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 }, "why": "killed" });
    // Slow enough to be seen and killed.
    let mut slowly = request.clone();
    slowly["ratePerSecond"] = 20.into();
    let mut killed = 0;
    while killed < 3 {
        let is_there = |counts: QueueCounts| counts.dead_letters.visible > 0;
        let counts = relay
            .stack
            .until_queues("some are visible", is_there)
            .await?;
        let mut run = pin!(relay.stack.invoke(Function::Replay, &slowly));
        // On a busy machine a run may be over before it is seen.
        let outcome = tokio::select! {
            outcome = &mut run => outcome?,
            seen = until_hiding(&relay, counts.dead_letters.in_flight) => {
                seen?;
                sleep(Duration::from_millis(50) * killed).await;
                relay.kill(Function::Replay).await?;
                run.await?
            }
        };
        if outcome.is_err() {
            killed += 1;
            relay.replay_fails(request.clone(), "Busy").await?;
            // Its lease ends by itself, which need not be waited for each time.
            relay.end_lease("dead-letters").await?;
        }
    }
    wait::until("one run after the other brings back the rest", || async {
        let report = relay.until_free(Function::Replay, &request).await?;
        Ok((report["remaining"] == 0).then_some(()))
    })
    .await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    Ok(())
}

#[tokio::test]
async fn killed_run_blocks_others_until_its_lease_ends() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let ids = relay.accept_dead(numbered(20)).await?;
    relay.set_timeout(Function::Replay, SHORT_RUN).await?;
    relay.target.behave(Behaviour::Fine);
    let by = "the first";
    let request = json!({ "action": "replay", "filter": { "statusCode": 404 }, "ratePerSecond": 5, "by": by });
    let (outcome, ()) = tokio::try_join!(relay.stack.invoke(Function::Replay, &request), async {
        relay.until_at_target(|request| request.nth == 2).await?;
        relay.kill(Function::Replay).await.map(drop)
    })?;
    assert!(outcome.is_err(), "killed: {outcome:?}");
    for request in [
        json!({ "action": "replay", "eventIds": [ids[0]] }),
        json!({ "action": "replay", "all": true }),
        json!({ "action": "reconcile" }),
        json!({ "action": "archive", "olderThanDays": 0 }),
        json!({ "action": "discard", "eventIds": [ids[0]], "why": "a test order" }),
    ] {
        let error = relay.replay_fails(request, "Busy").await?;
        assert!(error.to_string().contains("replay by the first"), "{error}");
    }
    let run = relay.replay(json!({ "action": "status" })).await?["run"].take();
    assert_has(&run, json!({ "action": "replay", "by": by }));
    let time = |name: &str| -> Result<Timestamp> {
        Ok(run[name]
            .as_str()
            .with_context(|| run.to_string())?
            .parse()?)
    };
    let (since, until) = (time("since")?, time("until")?);
    let longest = SignedDuration::from_secs(i64::from(SHORT_RUN) + 30);
    assert!(until.duration_since(since) <= longest, "{run}");
    let mut replayed = 0;
    while relay.held().await?.1 > 0 {
        let report = relay.until_free(Function::Replay, &request).await?;
        assert!(Timestamp::now() >= until, "not before: {report}");
        replayed += report["replayed"].as_u64().unwrap_or_default();
    }
    assert!(replayed > 0);
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    Ok(())
}
