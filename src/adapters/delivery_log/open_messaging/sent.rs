//! All messages of the integrations, whatever their status, for the statement.
//!
//! The conversations and their messages come by the calls of the recovery. The messages themselves
//! come together, by one call for up to a thousand of a conversation.

use std::collections::BTreeMap;

use http::Method;
use serde_json::json;
use tokio::time::Instant;

use super::{Found, Listed, MOST_MESSAGES, Missing, OpenMessaging, Place, Step, listed_in};
use crate::adapters::delivery_log::segment::segment;
use crate::adapters::genesys::{Call, GenesysError, PlatformApi};
use crate::domain::json::Json;
use crate::ports::delivery_log::{DeliveryLogError, Window};
use crate::ports::sent_messages::{SentEntry, SentMessage, SentMessages, SentPart};

/// "Get messages in batch": at most 1,000 ids.
const BULK: usize = 1000;

/// A conversation that cannot be read is tried thrice: in its place, and twice behind the others. The
/// list of those is saved, and has a bound.
const LAST_ROUND: u32 = 2;
const MOST_POSTPONED: usize = 500;

impl<A: PlatformApi> SentMessages for OpenMessaging<A> {
    type Place = Place;

    async fn read_sent(
        &self,
        window: Window,
        place: Place,
        deadline: Instant,
    ) -> Result<SentPart<Place>, DeliveryLogError> {
        // Not the statuses, all of which count.
        let of = format!("sent {:?} {}", self.integration_ids, self.look_back);
        let mut place = place.of(of);
        let step = self.advance(window, &mut place, deadline).await?;
        let (mut is_conversation, starts_again) = match &step {
            Step::Conversation(_) => (true, false),
            Step::Page(_) => (false, false),
            Step::Again => (false, true),
        };
        let (entries, calls) = match step {
            Step::Conversation(id) => {
                let (entries, calls) = self.sent_in(&id, window, deadline, &mut place.gone).await?;
                let is_unavailable = |entry| matches!(entry, &SentEntry::Unavailable(_));
                if place.rounds < LAST_ROUND
                    && place.postponed.len() < MOST_POSTPONED
                    && entries.iter().any(is_unavailable)
                {
                    is_conversation = false;
                    place.postponed.push_back(id);
                    (Vec::new(), calls)
                } else {
                    (entries, calls)
                }
            }
            Step::Page(unreadable) => {
                let entries = unreadable.into_iter().map(SentEntry::Unreadable);
                (entries.collect(), 1)
            }
            Step::Again => (Vec::new(), 1),
        };
        Ok(SentPart {
            entries,
            is_conversation,
            calls,
            starts_again,
            next: place.unless_over(),
        })
    }
}

impl<A: PlatformApi> OpenMessaging<A> {
    /// The messages of a conversation, and the calls that they took.
    async fn sent_in(
        &self,
        id: &str,
        window: Window,
        deadline: Instant,
        gone: &mut u32,
    ) -> Result<(Vec<SentEntry>, u64), GenesysError> {
        let mut calls = 1;
        let answer = match self.fetch_conversation(id, deadline, gone).await? {
            Ok(answer) => answer,
            Err(found) => return Ok((vec![entry(found, id, None)], calls)),
        };
        let listed = match listed_in(&answer, id, window, None) {
            Ok(listed) => listed,
            Err(unreadable) => return Ok((vec![SentEntry::Unreadable(unreadable)], calls)),
        };
        *gone = 0;
        let (mut entries, mut messages) = (Vec::new(), Vec::new());
        for message in listed {
            match message {
                Ok(message) => messages.push(message),
                Err(found) => entries.push(entry(found, id, None)),
            }
        }
        for messages in messages.chunks(BULK) {
            calls += 1;
            let answer = match self.bulk(id, messages, deadline).await? {
                Ok(answer) => answer,
                Err(problem) => return Ok((vec![SentEntry::Unavailable(problem)], calls)),
            };
            let found = answer.as_deref().and_then(entities).unwrap_or_default();
            for (listed, message) in messages {
                let found = if let Some(details) = found.get(&listed.id) {
                    self.found(*details, listed)
                } else {
                    // Left out of the answer: the call for one says why.
                    calls += 1;
                    self.message(listed, *message, deadline).await?
                };
                let is_of_window = |found: &Found| match found {
                    // Without a time in the list, its own decides.
                    Found::Sent(sent) => listed
                        .time
                        .or(sent.at)
                        .is_none_or(|time| window.holds(time)),
                    _ => true,
                };
                if is_of_window(&found) {
                    entries.push(entry(found, id, Some(listed)));
                }
            }
        }
        Ok((entries, calls))
    }

    /// Fetches messages of a conversation together; `None` where that cannot be done, so that each
    /// is fetched by itself.
    async fn bulk(
        &self,
        conversation: &str,
        messages: &[(Listed, Json<'_>)],
        deadline: Instant,
    ) -> Result<Result<Option<Vec<u8>>, String>, GenesysError> {
        let ids: Vec<_> = messages.iter().map(|(listed, _)| &listed.id).collect();
        let call = Call {
            method: Method::POST,
            path: format!(
                "/api/v2/conversations/messages/{}/messages/bulk",
                segment(conversation)
            ),
            body: Some(json!(ids).to_string()),
            permission: Some("conversation:message:view"),
        };
        Ok(match self.fetch_object(&call, deadline).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(Missing::Gone(problem)) => {
                tracing::warn!(conversation, problem, "fetching each message by itself");
                Ok(None)
            }
            Err(Missing::Unavailable(problem)) => Err(problem),
        })
    }
}

/// The messages of an answer, by their ids; `None` where it has no list of them.
fn entities(answer: &[u8]) -> Option<BTreeMap<String, Json<'_>>> {
    let answer = Json::parse(answer).ok()?.as_object()?;
    let entities = answer.get("entities")?.as_array(MOST_MESSAGES)?;
    let id = |entity: &Json<'_>| entity.as_object()?.text("id");
    let named = entities
        .into_iter()
        .filter_map(|entity| Some((id(&entity)?, entity)));
    Some(named.collect())
}

fn entry(found: Found, conversation: &str, listed: Option<&Listed>) -> SentEntry {
    match found {
        Found::Sent(payload) => SentEntry::Sent(Box::new(SentMessage {
            message_id: payload.delivery.clone(),
            conversation_id: conversation.to_owned(),
            status: listed.and_then(|listed| listed.status.clone()),
            payload,
        })),
        Found::Inbound(_) => SentEntry::Inbound,
        Found::OfOther(..) => SentEntry::OfOtherIntegration,
        Found::Unreadable(unreadable) => SentEntry::Unreadable(unreadable),
        Found::Unavailable(problem) => SentEntry::Unavailable(problem),
    }
}
