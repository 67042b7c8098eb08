//! A request to the recovery.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid, read};
use crate::ports::delivery_log::Window;

/// Length of the shortest window, in seconds. A window that a run cannot finish is halved down to
/// it.
pub(super) const SHORTEST_SPAN: u32 = 1;

/// Length of the longest window that can be requested, in seconds. Each log has a bound of its own
/// below that.
const LONGEST_SPAN: u32 = 24 * 3600;

/// Messages that can be fetched by one request, and the length of an id.
const MOST_IDS: usize = 100;
const MAX_ID_CHARS: usize = 100;

/// A request to fetch the events that Genesys Cloud failed to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Part of the time line; `None` continues from the checkpoint.
    pub(super) range: Option<Range>,
    /// New place of the checkpoint, where the run then begins.
    pub(super) move_cursor: Option<Timestamp>,
    /// Messages to fetch by their ids, instead of a part of the time line.
    pub(super) message_ids: Vec<String>,
    /// Counts and lists only.
    pub(super) dry_run: bool,
    /// Reads events also where their records may have expired.
    pub(super) force: bool,
    pub(super) requester: Requester,
}

/// A requested part of the time line. A run over it leaves the checkpoint alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) window: Window,
    pub(super) span_seconds: u32,
    pub(super) resume: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RecoverFields {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    span_seconds: Option<u32>,
    resume: Option<String>,
    #[serde(default)]
    message_ids: Vec<String>,
    #[serde(default)]
    move_cursor: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
    by: Option<String>,
    why: Option<String>,
}

impl Request {
    /// Reads a request of `caller`, unless the request names another requester. An error names the
    /// field.
    pub fn parse(
        request: Value,
        caller: impl Into<Caller>,
        now: Timestamp,
    ) -> Result<Self, InvalidRequest> {
        if !request.is_object() {
            return Err(invalid(
                "request",
                "must be a JSON object; {} continues from the checkpoint",
            ));
        }
        let RecoverFields {
            from,
            to,
            span_seconds,
            resume,
            message_ids,
            move_cursor,
            dry_run,
            force,
            by,
            why,
        } = read(request)?;
        let (from, to) = (from.map(to_the_millisecond), to.map(to_the_millisecond));
        if from.is_some_and(|from| !(Timestamp::UNIX_EPOCH..now).contains(&from)) {
            return Err(invalid(
                "from",
                "must be a time in the past, and not before 1970",
            ));
        }
        let requester = RequesterFields { by, why }.check(&caller.into())?;
        if !message_ids.is_empty() {
            let is_alone =
                from.or(to).is_none() && span_seconds.is_none() && resume.is_none() && !move_cursor;
            check_message_ids(&message_ids, is_alone)?;
        }
        if move_cursor {
            let beside = [
                ("to", to.is_some()),
                ("spanSeconds", span_seconds.is_some()),
                ("resume", resume.is_some()),
            ];
            if let Some((field, _)) = beside.into_iter().find(|(_, given)| *given) {
                return Err(invalid(field, "cannot stand beside moveCursor"));
            }
            if dry_run {
                return Err(invalid("dryRun", "cannot stand beside moveCursor"));
            }
            let from = from.ok_or_else(|| invalid("from", "is missing beside moveCursor"))?;
            return Ok(Self {
                range: None,
                move_cursor: Some(from),
                message_ids,
                dry_run,
                force,
                requester,
            });
        }
        let range = match (from, to) {
            (Some(from), to) => {
                let to = to_the_millisecond(to.unwrap_or(now).min(now));
                if from >= to {
                    return Err(invalid("to", "must be later than from"));
                }
                let span_seconds = span_seconds.unwrap_or(LONGEST_SPAN);
                if !(SHORTEST_SPAN..=LONGEST_SPAN).contains(&span_seconds) {
                    return Err(invalid(
                        "spanSeconds",
                        &format!("must be from {SHORTEST_SPAN} to {LONGEST_SPAN}"),
                    ));
                }
                Some(Range {
                    window: Window { from, to },
                    span_seconds,
                    resume,
                })
            }
            (None, Some(_)) => return Err(invalid("from", "is missing beside to")),
            (None, None) if span_seconds.is_some() => {
                return Err(invalid("from", "is missing beside spanSeconds"));
            }
            (None, None) if resume.is_some() => {
                return Err(invalid("from", "is missing beside resume"));
            }
            (None, None) => None,
        };
        Ok(Self {
            range,
            move_cursor: None,
            message_ids,
            dry_run,
            force,
            requester,
        })
    }
}

