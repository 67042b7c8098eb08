//! A target that is away for longer than the backoff lasts: events wait, and none dies.

use std::time::Duration;

use super::*;

const EVENTS: usize = 20;

/// Interval of the breaker's runs beside its schedule: a step takes 45 s.
const LOOKS: usize = 400;

/// Has the breaker look, again and again, until it is in this state.
async fn until_it_is(relay: &Relay, state: &str) -> Result<Value> {
    for _ in 0..LOOKS {
        // Its schedule may be at it.
        if let Ok(shown) = relay
            .stack
            .invoke(Function::Breaker, &json!({ "action": "run" }))
            .await?
            && shown["state"] == state
        {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let status = relay.replay(json!({ "action": "status" })).await?;
    anyhow::bail!("the breaker is not {state}: {status}")
}

#[tokio::test]
async fn a_target_that_is_away_gets_probes_alone_and_no_event_dies_of_it() -> Result<()> {
    let (target, genesys) = (
        Target::start(Behaviour::Down).await?,
        GenesysCloud::start().await?,
    );
    // An event would be dead after some four minutes.
    let options = StackOptions::new(target.url())
        .set("BackoffBaseSeconds", 1)
        .set("BackoffCapSeconds", 60);
    let relay = Relay {
        stack: Stack::start(options).await?,
        target,
        genesys,
    };
    let ids = relay
        .accept_all((0..EVENTS).map(|number| webhook(&format!("event {number}"))))
        .await?;
    until_it_is(&relay, "open").await?;
    // What was under way then comes back.
    relay
        .stack
        .until_queues("nothing is under way", |counts| {
            counts.events.total() as usize == EVENTS
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(15)).await;

    let status = relay.replay(json!({ "action": "status" })).await?;
    let probes = |status: &Value| status["breaker"]["probes"].as_u64().context("probes");
    let (hits_before, probes_before) = (relay.target.requests().len(), probes(&status)?);
    let mut made = 0;
    while made < 2 {
        drop(
            relay
                .stack
                .invoke(Function::Breaker, &json!({ "action": "run" }))
                .await?,
        );
        made = probes(&relay.replay(json!({ "action": "status" })).await?)? - probes_before;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let hits = (relay.target.requests().len() - hits_before) as u64;
    let made = probes(&relay.replay(json!({ "action": "status" })).await?)? - probes_before;
    anyhow::ensure!(hits <= made + 1, "{made} probes, and {hits} requests");
    let counts = relay.stack.queue_counts().await?;
    anyhow::ensure!(counts.dead_letters.total() == 0, "{counts:?}");

    relay.target.behave(Behaviour::Fine);
    until_it_is(&relay, "closed").await?;
    relay.until_empty().await?;
    let deliveries = relay.deliveries();
    anyhow::ensure!(
        ids.iter().all(|id| deliveries.get(id) == Some(&1)),
        "{deliveries:?}"
    );
    Ok(())
}
