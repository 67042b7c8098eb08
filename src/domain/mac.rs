//! Message authentication code of webhooks.

use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

/// The HMAC-SHA256 of `parts`, one after the other.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts
        .iter()
        .fold(mac, Mac::chain_update)
        .finalize()
        .into_bytes()
        .into()
}
