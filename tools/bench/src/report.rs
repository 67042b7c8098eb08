//! Report of one run: JSON for programs, Markdown and a plot for people.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use local::workspace::Workspace;

use crate::figures::number;
use crate::results::Results;
use crate::{chart, ingest, instructions, journey, processor, replay, targets};

/// Writes `results.json`, `results.md` and `results.svg` into `tools/bench/results`.
pub(crate) fn write(results: &Results, workspace: &Workspace) -> Result<()> {
    let folder = workspace.root.join("tools/bench/results");
    fs::create_dir_all(&folder)?;
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write(
        "results.json",
        serde_json::to_string_pretty(results)? + "\n",
    )?;
    write("results.md", markdown(results))?;
    write("results.svg", chart::svg(results))?;
    eprintln!("Written: {}", relative(&folder, workspace).display());
    Ok(())
}

/// Report in Markdown.
pub(crate) fn markdown(results: &Results) -> String {
    let of = |name| results.run.get(name).map_or("", String::as_str);
    let mut zips = String::from("| | zip, bytes |\n|---|---:|\n");
    for (name, bytes) in &results.zips {
        zips.extend([format!(
            "| {name} | {} |\n",
            number(f64::from(u32::try_from(*bytes).unwrap_or(u32::MAX)))
        )]);
    }
    let sections = [
        (
            "Targets",
            "Each is a figure of this run; ratios are of medians.",
            targets::markdown(results),
        ),
        (
            "ingest",
            "Signed Open Messaging webhooks of 700 bytes. *Cold* is INIT and the first event.",
            results.ingest.markdown(&ingest::FIGURES),
        ),
        (
            "Instructions",
            "Counted by valgrind, which plays a processor without SHA and ADX instructions. For the processor, an event is a batch of \
             ten.",
            results.instructions.markdown(&instructions::FIGURES),
        ),
        (
            "processor",
            "The target takes 100 ms. Each event is claimed before its delivery and recorded after it, in the table.",
            results.processor.markdown(&processor::FIGURES),
        ),
        (
            "replay",
            "On the local AWS, whose queue and table set the pace.",
            results.replay.markdown(&replay::FIGURES),
        ),
        (
            "From the webhook to the target",
            "On the local AWS, with open-loop senders; the rows of the local AWS say what it takes by itresults.",
            results.journey.markdown(&journey::FIGURES),
        ),
        (
            "Sizes",
            "Of this machine's builds, compressed as `cargo lambda` does it.",
            zips,
        ),
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

fn relative<'a>(path: &'a Path, workspace: &Workspace) -> &'a Path {
    path.strip_prefix(&workspace.root).unwrap_or(path)
}
