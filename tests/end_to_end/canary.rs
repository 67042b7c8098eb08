//! The canary: green over a target that refuses everything, and red with the name of what fails.

use anyhow::{Context as _, Result, ensure};
use local::stack::Function;
use serde_json::{Value, json};

use crate::relay::{REFUSED, Relay};

/// The schedule of the stack is stopped: runs are invoked by hand.
const PARAMETERS: [(&str, &str); 1] = [("CanaryMinutes", "60")];

/// One run: the names of the checks that are not ok, with their evidence.
async fn run(relay: &Relay) -> Result<Vec<(String, String)>> {
    let answer = relay.stack.invoke(Function::Canary, &json!({})).await??;
    let checks = answer["checks"].as_array().context("checks")?;
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let not_ok = checks.iter().filter(|check| check["outcome"] == "failed");
    Ok(not_ok
        .map(|check| (text(check, "name"), text(check, "evidence")))
        .collect())
}

/// The newest run, as `status` shows it.
async fn newest(relay: &Relay) -> Result<Value> {
    let request = json!({ "action": "status" });
    let status = relay.stack.invoke(Function::Look, &request).await??;
    let runs = status["canary"]["runs"].as_array().context("runs")?;
    runs.last().cloned().context("a run")
}

#[tokio::test]
async fn canary_is_green_until_the_mapping_is_disabled() -> Result<()> {
    let relay = Relay::start(REFUSED, &PARAMETERS).await?;
    let failed = run(&relay).await?;
    ensure!(failed.is_empty(), "{failed:?}");
    let green = newest(&relay).await?;
    ensure!(green["ok"] == true && green["failed"].is_null(), "{green}");
    ensure!(
        relay.target.requests().is_empty(),
        "the target is not asked"
    );
    let items = relay.items().await?;
    let left: Vec<_> = items
        .keys()
        .filter(|key| key.starts_with("check-"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(relay.held().await? == (0, 0), "nothing is in a queue");

    // Each permission that a run needs is named by the step that fails without it.
    let role = relay.stack.role("CanaryRole").await?;
    role.take_away("lambda:InvokeFunction").await?;
    let failed = run(&relay).await?;
    ensure!(
        failed.len() == 1 && failed[0].0 == "look function answers",
        "{failed:?}"
    );
    role.restore().await?;

    relay.set_delivering(false).await?;
    relay.until_not_delivering().await?;
    let failed = run(&relay).await?;
    ensure!(
        failed.len() == 1 && failed[0].0 == "event is delivered",
        "{failed:?}"
    );
    let red = newest(&relay).await?;
    ensure!(red["ok"] == false, "{red}");
    let why = red["failed"].as_str().context("a reason")?;
    ensure!(why.contains("no worker has claimed it"), "{why}");

    // The event of the red run is delivered late, without the target.
    relay.set_delivering(true).await?;
    relay.until_empty().await?;
    let failed = run(&relay).await?;
    ensure!(failed.is_empty(), "{failed:?}");
    ensure!(
        relay.target.requests().is_empty(),
        "the target is not asked"
    );
    Ok(())
}
