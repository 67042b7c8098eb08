//! The answer of a run.

use jiff::Timestamp;
use serde::Serialize;

use super::candidate::{Candidate, Found};
use crate::domain::event::{EventId, Source};

/// Number of events that a dry run lists at most.
const MAX_LISTED: usize = 100;

/// Outcome of a run, or the expected outcome that a dry run has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Beginning of the time that was read.
    pub from: Timestamp,
    /// End of the time that was read.
    pub to: Timestamp,
    /// Number of entries that the log listed there: the sum of the next five, unless the run
    /// failed.
    pub fetched: u64,
    /// Events that were missing and are queued now.
    pub new: u64,
    /// Events that have a record: delivered, in flight, dead, archived or discarded.
    pub known: u64,
    /// Entries that are no events, and are dead letters now.
    pub unreadable: u64,
    /// Entries of other relays, or that need no recovery.
    #[serde(rename = "passedOver")]
    pub skipped: u64,
    /// Entries that could not be fetched; the checkpoint waits for them.
    #[serde(rename = "withheld")]
    pub unavailable: u64,
    /// True if the whole request was read.
    pub complete: bool,
    /// True if nothing was queued.
    pub dry_run: bool,
    /// Checkpoint: everything before this time is durable here. `null` before the first run that
    /// follows it.
    pub cursor: Option<Timestamp>,
    /// Age of the newest time that a run which follows the checkpoint has read, in seconds. 0 if it
    /// has read everything.
    pub behind_seconds: Option<u64>,
    /// Request for the rest of a range that was not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Events that a dry run would queue, the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// A request for the rest of a range.
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

/// An event that a dry run would queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    event_id: EventId,
    source: Source,
    received_at: Timestamp,
    note: String,
}

impl Report {
    /// The report of a run that begins.
    pub(super) fn new(now: Timestamp, dry_run: bool) -> Self {
        Self {
            from: now,
            to: now,
            fetched: 0,
            new: 0,
            known: 0,
            unreadable: 0,
            skipped: 0,
            unavailable: 0,
            complete: false,
            dry_run,
            cursor: None,
            behind_seconds: None,
            next: None,
            items: Vec::new(),
        }
    }

    /// Counts and lists the events that a dry run would queue.
    pub(super) fn list(&mut self, new: &[Candidate]) {
        for Found {
            event,
            reason,
            note,
            ..
        } in new.iter().map(|candidate| &candidate.found)
        {
            match reason {
                Some(_) => self.unreadable += 1,
                None => self.new += 1,
            }
            if self.items.len() < MAX_LISTED {
                let (event_id, source, received_at) =
                    (event.id.clone(), event.source, event.received_at);
                self.items.push(Item {
                    event_id,
                    source,
                    received_at,
                    note: note.clone(),
                });
            }
        }
    }
}
