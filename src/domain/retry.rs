//! Retries: the backoff schedule, and the decision for each cause of a failure whether a retry can
//! help.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use jiff::Timestamp;

use crate::domain::failure::FailureCause;

/// Upper bound on the delay by a `Retry-After`.
const RETRY_AFTER_CEILING: Duration = Duration::from_hours(1);

/// Upper bound on all delays of one event together. It keeps the retries far inside the queue's
/// retention of ten days, which SQS ends by deleting without a trace.
const LONGEST_RETRY_WINDOW: Duration = Duration::from_hours(24);

/// "Amazon SQS visibility timeout": a message stays hidden for at most 12 hours from its receive.
const LONGEST_VISIBILITY: Duration = Duration::from_hours(12);

/// The decision about a failed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// A retry may succeed.
    Retry,
    /// The failure says nothing about the event: it is retried, and the attempt does not count
    /// towards the dead letters.
    RetryUncounted,
    /// A retry would fail too.
    Permanent,
}

/// Decides whether a retry can help.
///
/// `may_be_in_progress` is true where the answer asks for a later try by a `Retry-After`, or where
/// an earlier attempt ended without an answer: a conflict or a lock may then be the work that this
/// attempt asks for, under its idempotency key.
#[expect(
    clippy::match_same_arms,
    reason = "one arm for each kind of cause reads as a table"
)]
pub fn retry_decision(cause: FailureCause, may_be_in_progress: bool) -> RetryDecision {
    match cause {
        // 421: another connection may lead to the right server (RFC 9110 section 15.5.20).
        FailureCause::Status(408 | 421 | 425 | 429 | 500..=599) => RetryDecision::Retry,
        FailureCause::Status(409 | 423) if may_be_in_progress => RetryDecision::Retry,
        FailureCause::Status(300..=499) => RetryDecision::Permanent,
        // No final answer of HTTP: the server is broken, and may be repaired.
        FailureCause::Status(0..=299 | 600..=u16::MAX) => RetryDecision::Retry,
        FailureCause::TimedOut | FailureCause::Connection | FailureCause::NotSent => {
            RetryDecision::Retry
        }
        FailureCause::Credentials(_) | FailureCause::Postponed => RetryDecision::RetryUncounted,
        FailureCause::Refused => RetryDecision::Permanent,
    }
}

/// Exponential backoff: the delay after each attempt, and the number of receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    base: Duration,
    cap: Duration,
    max_receives: u32,
}

/// A schedule that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSchedule {
    /// The base or the cap is zero.
    #[error("the base and the cap must be at least 1 s")]
    Zero,
    /// A message cannot stay hidden that long.
    #[error(
        "the cap must be at most 10 h, so that with its jitter it fits SQS's visibility timeout of 12 h"
    )]
    Cap,
    /// AWS allows 1 to 1000 (`RedrivePolicy`).
    #[error("the maximum receive count must be from 1 to 1000")]
    MaxReceives,
    /// The event could be retried for longer than a day.
    #[error(
        "{max_receives} receives with delays of up to {longest:?} could retry an event for more than 24 h; lower one of the two \
         (a Retry-After can make any delay an hour)"
    )]
    TooLong {
        /// The configured receives.
        max_receives: u32,
        /// The longest delay between two.
        longest: Duration,
    },
}

impl Schedule {
    /// A schedule of `base` · 2ⁿ⁻¹ up to `cap`, for `max_receives` receives.
    ///
    /// It is refused when an event could be retried for more than 24 hours.
    pub fn new(base: Duration, cap: Duration, max_receives: u32) -> Result<Self, InvalidSchedule> {
        let schedule = Self {
            base,
            cap,
            max_receives,
        };
        if base.min(cap) < Duration::from_secs(1) {
            return Err(InvalidSchedule::Zero);
        }
        if cap > LONGEST_VISIBILITY * 10 / 12 {
            return Err(InvalidSchedule::Cap);
        }
        if !(1..=1000).contains(&max_receives) {
            return Err(InvalidSchedule::MaxReceives);
        }
        let longest = schedule.longest_delay();
        if longest * (max_receives - 1) > LONGEST_RETRY_WINDOW {
            return Err(InvalidSchedule::TooLong {
                max_receives,
                longest,
            });
        }
        Ok(schedule)
    }

