//! The results of one run, and what they are written to: JSON for programs, Markdown for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use local::workspace::Workspace;
use serde::Serialize;
use tokio::process::Command;

use crate::figures::{Figures, number};
use crate::{chart, ingest, instructions, journey, processor, replay, targets};

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    /// Where and when: milliseconds are never compared with those of another run.
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
    /// Nothing measured yet, on this machine.
    pub(crate) async fn begin() -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let compiler = Command::new("rustc").arg("--version").output().await.context("rustc")?.stdout;
        let cores = std::thread::available_parallelism()?;
        let run = BTreeMap::from([
            ("machine", format!("{}, {cores} cores", model.map_or("an unknown processor", |(_, name)| name))),
            ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
            ("compiler", String::from_utf8_lossy(&compiler).trim().to_owned()),
            ("day", Timestamp::now().strftime("%F").to_string()),
        ]);
        Ok(Self { run, ..Self::default() })
    }

    /// Writes `results.json`, `results.md` and `results.svg` into `tools/bench/results`.
    pub(crate) fn write(&self, workspace: &Workspace) -> Result<()> {
        let folder = workspace.root.join("tools/bench/results");
        fs::create_dir_all(&folder)?;
        let write = |name: &str, text: String| {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("results.json", serde_json::to_string_pretty(self)? + "\n")?;
        write("results.md", self.markdown())?;
        write("results.svg", chart::svg(self))?;
        eprintln!("Written: {}", relative(&folder, workspace).display());
        Ok(())
    }

    /// The report.
    pub(crate) fn markdown(&self) -> String {
        let of = |name| self.run.get(name).map_or("", String::as_str);
        let mut zips = String::from("| | zip, bytes |\n|---|---:|\n");
        for (name, bytes) in &self.zips {
            zips.extend([format!("| {name} | {} |\n", number(f64::from(u32::try_from(*bytes).unwrap_or(u32::MAX))))]);
        }
        let sections = [
            ("Targets", "Each is a figure of this run; ratios are of medians.", targets::markdown(self)),
            (
                "ingest",
                "Signed Open Messaging webhooks of 700 bytes. *Cold* is INIT and the first event.",
                self.ingest.markdown(&ingest::FIGURES),
            ),
            (
                "Instructions",
                "Counted by valgrind, which plays a processor without SHA and ADX instructions. For the processor, an event is a batch of \
                 ten.",
                self.instructions.markdown(&instructions::FIGURES),
            ),
            (
                "processor",
                "The target takes 100 ms. Each event is claimed before its delivery and recorded after it, in the table.",
                self.processor.markdown(&processor::FIGURES),
            ),
            ("replay", "On the local AWS, whose queue and table set the pace.", self.replay.markdown(&replay::FIGURES)),
            (
                "From the webhook to the target",
                "On the local AWS, with open-loop senders; the rows of the local AWS say what it takes by itself.",
                self.journey.markdown(&journey::FIGURES),
            ),
            ("Sizes", "Of this machine's builds, compressed as `cargo lambda` does it.", zips),
        ];
        let mut text = format!(
            "# Results\n\nWritten by `cargo bench-all` on {}: {}, {}, {}. Medians, and the middle half of the rounds in \
             brackets. Milliseconds are this machine's, and say nothing beside those of another run.\n",
            of("day"),
            of("machine"),
            of("system"),
            of("compiler"),
        );
        for (title, note, table) in sections {
            text.extend([format!("\n## {title}\n\n{note}\n\n{table}")]);
        }
        text
    }
}

fn relative<'a>(path: &'a Path, workspace: &Workspace) -> &'a Path {
    path.strip_prefix(&workspace.root).unwrap_or(path)
}
