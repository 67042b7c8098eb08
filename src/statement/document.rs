//! A statement as it is written: one JSON object, which carries the hash of the one before.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::state::{Head, Progress, Tally, Unaccounted};
use crate::domain::book::{Book, Hour};
use crate::domain::queue_depth::QueueDepth;
use crate::ports::hourly_counts::HourCounts;

/// Prefix of the keys of statements.
pub(super) const PREFIX: &str = "statements/";

/// Version of the format.
const FORMAT: &str = "genesys-relay/statement/1";

/// One statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) format: String,
    /// The day, in UTC.
    pub(super) day: Date,
    /// Number in the chain, from 1.
    pub(super) sequence: u64,
    /// The statement before; `null` in the first.
    pub(super) previous: Option<Previous>,
    began_at: Timestamp,
    written_at: Timestamp,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Messages that Genesys Cloud sent to the webhooks.
    pub(super) sent: u64,
    /// Those of which the relay has a record.
    pub(super) accounted: u64,
    /// Those of which it has none. The sum of both is `sent`.
    pub(super) unaccounted: u64,
    genesys: GenesysBook,
    relay: RelayBook,
    aws: AwsCounts,
}

/// The place and hash of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Previous {
    pub(super) key: String,
    pub(super) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GenesysBook {
    /// Accounted messages by the state of their record.
    accounted_by_state: BTreeMap<String, u64>,
    /// Accounted messages that the relay received on another day.
    received_on_another_day: u64,
    /// Accounted messages whose webhook had another time than the message.
    sent_at_another_time: u64,
    by_status: BTreeMap<String, u64>,
    unaccounted_by_status: BTreeMap<String, u64>,
    /// The unaccounted messages, the first of them.
    unaccounted: Vec<Named>,
    /// Messages of customers, which no webhook gets.
    inbound: u64,
    of_other_integrations: u64,
    /// Entries that could not be read.
    unread: u64,
    unread_named: Vec<String>,
    conversations: u64,
    calls: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    message_id: String,
    conversation_id: String,
    at: Option<Timestamp>,
    status: String,
    /// The request that makes the recovery function fetch it.
    request: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RelayBook {
    balances: bool,
    total: Hour,
    /// Hours with events, by their beginning (UTC).
    hours: BTreeMap<Timestamp, Hour>,
    /// Events of Open Messaging among them: messages, receipts and typing events.
    #[serde(default)]
    open_messaging: u64,
    unreadable: u64,
    unreadable_keys: Vec<String>,
    /// Messages in the queues of events when the statement was written, some perhaps without a record.
    queues: Known<QueueDepth>,
}

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Known<V> {
    Counted(V),
    /// The error.
    Unavailable(String),
}

/// AWS's own counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum AwsCounts {
    Hours(BTreeMap<Timestamp, HourCounts>),
    /// The error.
    Unavailable(String),
    /// The reason.
    NotHere(String),
}

impl Document {
    pub(super) fn of<P>(
        progress: &Progress<P>,
        head: Option<&Head>,
        written_at: Timestamp,
        queues: Known<QueueDepth>,
        aws: AwsCounts,
    ) -> Self {
        let Progress {
            tally, book, day, ..
        } = progress;
        Self {
            format: FORMAT.to_owned(),
            day: *day,
            sequence: head.map_or(1, |head| head.sequence + 1),
            previous: head.map(Previous::from),
            began_at: progress.began_at,
            written_at,
            by: progress.requester.by.clone(),
            why: progress.requester.why.clone(),
            sent: tally.sent,
            accounted: tally.accounted(),
            unaccounted: tally.unaccounted(),
            genesys: GenesysBook::of(tally, *day),
            relay: RelayBook::of(book, queues),
            aws,
        }
    }

    /// Returns whether another is the same statement: of the same place in the chain, and begun at the
    /// same time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let place = |it: &Self| (it.day, it.sequence, it.previous.clone(), it.began_at);
        place(self) == place(other)
    }

    /// Conversations and messages that could not be read.
    pub(super) fn unread(&self) -> u64 {
        self.genesys.unread
    }

    /// Returns whether the books can be compared, and add up.
    ///
    /// Where the relay has events of Open Messaging on a day for which Genesys Cloud lists no message,
    /// its client may not see their conversations, or `RecoveryIds` has other integrations. An open
    /// conversation with receipts alone is neither.
    pub(super) fn balances(&self) -> bool {
        let Self { genesys, relay, .. } = self;
        let sees_others = genesys.conversations == 0 || genesys.of_other_integrations > 0;
        let is_comparable = self.sent > 0 || relay.open_messaging == 0 || !sees_others;
        self.relay.balances && is_comparable && self.accounted + self.unaccounted == self.sent
    }

    pub(super) fn bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl From<&Head> for Previous {
    fn from(head: &Head) -> Self {
        Self {
            key: head.key.clone(),
            sha256: head.sha256.clone(),
        }
    }
}

impl GenesysBook {
    fn of(tally: &Tally, day: Date) -> Self {
        let named = |message: &Unaccounted| Named {
            message_id: message.message_id.clone(),
            conversation_id: message.conversation_id.clone(),
            at: message.at,
            status: message.status.clone(),
            request: json!({
                "messageIds": [message.message_id],
                "why": format!("unaccounted in the statement of {day}"),
            }),
        };
        Self {
            accounted_by_state: tally.accounted_by_state.clone(),
            received_on_another_day: tally.on_another_day,
            sent_at_another_time: tally.at_another_time,
            by_status: tally.by_status.clone(),
            unaccounted_by_status: tally.unaccounted_by_status.clone(),
            unaccounted: tally.named.iter().map(named).collect(),
            inbound: tally.inbound,
            of_other_integrations: tally.of_other_integrations,
            unread: tally.unread,
            unread_named: tally.unread_named.clone(),
            conversations: tally.conversations,
            calls: tally.calls,
        }
    }
}

impl RelayBook {
    fn of(book: &Book, queues: Known<QueueDepth>) -> Self {
        let (unreadable, keys) = book.unreadable();
        Self {
            balances: book.balances(),
            total: book.total(),
            hours: book.hours().clone(),
            open_messaging: book.open_messaging(),
            unreadable,
            unreadable_keys: keys.to_vec(),
            queues,
        }
    }
}

/// The key of the nth statement of a day, from 1.
pub(super) fn key_of(day: Date, nth: u32) -> String {
    if nth == 1 {
        format!("{PREFIX}{day}.json")
    } else {
        format!("{PREFIX}{day}.{nth}.json")
    }
}

/// The SHA-256 of an object, in hexadecimal digits.
pub fn sha256_of(object: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(object) {
        // A text takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
