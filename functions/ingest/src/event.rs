//! An event of an HTTP API, read so that nothing in it can end the invocation.
//!
//! Everything in it comes from a stranger, and an error would make API Gateway answer 500 and count as a failure of ours.
//! `lambda_http` makes a URL out of `X-Forwarded-Proto`, `Host`, path and query, and panics where they make none; it panics as
//! well on a body that is not the base64 that the event promises. So it gets what the relay needs, and nothing that it cannot read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::http::{HeaderName, HeaderValue, Method, header};
use lambda_http::request::LambdaRequest;
use serde::Deserialize;

/// What `lambda_http` makes the URL of, which is ours anyway.
const OF_THE_URL: [HeaderName; 2] = [header::HOST, HeaderName::from_static("x-forwarded-proto")];

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

impl From<Event> for LambdaRequest {
    fn from(Event { headers, request_context, body, is_base64_encoded }: Event) -> Self {
        let mut request = ApiGatewayV2httpRequest::default();
        // What is no method is not POST either.
        request.request_context.http.method =
            Method::from_bytes(request_context.http.method.as_bytes()).unwrap_or_default();
        for (name, value) in headers.into_iter().flatten() {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            if !OF_THE_URL.contains(&name) {
                // A value that HTTP does not allow is there and says nothing, so that it proves nothing.
                request.headers.append(name, HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("")));
            }
        }
        (request.body, request.is_base64_encoded) = match body {
            Some(encoded) if is_base64_encoded => decoded(encoded),
            body => (body, false),
        };
        Self::ApiGatewayV2(request)
    }
}

/// A body that is said to be base64, and whether it still is: what holds no text has no other form here.
///
/// What is not base64 stands for itself.
fn decoded(body: String) -> (Option<String>, bool) {
    match BASE64_STANDARD.decode(&body).map(String::from_utf8) {
        Ok(Ok(text)) => (Some(text), false),
        Ok(Err(_)) => (Some(body), true),
        Err(error) => {
            tracing::warn!(%error, "the body is not the base64 that the event promises, and is taken as it is");
            (Some(body), false)
        }
    }
}
