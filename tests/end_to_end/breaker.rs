//! A target that is away for longer than the backoff lasts: events wait, and none dies.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use genesys_relay::ports::events_table::EventsTable as _;
use jiff::SignedDuration;
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::relay::{Relay, webhook};

const EVENTS: usize = 20;

/// An event would be dead after some four minutes. With the smallest concurrency the breaker closes
/// in one step.
const PARAMETERS: [(&str, &str); 5] = [
    ("Breaker", "on"),
    ("BackoffBaseSeconds", "1"),
    ("BackoffCapSeconds", "60"),
    ("ProcessorTimeoutSeconds", "5"),
    ("MaximumConcurrency", "2"),
];

/// Runs the breaker beside its schedule.
pub(crate) async fn run(relay: &Relay) -> Result<Value> {
    let request = json!({ "action": "run" });
    relay.until_free(Function::Breaker, &request).await
}

/// Runs the breaker until it is in this state.
async fn until_it_is(relay: &Relay, state: &str) -> Result<()> {
    wait::until(&format!("the breaker is {state}"), || async {
        Ok((run(relay).await?["state"] == state).then_some(()))
    })
    .await
}

/// Moves the breaker's last step a minute back, so that the next one is due.
pub(crate) async fn pass_a_minute(relay: &Relay) -> Result<()> {
    let minute = SignedDuration::from_mins(1);
    let mut circuit = relay.table()?.circuit().await?.context("a circuit")?;
    circuit.since -= minute;
    circuit.stepped_at = circuit.stepped_at.map(|at| at - minute);
    Ok(relay.table()?.save_circuit(&circuit).await?)
}

#[tokio::test]
async fn a_target_that_is_away_gets_probes_alone_and_no_event_dies() -> Result<()> {
    let relay = Relay::start(Behaviour::Down, &PARAMETERS).await?;
    let webhooks = (0..EVENTS).map(|number| webhook(&format!("event {number}")));
    let ids = relay.accept_all(webhooks).await?;
    until_it_is(&relay, "open").await?;
    relay.until_not_delivering().await?;
    // An invocation that was in flight then has ended by now, if only by its time-out.
    sleep(Duration::from_secs(6)).await;
    let probes = async || {
        let status = relay.replay(json!({ "action": "status" })).await?;
        status["breaker"]["probes"].as_u64().context("probes")
    };
    let (hits, made) = (relay.target.requests().len(), probes().await?);
    wait::until("two probes are made", || async {
        pass_a_minute(&relay).await?;
        run(&relay).await?;
        Ok((probes().await? >= made + 2).then_some(()))
    })
    .await?;
    let (hits, made) = (relay.target.requests().len() - hits, probes().await? - made);
    ensure!(hits as u64 <= made, "{made} probes, and {hits} requests");
    ensure!(
        relay.held().await? == (u32::try_from(EVENTS)?, 0),
        "no dead letter"
    );

    relay.target.behave(Behaviour::Fine);
    pass_a_minute(&relay).await?;
    until_it_is(&relay, "closed").await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    Ok(())
}
