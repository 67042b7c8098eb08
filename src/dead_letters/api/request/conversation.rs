//! Request for the events of a conversation.

use serde::{Deserialize, Serialize};

use super::within;
use crate::domain::conversation::as_conversation_id;
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid};
use crate::ports::events_table::Position;

/// Default and largest number of events on a page.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 200;

/// Fields of a `conversation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversationRequest {
    /// Id of the conversation, as Genesys Cloud gives it.
    pub id: String,
    /// Events on the page, at most: 1 to 200, 100 if left out. A short page is not always the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Token `next` of the page before. The last page has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Page of the events of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationQuery {
    /// Id in the form in which records have it.
    pub(in crate::dead_letters) id: String,
    pub(in crate::dead_letters) limit: usize,
    pub(in crate::dead_letters) after: Option<Position>,
    pub(in crate::dead_letters) requester: Requester,
}

impl ConversationRequest {
    pub(super) fn check(self, caller: &Caller) -> Result<ConversationQuery, InvalidRequest> {
        let Self {
            id,
            limit,
            next,
            by,
        } = self;
        let after = next.map(|token| token.parse::<Position>()).transpose();
        Ok(ConversationQuery {
            id: known("id", &id)?,
            limit: within("limit", limit, 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT) as usize,
            after: after.map_err(|error| invalid("next", &error.to_string()))?,
            requester: RequesterFields { by, why: None }.check(caller)?,
        })
    }
}

/// The id of a conversation in the form in which records have it.
pub(super) fn known(field: &str, id: &str) -> Result<String, InvalidRequest> {
    as_conversation_id(id).ok_or_else(|| {
        invalid(
            field,
            "is empty or a placeholder; no event is recorded under it",
        )
    })
}
