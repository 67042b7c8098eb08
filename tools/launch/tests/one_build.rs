//! `cargo local` and its siblings compile no crate that `cargo test --workspace` has compiled.

use std::process::{Command, Output};

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("Cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    output
}

#[test]
fn programs_and_tests_share_every_registry_crate() {
    run(launch::cargo().args(["test", "--locked", "--workspace", "--no-run"]));
    let programs = ["local", "console", "bench", "xtask"];
    let mut build = launch::build(launch::FUNCTIONS.into_iter().chain(programs));
    let messages = run(build.args(["--message-format", "json"])).stdout;
    let messages = String::from_utf8(messages).expect("messages are UTF-8");
    let compiled: Vec<_> = messages
        .lines()
        .filter(|line| line.contains(r#""fresh":false"#) && line.contains(r#""registry+"#))
        .collect();
    assert!(compiled.is_empty(), "compiled again: {compiled:#?}");
}
