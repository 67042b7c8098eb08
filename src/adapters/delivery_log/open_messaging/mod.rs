//! Messages that Open Messaging integrations failed to send, by the documented calls of the
//! Platform API: conversations by a query of analytics, the status of their messages, and the
//! message itself, from which the webhook's payload is made again.
//!
//! No document says which status a message gets when its webhook was given up, so which ones count
//! is configuration. Receipts and typing events have no status of their own and cannot be found
//! this way.

mod sent;
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
    /// Conversations that could not be read, and are tried again at the end of the list.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    postponed: VecDeque<String>,
    /// Number of times that the end of the list was reached.
    #[serde(default)]
    rounds: u32,
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
        place: Place,
        deadline: Instant,
    ) -> Result<Part<Place>, DeliveryLogError> {
        let of = format!(
            "{:?} {:?} {}",
            self.integration_ids, self.statuses, self.look_back
        );
        let mut place = place.of(of);
        let entries = match self.advance(window, &mut place, deadline).await? {
            Step::Conversation(conversation) => {
                self.conversation(&conversation, window, deadline, &mut place.gone)
                    .await?
            }
            Step::Page(unreadable) => unreadable.into_iter().map(Entry::Unreadable).collect(),
            Step::Again => Vec::new(),
        };
        Ok(Part {
            entries,
            next: place.unless_over(),
        })
    }

    async fn fetch(&self, id: &str, deadline: Instant) -> Result<Entry, DeliveryLogError> {
        let listed = Listed {
            id: id.to_owned(),
            status: None,
            time: None,
        };
        let whole = json!({ "messageId": id }).to_string();
        // It is made of a text that was JSON a moment ago.
        let whole = Json::parse(whole.as_bytes()).map_err(|error| GenesysError::Unusable {
            what: format!("the message {id}"),
            problem: error.to_string(),
        })?;
        Ok(self.message(&listed, whole, deadline).await?.into())
    }
}

/// A step through the list of conversations.
enum Step {
    /// The next conversation is to be read.
    Conversation(String),
    /// A page was read, which has these unreadable conversations.
    Page(Vec<Unreadable>),
    /// The list became shorter, and is read again.
    Again,
}

impl Place {
    /// The place, or the beginning where it is one of another configuration.
    fn of(self, of: String) -> Self {
        if self.of == of {
            return self;
        }
        Self {
            of,
            ..Self::default()
        }
    }

    /// The place, unless everything was read.
    fn unless_over(mut self) -> Option<Self> {
        let is_over = self.conversations.is_empty()
            && self.page > 0
            && self.total <= u64::from(PAGE_SIZE).saturating_mul(self.page);
        if is_over && !self.postponed.is_empty() {
            self.conversations = std::mem::take(&mut self.postponed);
            self.rounds += 1;
            return Some(self);
        }
        (!is_over).then_some(self)
    }
}

/// One page of the query.
struct Conversations {
    ids: VecDeque<String>,
    unreadable: Vec<Unreadable>,
    total: u64,
}

/// A message as its conversation lists it.
struct Listed {
    id: String,
    status: Option<String>,
    time: Option<Timestamp>,
}

/// A message as Genesys Cloud has it.
enum Found {
    /// A message to the webhook.
    Sent(Failed),
    /// A message from the customer.
    Inbound(String),
    /// A message of another integration, and its name.
    OfOther(String, String),
    /// Deleted, or not understood.
    Unreadable(Unreadable),
    /// Unavailable for now, and why.
    Unavailable(String),
}

impl From<Found> for Entry {
    fn from(found: Found) -> Self {
        match found {
            Found::Sent(failed) => Self::Failed(failed),
            Found::Inbound(id) => Self::Skipped(format!("the message {id} is inbound")),
            Found::OfOther(id, integration) => Self::Skipped(format!(
                "the message {id} is of the integration {integration}"
            )),
            Found::Unreadable(unreadable) => Self::Unreadable(unreadable),
            Found::Unavailable(problem) => Self::Unavailable(problem),
        }
    }
}

/// A missing object.
enum Missing {
    /// Deleted or unreadable for good.
    Gone(String),
    /// Unavailable for now.
    Unavailable(String),
}

