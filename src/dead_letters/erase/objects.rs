//! Objects of the archive and of the journal, in all their versions.
//!
//! An object cannot be changed in place. So the lines that stay are written as a new version, and
//! only then the versions with erased lines are deleted. A crash in between leaves both, and the
//! next run deletes the old ones.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Erasing, Verdict};
use crate::dead_letters::error::ReplayError;
use crate::dead_letters::ports::{PortTypes, Ports};
use crate::dead_letters::run::Run;
use crate::ports::archive::{
    self, Archive, ArchiveError, Archived, ObjectVersion, VersionPosition,
};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

/// Beginnings of the keys, in the order of S3, and the objects that are read at the same time: of
/// the archive's, one can be four times as large.
const PREFIXES: [(&str, usize); 2] = [("dead-letters/", 2), ("journal/", 8)];

/// Search of all objects.
pub(super) struct Objects<'a, T: PortTypes> {
    pub(super) ports: &'a Ports<T>,
    pub(super) run: &'a Run<'a>,
}

/// End of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Searched {
    All,
    /// The time was up.
    Part,
    /// An operator has cancelled the run.
    Cancelled,
}

impl<T: PortTypes> Objects<'_, T> {
    /// Erases the lines of the events from all objects behind the one that was searched last.
    pub(super) async fn erase(
        &self,
        erasing: &mut Erasing,
        stop_at: Instant,
    ) -> Result<Searched, ReplayError> {
        for (prefix, at_once) in PREFIXES {
            let behind = erasing.progress.searched_to.clone();
            let mut after = match behind {
                Some(key) if key.starts_with(prefix) => {
                    Some(VersionPosition { key, version: None })
                }
                Some(key) if key.as_str() > prefix => continue,
                Some(_) | None => None,
            };
            // Objects with all their versions. Those of the last one may go on on the next page.
            let mut objects: Vec<Vec<ObjectVersion>> = Vec::new();
            loop {
                let page = self.ports.archive.versions(prefix, after.as_ref()).await?;
                after = page.next;
                for version in page.versions {
                    match objects.last_mut() {
                        Some(object) if object[0].key == version.key => object.push(version),
                        _ => objects.push(vec![version]),
                    }
                }
                let is_last = after.is_none();
                while objects.len() > at_once || (is_last && !objects.is_empty()) {
                    if let Some(stopped) = self.stopped(stop_at).await {
                        self.save(erasing, true).await?;
                        return Ok(stopped);
                    }
                    let rest = objects.split_off(at_once.min(objects.len()));
                    self.erase_objects(&objects, erasing).await?;
                    objects = rest;
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(Searched::All)
    }

    /// Returns why the search must end now, if it must.
    async fn stopped(&self, stop_at: Instant) -> Option<Searched> {
        if self.run.is_cancelled(self.ports).await {
            return Some(Searched::Cancelled);
        }
        (Instant::now() >= stop_at).then_some(Searched::Part)
    }

    /// Searches some objects, and notes that they are searched. One that the relay has not written
    /// is noted apart, and the others are searched.
    async fn erase_objects(
        &self,
        objects: &[Vec<ObjectVersion>],
        erasing: &mut Erasing,
    ) -> Result<(), ReplayError> {
        let read = join_all(objects.iter().map(|versions| self.read(versions))).await;
        for (versions, contents) in objects.iter().zip(read) {
            let key = &versions[0].key;
            let outcome = match contents {
                Ok(contents) => self.rewrite(key, contents, erasing).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {}
                // Without the service, the other objects cannot be searched either.
                Err(ArchiveError::Service(error)) => return Err(error.into()),
                Err(error) => erasing.note_unsearched(format!(
                    "the object {key:?} was not searched: {}; look whether it has lines of the events, and erase again under \
                     another runId once it is gone",
                    display_chain(&error)
                )),
            }
            erasing.progress.searched_to = Some(key.clone());
        }
        Ok(self.save(erasing, false).await?)
    }

    /// Reads the versions of an object that have a content, the newest first.
    async fn read<'v>(
        &self,
        versions: &'v [ObjectVersion],
    ) -> Result<Vec<(&'v ObjectVersion, Vec<u8>)>, ArchiveError> {
        let mut contents = Vec::new();
        for version in versions.iter().filter(|version| !version.is_delete_marker) {
            let ObjectVersion {
                key, version: id, ..
            } = version;
            match self.ports.archive.get_version(key, id).await {
                Ok(object) => contents.push((version, object)),
                // It has expired since it was listed.
                Err(ArchiveError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(contents)
    }

    /// Writes the lines of an object that stay, and deletes each version with a line that does not.
    async fn rewrite(
        &self,
        key: &str,
        contents: Vec<(&ObjectVersion, Vec<u8>)>,
        erasing: &mut Erasing,
    ) -> Result<(), ArchiveError> {
        let archive = &self.ports.archive;
        let (mut outdated, mut stays) = (Vec::new(), None);
        for (version, object) in contents {
            let mut unknown = 0;
            let includes = |line: &Archived| {
                let verdict = erasing.judge_line(line);
                unknown += u64::from(verdict == Verdict::Unknown);
                verdict == Verdict::Erase
            };
            let without = archive::without(&object, includes)?;
            if version.is_latest {
                erasing.progress.unknown_lines += unknown;
            }
            let Some(without) = without else { continue };
            erasing.note(self.ports, self.run, &without.removed).await?;
            // A deleted object stays deleted, and its older versions expire soon. So what stays of
            // them is not written: it would be kept for as long as a new object.
            if version.is_latest {
                stays = without.kept;
            }
            outdated.push(version);
        }
        if let Some(object) = stays {
            archive.put(key, object).await?;
            erasing.progress.objects_rewritten += 1;
        }
        // The oldest first: one that is left would take the place of a newer one.
        for version in outdated.into_iter().rev() {
            archive.delete_version(key, &version.version).await?;
            erasing.progress.versions_deleted += 1;
        }
        Ok(())
    }

    /// Saves the progress of a background run, every few seconds or at once.
    async fn save(&self, erasing: &Erasing, at_once: bool) -> Result<(), ServiceError> {
        match self.run.tracked {
            Some(tracked) if at_once || tracked.is_save_due().await => {
                erasing.save(self.ports, tracked).await
            }
            Some(_) | None => Ok(()),
        }
    }
}
