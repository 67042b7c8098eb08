//! The programs that are measured, built as they are deployed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use local::functions;
use local::python::{self, Packages};
use local::workspace::Workspace;

/// The functions of the relay, by the names of their binaries.
pub(crate) const FUNCTIONS: [&str; 5] = ["ingest", "processor", "replay", "recovery", "breaker"];

/// Packages of the Python peers.
const PEERS: Packages = Packages {
    name: "the Python peers",
    requirements: include_str!("../peers/python/requirements.txt"),
};

/// Program in the place of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Function {
    /// Function of the relay, by its name.
    Relay(&'static str),
    /// Rust that does nothing.
    Floor,
    /// Python, by the file it is in.
    Python(&'static str),
}

/// Paths of all programs.
pub(crate) struct Programs {
    binaries: BTreeMap<String, PathBuf>,
    /// The interpreter in which the Python peers have what they need.
    pub(crate) python: PathBuf,
    /// The folder of the Python peers.
    pub(crate) peers: PathBuf,
}

impl Programs {
    /// Builds all that is measured, and sets the Python peers up.
    pub(crate) async fn build_all(workspace: &Workspace) -> Result<Self> {
        let binaries: Vec<&str> = FUNCTIONS.into_iter().chain(["floor"]).collect();
        let programs = Self::build(workspace, &binaries).await?;
        Ok(Self {
            python: python::environment(&workspace.local(), PEERS).await?,
            ..programs
        })
    }

    /// Builds these binaries, each in the package of its name, with the profile that is deployed.
    /// Each has the features that any of them needs.
    pub(crate) async fn build(workspace: &Workspace, binaries: &[&str]) -> Result<Self> {
        eprintln!("Building for release: some minutes, on a new machine about ten.");
        let packages = binaries.iter().flat_map(|name| ["--package", name]);
        let arguments: Vec<&str> = ["--release"].into_iter().chain(packages).collect();
        Ok(Self {
            binaries: functions::build(workspace, &arguments).await?,
            python: PathBuf::new(),
            peers: workspace.root.join("tools/bench/peers/python"),
        })
    }

    /// Adds a binary of another build under a name of its own.
    pub(crate) fn add(&mut self, name: &str, path: &Path) -> Function {
        self.binaries.insert(name.to_owned(), path.to_path_buf());
        Function::Relay(name.to_owned().leak())
    }

    /// The binary of a function in Rust.
    pub(crate) fn binary(&self, name: &str) -> Result<&Path> {
        self.binaries
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("Cargo built no {name}"))
    }

    /// Size of its zip in bytes, compressed as `cargo lambda` does it; the zip's own headers add
    /// some 150.
    pub(crate) fn zipped(&self, name: &str) -> Result<u64> {
        let content = fs::read(self.binary(name)?)?;
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content)?;
        Ok(u64::try_from(encoder.finish()?.len())?)
    }
}
