//! `cargo console`: the operator's console, on this machine only.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use console::aws::{self, Place, Stack};
use console::check::Checks;
use console::server::Server;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

/// Serves the operator's console on 127.0.0.1: the flow of events, the dead letters, replays and
/// other actions.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo console", version)]
struct Arguments {
    /// A deployed stack, reached with your AWS credentials [default: the running `cargo local`]
    #[arg(long)]
    stack: Option<String>,
    /// The stack's region [default: that of your AWS configuration]
    #[arg(long, requires = "stack")]
    region: Option<String>,
    /// A profile of your AWS configuration
    #[arg(long, requires = "stack")]
    profile: Option<String>,
    /// Port on 127.0.0.1 [default: a free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Your name, for the audit log and the records [default: that of your account on this machine]
    #[arg(long)]
    by: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(given: Arguments) -> Result<()> {
    let (place, kind) = match &given.stack {
        Some(name) => (
            Place::deployed(name, given.region, given.profile.as_deref()).await?,
            "",
        ),
        None => (
            Place::local(&aws::local_variables()?).await?,
            "the local AWS: ",
        ),
    };
    let functions = Stack::find(&place).await?;
    let checks = Checks::of(place)?;
    let name = format!("{kind}{}", functions.place());
    let user = given.by.or_else(|| std::env::var("USER").ok());
    let user = user.filter(|name| !name.trim().is_empty());
    let by = format!(
        "{} (console)",
        user.as_deref().unwrap_or("an unknown operator")
    );

    let server = Server::bind(given.port).await?;
    tokio::spawn(print_links(server.links()));
    let server = server.with_checks(checks);
    server.serve(Arc::new(functions), name, by).await
}

/// Prints a link, and a new one whenever the operator presses Enter.
async fn print_links(link: impl Fn() -> String) {
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        let printed = writeln!(
            std::io::stdout(),
            "Open this link in your browser. It works once; press Enter for a new one, Ctrl-C to quit:\n{}",
            link()
        );
        if printed.is_err() || !matches!(lines.next_line().await, Ok(Some(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_valid() {
        Arguments::command().debug_assert();
        let region = ["console", "--region", "eu-central-1"];
        assert!(
            Arguments::try_parse_from(region).is_err(),
            "a region needs a stack"
        );
    }
}
