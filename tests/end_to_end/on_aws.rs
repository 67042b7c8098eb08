//! The experiments of `tests/on_aws`, as far as the local AWS can run them: each must find there what
//! it believes of AWS. And their clean-up, which must leave alone what others have made.

use std::env;
use std::process::Stdio;

use anyhow::{Result, ensure};
use local::python;
use local::stack::{Stack, StackOptions};
use local::workspace::Workspace;
use tokio::process::Command;

/// More arguments of the script, between blanks. `cargo xtask on-aws --local` sets it, and shows what
/// the script says; else that is shown when the script fails.
const ARGUMENTS: &str = "GENESYS_RELAY_ON_AWS";

/// The script leads the relay to its own target.
const NO_TARGET: &str = "http://127.0.0.1:9/";

#[tokio::test]
async fn experiments_for_aws_hold_on_the_local_aws() -> Result<()> {
    let workspace = Workspace::locate().await?;
    let stack = Stack::start(StackOptions::new(NO_TARGET).with_schedules()).await?;
    let python = python::environment(&workspace.local(), python::EMULATOR).await?;
    let options = env::var(ARGUMENTS).ok();
    let script = async |name: &str, arguments: &[&str]| {
        let mut script = Command::new(&python);
        script
            .arg(workspace.root.join("tests/on_aws").join(name))
            .args(arguments)
            .envs(stack.keys().environment())
            .env("AWS_ENDPOINT_URL", stack.endpoint())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if options.is_none() {
            script.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let said = stack
            .guard(async { Ok(script.spawn()?.wait_with_output().await?) })
            .await?;
        ensure!(
            said.status.success(),
            "{name} failed: {}\n{}{}",
            said.status,
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
        anyhow::Ok(())
    };
    let mut arguments = vec!["--local", "--stack", "relay"];
    arguments.extend(options.iter().flat_map(|all| all.split_whitespace()));
    script("run.py", &arguments).await?;
    if options.is_none() {
        script("test_clean.py", &[]).await?;
    }
    Ok(())
}
