//! The sparse index of dead letters: how its shards are keyed, and how their pages become one.

use std::ops::Range;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::domain::event::EventId;
use crate::domain::event_record::Summary;
use crate::ports::events_table::{Page, Position, Window};

/// The sparse index of dead letters, and its keys.
pub(super) const INDEX: &str = "dead-letters";
pub(super) const INDEX_SHARD: &str = "dead_shard";
pub(super) const INDEX_ORDER: &str = "dead_order";

/// A partition of an index takes 1,000 writes a second, and past that DynamoDB throttles writes to
/// the table ("Best practices for designing and using partition keys effectively").
pub(super) const SHARDS: u8 = 8;

/// Partitions of the events for which their conversation waits. They share the index with the dead
/// letters: an event is never both.
pub(super) const WAITING_SHARDS: Range<u8> = SHARDS..2 * SHARDS;

/// Part of one shard of the index.
pub(super) struct Shard {
    /// In order; nothing for what cannot be read.
    pub(super) items: Vec<(Position, Option<Summary>)>,
    /// True if more follows.
    pub(super) more: bool,
}

/// By hash, since a person may have chosen the id.
pub(super) fn shard_of(id: &EventId) -> u8 {
    Sha256::digest(id.as_str())[0] % SHARDS
}

pub(super) fn waiting_shard_of(id: &EventId) -> u8 {
    WAITING_SHARDS.start + shard_of(id)
}

/// Beginning of the year 0, in seconds.
const YEAR_ZERO: i64 = -62_167_219_200;

/// The keys of the index from one to the other, both included.
pub(super) fn range(window: Window, after: Option<&Position>) -> (String, String) {
    // Keys have milliseconds and no more; who wants it exact looks at the records. A time before
    // the year 0, which only a hand-written item has, begins with a `-`, below the digits, and the
    // texts of such times are not in their order.
    let is_ordered = |time: &Timestamp| time.as_second() >= YEAR_ZERO;
    let since = window
        .since
        .filter(is_ordered)
        .map_or_else(String::new, |since| format!("{since:.3}"));
    let millisecond = jiff::SignedDuration::from_millis(1);
    let until = window
        .until
        .and_then(|until| until.checked_add(millisecond).ok());
    // Digits are below `:`, and `#` and what may be in an id are above a blank.
    let until = until.map_or_else(
        || ":".to_owned(),
        |until| {
            if is_ordered(&until) {
                format!("{until:.3}")
            } else {
                "0".to_owned()
            }
        },
    );
    let after = after.map_or_else(String::new, |Position(after)| format!("{after} "));
    // DynamoDB takes no empty text for a key.
    (since.max(after).max("-".to_owned()), until)
}

/// The first `limit` of all shards together. What lies behind the last item of a shard that has
/// more is not yet known.
pub(super) fn merge(shards: Vec<Shard>, limit: usize) -> Page {
    let last = |shard: &Shard| shard.items.last().map(|(position, _)| position.clone());
    let known = shards
        .iter()
        .filter(|shard| shard.more)
        .filter_map(last)
        .min();
    let more = known.is_some();
    let mut items: Vec<_> = shards.into_iter().flat_map(|shard| shard.items).collect();
    items.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(known) = known {
        items.retain(|(position, _)| *position <= known);
    }
    let more = more || items.len() > limit;
    items.truncate(limit);
    let next = items
        .last()
        .map(|(position, _)| position.clone())
        .filter(|_| more);
    Page {
        items: items.into_iter().filter_map(|(_, item)| item).collect(),
        next,
    }
}
