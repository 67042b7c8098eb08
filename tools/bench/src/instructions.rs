//! Instructions of each program, counted by valgrind: figures that a busy machine does not move.
//!
//! A program is run three times, with no invocation, with one, and with many; INIT, the first
//! invocation and the later ones are the differences.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

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

/// Counts each of these programs.
pub(crate) async fn count(
    lab: &Lab,
    programs: &Programs,
    wanted: &[Program],
    figures: &mut Figures,
) -> Result<()> {
    for &program in wanted {
        eprintln!("counting the instructions of {}", program.name);
        let run = |invocations| run(lab, programs, program, invocations);
        let (init, first, all) = (run(0).await?, run(1).await?, run(1 + MANY).await?);
        figures.add(program.name, INIT, init);
        figures.add(program.name, FIRST, first - init);
        figures.add(program.name, LATER, (all - first) / f64::from(MANY));
    }
    Ok(())
}

/// The instructions of a process that answers so many invocations, and then is asked to end.
///
/// Under valgrind, a warm-up takes longer than a function has while an event waits, so it is
/// started as one that is ahead of them.
async fn run(lab: &Lab, programs: &Programs, program: Program, invocations: u32) -> Result<f64> {
    let mut launch = lab.launch(program, programs)?;
    launch.environment.insert(
        "AWS_LAMBDA_INITIALIZATION_TYPE".to_owned(),
        "provisioned-concurrency".to_owned(),
    );
    let log = lab.log(program);
    let counted = log.with_extension(format!("callgrind{invocations}"));
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
    let is_prepared = !fs::read_to_string(&log)?.contains("warm-up failed");
    ensure!(
        is_prepared,
        "{} was not ready in time: its first event does what belongs to INIT",
        program.name
    );
    for _ in 0..invocations {
        invoke(&mut process, program).await?;
    }
    process.has_asked(1 + invocations as usize).await?;
    process.stop().await?;
    total(&counted)
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
