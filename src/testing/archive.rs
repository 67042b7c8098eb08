//! An archive in memory.

use std::sync::{Arc, Mutex, MutexGuard};

use super::lock;
use crate::ports::archive::{
    Archive, ArchiveError, KeyPage, MAX_OBJECT_BYTES, ObjectVersion, VersionPage, VersionPosition,
};
use crate::ports::service::Service;

/// Entries of a page of a list: fewer than S3's thousand, so that tests have more pages than one.
const PAGE: usize = 3;

/// An archive in memory that keeps the versions of its objects, and can be made to fail.
#[derive(Clone, Default)]
pub struct FakeArchive {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Versions in the order of writes.
    versions: Vec<Stored>,
    written: u64,
    failures_left: usize,
    calls_until_halt: Option<usize>,
}

/// A version, with its content unless it is the mark of a deletion.
struct Stored {
    key: String,
    id: String,
    object: Option<Vec<u8>>,
}

impl FakeArchive {
    /// The next `times` calls fail.
    pub fn fail_times(&self, times: usize) {
        lock(&self.state).failures_left = times;
    }

    /// Makes every call after `calls` more hang until [`resume`](Self::resume).
    pub fn halt_after(&self, calls: usize) {
        lock(&self.state).calls_until_halt = Some(calls);
    }

    /// Lets calls return again.
    pub fn resume(&self) {
        lock(&self.state).calls_until_halt = None;
    }

    /// The keys of all objects, in the order in which they were written.
    pub fn keys(&self) -> Vec<String> {
        let state = lock(&self.state);
        let is_there = |stored: &&Stored| {
            stored.object.is_some()
                && state
                    .latest(&stored.key)
                    .is_some_and(|(_, id)| id == stored.id)
        };
        let there = state.versions.iter().filter(is_there);
        there.map(|stored| stored.key.clone()).collect()
    }

    /// Deletes an object, as a lifecycle rule does: its versions stay for a while.
    pub fn delete(&self, key: &str) {
        lock(&self.state).store(key, None);
    }

    /// The contents of all versions, older ones included.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        let state = lock(&self.state);
        let contents = state
            .versions
            .iter()
            .filter_map(|stored| stored.object.clone());
        contents.collect()
    }

    async fn working(&self) -> Result<MutexGuard<'_, State>, ArchiveError> {
        let halted = lock(&self.state).calls_until_halt == Some(0);
        if halted {
            std::future::pending::<()>().await;
        }
        let mut state = lock(&self.state);
        state.calls_until_halt = state.calls_until_halt.map(|calls| calls - 1);
        if state.failures_left > 0 {
            state.failures_left -= 1;
            let failed = Service::S3.unavailable("the archive was made to fail");
            return Err(failed.into());
        }
        Ok(state)
    }
}

impl State {
    /// The newest version of an object: its content, and its id.
    fn latest(&self, key: &str) -> Option<(Option<&Vec<u8>>, &str)> {
        let newest = self
            .versions
            .iter()
            .rev()
            .find(|stored| stored.key == key)?;
        Some((newest.object.as_ref(), &newest.id))
    }

    fn store(&mut self, key: &str, object: Option<Vec<u8>>) {
        self.written += 1;
        self.versions.push(Stored {
            key: key.to_owned(),
            id: format!("version-{:06}", self.written),
            object,
        });
    }
}

/// A read object, unless it is missing or too large.
fn read(key: &str, object: Option<&Vec<u8>>) -> Result<Vec<u8>, ArchiveError> {
    let key = key.to_owned();
    match object {
        None => Err(ArchiveError::NotFound(key)),
        Some(object) if object.len() as u64 > MAX_OBJECT_BYTES => {
            Err(ArchiveError::TooLarge { key })
        }
        Some(object) => Ok(object.clone()),
    }
}

impl Archive for FakeArchive {
    async fn put(&self, key: &str, object: Vec<u8>) -> Result<(), ArchiveError> {
        self.working().await?.store(key, Some(object));
        Ok(())
    }

    async fn put_new(&self, key: &str, object: Vec<u8>) -> Result<bool, ArchiveError> {
        let mut state = self.working().await?;
        let is_new = state.latest(key).is_none_or(|(object, _)| object.is_none());
        if is_new {
            state.store(key, Some(object));
        }
        Ok(is_new)
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        let state = self.working().await?;
        read(key, state.latest(key).and_then(|(object, _)| object))
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Vec<u8>, ArchiveError> {
        let state = self.working().await?;
        let mut versions = state.versions.iter();
        let found = versions.find(|stored| stored.key == key && stored.id == version);
        read(key, found.and_then(|stored| stored.object.as_ref()))
    }

    async fn list_keys(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, ArchiveError> {
        drop(self.working().await?);
        let mut keys = self.keys();
        keys.retain(|key| {
            key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
        });
        keys.sort();
        let more = keys.len() > PAGE;
        keys.truncate(PAGE);
        let next = keys.last().filter(|_| more).cloned();
        Ok(KeyPage { keys, next })
    }

    async fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionPosition>,
    ) -> Result<VersionPage, ArchiveError> {
        let state = self.working().await?;
        // The newest of each key first, as S3 lists them.
        let newest_first = state.versions.iter().rev();
        let mut versions: Vec<ObjectVersion> = newest_first
            .filter(|stored| stored.key.starts_with(prefix))
            .map(|stored| ObjectVersion {
                key: stored.key.clone(),
                version: stored.id.clone(),
                is_latest: state
                    .latest(&stored.key)
                    .is_some_and(|(_, id)| id == stored.id),
                is_delete_marker: stored.object.is_none(),
            })
            .collect();
        versions.sort_by(|one, other| one.key.cmp(&other.key));
        // By order, as S3 does: the version of the marker may be deleted by now.
        if let Some(VersionPosition { key, version }) = after {
            let is_older =
                |item: &ObjectVersion| version.as_ref().is_some_and(|id| item.version < *id);
            versions.retain(|item| item.key > *key || (item.key == *key && is_older(item)));
        }
        let more = versions.len() > PAGE;
        versions.truncate(PAGE);
        let next = versions
            .last()
            .filter(|_| more)
            .map(|item| VersionPosition {
                key: item.key.clone(),
                version: Some(item.version.clone()),
            });
        Ok(VersionPage { versions, next })
    }

    async fn delete_version(&self, key: &str, version: &str) -> Result<(), ArchiveError> {
        let mut state = self.working().await?;
        state
            .versions
            .retain(|stored| stored.key != key || stored.id != version);
        Ok(())
    }
}