impl<A: PlatformApi> OpenMessaging<A> {
    /// Takes the next conversation, or reads the page behind the last one.
    async fn advance(
        &self,
        window: Window,
        place: &mut Place,
        deadline: Instant,
    ) -> Result<Step, GenesysError> {
        if let Some(conversation) = place.conversations.pop_front() {
            return Ok(Step::Conversation(conversation));
        }
        let page = place.page.saturating_add(1);
        let found = self.conversations(window, page, deadline).await?;
        if found.total < place.total {
            let problem = format!(
                "of {} conversations that it listed, {} are left",
                place.total, found.total
            );
            if place.is_second {
                let what = "POST /api/v2/analytics/conversations/details/query".to_owned();
                return Err(GenesysError::Unusable { what, problem });
            }
            tracing::warn!(problem, "pages have shifted; reading the list again");
            *place = Place {
                of: std::mem::take(&mut place.of),
                gone: place.gone,
                is_second: true,
                ..Place::default()
            };
            return Ok(Step::Again);
        }
        (place.page, place.total, place.conversations) = (page, found.total, found.ids);
        Ok(Step::Page(found.unreadable))
    }

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
        let answer = match self.fetch_conversation(id, deadline, gone).await? {
            Ok(answer) => answer,
            Err(found) => return Ok(vec![found.into()]),
        };
        let listed = match listed_in(&answer, id, window, Some(&self.statuses)) {
            Ok(listed) => listed,
            Err(unreadable) => return Ok(vec![Entry::Unreadable(unreadable)]),
        };
        *gone = 0;
        let mut entries = Vec::new();
        for message in listed {
            entries.push(match message {
                Ok((listed, message)) => self.message(&listed, message, deadline).await?.into(),
                Err(found) => found.into(),
            });
        }
        Ok(entries)
    }

    /// Fetches a conversation. Counts how many are `gone` in a row.
    async fn fetch_conversation(
        &self,
        id: &str,
        deadline: Instant,
        gone: &mut u32,
    ) -> Result<Result<Vec<u8>, Found>, GenesysError> {
        let call = Call {
            method: Method::GET,
            path: format!("/api/v2/conversations/messages/{}", segment(id)),
            body: None,
            permission: None,
        };
        match self.fetch_object(&call, deadline).await? {
            Ok(answer) => Ok(Ok(answer)),
            Err(Missing::Unavailable(problem)) => Ok(Err(Found::Unavailable(problem))),
            Err(Missing::Gone(problem)) => {
                *gone = gone.saturating_add(1);
                if *gone < TOO_MANY_GONE {
                    let whole = json!({ "conversationId": id }).to_string();
                    return Ok(Err(Found::Unreadable(unreadable_conversation(
                        id, whole, problem,
                    ))));
                }
                let problem = format!(
                    "{gone} conversations in a row are missing, the last because {problem}"
                );
                Err(GenesysError::Unusable {
                    what: "GET /api/v2/conversations/messages".to_owned(),
                    problem,
                })
            }
        }
    }

    /// Makes the payload of a message again.
    async fn message(
        &self,
        listed: &Listed,
        message: Json<'_>,
        deadline: Instant,
    ) -> Result<Found, GenesysError> {
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
        let unreadable = |json, problem: &str| {
            Found::Unreadable(not_understood(
                format!("message {}", listed.id),
                json,
                problem,
            ))
        };
        let answer = match self.fetch_object(&call, deadline).await? {
            Ok(answer) => answer,
            Err(Missing::Unavailable(problem)) => return Ok(Found::Unavailable(problem)),
            Err(Missing::Gone(problem)) => return Ok(unreadable(message, &problem)),
        };
        match Json::parse(&answer) {
            Ok(details) => Ok(self.found(details, listed)),
            Err(error) => Ok(unreadable(message, &error.to_string())),
        }
    }

    /// Fetches one object. A missing one is no error: it must not hold up all others.
    async fn fetch_object(
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

    fn found(&self, details: Json<'_>, listed: &Listed) -> Found {
        let problem = |problem| {
            Found::Unreadable(not_understood(
                format!("message {}", listed.id),
                details,
                problem,
            ))
        };
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
            return Found::Inbound(listed.id.clone());
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
            return Found::OfOther(listed.id.clone(), integration);
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
        Found::Sent(Failed {
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
            note: listed.status.as_ref().map_or_else(
                || "fetched by its id".to_owned(),
                |status| format!("message status {status}"),
            ),
        })
    }
}

/// The messages of a conversation, or what is wrong with one.
type Listing<'a> = Vec<Result<(Listed, Json<'a>), Found>>;

/// The messages of a conversation that belong to the window and have one of the statuses, each once,
/// in their order; or what is wrong with the conversation.
fn listed_in<'a>(
    conversation: &'a [u8],
    id: &str,
    window: Window,
    statuses: Option<&BTreeSet<String>>,
) -> Result<Listing<'a>, Unreadable> {
    let Some(messages) = messages(conversation) else {
        let whole = String::from_utf8_lossy(conversation).into_owned();
        let problem = "the conversation has no list of participants, or too many messages";
        return Err(unreadable_conversation(id, whole, problem.to_owned()));
    };
    let (mut found, mut seen, mut strange) = (Vec::new(), BTreeSet::new(), 0_usize);
    for message in messages {
        match listed(message, window, statuses) {
            // Several participants can list the same message.
            Ok(Some(listed)) if seen.insert(listed.id.clone()) => found.push(Ok((listed, message))),
            Ok(_) => {}
            Err(problem) => {
                strange += 1;
                if strange <= MOST_NOT_UNDERSTOOD {
                    let name = String::from_utf8_lossy(&message.canonical()).into_owned();
                    found.push(Err(Found::Unreadable(not_understood(
                        name, message, problem,
                    ))));
                }
            }
        }
    }
    if strange > MOST_NOT_UNDERSTOOD {
        let problem =
            format!("the conversation {id} has {strange} messages that are not understood");
        found.push(Err(Found::Unavailable(problem)));
    }
    Ok(found)
}

/// A message that belongs to the window and has one of the statuses, or what is wrong with it.
fn listed(
    message: Json<'_>,
    window: Window,
    statuses: Option<&BTreeSet<String>>,
) -> Result<Option<Listed>, &'static str> {
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
    let status = fields.text("messageStatus");
    let is_wanted = |wanted: &BTreeSet<String>| {
        status
            .as_ref()
            .is_some_and(|status| wanted.contains(status))
    };
    if !statuses.is_none_or(is_wanted) {
        return Ok(None);
    }
    let id = fields
        .text("messageId")
        .ok_or("the message has no messageId")?;
    Ok(Some(Listed { id, status, time }))
}

fn unreadable_conversation(id: &str, whole: String, problem: String) -> Unreadable {
    Unreadable {
        name: format!("conversation {id}"),
        whole,
        problem,
        webhook_id: None,
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

fn not_understood(name: String, json: Json<'_>, problem: &str) -> Unreadable {
    Unreadable {
        name,
        whole: json.as_text().to_owned(),
        problem: problem.to_owned(),
        webhook_id: None,
    }
}
