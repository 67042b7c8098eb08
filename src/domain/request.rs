//! Requests of operators, read strictly.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::text::excerpt;

/// Upper bound on names and reasons, in characters.
const MAX_TEXT: usize = 500;

/// Name that the schedules of the template give.
const SCHEDULE: &str = "schedule";

/// The sender of a request, as AWS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The ARN that API Gateway has verified. Lambda does not tell who invokes a function; `CloudTrail`
    /// does.
    pub arn: Option<String>,
    /// The id that API Gateway gave the request. A person who may invoke the function can write an
    /// event like one of API Gateway: the ARN is verified where the access log has this id with it.
    pub api_request_id: Option<String>,
    /// The id of the invocation.
    pub request_id: String,
}

impl Caller {
    /// The caller of a direct invocation.
    pub fn of_invocation(request_id: impl Into<String>) -> Self {
        Self {
            arn: None,
            api_request_id: None,
            request_id: request_id.into(),
        }
    }
}

/// A caller whose ARN is this text.
#[cfg(any(test, feature = "testing"))]
impl From<&str> for Caller {
    fn from(arn: &str) -> Self {
        Self {
            arn: Some(arn.to_owned()),
            ..Self::of_invocation("a-request")
        }
    }
}

/// The person who makes a request, and the reason, as in the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requester {
    /// The name on records: the name that the request gives, else the caller's, else that of the
    /// invocation.
    pub by: String,
    /// The reason, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The name that the request gives, which AWS has not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_by: Option<String>,
    /// The ARN that API Gateway has verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The id that API Gateway gave the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_request_id: Option<String>,
    /// The id of the invocation that took the request.
    #[serde(default)]
    pub request_id: String,
}

impl Requester {
    /// Returns whether it is one of the template's schedules.
    pub(crate) fn is_schedule(&self) -> bool {
        self.by == SCHEDULE
    }
}

/// An invalid request, which did nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct InvalidRequest {
    pub field: String,
    pub problem: String,
}

/// The fields of the requester and the reason.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequesterFields {
    pub(crate) by: Option<String>,
    pub(crate) why: Option<String>,
}

impl RequesterFields {
    pub(crate) fn check(self, caller: &Caller) -> Result<Requester, InvalidRequest> {
        for (field, text) in [("by", &self.by), ("why", &self.why)] {
            let Some(text) = text else { continue };
            if text.trim().is_empty()
                || text.chars().count() > MAX_TEXT
                || text.chars().any(char::is_control)
            {
                return Err(invalid(
                    field,
                    &format!("must be a line of text of at most {MAX_TEXT} characters"),
                ));
            }
        }
        let Caller {
            arn,
            api_request_id,
            request_id,
        } = caller.clone();
        let by = self.by.clone().or_else(|| arn.clone());
        Ok(Requester {
            by: by.unwrap_or_else(|| format!("invocation {request_id}")),
            why: self.why,
            said_by: self.by,
            caller: arn,
            api_request_id,
            request_id,
        })
    }
}

/// The error for a field. Both texts may quote the request, which can be megabytes long: they are
/// cut.
pub(crate) fn invalid(field: &str, problem: &str) -> InvalidRequest {
    let field = if field.is_empty() { "request" } else { field };
    InvalidRequest {
        field: excerpt(field),
        problem: excerpt(problem),
    }
}

/// Reads the fields of a request. An error names the field.
pub fn read<T: DeserializeOwned>(fields: Value) -> Result<T, InvalidRequest> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner().to_string();
        // A field that is missing, or not known, is named in the text only.
        let named = problem.split('`').nth(1).unwrap_or("request");
        invalid(if path == "." { named } else { &path }, &problem)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}

    #[test]
    fn names_and_reasons_are_lines_of_up_to_500_characters() {
        for (text, is_taken) in [
            ("a line".to_owned(), true),
            ("ü".repeat(500), true),
            ("ü".repeat(501), false),
            (String::new(), false),
            (" \u{a0}".to_owned(), false),
            ("a\nb".to_owned(), false),
            ("a\u{7}b".to_owned(), false),
        ] {
            let by = RequesterFields {
                by: Some(text.clone()),
                why: None,
            }
            .check(&"the caller".into());
            let why = RequesterFields {
                by: None,
                why: Some(text.clone()),
            }
            .check(&"the caller".into());
            let fields = [by.as_ref().err(), why.as_ref().err()]
                .map(|error| error.map(|error| error.field.as_str()));
            assert_eq!(
                fields,
                if is_taken {
                    [None; 2]
                } else {
                    [Some("by"), Some("why")]
                },
                "{text:?}"
            );
            if let (Ok(by), Ok(why)) = (by, why) {
                assert_eq!((by.by, by.why), (text.clone(), None));
                assert_eq!((why.by.as_str(), why.why), ("the caller", Some(text)));
            }
        }
    }

    #[test]
    fn records_name_the_one_who_says_so_else_the_caller() {
        let invoked = Caller::of_invocation("an-id");
        let signed = Caller {
            arn: Some("an ARN".to_owned()),
            api_request_id: Some("an id of the API".to_owned()),
            ..invoked.clone()
        };
        for (caller, said, by) in [
            (&invoked, None, "invocation an-id"),
            (&signed, None, "an ARN"),
            (&invoked, Some("a person"), "a person"),
            (&signed, Some("a person"), "a person"),
        ] {
            let fields = RequesterFields {
                by: said.map(str::to_owned),
                why: None,
            };
            let requester = fields.check(caller).expect("a requester");
            assert_eq!(requester.by, by);
            assert_eq!(requester.said_by.as_deref(), said);
            assert_eq!(requester.caller, caller.arn);
            assert_eq!(requester.api_request_id, caller.api_request_id);
            assert_eq!(requester.request_id, "an-id");
        }
    }

    #[test]
    fn an_error_names_a_field_and_is_short_whatever_is_asked() {
        let long = "n".repeat(100_000);
        for (request, field) in [
            (json!({ &long: 1 }), "n"),
            (json!({ "a\nb": 1 }), "a b"),
            (json!({ "": 1 }), "request"),
        ] {
            let error = read::<NoFields>(request).expect_err("refused");
            assert!(
                error.field.starts_with(field) && error.to_string().len() < 4096,
                "{error}"
            );
        }
        assert!(invalid("action", &long).to_string().len() < 4096);
    }
}
