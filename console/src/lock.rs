//! The lock around state that handlers share. A panic of one handler leaves it usable.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// State behind a lock.
#[derive(Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
