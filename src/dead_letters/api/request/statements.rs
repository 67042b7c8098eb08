//! Request for the statements.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::within;
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields};

/// Default and largest number of statements.
const DEFAULT_LIMIT: u32 = 7;
const MAX_LIMIT: u32 = 31;

/// Fields of a `statements`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatementsRequest {
    /// Day (UTC) whose statements are returned whole. If left out, the newest of all days, without
    /// the long lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<Date>,
    /// Statements at most: 1 to 31, 7 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Statements to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementsQuery {
    pub(in crate::dead_letters) day: Option<Date>,
    pub(in crate::dead_letters) limit: usize,
    pub(in crate::dead_letters) requester: Requester,
}

impl StatementsRequest {
    pub(super) fn check(self, caller: &Caller) -> Result<StatementsQuery, InvalidRequest> {
        let Self { day, limit, by } = self;
        Ok(StatementsQuery {
            day,
            limit: within("limit", limit, 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT) as usize,
            requester: RequesterFields { by, why: None }.check(caller)?,
        })
    }
}
