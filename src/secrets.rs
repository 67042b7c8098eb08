//! The stack's secret: what it holds, and where it is read.
//!
//! Each function reads its own part, so that a slip in one part does not stop the other functions.

mod cache;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::cache::{FRESH, SecretCache};

/// The fields that there are.
const FIELDS: [&str; 6] = [
    "openMessagingSecrets",
    "webhookSecrets",
    "targetAuthorization",
    "targetSigningSecrets",
    "genesysClientId",
    "genesysClientSecret",
];

/// The shortest secret that is taken. Genesys asks for more than 15 characters; an empty one would sign anything.
const MIN_SECRET_BYTES: usize = 16;

/// Why the secrets cannot be had. No variant carries a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The store did not answer or refused.
    #[error("the secret cannot be read")]
    Unavailable(#[source] Box<dyn StdError + Send + Sync>),
    /// The secret's text is not the JSON object it should be.
    #[error("the secret is not a JSON object as the README describes: line {line}, column {column}")]
    Syntax {
        /// Line of the first error.
        line: usize,
        /// Column of the first error.
        column: usize,
    },
    /// A field holds something that cannot be used.
    #[error("the secret's field {field} {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The last reading failed moments ago, and the next one has to wait.
    #[error("the secret could not be read a moment ago")]
    RecentlyUnavailable,
}

/// The part of the secret that one function needs, read from the whole.
pub trait FromSecret: Send + Sync + Sized + 'static {
    /// Reads it from the secret's text, a JSON object. Fields that are not its own are passed over.
    fn from_secret(text: &str) -> Result<Self, SecretsError>;
}

/// What senders prove themselves with: `{"openMessagingSecrets": […], "webhookSecrets": […]}`.
///
/// Both may be absent, and a list of one may be given as a string.
#[derive(Clone, PartialEq, Eq)]
pub struct SenderSecrets {
    /// Valid signature secrets of Open Messaging integrations.
    pub open_messaging: Vec<String>,
    /// Valid values of `X-Webhook-Secret`.
    pub webhook: Vec<String>,
}

/// What the relay proves itself with to the target: `{"targetAuthorization": "…", "targetSigningSecrets": ["whsec_…"]}`.
///
/// Both may be absent, and a list of one may be given as a string.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetSecrets {
    /// The `Authorization` that the target asks for.
    pub authorization: Option<HeaderValue>,
    /// Keys that deliveries are signed with, decoded; each makes one signature.
    pub signing: Vec<Vec<u8>>,
}

/// What the relay signs in to Genesys Cloud with: `{"genesysClientId": "…", "genesysClientSecret": "…"}`, of an OAuth client
/// with the grant type *Client Credentials*.
#[derive(Clone, PartialEq, Eq)]
pub struct GenesysSecrets {
    /// Says which client it is; no secret by itself.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

impl fmt::Debug for GenesysSecrets {
    /// Shows that they are there.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GenesysSecrets(a client)")
    }
}

impl fmt::Debug for SenderSecrets {
    /// Shows numbers only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signing, shared) = (self.open_messaging.len(), self.webhook.len());
        write!(formatter, "SenderSecrets({signing} of Open Messaging, {shared} of webhooks)")
    }
}

impl fmt::Debug for TargetSecrets {
    /// Shows numbers only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authorization, signing) = (self.authorization.is_some(), self.signing.len());
        write!(formatter, "TargetSecrets(authorization: {authorization}, {signing} signing)")
    }
}

/// Secrets Manager can generate one string; a rotation needs a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl FromSecret for SenderSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            #[serde(default)]
            open_messaging_secrets: OneOrMany,
            #[serde(default)]
            webhook_secrets: OneOrMany,
        }

        let fields: Fields = parse(text)?;
        Ok(Self {
            open_messaging: long_enough("openMessagingSecrets", fields.open_messaging_secrets)?,
            webhook: long_enough("webhookSecrets", fields.webhook_secrets)?,
        })
    }
}

impl FromSecret for TargetSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            target_authorization: Option<String>,
            #[serde(default)]
            target_signing_secrets: OneOrMany,
        }

        let fields: Fields = parse(text)?;
        let signing = fields.target_signing_secrets.into_vec();
        Ok(Self {
            authorization: fields.target_authorization.as_deref().map(header_value).transpose()?,
            signing: signing.iter().map(|secret| signing_key(secret)).collect::<Result<_, _>>()?,
        })
    }
}

impl FromSecret for GenesysSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            genesys_client_id: Option<String>,
            genesys_client_secret: Option<String>,
        }

        let fields: Fields = parse(text)?;
        let given = |field, value: Option<String>| match value {
            Some(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
            _ => Err(SecretsError::Field { field, problem: "is missing, and the recovery signs in with it" }),
        };
        Ok(Self {
            client_id: given("genesysClientId", fields.genesys_client_id)?,
            client_secret: given("genesysClientSecret", fields.genesys_client_secret)?,
        })
    }
}

