//! Requests of the schedule and of operators to the breaker.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::circuit::Override;
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid, read};

/// A request to the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The state that an operator sets; absent where the breaker must decide.
    pub override_state: Option<Override>,
    /// The requester and the reason.
    pub requester: Requester,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerFields {
    action: Action,
    by: Option<String>,
    why: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Run,
    Open,
    Close,
    Automatic,
}

impl Request {
    /// Reads a request of `caller`, who may give another name. An error names the field.
    pub fn parse(request: Value, caller: impl Into<Caller>) -> Result<Self, InvalidRequest> {
        if !request.is_object() {
            return Err(invalid(
                "request",
                r#"must be a JSON object, such as {"action":"run"}"#,
            ));
        }
        let BreakerFields { action, by, why } = read(request)?;
        let override_state = match action {
            Action::Run => None,
            Action::Open => Some(Override::Open),
            Action::Close => Some(Override::Closed),
            Action::Automatic => Some(Override::Automatic),
        };
        Ok(Self {
            override_state,
            requester: RequesterFields { by, why }.check(&caller.into())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_action_is_an_override_and_wrong_fields_are_named() {
        for (action, state) in [
            ("run", None),
            ("open", Some(Override::Open)),
            ("close", Some(Override::Closed)),
            ("automatic", Some(Override::Automatic)),
        ] {
            let request = Request::parse(json!({ "action": action, "why": "a test" }), "a caller")
                .expect("understood");
            assert_eq!(
                (request.override_state, request.requester.by.as_str()),
                (state, "a caller")
            );
        }
        for (request, field) in [
            (json!(null), "request"),
            (json!({}), "action"),
            (json!({ "action": "shut" }), "action"),
            (json!({ "action": "open", "for": "ever" }), "for"),
            (json!({ "action": "open", "why": "\n" }), "why"),
        ] {
            assert_eq!(
                Request::parse(request.clone(), "a caller")
                    .expect_err("refused")
                    .field,
                field,
                "{request}"
            );
        }
    }
}
