//! The signature that a target can check: Standard Webhooks 1.0, symmetric (`v1`).
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::domain::mac::hmac_sha256;

/// The value of `webhook-signature`: one `v1,<base64>` for each key, separated by spaces, so that a
/// receiver who knows only the old or only the new key of a rotation finds its own.
pub fn sign(keys: &[Vec<u8>], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures = keys.iter().map(|key| {
        let signature = hmac_sha256(key, &[format!("{id}.{timestamp}.").as_bytes(), body]);
        format!("v1,{}", BASE64_STANDARD.encode(signature))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(encoded: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(encoded).expect("base64")
    }

    #[test]
    fn the_known_answer_of_the_reference_libraries() {
        let key = key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(
            sign(
                &[key],
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                br#"{"test": 2432232314}"#
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn every_key_of_a_rotation_signs() {
        let keys = [key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), vec![7; 24]];
        let both = sign(&keys, "id", 1, b"{}");
        let each: Vec<_> = keys
            .into_iter()
            .map(|key| sign(&[key], "id", 1, b"{}"))
            .collect();
        assert_eq!(both, each.join(" "));
    }
}
