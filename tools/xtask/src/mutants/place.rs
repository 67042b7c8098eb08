//! Places of a mutant in the source.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A file, and the parts of it that a mutant replaces.
#[derive(Debug)]
pub(super) struct Place {
    file: PathBuf,
    text: String,
    parts: Vec<Range<usize>>,
}

impl Place {
    /// Finds `find` in a file, or in one of the sources below a folder; fails unless it occurs
    /// `times` times.
    pub(super) fn find(root: &Path, path: &Path, find: &str, times: usize) -> Result<Self> {
        ensure!(!find.trim().is_empty(), "`find` is empty");
        let mut places = Vec::new();
        for file in sources(root, path)? {
            let text = fs::read_to_string(root.join(&file))
                .with_context(|| format!("could not read {}", file.display()))?;
            let parts = occurrences(&text, find);
            if !parts.is_empty() {
                places.push(Self { file, text, parts });
            }
        }
        let found: usize = places.iter().map(|place| place.parts.len()).sum();
        ensure!(
            found == times,
            "{} has `{find}` {found} times instead of {times}",
            path.display()
        );
        ensure!(places.len() == 1, "`{find}` is in {} files", places.len());
        places.pop().context("no place")
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The file's text with each part replaced.
    pub(super) fn replaced(&self, by: &str) -> String {
        let mut text = self.text.clone();
        for part in self.parts.iter().rev() {
            text.replace_range(part.clone(), by);
        }
        text
    }
}

/// The file itself, or the Rust files below the folder but those of tests; relative to the root.
fn sources(root: &Path, path: &Path) -> Result<Vec<PathBuf>> {
    if !root.join(path).is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut sources = Vec::new();
    for entry in fs::read_dir(root.join(path))
        .with_context(|| format!("could not read {}", path.display()))?
    {
        let path = path.join(entry?.file_name());
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if !is_test && (is_rust || root.join(&path).is_dir()) {
            sources.extend(self::sources(root, &path)?);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Parts of a text that read like `find`, whatever the white space and the trailing commas.
fn occurrences(text: &str, find: &str) -> Vec<Range<usize>> {
    let (text, find) = (squeezed(text), squeezed(find));
    let (places, wanted): (Vec<_>, Vec<_>) = (
        text.iter().map(|(at, _)| *at).collect(),
        find.iter().map(|(_, c)| *c).collect(),
    );
    let text: Vec<_> = text.into_iter().map(|(_, c)| c).collect();
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (start, window) in text.windows(wanted.len().max(1)).enumerate() {
        let last = start + wanted.len() - 1;
        if window == wanted && parts.last().is_none_or(|part| part.end <= places[start]) {
            parts.push(places[start]..places[last] + text[last].len_utf8());
        }
    }
    parts
}

/// Characters of a text with their places, without white space and trailing commas.
fn squeezed(text: &str) -> Vec<(usize, char)> {
    let is_closing = |at: usize| text[at..].trim_start().starts_with([')', ']', '}']);
    let is_ignored = |at: usize, c: char| c.is_whitespace() || (c == ',' && is_closing(at + 1));
    text.char_indices()
        .filter(|(at, c)| !is_ignored(*at, *c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatting_does_not_matter() {
        let source = "let a = f(\n    one,\n    two,\n);\nlet b = g(one);";
        let found: Vec<_> = occurrences(source, "f(one, two)")
            .into_iter()
            .map(|part| &source[part])
            .collect();
        assert_eq!(found, ["f(\n    one,\n    two,\n)"]);
        assert_eq!(occurrences(source, "one").len(), 2);
        assert!(occurrences(source, "three").is_empty());
    }

    #[test]
    fn place_is_the_only_one_or_an_error() {
        let root = crate::workspace::root();
        let here = Path::new("tools/xtask/src/mutants");
        let place =
            Place::find(root, here, &["struct", " Place"].concat(), 1).expect("this file has one");
        assert!(
            place
                .replaced("struct Other")
                .contains("pub(super) struct Other {")
        );
        let error =
            Place::find(root, here, &["no", "such"].concat(), 1).expect_err("there is none");
        assert!(
            error.to_string().contains("0 times instead of 1"),
            "{error}"
        );
    }
}
