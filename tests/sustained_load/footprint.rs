//! Memory and open files of a process under load.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// The load is looked at in quarters. The reading of a quarter is the least of all in it: after a
/// large body, buffers of its size are kept for the next one, and those come and go by hundreds of
/// kilobytes. A leak does not go.
const QUARTERS: usize = 4;

/// One invocation in so many is followed by a look.
const EVERY: usize = 10;

/// A process, and what it held in each quarter.
pub(crate) struct Footprint {
    pid: u32,
    invocations: usize,
    began: Instant,
    readings: Vec<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    invocation: usize,
    /// All that is in memory, pages of the binary included, in KiB.
    rss: u64,
    /// The most that ever was.
    peak: u64,
    /// Private dirty memory in KiB: it includes a leak, but no code pages.
    own: u64,
    files: usize,
}

/// Variables that make glibc give large blocks back at once, and keep no reserve. Otherwise its
/// habits move the process's memory by megabytes, in which a leak of a hundred kilobytes cannot be
/// seen.
pub(crate) fn steady_allocator() -> impl Iterator<Item = (String, String)> {
    let variables = [
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_TOP_PAD_", "0"),
    ];
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

impl Footprint {
    pub(crate) fn of(pid: u32, invocations: usize) -> Self {
        Self {
            pid,
            invocations,
            began: Instant::now(),
            readings: Vec::new(),
        }
    }

    /// Looks at the process after this invocation, where a look is due. What is built once and kept
    /// (connections, the SDK's caches) is there after half of the first quarter.
    pub(crate) fn after(&mut self, invocation: usize) -> Result<()> {
        if !invocation.is_multiple_of(EVERY) || invocation <= self.invocations / QUARTERS / 2 {
            return Ok(());
        }
        let quarter = ((invocation - 1) * QUARTERS / self.invocations).min(QUARTERS - 1);
        let reading = Reading {
            invocation,
            ..Reading::take(self.pid)?
        };
        match self.readings.get_mut(quarter) {
            Some(least) if least.own <= reading.own => {}
            Some(least) => *least = reading,
            None => self.readings.push(reading),
        }
        Ok(())
    }

    /// Says what was read, and fails where the process holds more and more.
    pub(crate) fn is_steady(&self, name: &str) -> Result<()> {
        eprintln!(
            "{name}: {} invocations in {:.1?}",
            self.invocations,
            self.began.elapsed()
        );
        for Reading {
            invocation,
            rss,
            peak,
            own,
            files,
        } in &self.readings
        {
            eprintln!(
                "{name}: after {invocation}: {rss} KiB, {peak} at most, {own} its own; {files} open files"
            );
        }
        let [first, second, _, last] = self.readings[..] else {
            anyhow::bail!("too few invocations")
        };
        // Half of the load lies between the two.
        let (grown, bound) = (
            last.own.saturating_sub(second.own),
            bound(self.invocations / 2),
        );
        ensure!(
            grown <= bound,
            "{name}: {grown} KiB more than in the second quarter, and {bound} KiB are noise"
        );
        ensure!(
            last.files.abs_diff(first.files) <= 3,
            "{name}: {} open files became {}",
            first.files,
            last.files
        );
        Ok(())
    }
}

/// Largest growth in KiB within this many invocations. The readings of a process that leaks nothing
/// differ by some 50 KiB; a leak of a hundred bytes an invocation exceeds this from a thousand on.
fn bound(invocations: usize) -> u64 {
    64 + u64::try_from(invocations * 25 / 1024).unwrap_or(u64::MAX)
}

impl Reading {
    fn take(pid: u32) -> Result<Self> {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
        let kib = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} in its status"))
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self {
            invocation: 0,
            rss: kib("VmRSS")?,
            peak: kib("VmHWM")?,
            own: kib("RssAnon")?,
            files,
        })
    }
}
