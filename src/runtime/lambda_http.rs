//! Events of an HTTP API of API Gateway, payload format 2.0, and problem details of RFC 9457.
//!
//! Only the fields in use are read: a caller outside AWS controls most of an event.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

/// Event of an HTTP API ("Create AWS Lambda proxy integrations for HTTP APIs in API Gateway").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpEvent {
    /// Path of the request, percent-encoded.
    pub raw_path: Option<String>,
    /// Query of the request, percent-encoded.
    pub raw_query_string: Option<String>,
    /// Headers of the request.
    pub headers: Option<BTreeMap<String, String>>,
    request_context: RequestContext,
    /// Body of the request, as text or in base64.
    pub body: Option<String>,
    /// True if the body is in base64.
    #[serde(default)]
    pub is_base64_encoded: bool,
}

#[derive(Debug, Deserialize)]
struct RequestContext {
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

    /// Body of the request; `None` where its base64 is invalid.
    pub fn decoded_body(&self) -> Option<Cow<'_, [u8]>> {
        let text = self.body.as_deref().unwrap_or_default();
        if self.is_base64_encoded {
            return BASE64_STANDARD.decode(text).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(text.as_bytes()))
    }
}

/// Problem details of RFC 9457. The status names the kind of problem, so the type stays
/// `about:blank`.
pub fn problem_details(status: StatusCode, detail: &str) -> Value {
    let title = status.canonical_reason();
    json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail })
}
