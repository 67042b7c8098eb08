//! The search for conversations, in the shapes of the public API.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer::{Page, Refusal},
    conversations::{Conversations, Direction, Message},
    format::iso,
};

/// As much of a `ConversationQuery` as is implemented here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Query {
    interval: String,
    #[serde(default)]
    segment_filters: Vec<Filter>,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    order_by: OrderBy,
    #[serde(default)]
    paging: Paging,
}

#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Order {
    #[default]
    Asc,
    Desc,
    Unordered,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OrderBy {
    #[default]
    ConversationStart,
    ConversationEnd,
    SegmentStart,
    SegmentEnd,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Paging {
    page_size: Option<usize>,
    page_number: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    r#type: Junction,
    #[serde(default)]
    clauses: Vec<Clause>,
    #[serde(default)]
    predicates: Vec<Predicate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    r#type: Junction,
    #[serde(default)]
    predicates: Vec<Predicate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Junction {
    And,
    Or,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Predicate {
    #[serde(default, rename = "type")]
    _type: PredicateType,
    dimension: Dimension,
    #[serde(default, rename = "operator")]
    _operator: Operator,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum PredicateType {
    #[default]
    Dimension,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Operator {
    #[default]
    Matches,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Dimension {
    MediaType,
    MessageType,
    Direction,
}

impl Filter {
    fn holds(&self, session: Direction) -> bool {
        let clauses = self
            .clauses
            .iter()
            .map(|clause| clause.r#type.holds(&clause.predicates, session));
        let predicates = self
            .predicates
            .iter()
            .map(|predicate| predicate.holds(session));
        self.r#type.joins(clauses.chain(predicates))
    }
}

impl Junction {
    fn holds(&self, predicates: &[Predicate], session: Direction) -> bool {
        self.joins(predicates.iter().map(|predicate| predicate.holds(session)))
    }

    fn joins(&self, mut all: impl Iterator<Item = bool>) -> bool {
        match self {
            Self::And => all.all(|holds| holds),
            Self::Or => all.any(|holds| holds),
        }
    }
}

impl Predicate {
    fn holds(&self, session: Direction) -> bool {
        let actual = match self.dimension {
            Dimension::MediaType => "message",
            Dimension::MessageType => "open",
            Dimension::Direction => session.name(),
        };
        self.value == actual
    }
}

/// A conversation as this search sees it.
struct Found<'a> {
    id: &'a str,
    start: Timestamp,
    end: Timestamp,
    messages: Vec<&'a Message>,
}

impl<'a> Found<'a> {
    fn new(id: &'a str, messages: Vec<&'a Message>) -> Option<Self> {
        let times = || messages.iter().map(|message| message.time);
        Some(Self {
            id,
            start: times().min()?,
            end: times().max()?,
            messages,
        })
    }

    /// Active in the interval, and begun on a day that it touches: so the SDK describes the field.
    fn is_in(&self, start: Timestamp, end: Timestamp) -> bool {
        let active = self
            .messages
            .iter()
            .any(|message| start <= message.time && message.time < end);
        active && day(start) <= day(self.start)
    }

    fn sessions(&self) -> impl Iterator<Item = Direction> {
        Direction::BOTH.into_iter().filter(|side| {
            self.messages
                .iter()
                .any(|message| message.direction == *side)
        })
    }

    /// An `AnalyticsConversationWithoutAttributes`.
    fn to_json(&self) -> Value {
        let segment = json!({
            "segmentStart": iso(self.start), "segmentEnd": iso(self.end), "segmentType": "interact", "conference": false,
        });
        let participant = |direction: Direction| {
            let id = format!("{}-{}", self.id, direction.purpose());
            let session = json!({
                "sessionId": format!("{id}-session"), "mediaType": "message", "messageType": "open",
                "direction": direction.name(), "segments": [segment],
            });
            json!({ "participantId": id, "purpose": direction.purpose(), "sessions": [session] })
        };
        json!({
            "conversationId": self.id,
            "conversationStart": iso(self.start),
            "participants": self.sessions().map(participant).collect::<Vec<_>>(),
        })
    }
}

/// An `AnalyticsConversationQueryResponse`.
pub(super) fn answer(conversations: &Conversations, body: &Value) -> Result<Value, Refusal> {
    let query =
        Query::deserialize(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let (start, end) = interval(&query.interval).ok_or_else(|| {
        Refusal::bad_request(format!("not an interval of ISO 8601: {}", query.interval))
    })?;
    let page = Page::new(query.paging.page_size, query.paging.page_number)?;

    let all = conversations
        .by_id()
        .into_iter()
        .filter_map(|(id, messages)| Found::new(id, messages));
    let mut found: Vec<_> = all
        .filter(|conversation| conversation.is_in(start, end))
        .filter(|conversation| {
            conversation.sessions().any(|session| {
                query
                    .segment_filters
                    .iter()
                    .all(|filter| filter.holds(session))
            })
        })
        .collect();
    if query.order != Order::Unordered {
        found.sort_by_key(|conversation| match query.order_by {
            OrderBy::ConversationStart | OrderBy::SegmentStart => conversation.start,
            OrderBy::ConversationEnd | OrderBy::SegmentEnd => conversation.end,
        });
    }
    if query.order == Order::Desc {
        found.reverse();
    }
    let mut answer = json!({ "totalHits": found.len() });
    let entries: Vec<_> = page.of(&found).into_iter().map(Found::to_json).collect();
    // An empty list is not there at all.
    if !entries.is_empty() {
        answer["conversations"] = entries.into();
    }
    Ok(answer)
}

fn interval(text: &str) -> Option<(Timestamp, Timestamp)> {
    let (start, end) = text.split_once('/')?;
    let (start, end) = (instant(start)?, instant(end)?);
    (start < end).then_some((start, end))
}

/// Without an offset it is UTC.
fn instant(text: &str) -> Option<Timestamp> {
    let utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    text.parse().ok().or_else(|| Some(utc()?.timestamp()))
}

fn day(time: Timestamp) -> i64 {
    time.as_second().div_euclid(24 * 60 * 60)
}
