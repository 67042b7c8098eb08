//! Plays the operator: calls the routes of the HTTP API that IAM authorises.

use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::clients::{self, Keys};

const SERVICE: &str = "execute-api";

/// Answer of the API.
#[derive(Debug, Clone)]
pub struct ApiAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null when it is not JSON.
    pub body: Value,
}

impl ApiAnswer {
    /// A header as text; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// Calls a URL without a body, with these headers.
pub async fn call(method: &str, url: &str, headers: Vec<(String, String)>) -> Result<ApiAnswer> {
    let method = reqwest::Method::from_bytes(method.as_bytes())?;
    let request = clients::http().request(method, url);
    let request = headers.into_iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    let answer = request
        .send()
        .await
        .context("the HTTP API did not answer")?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Ok(ApiAnswer {
        status,
        headers,
        body: serde_json::from_slice(&answer.bytes().await?).unwrap_or_default(),
    })
}

/// The same, signed for IAM (Signature Version 4) with these keys.
pub async fn call_signed(keys: &Keys, method: &str, url: &str) -> Result<ApiAnswer> {
    let headers = sign_request(keys, SERVICE, method, url, &[], &[])?;
    call(method, url, headers).await
}

/// The headers that sign a request for a service.
pub(crate) fn sign_request(
    keys: &Keys,
    service: &str,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<(String, String)>> {
    let identity = keys.credentials().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(clients::REGION)
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?;
    let request = SignableRequest::new(
        method,
        url,
        headers.iter().copied(),
        SignableBody::Bytes(body),
    )?;
    let (instructions, _) = sign(request, &parameters.into())?.into_parts();
    Ok(instructions
        .headers()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_for_the_api_and_covers_the_host() -> Result<()> {
        let headers = {
            let url = "http://127.0.0.1:4566/dlq?limit=2";
            sign_request(&Keys::random(), SERVICE, "GET", url, &[], &[])?
        };
        let (_, authorization) = headers
            .iter()
            .find(|(name, _)| name == "authorization")
            .context("no signature")?;
        assert!(
            authorization.contains("/us-east-1/execute-api/aws4_request"),
            "{authorization}"
        );
        assert!(
            authorization.contains("SignedHeaders=host;x-amz-date"),
            "{authorization}"
        );
        Ok(())
    }
}
