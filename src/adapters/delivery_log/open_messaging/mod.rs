//! Messages that Open Messaging integrations failed to send, by the documented calls of the
//! Platform API: conversations by a query of analytics, the status of their messages, and the
//! message itself, from which the webhook's payload is made again.
//!
//! No document says which status a message gets when its webhook was given up, so which ones count
//! is configuration. Receipts and typing events have no status of their own and cannot be found
//! this way.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::segment::segment;
use crate::adapters::genesys::{Call, GenesysError, PlatformApi};
use crate::domain::json::{Json, Object};
use crate::ports::delivery_log::{
    DeliveryLog, DeliveryLogError, Entry, Failed, Part, Unreadable, Window,
};
use crate::runtime::logging::display_chain;

/// `PagingSpec`: at most 100 conversations in a page.
const PAGE_SIZE: u32 = 100;

/// A day: each window costs a look at every conversation that is open. With the longest look-back
/// that is the 31 days that a query can span.
const LONGEST_SPAN: u32 = 24 * 3600;

/// A conversation with more messages becomes one dead letter as a whole: memory and time are
/// limited.
const MOST_MESSAGES: usize = 10_000;

/// Number of unreadable messages of a conversation that become dead letters. More of them point to
/// a changed format, and would take all the time of a run.
const MOST_NOT_UNDERSTOOD: usize = 100;

/// This many missing conversations in a row point to a changed API.
const TOO_MANY_GONE: u32 = 10;

/// Messages of these integrations that have one of these statuses.
pub struct OpenMessaging<A> {
    pub api: A,
    /// The integrations whose webhook points here.
    pub integration_ids: BTreeSet<String>,
    /// Values of `messageStatus` of a message whose webhook Genesys Cloud gave up.
    pub statuses: BTreeSet<String>,
    /// Time before a window in which a conversation may have begun. The query finds conversations
    /// by their beginning (`ConversationQuery.interval`).
    pub look_back: SignedDuration,
}

/// A page of the query, and its conversations that are still to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The configuration, so that a run never continues in the list of another one.
    of: String,
    page: u64,
    /// Number of conversations at that page.
    total: u64,
    conversations: VecDeque<String>,
    /// Number of missing conversations in a row.
    gone: u32,
    /// True if the list became shorter while it was read, and is read once more.
    #[serde(rename = "is_anew")]
    is_second: bool,
}

impl<A: PlatformApi> DeliveryLog for OpenMessaging<A> {
    type Place = Place;

    fn name(&self) -> &'static str {
        "open-messaging"
    }

    fn longest_span(&self) -> u32 {
        LONGEST_SPAN
    }

    /// A shorter window would have as many conversations to look at, since most have begun long
    /// before. They are ordered by their beginning, so that what comes later does not shift the
    /// pages.
    fn resume(&self, place: Place) -> Option<Place> {
        Some(place)
    }

    async fn read(
        &self,
        window: Window,
        mut place: Place,
        deadline: Instant,
    ) -> Result<Part<Place>, DeliveryLogError> {
        let of = format!(
            "{:?} {:?} {}",
            self.integration_ids, self.statuses, self.look_back
        );
        if place.of != of {
            place = Place {
                of,
                ..Place::default()
            };
        }
        let entries = if let Some(conversation) = place.conversations.pop_front() {
            self.conversation(&conversation, window, deadline, &mut place.gone)
                .await?
        } else {
            let found = self
                .conversations(window, place.page.saturating_add(1), deadline)
                .await?;
            if found.total < place.total {
                let problem = format!(
                    "of {} conversations that it listed, {} are left",
                    place.total, found.total
                );
                if place.is_second {
                    let what = "POST /api/v2/analytics/conversations/details/query".to_owned();
                    return Err(GenesysError::Unusable { what, problem }.into());
                }
                tracing::warn!(problem, "pages have shifted; reading the list again");
                let again = Place {
                    of: place.of,
                    gone: place.gone,
                    is_second: true,
                    ..Place::default()
                };
                return Ok(Part {
                    entries: Vec::new(),
                    next: Some(again),
                });
            }
            place = Place {
                page: place.page.saturating_add(1),
                total: found.total,
                conversations: found.ids,
                ..place
            };
            found.unreadable
        };
        let is_over = place.conversations.is_empty()
            && place.total <= u64::from(PAGE_SIZE).saturating_mul(place.page);
        Ok(Part {
            entries,
            next: (!is_over).then_some(place),
        })
    }
}

