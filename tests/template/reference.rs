//! The generated parts of the reference pages, made of the template and of the tables in the code.
//!
//! `cargo xtask docs --write` writes them. Otherwise a page that is stale fails its test.

use genesys_relay::runtime::config::Variable;
use genesys_relay::runtime::metrics::{self, Metric};
use regex_lite::Regex;

use super::*;

const BEGIN: &str = "<!-- generated: cargo xtask docs --write -->\n";
const END: &str = "\n<!-- end of what is generated -->";

/// Compares the generated part of a page with `text`, or writes it.
fn check(page: &str, text: &str) {
    let found = file(page);
    let (head, rest) = found.split_once(BEGIN).expect("the beginning");
    let (_, tail) = rest.split_once(END).expect("the end");
    let current = format!("{head}{BEGIN}\n{}\n{END}{tail}", text.trim());
    if std::env::var_os("GENESYS_RELAY_WRITE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        std::fs::write(path, current).expect("written");
    } else {
        let is_current = found == current;
        assert!(is_current, "{page} is stale; run cargo xtask docs --write");
    }
}

fn table<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace("|  |", "| |"));
    let rows: String = rows.into_iter().map(|cells| line(&cells)).collect();
    line(&columns.map(str::to_owned)) + &"|---".repeat(N) + "|\n" + &rows
}

fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}

fn list(values: impl IntoIterator<Item = String>) -> String {
    values.into_iter().collect::<Vec<_>>().join(", ")
}

/// A text of the template as Markdown, on one line.
fn prose(yaml: &Yaml) -> String {
    let text = yaml.as_str().expect("a text").trim();
    text.replace('*', "\\*").replace('<', "\\<")
}

/// The values that a parameter can have.
fn allowed(parameter: &Yaml) -> String {
    let bound = |name: &str| scalar(&parameter[name]);
    if let Some(values) = parameter["AllowedValues"].as_vec() {
        list(values.iter().map(|value| match scalar(value) {
            Some(text) if !text.is_empty() => code(text),
            _ => "empty".to_owned(),
        }))
    } else if let (Some(least), Some(most)) = (bound("MinValue"), bound("MaxValue")) {
        format!("{least} to {most}")
    } else {
        let must = prose(&parameter["ConstraintDescription"]);
        let must = must.trim_end_matches('.').trim_start_matches("must be ");
        must.to_owned()
    }
}

#[test]
fn parameters_variables_and_outputs_are_documented() {
    let template = template();
    let mut page = Vec::new();
    let groups = &template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"];
    let mut grouped = BTreeSet::new();
    for group in groups.as_vec().expect("groups") {
        let names = group["Parameters"].as_vec().expect("names").iter();
        let rows = names.map(|name| {
            let name = name.as_str().expect("a name");
            let parameter = &template["Parameters"][name];
            grouped.insert(name.to_owned());
            let default = match scalar(&parameter["Default"]) {
                None => "none".to_owned(),
                Some(empty) if empty.is_empty() => "empty".to_owned(),
                Some(default) => code(default),
            };
            let meaning = prose(&parameter["Description"]);
            [code(name), default, allowed(parameter), meaning]
        });
        let title = group["Label"]["default"].as_str().expect("a title");
        let rows = table(["parameter", "default", "allowed", "meaning"], rows);
        page.push(format!("## {title}\n\n{rows}\n"));
    }
    let parameters = entries(&template["Parameters"]).map(|(name, _)| name);
    assert_eq!(parameters.collect::<BTreeSet<_>>(), grouped);

    let outputs = entries(&template["Outputs"]);
    let rows = outputs.map(|(name, output)| [code(name), prose(&output["Description"])]);
    page.push(format!(
        "## Outputs\n\n{}\n",
        table(["output", "meaning"], rows)
    ));

    for (function, logical_id) in FUNCTIONS {
        // It has those of replay.
        if logical_id == "LookFunction" {
            continue;
        }
        let set = resource(&template, logical_id)["Properties"]["Environment"]["Variables"].clone();
        let rows = variables::of(function).into_iter().map(|variable| {
            let Variable { name, meaning, .. } = variable;
            let (_, from) = conditional(&set[name]);
            let from = from.as_str().filter(|from| grouped.contains(*from));
            let from = from.map_or_else(|| "the template".to_owned(), code);
            [code(name), from, variable.bounds, meaning.to_owned()]
        });
        let rows = table(["variable", "set by", "value", "meaning"], rows);
        page.push(format!("## Variables of {function}\n\n{rows}\n"));
    }
    check("docs/reference/configuration.md", &page.concat());
}

