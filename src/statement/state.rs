//! The state of the statements in the events table: the head of the chain, and the one in progress.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::domain::book::Book;
use crate::domain::event::EventId;
use crate::domain::request::Requester;
use crate::domain::text::excerpt_of;
use crate::ports::delivery_log::Window;

/// Upper bounds on the unaccounted messages that a statement names: their number, and the bytes of
/// their texts, which must fit an item of 400 KB. All are counted.
const MOST_NAMED: usize = 1000;
const MOST_NAMED_BYTES: usize = 200 * 1024;

/// Upper bound on the entries that could not be read and are named. All are counted.
const MOST_UNREAD_NAMED: usize = 20;

/// Upper bounds on a status of Genesys Cloud, and on the number of them.
const STATUS_BYTES: usize = 64;
const MOST_STATUSES: usize = 50;

/// Upper bound on a name of an unreadable entry.
const NAME_BYTES: usize = 256;

/// All that is saved between two slices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    bound(
        serialize = "P: Serialize",
        deserialize = "P: serde::de::DeserializeOwned"
    )
)]
pub(super) struct Saved<P> {
    /// The first day that the schedule states: the first whole day after its first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_day: Option<Date>,
    /// The newest statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<Head>,
    /// The newest day with a statement, and what is unaccounted in its newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) newest: Option<NewestDay>,
    /// The statement in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<Progress<P>>,
}

/// The place of the newest statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub sequence: u64,
    pub key: String,
    /// SHA-256 of the object, in hexadecimal digits.
    pub sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewestDay {
    pub(super) day: Date,
    pub(super) unaccounted: u64,
}

/// A statement in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    bound(
        serialize = "P: Serialize",
        deserialize = "P: serde::de::DeserializeOwned"
    )
)]
pub(super) struct Progress<P> {
    pub(super) day: Date,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) began_at: Timestamp,
    pub(super) requester: Requester,
    /// The relay's book.
    pub(super) book: Book,
    /// Genesys's book.
    pub(super) tally: Tally,
    pub(super) phase: Phase<P>,
}

/// The next thing to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "phase",
    rename_all = "camelCase",
    bound(
        serialize = "P: Serialize",
        deserialize = "P: serde::de::DeserializeOwned"
    )
)]
pub(super) enum Phase<P> {
    /// The table, behind this key.
    Relay { after: Option<String> },
    /// Genesys Cloud, from this place.
    Genesys { place: P },
    /// Nothing: the statement can be written.
    Write,
}

impl<P> Progress<P> {
    pub(super) fn window(&self) -> Window {
        Window {
            from: self.from,
            to: self.to,
        }
    }
}

/// Counts of Genesys's book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tally {
    /// Messages to the webhooks.
    pub(super) sent: u64,
    /// Messages with a record, by the state of that.
    pub(super) accounted_by_state: BTreeMap<String, u64>,
    /// Accounted messages that the relay received on another day.
    pub(super) on_another_day: u64,
    /// Accounted messages whose webhook had another time.
    pub(super) at_another_time: u64,
    /// All messages by `messageStatus`.
    pub(super) by_status: BTreeMap<String, u64>,
    /// Messages without a record, by `messageStatus`.
    pub(super) unaccounted_by_status: BTreeMap<String, u64>,
    pub(super) named: Vec<Unaccounted>,
    pub(super) inbound: u64,
    pub(super) of_other_integrations: u64,
    /// Entries that could not be read, and the names of the first.
    pub(super) unread: u64,
    pub(super) unread_named: Vec<String>,
    pub(super) conversations: u64,
    /// Messages that were searched for at another time.
    #[serde(default)]
    pub(super) searches: u64,
    pub(super) calls: u64,
}

/// A message without a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unaccounted {
    #[serde(rename = "m")]
    pub(super) message_id: String,
    #[serde(rename = "c")]
    pub(super) conversation_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<Timestamp>,
    #[serde(rename = "s")]
    pub(super) status: String,
    /// The id of its event, which has no record.
    #[serde(rename = "e")]
    pub(super) event_id: EventId,
}

impl Tally {
    pub(super) fn accounted(&self) -> u64 {
        self.accounted_by_state.values().sum()
    }

    pub(super) fn unaccounted(&self) -> u64 {
        self.unaccounted_by_status.values().sum()
    }

    /// Counts a message, and returns its status as it is counted.
    pub(super) fn count_sent(&mut self, status: Option<&str>) -> String {
        self.sent += 1;
        let mut status = excerpt_of(status.unwrap_or("none"), STATUS_BYTES);
        if self.by_status.len() >= MOST_STATUSES && !self.by_status.contains_key(&status) {
            "other".clone_into(&mut status);
        }
        *self.by_status.entry(status.clone()).or_default() += 1;
        status
    }

    /// Counts a message with a record.
    pub(super) fn count_accounted(&mut self, state: &str) {
        *self.accounted_by_state.entry(state.to_owned()).or_default() += 1;
    }

    /// Counts and names a message without a record.
    pub(super) fn count_unaccounted(&mut self, message: Unaccounted) {
        let status = message.status.clone();
        *self.unaccounted_by_status.entry(status).or_default() += 1;
        let size = |message: &Unaccounted| {
            let Unaccounted {
                message_id,
                conversation_id,
                status,
                ..
            } = message;
            message_id.len() + conversation_id.len() + status.len() + 100
        };
        let bytes: usize = self.named.iter().map(size).sum();
        if self.named.len() < MOST_NAMED && bytes + size(&message) <= MOST_NAMED_BYTES {
            self.named.push(message);
        }
    }

    /// Moves named messages whose records have come since to the accounted ones.
    pub(super) fn recheck(&mut self, state_of: impl Fn(&EventId) -> Option<String>) {
        for message in std::mem::take(&mut self.named) {
            let Some(state) = state_of(&message.event_id) else {
                self.named.push(message);
                continue;
            };
            self.count_accounted(&state);
            if let Some(count) = self.unaccounted_by_status.get_mut(&message.status) {
                *count -= 1;
            }
        }
        self.unaccounted_by_status.retain(|_, count| *count > 0);
    }

    pub(super) fn count_unread(&mut self, name: &str, problem: &str) {
        self.unread += 1;
        if self.unread_named.len() < MOST_UNREAD_NAMED {
            let named = format!("{}: {problem}", excerpt_of(name, NAME_BYTES));
            self.unread_named.push(excerpt_of(&named, 2 * NAME_BYTES));
        }
    }
}