    /// Returns whether a receive with this `ApproximateReceiveCount` is the last one allowed.
    pub fn is_last(&self, receive_count: u32) -> bool {
        receive_count >= self.max_receives
    }

    /// The delay after attempt number `attempt` (from 1), in whole seconds as SQS takes them:
    /// min(cap, base · 2ⁿ⁻¹) plus jitter between 0 and the larger of 1 s and 10 %, but at least
    /// `retry_after`.
    pub fn delay(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        let doubled = 2_u32
            .checked_pow(attempt.saturating_sub(1))
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |delay| delay.min(self.cap));
        let backoff = doubled + Duration::from_secs(rng.u64(0..=longest_jitter(doubled).as_secs()));
        backoff.max(retry_after.unwrap_or_default().min(RETRY_AFTER_CEILING))
    }

    fn longest_delay(&self) -> Duration {
        (self.cap + longest_jitter(self.cap)).max(RETRY_AFTER_CEILING)
    }
}

fn longest_jitter(delay: Duration) -> Duration {
    (delay / 10).max(Duration::from_secs(1))
}

/// The delay that an answer asks for: the longest of its readable `Retry-After` headers.
pub fn retry_after_of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let values = headers.get_all(header::RETRY_AFTER).iter();
    values
        .filter_map(|value| parse_retry_after(value.to_str().ok()?, now))
        .max()
}

/// Reads a `Retry-After` header (RFC 9110 section 10.2.3): seconds, or a date in any of HTTP's
/// three forms. A date that has passed means now; what cannot be read means nothing. Of several
/// values in one header the longest counts.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(date) = httpdate::parse_http_date(value.trim()) {
        return Some(
            date.duration_since(SystemTime::from(now))
                .unwrap_or_default(),
        );
    }
    value
        .split(',')
        .filter_map(|value| whole_seconds(value.trim()))
        .max()
}

