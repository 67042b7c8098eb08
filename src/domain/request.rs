//! Requests of operators, read strictly.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::text::excerpt;

/// Upper bound on names and reasons, in characters.
const MAX_TEXT: usize = 500;

/// Name that the schedules of the template give.
const SCHEDULE: &str = "schedule";

/// The person who requests a change, and the reason, as in the audit log and on each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// The name.
    pub by: String,
    /// The reason, if given.
    pub why: Option<String>,
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
    pub(crate) fn check(self, caller: &str) -> Result<Requester, InvalidRequest> {
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
        Ok(Requester {
            by: self.by.unwrap_or_else(|| caller.to_owned()),
            why: self.why,
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
            .check("the caller");
            let why = RequesterFields {
                by: None,
                why: Some(text.clone()),
            }
            .check("the caller");
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
