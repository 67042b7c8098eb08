//! Figures: each one measured several times, kept by program and name.

use std::collections::BTreeMap;

/// The figures of several programs, in the order in which they were measured first.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<(String, BTreeMap<&'static str, Vec<f64>>)>);

impl Figures {
    /// Adds a sample.
    pub(crate) fn add(&mut self, program: &str, figure: &'static str, value: f64) {
        let known = self.0.iter().position(|(name, _)| name == program);
        let row = known.unwrap_or_else(|| {
            self.0.push((program.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        self.0[row].1.entry(figure).or_default().push(value);
    }

    /// The median of a figure, if it was measured.
    pub(crate) fn median(&self, program: &str, figure: &str) -> Option<f64> {
        quantile(self.samples(program, figure)?, 0.5)
    }

    fn samples(&self, program: &str, figure: &str) -> Option<&[f64]> {
        let (_, figures) = self.0.iter().find(|(name, _)| name == program)?;
        figures.get(figure).map(Vec::as_slice)
    }

    /// A Markdown table with a row for each program and a column for each figure: medians, and the
    /// middle half in brackets. Programs without any of the figures are left out.
    pub(crate) fn markdown(&self, figures: &[&str]) -> String {
        let mut text = format!(
            "| | {} |\n|---|{}\n",
            figures.join(" | "),
            "---:|".repeat(figures.len())
        );
        for (program, row) in &self.0 {
            if figures.iter().any(|figure| row.contains_key(figure)) {
                let cells = figures.iter().map(|figure| cell(row.get(figure)));
                let cells: Vec<String> = cells.collect();
                text.extend([format!("| {program} | {} |\n", cells.join(" | "))]);
            }
        }
        text
    }
}

/// The value at this share of the samples, sorted: 0.5 for the median.
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let position = (last as f64 * share).round() as usize;
    sorted.get(position).copied()
}

fn cell(samples: Option<&Vec<f64>>) -> String {
    let quantiles = samples.map(|samples| [0.25, 0.5, 0.75].map(|share| quantile(samples, share)));
    let Some([Some(low), Some(middle), Some(high)]) = quantiles else {
        return "–".to_owned();
    };
    if high - low <= middle.abs() * 0.005 {
        number(middle)
    } else {
        format!("{} ({}–{})", number(middle), number(low), number(high))
    }
}

/// A number with three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Text of a number without insignificant digits; a dash where there is none.
pub(crate) fn rounded(number: f64) -> String {
    match number {
        number if number.is_nan() || number >= 1e9 => "–".to_owned(),
        number if number >= 9.95 => grouped(number),
        number => format!("{number:.1}").trim_end_matches(".0").to_owned(),
    }
}

fn grouped(number: f64) -> String {
    let whole = format!("{number:.0}");
    let groups = whole.as_bytes().rchunks(3).rev();
    let groups: Vec<&str> = groups
        .filter_map(|group| str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_with_the_middle_half() {
        let mut figures = Figures::default();
        assert_eq!(figures.median("ingest", "µs"), None);
        for value in [5.0, 4.0, 3.0, 2.0, 1.0] {
            figures.add("ingest", "µs", value);
        }
        figures.add("other", "ms", 1.0);
        assert_eq!(figures.median("ingest", "µs"), Some(3.0));
        let expected = "| | µs | CPU |\n|---|---:|---:|\n| ingest | 3.00 (2.00–4.00) | – |\n";
        assert_eq!(figures.markdown(&["µs", "CPU"]), expected);
    }

    #[test]
    fn numbers_have_three_digits_and_large_ones_groups() {
        assert_eq!(
            [0.123, 1.5, 15.04, 151.2, 1_234_567.8].map(number),
            ["0.12", "1.50", "15.0", "151", "1,234,568"]
        );
        assert_eq!(
            [0.0, 0.25, 9.96, 999.6, 1_234_567.0, f64::INFINITY].map(rounded),
            ["0", "0.2", "10", "1,000", "1,234,567", "–"]
        );
    }
}
