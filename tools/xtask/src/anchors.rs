//! Anchors that a forge makes of the headings of a Markdown page.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;

/// Anchors of a page: one per heading, and those written in HTML. `text` is without its code
/// blocks.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor = anchor(title);
        let count = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 {
            anchor
        } else {
            format!("{anchor}-{count}")
        });
        *count += 1;
    }
    let html = Regex::new(r#"<a (?:id|name)="([^"]+)""#).expect("a pattern");
    anchors.extend(html.captures_iter(text).map(|found| found[1].to_owned()));
    anchors
}

/// Anchor of a heading, as GitHub derives it.
fn anchor(title: &str) -> String {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("a pattern");
    let title = link.replace_all(title.trim(), "$1").to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_anchors_as_on_github() {
        let page = "# What it *is*\n\n## `cargo local`: run it\n## Twice\n## Twice\n#hash\n<a id=\"own\"></a>\n## See [x](y.md)";
        let found: Vec<_> = anchors(page).into_iter().collect();
        assert_eq!(
            found,
            [
                "cargo-local-run-it",
                "own",
                "see-x",
                "twice",
                "twice-1",
                "what-it-is"
            ]
        );
    }
}
