//! Paths of this repository and of its build output.

use std::{io, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

/// The path of the template that is deployed, from the repository's root.
pub(crate) const TEMPLATE: &str = "template.yaml";

/// The repository on disk.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The folder that holds `template.yaml`.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks Cargo.
    pub async fn locate() -> Result<Self> {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let output = cargo()
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
                manifest,
            ])
            .output()
            .await;
        let output = match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "Cargo was not found. Install Rust from https://rustup.rs, then run this again."
                )
            }
            output => output.context("could not run cargo metadata")?,
        };
        if !output.status.success() {
            bail!(
                "cargo metadata failed:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let path = |name: &str| {
            metadata[name]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata without {name}"))
        };
        let workspace = Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
        };
        let template = workspace.root.join(TEMPLATE);
        if !template.is_file() {
            bail!(
                "{} is missing: there is nothing to deploy.",
                template.display()
            );
        }
        Ok(workspace)
    }

    /// The folder for everything that this crate writes; `cargo clean` removes it.
    pub fn local(&self) -> PathBuf {
        self.target.join("local")
    }
}

/// The Cargo that runs this program, or else the one on the path; ended when it is dropped.
pub(crate) fn cargo() -> Command {
    let mut command = Command::from(launch::cargo());
    command.kill_on_drop(true);
    command
}
