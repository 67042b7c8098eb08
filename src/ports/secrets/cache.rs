//! A copy of the secret in memory, which a rotation reaches without a redeploy, and which bridges
//! an outage of the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{FromSecret, SecretStore, SecretsError, read};
use crate::ports::clock::{Clock, Moment};
use crate::runtime::logging::display_chain;

/// The age up to which secrets count as fresh, and the least time between two reads.
pub const FRESH: Duration = Duration::from_secs(5);

/// Upper bound on the use of an expired copy while the store cannot be read. Refusing at once would
/// lose events to an outage of Secrets Manager; accepting for ever would keep a withdrawn secret
/// alive.
const BRIDGED: Duration = Duration::from_hours(1);

/// The pause after a failed read while there is a copy: a store that hangs must not hold up every
/// answer.
const PAUSE: Duration = Duration::from_secs(30);

/// A part of the secret, read from a [`SecretStore`] and kept for a while.
pub struct SecretCache<S, T, C> {
    store: S,
    keep_for: Duration,
    clock: C,
    state: Mutex<CacheState<T>>,
}

struct CacheState<T> {
    copy: Option<(Arc<T>, Moment)>,
    /// The last read, if it failed.
    last_failure: Option<(Moment, SecretsError)>,
}

impl<S: SecretStore, T: FromSecret, C: Clock> SecretCache<S, T, C> {
    /// Keeps a copy for `keep_for` before it is read again.
    pub fn new(store: S, keep_for: Duration, clock: C) -> Self {
        Self {
            store,
            keep_for,
            clock,
            state: Mutex::new(CacheState {
                copy: None,
                last_failure: None,
            }),
        }
    }

    /// The secrets, at most `keep_for` old, or an hour more while the store cannot be read.
    pub async fn get(&self) -> Result<Arc<T>, SecretsError> {
        let mut state = self.state.lock().await;
        let usable =
            |(_, read_at): &&(Arc<T>, Moment)| read_at.age(&self.clock) < self.keep_for + BRIDGED;
        let bridge = state
            .copy
            .as_ref()
            .filter(usable)
            .map(|(copy, _)| Arc::clone(copy));
        let pause = if bridge.is_some() { PAUSE } else { FRESH };
        match (self.at_most(self.keep_for, pause, &mut state).await, bridge) {
            (Ok(secrets), _) => Ok(secrets),
            (Err(error), Some(copy)) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "using an older copy of the secret"
                );
                Ok(copy)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Reads the secrets before they are needed. A failure is not kept: the first use reads them
    /// again.
    pub async fn warm_up(&self) -> Result<(), SecretsError> {
        let outcome = self.get().await.map(drop);
        if outcome.is_err() {
            self.state.lock().await.last_failure = None;
        }
        outcome
    }

    /// The secrets as of the last [`FRESH`] seconds, for a decision that cannot be undone.
    pub async fn get_fresh(&self) -> Result<Arc<T>, SecretsError> {
        let mut state = self.state.lock().await;
        self.at_most(FRESH.min(self.keep_for), FRESH, &mut state)
            .await
    }

    /// The copy if it is at most this old, else the secrets as read now, but not within `pause` of
    /// a failure.
    async fn at_most(
        &self,
        age: Duration,
        pause: Duration,
        state: &mut CacheState<T>,
    ) -> Result<Arc<T>, SecretsError> {
        if let Some((copy, read_at)) = &state.copy
            && read_at.age(&self.clock) < age
        {
            return Ok(Arc::clone(copy));
        }
        if let Some((at, error)) = &state.last_failure
            && at.age(&self.clock) < pause
        {
            return Err(error.clone());
        }
        // Counted from before the call: what is read may already be that old when it arrives.
        let read_at = Moment::now(&self.clock);
        match self.store.read().await.and_then(|text| read(&text)) {
            Ok(secrets) => {
                let secrets = Arc::new(secrets);
                *state = CacheState {
                    copy: Some((Arc::clone(&secrets), read_at)),
                    last_failure: None,
                };
                Ok(secrets)
            }
            Err(error) => {
                state.last_failure = Some((Moment::now(&self.clock), error.clone()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::secrets::SenderSecrets;
    use crate::testing::{FakeClock, FakeSecretStore};
    use jiff::Timestamp;

    const KEPT: Duration = Duration::from_mins(5);

    fn store(secret: &str) -> FakeSecretStore {
        FakeSecretStore::holding(&serde_json::json!({ "webhookSecrets": secret }))
    }

    fn cache(store: &FakeSecretStore) -> SecretCache<FakeSecretStore, SenderSecrets, FakeClock> {
        SecretCache::new(store.clone(), KEPT, FakeClock)
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
    async fn a_warm_up_that_fails_leaves_the_first_event_its_own_try() {
        let store = store("the-first-secret");
        let cache = cache(&store);
        store.fail();
        cache.warm_up().await.expect_err("no store");
        store.hold(&serde_json::json!({ "webhookSecrets": "the-first-secret" }));
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
        assert_eq!(
            store.reads(),
            3,
            "only after a pause, so that a store that hangs does not hold up every answer"
        );
        tokio::time::advance(BRIDGED).await;
        assert!(cache.get().await.is_err());
        store.hold(&serde_json::json!({ "webhookSecrets": "the-first-secret" }));
        tokio::time::advance(FRESH).await;
        assert!(cache.get().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_bridges_for_an_hour_beyond_its_time() {
        for (age, is_there) in [
            (
                (KEPT + BRIDGED).saturating_sub(Duration::from_millis(1)),
                true,
            ),
            (KEPT + BRIDGED, false),
        ] {
            let store = store("the-first-secret");
            let cache = cache(&store);
            cache.get().await.expect("secrets");
            store.fail();
            tokio::time::advance(age).await;
            assert_eq!(cache.get().await.is_ok(), is_there, "{age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn defect_of_the_secret_is_reported_each_time() {
        let store = store("the-first-secret");
        let cache = cache(&store);
        cache.get().await.expect("secrets");
        store.hold(&serde_json::json!({ "webhookSecrets": null }));
        tokio::time::advance(FRESH).await;
        for _ in 0..3 {
            let error = cache.get_fresh().await.expect_err("refused");
            assert!(error.to_string().contains("webhookSecrets"), "{error}");
        }
        assert_eq!(store.reads(), 2);
        assert_eq!(
            cache.get().await.expect("the last good copy").webhook,
            ["the-first-secret"]
        );
    }

    /// A clock that says what it is told, as the time of day goes on while a frozen function's own
    /// clock stands.
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
        let cache = SecretCache::<_, SenderSecrets, _>::new(
            store.clone(),
            KEPT,
            SetClock(Arc::clone(&time)),
        );
        cache.get().await.expect("secrets");
        *time.lock().expect("not poisoned") += KEPT;
        cache.get().await.expect("secrets");
        assert_eq!(store.reads(), 2);
    }
}
