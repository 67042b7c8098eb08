//! Move tasks of SQS: everything comes back at once.

use local::stack::Function;

use super::*;
use crate::relay::accepted_names;

#[tokio::test]
async fn everything_comes_back_by_a_move_task_that_can_be_cancelled() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let names: Vec<_> = (100..140).map(|name| name.to_string()).collect();
    relay.accept_dead(&names).await?;
    relay.target.behave(Behaviour::Fine);
    let before = relay.stack.queue_counts().await?;
    let all = json!({ "action": "replay", "all": true, "dryRun": true });
    assert_has(
        &relay.replay(all).await?,
        json!({ "matched": 40, "moveTask": null }),
    );
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(counts, before, "a dry run changes nothing");

    // One a second: it runs while the next requests come.
    let slowly = json!({ "action": "replay", "all": true, "ratePerSecond": 1 });
    let answer = relay.replay(slowly).await?;
    assert_has(
        &answer,
        json!({ "matched": 40, "/moveTask/ratePerSecond": 1 }),
    );
    let filtered = json!({ "action": "replay", "filter": { "statusCode": 422 } });
    relay.replay_fails(filtered, "Busy").await?;
    let answer = relay.replay(json!({ "action": "cancel" })).await?;
    assert_has(&answer, json!({ "cancelled": true }));
    let status = async || relay.replay(json!({ "action": "status" })).await;
    let stopped = wait::until("the task has stopped", || async {
        let status = status().await?;
        Ok(Some(status).filter(|status| status["moveTask"]["status"] == "CANCELLED"))
    })
    .await?;
    let moved = stopped["moveTask"]["moved"].as_u64().unwrap_or_default();
    assert!(moved < 40, "{stopped}");
    relay.until_dead(u32::try_from(40 - moved)?).await?;

    let all = json!({ "action": "replay", "all": true });
    relay.until_free(Function::Replay, &all).await?;
    relay.until_empty().await?;
    assert_eq!(accepted_names(&relay), names);
    let empty = json!({ "visible": 0, "inFlight": 0, "delayed": 0 });
    let expected = json!({ "/moveTask/moved": 40 - moved, "deadLetters": empty });
    assert_has(&status().await?, expected);
    Ok(())
}
