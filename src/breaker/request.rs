//! What somebody, or the schedule, asks of the breaker.

use serde::Deserialize;
use serde_json::Value;

use super::Override;
use crate::domain::request::{InvalidRequest, Requester, RequesterFields, invalid, read};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the breaker is to be; `None` has it look and decide.
    pub wish: Option<Override>,
    /// Who asks, and why.
    pub requester: Requester,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
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
    /// Reads a request of `caller`, who may give another name. What is not understood is an error that names the field.
    pub fn parse(request: Value, caller: &str) -> Result<Self, InvalidRequest> {
        if !request.is_object() {
            return Err(invalid("request", r#"must be a JSON object, such as {"action":"run"}"#));
        }
        let Fields { action, by, why } = read(request)?;
        let wish = match action {
            Action::Run => None,
            Action::Open => Some(Override::Open),
            Action::Close => Some(Override::Closed),
            Action::Automatic => Some(Override::Automatic),
        };
        Ok(Self { wish, requester: RequesterFields { by, why }.check(caller)? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_action_is_a_wish_and_the_others_are_named() {
        for (action, wish) in [
            ("run", None),
            ("open", Some(Override::Open)),
            ("close", Some(Override::Closed)),
            ("automatic", Some(Override::Automatic)),
        ] {
            let request = Request::parse(json!({ "action": action, "why": "a test" }), "somebody").expect("understood");
            assert_eq!((request.wish, request.requester.by.as_str()), (wish, "somebody"));
        }
        for (request, field) in [
            (json!(null), "request"),
            (json!({}), "action"),
            (json!({ "action": "shut" }), "action"),
            (json!({ "action": "open", "for": "ever" }), "for"),
            (json!({ "action": "open", "why": "\n" }), "why"),
        ] {
            assert_eq!(Request::parse(request.clone(), "somebody").expect_err("refused").field, field, "{request}");
        }
    }
}
