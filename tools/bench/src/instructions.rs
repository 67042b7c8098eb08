//! Instructions of each program, counted by valgrind: figures that a busy machine does not move.
//!
//! A program is run three times, with no invocation, with one, and with many; INIT, the first
//! invocation and the later ones are the differences.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use local::runtime_api::FunctionProcess;

use crate::figures::Figures;
use crate::lab::Lab;
use crate::measure::invoke;
use crate::process;
use crate::programs::{Program, Programs};

pub(crate) const INIT: &str = "instructions of INIT";
pub(crate) const FIRST: &str = "of the first event";
pub(crate) const LATER: &str = "of a later event";

/// Invocations after the first, of which the mean is taken.
const MANY: u32 = 50;

/// Runs of a program in Rust, of which the least counts: on a busy machine a call is retried, or a
/// connection is opened again.
const RUNS: u32 = 3;

/// Starts of a program that does not get warm in time.
const STARTS: u32 = 8;

/// Counts each of these programs.
pub(crate) async fn count(
    lab: &Lab,
    programs: &Programs,
    wanted: &[Program],
    figures: &mut Figures,
) -> Result<()> {
    for &program in wanted {
        eprintln!("counting the instructions of {}", program.name);
        let least = async |invocations| {
            let mut least = f64::INFINITY;
            for _ in 0..if program.python.is_some() { 1 } else { RUNS } {
                least = least.min(run(lab, programs, program, invocations).await?);
            }
            anyhow::Ok(least)
        };
        let (init, first, all) = (least(0).await?, least(1).await?, least(1 + MANY).await?);
        figures.add(program.name, INIT, init);
        figures.add(program.name, FIRST, first - init);
        figures.add(program.name, LATER, (all - first) / f64::from(MANY));
    }
    Ok(())
}

/// The instructions of a process that answers so many invocations, and then is asked to end.
async fn run(lab: &Lab, programs: &Programs, program: Program, invocations: u32) -> Result<f64> {
    let log = lab.log(program);
    let counted = log.with_extension(format!("callgrind{invocations}"));
    let mut process = start(lab, programs, program, &counted).await?;
    for _ in 0..invocations {
        invoke(&mut process, program).await?;
    }
    process.has_asked(1 + invocations as usize).await?;
    process.stop().await?;
    total(&counted)
}

/// Starts a program under valgrind, and waits until it is warm. On a busy machine its calls time
/// out, and its first event would do what belongs to INIT; then it is started again.
///
/// A warm-up takes longer there than a function has while an event waits, so it is started as one
/// that is ahead of them.
async fn start(
    lab: &Lab,
    programs: &Programs,
    program: Program,
    counted: &Path,
) -> Result<FunctionProcess> {
    for _ in 0..STARTS {
        let mut launch = lab.launch(program, programs)?;
        launch.environment.insert(
            "AWS_LAMBDA_INITIALIZATION_TYPE".to_owned(),
            "provisioned-concurrency".to_owned(),
        );
        let valgrind: [OsString; 3] = [
            "--tool=callgrind".into(),
            "--quiet".into(),
            format!("--callgrind-out-file={}", counted.display()).into(),
        ];
        let arguments = valgrind.into_iter().chain([launch.binary.into_os_string()]);
        launch.arguments = arguments.chain(launch.arguments).collect();
        launch.binary = "/usr/bin/valgrind".into();
        let mut process = process::start(launch).await.context(
            "Instructions are counted with valgrind (on Debian and Ubuntu: apt install valgrind)",
        )?;
        process.init().await?;
        if !fs::read_to_string(lab.log(program))?.contains("warm-up failed") {
            return Ok(process);
        }
        process.stop().await?;
    }
    bail!("{} was not warm in {STARTS} starts", program.name)
}

/// The sum of a callgrind file ("Callgrind Format Specification": `summary:`, or `totals:`).
fn total(file: &Path) -> Result<f64> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("valgrind wrote no {}", file.display()))?;
    let sum = text.lines().rev().find_map(|line| {
        line.strip_prefix("totals: ")
            .or(line.strip_prefix("summary: "))
    });
    let sum = sum.context("valgrind counted nothing")?.trim();
    sum.parse().context("what valgrind counted is no number")
}
