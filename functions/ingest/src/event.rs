//! API Gateway's event, read so that nothing in it can end the invocation.
//!
//! All of it comes from an unauthenticated sender, and an error would make API Gateway answer 500.
//! `lambda_http` makes a URL out of `X-Forwarded-Proto`, `Host`, path and query, and panics where
//! they make none, and on a body that is not the base64 that the event promises. So only the fields
//! in use are read, and none is required.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde::Deserialize;

/// The fields in use of payload format 2.0 ("Create AWS Lambda proxy integrations for HTTP APIs in
/// API Gateway").
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
    fn from(
        Event {
            headers,
            request_context,
            body,
            is_base64_encoded,
        }: Event,
    ) -> Self {
        let body = match body {
            Some(encoded) if is_base64_encoded => decoded(encoded),
            body => body.unwrap_or_default().into_bytes(),
        };
        let mut request = Self::new(body);
        // An invalid method becomes GET, which is refused too. The URL is not used.
        *request.method_mut() =
            Method::from_bytes(request_context.http.method.as_bytes()).unwrap_or_default();
        *request.headers_mut() = readable(headers.unwrap_or_default());
        request
    }
}

fn readable(headers: BTreeMap<String, String>) -> HeaderMap {
    let mut readable = HeaderMap::new();
    for (name, value) in headers {
        let Ok(name) = HeaderName::try_from(name) else {
            continue;
        };
        // A value that HTTP does not allow becomes empty, which is no proof.
        let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
        // Headers beyond the map's capacity are skipped. API Gateway passes on 10 KB of headers,
        // which is far less.
        if readable.try_append(name, value).is_err() {
            break;
        }
    }
    readable
}

/// Decodes a base64 body. A body that is not base64 is taken unchanged.
fn decoded(body: String) -> Vec<u8> {
    BASE64_STANDARD.decode(&body).unwrap_or_else(|error| {
        tracing::warn!(%error, "body is not base64 as API Gateway says; using it unchanged");
        body.into_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_headers_than_can_be_held_end_nothing() {
        let headers = (0..40_000)
            .map(|number| (format!("x-{number}"), String::new()))
            .collect();
        assert!(readable(headers).len() > 20_000);
    }
}
