//! Plays Genesys Cloud: sends webhooks, authenticated in both ways.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::clients;

/// The secret that local runs sign Open Messaging webhooks with.
pub const OPEN_MESSAGING_SECRET: &str = "MySecretSignature";
/// The shared secret of all other webhooks of local runs.
pub const WEBHOOK_SECRET: &str = "local-webhook-secret-0001";

const SIGNATURE_HEADER: &str = "X-Hub-Signature-256";
const SECRET_HEADER: &str = "X-Webhook-Secret";

/// A webhook as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The header that authenticates it, with its value.
    pub authentication: (&'static str, String),
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Webhook {
    /// Signed as Open Messaging does it.
    #[must_use]
    pub fn signed(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            authentication: (SIGNATURE_HEADER, signature(OPEN_MESSAGING_SECRET, &body)),
            body,
        }
    }

    /// With the shared secret in a header, as a Data Action sends it.
    #[must_use]
    pub fn with_shared_secret(body: impl Into<Vec<u8>>) -> Self {
        Self {
            authentication: (SECRET_HEADER, WEBHOOK_SECRET.into()),
            body: body.into(),
        }
    }

    /// Sends it, and gives the status and the answer (null when that is not JSON).
    pub async fn send(&self, url: &str) -> Result<(u16, Value)> {
        let (name, value) = &self.authentication;
        let request = clients::http()
            .post(url)
            .header("content-type", "application/json")
            .header(*name, value);
        let answer = request
            .body(self.body.clone())
            .send()
            .await
            .context("ingest did not answer the webhook")?;
        let status = answer.status().as_u16();
        Ok((
            status,
            serde_json::from_slice(&answer.bytes().await?).unwrap_or_default(),
        ))
    }

    /// The same as a command for a shell.
    pub fn curl(&self, url: &str) -> String {
        let (name, value) = &self.authentication;
        let body = String::from_utf8_lossy(&self.body);
        let quoted = [
            format!("{name}: {value}"),
            body.into_owned(),
            url.to_owned(),
        ]
        .map(|text| quote(&text));
        format!(
            "curl -w '\\n' -H 'Content-Type: application/json' -H {} --data-binary {} {}",
            quoted[0], quoted[1], quoted[2]
        )
    }
}

/// The value of `X-Hub-Signature-256`: base64, not hex.
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    format!(
        "sha256={}",
        BASE64_STANDARD.encode(mac.chain_update(body).finalize().into_bytes())
    )
}

/// For a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_genesys() {
        let body = br#"{"id":"d7d58935af65a45e5234ac77de017a0a","type":"Text","text":"Hi","direction":"Outbound"}"#;
        assert_eq!(
            signature("MySecretSignature", body),
            "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw="
        );
    }

    #[test]
    fn a_shell_takes_the_body_as_it_is() {
        let command = Webhook::with_shared_secret(r#"{"text":"it's"}"#).curl("http://127.0.0.1:1/");
        assert!(
            command.contains(r#"--data-binary '{"text":"it'\''s"}' 'http://127.0.0.1:1/'"#),
            "{command}"
        );
    }
}
