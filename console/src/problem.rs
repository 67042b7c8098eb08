//! Why there is no page, in words for the operator.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use genesys_relay::runtime::logging::display_chain;
use maud::html;

use crate::functions::InvokeError;
use crate::layout::document;

/// Why a request was not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into() }
    }

    /// The request itself is wrong.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "That was not understood", detail)
    }
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        let (status, title) = match &error {
            InvokeError::Unanswered(_) => (StatusCode::BAD_GATEWAY, "The relay did not answer"),
            InvokeError::NotAsked { .. } => (StatusCode::BAD_GATEWAY, "Nothing was done"),
            InvokeError::Refused(refusal) => match refusal.kind.as_str() {
                "InvalidRequest" => (StatusCode::BAD_REQUEST, "The relay did not understand that"),
                "NotFound" => (StatusCode::NOT_FOUND, "There is no such event"),
                "Busy" => (StatusCode::CONFLICT, "Somebody else is at work"),
                "Off" => (StatusCode::CONFLICT, "The breaker is off"),
                _ => (StatusCode::BAD_GATEWAY, "The relay could not do that"),
            },
        };
        let kind = match &error {
            InvokeError::Refused(refusal) => format!("{}: ", refusal.kind),
            InvokeError::NotAsked { .. } | InvokeError::Unanswered(_) => String::new(),
        };
        Self { status, title, detail: format!("{kind}{}", display_chain(&error)) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content = html! {
            h1 { (self.title) }
            p.problem role="alert" { (self.detail) }
        };
        (self.status, document(self.title, None, &html! {}, &content)).into_response()
    }
}
