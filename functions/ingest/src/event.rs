//! An event of an HTTP API, read so that nothing in it can end the invocation.
//!
//! Everything in it comes from a stranger, and an error would make API Gateway answer 500 and count as a failure of ours.
//! `lambda_http`'s own reading makes a URL out of `X-Forwarded-Proto`, `Host`, path and query, and panics where they make none,
//! and on a body that is not the base64 that the event promises. So only what the relay needs is read, and nothing is
//! expected of it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde::Deserialize;

/// What matters of an event in payload format 2.0 ("Create AWS Lambda proxy integrations for HTTP APIs in API Gateway").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    headers: Option<BTreeMap<String, String>>,
    request_context: Context,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Debug, Deserialize)]
struct Context {
    http: Http,
}

#[derive(Debug, Deserialize)]
struct Http {
    method: String,
}

impl From<Event> for Request<Vec<u8>> {
    fn from(Event { headers, request_context, body, is_base64_encoded }: Event) -> Self {
        let body = match body {
            Some(encoded) if is_base64_encoded => decoded(encoded),
            body => body.unwrap_or_default().into_bytes(),
        };
        let mut request = Self::new(body);
        // What is no method is not POST either. The URL is ours anyway.
        *request.method_mut() = Method::from_bytes(request_context.http.method.as_bytes()).unwrap_or_default();
        *request.headers_mut() = readable(headers.unwrap_or_default());
        request
    }
}

fn readable(headers: BTreeMap<String, String>) -> HeaderMap {
    let mut readable = HeaderMap::new();
    for (name, value) in headers {
        let Ok(name) = HeaderName::try_from(name) else { continue };
        // A value that HTTP does not allow is there and says nothing, so that it proves nothing.
        let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
        // More than the map can hold are left out. The API passes 10 KB of headers on, which is far less.
        if readable.try_append(name, value).is_err() {
            break;
        }
    }
    readable
}

/// A body that is said to be base64. What is not stands for itself.
fn decoded(body: String) -> Vec<u8> {
    BASE64_STANDARD.decode(&body).unwrap_or_else(|error| {
        tracing::warn!(%error, "the body is not the base64 that the event promises, and is taken as it is");
        body.into_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_headers_than_can_be_held_end_nothing() {
        let headers = (0..40_000).map(|number| (format!("x-{number}"), String::new())).collect();
        assert!(readable(headers).len() > 20_000);
    }
}
