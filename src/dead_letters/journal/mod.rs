//! The journal: what the target accepted, by the hour, from which it can be sent once more.
//!
//! The processor sends each delivered event to a queue. [`Drain`] brings that queue into objects of
//! the archive, [`Search`](selection::Search) finds the events of a request in them, and
//! [`Resending`] sends these to the events queues.

mod drain;
mod resend;
mod selection;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

pub(super) use self::drain::Drain;
pub(super) use self::resend::Resending;

/// Beginning of the keys of the journal's objects.
const PREFIX: &str = "journal/";

/// The clocks of SQS and of this function differ by less.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(1);

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// The beginning of the hour of a time.
fn hour_of(at: Timestamp) -> Timestamp {
    let into_hour = at.as_second().rem_euclid(HOUR);
    Timestamp::from_second(at.as_second() - into_hour).unwrap_or(Timestamp::MIN)
}

/// Beginning of the keys of one hour. Its order is that of time.
fn prefix_of(hour: Timestamp) -> String {
    format!("{PREFIX}{}/", hour.strftime("%Y/%m/%d/%H"))
}

/// The hour of an object, if its key is one of the journal.
fn hour_of_key(key: &str) -> Option<Timestamp> {
    let (hour, _) = key.strip_prefix(PREFIX)?.rsplit_once('/')?;
    let hour = jiff::civil::DateTime::strptime("%Y/%m/%d/%H", hour).ok()?;
    Some(hour.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_their_hours() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let hours = [
            "2025-12-31T23:59:59.999Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T09:30:00Z",
            "2026-01-01T10:00:00Z",
        ]
        .map(|text| hour_of(at(text)));
        assert!(hours.is_sorted());
        let keys = hours.map(|hour| format!("{}a-run-0001.jsonl.gz", prefix_of(hour)));
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(keys.each_ref().map(|key| hour_of_key(key)), hours.map(Some));
        assert_eq!(prefix_of(hours[2]), "journal/2026/01/01/09/");
        for foreign in ["journal/2026/01/01/x", "dead-letters/2026/01/01/09/x", ""] {
            assert_eq!(hour_of_key(foreign), None, "{foreign}");
        }
    }
}
