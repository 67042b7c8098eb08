//! The part of the secret that has the credentials towards the target.
//!
//! Certificates and keys stay PEM text here; the adapter that uses them parses them, and names the
//! same fields ([`unusable`]).

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{FromSecret, SEPARATORS, SecretFields, SecretsError, single, texts, trimmed};
use crate::domain::https_url::HttpsUrl;
use crate::domain::message::is_kept_header;

/// Credentials towards the target. Every field may be absent.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetSecrets {
    /// The `Authorization` that the target asks for: `targetAuthorization`.
    pub authorization: Option<HeaderValue>,
    /// More headers of each request: `targetHeaders`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The client that gets tokens for the target: `targetOAuth`.
    pub oauth: Option<OAuthClient>,
    /// Certificates of the connection.
    pub tls: TlsSecrets,
    /// Keys that deliveries are signed with, decoded; each makes one signature.
    pub signing: Vec<Vec<u8>>,
    /// True if the stack generated the keys, so that the target may not know them.
    pub is_signing_generated: bool,
}

/// A client of OAuth 2.0 with the grant of client credentials (RFC 6749 section 4.4).
#[derive(Clone, PartialEq, Eq)]
pub struct OAuthClient {
    pub token_url: HttpsUrl,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
    /// A parameter that some authorization servers ask for.
    pub audience: Option<String>,
    pub authentication: Authentication,
}

/// The place of id and secret in a token request (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// HTTP's basic authentication.
    Basic,
    /// Parameters of the body.
    Post,
}

/// Certificates of the connection to the target.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsSecrets {
    /// The relay's own: `targetClientCertificate`.
    pub client: Option<ClientCertificate>,
    /// The authorities of the target's certificate, as PEM: `targetCa`.
    pub ca: Option<String>,
}

/// A certificate chain, leaf first, and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: String,
    pub private_key: String,
}

impl TargetSecrets {
    /// The fields that prove to the target who sends. Generated signing keys are not among them,
    /// because a target may not check them.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let is_signing_own = !self.signing.is_empty() && !self.is_signing_generated;
        let fields = [
            ("targetAuthorization", self.authorization.is_some()),
            ("targetHeaders", !self.headers.is_empty()),
            ("targetOAuth", self.oauth.is_some()),
            ("targetClientCertificate", self.tls.client.is_some()),
            ("targetSigningSecrets", is_signing_own),
        ];
        fields
            .into_iter()
            .filter_map(|(field, is_set)| is_set.then_some(field))
    }
}

impl fmt::Debug for TargetSecrets {
    /// Shows names of fields and numbers only.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.fields().collect();
        let (has_ca, signing) = (self.tls.ca.is_some(), self.signing.len());
        write!(
            formatter,
            "TargetSecrets({fields:?}, own authorities: {has_ca}, {signing} signing)"
        )
    }
}

impl FromSecret for TargetSecrets {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        let fields = SecretFields::parse(text)?;
        let authorization = fields
            .target_authorization
            .map(|value| {
                let field = "targetAuthorization";
                header_value(&single(field, value)?)
                    .ok_or_else(|| unusable(field, "cannot be the value of a header"))
            })
            .transpose()?;
        let oauth = fields.target_oauth.map(oauth_client).transpose()?;
        if authorization.is_some() && oauth.is_some() {
            return Err(unusable(
                "targetOAuth",
                "cannot be used beside targetAuthorization: remove one of the two",
            ));
        }
        let headers = fields.target_headers.map(headers).transpose()?;
        let client = fields.target_client_certificate.map(client_certificate);
        let ca = fields.target_ca.map(|value| {
            let field = "targetCa";
            single(field, value).map(|text| pem(&text))
        });
        let is_signing_generated = fields.target_signing_secrets.is_none();
        let signing = fields
            .target_signing_secrets
            .or(fields.generated_signing_secrets)
            .map(|value| texts("targetSigningSecrets", value))
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            authorization,
            headers: headers.unwrap_or_default(),
            oauth,
            tls: TlsSecrets {
                client: client.transpose()?,
                ca: ca.transpose()?,
            },
            signing: signing
                .iter()
                .flat_map(|text| text.split(SEPARATORS))
                .map(signing_key)
                .collect::<Result<_, _>>()?,
            is_signing_generated,
        })
    }
}

/// The error of a field that cannot be used.
pub(crate) fn unusable(field: impl Into<String>, problem: &'static str) -> SecretsError {
    SecretsError::Field {
        field: field.into().into(),
        problem,
    }
}

/// A field that is an object. The editor of Secrets Manager's console makes a text of every value.
fn object(field: &'static str, value: Value) -> Result<Map<String, Value>, SecretsError> {
    let value = match value {
        Value::String(text) => serde_json::from_str(trimmed(&text)).unwrap_or_default(),
        value => value,
    };
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(unusable(field, "is not a JSON object")),
    }
}