/// One page of the query.
struct Conversations {
    ids: VecDeque<String>,
    unreadable: Vec<Entry>,
    total: u64,
}

/// A message as its conversation lists it.
struct Listed {
    id: String,
    status: String,
    time: Option<Timestamp>,
}

/// A missing object.
enum Missing {
    /// Deleted or unreadable for good.
    Gone(String),
    /// Unavailable for now.
    Unavailable(String),
}

impl<A: PlatformApi> OpenMessaging<A> {
    async fn conversations(
        &self,
        window: Window,
        page: u64,
        deadline: Instant,
    ) -> Result<Conversations, GenesysError> {
        let call = self.query(window, page);
        let answer = self.api.call(&call, deadline).await?;
        let unusable = |problem: &str| GenesysError::Unusable {
            what: call.to_string(),
            problem: problem.to_owned(),
        };
        let answer = Json::parse(&answer)
            .ok()
            .and_then(|answer| answer.as_object());
        let answer = answer.ok_or_else(|| unusable("it is no object"))?;
        let total = answer.get("totalHits").and_then(|total| total.as_u64());
        let total = total.ok_or_else(|| unusable("it has no totalHits"))?;
        let found = match answer.get("conversations") {
            Some(found) if found.as_text() != "null" => found.as_array(PAGE_SIZE as usize),
            None if answer.has("conversations") => None,
            // Genesys Cloud leaves out what is empty.
            Some(_) | None => Some(Vec::new()),
        };
        let found = found.ok_or_else(|| {
            unusable("its conversations are no list, or more than were asked for")
        })?;
        if found.is_empty() && total > u64::from(PAGE_SIZE).saturating_mul(page - 1) {
            return Err(unusable("it has totalHits and no conversations"));
        }
        let (mut ids, mut unreadable) = (VecDeque::new(), Vec::new());
        for conversation in found {
            let fields = conversation.as_object();
            let text = |name| fields.as_ref()?.get(name)?.as_str();
            let time = |name| text(name).and_then(|time| time.parse::<Timestamp>().ok());
            let was_over = time("conversationEnd").is_some_and(|ended_at| ended_at < window.from);
            let is_yet_to_begin =
                time("conversationStart").is_some_and(|began_at| began_at >= window.to);
            match text("conversationId") {
                Some(_) if was_over || is_yet_to_begin => {}
                Some(id) => ids.push_back(id.into_owned()),
                None => {
                    let name = String::from_utf8_lossy(&conversation.canonical()).into_owned();
                    unreadable.push(not_understood(
                        name,
                        conversation,
                        "the conversation has no conversationId",
                    ));
                }
            }
        }
        Ok(Conversations {
            ids,
            unreadable,
            total,
        })
    }

    fn query(&self, Window { from, to }: Window, page: u64) -> Call {
        let matches = |dimension: &str, value: &str| json!({ "type": "dimension", "dimension": dimension, "operator": "matches", "value": value });
        let predicates = [
            matches("mediaType", "message"),
            matches("messageType", "open"),
        ];
        let body = json!({
            "interval": format!("{:.3}/{to:.3}", from - self.look_back),
            // A conversation that begins meanwhile comes last, so that no page shifts.
            "order": "asc",
            "orderBy": "conversationStart",
            "segmentFilters": [{ "type": "and", "predicates": predicates }],
            "paging": { "pageSize": PAGE_SIZE, "pageNumber": page },
        });
        Call {
            method: Method::POST,
            path: "/api/v2/analytics/conversations/details/query".to_owned(),
            body: Some(body.to_string()),
            permission: Some("analytics:conversationDetail:view"),
        }
    }

