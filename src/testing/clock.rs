//! A clock that follows tokio's, which tests pause and advance.

use std::cell::Cell;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::ports::clock::Clock;

thread_local! {
    static FIRST_LOOK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A clock that showed noon of 15 January 2026 when this thread first looked, and follows tokio's
/// clock from there.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeClock;

impl FakeClock {
    /// Sets it to noon of 15 January 2026 for this thread. Each runtime with a paused clock begins
    /// at a time of its own.
    pub fn start_over() {
        FIRST_LOOK.set(Some(Instant::now()));
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        let noon = Timestamp::from_second(1_768_478_400).expect("in range");
        let first_look = FIRST_LOOK.get().unwrap_or_else(Instant::now);
        FIRST_LOOK.set(Some(first_look));
        noon + first_look.elapsed()
    }
}
