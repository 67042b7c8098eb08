//! Parsing of the stack's secret, and signatures made with it.

use std::fmt::Debug;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::adapters::http_target::Credentials;
use genesys_relay::adapters::standard_webhooks::sign;
use genesys_relay::ports::secrets::{
    FromSecret, GenesysSecrets, SecretsError, SenderSecrets, TargetSecrets,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use sha2::Sha256;

/// Secret of the inputs, to be searched for.
const HIDDEN: &str = "hunter2";

/// A secret that is taken is long enough and can be used; one that is not is refused without
/// showing anything of it; and each key makes a signature that its owner can check.
pub(crate) fn secret(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Some(secrets) = read::<SenderSecrets>(text) {
        for secret in secrets.open_messaging.iter().chain(&secrets.webhook) {
            assert!(
                secret.chars().count() >= 16 && secret.trim() == secret,
                "it could not match"
            );
        }
        assert!(secrets.webhook.iter().all(|secret| {
            secret
                .bytes()
                .all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t')
        }));
    }
    if let Some(GenesysSecrets {
        client_id,
        client_secret,
    }) = read(text)
    {
        assert!(!client_id.trim().is_empty() && !client_secret.trim().is_empty());
    }
    if let Some(TargetSecrets {
        authorization,
        headers,
        oauth,
        signing,
        ..
    }) = read(text)
    {
        assert!(authorization.is_none() || oauth.is_none());
        assert!(headers.iter().all(|(name, _)| *name != "authorization"));
        assert!(
            headers
                .into_iter()
                .map(|(_, value)| value)
                .chain(authorization)
                .all(|value| value.is_sensitive() && !value.as_bytes().trim_ascii().is_empty())
        );
        assert!(oauth.is_none_or(|client| !client.client_secret.is_empty()));
        // Its certificates are parsed, too.
        let parsed: Result<Credentials, _> = FromSecret::from_secret(text);
        assert!(!parsed.is_err_and(|error| shows(&error)));
        assert!(signing.iter().all(|key| (24..=64).contains(&key.len())));
        let header = sign(&signing, "an-event", 1_768_478_400, input);
        assert!(HeaderValue::from_str(&header).is_ok_and(|value| value.to_str().is_ok()));
        let signatures = header.split(' ').filter(|signature| !signature.is_empty());
        assert!(signatures.eq(signing.iter().map(|key| signature(key, input))));
    }
}

/// The signature of Standard Webhooks, said once more.
fn signature(key: &[u8], body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let mac = mac.chain_update(b"an-event.1768478400.").chain_update(body);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

fn read<T: FromSecret + Debug>(text: &str) -> Option<T> {
    match T::from_secret(text) {
        Ok(secrets) => {
            let shown = format!("{secrets:?}");
            assert!(!shown.contains(HIDDEN), "{shown}");
            Some(secrets)
        }
        Err(error) => {
            assert!(!shows(&error), "{error:?}");
            None
        }
    }
}

/// True if the error shows the secret of the inputs. The name of a header is none.
fn shows(error: &SecretsError) -> bool {
    let is_header = matches!(error, SecretsError::Field { field, problem } if field.starts_with("targetHeaders.") && !problem.contains(HIDDEN));
    !is_header && format!("{error:?}{error}").contains(HIDDEN)
}
