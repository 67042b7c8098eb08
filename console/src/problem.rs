//! Error pages for the operator.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::runtime::logging::display_chain;
use maud::html;

use crate::functions::InvokeError;
use crate::layout::document;

/// An error that is shown as a page.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            title,
            detail: detail.into(),
        }
    }

    /// An error of the request itself.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Invalid request", detail)
    }

    pub(crate) fn not_found(title: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, title, detail)
    }
}

impl From<InvalidRequest> for Problem {
    fn from(error: InvalidRequest) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        let (status, title) = match &error {
            InvokeError::Unanswered(_) => (StatusCode::BAD_GATEWAY, "The relay did not answer"),
            InvokeError::NotAsked { .. } => (StatusCode::BAD_GATEWAY, "Nothing was done"),
            InvokeError::Denied { .. } => (StatusCode::FORBIDDEN, "IAM does not allow this"),
            InvokeError::Refused(error) => match error.kind.as_str() {
                "InvalidRequest" => (StatusCode::BAD_REQUEST, "The relay rejected the request"),
                "NotFound" => (StatusCode::NOT_FOUND, "Event not found"),
                "Busy" => (StatusCode::CONFLICT, "Another run is in progress"),
                "Off" => (StatusCode::CONFLICT, "Switched off on this stack"),
                _ => (StatusCode::BAD_GATEWAY, "The relay failed"),
            },
        };
        let chain = display_chain(&error);
        let detail = match error {
            InvokeError::Refused(error) => format!("{}: {chain}", error.kind),
            InvokeError::Denied { .. }
            | InvokeError::NotAsked { .. }
            | InvokeError::Unanswered(_) => chain,
        };
        Self::new(status, title, detail)
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
