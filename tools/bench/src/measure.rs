//! Each program, cold and warm: time, CPU, memory, log bytes.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use local::runtime_api::FunctionProcess;
use serde_json::Value;

use crate::figures::{Figures, quantile};
use crate::lab::{Lab, payload};
use crate::process::{self, cpu_micros, peak_megabytes};
use crate::programs::{Program, Programs};

pub(crate) const INIT: &str = "INIT ms";
pub(crate) const FIRST: &str = "first ms";
pub(crate) const COLD: &str = "cold ms";
pub(crate) const LATER: &str = "later ms";
pub(crate) const CPU: &str = "CPU µs";
pub(crate) const PEAK: &str = "peak MB";
pub(crate) const LOG: &str = "log bytes";
pub(crate) const ZIP: &str = "zip bytes";

/// Measures every program in every round: a cold start, the first invocation, a warm-up, and so
/// many invocations more. Of batches, which wait for the target, a tenth as many.
pub(crate) async fn measure(
    lab: &Lab,
    programs: &Programs,
    wanted: &[Program],
    rounds: u32,
    invocations: u32,
    figures: &mut Figures,
) -> Result<()> {
    for round in 1..=rounds {
        eprintln!("programs: round {round} of {rounds}");
        for &program in wanted {
            let count = invocations / if program.takes_batches { 10 } else { 1 };
            run(lab, programs, program, count, figures).await?;
        }
    }
    for &program in wanted.iter().filter(|it| it.python.is_none()) {
        figures.add(program.name, ZIP, programs.zipped(program.name)?);
    }
    Ok(())
}

async fn run(
    lab: &Lab,
    programs: &Programs,
    program: Program,
    invocations: u32,
    figures: &mut Figures,
) -> Result<()> {
    let mut process = process::start(lab.launch(program, programs)?).await?;
    let init = process.init().await?.as_secs_f64() * 1e3;
    let first = invoke(&mut process, program).await?;
    for _ in 0..invocations / 10 {
        invoke(&mut process, program).await?;
    }
    let logged = || anyhow::Ok(fs::metadata(lab.log(program)).context("no log")?.len());
    let (pid, log_before) = (process.pid(), logged()?);
    let cpu_before = cpu_micros(pid)?;
    let mut took = Vec::new();
    for _ in 0..invocations {
        took.push(invoke(&mut process, program).await?);
    }
    let cpu = cpu_micros(pid)? - cpu_before;
    let log = f64::from(u32::try_from(logged()? - log_before)?);
    for (figure, value) in [
        (INIT, init),
        (FIRST, first),
        (COLD, init + first),
        (LATER, quantile(&took, 0.5).context("no invocations")?),
        (CPU, cpu / f64::from(invocations)),
        (PEAK, peak_megabytes(pid)?),
        (LOG, log / f64::from(invocations)),
    ] {
        figures.add(program.name, figure, value);
    }
    Ok(())
}

/// Has the program take events, and gives the time in milliseconds.
pub(crate) async fn invoke(process: &mut FunctionProcess, program: Program) -> Result<f64> {
    let answer = process.invoke(payload(program).to_string()).await?;
    let (Ok(answered) | Err(answered)) = &answer.outcome;
    let text = String::from_utf8_lossy(answered);
    if answer.outcome.is_err() {
        bail!("{} failed: {text}", program.name);
    }
    let returned: Value = serde_json::from_slice(answered)?;
    let is_done = if program.takes_batches {
        returned["batchItemFailures"]
            .as_array()
            .is_none_or(Vec::is_empty)
    } else {
        returned["statusCode"] == 200
    };
    ensure!(is_done, "{} answered {text}", program.name);
    Ok(answer.took.as_secs_f64() * 1e3)
}