#[test]
fn metrics_are_documented() {
    let all = metrics::all();
    let of_filters = resources_of(&template(), "AWS::Logs::MetricFilter").len();
    let without = all.iter().filter(|metric| metric.dimension.is_none());
    let without = without.count() + of_filters;
    let values = all.iter().filter_map(|metric| metric.dimension.as_ref());
    let values: usize = values.map(|(_, values)| values.len()).sum();
    let cents = 30 * (without + values);
    let rows = all.into_iter().map(|metric| {
        let Metric {
            name,
            unit,
            dimension,
            written_by,
            meaning,
        } = metric;
        let dimension = dimension
            .map(|(name, values)| format!("{}: {}", code(name), list(values.iter().map(code))));
        let dimension = dimension.unwrap_or_default();
        [
            code(name),
            unit.to_owned(),
            dimension,
            written_by.to_owned(),
            meaning,
        ]
    });
    let rows = table(
        ["metric", "unit", "dimension", "written by", "meaning"],
        rows,
    );
    let page = format!(
        "{rows}\n{without} metrics without a dimension, with the {of_filters} of the access log, and {values} \
         values of dimensions: at $0.30 each, at most ${}.{:02} a month.",
        cents / 100,
        cents % 100
    );
    check("docs/reference/metrics.md", &page);
}

/// The values of an alarm that it rings at, and the time that they must last.
fn condition(alarm: &Yaml) -> String {
    let value = |name: &str| match &alarm[name] {
        Yaml::Array(parts) => match parts[1].as_str() {
            Some(parameter) => format!("a value by {}", code(parameter)),
            None => list(parts[1..].iter().filter_map(scalar)).replace(", ", " or "),
        },
        constant => scalar(constant).expect("a value"),
    };
    let [threshold, periods, period] = ["Threshold", "EvaluationPeriods", "Period"].map(value);
    let statistic = prose(&alarm["Statistic"]);
    let sign = match alarm["ComparisonOperator"].as_str() {
        Some("GreaterThanOrEqualToThreshold") => "≥",
        Some("LessThanThreshold") => "\\<",
        other => panic!("no sign for {other:?}"),
    };
    let or_missing = match alarm["TreatMissingData"].as_str() {
        Some("breaching") => ", or no data",
        _ => "",
    };
    let periods = match scalar(&alarm["DatapointsToAlarm"]) {
        Some(failing) => format!("in {failing} of {periods}"),
        None => format!("for {periods}"),
    };
    format!("{statistic} {sign} {threshold} {periods} × {period} s{or_missing}")
}

#[test]
fn alarms_are_documented() {
    let rows = alarms::alarms(&template()).into_values().map(|alarm| {
        let properties = &alarm["Properties"];
        let text = |name: &str| prose(&properties[name]);
        let name = text("AlarmName").replace("${AWS::StackName}-alarm-", "");
        let description = text("AlarmDescription")
            .replace("${", "`")
            .replace('}', "`");
        let (meaning, runbook) = description
            .split_once(" Runbook: `RunbookUrl`/")
            .expect("both");
        let runbook = format!("[{}](runbooks/{runbook})", runbook.trim_end_matches(".md"));
        [
            code(name),
            code(text("MetricName")),
            condition(properties),
            meaning.to_owned(),
            runbook,
        ]
    });
    let rows = table(["alarm", "metric", "rings at", "meaning", "runbook"], rows);
    check("docs/operate/alarms.md", &rows);
}

