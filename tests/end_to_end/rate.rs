//! `TargetRatePerSecond`: no second has more requests than the rate, whatever is sent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use genesys_relay::ports::events_table::EventsTable as _;
use local::stack::Function;
use local::target::{Answer, Behaviour, ReceivedRequest};
use local::wait;
use serde_json::json;

use crate::breaker::{pass_a_minute, run};
use crate::relay::{RETRIES, Relay, name_of, webhook};

/// Of ten events two are refused for good at their first attempt, and two fail once.
fn mixed(request: &ReceivedRequest) -> Answer {
    match (name_of(&request.body).parse::<u32>(), request.nth) {
        (Ok(number), 1) if number.is_multiple_of(5) => Answer::status(404),
        (Ok(number), 1) if number % 5 == 1 => Answer::status(503),
        _ => Answer::status(200),
    }
}

async fn no_second_has_more(concurrency: u32, rate: u32) -> Result<()> {
    let numbers = [concurrency, rate].map(|number| number.to_string());
    let parameters = [
        RETRIES[0],
        RETRIES[1],
        ("MaximumConcurrency", &*numbers[0]),
        ("TargetRatePerSecond", &*numbers[1]),
    ];
    let relay = Relay::start(Behaviour::script(mixed), &parameters).await?;
    // All of them are there before the first is sent.
    relay.set_delivering(false).await?;
    let webhooks = (0..10 * rate).map(|number| webhook(&number.to_string()));
    let ids = relay.accept_all(webhooks).await?;
    relay.set_delivering(true).await?;
    relay.until_all_dead(ids.len() / 5).await?;
    let dead: Vec<_> = ids.iter().step_by(5).collect();
    let request = json!({ "action": "replay", "eventIds": dead });
    relay.replay(request).await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    let rate = rate as usize;
    let seconds = relay.target.requests_by_second();
    let sent: usize = seconds.values().sum();
    ensure!(sent == ids.len() + 2 * (ids.len() / 5), "{sent} requests");
    let most = seconds.values().max().copied().unwrap_or_default();
    ensure!(most <= rate, "{most} sent in a second: {seconds:?}");
    // By the target's clock. What was sent in time can arrive late and together, here too: the
    // strict bound is on sending.
    let within = |seconds| relay.target.most_within(Duration::from_secs(seconds));
    let (one, ten, bound) = (within(1), within(10), 11 * rate);
    ensure!(bound < sent, "as many as could break the bound");
    ensure!(ten <= bound, "{ten} came in ten seconds, {one} in one");
    Ok(())
}

#[tokio::test]
async fn no_second_has_more_than_the_rate_at_two_invocations() -> Result<()> {
    Box::pin(no_second_has_more(2, 8)).await
}

#[tokio::test]
async fn no_second_has_more_than_the_rate_at_ten_invocations() -> Result<()> {
    Box::pin(no_second_has_more(10, 20)).await
}

/// The breaker is opened while both invocations send, and probes as soon as it may.
#[tokio::test]
async fn no_second_has_more_than_the_rate_with_a_probe() -> Result<()> {
    let rate = 4;
    let bound = rate.to_string();
    let parameters = [
        RETRIES[0],
        RETRIES[1],
        ("Breaker", "on"),
        ("MaximumConcurrency", "2"),
        ("ProcessorTimeoutSeconds", "10"),
        ("TargetRatePerSecond", &*bound),
    ];
    let relay = Relay::start(Behaviour::Fine, &parameters).await?;
    let send = async |numbers: std::ops::Range<u32>| {
        let webhooks = numbers.map(|number| webhook(&number.to_string()));
        relay.accept_all(webhooks).await
    };
    let mut ids = send(0..40).await?;
    let open = json!({ "action": "open" });
    relay.until_free(Function::Breaker, &open).await?;
    // As if it had opened by itself.
    let mut circuit = relay.table()?.circuit().await?.context("a circuit")?;
    circuit.forced = false;
    relay.table()?.save_circuit(&circuit).await?;
    relay.until_not_delivering().await?;
    let disabled = Instant::now();
    ids.extend(send(40..50).await?);
    wait::until("a probe is accepted", || async {
        pass_a_minute(&relay).await?;
        Ok((run(&relay).await?["state"] == "closing").then_some(()))
    })
    .await?;
    let (waited, longest) = (disabled.elapsed(), Duration::from_secs(10));
    ensure!(waited > longest, "a probe after {waited:?}");
    relay.until_empty().await?;
    relay.assert_delivered_once(&ids);
    let seconds = relay.target.requests_by_second();
    let most = seconds.values().max().copied().unwrap_or_default();
    ensure!(most <= rate, "{most} sent in a second: {seconds:?}");
    Ok(())
}
