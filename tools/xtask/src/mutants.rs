//! Mutants: named changes of one place each that break a guarantee of the relay. The simulation
//! must notice every one.

mod place;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use regex_lite::Regex;
use serde::Deserialize;

use self::place::Place;
use crate::workspace::{cargo_test, files, root};

const LIST: &str = "tests/simulation/mutants.toml";

/// Page with the table of all mutants.
const PAGE: &str = "docs/develop/mutants.md";

/// Copy of the repository that is mutated.
const COPY: &str = "target/mutants";

/// Seeds that a mutant gets.
const SEEDS: &str = "2000";

#[derive(Args)]
pub(crate) struct Options {
    /// Mutants to apply [default: all, and write what notices them to mutants.toml and the page]
    names: Vec<String>,
    /// Only check that each mutant still finds its place, and that the page is up to date
    #[arg(long)]
    check: bool,
    /// Only write the page
    #[arg(long, conflicts_with = "check")]
    page: bool,
}

#[derive(Deserialize)]
struct MutantFile {
    mutant: Vec<Mutant>,
}

/// One entry of `mutants.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    what: String,
    /// File or folder with the place.
    path: PathBuf,
    /// Text of the place; white space does not count.
    find: String,
    replace: String,
    /// Number of places, all of them in one file.
    #[serde(default = "once")]
    times: usize,
    /// First seed that notices, or `any` for a test that needs none.
    seed: String,
    invariant: String,
}

fn once() -> usize {
    1
}

