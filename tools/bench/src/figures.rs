//! Figures: each one measured several times, kept by program and name.

use std::collections::BTreeMap;

use serde::Serialize;

/// One figure of one program, from several rounds.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

/// The figures of several programs that were measured in turn, in that order.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Figures(Vec<Row>);

#[derive(Debug, Serialize)]
struct Row {
    program: String,
    figures: BTreeMap<String, Samples>,
}

impl Samples {
    /// The value at this share of the samples, sorted: 0.5 for the median.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
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
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Figures {
    /// Adds what one round said.
    pub(crate) fn add(&mut self, program: &str, figure: &str, value: f64) {
        let position = self
            .0
            .iter()
            .position(|row| row.program == program)
            .unwrap_or_else(|| {
                self.0.push(Row {
                    program: program.to_owned(),
                    figures: BTreeMap::new(),
                });
                self.0.len() - 1
            });
        self.0[position]
            .figures
            .entry(figure.to_owned())
            .or_default()
            .0
            .push(value);
    }

    /// The median of a figure, if it was measured.
    pub(crate) fn median(&self, program: &str, figure: &str) -> Option<f64> {
        self.samples(program, figure)?.quantile(0.5)
    }

    /// The largest value of a figure, if it was measured.
    pub(crate) fn most(&self, program: &str, figure: &str) -> Option<f64> {
        self.samples(program, figure)?.quantile(1.0)
    }

    /// All that was measured of a figure.
    pub(crate) fn samples(&self, program: &str, figure: &str) -> Option<&Samples> {
        self.0
            .iter()
            .find(|row| row.program == program)?
            .figures
            .get(figure)
    }

    /// A Markdown table with a row for each program and a column for each figure: medians, and the
    /// middle half in brackets.
    pub(crate) fn markdown(&self, figures: &[&str]) -> String {
        let mut text = format!(
            "| |{}\n|---|{}\n",
            figures.join(" | ") + " |",
            "---:|".repeat(figures.len())
        );
        for row in &self.0 {
            let cell = |figure: &&str| {
                row.figures
                    .get(*figure)
                    .map_or_else(|| "–".to_owned(), cell)
            };
            let cells: Vec<String> = figures.iter().map(cell).collect();
            text.extend([format!("| {} | {} |\n", row.program, cells.join(" | "))]);
        }
        text
    }
}

fn cell(samples: &Samples) -> String {
    let [low, middle, high] =
        [0.25, 0.5, 0.75].map(|share| samples.quantile(share).unwrap_or_default());
    let middle_text = number(middle);
    if (high - low).abs() <= middle.abs() * 0.005 {
        middle_text
    } else {
        format!("{middle_text} ({}–{})", number(low), number(high))
    }
}

/// A number with three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99_950.0 => {
            let whole = format!("{value:.0}");
            let (sign, digits) = whole
                .strip_prefix('-')
                .map_or(("", whole.as_str()), |digits| ("-", digits));
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| str::from_utf8(group).ok())
                .collect();
            format!("{sign}{}", groups.join(","))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Text of a number without insignificant digits.
pub(crate) fn rounded(number: f64) -> String {
    let digits = if number < 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    };
    let (whole, rest) = digits.split_once('.').unwrap_or((&digits, ""));
    let rest = if rest.is_empty() || rest == "0" {
        String::new()
    } else {
        format!(".{rest}")
    };
    let groups: Vec<&str> = whole
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| str::from_utf8(group).ok())
        .collect();
    format!("{}{rest}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_a_figure_without_samples_has_none() {
        let mut figures = Figures::default();
        assert_eq!(figures.median("ingest", "INIT ms"), None);
        for value in [3.0, 1.0, 2.0] {
            figures.add("ingest", "INIT ms", value);
        }
        assert_eq!(figures.median("ingest", "INIT ms"), Some(2.0));
        assert_eq!(Samples::default().quantile(0.5), None);
    }

    #[test]
    fn a_table_shows_medians_with_the_middle_half() {
        let mut figures = Figures::default();
        for value in [1.0, 2.0, 3.0, 4.0, 5.0] {
            figures.add("ingest", "µs", value);
        }
        let expected = "| |µs | CPU |\n|---|---:|---:|\n| ingest | 3.00 (2.00–4.00) | – |\n";
        assert_eq!(figures.markdown(&["µs", "CPU"]), expected);
    }

    #[test]
    fn numbers_have_three_digits_and_large_ones_groups() {
        assert_eq!(
            [0.123, 1.5, 15.04, 151.2, 1_234_567.8].map(number),
            ["0.12", "1.50", "15.0", "151", "1,234,568"]
        );
        assert_eq!(number(-1_234_567.0), "-1,234,567");
    }
}
