//! `cargo relay`: commands for operators of a relay.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use console::aws::{Place, local_variables};
use console::check::{Checks, Options};

/// Commands for operators of a relay.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo relay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a deployment: reads everything, changes nothing, and takes at most two minutes.
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// A deployed stack, reached with your AWS credentials [default: the running `cargo local`]
    #[arg(long)]
    stack: Option<String>,
    /// The stack's region [default: that of your AWS configuration]
    #[arg(long, requires = "stack")]
    region: Option<String>,
    /// A profile of your AWS configuration
    #[arg(long, requires = "stack")]
    profile: Option<String>,
    /// Also send synthetic events through the public URL, to their delivery and to a dead letter
    #[arg(long)]
    send: bool,
    /// Let one synthetic event reach the target
    #[arg(long, requires = "send")]
    to_target: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Exit code of a check that could not run.
const COULD_NOT_RUN: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Check(given) = Arguments::parse().command;
    match check(given).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn check(given: Check) -> Result<u8> {
    let place = match &given.stack {
        Some(name) => Place::deployed(name, given.region, given.profile.as_deref()).await?,
        None => Place::local(&local_variables()?).await?,
    };
    let options = Options {
        send: given.send,
        to_target: given.to_target,
    };
    let report = Checks::of(place)?.run(options).await?;
    let mut out = std::io::stdout();
    if given.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(report.exit_code())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_valid() {
        Arguments::command().debug_assert();
        for alone in ["--to-target", "--region=eu-central-1"] {
            let arguments = ["relay", "check", alone];
            assert!(Arguments::try_parse_from(arguments).is_err(), "{alone}");
        }
    }
}
