//! The rules of a FIFO queue: groups in their order, and deduplication.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::Entry;

/// "Any messages sent with the same deduplication ID are accepted but aren't delivered during the
/// 5-minute deduplication interval".
const DEDUPLICATED_FOR: Duration = Duration::from_mins(5);

/// Messages that were accepted, by group and deduplication id.
#[derive(Default)]
pub(super) struct Fifo(HashMap<(String, String), Instant>);

impl Fifo {
    /// Returns whether the group has accepted no message with this id lately, and notes it. SQS
    /// remembers an id also when its message is deleted.
    pub(super) fn is_new(&mut self, group: &str, id: String) -> bool {
        let now = Instant::now();
        self.0.retain(|_, at| *at + DEDUPLICATED_FOR > now);
        let mut is_new = false;
        self.0.entry((group.to_owned(), id)).or_insert_with(|| {
            is_new = true;
            now
        });
        is_new
    }
}

/// Places of the messages of each group, both in the order in which they were sent.
fn groups(entries: &[Entry]) -> Vec<Vec<usize>> {
    let (mut groups, mut known): (Vec<Vec<usize>>, _) = (Vec::new(), BTreeMap::new());
    for (place, entry) in entries.iter().enumerate() {
        let group = *known
            .entry(entry.message.group.as_deref())
            .or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(place);
    }
    groups
}

/// Places of the messages that can be received now: as many of one group as there are, then the
/// next group.
///
/// "When you receive a message with a message group ID, no more messages for the same message group
/// ID are returned unless you delete the message or it becomes visible": a group waits for all its
/// messages that are in flight. With `any`, groups come in any order, and one comes up to its first
/// message in flight, as has been seen on AWS.
pub(super) fn visible(
    entries: &[Entry],
    now: Instant,
    any: Option<&mut fastrand::Rng>,
) -> Vec<usize> {
    let mut groups = groups(entries);
    let is_hidden = |place: &usize| entries[*place].visible_at > now;
    let Some(rng) = any else {
        groups.retain(|group| !group.iter().any(is_hidden));
        return groups.concat();
    };
    rng.shuffle(&mut groups);
    let before_hidden = |group: Vec<usize>| {
        let hidden = group.iter().position(is_hidden);
        let visible = hidden.unwrap_or(group.len());
        group.into_iter().take(visible)
    };
    groups.into_iter().flat_map(before_hidden).collect()
}

/// The time at which a message can be received next; `heads` where one comes alone while others of
/// its group are in flight.
pub(super) fn next_visible(entries: &[Entry], heads: bool) -> Option<Instant> {
    let visible_at = |group: Vec<usize>| {
        let mut times = group.into_iter().map(|place| entries[place].visible_at);
        if heads { times.next() } else { times.max() }
    };
    groups(entries).into_iter().filter_map(visible_at).min()
}
