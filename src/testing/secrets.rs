//! A store of secrets in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::ports::secrets::{SecretStore, SecretsError};
use crate::ports::service::Service;

/// A secret in memory whose store can be made to fail.
#[derive(Clone)]
pub struct FakeSecretStore {
    held: Arc<Mutex<Option<String>>>,
    reads: Arc<AtomicUsize>,
}

impl FakeSecretStore {
    /// A store that holds `secret`.
    pub fn holding(secret: &serde_json::Value) -> Self {
        Self {
            held: Arc::new(Mutex::new(Some(secret.to_string()))),
            reads: Arc::default(),
        }
    }

    /// Replaces the secret.
    pub fn hold(&self, secret: &serde_json::Value) {
        *lock(&self.held) = Some(secret.to_string());
    }

    /// Makes every read fail from now on.
    pub fn fail(&self) {
        *lock(&self.held) = None;
    }

    /// Reads so far, failures included.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl SecretStore for FakeSecretStore {
    async fn read(&self) -> Result<String, SecretsError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        lock(&self.held).clone().ok_or_else(|| {
            Service::SecretsManager
                .unavailable("the store was made to fail")
                .into()
        })
    }
}
