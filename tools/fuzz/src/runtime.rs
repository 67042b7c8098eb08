//! Runs what is asynchronous, on virtual time, and always at the same time of day.

use std::time::Duration;

use genesys_relay::ports::clock::Clock;
use jiff::Timestamp;
use tokio::time::Instant;

/// It is always noon of 15 January 2026, so that an input means the same in every run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_768_478_400).expect("in range")
    }
}

/// Runs a future to its end on paused time.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(future)
}

/// Deadline of work that begins now.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_mins(5)
}
