//! How many attempts of each minute brought an event to the target, and how many did not: what the breaker goes by, and
//! what operators see as a rate.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::event::EventId;

/// So many characters of an id tell failing events from each other: one in 4096 is taken for another, and what all processes
/// write of a minute stays small.
const MARK_CHARS: usize = 2;

/// So many failing events are told from each other in a minute by one process: enough to know that it is more than a few.
const MOST_MARKS: usize = 16;

/// What became of the attempts of a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The target has the event.
    pub delivered: u64,
    /// The target does not have it, or nobody knows, whether another attempt will come or not.
    pub failed: u64,
    /// Marks of events that failed.
    pub(crate) failing: BTreeSet<String>,
}

impl Attempts {
    /// Counts one that brought the event to the target.
    pub fn succeeded(&mut self) {
        self.delivered += 1;
    }

    /// Counts one that did not.
    pub fn failed(&mut self, id: &EventId) {
        self.failed += 1;
        if self.failing.len() < MOST_MARKS {
            self.failing.insert(id.as_str().chars().take(MARK_CHARS).collect());
        }
    }

    /// Counts those as well.
    pub fn add(&mut self, others: &Self) {
        self.delivered += others.delivered;
        self.failed += others.failed;
        self.failing.extend(others.failing.iter().cloned());
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.delivered + self.failed
    }

    /// How many events failed: at least so many, and a few more than this can be told as many.
    pub fn failing_events(&self) -> usize {
        self.failing.len()
    }

    /// How many of a hundred failed; none of none.
    pub fn failure_percent(&self) -> u64 {
        (100 * self.failed).checked_div(self.total()).unwrap_or(0)
    }
}

/// The beginning of the minute of a time.
pub fn minute_of(time: Timestamp) -> Timestamp {
    let into = time.as_millisecond().rem_euclid(60_000);
    Timestamp::from_millisecond(time.as_millisecond() - into).unwrap_or(time)
}

/// The minute of this time and those before it, so many in all, the newest first.
pub fn minutes_before(time: Timestamp, count: u8) -> Vec<Timestamp> {
    let newest = minute_of(time);
    (0..count).filter_map(|ago| newest.checked_sub(SignedDuration::from_mins(i64::from(ago))).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EventId {
        text.parse().expect("an id")
    }

    #[test]
    fn one_event_that_fails_often_is_one_failing_event() {
        let mut attempts = Attempts::default();
        for _ in 0..50 {
            attempts.failed(&id("the-same-one"));
        }
        attempts.succeeded();
        assert_eq!((attempts.total(), attempts.failing_events(), attempts.failure_percent()), (51, 1, 98));
    }

    #[test]
    fn marks_are_bounded_whatever_fails() {
        let mut attempts = Attempts::default();
        for number in 0..1000 {
            attempts.failed(&id(&format!("{:02}-event-{number}", number % 100)));
        }
        assert_eq!((attempts.failed, attempts.failing_events()), (1000, MOST_MARKS));
    }

    #[test]
    fn nothing_fails_where_nothing_was_tried() {
        assert_eq!(Attempts::default().failure_percent(), 0);
    }

    #[test]
    fn minutes_begin_where_clocks_show_them() {
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(minute_of(time("2026-01-15T12:34:56.789Z")), time("2026-01-15T12:34:00Z"));
        assert_eq!(minute_of(time("1969-12-31T23:59:59Z")), time("1969-12-31T23:59:00Z"));
        assert_eq!(
            minutes_before(time("2026-01-15T00:00:30Z"), 2),
            [time("2026-01-15T00:00:00Z"), time("2026-01-14T23:59:00Z")]
        );
    }
}
