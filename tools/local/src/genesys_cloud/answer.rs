//! Answers: their headers, the form of refusals, and pages.

use http_body_util::Full;
use hyper::{
    StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::{Map, Value, json};

use super::format::new_id;
use crate::server::{TakeOver, end_with};

/// The answer, or an error that breaks the connection in the middle of it.
pub(super) type Response = Result<hyper::Response<Full<Bytes>>, TakeOver>;

const CORRELATION_ID: &str = "inin-correlation-id";
const RETRY_AFTER: &str = "retry-after";
const LARGEST_PAGE: usize = 100;
const USUAL_PAGE: usize = 25;

/// An answer before it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudAnswer {
    /// Three digits.
    pub status: u16,
    /// These, and those that every answer has.
    pub headers: Vec<(String, String)>,
    /// The body as text, which need not be JSON.
    pub body: String,
    /// Only the first half of the body arrives.
    pub cut_short: bool,
}

impl CloudAnswer {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_string(),
            cut_short: false,
        }
    }

    pub(super) fn with_headers(
        mut self,
        headers: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        self.headers.extend(
            headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        self
    }

    pub(super) fn cut_short(self) -> Self {
        Self {
            cut_short: true,
            ..self
        }
    }

    pub(super) fn into_response(self, now: Timestamp) -> Response {
        if self.cut_short {
            let (length, half) = (self.body.len(), &self.body[..self.body.len() / 2]);
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{half}");
            return Err(TakeOver::new(move |stream| {
                let text = text.clone();
                async move { drop(end_with(stream, text.as_bytes()).await) }
            }));
        }
        let mut response = hyper::Response::new(Full::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let date = DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&now)
            .ok();
        let common = [(DATE.as_str(), date), (CORRELATION_ID, Some(new_id()))];
        let common = common
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        for (name, value) in common.chain(self.headers) {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.insert(name, value);
            }
        }
        Ok(response)
    }
}

/// A call that is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
    permission: Option<String>,
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            permission: None,
            retry_after: None,
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "bad.request", message)
    }

    pub(super) fn no_token() -> Self {
        Self::new(401, "authentication.required", "There is no bearer token.")
    }

    pub(super) fn bad_token() -> Self {
        Self::new(
            401,
            "bad.credentials",
            "The token is unknown, or has expired.",
        )
    }

    pub(super) fn missing_permission(permission: &str) -> Self {
        let refusal = Self::new(
            403,
            "missing.permissions",
            format!("This permission is missing: {permission}"),
        );
        Self {
            permission: Some(permission.to_owned()),
            ..refusal
        }
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, "not.found", format!("There is nothing here: {what}"))
    }

    pub(super) fn too_many_requests(retry_after: Option<u64>) -> Self {
        Self {
            retry_after,
            ..Self::new(429, "too.many.requests", "The rate limit is exceeded.")
        }
    }

    pub(super) fn server_error(status: u16) -> Self {
        let code = if status == 503 {
            "service.unavailable"
        } else {
            "internal.server.error"
        };
        Self::new(status, code, "Something went wrong here.")
    }
}

impl From<Refusal> for CloudAnswer {
    fn from(refusal: Refusal) -> Self {
        let correlation_id = new_id();
        let parameters: Map<_, _> = refusal
            .permission
            .map(|name| ("permissions".to_owned(), name.into()))
            .into_iter()
            .collect();
        let body = json!({
            "message": refusal.message, "code": refusal.code, "status": refusal.status,
            "messageParams": parameters, "contextId": correlation_id, "details": [], "errors": [],
        });
        let retry_after = refusal
            .retry_after
            .map(|seconds| (RETRY_AFTER, seconds.to_string()));
        Self::json(refusal.status, &body)
            .with_headers([(CORRELATION_ID, correlation_id)])
            .with_headers(retry_after)
    }
}

/// Requested part of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) size: usize,
    pub(super) number: usize,
}

impl Page {
    pub(super) fn new(size: Option<usize>, number: Option<usize>) -> Result<Self, Refusal> {
        let (size, number) = (size.unwrap_or(USUAL_PAGE), number.unwrap_or(1));
        if !(1..=LARGEST_PAGE).contains(&size) || number == 0 {
            return Err(Refusal::bad_request(format!(
                "a page has 1 to {LARGEST_PAGE} items, and the first is page 1"
            )));
        }
        Ok(Self { size, number })
    }

    pub(super) fn of<T>(self, items: impl IntoIterator<Item = T>) -> Vec<T> {
        items
            .into_iter()
            .skip((self.number - 1).saturating_mul(self.size))
            .take(self.size)
            .collect()
    }
}
