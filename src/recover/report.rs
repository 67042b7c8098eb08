//! What a run answers.

use jiff::Timestamp;
use serde::Serialize;

use super::RecoverError;
use super::candidate::{Candidate, Found};
use crate::domain::event::{EventId, Source};

/// A dry run lists so many of what it would queue.
const MAX_LISTED: usize = 100;

/// A run that failed, and what it had done by then. All of that is durable; the next run begins where its checkpoint is.
#[derive(Debug, thiserror::Error)]
#[error(
    "the recovery failed, after {} were fetched: {} new, {} known, {} unreadable; it has read up to {}",
    .report.fetched, .report.new, .report.known, .report.unreadable, .report.to
)]
pub struct FailedRun {
    /// Why.
    #[source]
    pub error: RecoverError,
    /// What it had done.
    pub report: Box<Report>,
}

/// What a run has done, or what a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was read begins here,
    pub from: Timestamp,
    /// and ends here.
    pub to: Timestamp,
    /// Everything that the log listed there. The next five add up to it, unless a run failed.
    pub fetched: u64,
    /// Events that were not known, and are queued now.
    pub new: u64,
    /// What was known already: delivered, on its way, dead, archived or discarded.
    pub known: u64,
    /// What is a dead letter now, since it is no event.
    pub unreadable: u64,
    /// What was not for this relay, or needs no recovery.
    pub passed_over: u64,
    /// What could not be had, and is waited for.
    pub withheld: u64,
    /// Whether all that was asked for was read.
    pub complete: bool,
    /// Whether nothing was queued.
    pub dry_run: bool,
    /// Everything before this time is durable here; `null` where no run has gone on from a checkpoint yet.
    pub cursor: Option<Timestamp>,
    /// How long ago the time is up to which a run has read that goes on from the checkpoint, in seconds. 0 if it has read
    /// everything.
    pub behind_seconds: Option<u64>,
    /// The request that goes on, after one for a part of the time line that was not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Some of what a dry run would queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// A request for the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) span_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resume: Option<String>,
    pub(super) dry_run: bool,
    pub(super) force: bool,
    pub(super) by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// Something that a dry run would queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    event_id: EventId,
    source: Source,
    received_at: Timestamp,
    note: String,
}

impl Report {
    /// Nothing read yet, at this time.
    pub(super) fn new(now: Timestamp, dry_run: bool) -> Self {
        Self {
            from: now,
            to: now,
            fetched: 0,
            new: 0,
            known: 0,
            unreadable: 0,
            passed_over: 0,
            withheld: 0,
            complete: false,
            dry_run,
            cursor: None,
            behind_seconds: None,
            next: None,
            items: Vec::new(),
        }
    }

    /// What a dry run says of what it would queue.
    pub(super) fn list(&mut self, new: &[Candidate]) {
        for Found { event, reason, note, .. } in new.iter().map(|candidate| &candidate.found) {
            match reason {
                Some(_) => self.unreadable += 1,
                None => self.new += 1,
            }
            if self.items.len() < MAX_LISTED {
                let (event_id, source, received_at) = (event.id.clone(), event.source, event.received_at);
                self.items.push(Item { event_id, source, received_at, note: note.clone() });
            }
        }
    }
}
