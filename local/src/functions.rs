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
use tokio::sync::OnceCell;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::workspace::{Workspace, cargo};

/// Zips ready for upload, by the name of the binary.
pub type Packages = BTreeMap<String, Vec<u8>>;

/// Builds and packs all binaries of the workspace, once per process.
///
/// # Errors
/// When Cargo fails; its messages are on standard error.
pub async fn packages(workspace: &Workspace) -> Result<&'static Packages> {
    static PACKAGES: OnceCell<Packages> = OnceCell::const_new();
    let build_and_pack = || async {
        let binaries = build(workspace).await?;
        binaries.into_iter().map(|(name, path)| Ok((name, pack(&path)?))).collect()
    };
    PACKAGES.get_or_try_init(build_and_pack).await
}

async fn build(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    // The whole workspace, and the examples, which bring the features of the development dependencies:
    // so Cargo resolves the same features as `cargo test --workspace`, and nothing is compiled twice.
    let output = cargo()
        .args(["build", "--workspace", "--bins", "--examples", "--message-format", "json-render-diagnostics"])
        .current_dir(&workspace.root)
        .stderr(Stdio::inherit())
        .output()
        .await
        .context("cargo build")?;
    if !output.status.success() {
        bail!("The functions do not build; what Cargo said stands above.");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(function_binary).collect())
}

/// The name and the path of a function's binary, if this message of Cargo is about one.
fn function_binary(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_function = target["kind"][0] == "bin"
        && Path::new(target["src_path"].as_str()?).components().any(|part| part.as_os_str() == "functions");
    is_function.then_some((target["name"].as_str()?.into(), message["executable"].as_str()?.into()))
}

/// A zip that holds the binary as `bootstrap`. Not compressed: that would take longer than it saves here.
fn pack(binary: &Path) -> Result<Vec<u8>> {
    let content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(content.len() + 512)));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(0o755);
    zip.start_file("bootstrap", options)?;
    zip.write_all(&content)?;
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binaries_of_functions_are_taken() {
        let message = |kind: &str, source: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"ingest","kind":["{kind}"],"src_path":"{source}"}},"executable":"/t/debug/ingest"}}"#
            )
        };
        assert_eq!(
            function_binary(&message("bin", "/w/functions/ingest/src/main.rs")),
            Some(("ingest".into(), "/t/debug/ingest".into()))
        );
        assert_eq!(function_binary(&message("bin", "/w/local/src/main.rs")), None);
        assert_eq!(function_binary(&message("example", "/w/examples/own_target.rs")), None);
        assert_eq!(function_binary(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
