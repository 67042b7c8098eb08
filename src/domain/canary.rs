//! Runs of the canary: the newest, and the time of the last good one.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Upper bound on the runs that are kept.
const MOST_RUNS: usize = 50;

/// One run of the canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRun {
    /// The time of its start.
    pub at: Timestamp,
    /// True if each of its checks was ok.
    pub ok: bool,
    /// The time that it took, in milliseconds.
    pub ms: u64,
    /// The first check that was not ok, with its evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The newest runs of the canary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRuns {
    /// Oldest first.
    pub runs: Vec<CanaryRun>,
    /// The end of the last good run; before the first good one, the start of the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_at: Option<Timestamp>,
}

impl CanaryRuns {
    /// Adds a run that ended `now`, and returns the time since the last good one: zero after a good
    /// run.
    pub fn add(&mut self, run: CanaryRun, now: Timestamp) -> Duration {
        if run.ok {
            self.good_at = Some(now);
        }
        let good_at = *self.good_at.get_or_insert(run.at);
        self.runs.push(run);
        let forgotten = self.runs.len().saturating_sub(MOST_RUNS);
        self.runs.drain(..forgotten);
        now.duration_since(good_at).try_into().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    #[test]
    fn age_counts_from_the_last_good_run() {
        let mut runs = CanaryRuns::default();
        let mut add = |seconds, ok| {
            let run = CanaryRun {
                at: at(seconds),
                ok,
                ms: 7,
                failed: None,
            };
            runs.add(run, at(seconds + 10)).as_secs()
        };
        assert_eq!(add(1000, false), 10, "none was good yet");
        assert_eq!(add(1300, false), 310);
        assert_eq!(add(1600, true), 0);
        // Longer than runs are kept.
        let ages: Vec<u64> = (1..=60)
            .map(|number| add(1600 + 300 * number, false))
            .collect();
        assert_eq!((ages[0], ages[59]), (300, 18_000));
        assert_eq!(runs.runs.len(), 50);
        assert_eq!(runs.runs.last().map(|run| run.at), Some(at(19_600)));
    }
}
