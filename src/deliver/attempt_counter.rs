//! Counts the attempts of a process, and writes the counts to the table every ten seconds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::domain::attempts::{Attempts, minute_of};
use crate::domain::event::EventId;
use crate::domain::failure::FailureCause;
use crate::ports::events_table::EventsTable;
use crate::runtime::logging::display_chain;

/// The least time between two writes: a thousand processes make a hundred writes a second, whatever
/// the traffic.
const PAUSE: Duration = Duration::from_secs(10);

/// Upper bound on the time that the answer to a batch waits for the write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts attempts, each in the minute in which it ended: a process can be frozen for long before
/// it writes them.
///
/// Counts that are not written yet are lost when the process ends.
#[derive(Default)]
pub(super) struct AttemptCounter(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    minutes: BTreeMap<Timestamp, Attempts>,
    written_at: Option<Instant>,
}

impl AttemptCounter {
    /// Counts an attempt that ended at this time, the nth at its event. What was postponed is no
    /// attempt.
    pub(super) fn count(
        &self,
        id: &EventId,
        nth: u32,
        outcome: Result<(), FailureCause>,
        at: Timestamp,
    ) {
        if outcome == Err(FailureCause::Postponed) {
            return;
        }
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = counted.minutes.entry(minute_of(at)).or_default();
        attempts.count(id, nth, outcome.is_ok());
        attempts.credentials_failed +=
            u64::from(matches!(outcome, Err(FailureCause::Credentials(_))));
    }

    /// Takes the counts to write now, by minute.
    fn take(&self) -> BTreeMap<Timestamp, Attempts> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.minutes.is_empty() || counted.written_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return BTreeMap::new();
        }
        counted.written_at = Some(Instant::now());
        std::mem::take(&mut counted.minutes)
    }

    /// Writes the counts, at most every ten seconds. No event depends on them: a failed write is
    /// not repeated.
    pub(super) async fn write(&self, table: &impl EventsTable, until: Instant) {
        let minutes = self.take();
        let until = until.min(Instant::now() + WRITE_TIMEOUT);
        let writes = minutes
            .iter()
            .map(|(minute, attempts)| table.count_attempts(*minute, attempts));
        let problem = match timeout_at(until, try_join_all(writes)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => display_chain(&error),
            Err(elapsed) => elapsed.to_string(),
        };
        let attempts: u64 = minutes.values().map(Attempts::total).sum();
        tracing::warn!(
            attempts,
            error = problem,
            "failed to count attempts; the breaker does not see them"
        );
    }
}
