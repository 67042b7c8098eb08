//! ingest, cold and warm, beside its peers: the floor, and the same work in Python.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::figures::Figures;
use crate::lab::{Lab, webhook};
use crate::process::{self, Quota, cpu_micros, peak_megabytes};
use crate::programs::{Function, Programs};

/// Those that are measured, in turn.
pub(crate) const PROGRAMS: [Function; 4] = [
    Function::Relay("ingest"),
    Function::Floor,
    Function::Python("ingest"),
    Function::Python("floor"),
];

pub(crate) const INIT: &str = "INIT ms";
pub(crate) const FIRST: &str = "first ms";
pub(crate) const COLD: &str = "cold ms";
pub(crate) const FIRST_AT_128: &str = "first at 128 MB ms";
pub(crate) const STEADY: &str = "steady µs";
pub(crate) const STEADY_CPU: &str = "CPU µs";
pub(crate) const PEAK: &str = "peak MB";
pub(crate) const LOG: &str = "log bytes";

/// All of them, in the order of the table.
pub(crate) const FIGURES: [&str; 8] = [
    INIT,
    FIRST,
    COLD,
    FIRST_AT_128,
    STEADY,
    STEADY_CPU,
    PEAK,
    LOG,
];

/// A function that gets little memory gets little CPU.
const SMALL: u32 = 128;

/// Number of measurements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds, each with a cold start of every program.
    pub(crate) rounds: usize,
    /// Invocations in each round whose time is taken, after a tenth as many that warm up.
    pub(crate) invocations: usize,
}

/// Measures every program in every round.
pub(crate) async fn measure(
    lab: &Lab,
    programs: &Programs,
    functions: &[Function],
    effort: Effort,
) -> Result<Figures> {
    let mut figures = Figures::default();
    let quota = Quota::of_memory(SMALL);
    if quota.is_none() {
        eprintln!(
            "No limit of CPU can be set here (it needs a writable cgroup): no figures at {SMALL} MB."
        );
    }
    for round in 1..=effort.rounds {
        eprintln!("ingest and its peers: round {round} of {}", effort.rounds);
        for &function in functions {
            warm(lab, programs, function, effort, &mut figures).await?;
            if let Some(quota) = &quota {
                cold_and_small(lab, programs, function, quota, &mut figures).await?;
            }
        }
    }
    Ok(figures)
}

async fn warm(
    lab: &Lab,
    programs: &Programs,
    function: Function,
    Effort { invocations, .. }: Effort,
    figures: &mut Figures,
) -> Result<()> {
    let mut add = |figure, value| figures.add(function.name(), figure, value);
    let mut process =
        process::start(lab.launch(function, programs, "http://127.0.0.1:9/")?).await?;
    let init = process.init().await?.as_secs_f64() * 1e3;
    let mut number = fastrand::usize(..);
    let mut invoke = async |process: &mut local::runtime_api::Function| {
        number = number.wrapping_add(1);
        let answer = process.invoke(webhook(number).to_string()).await?;
        let returned: Value = serde_json::from_slice(&answer.outcome.map_err(|error| {
            anyhow::anyhow!(
                "{} reports: {}",
                function.name(),
                String::from_utf8_lossy(&error)
            )
        })?)?;
        ensure!(
            returned["statusCode"] == 200,
            "{} answers {returned}",
            function.name()
        );
        Ok(answer.took.as_secs_f64())
    };
    let first = invoke(&mut process).await? * 1e3;
    for _ in 0..invocations / 10 {
        invoke(&mut process).await?;
    }
    let logged = || anyhow::Ok(fs::metadata(lab.log(function)).context("no log")?.len());
    let (pid, log_before) = (process.pid(), logged()?);
    let cpu_before = cpu_micros(pid)?;
    let mut took = Vec::with_capacity(invocations);
    for _ in 0..invocations {
        took.push(invoke(&mut process).await? * 1e6);
    }
    let count = f64::from(u32::try_from(invocations)?);
    add(INIT, init);
    add(FIRST, first);
    add(COLD, init + first);
    add(
        STEADY,
        took.into_iter()
            .collect::<crate::figures::Samples>()
            .quantile(0.5)
            .context("no invocations")?,
    );
    add(STEADY_CPU, (cpu_micros(pid)? - cpu_before) / count);
    add(PEAK, peak_megabytes(pid)?);
    add(
        LOG,
        f64::from(u32::try_from(logged()? - log_before)?) / count,
    );
    Ok(())
}

/// INIT runs with more CPU than a small function has ("Lambda execution environment lifecycle");
/// from then on it has its own.
async fn cold_and_small(
    lab: &Lab,
    programs: &Programs,
    function: Function,
    quota: &Quota,
    figures: &mut Figures,
) -> Result<()> {
    let mut process =
        process::start(lab.launch(function, programs, "http://127.0.0.1:9/")?).await?;
    process.init().await?;
    quota.limit(process.pid())?;
    let answer = process
        .invoke(webhook(fastrand::usize(..)).to_string())
        .await?;
    figures.add(
        function.name(),
        FIRST_AT_128,
        answer.took.as_secs_f64() * 1e3,
    );
    Ok(())
}
