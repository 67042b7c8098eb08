//! `cargo bench-all`: what the relay costs in time, CPU, memory and money, beside its peers, in one
//! run.

mod acks;
mod figures;
mod guards;
mod instructions;
mod lab;
mod measure;
mod pricing;
mod process;
mod programs;
mod report;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use local::workspace::Workspace;

use crate::figures::Figures;
use crate::lab::Lab;
use crate::programs::{PROGRAMS, Programs};

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
    /// Prints the quotas that a load meets
    Scale,
}

/// Parts that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Time, CPU, memory and log bytes of each program
    Programs,
    /// Instructions of each program
    Instructions,
    /// Acknowledgements while deliveries fail
    Acks,
}

fn other_build(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
    Ok((name.into(), path.into()))
}

// One thread: it decides on which core a process starts.
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
        Some(Command::Cost) => print(&pricing::costs()),
        Some(Command::Scale) => print(&pricing::scale()),
        Some(command @ (Command::Guards | Command::Record)) => {
            let workspace = Workspace::locate().await?;
            let programs = Programs::build(&workspace, &guards::PROGRAMS).await?;
            let lab = Lab::open(&workspace).await?;
            match command {
                Command::Guards => guards::check(&workspace, &lab, &programs).await?,
                _ => guards::record(&workspace, &lab, &programs).await?,
            }
        }
        None => measure(&arguments).await?,
    }
    Ok(())
}

async fn measure(
    Arguments {
        only,
        against,
        quick,
        ..
    }: &Arguments,
) -> Result<()> {
    let workspace = Workspace::locate().await?;
    let mut programs = Programs::build(&workspace, &PROGRAMS).await?;
    let mut wanted = PROGRAMS.to_vec();
    wanted.extend(against.iter().map(|(name, path)| programs.add(name, path)));
    let lab = Lab::open(&workspace).await?;
    let (rounds, invocations) = if *quick { (2, 50) } else { (15, 500) };
    let is_wanted = |part| only.is_empty() || only.contains(&part);
    let mut figures = Figures::default();
    if is_wanted(Part::Programs) {
        measure::measure(&lab, &programs, &wanted, rounds, invocations, &mut figures).await?;
    }
    if is_wanted(Part::Acks) {
        acks::measure(
            &lab,
            &programs,
            rounds.div_ceil(3),
            invocations * 4,
            &mut figures,
        )
        .await?;
    }
    if is_wanted(Part::Instructions) {
        // Under valgrind, Python takes a minute for what is but a comparison.
        wanted.retain(|program| !quick || program.python.is_none());
        instructions::count(&lab, &programs, &wanted, &mut figures).await?;
    }
    if *quick || !only.is_empty() || !against.is_empty() {
        print(&report::markdown(&figures)?);
        return Ok(());
    }
    report::write(&figures, &workspace)
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
