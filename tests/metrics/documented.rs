//! The table of `docs/reference/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

use crate::line::Metric;

/// Texts between backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Every metric of the table, by its name.
pub(crate) fn metrics() -> BTreeMap<String, Metric> {
    let document = include_str!("../../docs/reference/metrics.md");
    let (_, table) = document
        .split_once("| Metric | Unit | Dimension |")
        .expect("the table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let metrics = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, unit, dimension, ..] = &cells[..] else {
            panic!("a row of another table: {row}")
        };
        let mut dimension = quoted(dimension).into_iter();
        let dimension = dimension
            .next()
            .map(|name| (name, dimension.collect::<BTreeSet<_>>()));
        (quoted(name).remove(0), ((*unit).to_owned(), dimension))
    });
    metrics.collect()
}
