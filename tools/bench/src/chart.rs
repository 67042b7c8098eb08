//! The plot of `docs/reference/costs.md`: cold start, CPU and memory of ingest beside its peers, as
//! bars.

use crate::figures::number;
use crate::ingest;
use crate::results::Results;

/// Each panel: its title, and the figure that it shows.
const PANELS: [(&str, &str); 3] = [
    ("Cold start, ms", ingest::COLD),
    ("CPU of an event, µs", ingest::STEADY_CPU),
    ("Peak memory, MB", ingest::PEAK),
];

/// The bars of a panel, from top to bottom.
const BARS: [(&str, &str); 4] = [
    ("floor", "bare Rust"),
    ("ingest", "this relay"),
    ("Python floor", "bare Python"),
    ("boto3", "Python, boto3"),
];

const WIDTH: f64 = 720.0;
const PANEL_HEIGHT: f64 = 130.0;
const LEFT: f64 = 110.0;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;

/// The plot. Colours follow the reader's light or dark mode.
pub(crate) fn svg(results: &Results) -> String {
    let height = PANEL_HEIGHT * f64::from(u8::try_from(PANELS.len()).unwrap_or(u8::MAX));
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="Cold start, CPU and memory of ingest beside its peers">
<style>
  text {{ font: 13px system-ui, sans-serif; fill: #24292f }}
  .title {{ font-weight: 600 }}
  .bar {{ fill: #8c959f }}
  .ours {{ fill: #1f6feb }}
  @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .bar {{ fill: #6e7681 }} }}
</style>
"#
    );
    for (panel, top) in PANELS
        .iter()
        .zip((0_u8..).map(|index| f64::from(index) * PANEL_HEIGHT))
    {
        text += &self::panel(results, panel, top);
    }
    text + "</svg>\n"
}

fn panel(results: &Results, (title, figure): &(&str, &str), top: f64) -> String {
    let values =
        BARS.map(|(program, label)| (program, label, results.ingest.median(program, figure)));
    let most = values
        .iter()
        .filter_map(|(_, _, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut text = format!(
        "<text class=\"title\" x=\"0\" y=\"{}\">{title}</text>\n",
        top + 16.0
    );
    for ((program, label, value), row) in values.into_iter().zip(0_u8..) {
        let Some(value) = value else { continue };
        let y = f64::from(row).mul_add(STEP, top + 26.0);
        let length = (value / most * (WIDTH - LEFT - 70.0)).max(1.0);
        let class = if program == "ingest" {
            "bar ours"
        } else {
            "bar"
        };
        let baseline = y + 14.0;
        text.extend([format!(
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{label}</text>\n\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline}\">{}</text>\n",
            LEFT - 8.0,
            LEFT + length + 6.0,
            number(value),
        )]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value_and_what_was_not_measured_has_none() {
        let mut results = Results::default();
        results.ingest.add("ingest", ingest::COLD, 5.0);
        results.ingest.add("boto3", ingest::COLD, 250.0);
        let svg = svg(&results);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(
            svg.contains(r#"class="bar ours" x="110" y="50" width="10.8""#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"width="540.0""#) && svg.ends_with("</svg>\n"),
            "{svg}"
        );
    }
}
