//! Guards that CI runs: what a machine's noise does not move stays within a twentieth of what was
//! recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use local::workspace::Workspace;
use serde::{Deserialize, Serialize};

use crate::figures::{Figures, number};
use crate::instructions;
use crate::lab::Lab;
use crate::programs::{FLOOR, INGEST, PROCESSOR, Program, Programs};
use crate::report::compiler;

/// The programs that are guarded.
pub(crate) const PROGRAMS: [Program; 3] = [INGEST, PROCESSOR, FLOOR];

/// Largest difference from the recorded figure, in either direction: an improvement must be
/// recorded too.
const TOLERANCE: f64 = 0.05;

/// The same with another compiler than the one that made what was recorded: its code differs.
const TOLERANCE_OF_ANOTHER: f64 = 0.15;

/// Bounds that hold whatever was recorded.
const MUST: [(&str, f64); 2] = [
    ("ingest: instructions of the first event", 0.85e6),
    ("ingest: bytes of the zip", 2.7e6),
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
pub(crate) async fn check(workspace: &Workspace, lab: &Lab, programs: &Programs) -> Result<()> {
    let file = file(workspace);
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let recorded: Recorded =
        serde_json::from_str(&text).with_context(|| format!("{} is unreadable", file.display()))?;
    let counted = count(lab, programs).await?;
    for (name, value) in &counted.figures {
        let before = recorded.figures.get(name).copied();
        let change = before.map_or(f64::NAN, |before| (value / before - 1.0) * 100.0);
        eprintln!("{name}: {} ({change:+.1} %)", number(*value));
    }
    let problems = problems(&recorded, &counted);
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\nIf that is meant, record it: cargo bench-all record",
        problems.join("\n")
    )
}

/// Counts, and writes down what is counted from now on.
pub(crate) async fn record(workspace: &Workspace, lab: &Lab, programs: &Programs) -> Result<()> {
    let text = serde_json::to_string_pretty(&count(lab, programs).await?)?;
    fs::write(file(workspace), text + "\n").context("cannot write what was counted")
}

fn file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tools/bench/recorded.json")
}

async fn count(lab: &Lab, programs: &Programs) -> Result<Recorded> {
    let mut counted = Figures::default();
    instructions::count(lab, programs, &PROGRAMS, &mut counted).await?;
    let mut figures = BTreeMap::new();
    for Program {
        name: program,
        takes_batches,
        ..
    } in PROGRAMS
    {
        let (first, later) = if takes_batches {
            ("the first batch", "a batch")
        } else {
            ("the first event", "an event")
        };
        for (figure, name) in [
            (instructions::INIT, "INIT"),
            (instructions::FIRST, first),
            (instructions::LATER, later),
        ] {
            let count = counted.median(program, figure);
            let count = count.context("nothing was counted")?.round();
            figures.insert(format!("{program}: instructions of {name}"), count);
        }
        let bytes = programs.zipped(program)?;
        figures.insert(format!("{program}: bytes of the zip"), bytes);
    }
    let compiler = compiler()?;
    Ok(Recorded { compiler, figures })
}

/// Figures outside their bounds, one line each.
fn problems(recorded: &Recorded, counted: &Recorded) -> Vec<String> {
    let tolerance = if recorded.compiler == counted.compiler {
        TOLERANCE
    } else {
        TOLERANCE_OF_ANOTHER
    };
    let mut problems = Vec::new();
    for (name, value) in &counted.figures {
        match recorded.figures.get(name) {
            None => problems.push(format!("{name} is not recorded")),
            Some(before) if (value / before - 1.0).abs() > tolerance => {
                let (is, was) = (number(*value), number(*before));
                problems.push(format!("{name}: {is} in place of {was}"));
            }
            Some(_) => {}
        }
    }
    for (name, bound) in MUST {
        if counted.figures.get(name).is_none_or(|value| *value > bound) {
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

    fn recorded(compiler: &str, first: f64, zip: f64) -> Recorded {
        let figures = [(MUST[0].0, first), (MUST[1].0, zip)];
        Recorded {
            compiler: compiler.to_owned(),
            figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    #[test]
    fn a_twentieth_is_noise_and_more_a_problem_in_both_directions() {
        let before = recorded("1", 700_000.0, 2_600_000.0);
        let problems = |first, zip| problems(&before, &recorded("1", first, zip)).len();
        assert_eq!(problems(734_000.0, 2_600_000.0), 0);
        assert_eq!(problems(736_000.0, 2_600_000.0), 1);
        assert_eq!(problems(664_000.0, 2_400_000.0), 2);
    }

    #[test]
    fn another_compiler_may_differ_more_but_the_bounds_hold() {
        let before = recorded("1", 800_000.0, 2_600_000.0);
        let problems = |first, zip| problems(&before, &recorded("2", first, zip)).len();
        assert_eq!(problems(700_000.0, 2_600_000.0), 0);
        assert_eq!(problems(851_000.0, 2_701_000.0), 2);
    }

    #[test]
    fn a_figure_that_was_never_recorded_is_a_problem() {
        let nothing = Recorded {
            compiler: "1".to_owned(),
            figures: BTreeMap::new(),
        };
        assert_eq!(problems(&nothing, &recorded("1", 1.0, 1.0)).len(), 2);
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
