//! `cargo bench-all`: what the relay costs in time, CPU, memory and money, beside its peers, all in
//! one run.

mod chart;
mod cost;
mod figures;
mod guards;
mod https;
mod ingest;
mod instructions;
mod journey;
mod lab;
mod process;
mod processor;
mod programs;
mod replay;
mod report;
mod results;
mod scale;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use local::workspace::Workspace;

use crate::ingest::Effort;
use crate::lab::Lab;
use crate::programs::{FUNCTIONS, Function, Programs};
use crate::results::Results;

/// Measures the relay beside its peers, and writes tools/bench/results.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo bench-all",
    version,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Measures only this, and prints it in place of writing; may be repeated
    #[arg(long)]
    only: Vec<Part>,
    /// Another build of ingest to measure beside, as NAME=PATH; printed in place of written; may be
    /// repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = other_build)]
    against: Vec<(String, PathBuf)>,
    /// Milliseconds that SQS, DynamoDB and Secrets Manager take for an answer; printed in place of
    /// written
    #[arg(long, value_name = "MS", default_value_t = 0)]
    service_latency: u64,
    /// A few rounds, printed in place of written: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares instructions and sizes with those that were recorded: what CI does
    Guards,
    /// Records them
    Record,
    /// Prints what a million events cost
    Cost,
    /// Prints what happens at 10, 1,000 and 50,000 events a second
    Scale,
}

impl Arguments {
    /// True where the results differ from the standard run.
    fn changes_the_results(&self) -> bool {
        self.quick || self.service_latency > 0 || !self.only.is_empty() || !self.against.is_empty()
    }
}

/// Parts that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// ingest, cold and warm
    Ingest,
    /// The instructions of ingest and of the processor
    Instructions,
    /// The processor with batches of all sizes
    Processor,
    /// Dead letters per second
    Replay,
    /// From the webhook to the target, on the local AWS
    Journey,
}

fn other_build(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
    Ok((name.into(), path.into()))
}

// One thread: which core starts a process is then ours to say, and the other one is left alone.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nError: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Some(Command::Cost) => print(&cost::markdown()),
        Some(Command::Scale) => print(&scale::markdown()),
        Some(command @ (Command::Guards | Command::Record)) => {
            let workspace = Workspace::locate().await?;
            let programs = Programs::build(&workspace, &["ingest", "floor"]).await?;
            let lab = Lab::open(&workspace, Duration::ZERO).await?;
            let compiler = &Results::begin().await?.run["compiler"];
            match command {
                Command::Guards => guards::check(&workspace, &lab, &programs, compiler).await?,
                _ => guards::record(&workspace, &lab, &programs, compiler).await?,
            }
        }
        None => {
            let workspace = Workspace::locate().await?;
            let results = measure(&workspace, &arguments).await?;
            if arguments.changes_the_results() {
                print(&report::markdown(&results));
            } else {
                report::write(&results, &workspace)?;
            }
        }
    }
    Ok(())
}

async fn measure(
    workspace: &Workspace,
    Arguments {
        only,
        quick,
        against,
        service_latency,
        ..
    }: &Arguments,
) -> Result<Results> {
    let mut programs = Programs::build_all(workspace).await?;
    let mut acks = ingest::PROGRAMS.to_vec();
    for (name, path) in against {
        acks.push(programs.add(name, path));
    }
    let lab = Lab::open(workspace, Duration::from_millis(*service_latency)).await?;
    let effort = if *quick {
        Effort {
            rounds: 2,
            invocations: 50,
        }
    } else {
        Effort {
            rounds: 15,
            invocations: 500,
        }
    };
    let is_wanted = |part| only.is_empty() || only.contains(&part);
    let mut results = Results::begin().await?;
    if is_wanted(Part::Ingest) {
        results.ingest = ingest::measure(&lab, &programs, &acks, effort).await?;
    }
    if is_wanted(Part::Instructions) {
        // Under valgrind, Python takes a minute for what is but a comparison.
        acks.retain(|function| !*quick || !matches!(function, Function::Python(_)));
        acks.push(Function::Relay("processor"));
        results.instructions = instructions::count(&lab, &programs, &acks).await?;
    }
    if is_wanted(Part::Processor) {
        results.processor = processor::measure(&lab, &programs, effort).await?;
    }
    if is_wanted(Part::Replay) {
        results.replay = replay::measure(&programs, effort).await?;
    }
    if is_wanted(Part::Journey) {
        results.journey = journey::measure(&programs, effort).await?;
    }
    for name in FUNCTIONS
        .into_iter()
        .chain(against.iter().map(|(name, _)| name.as_str()))
    {
        results.zips.insert(name.to_owned(), programs.zipped(name)?);
    }
    Ok(results)
}

#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn print(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        Arguments::command().debug_assert();
    }
}
