//! The stack's secret: what it holds, and a copy in memory that a rotation reaches without a redeploy.
//!
//! Each function reads its own half, so that a slip in one half does not stop the other function.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;

/// Secrets that were read no longer ago than this count as fresh, and they are read no more often than this.
pub const FRESH: Duration = Duration::from_secs(5);

/// How long a copy that should be read again is used while the store cannot be read. Refusing at once would lose events
/// to an outage of Secrets Manager; accepting for ever would keep a withdrawn secret alive.
const BRIDGED: Duration = Duration::from_hours(1);

/// How long the store is left alone after a failure while a copy bridges it: a store that hangs must not hold up every
/// answer.
const PAUSE: Duration = Duration::from_secs(30);

/// The fields that there are.
const FIELDS: [&str; 4] = ["openMessagingSecrets", "webhookSecrets", "targetAuthorization", "targetSigningSecrets"];

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

/// The half of the secret that one function needs, read from the whole.
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

/// Reads one half, and tells of fields that are nobody's: most likely a known one misspelt. Not their names, since a
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

/// A half of the secret, read from a [`SecretStore`] and kept for a while.
pub struct SecretCache<S, T, C> {
    store: S,
    keep_for: Duration,
    clock: C,
    state: Mutex<State<T>>,
}

struct State<T> {
    copy: Option<(Arc<T>, ReadAt)>,
    last_failure: Option<ReadAt>,
}

/// A moment by both clocks: the one that waits may stand still while a function is frozen, and the other may be set.
#[derive(Clone, Copy)]
struct ReadAt(Instant, Timestamp);

impl<S: SecretStore, T: FromSecret, C: Clock> SecretCache<S, T, C> {
    /// Keeps a copy for `keep_for` before it is read again.
    pub fn new(store: S, keep_for: Duration, clock: C) -> Self {
        Self { store, keep_for, clock, state: Mutex::new(State { copy: None, last_failure: None }) }
    }

    /// The secrets, at most `keep_for` old, or an hour more while the store cannot be read.
    pub async fn get(&self) -> Result<Arc<T>, SecretsError> {
        let mut state = self.state.lock().await;
        let usable = |(_, read_at): &&(Arc<T>, ReadAt)| self.age(*read_at) < self.keep_for + BRIDGED;
        let bridge = state.copy.as_ref().filter(usable).map(|(copy, _)| Arc::clone(copy));
        let pause = if bridge.is_some() { PAUSE } else { FRESH };
        match (self.at_most(self.keep_for, pause, &mut state).await, bridge) {
            (Ok(secrets), _) => Ok(secrets),
            (Err(error), Some(copy)) => {
                tracing::warn!(error = crate::logging::chain(&error), "using an older copy of the secret");
                Ok(copy)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The secrets as they were within the last [`FRESH`] seconds, for a decision that cannot be taken back.
    pub async fn get_fresh(&self) -> Result<Arc<T>, SecretsError> {
        let mut state = self.state.lock().await;
        self.at_most(FRESH.min(self.keep_for), FRESH, &mut state).await
    }

    /// The copy if it is at most of this age, or what is read now, but not within `pause` of a failure.
    async fn at_most(&self, age: Duration, pause: Duration, state: &mut State<T>) -> Result<Arc<T>, SecretsError> {
        if let Some((copy, read_at)) = &state.copy
            && self.age(*read_at) < age
        {
            return Ok(Arc::clone(copy));
        }
        if state.last_failure.is_some_and(|at| self.age(at) < pause) {
            return Err(SecretsError::RecentlyUnavailable);
        }
        // Counted from before the call: what is read may already be that old when it arrives.
        let read_at = ReadAt(Instant::now(), self.clock.now());
        match self.store.read().await.and_then(|text| read(&text)) {
            Ok(secrets) => {
                let secrets = Arc::new(secrets);
                *state = State { copy: Some((Arc::clone(&secrets), read_at)), last_failure: None };
                Ok(secrets)
            }
            Err(error) => {
                state.last_failure = Some(ReadAt(Instant::now(), self.clock.now()));
                Err(error)
            }
        }
    }

    fn age(&self, ReadAt(instant, timestamp): ReadAt) -> Duration {
        let by_the_day = self.clock.now().duration_since(timestamp);
        instant.elapsed().max(by_the_day.try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeClock, FakeSecretStore};

    const KEPT: Duration = Duration::from_mins(5);

    fn store(secret: &str) -> FakeSecretStore {
        FakeSecretStore::holding(&serde_json::json!({ "webhookSecrets": secret }))
    }

    fn cache(store: &FakeSecretStore) -> SecretCache<FakeSecretStore, SenderSecrets, FakeClock> {
        SecretCache::new(store.clone(), KEPT, FakeClock)
    }

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

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_used_for_minutes() {
        let store = store("the-first-secret");
        let cache = cache(&store);
        for _ in 0..10 {
            cache.get().await.expect("secrets");
        }
        assert_eq!(store.reads(), 1);
        tokio::time::advance(KEPT).await;
        cache.get().await.expect("secrets");
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_copy_is_read_at_a_bounded_rate() {
        let store = store("the-first-secret");
        let cache = cache(&store);
        cache.get().await.expect("secrets");
        tokio::time::advance(FRESH).await;
        store.hold(&serde_json::json!({ "webhookSecrets": "the-second-secret" }));
        for _ in 0..100 {
            let secrets = cache.get_fresh().await.expect("secrets");
            assert_eq!(secrets.webhook, ["the-second-secret"]);
        }
        assert_eq!(store.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_store_is_bridged_for_an_hour_but_never_taken_for_fresh() {
        let store = store("the-first-secret");
        let cache = cache(&store);
        cache.get().await.expect("secrets");
        store.fail();
        tokio::time::advance(KEPT).await;
        assert!(cache.get_fresh().await.is_err());
        assert!(cache.get().await.is_ok());
        assert_eq!(store.reads(), 2, "a failed reading is not repeated at once");
        tokio::time::advance(PAUSE).await;
        assert!(cache.get().await.is_ok());
        assert!(cache.get().await.is_ok());
        assert_eq!(store.reads(), 3, "only after a pause, so that a store that hangs does not hold up every answer");
        tokio::time::advance(BRIDGED).await;
        assert!(cache.get().await.is_err());
        store.hold(&serde_json::json!({ "webhookSecrets": "the-first-secret" }));
        tokio::time::advance(FRESH).await;
        assert!(cache.get().await.is_ok());
    }

    /// A clock that says what it is told, as the time of day goes on while a frozen function's own clock stands.
    struct SetClock(Arc<std::sync::Mutex<Timestamp>>);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().expect("not poisoned")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_grows_old_while_the_function_is_frozen() {
        let store = store("the-first-secret");
        let time = Arc::new(std::sync::Mutex::new(Timestamp::UNIX_EPOCH));
        let cache = SecretCache::<_, SenderSecrets, _>::new(store.clone(), KEPT, SetClock(Arc::clone(&time)));
        cache.get().await.expect("secrets");
        *time.lock().expect("not poisoned") += KEPT;
        cache.get().await.expect("secrets");
        assert_eq!(store.reads(), 2);
    }
}
