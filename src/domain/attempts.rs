//! Attempts per minute, delivered and failed: operators see them as a rate, and the breaker
//! decides by the first attempts among them.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::domain::event::EventId;

/// Characters of an id that tell failing events apart: one in 4096 is taken for another, and the
/// item that all processes write for a minute stays small.
const MARK_CHARS: usize = 2;

/// Upper bound on the failing events that one process tells apart in a minute: enough to know that
/// they are more than a few.
const MOST_MARKS: usize = 16;

/// The attempts of a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The target has the event.
    pub delivered: u64,
    /// Failed attempts, retried or not. The target may have the event all the same.
    pub failed: u64,
    /// Failed attempts whose cause were the relay's own credentials.
    pub credentials_failed: u64,
    /// First attempts among the delivered ones.
    pub(crate) first_delivered: u64,
    /// First attempts among the failed ones.
    pub(crate) first_failed: u64,
    /// Marks of events whose first attempt failed.
    pub(crate) failing: BTreeSet<String>,
}

impl Attempts {
    /// Counts an attempt, the nth at its event from 1.
    pub fn count(&mut self, id: &EventId, nth: u32, is_delivered: bool) {
        let is_first = u64::from(nth <= 1);
        if is_delivered {
            self.delivered += 1;
            self.first_delivered += is_first;
            return;
        }
        self.failed += 1;
        self.first_failed += is_first;
        if is_first > 0 && self.failing.len() < MOST_MARKS {
            self.failing
                .insert(id.as_str().chars().take(MARK_CHARS).collect());
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, others: &Self) {
        self.delivered += others.delivered;
        self.failed += others.failed;
        self.credentials_failed += others.credentials_failed;
        self.first_delivered += others.first_delivered;
        self.first_failed += others.first_failed;
        self.failing.extend(others.failing.iter().cloned());
    }

    /// The sum of both.
    pub fn total(&self) -> u64 {
        self.delivered + self.failed
    }

    /// First attempts, delivered or not.
    pub(crate) fn firsts(&self) -> u64 {
        self.first_delivered + self.first_failed
    }

    /// Lower bound on the number of events whose first attempt failed.
    pub fn failing_events(&self) -> usize {
        self.failing.len()
    }

    /// The percentage of first attempts that failed; 0 without any.
    pub fn failure_percent(&self) -> u64 {
        (100 * self.first_failed)
            .checked_div(self.firsts())
            .unwrap_or(0)
    }
}

/// The beginning of the minute of a time.
pub fn minute_of(time: Timestamp) -> Timestamp {
    let into = time.as_millisecond().rem_euclid(60_000);
    Timestamp::from_millisecond(time.as_millisecond() - into).unwrap_or(time)
}

/// The minute of this time and the ones before it, `count` in all, the newest first.
pub fn minutes_before(time: Timestamp, count: u8) -> Vec<Timestamp> {
    let newest = minute_of(time);
    (0..count)
        .filter_map(|ago| {
            newest
                .checked_sub(SignedDuration::from_mins(i64::from(ago)))
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EventId {
        text.parse().expect("an id")
    }

    #[test]
    fn only_the_first_attempt_at_an_event_says_something_of_the_target() {
        let mut attempts = Attempts::default();
        for nth in 1..=10 {
            attempts.count(&id("it-cannot-be-digested"), nth, false);
        }
        attempts.count(&id("another"), 1, true);
        attempts.count(&id("late"), 7, true);
        assert_eq!(
            (attempts.total(), attempts.delivered, attempts.failed),
            (12, 2, 10)
        );
        assert_eq!(
            (
                attempts.firsts(),
                attempts.failing_events(),
                attempts.failure_percent()
            ),
            (2, 1, 50)
        );
    }

    #[test]
    fn marks_are_bounded_whatever_fails() {
        let mut attempts = Attempts::default();
        for number in 0..1000 {
            attempts.count(
                &id(&format!("{:02}-event-{number}", number % 100)),
                1,
                false,
            );
        }
        assert_eq!(
            (attempts.failed, attempts.failing_events()),
            (1000, MOST_MARKS)
        );
    }

    #[test]
    fn nothing_fails_where_nothing_was_tried() {
        assert_eq!(Attempts::default().failure_percent(), 0);
    }

    #[test]
    fn minutes_begin_where_clocks_show_them() {
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(
            minute_of(time("2026-01-15T12:34:56.789Z")),
            time("2026-01-15T12:34:00Z")
        );
        assert_eq!(
            minute_of(time("1969-12-31T23:59:59Z")),
            time("1969-12-31T23:59:00Z")
        );
        assert_eq!(
            minutes_before(time("2026-01-15T00:00:30Z"), 2),
            [time("2026-01-15T00:00:00Z"), time("2026-01-14T23:59:00Z")]
        );
    }
}
