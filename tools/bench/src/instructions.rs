//! Instructions of ingest, its peers and the processor, counted by valgrind: figures that a busy
//! machine does not move.
//!
//! A function is run three times, with no invocation, with one, and with many; INIT, the first
//! invocation and the steady ones are the differences.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use local::runtime_api::Function as Process;
use serde_json::{Value, json};

use crate::figures::Figures;
use crate::lab::{Lab, webhook};
use crate::processor::{self, Target};
use crate::programs::{Function, Programs};

pub(crate) const INIT: &str = "INIT";
pub(crate) const FIRST: &str = "first";
pub(crate) const STEADY: &str = "steady";

/// All of them, in the order of the table.
pub(crate) const FIGURES: [&str; 3] = [INIT, FIRST, STEADY];

/// Invocations after the first, of which the mean is taken.
const MANY: u32 = 50;

/// Counts each of these programs.
pub(crate) async fn count(
    lab: &Lab,
    programs: &Programs,
    functions: &[Function],
) -> Result<Figures> {
    let mut figures = Figures::default();
    let target = Target::start(lab).await?;
    for &function in functions {
        eprintln!("counting the instructions of {}", function.name());
        let run = |invocations| run(lab, programs, function, &target, invocations);
        let (init, first, all) = (run(0).await?, run(1).await?, run(1 + MANY).await?);
        figures.add(function.name(), INIT, init);
        figures.add(function.name(), FIRST, first - init);
        figures.add(function.name(), STEADY, (all - first) / f64::from(MANY));
    }
    Ok(figures)
}

/// The instructions of a process that answers so many invocations, and then is asked to end.
///
/// Under valgrind, a warm-up takes longer than a function has while an event waits, so it is
/// started as one that is ahead of them.
async fn run(
    lab: &Lab,
    programs: &Programs,
    function: Function,
    target: &Target,
    invocations: u32,
) -> Result<f64> {
    let mut launch = lab.launch(function, programs, &target.url())?;
    launch.environment.insert(
        "AWS_LAMBDA_INITIALIZATION_TYPE".to_owned(),
        "provisioned-concurrency".to_owned(),
    );
    let counted = lab
        .log(function)
        .with_extension(format!("callgrind{invocations}"));
    let valgrind: [OsString; 3] = [
        "--tool=callgrind".into(),
        "--quiet".into(),
        format!("--callgrind-out-file={}", counted.display()).into(),
    ];
    let program = launch.binary.into_os_string();
    launch.arguments = valgrind
        .into_iter()
        .chain([program])
        .chain(launch.arguments)
        .collect();
    launch.binary = "/usr/bin/valgrind".into();
    let mut process = Process::start(launch).await.context(
        "Instructions are counted with valgrind (on Debian and Ubuntu: apt install valgrind)",
    )?;
    process.init().await?;
    let is_prepared =
        !fs::read_to_string(lab.log(function))?.contains("the first event will have to wait");
    ensure!(
        is_prepared,
        "{} was not ready in time: its first event does what belongs to INIT",
        function.name()
    );
    for number in 0..invocations {
        let answer = process
            .invoke(payload(function, number).to_string())
            .await?;
        ensure!(
            answer.outcome.is_ok(),
            "{} fails under valgrind",
            function.name()
        );
    }
    process.has_asked(1 + invocations as usize).await?;
    process.stop().await?;
    total(&counted)
}

/// A webhook, or a batch of ten for the processor.
fn payload(function: Function, number: u32) -> Value {
    match function {
        Function::Relay("processor") => {
            let records = [(); 10].map(|()| processor::record(false));
            json!({ "Records": records })
        }
        _ => webhook(number as usize),
    }
}

/// The sum of a callgrind file ("Callgrind Format Specification": `summary:`, or `totals:`).
fn total(file: &Path) -> Result<f64> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("valgrind wrote no {}", file.display()))?;
    let sum = text.lines().rev().find_map(|line| {
        line.strip_prefix("totals: ")
            .or(line.strip_prefix("summary: "))
    });
    sum.context("valgrind counted nothing")?
        .trim()
        .parse()
        .context("what valgrind counted is no number")
}
