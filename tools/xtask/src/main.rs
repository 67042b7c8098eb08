//! Checks and long runs of this repository: `cargo xtask --help`.

#![expect(
    clippy::print_stdout,
    reason = "a command-line tool reports on standard output"
)]

mod anchors;
mod docs;
mod mutants;
mod workspace;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::{cargo_test, root, run};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Checks and long runs of this repository."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check that CI runs, or only the steps named
    Ci {
        /// Steps of .ci/run
        steps: Vec<String>,
    },
    /// Check the links of all Markdown files, and that the generated pages are current
    Docs {
        /// Write the generated pages again: parameters, variables, metrics, alarms, actions
        #[arg(long)]
        write: bool,
    },
    /// Run the simulation: many seeds, or one with a log of all that happens
    Simulate {
        /// Number of seeds
        #[arg(long, conflicts_with = "seed", default_value_t = 10_000)]
        seeds: u64,
        /// Replay this seed only
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Break the relay on purpose, one mutant at a time, and see that the simulation notices
    Mutants(mutants::Options),
    /// Run the local AWS while everything fails at random, then count events
    Soak {
        /// Duration of the faults in seconds [default: 60]
        #[arg(long)]
        seconds: Option<u64>,
        /// Repeat the faults of this seed
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Invoke ingest and processor thousands of times and watch memory and open files
    Load {
        /// Invocations of each function [default: some thousands]
        #[arg(long)]
        invocations: Option<u64>,
    },
    /// Feed hostile input to every parser
    Fuzz {
        /// One target of tools/fuzz, with libFuzzer; without it, all targets with random inputs
        target: Option<String>,
        /// Duration with a target, in seconds
        #[arg(long, default_value_t = 60, requires = "target")]
        seconds: u64,
        /// Random inputs for each target, without a target [default: 250]
        #[arg(long, conflicts_with = "target")]
        inputs: Option<u64>,
        /// Seed of the random inputs, without a target
        #[arg(long, conflicts_with = "target")]
        seed: Option<u64>,
    },
    /// Find out what AWS does, in a throw-away account: see docs/develop/on-aws.md
    OnAws {
        /// Options of `tests/on_aws/run.py`; with --local, on the local AWS
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Take the pictures of docs/console again (needs Chromium and its driver)
    Pictures,
    /// Write tests/template/access.snap.txt again; review its diff
    Snapshots,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Ci { steps } => run(Command::new(root().join(".ci/run"))
            .args(steps)
            .current_dir(root())),
        Task::Docs { write } => {
            let mut command = cargo_test(&["--workspace", "--test", "template", "reference::"]);
            if write {
                command.env("GENESYS_RELAY_WRITE_DOCS", "1");
            }
            run(&mut command)?;
            docs::check_links()
        }
        Task::Simulate { seeds, seed } => {
            let mut command = cargo_test(&["--workspace", "--test", "simulation"]);
            if seed.is_some() {
                command.arg("no_event_is_lost_under_any_faults");
            }
            run(with_variables(
                &mut command,
                &[
                    ("GENESYS_RELAY_SEEDS", Some(seeds)),
                    ("GENESYS_RELAY_SEED", seed),
                ],
            ))
        }
        Task::Mutants(options) => mutants::run(&options),
        Task::Soak { seconds, seed } => {
            let mut command = cargo_test(&[
                "--workspace",
                "--test",
                "end_to_end",
                "soak::",
                "--",
                "--nocapture",
            ]);
            let variables = [
                ("GENESYS_RELAY_SOAK_SECONDS", seconds),
                ("GENESYS_RELAY_SOAK_SEED", seed),
            ];
            run(with_variables(&mut command, &variables))
        }
        Task::Load { invocations } => {
            let mut command = cargo_test(&[
                "--workspace",
                "--test",
                "sustained_load",
                "--",
                "--nocapture",
            ]);
            if invocations.is_some() {
                command.arg("holds_no_more");
            }
            run(with_variables(
                &mut command,
                &[("GENESYS_RELAY_LOAD_INVOCATIONS", invocations)],
            ))
        }
        Task::Fuzz {
            target: Some(target),
            seconds,
            ..
        } => fuzz(&target, seconds),
        Task::Fuzz {
            target: None,
            inputs,
            seed,
            ..
        } => {
            let mut command = cargo_test(&["--package", "fuzz", "--", "--nocapture"]);
            run(with_variables(
                &mut command,
                &[("FUZZ_INPUTS", inputs), ("FUZZ_SEED", seed)],
            ))
        }
        Task::OnAws { mut options } => {
            let count = options.len();
            options.retain(|option| option != "--local");
            if options.len() == count {
                let mut script = Command::new(root().join("tests/on_aws/run"));
                return Err(script.args(options).exec().into());
            }
            let mut command = cargo_test(&["--workspace", "--test", "end_to_end", "on_aws::"]);
            command.args(["--", "--nocapture"]);
            run(command.env("GENESYS_RELAY_ON_AWS", options.join(" ")))
        }
        Task::Pictures => {
            let mut command = cargo_test(&["--package", "console", "--test", "browser"]);
            run(command
                .env("GENESYS_RELAY_PICTURES", "1")
                .env("GENESYS_RELAY_BROWSER", "required"))
        }
        Task::Snapshots => {
            let mut command = cargo_test(&["--workspace", "--test", "template"]);
            run(command.env("GENESYS_RELAY_UPDATE_SNAPSHOTS", "1"))
        }
    }
}

/// Sets the variables that have a value.
fn with_variables<'a>(
    command: &'a mut Command,
    variables: &[(&str, Option<u64>)],
) -> &'a mut Command {
    for (name, value) in variables {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    command
}

/// Runs one target with libFuzzer, guided by coverage. Findings go to `target/found/TARGET`.
fn fuzz(target: &str, seconds: u64) -> Result<()> {
    let (found, corpus) = (
        root().join("target/found").join(target),
        root().join("tools/fuzz/corpus").join(target),
    );
    std::fs::create_dir_all(&found)?;
    let mut command = workspace::cargo(&["run", "--locked", "--package", "fuzz", "--"]);
    command.env("FUZZ_TARGET", target).env(
        "RUSTC_WORKSPACE_WRAPPER",
        root().join("tools/fuzz/instrumented-rustc"),
    );
    command
        .args([&found, &corpus])
        .arg(format!("-max_total_time={seconds}"));
    run(command.args(["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536"]))
}
