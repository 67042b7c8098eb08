//! What an operator asks the replay function, read so that nothing is misunderstood.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Event, Source};
use crate::message::Message;
use crate::reason::{Reason, ReasonKind};

/// The most a request can ask for, in one run.
const MAX_MESSAGES: u32 = 100_000;

/// `StartMessageMoveTask`: at most 500 messages a second.
const MAX_RATE: u32 = 500;

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How many messages lie where, and what the newest move task does.
    Status,
    /// Bring dead letters back.
    Replay(Selection),
    /// Cancel a running move task.
    Cancel,
}

/// Which dead letters to bring back, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Which ones; `None` stands for all.
    pub(super) filter: Option<Filter>,
    /// Why, for the audit line.
    pub(super) why: Option<String>,
    /// Count and describe only.
    pub(super) dry_run: bool,
    /// At most so many; `None` where the request does not say.
    pub(super) max_messages: Option<u32>,
    /// At most so many a second.
    pub(super) rate_per_second: Option<u32>,
}

/// What a dead letter has to match, by what the message itself carries. Every given field has to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonFilter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    /// Received at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Received before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

/// The reason a message carries, or `unknown` for none: SQS's redrive attaches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReasonFilter {
    Permanent,
    Exhausted,
    Malformed,
    Unknown,
}

/// A request that was not understood, and did nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct InvalidRequest {
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Request {
    /// Reads a request. What is not understood is an error that names the field.
    pub fn parse(request: Value) -> Result<Self, InvalidRequest> {
        let invalid = |field: &str, problem: &str| InvalidRequest { field: field.into(), problem: problem.into() };
        let Value::Object(mut fields) = request else {
            return Err(invalid("request", "must be a JSON object with the field action"));
        };
        let action = match fields.remove("action") {
            Some(Value::String(action)) => action,
            Some(_) => return Err(invalid("action", "must be a text")),
            None => return Err(invalid("action", "is missing; it is one of status, replay, cancel")),
        };
        if action != "replay"
            && let Some(unknown) = fields.keys().next()
        {
            return Err(invalid(unknown, &format!("is not a field of the action {action}")));
        }
        match action.as_str() {
            "status" => Ok(Self::Status),
            "cancel" => Ok(Self::Cancel),
            "replay" => Selection::parse(Value::Object(fields)).map(Self::Replay),
            other => Err(invalid("action", &format!("{other:?} is unknown; it is one of status, replay, cancel"))),
        }
    }
}

impl Selection {
    fn parse(fields: Value) -> Result<Self, InvalidRequest> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Fields {
            all: Option<bool>,
            filter: Option<Filter>,
            why: Option<String>,
            #[serde(default)]
            dry_run: bool,
            max_messages: Option<u32>,
            rate_per_second: Option<u32>,
        }

        let invalid = |field: &str, problem: String| InvalidRequest { field: field.into(), problem };
        let fields: Fields = serde_path_to_error::deserialize(fields).map_err(|error| {
            let path = error.path().to_string();
            invalid(if path == "." { "request" } else { &path }, error.into_inner().to_string())
        })?;
        let filter = match (fields.all, fields.filter) {
            (Some(true), None) => None,
            (None, Some(filter)) if filter == Filter::default() => {
                return Err(invalid("filter", "names nothing; to replay everything say \"all\": true".into()));
            }
            (None, Some(filter)) => Some(filter),
            (Some(false), _) => return Err(invalid("all", "must be true, or left out".into())),
            (Some(true), Some(_)) => return Err(invalid("filter", "cannot stand beside all".into())),
            (None, None) => {
                return Err(invalid("all", "is missing; say \"all\": true, or give a filter".into()));
            }
        };
        for (field, value, most) in
            [("maxMessages", fields.max_messages, MAX_MESSAGES), ("ratePerSecond", fields.rate_per_second, MAX_RATE)]
        {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                return Err(invalid(field, format!("must be from 1 to {most}")));
            }
        }
        Ok(Self {
            filter,
            why: fields.why,
            dry_run: fields.dry_run,
            max_messages: fields.max_messages,
            rate_per_second: fields.rate_per_second,
        })
    }
}

impl Filter {
    /// Whether a dead letter matches; `event` is what could be read from it.
    pub(super) fn matches(&self, message: &Message, event: Option<&Event>) -> bool {
        let reason = message.reason();
        self.source.is_none_or(|wanted| event.is_some_and(|event| event.source == wanted))
            && self.reason.is_none_or(|wanted| wanted == ReasonFilter::of(reason.as_ref()))
            && self
                .webhook_id
                .as_ref()
                .is_none_or(|wanted| event.and_then(|event| event.origin.as_ref()) == Some(wanted))
            && self
                .status_code
                .is_none_or(|wanted| reason.as_ref().and_then(|reason| reason.status_code) == Some(wanted))
            && self.since.is_none_or(|since| event.is_some_and(|event| event.received_at >= since))
            && self.until.is_none_or(|until| event.is_some_and(|event| event.received_at < until))
    }
}

impl ReasonFilter {
    fn of(reason: Option<&Reason>) -> Self {
        match reason.map(|reason| reason.reason) {
            Some(ReasonKind::Permanent) => Self::Permanent,
            Some(ReasonKind::Exhausted) => Self::Exhausted,
            Some(ReasonKind::Malformed) => Self::Malformed,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn invalid(request: Value) -> InvalidRequest {
        Request::parse(request).expect_err("refused")
    }

    #[test]
    fn a_request_that_is_not_understood_names_the_field() {
        for (request, field) in [
            (json!("status"), "request"),
            (json!({}), "action"),
            (json!({ "action": 7 }), "action"),
            (json!({ "action": "purge" }), "action"),
            (json!({ "action": "status", "verbose": true }), "verbose"),
            (json!({ "action": "replay" }), "all"),
            (json!({ "action": "replay", "all": false }), "all"),
            (json!({ "action": "replay", "all": true, "filter": { "source": "generic" } }), "filter"),
            (json!({ "action": "replay", "filter": {} }), "filter"),
            (json!({ "action": "replay", "filter": { "source": "fax" } }), "filter.source"),
            (json!({ "action": "replay", "filter": { "sauce": "generic" } }), "filter.sauce"),
            (json!({ "action": "replay", "filter": { "since": "yesterday" } }), "filter.since"),
            (json!({ "action": "replay", "filter": { "statusCode": "404" } }), "filter.statusCode"),
            (json!({ "action": "replay", "all": true, "ratePerSecond": 0 }), "ratePerSecond"),
            (json!({ "action": "replay", "all": true, "ratePerSecond": 501 }), "ratePerSecond"),
            (json!({ "action": "replay", "all": true, "maxMessages": 0 }), "maxMessages"),
            (json!({ "action": "replay", "all": true, "maxMessages": -1 }), "maxMessages"),
            (json!({ "action": "replay", "all": true, "dryRun": "yes" }), "dryRun"),
            (json!({ "action": "replay", "all": true, "dryrun": true }), "dryrun"),
        ] {
            let error = invalid(request.clone());
            assert_eq!(error.field, field, "{request}: {error}");
        }
    }
}
