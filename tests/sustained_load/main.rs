//! The binaries of ingest and processor at their start, under sustained load and at overload, each
//! behind a Runtime API of its own.
//!
//! `cargo xtask load --invocations N` sets the number of invocations of each.

mod cold_start;
mod deliveries;
mod footprint;
mod overload;
mod target;
mod webhooks;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use local::runtime_api::{FunctionProcess, InvocationAnswer, Launch};
use local::stand_in::StandIn;
use local::workspace::Workspace;
use serde_json::Value;

/// By its names in the template, `IngestFunction`.
const INGEST_TIME: Duration = Duration::from_secs(9);

/// `ProcessorTimeoutSeconds`.
const PROCESSOR_TIME: Duration = Duration::from_mins(1);

/// A target that nothing is ever sent to.
const NOWHERE: &str = "http://127.0.0.1:9/";

/// Number of invocations of a function.
fn invocations(default: usize) -> Result<usize> {
    match std::env::var("GENESYS_RELAY_LOAD_INVOCATIONS") {
        Ok(number) => number
            .parse()
            .context("GENESYS_RELAY_LOAD_INVOCATIONS is not a number"),
        Err(_) => Ok(default),
    }
}

/// Starts a function of the relay over the stand-ins, with the template's defaults.
async fn start(
    name: &str,
    stand_in: &StandIn,
    target_url: &str,
    time_limit: Duration,
) -> Result<FunctionProcess> {
    let binaries = local::functions::binaries(&Workspace::locate().await?).await?;
    FunctionProcess::start(Launch {
        name: name.to_owned(),
        arguments: Vec::new(),
        binary: binaries
            .get(name)
            .with_context(|| format!("there is no function {name}"))?
            .clone(),
        environment: StandIn::variables_of_functions(&stand_in.url(), target_url)
            .chain(stand_in.environment())
            .chain(footprint::steady_allocator())
            .collect::<BTreeMap<_, _>>(),
        time_limit,
        log: None,
    })
    .await
}

/// Answer or reported error of a function, as JSON.
fn returned(answer: InvocationAnswer) -> Result<Value> {
    let returned = answer
        .outcome
        .map_err(|error| anyhow::anyhow!("{}", String::from_utf8_lossy(&error)))?;
    serde_json::from_slice(&returned).context("the answer is not JSON")
}
