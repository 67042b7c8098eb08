//! Request to erase events.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Request, check_ids, conversation};
use crate::domain::event::EventId;
use crate::domain::request::{Caller, InvalidRequest, RequesterFields, invalid};

/// Fields of an `erase`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EraseRequest {
    /// Erases every event of this conversation that the relay received before the run began. Needs
    /// the parameter `ConversationIndex`. A body that is no JSON names no conversation: give its
    /// event's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Ids of the events, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_ids: Option<Vec<EventId>>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change. It stays in the audit log and on the records.
    pub why: String,
}

/// Events to erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Erased {
    /// All of a conversation.
    #[serde(rename = "conversationId")]
    Conversation(String),
    /// Those with these ids.
    #[serde(rename = "eventIds")]
    These(BTreeSet<EventId>),
}

impl EraseRequest {
    pub(super) fn check(self, caller: &Caller) -> Result<Request, InvalidRequest> {
        let which = match (self.conversation_id, self.event_ids) {
            (Some(id), None) => Erased::Conversation(conversation::known("conversationId", &id)?),
            (None, Some(ids)) => Erased::These(check_ids(ids)?),
            (Some(_), Some(_)) => {
                return Err(invalid("eventIds", "cannot stand beside conversationId"));
            }
            (None, None) => {
                return Err(invalid(
                    "conversationId",
                    "is missing; give conversationId or eventIds",
                ));
            }
        };
        let requester = RequesterFields {
            by: self.by,
            why: Some(self.why),
        };
        Ok(Request::Erase {
            which,
            requester: requester.check(caller)?,
        })
    }
}
