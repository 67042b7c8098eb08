//! Check of the relative links and anchors of all Markdown files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use regex_lite::Regex;

use crate::anchors::anchors;
use crate::workspace::{files, root};

/// Fails with file, line and link of each link that leads nowhere.
pub(crate) fn check_links() -> Result<()> {
    let is_page = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "md");
    let mut pages = BTreeMap::new();
    for file in files()?.into_iter().filter(is_page) {
        let text = fs::read_to_string(root().join(&file))
            .with_context(|| format!("could not read {}", file.display()))?;
        pages.insert(file, text);
    }
    let anchors: BTreeMap<_, _> = pages
        .iter()
        .map(|(file, text)| (file.as_path(), anchors(&without_blocks(text))))
        .collect();
    let (mut checked, mut broken) = (0, Vec::new());
    for (file, text) in &pages {
        for (line, link) in links(text) {
            checked += 1;
            if let Some(problem) = problem(file, &link, &anchors) {
                broken.push(format!("{}:{line}: {link}: {problem}", file.display()));
            }
        }
    }
    ensure!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
    println!(
        "{checked} relative links in {} Markdown files lead somewhere",
        pages.len()
    );
    Ok(())
}

/// Reason why a link of this page leads nowhere.
fn problem(file: &Path, link: &str, anchors: &BTreeMap<&Path, BTreeSet<String>>) -> Option<String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        resolve(file, path)?
    };
    if !root().join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    match anchors.get(target.as_path()) {
        Some(known) => (!known.contains(anchor))
            .then(|| format!("{} has no heading #{anchor}", target.display())),
        None => Some(format!(
            "{} is no Markdown file and has no anchors",
            target.display()
        )),
    }
}

/// Path of a link's target from the root.
fn resolve(file: &Path, link: &str) -> Option<PathBuf> {
    let mut resolved = file.parent()?.to_owned();
    for part in Path::new(&link.replace("%20", " ")).components() {
        match part {
            Component::ParentDir => _ = resolved.pop(),
            Component::Normal(name) => resolved.push(name),
            // From the root: a forge takes it for the root of the repository.
            Component::RootDir => resolved = PathBuf::new(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(resolved)
}

/// Relative links of a page, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let text = without_spans(&without_blocks(text));
    let pattern = r#"\]\(<?([^)\s>]+)>?[^)]*\)|(?m)^\s*\[[^\]]+\]:\s*(\S+)|(?:href|src)="([^"]+)""#;
    let pattern = Regex::new(pattern).expect("a pattern");
    let found = pattern
        .captures_iter(&text)
        .filter_map(|found| found.get(1).or(found.get(2)).or(found.get(3)));
    let is_relative = |link: &str| !link.contains("://") && !link.starts_with("mailto:");
    let found = found.filter(|link| is_relative(link.as_str()));
    found
        .map(|link| {
            (
                text[..link.start()].matches('\n').count() + 1,
                link.as_str().to_owned(),
            )
        })
        .collect()
}

/// The page with its fenced blocks as empty lines.
fn without_blocks(text: &str) -> String {
    let (mut fence, mut kept) = (None, String::new());
    for line in text.lines() {
        let marker = ["```", "~~~"]
            .into_iter()
            .find(|marker| line.trim_start().starts_with(marker));
        match (fence, marker) {
            (None, None) => kept.push_str(line),
            (None, Some(_)) => fence = marker,
            (Some(open), Some(close)) if open == close => fence = None,
            (Some(_), _) => {}
        }
        kept.push('\n');
    }
    kept
}

/// The page with blanks in place of code between backticks, which ends at the next empty line at
/// the latest.
fn without_spans(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let (mut kept, mut rest) = (String::new(), paragraph);
        while let Some(start) = rest.find('`') {
            let ticks = rest[start..].chars().take_while(|c| *c == '`').count();
            let inside = &rest[start + ticks..];
            kept.push_str(&rest[..start]);
            let Some(end) = inside.find(&"`".repeat(ticks)) else {
                rest = inside;
                continue;
            };
            kept.extend(
                inside[..end]
                    .chars()
                    .map(|c| if c == '\n' { c } else { ' ' }),
            );
            rest = &inside[end + ticks..];
        }
        kept + rest
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found_with_their_lines() {
        let page = "[a](b.md) and `[no](code.md)`\n```sh\n[no](block.md)\n```\n\n[two\nlines](c.md#d \"title\") [x](https://e.org)\n\
                    [ref]: f.md\n<img src=\"g.png\">";
        let expected = [(1, "b.md"), (7, "c.md#d"), (8, "f.md"), (9, "g.png")];
        assert_eq!(
            links(page),
            expected.map(|(line, link)| (line, link.to_owned()))
        );
    }

    #[test]
    fn links_resolve_from_their_page() {
        let resolve = |link| resolve(Path::new("docs/use/a.md"), link).expect("a page in a folder");
        assert_eq!(resolve("../operate/b.md"), Path::new("docs/operate/b.md"));
        assert_eq!(resolve("/README.md"), Path::new("README.md"));
    }

    #[test]
    fn missing_files_and_missing_headings_are_reported() {
        let page = Path::new("README.md");
        let anchors = BTreeMap::from([(page, BTreeSet::from(["here".to_owned()]))]);
        assert_eq!(problem(page, "#here", &anchors), None);
        assert_eq!(problem(page, "Cargo.toml", &anchors), None);
        assert_eq!(
            problem(page, "#gone", &anchors).as_deref(),
            Some("README.md has no heading #gone")
        );
        assert_eq!(
            problem(page, "no/such.md", &anchors).as_deref(),
            Some("there is no no/such.md")
        );
        assert!(problem(page, "Cargo.toml#x", &anchors).is_some());
    }
}
