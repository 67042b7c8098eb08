//! A replay of everything: one item marks all records that were dead when it began.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::event_record::{Dead, EventRecord, OperatorAction, REPLAY_CEILING, State};

/// The newest replay of every dead letter by a move task of SQS.
///
/// It replaces a mark on each record that was dead when it began, so that a move starts at once
/// however many there are. The record of a dead event must be read through
/// [`marked`](Self::marked).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkReplay {
    /// The action that started it.
    #[serde(flatten)]
    pub act: OperatorAction,
    /// The newest one with `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<OperatorAction>,
}

impl BulkReplay {
    /// The record with the mark of a bulk replay: replayed, if the event was dead when the replay
    /// began.
    pub fn marked<'a>(bulk: Option<&Self>, found: &'a EventRecord) -> Cow<'a, EventRecord> {
        match (
            bulk.and_then(|bulk| bulk.act_on(found, found.last_seen_at)),
            &found.state,
        ) {
            (Some(act), State::Dead(dead)) => {
                let dead = Dead {
                    replayed_at: Some(act.at),
                    message_id: None,
                    ..dead.clone()
                };
                let mut marked = EventRecord {
                    state: State::Dead(dead),
                    ..found.clone()
                };
                marked.remember_act(act.clone());
                Cow::Owned(marked)
            }
            _ => Cow::Borrowed(found),
        }
    }

    /// The newest one that covers an event that is dead since `dead_since`.
    pub(super) fn act_on(
        &self,
        found: &EventRecord,
        dead_since: Timestamp,
    ) -> Option<&OperatorAction> {
        let newest = Some(&self.act).filter(|_| found.replays_made < REPLAY_CEILING);
        newest
            .into_iter()
            .chain(&self.forced)
            .find(|act| dead_since <= act.at)
    }
}
