//! Authentication of senders: the signature of Open Messaging, or a secret header.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::domain::mac::hmac_sha256;
use subtle::ConstantTimeEq as _;

use crate::ports::secrets::SenderSecrets;

/// `sha256=` and the base64 of the HMAC-SHA256 of the raw body ("Open Messaging: validate the
/// signature").
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// A shared secret, for senders that cannot sign.
pub const SECRET_HEADER: HeaderName = HeaderName::from_static("x-webhook-secret");

/// The proof in a request, to be compared with the secrets.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// The signature of the body, decoded.
    Signature([u8; 32]),
    /// The value of the secret header.
    Secret(&'a HeaderValue),
}

/// A request without a usable proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// Neither header is there.
    #[error("send X-Hub-Signature-256 (Open Messaging) or X-Webhook-Secret")]
    Missing,
    /// The signature is not of the form that Genesys sends.
    #[error(
        "X-Hub-Signature-256 must be sha256= and the base64 (not hex) of the body's HMAC-SHA256, once"
    )]
    MalformedSignature,
    /// The secret header is there more than once.
    #[error("X-Webhook-Secret must be there once")]
    RepeatedSecret,
}

/// The result of comparing a proof with the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One of the secrets made it.
    Valid,
    /// None of them did.
    Invalid,
    /// There is no secret of this kind to compare with.
    NotConfigured,
}

impl<'a> Proof<'a> {
    /// Finds the proof in the headers. A signature that is there has to hold, whatever else is.
    pub fn find(headers: &'a HeaderMap) -> Result<Self, NoProof> {
        if headers.contains_key(SIGNATURE_HEADER) {
            let value = only(headers, &SIGNATURE_HEADER).ok_or(NoProof::MalformedSignature)?;
            return decode_signature(value)
                .map(Self::Signature)
                .ok_or(NoProof::MalformedSignature);
        }
        if headers.contains_key(SECRET_HEADER) {
            return only(headers, &SECRET_HEADER)
                .map(Self::Secret)
                .ok_or(NoProof::RepeatedSecret);
        }
        Err(NoProof::Missing)
    }

    /// The field of the stack's secret that holds what it is compared with.
    pub fn field(self) -> &'static str {
        match self {
            Self::Signature(_) => "openMessagingSecrets",
            Self::Secret(_) => "webhookSecrets",
        }
    }

    /// Compares with every valid secret, in constant time: the duration tells nothing about a
    /// guess.
    pub fn verify(self, body: &[u8], secrets: &SenderSecrets) -> Verdict {
        let valid = match self {
            Self::Signature(_) if secrets.open_messaging.is_empty() => {
                return Verdict::NotConfigured;
            }
            Self::Secret(_) if secrets.webhook.is_empty() => return Verdict::NotConfigured,
            Self::Signature(signature) => any(&secrets.open_messaging, |secret| {
                hmac_sha256(secret.as_bytes(), &[body])
                    .ct_eq(&signature)
                    .into()
            }),
            // Hashes, because comparing texts of unequal length would tell the length.
            Self::Secret(value) => any(&secrets.webhook, |secret| {
                Sha256::digest(secret).ct_eq(&Sha256::digest(value)).into()
            }),
        };
        if valid {
            Verdict::Valid
        } else {
            Verdict::Invalid
        }
    }
}