fn check_message_ids(ids: &[String], are_alone: bool) -> Result<(), InvalidRequest> {
    if !are_alone {
        return Err(invalid(
            "messageIds",
            "cannot stand beside from, to, spanSeconds, resume or moveCursor",
        ));
    }
    let is_id = |id: &String| (1..=MAX_ID_CHARS).contains(&id.chars().count());
    if ids.len() > MOST_IDS || !ids.iter().all(is_id) {
        let problem = format!("must be at most {MOST_IDS} ids of 1 to {MAX_ID_CHARS} characters");
        return Err(invalid("messageIds", &problem));
    }
    Ok(())
}

/// Logs are queried in milliseconds: the border between two windows must be the same for both.
pub(super) fn to_the_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(request: Value) -> Result<Request, InvalidRequest> {
        Request::parse(
            request,
            "a test",
            "2026-01-15T12:00:00Z".parse().expect("a time"),
        )
    }

    #[test]
    fn a_request_that_is_not_understood_names_the_field() {
        for (request, field) in [
            (json!(null), "request"),
            (json!([]), "request"),
            (json!({ "from": "yesterday" }), "from"),
            (json!({ "from": "2026-01-15T12:00:00Z" }), "from"),
            (
                json!({ "from": "-009999-01-02T01:59:59Z", "force": true }),
                "from",
            ),
            (json!({ "to": "2026-01-15T11:00:00Z" }), "from"),
            (json!({ "spanSeconds": 60 }), "from"),
            (
                json!({ "from": "2026-01-15T11:00:00Z", "to": "2026-01-15T11:00:00Z" }),
                "to",
            ),
            (
                json!({ "from": "2026-01-15T11:00:00Z", "spanSeconds": 0 }),
                "spanSeconds",
            ),
            (
                json!({ "from": "2026-01-15T11:00:00Z", "spanSeconds": 86_401 }),
                "spanSeconds",
            ),
            (json!({ "resume": "a place" }), "from"),
            (json!({ "moveCursor": true }), "from"),
            (
                json!({ "moveCursor": true, "from": "2026-01-15T11:00:00Z", "to": "2026-01-15T11:30:00Z" }),
                "to",
            ),
            (
                json!({ "moveCursor": true, "from": "2026-01-15T11:00:00Z", "dryRun": true }),
                "dryRun",
            ),
            (
                json!({ "moveCursor": true, "from": "2026-01-15T12:00:01Z" }),
                "from",
            ),
            (
                json!({ "messageIds": ["m1"], "from": "2026-01-15T11:00:00Z" }),
                "messageIds",
            ),
            (json!({ "messageIds": [""] }), "messageIds"),
            (json!({ "messageIds": vec!["m1"; 101] }), "messageIds"),
            (json!({ "form": "2026-01-15T11:00:00Z" }), "form"),
            (json!({ "dryRun": "yes" }), "dryRun"),
            (json!({ "why": "" }), "why"),
        ] {
            let error = parse(request.clone()).expect_err("refused");
            assert_eq!(error.field, field, "{request}: {error}");
        }
    }

    #[test]
    fn an_end_that_is_to_come_is_now() {
        let request = json!({ "from": "2026-01-15T11:00:00Z", "to": "2026-02-01T00:00:00Z" });
        let range = parse(request).expect("understood").range.expect("a range");
        assert_eq!(
            range.window.to,
            "2026-01-15T12:00:00Z".parse().expect("a time")
        );
        assert_eq!(
            parse(json!({ "by": "schedule" }))
                .expect("understood")
                .range,
            None
        );
    }

    #[test]
    fn a_range_has_borders_in_milliseconds_and_a_span_of_a_second_to_a_day() {
        for (span, expected) in [
            (json!(1), 1),
            (json!(86_400), 86_400),
            (Value::Null, 86_400),
        ] {
            let request = json!({ "from": "2026-01-15T11:00:00.1239Z", "to": "2026-01-15T11:30:00.4569Z", "spanSeconds": span });
            let range = parse(request).expect("understood").range.expect("a range");
            let borders = [range.window.from, range.window.to]
                .map(|time| time.as_nanosecond() % 1_000_000_000);
            assert_eq!(
                (borders, range.span_seconds),
                ([123_000_000, 456_000_000], expected)
            );
        }
    }
}
