//! Adds up what the attempts of a process come to, and writes it to the table now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::attempts::{Attempts, minute_of};
use crate::event::EventId;
use crate::events_table::EventsTable;
use crate::logging::chain;

/// A process writes at most this often: a thousand of them make a hundred writes a second, whatever the traffic.
const PAUSE: Duration = Duration::from_secs(10);

/// What was counted longer ago is forgotten.
const STALE: Duration = Duration::from_mins(1);

/// The answer to a batch waits for it no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts attempts. What a process has counted when it ends, and has not written, nobody hears of.
#[derive(Default)]
pub struct AttemptCounter(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    attempts: Attempts,
    /// When the first of them was counted.
    since: Option<Instant>,
    written_at: Option<Instant>,
}

impl AttemptCounter {
    pub(super) fn count(&self, id: &EventId, is_delivered: bool) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // From before the process was frozen, for as long as the breaker was open perhaps: not news of the target any more.
        if counted.since.is_some_and(|since| since.elapsed() > STALE) {
            *counted = Counted { written_at: counted.written_at, ..Counted::default() };
        }
        counted.since.get_or_insert_with(Instant::now);
        if is_delivered {
            counted.attempts.succeeded();
        } else {
            counted.attempts.failed(id);
        }
    }

    /// What is to be written now, if anything.
    fn take(&self) -> Option<Attempts> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.attempts.total() == 0 || counted.written_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        counted.written_at = Some(Instant::now());
        counted.since = None;
        Some(std::mem::take(&mut counted.attempts))
    }

    /// Writes what was counted, unless it did so a moment ago. No event depends on it: what fails is left at that.
    pub(super) async fn write(&self, table: &impl EventsTable, now: Timestamp, until: Instant) {
        let Some(attempts) = self.take() else { return };
        let until = until.min(Instant::now() + PATIENCE);
        let problem = match timeout_at(until, table.count_attempts(minute_of(now), &attempts)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&error),
            Err(elapsed) => elapsed.to_string(),
        };
        tracing::warn!(attempts = attempts.total(), error = problem, "the breaker does not hear of attempts");
    }
}
