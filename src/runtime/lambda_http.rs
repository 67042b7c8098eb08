//! Events of an HTTP API of API Gateway, payload format 2.0, their answers, and problem details of
//! RFC 9457.
//!
//! A caller outside AWS controls most of an event, and an error would make API Gateway answer 500.
//! So only the fields in use are read, and nothing in them ends the invocation. The crate
//! `lambda_http` makes a URL out of headers, path and query, and panics where they make none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Event of an HTTP API ("Create AWS Lambda proxy integrations for HTTP APIs in API Gateway").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpEvent {
    /// Path of the request, percent-encoded.
    pub raw_path: Option<String>,
    /// Query of the request, percent-encoded.
    pub raw_query_string: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    request_context: RequestContext,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    request_id: Option<String>,
    http: Http,
    authorizer: Option<Authorizer>,
}

#[derive(Debug, Deserialize)]
struct Http {
    method: String,
}

#[derive(Debug, Deserialize)]
struct Authorizer {
    iam: Option<Iam>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Iam {
    user_arn: Option<String>,
}

impl HttpEvent {
    /// Method of the request.
    pub fn method(&self) -> &str {
        &self.request_context.http.method
    }

    /// Id that API Gateway gave the request, as in its access log.
    pub fn request_id(&self) -> Option<&str> {
        self.request_context.request_id.as_deref()
    }

    /// ARN of the signer, where API Gateway has checked a signature of IAM.
    pub fn user_arn(&self) -> Option<&str> {
        self.request_context
            .authorizer
            .as_ref()?
            .iam
            .as_ref()?
            .user_arn
            .as_deref()
    }

    /// Headers of the request that HTTP allows. A value that it does not allow becomes empty.
    pub fn headers(&self) -> HeaderMap {
        let mut readable = HeaderMap::new();
        for (name, value) in self.headers.iter().flatten() {
            let Ok(name) = HeaderName::try_from(name) else {
                continue;
            };
            let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
            // Headers beyond the map's capacity are skipped. API Gateway passes on 10 KB of
            // headers, which is far less.
            if readable.try_append(name, value).is_err() {
                break;
            }
        }
        readable
    }

    /// Body of the request as API Gateway gives it.
    pub fn raw_body(&self) -> &str {
        self.body.as_deref().unwrap_or_default()
    }

    /// Body of the request by value, unchanged where its base64 is invalid.
    pub fn into_body(self) -> Vec<u8> {
        let body = self.body.unwrap_or_default();
        if self.is_base64_encoded {
            match BASE64_STANDARD.decode(&body) {
                Ok(decoded) => return decoded,
                Err(error) => tracing::warn!(
                    %error,
                    "body is not base64 as API Gateway says; using it unchanged"
                ),
            }
        }
        body.into_bytes()
    }

    /// Body of the request; `None` where its base64 is invalid.
    pub fn body(&self) -> Option<Cow<'_, [u8]>> {
        let text = self.raw_body();
        if self.is_base64_encoded {
            return BASE64_STANDARD.decode(text).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(text.as_bytes()))
    }
}

/// Answer to an event of an HTTP API.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpAnswer {
    pub status_code: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<&'static str, String>,
    pub body: String,
    /// Always empty: `cargo lambda watch` refuses an answer without this field.
    cookies: [&'static str; 0],
}

impl HttpAnswer {
    /// Answer with a body of this media type.
    pub fn new(status: StatusCode, content_type: &str, body: String) -> Self {
        Self {
            status_code: status.as_u16(),
            headers: BTreeMap::from([("content-type", content_type.to_owned())]),
            body,
            cookies: [],
        }
    }

    /// The same answer with another header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    /// Problem details of RFC 9457, with the name of the wrong parameter, if any. The status names
    /// the kind of problem, so the type stays `about:blank`.
    pub fn problem(status: StatusCode, detail: &str, parameter: Option<String>) -> Self {
        let title = status.canonical_reason();
        let mut problem = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
        if let Some(parameter) = parameter {
            problem["parameter"] = parameter.into();
        }
        Self::new(status, "application/problem+json", problem.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn more_headers_than_can_be_held_end_nothing() {
        let headers: Map<String, Value> = (0..40_000)
            .map(|number| (format!("x-{number}"), "".into()))
            .collect();
        let event =
            json!({ "headers": headers, "requestContext": { "http": { "method": "POST" } } });
        let event: HttpEvent = serde_json::from_value(event).expect("an event");
        assert!(event.headers().len() > 20_000);
    }
}
