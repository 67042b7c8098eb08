//! The stack's secret: what it holds, and where it is read.
//!
//! Each function reads its own part, so that a slip in one part does not stop the other functions.

mod cache;
mod generated;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use http::HeaderValue;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use self::cache::{FRESH, SecretCache};
pub use self::generated::WithGeneratedKeys;
pub use self::target::{Authentication, ClientCertificate, OAuthClient, TargetSecrets, TlsSecrets};
use crate::ports::service::ServiceError;

/// The least length of a secret. Genesys asks for more than 15 characters; an empty one would sign
/// anything.
const MIN_SECRET_CHARS: usize = 16;

/// Separators in a list that was typed as one text.
const SEPARATORS: [char; 4] = [',', ';', '\n', '\r'];

/// The secrets cannot be read. No variant carries a value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretsError {
    /// The store did not answer or refused.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The secret's text is not the expected JSON object.
    #[error(
        "the secret is not a JSON object as docs/reference/secret.md describes: line {line}, column {column}"
    )]
    Syntax {
        /// Line of the first error.
        line: usize,
        /// Column of the first error.
        column: usize,
    },
    /// A field has an unusable value.
    #[error("the secret's field {field} {problem}")]
    Field {
        field: Cow<'static, str>,
        problem: &'static str,
    },
}

/// The part of the secret that one function needs, read from the whole.
pub trait FromSecret: Send + Sync + Sized + 'static {
    /// Reads it from the secret's text, a JSON object. Other fields are skipped.
    fn from_secret(text: &str) -> Result<Self, SecretsError>;
}

/// Secrets of senders: `{"openMessagingSecrets": […], "webhookSecrets": […]}`.
///
/// Both may be absent, and a list of one may be given as a string.
#[derive(Clone, PartialEq, Eq)]
pub struct SenderSecrets {
    /// Valid signature secrets of Open Messaging integrations.
    pub open_messaging: Vec<String>,
    /// Valid values of `X-Webhook-Secret`.
    pub webhook: Vec<String>,
}

/// The credentials for Genesys Cloud: `{"genesysClientId": "…", "genesysClientSecret": "…"}`, of an
/// OAuth client with the grant type *Client Credentials*.
#[derive(Clone, PartialEq, Eq)]
pub struct GenesysSecrets {
    /// The client id; no secret by itself.
    pub client_id: String,
    pub client_secret: String,
}

impl fmt::Debug for GenesysSecrets {
    /// Shows no values.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GenesysSecrets(a client)")
    }
}

impl fmt::Debug for SenderSecrets {
    /// Shows numbers only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signing, shared) = (self.open_messaging.len(), self.webhook.len());
        write!(
            formatter,
            "SenderSecrets({signing} of Open Messaging, {shared} of webhooks)"
        )
    }
}

/// The fields of the secret as written, each with its own errors.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretFields {
    #[serde(default, deserialize_with = "present")]
    open_messaging_secrets: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    webhook_secrets: Option<Value>,
    #[serde(default)]
    target_authorization: Option<Value>,
    #[serde(default)]
    target_headers: Option<Value>,
    #[serde(default, rename = "targetOAuth")]
    target_oauth: Option<Value>,
    #[serde(default)]
    target_client_certificate: Option<Value>,
    #[serde(default)]
    target_ca: Option<Value>,
    #[serde(default, deserialize_with = "entries")]
    target_signing_secrets: Option<Value>,
    /// Added by [`WithGeneratedKeys`].
    #[serde(default, deserialize_with = "present")]
    generated_signing_secrets: Option<Value>,
    #[serde(default)]
    genesys_client_id: Option<Value>,
    #[serde(default)]
    genesys_client_secret: Option<Value>,
    /// Unknown fields, most likely misspelt.
    #[serde(flatten)]
    #[expect(
        clippy::zero_sized_map_values,
        reason = "serde gathers what is left into a map only"
    )]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// A list that is `null` was meant to be something.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// The same, and a list without entries is as good as absent: the stack's first value has one.
fn entries<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    let is_empty_list = |text: &str| serde_json::from_str::<[IgnoredAny; 0]>(text).is_ok();
    let value = present(value)?;
    Ok(value.filter(|value| match value {
        Value::Array(entries) => !entries.is_empty(),
        Value::String(text) => !trimmed(text).is_empty() && !is_empty_list(trimmed(text)),
        _ => true,
    }))
}

impl SecretFields {
    /// serde's own message can quote the value, which must not reach a log.
    fn parse(text: &str) -> Result<Self, SecretsError> {
        serde_json::from_str(trimmed(text)).map_err(|error| SecretsError::Syntax {
            line: error.line(),
            column: error.column(),
        })
    }
}

