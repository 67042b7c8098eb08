//! Erased conversations, of which events may still wait in a queue without a record.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::conversation::conversation_id;
use crate::domain::event::Event;
use crate::domain::event_record::LIFE;

/// Upper bound on the conversations, so that they fit one item of DynamoDB (400 KB, "Quotas in
/// Amazon DynamoDB").
const MOST: usize = 3000;

/// Events younger than this need no look at the erasures: a run of an erasure searches for their
/// records once every one of them must have its record.
pub const UNCHECKED_AGE: SignedDuration = SignedDuration::from_secs(10);

/// The erased conversations of the last 15 days, by the hashes of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasures {
    /// The time of the newest erasure, of a conversation or of single events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest_at: Option<Timestamp>,
    /// The time up to which each conversation is erased.
    #[serde(default)]
    conversations: BTreeMap<String, Timestamp>,
}

/// More conversations were erased within 15 days than one item holds.
#[derive(Debug, thiserror::Error)]
#[error("{MOST} conversations were erased within the last 15 days, and no more can be remembered")]
pub struct TooManyErasures;

impl Erasures {
    /// Returns whether an event belongs to what was erased: it was received before its conversation
    /// was. SQS accepted its message at `sent_at`: a sender's own time may lie in the future.
    pub fn cover(&self, event: &Event, sent_at: Timestamp) -> bool {
        if self.conversations.is_empty() {
            return false;
        }
        let erased_at = conversation_id(event).and_then(|id| self.conversations.get(&hash(&id)));
        erased_at.is_some_and(|at| event.received_at.min(sent_at) < *at)
    }

    /// The time of the newest erasure.
    pub fn newest_at(&self) -> Option<Timestamp> {
        self.newest_at
    }

    /// Notes that all events of a conversation are erased that were received before a time, or
    /// without a conversation that single events are; forgets what is older than a record lives. A
    /// later erasure of the conversation stays.
    pub fn note(
        &mut self,
        conversation_id: Option<&str>,
        erased_at: Timestamp,
    ) -> Result<(), TooManyErasures> {
        self.conversations
            .retain(|_, at| erased_at.duration_since(*at) < LIFE);
        if let Some(id) = conversation_id {
            let at = self.conversations.entry(hash(id)).or_insert(erased_at);
            *at = erased_at.max(*at);
        }
        if self.conversations.len() > MOST {
            return Err(TooManyErasures);
        }
        self.newest_at = self.newest_at.max(Some(erased_at));
        Ok(())
    }
}

/// The key of a conversation: an item that tells of erasures names none.
fn hash(id: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_erasures_are_forgotten_and_too_many_refused() {
        let start: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
        let mut erasures = Erasures::default();
        for number in 0..MOST {
            erasures
                .note(Some(&number.to_string()), start)
                .expect("room");
        }
        assert!(
            serde_json::to_string(&erasures).expect("JSON").len() < 300 * 1024,
            "it fits one item"
        );
        assert!(erasures.clone().note(Some("one more"), start).is_err());
        erasures.note(Some("one more"), start + LIFE).expect("room");
        assert_eq!(erasures.conversations.len(), 1);
        erasures.note(None, start + LIFE).expect("room");
        assert_eq!(erasures.newest_at(), Some(start + LIFE));
        // A run that is taken up again has an earlier time.
        erasures.note(Some("one more"), start).expect("room");
        assert_eq!(erasures.newest_at(), Some(start + LIFE));
        assert_eq!(erasures.conversations[&hash("one more")], start + LIFE);
    }
}
