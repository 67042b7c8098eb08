//! The time of day, as a port: the same code runs on the wall clock and on a simulated one.
//!
//! Waiting and deadlines use tokio's clock, which tests pause and advance.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

/// The time of an invocation without a deadline: the function's default timeout.
const DEFAULT_TIME: Duration = Duration::from_mins(1);

/// A source of the time of day.
pub trait Clock: Send + Sync + 'static {
    /// The time now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A moment by both clocks: the monotonic one may stop while a function is frozen, and the wall
/// clock may be set.
#[derive(Debug, Clone, Copy)]
pub struct Moment(Instant, Timestamp);

impl Moment {
    /// The present.
    pub fn now(clock: &impl Clock) -> Self {
        Self(Instant::now(), clock.now())
    }

    /// The time since then, by the clock that shows more.
    pub fn age(&self, clock: &impl Clock) -> Duration {
        let by_the_day = clock.now().duration_since(self.1);
        self.0
            .elapsed()
            .max(by_the_day.try_into().unwrap_or_default())
    }
}

/// The end of an invocation on tokio's clock. `deadline` is the one in Lambda's context.
///
/// A deadline in the past is ignored: `cargo lambda watch` gives one of 1970.
pub fn end_of_invocation(deadline: SystemTime) -> Instant {
    Instant::now()
        + deadline
            .duration_since(SystemTime::now())
            .unwrap_or(DEFAULT_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wall clock that can go on while the other one stands.
    struct Wall(Timestamp);

    impl Clock for Wall {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_grows_old_by_the_clock_that_shows_more() {
        let mut wall = Wall(Timestamp::UNIX_EPOCH);
        let moment = Moment::now(&wall);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(moment.age(&wall), Duration::from_secs(3));
        // Frozen for an hour.
        wall.0 += Duration::from_hours(1);
        assert_eq!(moment.age(&wall), Duration::from_hours(1));
        wall.0 -= Duration::from_hours(2);
        assert_eq!(moment.age(&wall), Duration::from_secs(3), "set back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_invocation_ends_at_its_deadline_or_after_a_minute_where_that_has_passed() {
        let left = |deadline| end_of_invocation(deadline).saturating_duration_since(Instant::now());
        let in_ten = left(SystemTime::now() + Duration::from_secs(10));
        assert!(
            in_ten > Duration::from_secs(5) && in_ten <= Duration::from_secs(10),
            "{in_ten:?}"
        );
        assert_eq!(left(SystemTime::UNIX_EPOCH), Duration::from_mins(1));
    }
}