/// Returns whether `holds` for any, without stopping at the first.
fn any(secrets: &[String], holds: impl Fn(&str) -> bool) -> bool {
    secrets
        .iter()
        .fold(false, |found, secret| found | holds(secret))
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn decode_signature(value: &HeaderValue) -> Option<[u8; 32]> {
    let encoded = value.to_str().ok()?.trim().strip_prefix("sha256=")?;
    BASE64_STANDARD.decode(encoded).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        br#"{"id":"d7d58935af65a45e5234ac77de017a0a","type":"Text","text":"Hi","direction":"Outbound"}"#;
    const SIGNATURE: &str = "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw=";

    fn secrets(open_messaging: &[&str], webhook: &[&str]) -> SenderSecrets {
        let owned = |secrets: &[&str]| secrets.iter().map(|&secret| secret.to_owned()).collect();
        SenderSecrets {
            open_messaging: owned(open_messaging),
            webhook: owned(webhook),
        }
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().expect("a header value"));
        }
        headers
    }

    fn verify(
        pairs: &[(HeaderName, &str)],
        body: &[u8],
        secrets: &SenderSecrets,
    ) -> Result<Verdict, NoProof> {
        Proof::find(&headers(pairs)).map(|proof| proof.verify(body, secrets))
    }

    #[test]
    fn the_test_vector_of_open_messaging_is_valid() {
        let secrets = secrets(&["MySecretSignature"], &[]);
        assert_eq!(
            verify(&[(SIGNATURE_HEADER, SIGNATURE)], BODY, &secrets),
            Ok(Verdict::Valid)
        );
    }

    #[test]
    fn a_changed_byte_another_secret_or_hex_is_not() {
        let ours = secrets(&["MySecretSignature"], &[]);
        let signed = [(SIGNATURE_HEADER, SIGNATURE)];
        let mut changed = BODY.to_vec();
        changed[20] ^= 1;
        assert_eq!(verify(&signed, &changed, &ours), Ok(Verdict::Invalid));
        assert_eq!(
            verify(&signed, BODY, &secrets(&["AnotherSecretSignature"], &[])),
            Ok(Verdict::Invalid)
        );
        let hex = "sha256=55bdc89814986fe72403236084419f9fedc4dfde5a86d0d2730b9303108800ac";
        for value in [
            hex,
            "sha256=",
            "sha1=abc",
            "",
            "sha256=Vb3ImBSYb+ckAyNghEGfn+3E395ahtDScwuTAxCIAKw=, x",
        ] {
            assert_eq!(
                verify(&[(SIGNATURE_HEADER, value)], BODY, &ours),
                Err(NoProof::MalformedSignature),
                "{value}"
            );
        }
    }

    #[test]
    fn every_bit_of_a_signature_and_of_a_secret_counts() {
        let secrets = secrets(
            &["MySecretSignature"],
            &["0123456789abcdef0123456789abcdef"],
        );
        let right = BASE64_STANDARD
            .decode(SIGNATURE.trim_start_matches("sha256="))
            .expect("base64");
        for bit in 0..right.len() * 8 {
            let mut wrong = right.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let wrong = format!("sha256={}", BASE64_STANDARD.encode(wrong));
            assert_eq!(
                verify(&[(SIGNATURE_HEADER, &wrong)], BODY, &secrets),
                Ok(Verdict::Invalid),
                "bit {bit}"
            );
        }
        for place in 0..32 {
            let mut wrong = b"0123456789abcdef0123456789abcdef".to_vec();
            wrong[place] = b'x';
            let wrong = String::from_utf8(wrong).expect("text");
            assert_eq!(
                verify(&[(SECRET_HEADER, &wrong)], BODY, &secrets),
                Ok(Verdict::Invalid),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_wrong_signature_is_not_outweighed_by_a_right_secret() {
        let secrets = secrets(&["MySecretSignature"], &["0123456789abcdef"]);
        let both = [
            (SIGNATURE_HEADER, SIGNATURE),
            (SECRET_HEADER, "0123456789abcdef"),
        ];
        assert_eq!(verify(&both, b"{}", &secrets), Ok(Verdict::Invalid));
    }

    #[test]
    fn several_secrets_are_valid_at_once() {
        let secrets = secrets(
            &["ANewSecretSignature", "MySecretSignature"],
            &["the-first-secret", "the-second-secret"],
        );
        assert_eq!(
            verify(&[(SIGNATURE_HEADER, SIGNATURE)], BODY, &secrets),
            Ok(Verdict::Valid)
        );
        for secret in ["the-first-secret", "the-second-secret"] {
            assert_eq!(
                verify(&[(SECRET_HEADER, secret)], b"", &secrets),
                Ok(Verdict::Valid)
            );
        }
        for wrong in [
            "",
            "the-first-secre",
            "the-first-secret ",
            "the-first-secret,the-first-secret",
        ] {
            assert_eq!(
                verify(&[(SECRET_HEADER, wrong)], b"", &secrets),
                Ok(Verdict::Invalid),
                "{wrong:?}"
            );
        }
    }

    /// Comparisons themselves are `subtle`'s; here it is whether one that matches hides how many
    /// follow.
    #[test]
    fn every_secret_is_compared_also_after_one_that_matches() {
        let compared = std::cell::Cell::new(0);
        let secrets = ["first", "second", "third"].map(str::to_owned);
        let is_first = |secret: &str| {
            compared.set(compared.get() + 1);
            secret == "first"
        };
        assert!(any(&secrets, is_first));
        assert_eq!(compared.get(), secrets.len());
    }

    #[test]
    fn nothing_a_repeated_header_or_an_empty_list_proves_nothing() {
        let none = secrets(&[], &[]);
        assert_eq!(verify(&[], BODY, &none), Err(NoProof::Missing));
        let twice = [(SIGNATURE_HEADER, SIGNATURE), (SIGNATURE_HEADER, SIGNATURE)];
        assert_eq!(
            verify(&twice, BODY, &none),
            Err(NoProof::MalformedSignature)
        );
        let twice = [
            (SECRET_HEADER, "0123456789abcdef"),
            (SECRET_HEADER, "0123456789abcdef"),
        ];
        assert_eq!(verify(&twice, BODY, &none), Err(NoProof::RepeatedSecret));
        assert_eq!(
            verify(&[(SIGNATURE_HEADER, SIGNATURE)], BODY, &none),
            Ok(Verdict::NotConfigured)
        );
        assert_eq!(
            verify(&[(SECRET_HEADER, "")], BODY, &none),
            Ok(Verdict::NotConfigured)
        );
    }
}
