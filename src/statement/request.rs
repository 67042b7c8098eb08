//! A request for a statement.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::Deserialize;
use serde_json::Value;

use crate::domain::event_record::LIFE;
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid, read};

/// A day is due this long after its end: deliveries are retried for less than that, and the list of
/// conversations may lag.
const DUE_AFTER: SignedDuration = SignedDuration::from_hours(2);

/// Part of the records' life that is left alone: they expire while a statement is made.
const EXPIRY_MARGIN: SignedDuration = SignedDuration::from_hours(24);

/// A request for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The day; `None` continues, or begins the newest day that is due.
    pub(super) day: Option<Date>,
    pub(super) requester: Requester,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatementFields {
    #[serde(rename = "action")]
    _action: String,
    day: Option<Date>,
    by: Option<String>,
    why: Option<String>,
}

impl Request {
    /// Returns whether a request of the recovery function is for a statement.
    pub fn is_for(request: &Value) -> bool {
        request
            .get("action")
            .is_some_and(|action| action == "statement")
    }

    /// Reads a request of `caller`. An error names the field.
    pub fn parse(
        request: Value,
        caller: impl Into<Caller>,
        now: Timestamp,
    ) -> Result<Self, InvalidRequest> {
        let StatementFields { day, by, why, .. } = read(request)?;
        if let Some(day) = day {
            let (from, to) =
                span_of(day).ok_or_else(|| invalid("day", "is no day of this time"))?;
            if to > now {
                return Err(invalid("day", "must be a day (UTC) that is over"));
            }
            if from < oldest_day(now) {
                return Err(invalid(
                    "day",
                    "must be one of the last 14 days: records of events live for 15 days",
                ));
            }
        }
        let requester = RequesterFields { by, why }.check(&caller.into())?;
        Ok(Self { day, requester })
    }
}

/// The earliest beginning of a day whose records have not expired.
pub(super) fn oldest_day(now: Timestamp) -> Timestamp {
    now - LIFE + EXPIRY_MARGIN
}

/// The newest day that is due.
pub(super) fn due_day(now: Timestamp) -> Date {
    day_of(now - DUE_AFTER).saturating_sub(1.day())
}

/// The day (UTC) of a time.
pub(super) fn day_of(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// Beginning and end of a day.
pub(super) fn span_of(day: Date) -> Option<(Timestamp, Timestamp)> {
    let at = |day: Date| Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp());
    Some((at(day)?, at(day.tomorrow().ok()?)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_day_is_due_two_hours_after_its_end() {
        for (now, day) in [
            ("2026-01-15T01:59:59.999Z", "2026-01-13"),
            ("2026-01-15T02:00:00Z", "2026-01-14"),
            ("2026-01-16T01:00:00Z", "2026-01-14"),
        ] {
            assert_eq!(due_day(at(now)).to_string(), day, "{now}");
        }
    }

    #[test]
    fn a_day_that_cannot_be_stated_is_refused_by_name() {
        for (day, says) in [
            (json!("2026-01-15"), Some("is over")),
            (json!("2026-01-14"), None),
            (json!("2026-01-02"), None),
            (json!("2026-01-01"), Some("14 days")),
            (json!("0001-01-01"), Some("14 days")),
            (json!("yesterday"), Some("")),
        ] {
            let request = json!({ "action": "statement", "day": day });
            let parsed = Request::parse(request, "a test", at("2026-01-15T12:00:00Z"));
            match (parsed, says) {
                (Ok(_), None) => {}
                (Err(error), Some(says)) => {
                    assert!(
                        error.field == "day" && error.problem.contains(says),
                        "{error}"
                    );
                }
                (parsed, _) => panic!("{day}: {parsed:?}"),
            }
        }
        let unknown = json!({ "action": "statement", "days": 1 });
        let error = Request::parse(unknown, "a test", at("2026-01-15T12:00:00Z"));
        assert_eq!(error.expect_err("refused").field, "days");
    }
}
