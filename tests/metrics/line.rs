//! A line in the embedded metric format, read as its specification has it ("Specification: Embedded
//! metric format").

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::NAMESPACE;

/// Unit of a metric, and its dimension with all its values.
pub(crate) type Metric = (String, Option<(String, BTreeSet<String>)>);

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// As it is written.
    pub(crate) whole: String,
    /// The one dimension that its metrics have, and its value.
    dimension: Option<(String, String)>,
    /// The values of each metric, and its unit.
    metrics: BTreeMap<String, (String, Vec<f64>)>,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

impl Line {
    /// Reads it, and sees that it is all that the specification asks for, and nothing else.
    pub(crate) fn read(whole: &str) -> Self {
        let mut members: Map<String, Value> = serde_json::from_str(whole).expect("an object");
        let head = members.remove("_aws").expect("metadata");
        let year_2020 = 1_577_836_800_000;
        assert!(
            head["Timestamp"]
                .as_u64()
                .is_some_and(|time| time > year_2020),
            "in milliseconds: {head}"
        );
        let [directive] = list(&head["CloudWatchMetrics"]) else {
            panic!("one directive: {head}")
        };
        assert_eq!(directive["Namespace"], NAMESPACE);
        let [names] = list(&directive["Dimensions"]) else {
            panic!("one set of dimensions: {head}")
        };
        assert!(list(names).len() < 2, "few dimensions: {head}");
        let dimension = list(names).first().map(text);
        let dimension = dimension.map(|name| {
            (
                name.clone(),
                text(&members.remove(&name).expect("its value")),
            )
        });
        let metrics = list(&directive["Metrics"]).iter().map(|definition| {
            let name = text(&definition["Name"]);
            let values = match members.remove(&name).expect("a value") {
                Value::Array(values) => values,
                value => vec![value],
            };
            assert!((1..=100).contains(&values.len()), "{} values", values.len());
            let values = values
                .iter()
                .map(|value| value.as_f64().expect("a number"))
                .collect();
            (name, (text(&definition["Unit"]), values))
        });
        let metrics: BTreeMap<_, _> = metrics.collect();
        assert!((1..=100).contains(&metrics.len()), "{head}");
        assert!(members.is_empty(), "nothing else: {members:?}");
        Self {
            whole: whole.to_owned(),
            dimension,
            metrics,
        }
    }
}

/// The values of a metric, with that of its dimension.
pub(crate) fn of(lines: &[Line], name: &str) -> Vec<(Option<String>, Vec<f64>)> {
    let values = |line: &Line| {
        let (_, values) = line.metrics.get(name)?;
        Some((
            line.dimension.as_ref().map(|(_, value)| value.clone()),
            values.clone(),
        ))
    };
    lines.iter().filter_map(values).collect()
}

/// Every metric that the lines hold, by its name.
pub(crate) fn written(lines: &[Line]) -> BTreeMap<String, Metric> {
    let mut written = BTreeMap::<String, Metric>::new();
    for line in lines {
        for (name, (unit, _)) in &line.metrics {
            let of_line = line
                .dimension
                .clone()
                .map(|(dimension, value)| (dimension, BTreeSet::from([value])));
            match written.get_mut(name) {
                None => drop(written.insert(name.clone(), (unit.clone(), of_line))),
                Some((known, dimension)) => {
                    assert_eq!(known, unit, "{name} has one unit");
                    match (dimension, of_line) {
                        (None, None) => {}
                        (Some((known, values)), Some((dimension, more))) => {
                            assert_eq!(*known, dimension, "{name} has one dimension");
                            values.extend(more);
                        }
                        (known, other) => panic!("{name} has {known:?} and {other:?}"),
                    }
                }
            }
        }
    }
    written
}