/// The members of a field that is an object; each is taken once.
struct Members {
    field: &'static str,
    object: Map<String, Value>,
}

impl Members {
    fn of(field: &'static str, value: Value) -> Result<Self, SecretsError> {
        let object = object(field, value)?;
        Ok(Self { field, object })
    }

    fn optional(&mut self, name: &str) -> Result<Option<String>, SecretsError> {
        match self.object.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !trimmed(&text).is_empty() => {
                Ok(Some(trimmed(&text).to_owned()))
            }
            Some(_) => Err(self.unusable(name, "is empty or not a text")),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, SecretsError> {
        self.optional(name)?
            .ok_or_else(|| self.unusable(name, "is missing"))
    }

    fn unusable(&self, name: &str, problem: &'static str) -> SecretsError {
        unusable(format!("{}.{name}", self.field), problem)
    }

    /// Refuses what is left: a misspelt scope would be noticed only at the target.
    fn end(&self) -> Result<(), SecretsError> {
        if self.object.is_empty() {
            return Ok(());
        }
        let problem = "has a name that is not known; compare it with docs/reference/secret.md";
        Err(unusable(self.field, problem))
    }
}

fn oauth_client(value: Value) -> Result<OAuthClient, SecretsError> {
    let mut members = Members::of("targetOAuth", value)?;
    let token_url = members.required("tokenUrl")?.parse().map_err(|_| {
        let problem = "is not an https URL without user name and password";
        members.unusable("tokenUrl", problem)
    })?;
    let authentication = match members.optional("authentication")?.as_deref() {
        None | Some("basic") => Authentication::Basic,
        Some("post") => Authentication::Post,
        Some(_) => return Err(members.unusable("authentication", "is neither basic nor post")),
    };
    let client = OAuthClient {
        token_url,
        client_id: members.required("clientId")?,
        client_secret: members.required("clientSecret")?,
        scope: members.optional("scope")?,
        audience: members.optional("audience")?,
        authentication,
    };
    members.end().map(|()| client)
}

fn client_certificate(value: Value) -> Result<ClientCertificate, SecretsError> {
    let mut members = Members::of("targetClientCertificate", value)?;
    let client = ClientCertificate {
        certificate: pem(&members.required("certificate")?),
        private_key: pem(&members.required("privateKey")?),
    };
    members.end().map(|()| client)
}

/// PEM with its line breaks: a text may have them written as `\n`, and a field of one line has
/// blanks in their place.
fn pem(text: &str) -> String {
    let text = text.replace("\\r", "").replace("\\n", "\n");
    let mut lines = String::new();
    for (number, part) in text.split("-----").enumerate() {
        if number % 2 == 1 {
            lines.extend(["-----", part, "-----\n"]);
        } else {
            lines.extend(part.split_whitespace().flat_map(|line| [line, "\n"]));
        }
    }
    lines
}

fn headers(value: Value) -> Result<Vec<(HeaderName, HeaderValue)>, SecretsError> {
    let field = "targetHeaders";
    let headers = object(field, value)?.into_iter().map(|(name, value)| {
        let Ok(name) = trimmed(&name).parse::<HeaderName>() else {
            return Err(unusable(field, "has a name that HTTP does not allow"));
        };
        // No other name is shown: a key may have been written in the place of one.
        if let Some(problem) = reserved(&name) {
            return Err(unusable(format!("{field}.{name}"), problem));
        }
        let value = match &value {
            Value::String(text) => header_value(trimmed(text)),
            _ => None,
        };
        let problem = "has a value that is empty, not a text, or not allowed by HTTP";
        value
            .map(|value| (name, value))
            .ok_or_else(|| unusable(field, problem))
    });
    headers.collect()
}

/// The reason for which a header cannot be set by the secret.
fn reserved(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "authorization" => Some("belongs into the field targetAuthorization"),
        // RFC 9110 section 7.6.1, and what else is of one connection.
        "connection"
        | "expect"
        | "host"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => Some("is a header of the connection, which cannot be set"),
        name if is_kept_header(name)
            || name.starts_with("webhook-")
            || name.starts_with("x-relay-")
            || matches!(name, "content-length" | "content-type" | "idempotency-key") =>
        {
            Some("is a header that the relay sets itself")
        }
        _ => None,
    }
}

fn header_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value).filter(|value| !value.is_empty())
}

/// Standard Webhooks 1.0: `whsec_` and base64 of 24 to 64 bytes. The prefix may be absent, because
/// Secrets Manager cannot generate it.
fn signing_key(secret: &str) -> Result<Vec<u8>, SecretsError> {
    let secret = trimmed(secret);
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    match BASE64_STANDARD.decode(encoded) {
        Ok(key) if (24..=64).contains(&key.len()) => Ok(key),
        _ => Err(unusable(
            "targetSigningSecrets",
            "has an entry that is not the base64 of 24 to 64 bytes, with or without whsec_ before it",
        )),
    }
}