/// A number of seconds, rounded up: HTTP knows whole ones only, and servers send `0.5` all the
/// same.
fn whole_seconds(value: &str) -> Option<Duration> {
    let (whole, part) = value.split_once('.').unwrap_or((value, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    // More seconds than fit are more than any ceiling.
    let seconds = whole.parse::<u64>().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds.saturating_add(u64::from(
        part.bytes().any(|digit| digit != b'0'),
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_cause_is_retried_or_permanent() {
        for may_be_in_progress in [false, true] {
            for status in [408, 421, 425, 429, 500, 502, 503, 504, 599, 100, 600, 999] {
                assert_eq!(
                    retry_decision(FailureCause::Status(status), may_be_in_progress),
                    RetryDecision::Retry,
                    "{status}"
                );
            }
            for status in [
                300, 301, 304, 307, 400, 401, 403, 404, 405, 410, 413, 422, 424, 451, 499,
            ] {
                assert_eq!(
                    retry_decision(FailureCause::Status(status), may_be_in_progress),
                    RetryDecision::Permanent,
                    "{status}"
                );
            }
            for cause in [
                FailureCause::TimedOut,
                FailureCause::Connection,
                FailureCause::NotSent,
            ] {
                assert_eq!(
                    retry_decision(cause, may_be_in_progress),
                    RetryDecision::Retry
                );
            }
            assert_eq!(
                retry_decision(FailureCause::Refused, may_be_in_progress),
                RetryDecision::Permanent
            );
        }
        for status in [409, 423] {
            assert_eq!(
                retry_decision(FailureCause::Status(status), true),
                RetryDecision::Retry,
                "{status}"
            );
            assert_eq!(
                retry_decision(FailureCause::Status(status), false),
                RetryDecision::Permanent,
                "{status}"
            );
        }
    }

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now = "2026-01-15T12:00:00Z".parse().expect("a timestamp");
        assert_eq!(parse_retry_after(" 120 ", now), Some(seconds(120)));
        assert_eq!(parse_retry_after("0", now), Some(seconds(0)));
        for date in [
            "Thu, 15 Jan 2026 12:02:00 GMT",
            "Thursday, 15-Jan-26 12:02:00 GMT",
            "Thu Jan 15 12:02:00 2026",
        ] {
            assert_eq!(parse_retry_after(date, now), Some(seconds(120)), "{date}");
        }
        assert_eq!(
            parse_retry_after("Wed, 14 Jan 2026 12:00:00 GMT", now),
            Some(seconds(0))
        );
        assert_eq!(
            parse_retry_after("99999999999999999999999", now),
            Some(seconds(u64::MAX))
        );
        for (value, whole) in [
            ("4.7", 5),
            ("5.0", 5),
            ("0.493", 1),
            ("0.0", 0),
            ("1, 6", 6),
            ("7,soon", 7),
        ] {
            assert_eq!(
                parse_retry_after(value, now),
                Some(seconds(whole)),
                "{value:?}"
            );
        }
        for nothing in [
            "",
            "soon",
            "-1",
            "+3",
            "5s",
            "1.",
            ".5",
            "1.x",
            "1.2.3",
            "2026-01-15T12:02:00Z",
            ",",
        ] {
            assert_eq!(parse_retry_after(nothing, now), None, "{nothing:?}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after_of(&headers, now), None);
        for value in ["1", "6", "soon", "2.5"] {
            headers.append(header::RETRY_AFTER, value.parse().expect("a value"));
        }
        assert_eq!(
            retry_after_of(&headers, now),
            Some(seconds(6)),
            "the longest counts"
        );
    }

    #[test]
    fn a_schedule_that_could_last_longer_than_a_day_is_refused() {
        assert!(Schedule::new(seconds(2), seconds(900), 10).is_ok());
        assert!(
            Schedule::new(seconds(2), seconds(900), 25).is_ok(),
            "24 delays of up to an hour are a day"
        );
        assert!(matches!(
            Schedule::new(seconds(2), seconds(900), 26),
            Err(InvalidSchedule::TooLong {
                max_receives: 26,
                ..
            })
        ));
        assert_eq!(
            Schedule::new(seconds(0), seconds(9), 4),
            Err(InvalidSchedule::Zero)
        );
        assert_eq!(
            Schedule::new(seconds(9), seconds(0), 4),
            Err(InvalidSchedule::Zero)
        );
        assert!(
            Schedule::new(seconds(10), seconds(9), 4).is_ok(),
            "the cap rules"
        );
        assert!(Schedule::new(seconds(1), seconds(36_000), 1).is_ok());
        assert_eq!(
            Schedule::new(seconds(1), seconds(36_001), 1),
            Err(InvalidSchedule::Cap)
        );
        assert_eq!(
            Schedule::new(seconds(1), seconds(1), 0),
            Err(InvalidSchedule::MaxReceives)
        );
    }

    #[test]
    fn events_that_failed_together_are_spread_over_a_tenth_of_their_delay() {
        let schedule = Schedule::new(seconds(2), seconds(900), 10).expect("a schedule");
        for (attempt, least, most) in [
            (1, 2, 3),
            (8, 256, 281),
            (10, 900, 990),
            (u32::MAX, 900, 990),
        ] {
            let mut rng = fastrand::Rng::with_seed(7);
            let delays: Vec<_> = (0..10_000)
                .map(|_| schedule.delay(attempt, None, &mut rng).as_secs())
                .collect();
            assert_eq!(
                (delays.iter().min(), delays.iter().max()),
                (Some(&least), Some(&most)),
                "attempt {attempt}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_delay_is_within_its_bounds(
            base in 1..900_u64,
            cap in 1..3600_u64,
            attempt in 0..2000_u32,
            retry_after in prop::option::of(0..100_000_u64),
            seed: u64,
        ) {
            let schedule = Schedule::new(seconds(base), seconds(cap), 10).expect("a schedule");
            let retry_after = retry_after.map(seconds);
            let mut rng = fastrand::Rng::with_seed(seed);
            let delay = schedule.delay(attempt, retry_after, &mut rng);

            let exponent = i32::try_from(attempt.max(1) - 1).expect("small");
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let least = ((base as f64) * 2_f64.powi(exponent)).min(cap as f64);
            let most = least + (least / 10.0).max(1.0);
            match retry_after.map(|wait| wait.min(RETRY_AFTER_CEILING)) {
                Some(wait) if wait.as_secs_f64() > most => prop_assert_eq!(delay, wait),
                Some(wait) => prop_assert!(delay >= wait && delay.as_secs_f64() <= most),
                None => prop_assert!((least..=most).contains(&delay.as_secs_f64())),
            }
            prop_assert_eq!(delay.subsec_nanos(), 0);
            prop_assert!(delay <= LONGEST_VISIBILITY);
        }

        #[test]
        fn no_header_makes_the_parser_panic(value in ".*") {
            let _ = parse_retry_after(&value, Timestamp::now());
        }
    }
}
