//! What a process holds: memory and open files, over the time of a load.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// Where a reading is taken, in eighths of the load. Whatever is built once and kept (connections, the SDK's caches, the
/// code itself as it is paged in) is there after the first.
const READINGS: [usize; 5] = [1, 2, 4, 6, 8];

/// A reading is the least of so many in a row. A large body, and the buffers that are kept for the next, are no leak.
const SPAN: usize = 50;

/// A process, and what it held at each reading.
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
    /// What the process has written itself, in KiB: a leak is in here, and no code that was not needed before.
    own: u64,
    files: usize,
}

/// Variables that make glibc give large blocks back at once, and keep no reserve. Otherwise its habits move the process's
/// memory by megabytes, in which a leak of a hundred kilobytes cannot be seen.
pub(crate) fn steady_allocator() -> impl Iterator<Item = (String, String)> {
    let variables = [
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("MALLOC_TOP_PAD_", "0"),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
}

impl Footprint {
    pub(crate) fn of(pid: u32, invocations: usize) -> Self {
        Self { pid, invocations, began: Instant::now(), readings: Vec::new() }
    }

    /// Takes a reading after this invocation, where one is due.
    pub(crate) fn after(&mut self, invocation: usize) -> Result<()> {
        let due = READINGS.iter().map(|eighths| self.invocations * eighths / 8);
        let Some(due) = due.into_iter().find(|due| (due.saturating_sub(SPAN)..=*due).contains(&invocation)) else {
            return Ok(());
        };
        let reading = Reading { invocation: due, ..Reading::take(self.pid)? };
        match self.readings.last_mut().filter(|last| last.invocation == due) {
            Some(last) if last.own <= reading.own => {}
            Some(last) => *last = reading,
            None => self.readings.push(reading),
        }
        Ok(())
    }

    /// Says what was read, and fails where the process holds more and more.
    pub(crate) fn is_steady(&self, name: &str) -> Result<()> {
        eprintln!("{name}: {} invocations in {:.1?}", self.invocations, self.began.elapsed());
        for Reading { invocation, rss, peak, own, files } in &self.readings {
            eprintln!("{name}: after {invocation}: {rss} KiB, {peak} at most, {own} its own; {files} open files");
        }
        let [first, .., last] = self.readings.as_slice() else { anyhow::bail!("too few invocations") };
        let half = self.readings.iter().find(|reading| reading.invocation >= self.invocations / 2).context("half")?;
        let (grown, bound) = (last.own.saturating_sub(half.own), bound(last.invocation - half.invocation));
        ensure!(grown <= bound, "{name}: {grown} KiB more than at half time, and {bound} KiB are noise");
        ensure!(last.files.abs_diff(first.files) <= 3, "{name}: {} open files became {}", first.files, last.files);
        Ok(())
    }
}

/// How many KiB may come on top within so many invocations. Readings of a process that leaks nothing differ by up to 50 KiB
/// in either direction, however long it runs; a leak of a hundred bytes an invocation exceeds this from a thousand on.
fn bound(invocations: usize) -> u64 {
    64 + u64::try_from(invocations * 25 / 1024).unwrap_or(u64::MAX)
}

impl Reading {
    fn take(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} in its status"))
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { invocation: 0, rss: kib("VmRSS")?, peak: kib("VmHWM")?, own: kib("RssAnon")?, files })
    }
}
