//! The functions' binaries: built by Cargo, packed as Lambda wants them.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{process::Command, sync::OnceCell};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::workspace::Workspace;

/// Zips ready for upload, by the name of the binary.
pub type Packages = BTreeMap<String, Vec<u8>>;

/// Builds and packs the functions, once per process.
pub async fn packages(workspace: &Workspace) -> Result<&'static Packages> {
    static PACKAGES: OnceCell<Packages> = OnceCell::const_new();
    PACKAGES
        .get_or_try_init(|| async { pack_all(binaries(workspace).await?) })
        .await
}

/// Packs binaries, by name.
pub fn pack_all(binaries: &BTreeMap<String, PathBuf>) -> Result<Packages> {
    binaries
        .iter()
        .map(|(name, path)| Ok((name.clone(), pack(path)?)))
        .collect()
}

/// Builds the functions, once per process, and tells where the binaries are, by name.
pub async fn binaries(workspace: &Workspace) -> Result<&'static BTreeMap<String, PathBuf>> {
    static BINARIES: OnceCell<BTreeMap<String, PathBuf>> = OnceCell::const_new();
    BINARIES
        .get_or_try_init(|| run(workspace, launch::build(launch::FUNCTIONS)))
        .await
}

/// Has Cargo build what these arguments say, and tells where the binaries are, by name.
pub async fn build(workspace: &Workspace, arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut build = launch::cargo();
    build.args(["build", "--locked"]).args(arguments);
    run(workspace, build).await
}

async fn run(
    workspace: &Workspace,
    build: std::process::Command,
) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = Command::from(build)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(&workspace.root)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("could not run cargo build")?;
    let output = cargo.wait_with_output().await?;
    if !output.status.success() {
        bail!("The functions do not build; see the errors of Cargo above.");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(binary).collect())
}

/// The name and the path of a binary, if this message of Cargo is about one.
fn binary(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    (target["kind"][0] == "bin").then_some((
        target["name"].as_str()?.into(),
        message["executable"].as_str()?.into(),
    ))
}

/// A zip that holds the binary as `bootstrap`. Not compressed: that would take longer than it saves
/// here.
fn pack(binary: &Path) -> Result<Vec<u8>> {
    let content =
        fs::read(binary).with_context(|| format!("could not read {}", binary.display()))?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(content.len() + 512)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options)?;
    zip.write_all(&content)?;
    Ok(zip.finish()?.into_inner())
}

/// The same functions in other zips: another release for a deploy.
pub fn of_another_release(packages: &Packages, release: u32) -> Result<Packages> {
    let add = |zip: &Vec<u8>| -> Result<Vec<u8>> {
        let mut zip = ZipWriter::new_append(Cursor::new(zip.clone()))?;
        zip.start_file(
            "release",
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored),
        )?;
        write!(zip, "{release}")?;
        Ok(zip.finish()?.into_inner())
    };
    packages
        .iter()
        .map(|(name, zip)| Ok((name.clone(), add(zip)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binaries_are_taken() {
        let message = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"ingest","kind":["{kind}"]}},"executable":"/t/debug/ingest"}}"#
            )
        };
        assert_eq!(
            binary(&message("bin")),
            Some(("ingest".into(), "/t/debug/ingest".into()))
        );
        assert_eq!(binary(&message("example")), None);
        assert_eq!(
            binary(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
