//! Results of one run.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;
use tokio::process::Command;

use crate::figures::Figures;

/// All measurements.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    /// Machine and day: milliseconds are never compared with those of another run.
    pub(crate) run: BTreeMap<&'static str, String>,
    pub(crate) ingest: Figures,
    pub(crate) instructions: Figures,
    pub(crate) processor: Figures,
    pub(crate) replay: Figures,
    pub(crate) journey: Figures,
    /// Bytes, by function.
    pub(crate) zips: BTreeMap<String, u64>,
}

impl Results {
    /// Empty results of this machine.
    pub(crate) async fn begin() -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let compiler = Command::new("rustc")
            .arg("--version")
            .output()
            .await
            .context("rustc")?
            .stdout;
        let cores = std::thread::available_parallelism()?;
        let run = BTreeMap::from([
            (
                "machine",
                format!(
                    "{}, {cores} cores",
                    model.map_or("an unknown processor", |(_, name)| name)
                ),
            ),
            (
                "system",
                format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            ),
            (
                "compiler",
                String::from_utf8_lossy(&compiler).trim().to_owned(),
            ),
            ("day", Timestamp::now().strftime("%F").to_string()),
        ]);
        Ok(Self {
            run,
            ..Self::default()
        })
    }
}
