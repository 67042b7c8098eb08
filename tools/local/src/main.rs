//! `cargo local`: the relay on a local AWS, with one command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use local::{demo, run, screen::Screen, target::Behaviour};
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

const INTERRUPTED: u8 = 130;

/// Runs the relay on a local AWS until Ctrl-C: builds it, deploys it, and shows the steps of each
/// event.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo local",
    version,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Port of the local AWS on 127.0.0.1 [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Behaviour of the target: fine, fail:30 (percent), status:404, status:503:60 (with
    /// Retry-After), slow:2s, down; or on the wire: reset, reset-unread, trickle, garbage,
    /// bad-length, endless-headers, short, large, endless-body
    #[arg(long, default_value = "fine")]
    target: Behaviour,
    /// Sets a parameter of the template, for example BackoffBaseSeconds=1; may be repeated
    #[arg(long, value_name = "PARAMETER=VALUE", value_parser = parameter)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a demo unattended; exits 0 only when every event is where it should be
    Demo,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected PARAMETER=VALUE")?;
    Ok((name.into(), value.into()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = Screen::stdout();
    // The work is dropped when a signal comes first, and ends all that it started when it is
    // dropped.
    let outcome = tokio::select! {
        outcome = work(arguments, screen) => Some(outcome),
        () = interrupt() => None,
    };
    match outcome {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("\nError: {error:#}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("\nStopped. Nothing is left running.");
            ExitCode::from(INTERRUPTED)
        }
    }
}

async fn work(arguments: Arguments, screen: Screen) -> Result<()> {
    match arguments.command {
        Some(Command::Demo) => demo::run(screen).await,
        None => {
            let options = run::Options {
                port: arguments.port,
                behaviour: arguments.target,
                parameters: arguments.set,
            };
            run::run(options, screen).await.map(|never| match never {})
        }
    }
}

async fn interrupt() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(ctrl_c().await),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_demo_takes_no_options_rather_than_dropping_them() {
        assert!(Arguments::try_parse_from(["local", "demo"]).is_ok());
        for order in [
            ["local", "--port", "8000", "demo"],
            ["local", "demo", "--port", "8000"],
        ] {
            assert!(Arguments::try_parse_from(order).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_parameter_has_a_name_and_a_value() {
        assert_eq!(
            parameter("LogLevel=debug"),
            Ok(("LogLevel".into(), "debug".into()))
        );
        assert!(parameter("LogLevel").is_err());
    }
}