/// First seed and invariant that notice a mutant.
struct Notice {
    seed: String,
    invariant: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let text =
        fs::read_to_string(root().join(LIST)).with_context(|| format!("could not read {LIST}"))?;
    let mut mutants = toml::from_str::<MutantFile>(&text)
        .with_context(|| format!("{LIST} is not a list of mutants"))?
        .mutant;
    let names: BTreeSet<_> = mutants.iter().map(|mutant| mutant.name.clone()).collect();
    ensure!(
        names.len() == mutants.len(),
        "a name occurs twice in {LIST}"
    );
    if let Some(unknown) = options.names.iter().find(|name| !names.contains(*name)) {
        bail!(
            "no mutant is called {unknown}; there are: {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let is_chosen =
        |mutant: &Mutant| options.names.is_empty() || options.names.contains(&mutant.name);
    if options.page {
        return write_page(&mutants);
    }
    if options.check {
        return check(&mutants);
    }
    copy_repository()?;
    let mut missed = Vec::new();
    for mutant in mutants.iter_mut().filter(|mutant| is_chosen(mutant)) {
        let Some(notice) = mutant.notice()? else {
            println!("{}: NOT NOTICED", mutant.name);
            missed.push(mutant.name.clone());
            continue;
        };
        println!(
            "{}: seed {}: {}",
            mutant.name, notice.seed, notice.invariant
        );
        (mutant.seed, mutant.invariant) = (notice.seed, notice.invariant);
    }
    if options.names.is_empty() && missed.is_empty() {
        fs::write(root().join(LIST), with_notices(&text, &mutants))
            .with_context(|| format!("could not write {LIST}"))?;
        write_page(&mutants)?;
    }
    ensure!(
        missed.is_empty(),
        "the simulation does not notice: {}",
        missed.join(", ")
    );
    Ok(())
}

/// Fails when a mutant does not find its place, or the page is stale.
fn check(mutants: &[Mutant]) -> Result<()> {
    let problems: Vec<_> = mutants
        .iter()
        .filter_map(|mutant| mutant.place().err())
        .map(|e| format!("{e:#}"))
        .collect();
    ensure!(
        problems.is_empty(),
        "mutants that do not find their place:\n{}",
        problems.join("\n")
    );
    let written = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    ensure!(
        written == page(mutants),
        "{PAGE} is stale: run `cargo xtask mutants --page`"
    );
    println!("all {} mutants find their place", mutants.len());
    Ok(())
}

impl Mutant {
    fn place(&self) -> Result<Place> {
        Place::find(root(), &self.path, &self.find, self.times).with_context(|| self.name.clone())
    }

    /// Runs the simulation over the copy with this mutant in it.
    fn notice(&self) -> Result<Option<Notice>> {
        let place = self.place()?;
        let file = root().join(COPY).join(place.file());
        let original = fs::read_to_string(&file)
            .with_context(|| format!("could not read {}", file.display()))?;
        fs::write(&file, place.replaced(&self.replace))?;
        let notice = simulate(&self.name);
        fs::write(&file, original)?;
        notice
    }
}

/// Runs the simulation in the copy. Where the breaker is late, the tests of its timeliness notice
/// sooner than many seeds, and where credentials fail, the test of them.
fn simulate(name: &str) -> Result<Option<Notice>> {
    let seed = Regex::new(r"(?m)^seed (\d+): (.*?)(?: \(after [\d.]+ s\))?$").expect("a pattern");
    let failed_test = Regex::new(r"(?m)^    (?:timeliness::)?(\w+)$").expect("a pattern");
    let last = "the_credentials_are_mended";
    for tests in ["no_event_is_lost_under_any_faults", "timeliness", last] {
        let mut command = cargo_test(&["--quiet", "--workspace", "--test", "simulation", tests]);
        // A folder of its own: cargo would take what it builds here for the repository's own.
        command
            .current_dir(root().join(COPY))
            .env("CARGO_TARGET_DIR", target_folder().join("mutants-build"))
            .env("GENESYS_RELAY_SEEDS", SEEDS);
        let output = command.output().context("could not start cargo")?;
        let text = [output.stdout, output.stderr]
            .map(|part| String::from_utf8_lossy(&part).into_owned())
            .concat();
        ensure!(
            !text.contains("could not compile"),
            "{name} does not compile:\n{text}"
        );
        let first = seed
            .captures_iter(&text)
            .filter_map(|found| Some((found[1].parse::<u64>().ok()?, found)))
            .min_by_key(|(n, _)| *n);
        if let Some((_, found)) = first {
            return Ok(Some(Notice {
                seed: found[1].to_owned(),
                invariant: without_ids(&found[2]),
            }));
        }
        if let Some(failed) = failed_test
            .captures_iter(&text)
            .map(|found| found[1].to_owned())
            .min()
        {
            return Ok(Some(Notice {
                seed: "any".to_owned(),
                invariant: format!("{failed} fails"),
            }));
        }
        ensure!(
            tests != last || output.status.success(),
            "the simulation failed for another reason:\n{text}"
        );
    }
    Ok(None)
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// An invariant's message with `an event` in place of each id.
fn without_ids(message: &str) -> String {
    let id = Regex::new(r"(^|[^\w-])[\w-]{43}($|[^\w-])").expect("a pattern");
    let message = id.replace_all(message, "${1}an event${2}");
    let many =
        Regex::new(r#"(?:EventId\("an event"\), ){3,}EventId\("an event"\)"#).expect("a pattern");
    many.replace_all(&message, r#"EventId("an event"), …"#)
        .into_owned()
}

/// Copies what git tracks or would track, and leaves files alone that are the same: Cargo goes by
/// their times.
fn copy_repository() -> Result<()> {
    let (from, to) = (root(), root().join(COPY));
    let files = files()?;
    for file in &files {
        let content = fs::read(from.join(file))?;
        let copy = to.join(file);
        if fs::read(&copy).ok().as_ref() != Some(&content) {
            fs::create_dir_all(copy.parent().context("a file in a folder")?)?;
            fs::write(&copy, content)
                .with_context(|| format!("could not write {}", copy.display()))?;
        }
    }
    let files: BTreeSet<_> = files.into_iter().map(|file| to.join(file)).collect();
    remove_others(&to, &files)
}

/// Removes the files below a folder that are not listed.
fn remove_others(folder: &Path, files: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                remove_others(&path, files)?;
            }
        } else if !files.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The list with each mutant's `seed` and `invariant` replaced.
fn with_notices(text: &str, mutants: &[Mutant]) -> String {
    let (mut written, mut current) = (String::new(), None);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            current = mutants.iter().find(|mutant| name == quoted(&mutant.name));
        }
        let _ = match current {
            Some(mutant) if line.starts_with("seed = ") => {
                writeln!(written, "seed = {}", quoted(&mutant.seed))
            }
            Some(mutant) if line.starts_with("invariant = ") => {
                writeln!(written, "invariant = {}", quoted(&mutant.invariant))
            }
            _ => writeln!(written, "{line}"),
        };
    }
    written
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn write_page(mutants: &[Mutant]) -> Result<()> {
    let path = root().join(PAGE);
    fs::create_dir_all(path.parent().context("a page in a folder")?)?;
    fs::write(path, page(mutants)).with_context(|| format!("could not write {PAGE}"))
}

fn page(mutants: &[Mutant]) -> String {
    let mut page = "\
<!-- Written by `cargo xtask mutants` from tests/simulation/mutants.toml. -->
# Mutants that the simulation notices

Each mutant breaks one guarantee of the relay at one place. `cargo xtask mutants` applies one after the other to a copy under
`target/mutants`, runs the simulation, and records the first seed that notices and the invariant that fails.

- `cargo xtask mutants NAME…` applies single mutants.
- `cargo xtask mutants --check` checks that each mutant still finds its place in the source exactly once. `.ci/run` does that.

To add a mutant, add an entry to `tests/simulation/mutants.toml`. Choose a short text for `find`: white space does not count, and `path`
may be a folder, so that formatting and moving do not matter.

| mutant | change | seed | failed invariant |
|---|---|---|---|
"
    .to_owned();
    for Mutant {
        name,
        what,
        seed,
        invariant,
        ..
    } in mutants
    {
        let invariant = invariant.replace('|', "\\|").replace('<', "&lt;");
        let _ = writeln!(page, "| {name} | {what} | {seed} | {invariant} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_written_to_their_mutant() {
        let text = "[[mutant]]\nname = \"a\"\nseed = \"1\"\ninvariant = \"x\"\n";
        let list = format!("{text}what = \"\"\npath = \"\"\nfind = \"\"\nreplace = \"\"\n");
        let mut mutants = toml::from_str::<MutantFile>(&list).expect("a list").mutant;
        (mutants[0].seed, mutants[0].invariant) = ("2".to_owned(), r#"says "y\""#.to_owned());
        let written = with_notices(&list, &mutants);
        let again = toml::from_str::<MutantFile>(&written)
            .expect("a list")
            .mutant;
        assert_eq!(
            (&*again[0].seed, &*again[0].invariant),
            ("2", r#"says "y\""#)
        );
    }

    #[test]
    fn ids_do_not_occur_in_the_page() {
        let id = "a".repeat(43);
        assert_eq!(
            without_ids(&format!("LOST: {id} (DEAD)")),
            "LOST: an event (DEAD)"
        );
    }
}