    /// The messages of a conversation that were not delivered. Counts how many conversations are
    /// `gone` in a row.
    async fn conversation(
        &self,
        id: &str,
        window: Window,
        deadline: Instant,
        gone: &mut u32,
    ) -> Result<Vec<Entry>, GenesysError> {
        let call = Call {
            method: Method::GET,
            path: format!("/api/v2/conversations/messages/{}", segment(id)),
            body: None,
            permission: None,
        };
        let unreadable = |whole, problem| {
            let name = format!("conversation {id}");
            Entry::Unreadable(Unreadable {
                name,
                whole,
                problem,
                webhook_id: None,
            })
        };
        let answer = match self.fetch(&call, deadline).await? {
            Ok(answer) => answer,
            Err(Missing::Unavailable(problem)) => return Ok(vec![Entry::Unavailable(problem)]),
            Err(Missing::Gone(problem)) => {
                *gone = gone.saturating_add(1);
                if *gone < TOO_MANY_GONE {
                    return Ok(vec![unreadable(
                        json!({ "conversationId": id }).to_string(),
                        problem,
                    )]);
                }
                let problem = format!(
                    "{gone} conversations in a row are missing, the last because {problem}"
                );
                return Err(GenesysError::Unusable {
                    what: "GET /api/v2/conversations/messages".to_owned(),
                    problem,
                });
            }
        };
        let Some(messages) = messages(&answer) else {
            let whole = String::from_utf8_lossy(&answer).into_owned();
            return Ok(vec![unreadable(
                whole,
                "the conversation has no list of participants, or too many messages".to_owned(),
            )]);
        };
        *gone = 0;
        let (mut entries, mut seen, mut strange) = (Vec::new(), BTreeSet::new(), 0_usize);
        for message in messages {
            match self.listed(message, window) {
                // Several participants can list the same message.
                Ok(Some(listed)) if seen.insert(listed.id.clone()) => {
                    entries.push(self.message(&listed, message, deadline).await?);
                }
                Ok(_) => {}
                Err(problem) => {
                    strange += 1;
                    if strange <= MOST_NOT_UNDERSTOOD {
                        let name = String::from_utf8_lossy(&message.canonical()).into_owned();
                        entries.push(not_understood(name, message, problem));
                    }
                }
            }
        }
        if strange > MOST_NOT_UNDERSTOOD {
            let problem =
                format!("the conversation {id} has {strange} messages that are not understood");
            entries.push(Entry::Unavailable(problem));
        }
        Ok(entries)
    }

