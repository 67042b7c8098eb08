//! Verifies deliveries of the relay: Standard Webhooks 1.0, symmetric signatures. Crates: base64, hmac, sha2.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const TOLERANCE_SECONDS: u64 = 5 * 60;
const SHORTEST_KEY_BYTES: usize = 24;

/// The delivery is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The secret here is not `whsec_` and the base64 of at least 24 bytes. Answer 500.
    OwnSecret,
    /// `webhook-timestamp` is more than five minutes away from this machine's clock. Answer 401.
    Time,
    /// No signature of `webhook-signature` is of this secret. Answer 401.
    Signature,
}

/// Returns the event's id. `secret` begins with `whsec_`, `header` looks a header up by its name,
/// `body` has the bytes as they came, and `now` is in seconds since 1970.
pub fn verify<'a>(
    secret: &str,
    header: impl Fn(&str) -> Option<&'a str>,
    body: &[u8],
    now: u64,
) -> Result<&'a str, Refused> {
    let key = secret.trim().strip_prefix("whsec_");
    let key = key.and_then(|key| BASE64_STANDARD.decode(key).ok());
    // With an empty key, of a variable that is not set, anyone can sign.
    let key = key.filter(|key| key.len() >= SHORTEST_KEY_BYTES);
    let mac = key.and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok());
    let mac = mac.ok_or(Refused::OwnSecret)?;

    let timestamp = header("webhook-timestamp").ok_or(Refused::Time)?;
    let sent: u64 = timestamp.parse().map_err(|_| Refused::Time)?;
    if sent.abs_diff(now) > TOLERANCE_SECONDS {
        return Err(Refused::Time);
    }
    let id = header("webhook-id").ok_or(Refused::Signature)?;
    let mac = mac
        .chain_update(format!("{id}.{timestamp}."))
        .chain_update(body);
    // One signature for each secret of the relay: during a rotation there are two.
    let signatures = header("webhook-signature").unwrap_or_default();
    let is_ours = signatures.split(' ').any(|signature| {
        let given = signature
            .strip_prefix("v1,")
            .and_then(|it| BASE64_STANDARD.decode(it).ok());
        // In constant time.
        given.is_some_and(|given| mac.clone().verify_slice(&given).is_ok())
    });
    is_ours.then_some(id).ok_or(Refused::Signature)
}
