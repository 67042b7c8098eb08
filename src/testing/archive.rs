//! An archive in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::ports::archive::{Archive, ArchiveError, MAX_OBJECT_BYTES};
use crate::ports::service::Service;

/// Keys and objects in the order of writes.
type Objects = Vec<(String, Vec<u8>)>;

/// An archive in memory.
#[derive(Clone, Default)]
pub struct FakeArchive {
    objects: Arc<Mutex<Objects>>,
    fails: Arc<AtomicUsize>,
}

impl FakeArchive {
    /// The next `times` writes fail.
    pub fn fail_times(&self, times: usize) {
        self.fails.store(times, Ordering::Relaxed);
    }

    /// The keys of all objects, in the order in which they were written.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.objects)
            .iter()
            .map(|(key, _)| key.clone())
            .collect()
    }
}

impl Archive for FakeArchive {
    async fn put(&self, key: &str, object: Vec<u8>) -> Result<(), ArchiveError> {
        let left = self.fails.load(Ordering::Relaxed);
        if left > 0 {
            self.fails.store(left - 1, Ordering::Relaxed);
            return Err(Service::S3
                .unavailable("the archive was made to fail")
                .into());
        }
        let mut objects = lock(&self.objects);
        objects.retain(|(held, _)| held != key);
        objects.push((key.to_owned(), object));
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        let found = lock(&self.objects)
            .iter()
            .find(|(held, _)| held == key)
            .map(|(_, object)| object.clone());
        let object = found.ok_or_else(|| ArchiveError::NotFound(key.to_owned()))?;
        if object.len() as u64 > MAX_OBJECT_BYTES {
            return Err(ArchiveError::TooLarge {
                key: key.to_owned(),
            });
        }
        Ok(object)
    }
}