    /// A message that belongs to the window and was not delivered, or what is wrong with it.
    fn listed(&self, message: Json<'_>, window: Window) -> Result<Option<Listed>, &'static str> {
        let fields = message.as_object().ok_or("the message is no object")?;
        let time = fields
            .text("messageTime")
            .and_then(|time| time.parse().ok());
        if !time.is_none_or(|time| window.holds(time)) {
            return Ok(None);
        }
        if !has_text_or_nothing(&fields, "messageStatus") {
            return Err("the messageStatus is no text");
        }
        let status = fields
            .text("messageStatus")
            .filter(|status| self.statuses.contains(status));
        let Some(status) = status else {
            return Ok(None);
        };
        let id = fields
            .text("messageId")
            .ok_or("the message has no messageId")?;
        Ok(Some(Listed { id, status, time }))
    }

    /// Makes the payload of a message again.
    async fn message(
        &self,
        listed: &Listed,
        message: Json<'_>,
        deadline: Instant,
    ) -> Result<Entry, GenesysError> {
        let call = Call {
            method: Method::GET,
            // The present SDK has no such parameter; older ones need it to get the
            // normalizedMessage.
            path: format!(
                "/api/v2/conversations/messages/{}/details?useNormalizedMessage=true",
                segment(&listed.id)
            ),
            body: None,
            permission: Some("conversation:message:view"),
        };
        let unreadable =
            |json, problem: &str| not_understood(format!("message {}", listed.id), json, problem);
        let answer = match self.fetch(&call, deadline).await? {
            Ok(answer) => answer,
            Err(Missing::Unavailable(problem)) => return Ok(Entry::Unavailable(problem)),
            Err(Missing::Gone(problem)) => return Ok(unreadable(message, &problem)),
        };
        match Json::parse(&answer) {
            Ok(details) => Ok(self.entry(details, listed)),
            Err(error) => Ok(unreadable(message, &error.to_string())),
        }
    }

    /// Fetches one object. A missing one is no error: it must not hold up all others.
    async fn fetch(
        &self,
        call: &Call,
        deadline: Instant,
    ) -> Result<Result<Vec<u8>, Missing>, GenesysError> {
        match self.api.call(call, deadline).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ (GenesysError::NotFound(_) | GenesysError::Unusable { .. })) => {
                Ok(Err(Missing::Gone(display_chain(&error))))
            }
            Err(
                error @ (GenesysError::Forbidden { .. }
                | GenesysError::Refused(_)
                | GenesysError::Unavailable { .. }),
            ) => Ok(Err(Missing::Unavailable(display_chain(&error)))),
            Err(
                error @ (GenesysError::Credentials(_)
                | GenesysError::Secrets(_)
                | GenesysError::OutOfTime { .. }),
            ) => Err(error),
        }
    }

    fn entry(&self, details: Json<'_>, listed: &Listed) -> Entry {
        let problem = |problem| not_understood(format!("message {}", listed.id), details, problem);
        let Some(fields) = details.as_object() else {
            return problem("the message is no object");
        };
        let normalized = fields.get("normalizedMessage");
        let Some(normalized) = normalized.and_then(|message| message.as_object()) else {
            return problem("the message has no normalizedMessage");
        };
        let direction = fields
            .text("direction")
            .or_else(|| normalized.text("direction"));
        if direction.is_some_and(|direction| direction.eq_ignore_ascii_case("inbound")) {
            return Entry::Skipped(format!("the message {} is inbound", listed.id));
        }
        let Some(channel) = normalized
            .get("channel")
            .and_then(|channel| channel.as_object())
        else {
            return problem("the normalizedMessage has no channel");
        };
        let (Some(integration), Some(_), Some(_)) = (
            channel.text("id"),
            normalized.text("id"),
            normalized.text("type"),
        ) else {
            return problem("the normalizedMessage has no id, type or channel.id");
        };
        if !self.integration_ids.contains(&integration) {
            return Entry::Skipped(format!(
                "the message {} is of the integration {integration}",
                listed.id
            ));
        }
        // The webhook names the conversation beside the message.
        let conversation = normalized
            .text("conversationId")
            .or_else(|| fields.text("conversationId"));
        let body = match conversation {
            Some(conversation) => normalized.with(&[("conversationId", conversation.into())]),
            None => Ok(fields
                .get("normalizedMessage")
                .map(|message| message.as_text().to_owned())
                .unwrap_or_default()),
        };
        let Ok(body) = body else {
            return problem("the normalizedMessage cannot be written as a payload");
        };
        Entry::Failed(Failed {
            delivery: listed.id.clone(),
            entry: format!("message {}", listed.id),
            at: channel
                .text("time")
                .and_then(|time| time.parse().ok())
                .or(listed.time),
            body: body.into_bytes(),
            is_copy: true,
            content_type: Some("application/json".to_owned()),
            headers: BTreeMap::new(),
            sender_key: None,
            note: format!("message status {}", listed.status),
        })
    }
}

/// All messages of all participants; `None` where there is no list of participants, or where it is
/// too long.
fn messages(conversation: &[u8]) -> Option<Vec<Json<'_>>> {
    let conversation = Json::parse(conversation).ok()?.as_object()?;
    let mut messages = Vec::new();
    for participant in conversation.get("participants")?.as_array(MOST_MESSAGES)? {
        let participant = participant.as_object()?;
        match participant.get("messages") {
            Some(listed) if listed.as_text() != "null" => {
                messages.extend(listed.as_array(MOST_MESSAGES - messages.len())?);
            }
            None if participant.has("messages") => return None,
            Some(_) | None => {}
        }
    }
    Some(messages)
}

/// True if a field is a text or absent, as documented.
fn has_text_or_nothing(fields: &Object<'_>, name: &str) -> bool {
    match fields.get(name) {
        Some(value) => value.as_str().is_some() || value.as_text() == "null",
        None => !fields.has(name),
    }
}

fn not_understood(name: String, json: Json<'_>, problem: &str) -> Entry {
    let whole = json.as_text().to_owned();
    Entry::Unreadable(Unreadable {
        name,
        whole,
        problem: problem.to_owned(),
        webhook_id: None,
    })
}
