//! Report of one run: the targets, a table, and a picture.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use local::workspace::Workspace;

use crate::figures::{Figures, number};
use crate::measure::{COLD, CPU, FIRST, INIT, LATER, LOG, PEAK, ZIP};
use crate::programs::{BOTO3, FLOOR, INGEST};
use crate::{acks, instructions, process};

/// The columns of the table.
const COLUMNS: [&str; 11] = [
    INIT,
    FIRST,
    COLD,
    LATER,
    CPU,
    PEAK,
    LOG,
    ZIP,
    instructions::INIT,
    instructions::FIRST,
    instructions::LATER,
];

/// Writes `results.md` and `results.svg` into `tools/bench/results`.
pub(crate) fn write(figures: &Figures, workspace: &Workspace) -> Result<()> {
    let folder = workspace.root.join("tools/bench/results");
    for (name, text) in [
        ("results.md", markdown(figures)?),
        ("results.svg", svg(figures)),
    ] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("Written: {}", file.display());
    }
    Ok(())
}

/// `rustc --version`.
pub(crate) fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output();
    let output = output.context("cannot run rustc")?.stdout;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

/// Report in Markdown.
pub(crate) fn markdown(figures: &Figures) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = cpu.lines();
    let model = lines.find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(format!(
        "# Results\n\n\
         Written by `cargo bench-all` on {}: {}, {} cores, {}, {}. Medians, and the middle half of \
         the rounds in brackets. Milliseconds are this machine's, and say nothing beside those of \
         another run.\n\n\
         ## Targets\n\nEach is a figure of this run; ratios are of medians.\n\n{}\n\
         ## Programs\n\nAn event is a signed Open Messaging webhook of 700 bytes; for a processor, a \
         batch of ten, of which each is claimed before its delivery and recorded after it, to a \
         target that takes 100 ms. *Cold* is INIT and the first event. valgrind, which counts the \
         instructions, plays a processor without SHA and ADX instructions.\n\n{}\n\
         ## Acknowledgements\n\nA hundred webhooks a second, over a stand-in of SQS that the \
         processor's retries use as well.\n\n{}",
        Timestamp::now().strftime("%F"),
        model.map_or("an unknown processor", |(_, name)| name),
        process::cores(),
        std::env::consts::ARCH,
        compiler()?,
        targets(figures),
        figures.markdown(&COLUMNS),
        figures.markdown(&[acks::P50, acks::P99, acks::DELIVERIES, acks::RATIO]),
    ))
}

/// Each target with its bound and what was measured.
fn targets(figures: &Figures) -> String {
    let of = |program, figure| figures.median(program, figure);
    let ratio = |over, under, figure| Some(of(over, figure)? / of(under, figure)?);
    let (ingest, floor, boto3) = (INGEST.name, FLOOR.name, BOTO3.name);
    let millions = |figure| of(ingest, figure).map(|count| count / 1e6);
    let (init, first) = (millions(instructions::INIT), millions(instructions::FIRST));
    let acks = of(acks::FAILING, acks::RATIO);
    let targets = [
        ("INIT, in millions of instructions", "≤", 6.8, init),
        ("first event, in millions of instructions", "≤", 0.85, first),
        ("CPU, ÷ floor", "≤", 4.4, ratio(ingest, floor, CPU)),
        ("cold start, ÷ floor", "≤", 3.6, ratio(ingest, floor, COLD)),
        (
            "boto3's cold start, ÷ ingest's",
            "≥",
            45.0,
            ratio(boto3, ingest, COLD),
        ),
        ("zip, in MB", "≤", 2.7, millions(ZIP)),
        ("peak memory, in MB", "≤", 8.0, of(ingest, PEAK)),
        (
            "ack p99 while 70 % of the deliveries fail, ÷ healthy",
            "≤",
            1.1,
            acks,
        ),
    ];
    let mut text = String::from("| ingest | must be | measured | |\n|---|---:|---:|---|\n");
    for (what, sign, bound, measured) in targets {
        let is_met = |value| {
            if sign == "≤" {
                value <= bound
            } else {
                value >= bound
            }
        };
        let verdict = measured.map_or("not measured", |value| {
            if is_met(value) { "met" } else { "**not met**" }
        });
        let (bound, value) = (number(bound), measured.map_or("–".to_owned(), number));
        text.extend([format!(
            "| {what} | {sign} {bound} | {value} | {verdict} |\n"
        )]);
    }
    text
}

/// The plot of `docs/reference/costs.md`, as bars. Colours follow the reader's light or dark mode.
fn svg(figures: &Figures) -> String {
    let panels = [
        ("Cold start, ms", COLD),
        ("CPU of an event, µs", CPU),
        ("Peak memory, MB", PEAK),
    ];
    let bars = [
        (FLOOR.name, "bare Rust"),
        (INGEST.name, "this relay"),
        ("Python floor", "bare Python"),
        (BOTO3.name, "Python, boto3"),
    ];
    let mut text = String::from(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 390" width="720" height="390" role="img" aria-label="Cold start, CPU and memory of ingest beside its peers">
<style>
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 }
  .bar { fill: #8c959f }
  .ours { fill: #1f6feb }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .bar { fill: #6e7681 } }
</style>
"#,
    );
    let mut y = 0;
    for (title, figure) in panels {
        text.extend([format!(
            "<text class=\"title\" x=\"0\" y=\"{}\">{title}</text>\n",
            y + 16
        )]);
        let values = bars.map(|(program, _)| figures.median(program, figure).unwrap_or(0.0));
        let most = values.into_iter().fold(f64::MIN_POSITIVE, f64::max);
        for ((program, label), value) in bars.into_iter().zip(values) {
            let length = value / most * 540.0;
            let class = if program == INGEST.name {
                "bar ours"
            } else {
                "bar"
            };
            text.extend([format!(
                "<text x=\"102\" y=\"{0}\" text-anchor=\"end\">{label}</text>\n\
                 <rect class=\"{class}\" x=\"110\" y=\"{1}\" width=\"{length:.1}\" height=\"18\" rx=\"2\"/>\n\
                 <text x=\"{2:.1}\" y=\"{0}\">{3}</text>\n",
                y + 40,
                y + 26,
                length + 116.0,
                number(value),
            )]);
            y += 24;
        }
        y += 34;
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let mut figures = Figures::default();
        figures.add(INGEST.name, COLD, 5.0);
        figures.add(BOTO3.name, COLD, 250.0);
        let svg = svg(&figures);
        assert!(
            svg.contains(r#"class="bar ours" x="110" y="50" width="10.8""#),
            "{svg}"
        );
        assert!(svg.contains(r#"width="540.0""#), "{svg}");
    }

    #[test]
    fn a_target_is_met_missed_or_not_measured() {
        let mut figures = Figures::default();
        figures.add(INGEST.name, PEAK, 8.1);
        figures.add(INGEST.name, ZIP, 2_600_000.0);
        let table = targets(&figures);
        for line in [
            "| peak memory, in MB | ≤ 8.00 | 8.10 | **not met** |",
            "| zip, in MB | ≤ 2.70 | 2.60 | met |",
            "| cold start, ÷ floor | ≤ 3.60 | – | not measured |",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }
}
