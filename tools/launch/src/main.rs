//! Builds a program of the workspace and becomes it: `cargo local`, `cargo console`,
//! `cargo relay`, `cargo bench-all`, `cargo xtask`.

use std::env;
use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let program = arguments
        .next()
        .ok_or("usage: launch PROGRAM [ARGUMENTS]")?;
    let program = program.to_str().ok_or("the name of a program is UTF-8")?;
    let this = env::current_exe()?;
    let folder = this.parent().ok_or("this program is in no folder")?;
    let mut build = match program {
        "local" => {
            explain(folder);
            launch::build(launch::FUNCTIONS.into_iter().chain([program]))
        }
        _ => launch::build([program]),
    };
    if program == "xtask" {
        build.arg("--quiet");
    }
    let status = build.status()?;
    if !status.success() {
        return Ok(ExitCode::FAILURE);
    }
    Err(Command::new(folder.join(program))
        .args(arguments)
        .exec()
        .into())
}

/// Says what `cargo local` is about to do, for how long, and what is there already.
fn explain(folder: &Path) {
    let is_compiled = folder.join("local").exists();
    let is_installed = folder
        .parent()
        .and_then(|target| target.join("local").read_dir().ok())
        .is_some_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("python-"))
            })
        });
    let compile = if is_compiled {
        "only what has changed"
    } else {
        "about 4 minutes on two idle cores, once"
    };
    let install = if is_installed {
        "done before"
    } else {
        "about a minute, once"
    };
    eprintln!(
        "This takes three steps:\n  \
         1. compile the relay and its tools into target/ ({compile})\n  \
         2. install a local AWS into target/local/ ({install})\n  \
         3. start it and deploy template.yaml (about 20 seconds)\n"
    );
}