/// A struct or an enum as the source has it: its members with type and documentation.
fn members(source: &str, kind: &str, name: &str) -> Vec<[String; 3]> {
    let (_, body) = source
        .split_once(&format!("pub {kind} {name} {{\n"))
        .expect(name);
    let (body, _) = body.split_once("\n}").expect("its end");
    let member = Regex::new(r"^(?:pub )?(\w+)(?:: (.+)|\((.+)\))?,$").expect("a pattern");
    let (mut members, mut docs) = (Vec::new(), Vec::new());
    let mut is_optional = false;
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            docs.push(text.trim());
        } else if line == "#[serde(default)]" {
            is_optional = true;
        } else if let Some(found) = member.captures(line) {
            let kind = found
                .get(2)
                .or(found.get(3))
                .map_or("", |kind| kind.as_str());
            let optional = if is_optional {
                format!("Option<{kind}>")
            } else {
                kind.to_owned()
            };
            members.push([found[1].to_owned(), optional, docs.join(" ")]);
            (docs, is_optional) = (Vec::new(), false);
        }
    }
    members
}

/// A type of the requests as JSON has it.
fn json_type(rust: &str) -> String {
    let words = |words: &[&str]| list(words.iter().map(code));
    match rust {
        "String" => "text".to_owned(),
        "bool" => "true or false".to_owned(),
        "u16" | "u32" => "whole number".to_owned(),
        "Timestamp" => "time (RFC 3339)".to_owned(),
        "Date" => "day, such as `2026-11-29`".to_owned(),
        "EventId" => "id of an event".to_owned(),
        "Vec<EventId>" => "list of ids".to_owned(),
        "Filter" | "ResendFilter" => "object".to_owned(),
        "Source" => words(&Source::ALL.map(Source::as_str)),
        "ReasonKind" => words(&ReasonKind::ALL.map(ReasonKind::as_str)),
        other => panic!("no words for the type {other}"),
    }
}

/// A field's name in JSON.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        name + &word[..1].to_uppercase() + &word[1..]
    })
}

#[test]
fn actions_of_the_replay_function_are_documented() {
    let folder = "src/dead_letters/api/request";
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let names = files
        .expect("a folder")
        .map(|entry| entry.expect("a file").file_name());
    let source: String = names
        .map(|name| file(&format!("{folder}/{}", name.to_string_lossy())))
        .collect();
    let mut page = Vec::new();
    for [action, request, meaning] in members(&source, "enum", "RequestBody") {
        page.push(format!("## {}\n\n{meaning}\n\n", action.to_lowercase()));
        if request.is_empty() {
            continue;
        }
        let rows = members(&source, "struct", &request)
            .into_iter()
            .map(|[name, kind, meaning]| {
                let optional = kind
                    .strip_prefix("Option<")
                    .and_then(|kind| kind.strip_suffix('>'));
                let needed = if optional.is_some() { "" } else { "yes" };
                let kind = json_type(optional.unwrap_or(&kind));
                [code(camel_case(&name)), needed.to_owned(), kind, meaning]
            });
        page.push(format!(
            "{}\n",
            table(["field", "required", "value", "meaning"], rows)
        ));
    }
    check("docs/reference/actions.md", &page.concat());
}

#[test]
fn receivers_checks_are_those_that_are_tested() {
    let checks = [
        ("Python", "python", "verify.py"),
        ("JavaScript", "js", "verify.mjs"),
        ("Rust", "rust", "verify.rs"),
    ];
    let page = checks.map(|(language, fence, name)| {
        let code = file(&format!("examples/verify/{name}"));
        format!("### {language}\n\n```{fence}\n{}\n```\n\n", code.trim())
    });
    check("docs/use/verify-signatures.md", &page.concat());
}
