//! Use of the events table by an event: write units, read units and storage.

use super::model::{Setup, Workload, assumed};
use super::prices::{READ_BYTES, STORED_OVERHEAD_BYTES, WRITE_BYTES};

/// A record that was just claimed, in bytes: its attributes in `src/domain/event_record/mod.rs`,
/// counted as "DynamoDB item sizes and formats" says, with an id of 43 characters and a webhook id
/// of 36.
const RECORD_BYTES: f64 = 380.0;

/// An attempt in it that went well, in bytes.
const ATTEMPT_BYTES: f64 = 75.0;

/// Size of a failed attempt beside that and the target's answer, in bytes: `error` and the names.
const FAILURE_BYTES: f64 = 37.0;

/// Bytes kept of the target's newest answer, and of earlier ones.
const NEWEST_ANSWER_BYTES: f64 = 1024.0;
const OLDER_ANSWER_BYTES: f64 = 256.0;

/// Size of a dead event beside its attempts, in bytes: the reason, the keys of the index, the kept
/// headers.
const DEATH_BYTES: f64 = 450.0;

/// The item of a kept body without the body, in bytes.
const BODY_ITEM_BYTES: f64 = 80.0;

/// A write that enters, changes or leaves the index is one more unit there ("Using Global Secondary
/// Indexes in DynamoDB"). Write units of the index: the projection fits into one.
const INDEX_UNITS: f64 = 1.0;

/// Mean use by one event over its life.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct TableUse {
    /// Write units of the table and its index.
    pub(crate) writes: f64,
    /// Of these, those of the index.
    pub(crate) index_writes: f64,
    /// Read units.
    pub(crate) reads: f64,
    /// Bytes that stay until the record expires.
    pub(crate) stored_bytes: f64,
}

impl TableUse {
    /// Goes through the receives of an event as `src/deliver/settle.rs` does, each with its
    /// probability.
    pub(crate) fn of(workload: &Workload, setup: &Setup) -> Self {
        let mut used = Self::default();
        let mut reached = 1.0 - workload.refused;
        for receive in 1..=setup.max_receives {
            let is_last = receive == setup.max_receives;
            let failed = receive - 1;
            used.claim(reached, failed, is_last, setup);
            let delivered = reached * (1.0 - workload.failing);
            used.put(delivered, record_bytes(failed) + ATTEMPT_BYTES, is_last);
            used.keep(delivered, record_bytes(failed) + ATTEMPT_BYTES);
            let fails = reached * workload.failing;
            if is_last {
                used.die(fails, receive, workload);
            } else {
                used.put(fails, record_bytes(receive), false);
            }
            reached = fails;
        }
        used.claim(workload.refused, 0, setup.max_receives == 1, setup);
        used.die(workload.refused, 1, workload);
        used
    }

    fn claim(&mut self, share: f64, failed: u32, is_last: bool, setup: &Setup) {
        let looks_first = failed > 0;
        if looks_first || !setup.claims_at_once {
            self.reads += share * (record_bytes(failed) / READ_BYTES).ceil();
        }
        if looks_first || setup.claims_at_once {
            self.put(share, record_bytes(failed), is_last);
        }
    }

    fn die(&mut self, share: f64, failed: u32, workload: &Workload) {
        let record = record_bytes(failed) + DEATH_BYTES;
        let body = BODY_ITEM_BYTES + workload.body_bytes * assumed::COMPRESSED;
        self.put(share, record, true);
        self.put(share, body, false);
        self.keep(share, record + body + STORED_OVERHEAD_BYTES);
    }

    fn put(&mut self, share: f64, bytes: f64, is_indexed: bool) {
        self.writes += share * (bytes / WRITE_BYTES).ceil();
        if is_indexed {
            self.writes += share * INDEX_UNITS;
            self.index_writes += share * INDEX_UNITS;
        }
    }

    fn keep(&mut self, share: f64, bytes: f64) {
        self.stored_bytes += share * (bytes + STORED_OVERHEAD_BYTES);
    }
}

/// A record after so many failed attempts, in bytes.
fn record_bytes(failed: u32) -> f64 {
    let Some(older) = failed.checked_sub(1) else {
        return RECORD_BYTES;
    };
    let attempt = |answer: f64| ATTEMPT_BYTES + FAILURE_BYTES + assumed::FAILURE_BYTES.min(answer);
    RECORD_BYTES + attempt(NEWEST_ANSWER_BYTES) + f64::from(older) * attempt(OLDER_ANSWER_BYTES)
}
