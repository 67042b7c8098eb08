//! Guards that CI runs: what a machine's noise does not move stays within a twentieth of what was
//! recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use local::workspace::Workspace;
use serde::{Deserialize, Serialize};

use crate::figures::number;
use crate::instructions;
use crate::lab::Lab;
use crate::programs::{Function, Programs};

/// Largest difference from the recorded figure, in either direction: an improvement must be
/// recorded too.
const TOLERANCE: f64 = 0.05;

/// The same with another compiler than the one that made what was recorded: its code differs.
const TOLERANCE_OF_ANOTHER: f64 = 0.15;

/// Bounds that hold whatever was recorded.
const MUST: [(&str, f64); 2] = [
    ("ingest: instructions of the first event", 1.0e6),
    ("ingest: bytes of the zip", 3.0e6),
];

/// `tools/bench/recorded.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// `rustc --version`: another compiler makes other code.
    compiler: String,
    figures: BTreeMap<String, f64>,
}

/// Counts, and compares with what was recorded.
///
/// # Errors
/// When a figure is outside its bounds, with all that are.
pub(crate) async fn check(
    workspace: &Workspace,
    lab: &Lab,
    programs: &Programs,
    compiler: &str,
) -> Result<()> {
    let file = file(workspace);
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let recorded: Recorded =
        serde_json::from_str(&text).with_context(|| format!("{} is unreadable", file.display()))?;
    let counted = count(lab, programs).await?;
    if recorded.compiler != compiler {
        eprintln!(
            "Recorded with {}, and this is {compiler}: more may differ.",
            recorded.compiler
        );
    }
    let problems = problems(&recorded, &counted, compiler);
    for (name, value) in &counted {
        let before = recorded.figures.get(name).copied();
        let change = before.map_or_else(
            || "not recorded".to_owned(),
            |before| format!("{:+.1} %", (value / before - 1.0) * 100.0),
        );
        eprintln!("{name}: {} ({change})", number(*value));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\nIf that is meant, record it: cargo bench-all record",
        problems.join("\n")
    )
}

/// Counts, and writes down what is counted from now on.
pub(crate) async fn record(
    workspace: &Workspace,
    lab: &Lab,
    programs: &Programs,
    compiler: &str,
) -> Result<()> {
    let recorded = Recorded {
        compiler: compiler.to_owned(),
        figures: count(lab, programs).await?,
    };
    fs::write(
        file(workspace),
        serde_json::to_string_pretty(&recorded)? + "\n",
    )
    .context("cannot write what was counted")
}

fn file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tools/bench/recorded.json")
}

async fn count(lab: &Lab, programs: &Programs) -> Result<BTreeMap<String, f64>> {
    let functions = [Function::Relay("ingest"), Function::Floor];
    let counted = instructions::count(lab, programs, &functions).await?;
    let mut figures = BTreeMap::new();
    for function in functions.map(Function::name) {
        for (figure, name) in [
            (instructions::INIT, "instructions of INIT"),
            (instructions::FIRST, "instructions of the first event"),
            (instructions::STEADY, "instructions of an event"),
        ] {
            let count = counted
                .median(function, figure)
                .context("nothing was counted")?;
            figures.insert(format!("{function}: {name}"), count.round());
        }
        let bytes = u32::try_from(programs.zipped(function)?)?;
        figures.insert(format!("{function}: bytes of the zip"), f64::from(bytes));
    }
    Ok(figures)
}

/// Figures outside their bounds, one line each.
fn problems(recorded: &Recorded, counted: &BTreeMap<String, f64>, compiler: &str) -> Vec<String> {
    let tolerance = if recorded.compiler == compiler {
        TOLERANCE
    } else {
        TOLERANCE_OF_ANOTHER
    };
    let mut problems = Vec::new();
    for (name, value) in counted {
        let Some(before) = recorded.figures.get(name) else {
            problems.push(format!("{name} is not recorded"));
            continue;
        };
        let change = value / before - 1.0;
        if change.abs() > tolerance {
            problems.push(format!(
                "{name}: {} in place of {}, {:+.1} %",
                number(*value),
                number(*before),
                change * 100.0
            ));
        }
    }
    for (name, bound) in MUST {
        if counted.get(name).is_none_or(|value| *value > bound) {
            problems.push(format!("{name} must not exceed {}", number(bound)));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Arguments;

    fn figures(first: f64, zip: f64) -> BTreeMap<String, f64> {
        BTreeMap::from([(MUST[0].0.to_owned(), first), (MUST[1].0.to_owned(), zip)])
    }

    #[test]
    fn a_twentieth_is_noise_and_more_is_a_problem_in_both_directions() {
        let recorded = Recorded {
            compiler: "rustc 1".to_owned(),
            figures: figures(700_000.0, 2_900_000.0),
        };
        let problems = |first, zip| problems(&recorded, &figures(first, zip), "rustc 1");
        assert_eq!(problems(734_000.0, 2_900_000.0), Vec::<String>::new());
        assert_eq!(problems(736_000.0, 2_900_000.0).len(), 1);
        assert_eq!(problems(664_000.0, 2_700_000.0).len(), 2);
    }

    #[test]
    fn with_another_compiler_more_may_differ_but_what_must_hold_holds() {
        let recorded = Recorded {
            compiler: "rustc 1".to_owned(),
            figures: figures(900_000.0, 2_900_000.0),
        };
        assert_eq!(
            problems(&recorded, &figures(800_000.0, 2_900_000.0), "rustc 2"),
            Vec::<String>::new()
        );
        assert_eq!(
            problems(&recorded, &figures(1_001_000.0, 3_100_000.0), "rustc 2").len(),
            2
        );
    }

    #[test]
    fn a_figure_that_was_never_recorded_is_a_problem() {
        let recorded = Recorded {
            compiler: "rustc 1".to_owned(),
            figures: BTreeMap::new(),
        };
        assert_eq!(problems(&recorded, &figures(1.0, 1.0), "rustc 1").len(), 2);
    }

    /// Guard that CI runs as a test, so that it is compiled with the others.
    #[tokio::test]
    #[ignore = "takes minutes, and valgrind"]
    async fn what_was_recorded_still_holds() {
        crate::run(Arguments::parse_from(["bench", "guards"]))
            .await
            .unwrap_or_else(|error| panic!("{error:#}"));
    }
}
