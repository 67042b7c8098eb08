//! One build for everything: Cargo resolves features for the packages that a command selects, so
//! two selections compile the same crates twice. What this workspace builds by itself selects what
//! `cargo test --workspace` does.

use std::env;
use std::ffi::OsString;
use std::process::Command;

/// The functions of the relay.
pub const FUNCTIONS: [&str; 6] = [
    "ingest",
    "processor",
    "replay",
    "recovery",
    "breaker",
    "canary",
];

/// A `cargo build` of these binaries. The smallest test comes along, because the features of
/// dev-dependencies count only when a test is built.
pub fn build<'a>(binaries: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = cargo();
    command.args(["build", "--locked", "--workspace", "--test", "one_build"]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    command
}

/// The Cargo that runs this program, or else the one on the path.
pub fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    // What Cargo says of this program is not for another build: build scripts would take it for a
    // change.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}
