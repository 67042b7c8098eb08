//! What a replay did, as the operator reads it.

use jiff::Timestamp;
use serde::Serialize;

use crate::event::{Event, Source};
use crate::message::Message;
use crate::queue::MoveTask;
use crate::reason::Reason;

/// Dead letters, and failures, that an answer lists one by one.
const MAX_LISTED: usize = 100;

/// What a replay did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Dead letters that the request asks for, as far as the run looked.
    pub matched: u64,
    /// Of those, how many are in the events queue again.
    pub replayed: u64,
    /// Dead letters that were looked at and left.
    pub skipped: u64,
    /// How many failures there were.
    pub failures: u64,
    /// What went wrong, the first hundred times.
    pub failed: Vec<Failed>,
    /// How many lie in the dead-letter queue now, approximately; nothing when that could not be asked.
    pub remaining: Option<u64>,
    /// Whether the run looked at all that was there when it began. If not, the request can be repeated.
    pub complete: bool,
    /// Whether this only counted.
    pub dry_run: bool,
    /// The move task, when SQS does the work.
    pub move_task: Option<MoveTask>,
    /// In a dry run, the first hundred that match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// A dead letter that a dry run found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its event's id, unless the message cannot be read.
    pub event_id: Option<String>,
    /// Its source, unless the message cannot be read.
    pub source: Option<Source>,
    /// When the relay received it.
    pub received_at: Option<Timestamp>,
    /// The reason it carries.
    pub reason: Option<Reason>,
}

/// A dead letter that was not replayed, or not removed afterwards.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Its event's id, unless the message cannot be read.
    pub event_id: Option<String>,
    /// What went wrong.
    pub error: String,
}

impl Report {
    /// Counts a failure, and lists it while there is room.
    pub(super) fn fail(&mut self, event_id: Option<String>, error: &str) {
        self.failures += 1;
        if self.failed.len() < MAX_LISTED {
            self.failed.push(Failed { event_id, error: error.to_owned() });
        }
    }

    /// Lists a dead letter while there is room.
    pub(super) fn list(&mut self, message: &Message, event: Option<Event>) {
        if self.items.len() < MAX_LISTED {
            self.items.push(Item::describe(message, event));
        }
    }
}

impl Item {
    /// Describes a dead letter, of which `event` could be read.
    fn describe(message: &Message, event: Option<Event>) -> Self {
        Self {
            source: event.as_ref().map(|event| event.source),
            received_at: event.as_ref().map(|event| event.received_at),
            event_id: event.map(|event| event.id.into()),
            reason: message.reason(),
        }
    }
}
