//! Answers of the HTTP API: JSON within the size limit, or a problem with its remedy.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::dead_letters::{EventDetails, List};
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::ports::events_table::Position;
use genesys_relay::runtime::lambda_http::HttpAnswer;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

/// "Lambda quotas": an answer has at most 6 MB. Everything but the body needs far less than the
/// rest.
const MAX_BODY_BYTES: usize = 6 * 1024 * 1024 - 64 * 1024;

/// JSON of this status.
pub(super) fn json(status: StatusCode, body: &Value) -> HttpAnswer {
    answer(status, body.to_string())
}

/// A page of the list, cut to the size limit. The token continues at the cut.
pub(super) fn list(mut list: List) -> HttpAnswer {
    let mut body = text(&list);
    if travelling_bytes(&body) > MAX_BODY_BYTES {
        let mut room = MAX_BODY_BYTES - travelling_bytes(&text(&List::default())) - MAX_TOKEN_BYTES;
        let fitting = list.items.iter().take_while(|item| {
            let bytes = travelling_bytes(&text(item)) + ','.len_utf8();
            room.checked_sub(bytes)
                .inspect(|rest| room = *rest)
                .is_some()
        });
        list.count = fitting.count();
        list.items.truncate(list.count);
        list.next = list
            .items
            .last()
            .map(|last| Position::of(last.received_at, &last.event_id).token());
        body = text(&list);
    }
    answer(StatusCode::OK, body)
}

/// All that is known of an event. A body that JSON makes too long is given in base64, which
/// adds a third.
pub(super) fn shown(shown: &EventDetails) -> HttpAnswer {
    let mut body = text(shown);
    if travelling_bytes(&body) > MAX_BODY_BYTES {
        let mut shown = json!(shown);
        if let Value::String(text) = shown["body"].take() {
            shown["bodyBase64"] = BASE64_STANDARD.encode(text).into();
        }
        body = text(&shown);
    }
    answer(StatusCode::OK, body)
}

fn answer(status: StatusCode, body: String) -> HttpAnswer {
    uncached(HttpAnswer::new(status, "application/json", body))
}

/// Answers hold customer data; no cache may keep them.
fn uncached(answer: HttpAnswer) -> HttpAnswer {
    answer.with_header("cache-control", "no-store")
}

/// A position is a time and an id of at most 80 characters, in base64, and stands in quotes.
const MAX_TOKEN_BYTES: usize = 256;

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names, texts and numbers are all there is")
}

/// Length of a JSON text as a string within JSON, the form in which it leaves the function.
fn travelling_bytes(json: &str) -> usize {
    json.len()
        + json
            .bytes()
            .filter(|byte| matches!(byte, b'"' | b'\\'))
            .count()
}

/// Problem details of RFC 9457.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// Name of the part of the request that is wrong.
    parameter: Option<String>,
    /// Wait before the next try.
    retry_after: Option<Duration>,
    /// Method that the path takes.
    allow: Option<&'static str>,
}

impl Problem {
    /// Problem with a status and a sentence.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            parameter: None,
            retry_after: None,
            allow: None,
        }
    }

    /// Problem with a named part of the request.
    pub(super) fn parameter(name: &str, problem: &str) -> Self {
        let detail = format!("{name}: {problem}");
        Self {
            parameter: Some(name.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, detail)
        }
    }

    /// Problem that a later try may not have.
    pub(super) fn later(retry_after: Duration, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// Problem with the method of a known path.
    pub(super) fn method(allow: &'static str) -> Self {
        let detail = format!("This path takes {allow} only.");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Sentence for a person to read.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<InvalidRequest> for Problem {
    fn from(error: InvalidRequest) -> Self {
        Self::parameter(&error.field, &error.problem)
    }
}

impl From<Problem> for HttpAnswer {
    fn from(problem: Problem) -> Self {
        let Problem {
            status,
            detail,
            parameter,
            retry_after,
            allow,
        } = problem;
        let answer = uncached(Self::problem(status, &detail, parameter));
        match (retry_after, allow) {
            (Some(wait), _) => answer.with_header("retry-after", wait.as_secs().to_string()),
            (None, Some(methods)) => answer.with_header("allow", methods),
            (None, None) => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::dead_letters::{DeadLetter, Request};
    use genesys_relay::domain::event::Source;
    use genesys_relay::domain::failure::ReasonKind;
    use jiff::Timestamp;

    use super::*;

    fn page_of(count: usize, webhook_id: &str) -> List {
        let dead_letter = |number: usize| DeadLetter {
            event_id: format!("event-{number}").parse().expect("an id"),
            source: Source::Webhook,
            webhook_id: Some(webhook_id.to_owned()),
            reason: ReasonKind::Permanent,
            error: "\"".repeat(1024),
            status_code: Some(404),
            received_at: Timestamp::UNIX_EPOCH,
            dead_at: Timestamp::UNIX_EPOCH,
            attempts: 1,
            replays: 0,
            replayed_at: None,
            is_recorded: true,
        };
        List {
            count,
            items: (0..count).map(dead_letter).collect(),
            next: None,
        }
    }

    fn body_of(response: &HttpAnswer) -> Value {
        assert!(json!(response).to_string().len() < 6 * 1024 * 1024);
        serde_json::from_str(&response.body).expect("JSON")
    }

    #[test]
    fn a_page_that_is_too_large_is_cut_and_can_be_gone_on_from() {
        let body = body_of(&list(page_of(1000, &"w".repeat(10_000))));
        let items = body["items"].as_array().expect("items");
        assert!((100..1000).contains(&items.len()), "{}", items.len());
        assert_eq!(body["count"], items.len());
        let last = items.last().expect("an item")["eventId"]
            .as_str()
            .expect("an id")
            .parse()
            .expect("an id");
        assert_eq!(
            body["next"],
            Position::of(Timestamp::UNIX_EPOCH, &last).token()
        );
        let request = json!({ "action": "list", "next": body["next"] });
        Request::parse(request, "a test").expect("a token");
    }

    #[test]
    fn a_page_that_fits_is_left_alone() {
        let body = body_of(&list(page_of(1000, "w")));
        assert_eq!(
            (&body["count"], &body["next"]),
            (&json!(1000), &Value::Null)
        );
    }

    #[test]
    fn the_bytes_of_a_text_within_json_are_counted() {
        let text = json!({ "a": "\"\\\n\u{1}ü€" }).to_string();
        assert_eq!(travelling_bytes(&text) + 2, json!(text).to_string().len());
    }
}