/// Reads one part, and tells of fields that are nobody's: most likely a known one misspelt. Not their names, since a
/// secret may have been put in the place of one.
fn read<T: FromSecret>(text: &str) -> Result<T, SecretsError> {
    let secrets = T::from_secret(text)?;
    let fields: serde_json::Map<String, serde_json::Value> = parse(text)?;
    let unknown = fields.keys().filter(|field| !FIELDS.contains(&field.as_str())).count();
    if unknown > 0 {
        tracing::warn!(unknown, "the secret has fields that are not known; compare it with the README");
    }
    Ok(secrets)
}

/// serde's own message can quote the value, which must not reach a log.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, SecretsError> {
    serde_json::from_str(text).map_err(|error| SecretsError::Syntax { line: error.line(), column: error.column() })
}

fn long_enough(field: &'static str, secrets: OneOrMany) -> Result<Vec<String>, SecretsError> {
    let secrets = secrets.into_vec();
    if secrets.iter().any(|secret| secret.len() < MIN_SECRET_BYTES) {
        return Err(SecretsError::Field { field, problem: "has an entry of fewer than 16 characters" });
    }
    Ok(secrets)
}

fn header_value(text: &str) -> Result<HeaderValue, SecretsError> {
    match HeaderValue::from_str(text) {
        Ok(mut value) if !text.trim().is_empty() => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(SecretsError::Field { field: "targetAuthorization", problem: "cannot be the value of a header" }),
    }
}

/// Standard Webhooks 1.0: `whsec_` and base64 of 24 to 64 bytes.
fn signing_key(secret: &str) -> Result<Vec<u8>, SecretsError> {
    let key = secret.strip_prefix("whsec_").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    match key {
        Some(key) if (24..=64).contains(&key.len()) => Ok(key),
        _ => Err(SecretsError::Field {
            field: "targetSigningSecrets",
            problem: "has an entry that is not whsec_ and the base64 of 24 to 64 bytes",
        }),
    }
}

/// The port to where the secret is kept.
pub trait SecretStore: Send + Sync + 'static {
    /// Reads the secret's text as it is now.
    fn read(&self) -> impl Future<Output = Result<String, SecretsError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_be_one_string_and_every_field_may_be_absent() {
        let text = r#"{"webhookSecrets":"0123456789abcdef","targetAuthorization":"Bearer x","a later field":1}"#;
        let senders = SenderSecrets::from_secret(text).expect("secrets");
        assert_eq!((senders.webhook.len(), senders.open_messaging.len()), (1, 0));
        let target = TargetSecrets::from_secret(text).expect("secrets");
        assert!(target.authorization.is_some_and(|value| value == "Bearer x") && target.signing.is_empty());
        let list = r#"{"openMessagingSecrets":["0123456789abcdef","fedcba9876543210"]}"#;
        assert_eq!(SenderSecrets::from_secret(list).expect("secrets").open_messaging.len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_it() {
        for (text, names) in [
            (r#"{"webhookSecrets":"hunter2"}"#, "webhookSecrets"),
            (r#"{"openMessagingSecrets":[""]}"#, "openMessagingSecrets"),
            (r#"{"targetSigningSecrets":["whsec_hunter2"]}"#, "targetSigningSecrets"),
            (r#"{"targetSigningSecrets":["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}"#, "targetSigningSecrets"),
            (r#"{"targetAuthorization":"hunter2\n"}"#, "targetAuthorization"),
            (r#"{"webhookSecrets":{"hunter2":1}}"#, "line"),
            ("hunter2", "line 1"),
        ] {
            let senders = SenderSecrets::from_secret(text).map(drop);
            let target = TargetSecrets::from_secret(text).map(drop);
            let error = senders.and(target).expect_err(text);
            assert!(error.to_string().contains(names), "{error}");
            assert!(!format!("{error:?}{error}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_slip_in_one_half_leaves_the_other_alone() {
        let text = r#"{"webhookSecrets":"0123456789abcdef","targetSigningSecrets":["a slip"]}"#;
        assert!(SenderSecrets::from_secret(text).is_ok() && TargetSecrets::from_secret(text).is_err());
        let text = r#"{"webhookSecrets":"a slip","targetAuthorization":"Bearer x"}"#;
        assert!(SenderSecrets::from_secret(text).is_err() && TargetSecrets::from_secret(text).is_ok());
    }

    #[test]
    fn debug_shows_numbers_only() {
        let text = r#"{"webhookSecrets":"hunter2-hunter2-hunter2","targetAuthorization":"hunter2"}"#;
        let senders = SenderSecrets::from_secret(text).expect("secrets");
        let target = TargetSecrets::from_secret(text).expect("secrets");
        assert!(!format!("{senders:?} {target:?}").contains("hunter2"));
    }
}
