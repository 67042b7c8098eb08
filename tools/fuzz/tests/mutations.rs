//! Feeds every property its corpus, and what proptest makes of that by small and large changes.
//!
//! `cargo xtask fuzz --inputs N --seed N` sets the number of changed inputs for each property, and
//! their seed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use fuzz::{PROPERTIES, Property};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Default number of changed inputs for each property.
const INPUTS: u32 = 250;

/// No input grows beyond this.
const MAX_BYTES: usize = 256 * 1024;

/// Texts that often break parsers.
const TOKENS: [&[u8]; 40] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"-1e-999",
    b"0.1e+1",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"123456789012345678901234567890",
    b"\\u0000",
    b"\\ud83d",
    b"\\ude00",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xef\xbf\xbe",
    b"\xff",
    b"\xed\xa0\x80",
    b"\r\n",
    b"\n\n",
    b"\n---\n",
    b"=",
    b"%00",
    b"$serde_json::private::RawValue",
    b"{\"a\":",
    b"[[[[[[[[",
    b"9999-12-31T23:59:59.999Z",
    b"-009999-01-02T01:59:59Z",
    b"2026-01-15T11:30:00Z",
    b"sha256=",
    b"{secret}",
    b"{signature}",
    b"__proto__",
];

/// A change of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip {
        at: Index,
        bit: u8,
    },
    Cut {
        at: Index,
    },
    Remove {
        at: Index,
        bytes: Index,
    },
    Repeat {
        at: Index,
        bytes: Index,
        times: usize,
    },
    Insert {
        at: Index,
        token: Index,
    },
    Replace {
        at: Index,
        token: Index,
    },
    /// Goes on with another file of the corpus.
    Splice {
        at: Index,
        other: Index,
        from: Index,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        1 => index().prop_map(|at| Change::Cut { at }),
        2 => (index(), index()).prop_map(|(at, bytes)| Change::Remove { at, bytes }),
        2 => (index(), index(), 1..200_usize).prop_map(|(at, bytes, times)| Change::Repeat { at, bytes, times }),
        4 => (index(), index()).prop_map(|(at, token)| Change::Insert { at, token }),
        4 => (index(), index()).prop_map(|(at, token)| Change::Replace { at, token }),
        2 => (index(), index(), index()).prop_map(|(at, other, from)| Change::Splice { at, other, from }),
    ]
}

impl Change {
    fn make(self, mut input: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
        let place = |at: Index, of: &[u8]| at.index(of.len() + 1);
        let token = |token: Index| *token.get(&TOKENS);
        match self {
            Self::Flip { at, bit } => {
                let at = place(at, &input);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Cut { at } => input.truncate(place(at, &input)),
            Self::Remove { at, bytes } => {
                let from = place(at, &input);
                let to = from + place(bytes, &input[from..]).min(64);
                input.drain(from..to);
            }
            Self::Repeat { at, bytes, times } => {
                let from = place(at, &input);
                let span = input[from..from + place(bytes, &input[from..])].to_vec();
                let times = times.min(MAX_BYTES / span.len().max(1));
                input.splice(from..from, span.repeat(times));
            }
            Self::Insert { at, token: which } => {
                let at = place(at, &input);
                input.splice(at..at, token(which).iter().copied());
            }
            Self::Replace { at, token: which } => {
                let (from, token) = (place(at, &input), token(which));
                let to = input.len().min(from + token.len());
                input.splice(from..to, token.iter().copied());
            }
            Self::Splice { at, other, from } => {
                let other = other.get(corpus);
                input.truncate(place(at, &input));
                input.extend_from_slice(&other[place(from, other)..]);
            }
        }
        input.truncate(MAX_BYTES);
        input
    }
}

/// The files of a property's corpus, each with its path, in a fixed order.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect()
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value:?}, and has to be a number")),
    )
}

/// Every input that breaks a law of a property.
#[expect(
    clippy::print_stdout,
    reason = "how much was tried is what a person wants to see"
)]
fn check(name: &str, property: Property) -> Vec<String> {
    let started = Instant::now();
    let files = corpus(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    let breaks = |(path, input): &(PathBuf, Vec<u8>)| {
        let outcome = std::panic::catch_unwind(|| property(input));
        outcome
            .is_err()
            .then(|| format!("{} breaks a law", path.display()))
    };
    let broken: Vec<String> = files.iter().filter_map(breaks).collect();
    if !broken.is_empty() {
        return broken;
    }
    let corpus: Vec<Vec<u8>> = files.into_iter().map(|(_, input)| input).collect();
    let inputs = setting("FUZZ_INPUTS").unwrap_or(INPUTS);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&setting("FUZZ_SEED").unwrap_or(0_u64).to_le_bytes());
    let config = Config {
        cases: inputs,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let changes = (any::<Index>(), prop::collection::vec(change(), 1..8));
    let made = |(start, changes): (Index, Vec<Change>)| {
        changes
            .into_iter()
            .fold(start.get(&corpus).clone(), |input, change| {
                change.make(input, &corpus)
            })
    };
    let outcome = runner.run(&changes, |changes| {
        property(&made(changes));
        Ok::<_, TestCaseError>(())
    });
    println!(
        "{name}: {} files, {inputs} inputs, {} ms",
        corpus.len(),
        started.elapsed().as_millis()
    );
    match outcome {
        Ok(()) => Vec::new(),
        Err(TestError::Fail(why, changes)) => {
            vec![format!(
                "{name}: {why}\nof the input b\"{}\"",
                made(changes).escape_ascii()
            )]
        }
        Err(TestError::Abort(why)) => vec![format!("{name}: {why}")],
    }
}

#[test]
fn every_law_holds_of_the_corpus_and_of_what_is_made_of_it() {
    let broken: Vec<String> = PROPERTIES
        .into_iter()
        .flat_map(|(name, property)| check(name, property))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[test]
fn every_corpus_has_a_property() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = std::fs::read_dir(corpus).expect("a folder");
    let mut names: Vec<_> = folders
        .map(|it| it.expect("a folder").file_name())
        .collect();
    names.sort();
    assert_eq!(names, PROPERTIES.map(|(name, _)| name));
}
