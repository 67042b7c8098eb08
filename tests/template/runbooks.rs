//! `docs/runbooks` against the template and the code: functions accept the requests in them, and the names exist.

use genesys_relay::breaker::Request as Breaker;
use genesys_relay::dead_letters::Request as Replay;

use super::*;

/// Each page but the table of contents, by name.
fn runbooks() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let names = std::fs::read_dir(&folder).expect("docs/runbooks").map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != "README.md");
    let pages: Vec<_> = names.map(|name| (name.clone(), file(&format!("docs/runbooks/{name}")))).collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

#[test]
fn each_runbook_has_the_same_parts_and_is_in_the_table() {
    let contents = file("docs/runbooks/README.md");
    for (name, page) in runbooks() {
        let mut rest = page.as_str();
        for part in ["# ", "**You see**", "**It means**", "**You have**", "## Look", "## Do", "## Afterwards"] {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{name}: no {part}, or not in its place"));
            rest = after;
        }
        assert!(contents.contains(&format!("({name})")), "{name}");
    }
}

/// `relay replay '{…}'`, as the table of contents defines it.
#[test]
fn every_request_is_one_that_its_function_understands() {
    let mut requests = 0;
    for (name, page) in runbooks() {
        for call in page.split("relay ").skip(1) {
            let Some((function, json)) = call.split_once(" '") else { continue };
            if !["replay", "breaker", "recovery"].contains(&function) {
                continue;
            }
            let text = json.split('\'').next().unwrap_or_default();
            let request: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {text}: {error}"));
            let refused = match function {
                "replay" => Replay::parse(request, "a runbook").err(),
                "breaker" => Breaker::parse(request, "a runbook").err(),
                _ => Recovery::parse(request, "a runbook", Timestamp::now()).err(),
            };
            assert!(refused.is_none(), "{name}: {text}: {refused:?}");
            requests += 1;
        }
    }
    assert!(requests > 20, "only {requests} were found");
}

#[test]
fn parameters_outputs_pages_and_samples_that_are_named_are_there() {
    let template = template();
    let is_name = |c: char| c.is_ascii_alphanumeric();
    for (name, page) in runbooks() {
        for (before, after) in page.match_indices('=').map(|(at, _)| page.split_at(at)) {
            let word = before.rsplit(|c| !is_name(c)).next().unwrap_or_default();
            let is_parameter = word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.contains(|c: char| c.is_ascii_lowercase())
                && !after.starts_with("==");
            assert!(!is_parameter || !template["Parameters"][word].is_badvalue(), "{name}: {word}");
        }
        for output in page.split("$(output ").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(!template["Outputs"][output].is_badvalue(), "{name}: {output}");
        }
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (page, heading) = link.split_once('#').unwrap_or((link, ""));
            let headings = file(&format!("docs/runbooks/{page}")).lines().map(anchor).collect::<BTreeSet<_>>();
            assert!(heading.is_empty() || headings.contains(heading), "{link}");
        }
        for sample in page.split("events/").skip(1).filter_map(|rest| rest.split_once(".json")) {
            file(&format!("events/{}.json", sample.0));
        }
    }
}

/// What a heading is linked by; of another line, nothing that a link names.
fn anchor(line: &str) -> String {
    line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")
}
