//! Requests about the journal: to send delivered events once more, to write it, and to cancel a
//! run.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_MAX_MESSAGES, MAX_MESSAGES, MAX_RATE, check_ids, conversation, within};
use crate::domain::event::{Event, EventId, Source};
use crate::domain::request::{Caller, InvalidRequest, Requester, RequesterFields, invalid};

/// Fields of a `resend`: one of `event_ids` and `filter`, and the options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResendRequest {
    /// Ids of the events, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_ids: Option<Vec<EventId>>,
    /// Conditions on the delivered events, of which all must hold: `source`, `webhookId`, `since`,
    /// `until` and `conversationId`. `since` and `until` are about the time of the delivery. At
    /// least `since` or `conversationId` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<ResendFilter>,
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change. Only a dry run needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Counts the events by the hour of their delivery, lists the ids of the first hundred, and sends
    /// nothing. `notYetJournalled` counts the delivered events that are not in the journal yet; a run
    /// waits for them.
    #[serde(default)]
    pub dry_run: bool,
    /// Largest number of events: 1 to 100,000, 10,000 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u32>,
    /// Largest number of messages a second, for the target's sake: 1 to 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
}

/// Conditions on a delivered event; every given condition must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResendFilter {
    /// Kind of sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Webhook or integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<String>,
    /// The target accepted it at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The target accepted it before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The conversation, where the body names one. Needs the parameter `ConversationIndex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
}

/// Fields of a `journal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JournalRequest {
    /// Name of the requester, in place of that of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Reason for the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Delivered events to send once more, with the options of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResendSelection {
    pub(in crate::dead_letters) which: Delivered,
    pub(in crate::dead_letters) requester: Requester,
    /// Counts and lists only.
    pub(in crate::dead_letters) dry_run: bool,
    /// Largest number of events.
    pub(in crate::dead_letters) max_messages: u32,
    /// Largest number of messages a second.
    pub(in crate::dead_letters) rate_per_second: Option<u32>,
}

/// Delivered events that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) enum Delivered {
    /// Those with these ids.
    #[serde(rename = "eventIds")]
    These(BTreeSet<EventId>),
    /// Those that match.
    #[serde(rename = "filter")]
    Matching(ResendFilter),
}

impl ResendRequest {
    pub(super) fn check(self, caller: &Caller) -> Result<ResendSelection, InvalidRequest> {
        let which = match (self.event_ids, self.filter) {
            (Some(ids), None) => Delivered::These(check_ids(ids)?),
            (None, Some(filter)) => Delivered::Matching(filter.check()?),
            (Some(_), Some(_)) => return Err(invalid("eventIds", "cannot stand beside filter")),
            (None, None) => {
                return Err(invalid("filter", "is missing; give eventIds or a filter"));
            }
        };
        if self.why.is_none() && !self.dry_run {
            return Err(invalid(
                "why",
                "is missing; say why events are sent once more",
            ));
        }
        let requester = RequesterFields {
            by: self.by,
            why: self.why,
        };
        let max_messages = within("maxMessages", self.max_messages, 1, MAX_MESSAGES)?;
        Ok(ResendSelection {
            which,
            requester: requester.check(caller)?,
            dry_run: self.dry_run,
            max_messages: max_messages.unwrap_or(DEFAULT_MAX_MESSAGES),
            rate_per_second: within("ratePerSecond", self.rate_per_second, 1, MAX_RATE)?,
        })
    }
}

impl ResendSelection {
    /// Returns whether it needs the index of conversations.
    pub(super) fn needs_conversations(&self) -> bool {
        match &self.which {
            Delivered::Matching(filter) => filter.conversation_id.is_some(),
            Delivered::These(_) => false,
        }
    }
}

impl ResendFilter {
    fn check(self) -> Result<Self, InvalidRequest> {
        if self.since.is_none() && self.conversation_id.is_none() {
            return Err(invalid(
                "filter.since",
                "is missing; give since or conversationId, so that not the whole journal is sent",
            ));
        }
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err(invalid("filter.until", "must be later than since"));
        }
        let conversation_id = self.conversation_id.as_deref();
        let known = conversation_id.map(|id| conversation::known("filter.conversationId", id));
        Ok(Self {
            conversation_id: known.transpose()?,
            ..self
        })
    }

    /// Returns whether an event that was delivered at this time can match.
    pub(in crate::dead_letters) fn includes_time(&self, delivered_at: Timestamp) -> bool {
        self.since.is_none_or(|since| delivered_at >= since)
            && self.until.is_none_or(|until| delivered_at < until)
    }

    /// Returns whether the time alone does not decide.
    pub(in crate::dead_letters) fn needs_event(&self) -> bool {
        self.source.is_some() || self.webhook_id.is_some() || self.conversation_id.is_some()
    }

    /// Returns whether an event of a conversation matches, whatever the time of its delivery.
    pub(in crate::dead_letters) fn matches(
        &self,
        event: &Event,
        conversation_id: Option<&str>,
    ) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        self.source.is_none_or(|source| source == event.source)
            && is(&self.webhook_id, event.webhook_id.as_deref())
            && is(&self.conversation_id, conversation_id)
    }
}