impl FromSecret for SenderSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        let fields = SecretFields::parse(text)?;
        let secrets = Self {
            open_messaging: sender_secrets("openMessagingSecrets", fields.open_messaging_secrets)?,
            webhook: sender_secrets("webhookSecrets", fields.webhook_secrets)?,
        };
        // The key of an HMAC never travels; this one does, and beyond ASCII its bytes are
        // ambiguous.
        let is_sendable = |secret: &String| {
            HeaderValue::from_str(secret).is_ok_and(|value| value.to_str().is_ok())
        };
        if !secrets.webhook.iter().all(is_sendable) {
            let problem = "has a character that a header cannot carry: use letters, digits and signs of ASCII";
            return Err(SecretsError::Field {
                field: "webhookSecrets".into(),
                problem,
            });
        }
        Ok(secrets)
    }
}

impl FromSecret for GenesysSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        let fields = SecretFields::parse(text)?;
        let given = |field, value: Option<Value>| match value
            .map(|value| single(field, value))
            .transpose()?
        {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(SecretsError::Field {
                field: field.into(),
                problem: "is missing, and the recovery signs in with it",
            }),
        };
        Ok(Self {
            client_id: given("genesysClientId", fields.genesys_client_id)?,
            client_secret: given("genesysClientSecret", fields.genesys_client_secret)?,
        })
    }
}

/// The texts of a field that may be a list. The editor of Secrets Manager's console makes a text of
/// every value, so a JSON list in a text is the list.
fn texts(field: &'static str, value: Value) -> Result<Vec<String>, SecretsError> {
    match value {
        Value::Array(entries) => {
            let texts: Vec<_> = entries
                .into_iter()
                .map(|entry| texts(field, entry))
                .collect::<Result<_, _>>()?;
            Ok(texts.concat())
        }
        Value::String(text) => match serde_json::from_str(trimmed(&text)) {
            Ok(list @ Value::Array(_)) => texts(field, list),
            _ => plain(field, &text).map(|text| vec![text]),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(SecretsError::Field {
                field: field.into(),
                problem: "is neither a text nor a list of texts",
            })
        }
    }
}

/// A field that is one text.
fn single(field: &'static str, value: Value) -> Result<String, SecretsError> {
    match value {
        Value::String(text) => plain(field, &text),
        _ => Err(SecretsError::Field {
            field: field.into(),
            problem: "is not a text",
        }),
    }
}

/// A text without what was pasted around it. One that looks like JSON was meant to be read as such,
/// and cannot be.
fn plain(field: &'static str, text: &str) -> Result<String, SecretsError> {
    let text = trimmed(text);
    let is_within = |first, last| text.len() > 1 && text.starts_with(first) && text.ends_with(last);
    if is_within('[', ']') || text.starts_with("[\"") {
        return Err(SecretsError::Field {
            field: field.into(),
            problem: "looks like a list and is none: write [\"…\",\"…\"]",
        });
    }
    if is_within('"', '"') {
        return Err(SecretsError::Field {
            field: field.into(),
            problem: "is in quotation marks: leave them out",
        });
    }
    Ok(text.to_owned())
}

/// The text without blanks, line breaks, control characters and what has no width at its ends:
/// neither a header nor a field of Genesys Cloud is meant to have them there, and they are
/// invisible.
fn trimmed(text: &str) -> &str {
    let is_invisible = |c: char| matches!(c, '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}');
    text.trim_matches(|c: char| c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// The secrets of a kind of sender.
///
/// A separator is a legal character of a secret, so that a text which has one is as likely a secret
/// as a list. It is taken for both: a part that is long enough opens what any secret of that length
/// would, and refusing would lose events.
fn sender_secrets(field: &'static str, value: Option<Value>) -> Result<Vec<String>, SecretsError> {
    let is_long_enough = |secret: &String| secret.chars().count() >= MIN_SECRET_CHARS;
    let mut secrets = value
        .map(|value| texts(field, value))
        .transpose()?
        .unwrap_or_default();
    if !secrets.iter().all(is_long_enough) {
        return Err(SecretsError::Field {
            field: field.into(),
            problem: "has an entry of fewer than 16 characters",
        });
    }
    let lists = secrets.iter().filter(|text| text.contains(SEPARATORS));
    let parts = lists
        .flat_map(|text| text.split(SEPARATORS))
        .map(|part| trimmed(part).to_owned());
    let parts: Vec<String> = parts.filter(is_long_enough).collect();
    secrets.extend(parts);
    Ok(secrets)
}

/// Reads one part, and warns of fields that are not known. Not their names, since a secret may have
/// been put in the place of one.
fn read<T: FromSecret>(text: &str) -> Result<T, SecretsError> {
    let secrets = T::from_secret(text)?;
    let unknown = SecretFields::parse(text)?.unknown.len();
    if unknown > 0 {
        tracing::warn!(
            unknown,
            "the secret has unknown fields; compare it with docs/reference/secret.md"
        );
    }
    Ok(secrets)
}

/// The port to the store of the secret.
pub trait SecretStore: Send + Sync + 'static {
    /// Reads the secret's text as it is now.
    fn read(&self) -> impl Future<Output = Result<String, SecretsError>> + Send;
}
