//! Products behind OAuth, with the answers that they document.

use std::time::Duration;

use serde_json::json;

use super::random;
use crate::target::Answer;

/// A product whose token endpoint and API are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Salesforce with an external client app. The answer has no `expires_in`.
    ///
    /// - "Step Three: Connect to Connect REST API Using OAuth" (Connect REST API Developer Guide):
    ///   the request, and the answer with a token
    /// - "Status Codes and Error Responses" (REST API Developer Guide): 401 and 403 of the API
    /// - "API Request Limits and Allocations" (Salesforce Developer Limits Quick Reference):
    ///   `REQUEST_LIMIT_EXCEEDED`
    Salesforce,
    /// Microsoft Entra ID before Dataverse, the database of Dynamics 365.
    ///
    /// - "Microsoft identity platform and the OAuth 2.0 client credentials flow": the request, and
    ///   the answer with a token
    /// - <https://github.com/dotnet/AspNetCore.Docs/issues/22325>: 401 for a wrong secret, with its
    ///   body
    /// - "Service protection API limits" (Microsoft Dataverse developer guide): 429 of the API
    Dynamics,
}

impl Product {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Salesforce => "/services/oauth2/token",
            Self::Dynamics => "/11111111-2222-4333-8444-555555555555/oauth2/v2.0/token",
        }
    }

    /// Life of a token: the default time-out of a session, and that of Microsoft's document.
    pub(super) fn lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Salesforce => 7200,
            Self::Dynamics => 3599,
        })
    }

    /// Draws a token in the form of the product.
    pub(super) fn token(self) -> String {
        match self {
            Self::Salesforce => format!("00D000000000001!AR8AQ{}", random()),
            Self::Dynamics => format!("eyJ0eXAiOiJKV1Qi.{}.{}", random(), random()),
        }
    }

    pub(super) fn grant(self, token: &str, seconds: u64) -> String {
        let grant = match self {
            Self::Salesforce => json!({
                "access_token": token,
                "signature": "nUFHwtfIGLKDTHcLWmDBG8frv0t+HQGl/iCZFIQUarE=",
                "token_format": "opaque",
                "instance_url": "https://example.my.salesforce.com",
                "id": "https://login.salesforce.com/id/00D000000000001/005000000000001",
                "token_type": "Bearer",
                "issued_at": "1768478400000",
            }),
            Self::Dynamics => json!({
                "token_type": "Bearer",
                "expires_in": seconds,
                "ext_expires_in": seconds,
                "access_token": token,
            }),
        };
        grant.to_string()
    }

    pub(super) fn unknown_client(self) -> (u16, String) {
        match self {
            Self::Salesforce => (
                400,
                r#"{"error":"invalid_client","error_description":"invalid client credentials"}"#
                    .to_owned(),
            ),
            Self::Dynamics => (
                401,
                entra(
                    "invalid_client",
                    7_000_215,
                    "Invalid client secret provided.",
                ),
            ),
        }
    }

    pub(super) fn invalid_scope(self) -> (u16, String) {
        match self {
            Self::Salesforce => (400, r#"{"error":"invalid_scope"}"#.to_owned()),
            Self::Dynamics => (
                400,
                entra(
                    "invalid_scope",
                    70_011,
                    "The provided request must include a 'scope' input parameter.",
                ),
            ),
        }
    }

    /// The API has no such token, or the token is over.
    pub(super) fn unauthorized(self) -> Answer {
        Answer {
            body: match self {
                Self::Salesforce => {
                    r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#
                }
                Self::Dynamics => "",
            }
            .to_owned(),
            ..Answer::status(401)
        }
    }

    /// The quota of requests is used up.
    pub(super) fn limited(self) -> Answer {
        match self {
            Self::Salesforce => Answer {
                body: r#"[{"message":"TotalRequests Limit exceeded.","errorCode":"REQUEST_LIMIT_EXCEEDED"}]"#.to_owned(),
                ..Answer::status(403)
            },
            Self::Dynamics => Answer {
                body: r#"{"error":{"code":"0x80072322","message":"Number of requests exceeded the limit of 6000 over time window of 300 seconds."}}"#.to_owned(),
                retry_after: Some("3".to_owned()),
                ..Answer::status(429)
            },
        }
    }

    /// What an Apex REST method and a Dataverse action without an answer give.
    pub(super) fn accepted(self) -> Answer {
        Answer::status(match self {
            Self::Salesforce => 200,
            Self::Dynamics => 204,
        })
    }
}

/// An error of Microsoft Entra ID.
fn entra(error: &str, code: u32, text: &str) -> String {
    json!({
        "error": error,
        "error_description": format!("AADSTS{code}: {text} Trace ID: 70a88d1d-6066-4e1c-813e-0894a95d2401"),
        "error_codes": [code],
        "timestamp": "2026-01-15 12:00:00Z",
        "trace_id": "70a88d1d-6066-4e1c-813e-0894a95d2401",
        "correlation_id": "48f72f61-8e20-44f4-8a2b-96417f839c17",
        "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
    })
    .to_string()
}
