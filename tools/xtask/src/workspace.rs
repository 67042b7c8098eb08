//! The repository, and the commands that run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tools/xtask is two folders below the root")
}

/// `cargo` with these arguments, at the root. Without the variables that describe this package:
/// build scripts would take them for a change, and everything above ring would compile again.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name
            .to_str()
            .is_some_and(|name| of_this_package.iter().any(|of| name.starts_with(of)))
        {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo test --locked` with these arguments, at the root.
pub(crate) fn cargo_test(arguments: &[&str]) -> Command {
    let mut command = cargo(&["test", "--locked"]);
    command.args(arguments);
    command
}

/// Runs a command to its end; fails when the command fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Files of the repository that git tracks or would track, relative to the root, sorted. Outside a
/// repository: all but what is built.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let output = command
        .current_dir(root())
        .stderr(Stdio::null())
        .output()
        .context("could not start git")?;
    let mut files = Vec::new();
    if output.status.success() {
        let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
        files.extend(names.split_terminator('\0').map(PathBuf::from));
        files.retain(|file| root().join(file).is_file());
    } else {
        walk(root(), &mut files)?;
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_file() {
            files.push(path.strip_prefix(root())?.to_owned());
        } else if !path.ends_with("target") && !path.ends_with(".git") {
            walk(&path, files)?;
        }
    }
    Ok(())
}
