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

/// Program in the place of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// Name in tables, and of the binary.
    pub(crate) name: &'static str,
    /// The file it is in, if it is in Python.
    pub(crate) python: Option<&'static str>,
    /// True where it takes batches in place of webhooks.
    pub(crate) takes_batches: bool,
}

impl Program {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            python: None,
            takes_batches: false,
        }
    }

    const fn python(self, file: &'static str) -> Self {
        Self {
            python: Some(file),
            ..self
        }
    }

    const fn with_batches(self) -> Self {
        Self {
            takes_batches: true,
            ..self
        }
    }
}

pub(crate) const INGEST: Program = Program::new("ingest");
pub(crate) const PROCESSOR: Program = Program::new("processor").with_batches();
/// Rust that does nothing.
pub(crate) const FLOOR: Program = Program::new("floor");
pub(crate) const BOTO3: Program = Program::new("boto3 ingest").python("ingest");

/// The rows of the table, which are measured in turn.
pub(crate) const PROGRAMS: [Program; 6] = [
    INGEST,
    PROCESSOR,
    FLOOR,
    BOTO3,
    Program::new("boto3 processor")
        .python("processor")
        .with_batches(),
    Program::new("Python floor").python("floor"),
];

/// Packages of the Python peers.
const PEERS: Packages = Packages {
    name: "the Python peers",
    requirements: include_str!("../peers/python/requirements.txt"),
};

/// Paths of the programs.
pub(crate) struct Programs {
    binaries: BTreeMap<String, PathBuf>,
    /// The interpreter in which the Python peers have what they need.
    pub(crate) interpreter: PathBuf,
    /// The folder of the Python peers.
    pub(crate) peers: PathBuf,
}

impl Programs {
    /// Builds these, each in the package of its name, with the profile that is deployed, and sets
    /// the Python peers up if there are any. Each has the features that any of them needs.
    pub(crate) async fn build(workspace: &Workspace, programs: &[Program]) -> Result<Self> {
        eprintln!("Building for release: some minutes, on a new machine about ten.");
        let (python, rust): (Vec<Program>, Vec<Program>) =
            programs.iter().partition(|it| it.python.is_some());
        let packages = rust.iter().flat_map(|it| ["--package", it.name]);
        let arguments: Vec<&str> = ["--release"].into_iter().chain(packages).collect();
        Ok(Self {
            binaries: functions::build(workspace, &arguments).await?,
            interpreter: if python.is_empty() {
                PathBuf::new()
            } else {
                python::environment(&workspace.local(), PEERS).await?
            },
            peers: workspace.root.join("tools/bench/peers/python"),
        })
    }

    /// Adds another build of ingest under a name of its own.
    pub(crate) fn add(&mut self, name: &str, path: &Path) -> Program {
        self.binaries.insert(name.to_owned(), path.to_path_buf());
        Program::new(name.to_owned().leak())
    }

    /// The binary of a program in Rust.
    pub(crate) fn binary(&self, name: &str) -> Result<&Path> {
        let binary = self.binaries.get(name).map(PathBuf::as_path);
        binary.with_context(|| format!("Cargo built no {name}"))
    }

    /// Size of its zip in bytes, compressed as `cargo lambda` does it; the zip's own headers add
    /// some 150.
    pub(crate) fn zipped(&self, name: &str) -> Result<f64> {
        let content = fs::read(self.binary(name)?)?;
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content)?;
        Ok(f64::from(u32::try_from(encoder.finish()?.len())?))
    }
}
