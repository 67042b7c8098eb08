//! The stack's secret: what it holds, and a copy in memory that a rotation reaches without a redeploy.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Secrets that were read no longer ago than this count as fresh, and they are read no more often than this.
pub const FRESH: Duration = Duration::from_secs(5);

/// How long a copy is used while the store cannot be read. Refusing at once would lose events to an outage of
/// Secrets Manager; accepting for ever would keep a withdrawn secret alive.
pub const STALE_LIMIT: Duration = Duration::from_hours(1);

/// The shortest secret that is taken. Genesys asks for more than 15 characters; an empty one would sign anything.
const MIN_SECRET_BYTES: usize = 16;

/// Everything secret that the relay knows. It has no `Debug` that shows a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Valid signature secrets of Open Messaging integrations.
    pub open_messaging: Vec<String>,
    /// Valid values of `X-Webhook-Secret`.
    pub webhook: Vec<String>,
    /// The `Authorization` that the target asks for.
    pub target_authorization: Option<String>,
    /// Keys that deliveries are signed with, decoded; each makes one signature.
    pub target_signing: Vec<Vec<u8>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secrets")
            .field("open_messaging", &self.open_messaging.len())
            .field("webhook", &self.webhook.len())
            .field("target_authorization", &self.target_authorization.is_some())
            .field("target_signing", &self.target_signing.len())
            .finish()
    }
}

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretFile {
    #[serde(default)]
    open_messaging_secrets: OneOrMany,
    #[serde(default)]
    webhook_secrets: OneOrMany,
    target_authorization: Option<String>,
    #[serde(default)]
    target_signing_secrets: OneOrMany,
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

impl Secrets {
    /// Reads the secret's text:
    /// `{"openMessagingSecrets": […], "webhookSecrets": […], "targetAuthorization": "…", "targetSigningSecrets": ["whsec_…"]}`.
    ///
    /// Every field may be absent, and a list of one may be given as a string. An unknown field is an error, because it
    /// is most likely a known one misspelt.
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        // serde's own message can quote the value, which must not reach a log.
        let file: SecretFile = serde_json::from_str(text)
            .map_err(|error| SecretsError::Syntax { line: error.line(), column: error.column() })?;
        Ok(Self {
            open_messaging: long_enough("openMessagingSecrets", file.open_messaging_secrets)?,
            webhook: long_enough("webhookSecrets", file.webhook_secrets)?,
            target_authorization: file.target_authorization.map(header_value).transpose()?,
            target_signing: file
                .target_signing_secrets
                .into_vec()
                .iter()
                .map(|secret| signing_key(secret))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn long_enough(field: &'static str, secrets: OneOrMany) -> Result<Vec<String>, SecretsError> {
    let secrets = secrets.into_vec();
    if secrets.iter().any(|secret| secret.len() < MIN_SECRET_BYTES) {
        return Err(SecretsError::Field { field, problem: "has an entry of fewer than 16 characters" });
    }
    Ok(secrets)
}

fn header_value(value: String) -> Result<String, SecretsError> {
    match http::HeaderValue::from_str(&value) {
        Ok(_) if !value.trim().is_empty() => Ok(value),
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
    /// Reads the secret as it is now.
    fn read(&self) -> impl Future<Output = Result<Secrets, SecretsError>> + Send;
}

/// A [`SecretStore`] with a copy in memory.
pub struct SecretCache<S> {
    store: S,
    keep_for: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    copy: Option<(Arc<Secrets>, Instant)>,
    last_failure: Option<Instant>,
}

impl<S: SecretStore> SecretCache<S> {
    /// Keeps a copy for `keep_for` before it is read again.
    pub fn new(store: S, keep_for: Duration) -> Self {
        Self { store, keep_for, state: Mutex::default() }
    }

    /// The secrets, at most `keep_for` old, or up to [`STALE_LIMIT`] while the store cannot be read.
    pub async fn get(&self) -> Result<Arc<Secrets>, SecretsError> {
        let mut state = self.state.lock().await;
        match self.at_most(self.keep_for, &mut state).await {
            Ok(secrets) => Ok(secrets),
            Err(error) => match &state.copy {
                Some((copy, read_at)) if read_at.elapsed() < STALE_LIMIT => {
                    tracing::warn!(error = crate::logging::chain(&error), "using an older copy of the secret");
                    Ok(Arc::clone(copy))
                }
                _ => Err(error),
            },
        }
    }

    /// The secrets as they were within the last [`FRESH`] seconds, for a decision that cannot be taken back.
    pub async fn get_fresh(&self) -> Result<Arc<Secrets>, SecretsError> {
        let mut state = self.state.lock().await;
        self.at_most(FRESH.min(self.keep_for), &mut state).await
    }

    async fn at_most(&self, age: Duration, state: &mut State) -> Result<Arc<Secrets>, SecretsError> {
        if let Some((copy, read_at)) = &state.copy
            && read_at.elapsed() < age
        {
            return Ok(Arc::clone(copy));
        }
        if state.last_failure.is_some_and(|at| at.elapsed() < FRESH) {
            return Err(SecretsError::RecentlyUnavailable);
        }
        match self.store.read().await {
            Ok(secrets) => {
                let secrets = Arc::new(secrets);
                *state = State { copy: Some((Arc::clone(&secrets), Instant::now())), last_failure: None };
                Ok(secrets)
            }
            Err(error) => {
                state.last_failure = Some(Instant::now());
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeSecretStore;

    const MINUTES: Duration = Duration::from_mins(5);

    fn webhook(secret: &str) -> Secrets {
        Secrets::parse(&serde_json::json!({ "webhookSecrets": secret }).to_string()).expect("secrets")
    }

    #[test]
    fn a_list_may_be_one_string_and_every_field_may_be_absent() {
        let secrets = webhook("0123456789abcdef");
        assert_eq!(secrets.webhook, ["0123456789abcdef"]);
        assert!(secrets.open_messaging.is_empty() && secrets.target_authorization.is_none());
        let list = r#"{"openMessagingSecrets":["0123456789abcdef","fedcba9876543210"]}"#;
        assert_eq!(Secrets::parse(list).expect("secrets").open_messaging.len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_it() {
        for (text, names) in [
            (r#"{"webhookSecrets":"hunter2"}"#, "webhookSecrets"),
            (r#"{"openMessagingSecrets":[""]}"#, "openMessagingSecrets"),
            (r#"{"targetSigningSecrets":["whsec_hunter2"]}"#, "targetSigningSecrets"),
            (r#"{"targetSigningSecrets":["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}"#, "targetSigningSecrets"),
            ("{\"targetAuthorization\":\"hunter2\\n\"}", "targetAuthorization"),
            (r#"{"webhookSecret":"hunter2"}"#, "line 1"),
            (r#"{"webhookSecrets":{"hunter2":1}}"#, "line"),
            ("hunter2", "line 1"),
        ] {
            let error = Secrets::parse(text).expect_err(text);
            assert!(error.to_string().contains(names), "{error}");
            assert!(!format!("{error:?}{error}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn debug_shows_numbers_only() {
        assert!(!format!("{:?}", webhook("0123456789abcdef")).contains("0123"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_used_for_minutes() {
        let store = FakeSecretStore::holding(webhook("the-first-secret"));
        let cache = SecretCache::new(store.clone(), MINUTES);
        for _ in 0..10 {
            cache.get().await.expect("secrets");
        }
        assert_eq!(store.reads(), 1);
        tokio::time::advance(MINUTES).await;
        cache.get().await.expect("secrets");
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_copy_is_read_at_a_bounded_rate() {
        let store = FakeSecretStore::holding(webhook("the-first-secret"));
        let cache = SecretCache::new(store.clone(), MINUTES);
        cache.get().await.expect("secrets");
        tokio::time::advance(FRESH).await;
        store.hold(webhook("the-second-secret"));
        for _ in 0..100 {
            let secrets = cache.get_fresh().await.expect("secrets");
            assert_eq!(secrets.webhook, ["the-second-secret"]);
        }
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_store_is_bridged_for_an_hour_but_never_taken_for_fresh() {
        let store = FakeSecretStore::holding(webhook("the-first-secret"));
        let cache = SecretCache::new(store.clone(), MINUTES);
        cache.get().await.expect("secrets");
        store.fail();
        tokio::time::advance(MINUTES).await;
        assert!(cache.get_fresh().await.is_err());
        assert!(cache.get().await.is_ok());
        assert_eq!(store.reads(), 2, "a failed reading is not repeated at once");
        tokio::time::advance(STALE_LIMIT).await;
        assert!(cache.get().await.is_err());
        store.hold(webhook("the-first-secret"));
        tokio::time::advance(FRESH).await;
        assert!(cache.get().await.is_ok());
    }
}
