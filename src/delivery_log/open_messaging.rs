//! What Open Messaging integrations failed to send, by the documented calls of the Platform API: conversations by a query
//! of analytics, the status of their messages, and the message itself, from which the webhook's payload is made again.
//!
//! No document says which status a message gets when its webhook was given up, so which ones count is configuration.
//! Receipts and typing events have no status of their own and cannot be found this way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{DeliveryLog, Entry, Failed, Part, Unreadable, Window, segment};
use crate::genesys::{Call, GenesysError, PlatformApi};
use crate::json::Json;
use crate::logging::chain;

/// `PagingSpec`: at most 100 conversations in a page.
const PAGE_SIZE: u64 = 100;

/// A day: each window costs a look at every conversation that is open. With the longest look-back that is the 31 days
/// that a query can span.
const LONGEST_SPAN: u32 = 24 * 3600;

/// So many conversations that cannot be had, one after the other, are no accident: the API is another one.
const TOO_MANY_GONE: u32 = 10;

/// Messages of these integrations that have one of these statuses.
pub struct OpenMessaging<A> {
    /// Where they are read.
    pub api: A,
    /// The integrations whose webhook points here.
    pub integration_ids: BTreeSet<String>,
    /// What a message's `messageStatus` is when its webhook was given up.
    pub statuses: BTreeSet<String>,
    /// How long before a window a conversation may have begun. The query finds conversations by their beginning
    /// (`ConversationQuery.interval`).
    pub look_back: SignedDuration,
}

/// A page of the query, and its conversations that are still to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What is being read, so that nobody goes on in the list of another configuration.
    of: String,
    page: u64,
    /// How many conversations there were at that page.
    total: u64,
    conversations: VecDeque<String>,
    /// How many conversations could not be had, one after the other.
    gone: u32,
    /// Whether the list has become shorter while it was read, and is read anew for that.
    is_anew: bool,
}

impl<A: PlatformApi> DeliveryLog for OpenMessaging<A> {
    type Place = Place;

    fn name(&self) -> &'static str {
        "open-messaging"
    }

    fn longest_span(&self) -> u32 {
        LONGEST_SPAN
    }

    /// A shorter window would have as many conversations to look at, since most have begun long before. They are ordered
    /// by their beginning, so that what comes later does not shift the pages.
    fn resume(&self, place: Place) -> Option<Place> {
        Some(place)
    }

    async fn read(&self, window: Window, mut place: Place, deadline: Instant) -> Result<Part<Place>, GenesysError> {
        let of = format!("{:?} {:?} {}", self.integration_ids, self.statuses, self.look_back);
        if place.of != of {
            place = Place { of, ..Place::default() };
        }
        let entries = if let Some(conversation) = place.conversations.pop_front() {
            self.conversation(&conversation, window, deadline, &mut place.gone).await?
        } else {
            let found = self.conversations(window, place.page + 1, deadline).await?;
            if found.total < place.total {
                let problem = format!("of {} conversations that it listed, {} are left", place.total, found.total);
                if place.is_anew {
                    let what = "POST /api/v2/analytics/conversations/details/query".to_owned();
                    return Err(GenesysError::Unusable { what, problem });
                }
                tracing::warn!(problem, "pages have shifted, and are read anew");
                let anew = Place { of: place.of, gone: place.gone, is_anew: true, ..Place::default() };
                return Ok(Part { entries: Vec::new(), next: Some(anew) });
            }
            place = Place { page: place.page + 1, total: found.total, conversations: found.ids, ..place };
            found.unreadable
        };
        let is_over = place.conversations.is_empty() && place.total <= PAGE_SIZE * place.page;
        Ok(Part { entries, next: (!is_over).then_some(place) })
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

/// What cannot be had.
enum Missing {
    /// It is there no more, or is nothing that can be read, however often it is asked for.
    Gone(String),
    /// It may be had later.
    Withheld(String),
}

impl<A: PlatformApi> OpenMessaging<A> {
    async fn conversations(&self, window: Window, page: u64, deadline: Instant) -> Result<Conversations, GenesysError> {
        let call = self.query(window, page);
        let answer = self.api.call(&call, deadline).await?;
        let unusable = |problem: &str| GenesysError::Unusable { what: call.to_string(), problem: problem.to_owned() };
        let answer = Json::parse(&answer).ok().and_then(|answer| answer.as_object());
        let answer = answer.ok_or_else(|| unusable("it is no object"))?;
        let total = answer.get("totalHits").and_then(|total| total.as_u64());
        let total = total.ok_or_else(|| unusable("it has no totalHits"))?;
        // Genesys Cloud leaves out what is empty.
        let found = answer.get("conversations").and_then(|found| found.as_array()).unwrap_or_default();
        if found.is_empty() && total > PAGE_SIZE * (page - 1) {
            return Err(unusable("it has totalHits and no conversations"));
        }
        let (mut ids, mut unreadable) = (VecDeque::new(), Vec::new());
        for conversation in found {
            let fields = conversation.as_object();
            let text = |name| fields.as_ref()?.get(name)?.as_str();
            let time = |name| text(name).and_then(|time| time.parse::<Timestamp>().ok());
            let was_over = time("conversationEnd").is_some_and(|ended_at| ended_at < window.from);
            let is_yet_to_begin = time("conversationStart").is_some_and(|began_at| began_at >= window.to);
            match text("conversationId") {
                Some(_) if was_over || is_yet_to_begin => {}
                Some(id) => ids.push_back(id.into_owned()),
                None => {
                    let name = String::from_utf8_lossy(&conversation.canonical()).into_owned();
                    unreadable.push(not_understood(name, conversation, "the conversation has no conversationId"));
                }
            }
        }
        Ok(Conversations { ids, unreadable, total })
    }

    fn query(&self, Window { from, to }: Window, page: u64) -> Call {
        let matches = |dimension: &str, value: &str| json!({ "type": "dimension", "dimension": dimension, "operator": "matches", "value": value });
        let predicates = [matches("mediaType", "message"), matches("messageType", "open")];
        let body = json!({
            "interval": format!("{:.3}/{to:.3}", from - self.look_back),
            // So that what begins meanwhile comes last, and no page shifts.
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

    /// The messages of a conversation that were not delivered. Counts how many conversations are `gone` in a row.
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
            Entry::Unreadable(Unreadable { name, whole, problem, origin: None })
        };
        let answer = match self.fetch(&call, deadline).await? {
            Ok(answer) => answer,
            Err(Missing::Withheld(problem)) => return Ok(vec![Entry::Withheld(problem)]),
            Err(Missing::Gone(problem)) => {
                *gone += 1;
                if *gone < TOO_MANY_GONE {
                    return Ok(vec![unreadable(json!({ "conversationId": id }).to_string(), problem)]);
                }
                let problem = format!("{gone} conversations in a row cannot be had, the last since {problem}");
                return Err(GenesysError::Unusable { what: "GET /api/v2/conversations/messages".to_owned(), problem });
            }
        };
        let Some(messages) = messages(&answer) else {
            let whole = String::from_utf8_lossy(&answer).into_owned();
            return Ok(vec![unreadable(whole, "the conversation has no list of participants".to_owned())]);
        };
        *gone = 0;
        let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
        for message in messages {
            let fields = message.as_object();
            let text = |name| fields.as_ref()?.text(name);
            let status = text("messageStatus").filter(|status| self.statuses.contains(status));
            let time = text("messageTime").and_then(|time| time.parse().ok());
            let Some(status) = status.filter(|_| time.is_none_or(|time| window.holds(time))) else { continue };
            let Some(id) = text("messageId") else {
                let name = String::from_utf8_lossy(&message.canonical()).into_owned();
                entries.push(not_understood(name, message, "the message has no messageId"));
                continue;
            };
            // Several participants can list the same message.
            if seen.insert(id.clone()) {
                entries.push(self.message(&Listed { id, status, time }, message, deadline).await?);
            }
        }
        Ok(entries)
    }

    /// Makes the payload of a message again.
    async fn message(&self, listed: &Listed, message: Json<'_>, deadline: Instant) -> Result<Entry, GenesysError> {
        let call = Call {
            method: Method::GET,
            // The present SDK has no such parameter; older ones need it to get the normalizedMessage.
            path: format!("/api/v2/conversations/messages/{}/details?useNormalizedMessage=true", segment(&listed.id)),
            body: None,
            permission: Some("conversation:message:view"),
        };
        let unreadable = |json, problem: &str| not_understood(format!("message {}", listed.id), json, problem);
        let answer = match self.fetch(&call, deadline).await? {
            Ok(answer) => answer,
            Err(Missing::Withheld(problem)) => return Ok(Entry::Withheld(problem)),
            Err(Missing::Gone(problem)) => return Ok(unreadable(message, &problem)),
        };
        match Json::parse(&answer) {
            Ok(details) => Ok(self.entry(details, listed)),
            Err(error) => Ok(unreadable(message, &error.to_string())),
        }
    }

    /// Fetches one thing. That this one cannot be had is no error: it must not hold up all others.
    async fn fetch(&self, call: &Call, deadline: Instant) -> Result<Result<Vec<u8>, Missing>, GenesysError> {
        match self.api.call(call, deadline).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ (GenesysError::NotFound(_) | GenesysError::Unusable { .. })) => {
                Ok(Err(Missing::Gone(chain(&error))))
            }
            Err(
                error @ (GenesysError::Forbidden { .. } | GenesysError::Refused(_) | GenesysError::Unavailable { .. }),
            ) => Ok(Err(Missing::Withheld(chain(&error)))),
            Err(error @ (GenesysError::Credentials(_) | GenesysError::Secrets(_) | GenesysError::OutOfTime { .. })) => {
                Err(error)
            }
        }
    }

    fn entry(&self, details: Json<'_>, listed: &Listed) -> Entry {
        let problem = |problem| not_understood(format!("message {}", listed.id), details, problem);
        let Some(fields) = details.as_object() else { return problem("the message is no object") };
        let normalized = fields.get("normalizedMessage");
        let Some(normalized) = normalized.and_then(|message| message.as_object()) else {
            return problem("the message has no normalizedMessage");
        };
        let direction = fields.text("direction").or_else(|| normalized.text("direction"));
        if direction.is_some_and(|direction| direction.eq_ignore_ascii_case("inbound")) {
            return Entry::PassedOver(format!("the message {} is inbound", listed.id));
        }
        let Some(channel) = normalized.get("channel").and_then(|channel| channel.as_object()) else {
            return problem("the normalizedMessage has no channel");
        };
        let (Some(integration), Some(_), Some(_)) =
            (channel.text("id"), normalized.text("id"), normalized.text("type"))
        else {
            return problem("the normalizedMessage has no id, type or channel.id");
        };
        if !self.integration_ids.contains(&integration) {
            return Entry::PassedOver(format!("the message {} is of the integration {integration}", listed.id));
        }
        // The webhook names the conversation beside the message.
        let conversation = normalized.text("conversationId").or_else(|| fields.text("conversationId"));
        let body = match conversation {
            Some(conversation) => normalized.with(&[("conversationId", conversation.into())]),
            None => Ok(fields.get("normalizedMessage").map(|message| message.as_text().to_owned()).unwrap_or_default()),
        };
        let Ok(body) = body else { return problem("the normalizedMessage cannot be written as a payload") };
        Entry::Failed(Failed {
            delivery: listed.id.clone(),
            at: channel.text("time").and_then(|time| time.parse().ok()).or(listed.time),
            body: body.into_bytes(),
            content_type: Some("application/json".to_owned()),
            headers: BTreeMap::new(),
            sender_key: Some(listed.id.clone()),
            note: format!("message status {}", listed.status),
        })
    }
}

/// All messages of all participants; `None` where there is no list of participants.
fn messages(conversation: &[u8]) -> Option<Vec<Json<'_>>> {
    #[derive(Deserialize)]
    struct Conversation<'a> {
        #[serde(borrow)]
        participants: Vec<Participant<'a>>,
    }

    #[derive(Deserialize)]
    struct Participant<'a> {
        #[serde(borrow, default)]
        messages: Option<Vec<&'a RawValue>>,
    }

    let conversation: Conversation<'_> = serde_json::from_slice(conversation).ok()?;
    let messages = conversation.participants.into_iter().filter_map(|participant| participant.messages).flatten();
    Some(messages.map(Json::from).collect())
}

fn not_understood(name: String, json: Json<'_>, problem: &str) -> Entry {
    let whole = json.as_text().to_owned();
    Entry::Unreadable(Unreadable { name, whole, problem: problem.to_owned(), origin: None })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use serde_json::Value;

    use super::*;
    use crate::event::Identity;

    /// An API that answers by path, and remembers the bodies of its queries.
    struct Api {
        answers: HashMap<String, Value>,
        queries: Mutex<Vec<Value>>,
    }

    impl PlatformApi for Api {
        async fn call(&self, call: &Call, _deadline: Instant) -> Result<Vec<u8>, GenesysError> {
            let mut key = call.path.clone();
            if let Some(body) = &call.body {
                let body: Value = serde_json::from_str(body).expect("JSON");
                key = format!("{key} {}", body["paging"]["pageNumber"]);
                self.queries.lock().expect("not poisoned").push(body);
            }
            if key.contains("gone") {
                return Err(GenesysError::Unusable { what: key, problem: "it is too large".to_owned() });
            }
            if key.contains("withheld") {
                let last = crate::genesys::Trouble::Http(crate::genesys::HttpError::TimedOut);
                return Err(GenesysError::Unavailable { what: key, tries: 5, last });
            }
            let answer = self.answers.get(&key).unwrap_or_else(|| panic!("nobody was to ask for {key}"));
            Ok(answer.to_string().into_bytes())
        }
    }

    const QUERY: &str = "/api/v2/analytics/conversations/details/query";
    const NOON: &str = "2026-01-15T12:00:00.000Z";

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn log(answers: impl IntoIterator<Item = (String, Value)>) -> OpenMessaging<Api> {
        OpenMessaging {
            api: Api { answers: answers.into_iter().collect(), queries: Mutex::default() },
            integration_ids: ["i1".to_owned()].into(),
            statuses: ["failed".to_owned()].into(),
            look_back: SignedDuration::from_hours(24),
        }
    }

    async fn read_all(log: &OpenMessaging<Api>) -> Result<Vec<Entry>, GenesysError> {
        let window = Window { from: time(NOON), to: time("2026-01-15T13:00:00Z") };
        let (mut place, mut entries) = (Place::default(), Vec::new());
        loop {
            let part = log.read(window, place, Instant::now()).await?;
            entries.extend(part.entries);
            match part.next {
                Some(next) => place = next,
                None => return Ok(entries),
            }
        }
    }

    fn page(number: u64, ids: &[&str], total: u64) -> (String, Value) {
        let conversations: Vec<_> = ids.iter().map(|id| json!({ "conversationId": id })).collect();
        (format!("{QUERY} {number}"), json!({ "conversations": conversations, "totalHits": total }))
    }

    fn conversation(id: &str, messages: &[Value]) -> (String, Value) {
        let participants = json!([{ "purpose": "customer" }, { "purpose": "agent", "messages": messages }]);
        (format!("/api/v2/conversations/messages/{id}"), json!({ "id": id, "participants": participants }))
    }

    fn listed(id: &str, status: &str, time: &str) -> Value {
        json!({ "messageId": id, "messageStatus": status, "messageTime": time })
    }

    fn normalized(id: &str, integration: &str) -> Value {
        json!({
            "id": id, "type": "Text", "text": "Grüße 😀", "direction": "Outbound", "originatingEntity": "Human",
            "channel": { "id": integration, "platform": "Open", "type": "Private", "time": NOON, "to": { "id": "customer" } },
        })
    }

    fn details(id: &str, normalized: &Value) -> (String, Value) {
        let path = format!("/api/v2/conversations/messages/{id}/details?useNormalizedMessage=true");
        let details = json!({ "id": id, "direction": "outbound", "status": "failed", "conversationId": "c1", "normalizedMessage": normalized });
        (path, details)
    }

    #[tokio::test]
    async fn a_payload_is_made_again_with_the_id_of_the_webhook() {
        let answers = [
            page(1, &["c1"], 1),
            conversation("c1", &[listed("m1", "failed", NOON), listed("m2", "sent", NOON)]),
            details("m1", &normalized("m1", "i1")),
        ];
        let entries = read_all(&log(answers)).await.expect("read");
        let [Entry::Failed(failed)] = &entries[..] else { panic!("{entries:?}") };
        let mut webhook = normalized("m1", "i1");
        webhook["conversationId"] = json!("c1");
        assert_eq!(serde_json::from_slice::<Value>(&failed.body).expect("JSON"), webhook);
        let id = |body: &[u8]| Identity::of(Json::parse(body).expect("JSON"), time(NOON), None).id;
        assert_eq!(id(&failed.body), id(webhook.to_string().as_bytes()));
        assert_eq!((failed.at, failed.note.as_str()), (Some(time(NOON)), "message status failed"));
    }

    #[tokio::test]
    async fn every_page_is_asked_for_and_conversations_that_began_before() {
        let ids: Vec<String> = (0..101).map(|number| format!("c{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let conversations = ids.iter().map(|id| conversation(id, &[]));
        let log = log([page(1, &ids[..100], 101), page(2, &ids[100..], 101)].into_iter().chain(conversations));
        assert_eq!(read_all(&log).await.expect("read"), []);
        let queries = log.api.queries.lock().expect("not poisoned");
        assert_eq!(queries.len(), 2);
        assert_eq!(queries[0]["interval"], "2026-01-14T12:00:00.000Z/2026-01-15T13:00:00.000Z");
    }

    #[tokio::test]
    async fn only_messages_of_the_window_are_looked_at() {
        let messages = [
            listed("before", "failed", "2026-01-15T11:59:59.999Z"),
            listed("first", "failed", NOON),
            listed("last", "failed", "2026-01-15T12:59:59.999Z"),
            listed("after", "failed", "2026-01-15T13:00:00.000Z"),
            json!({ "messageId": "without-a-time", "messageStatus": "failed" }),
        ];
        let mut answers = vec![page(1, &["c1"], 1), conversation("c1", &messages)];
        answers.extend(["first", "last", "without-a-time"].map(|id| details(id, &normalized(id, "i1"))));
        assert_eq!(read_all(&log(answers)).await.expect("read").len(), 3);
    }

    #[tokio::test]
    async fn a_conversation_that_was_over_before_is_not_looked_at() {
        let over = json!({ "conversationId": "over", "conversationEnd": "2026-01-15T11:59:59.000Z" });
        let answer = json!({ "conversations": [over], "totalHits": 1 });
        assert_eq!(read_all(&log([(format!("{QUERY} 1"), answer)])).await.expect("read"), []);
    }

    #[tokio::test]
    async fn a_message_that_two_participants_list_is_one() {
        let message = listed("m1", "failed", NOON);
        let answers = [
            page(1, &["c1"], 1),
            conversation("c1", &[message.clone(), message]),
            details("m1", &normalized("m1", "i1")),
        ];
        assert_eq!(read_all(&log(answers)).await.expect("read").len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_for_this_relay_is_passed_over() {
        let mut inbound = details("m2", &normalized("m2", "i1"));
        inbound.1["direction"] = json!("inbound");
        let answers = [
            page(1, &["c1"], 1),
            conversation("c1", &[listed("m1", "failed", NOON), listed("m2", "failed", NOON)]),
            details("m1", &normalized("m1", "another integration")),
            inbound,
        ];
        let entries = read_all(&log(answers)).await.expect("read");
        assert!(matches!(entries[..], [Entry::PassedOver(_), Entry::PassedOver(_)]), "{entries:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_kept_whole() {
        let mut nameless = normalized("m2", "i1");
        nameless["id"] = json!(null);
        let strange = json!({ "messageId": 7, "messageStatus": "failed" });
        let answers = [
            (
                format!("{QUERY} 1"),
                json!({ "conversations": [{ "conversationId": "c1" }, { "strange": 1 }], "totalHits": 2 }),
            ),
            conversation("c1", &[listed("m1", "failed", NOON), listed("m2", "failed", NOON), strange.clone()]),
            details("m1", &json!(null)),
            details("m2", &nameless),
        ];
        let whole = [json!({ "strange": 1 }), details("m1", &json!(null)).1, details("m2", &nameless).1, strange];
        let entries = read_all(&log(answers)).await.expect("read");
        assert_eq!(entries.len(), whole.len());
        for (entry, whole) in entries.iter().zip(whole) {
            let Entry::Unreadable(unreadable) = entry else { panic!("{entry:?}") };
            assert_eq!(unreadable.whole, whole.to_string());
        }
    }

    #[tokio::test]
    async fn no_error_is_an_empty_list() {
        for answer in [
            json!({}),
            json!([]),
            json!({ "totalHits": 3 }),
            json!({ "conversations": [] }),
            json!({ "conversations": [], "totalHits": 1 }),
        ] {
            let error = read_all(&log([(format!("{QUERY} 1"), answer.clone())])).await.expect_err("refused");
            assert!(matches!(error, GenesysError::Unusable { .. }), "{answer}: {error}");
        }
        let nothing = [(format!("{QUERY} 1"), json!({ "totalHits": 0 }))];
        assert_eq!(read_all(&log(nothing)).await.expect("read"), [], "Genesys Cloud leaves out what is empty");
    }

    #[tokio::test]
    async fn a_conversation_that_cannot_be_had_is_kept_and_holds_up_no_other() {
        let strange = json!({ "id": "c1", "participants": "none" });
        let answers = [
            page(1, &["c1", "gone", "c2"], 3),
            ("/api/v2/conversations/messages/c1".to_owned(), strange.clone()),
            conversation("c2", &[listed("gone", "failed", NOON), listed("m1", "failed", NOON)]),
            details("m1", &normalized("m1", "i1")),
        ];
        let entries = read_all(&log(answers)).await.expect("read");
        let [Entry::Unreadable(one), Entry::Unreadable(two), Entry::Unreadable(three), Entry::Failed(_)] = &entries[..]
        else {
            panic!("{entries:?}")
        };
        let gone = json!({ "conversationId": "gone" });
        let wholes =
            [&one.whole, &two.whole, &three.whole].map(|whole| serde_json::from_str::<Value>(whole).expect("JSON"));
        assert_eq!(wholes, [strange, gone, listed("gone", "failed", NOON)]);
        assert!(two.problem.contains("too large"), "{}", two.problem);
    }

    #[tokio::test]
    async fn what_may_be_had_later_is_withheld() {
        let withheld = conversation("c1", &[listed("withheld", "failed", NOON), listed("m1", "failed", NOON)]);
        let answers = [page(1, &["withheld", "c1"], 2), withheld, details("m1", &normalized("m1", "i1"))];
        let entries = read_all(&log(answers)).await.expect("read");
        assert!(matches!(entries[..], [Entry::Withheld(_), Entry::Withheld(_), Entry::Failed(_)]), "{entries:?}");
    }

    #[tokio::test]
    async fn an_api_that_has_no_conversation_at_all_is_an_error() {
        let gone: Vec<String> = (0..20).map(|number| format!("gone-{number}")).collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let error = read_all(&log([page(1, &gone, 20)])).await.expect_err("refused");
        assert!(error.to_string().contains("10 conversations in a row"), "{error}");
    }

    /// A run that was cut short anywhere goes on with the next conversation, and asks for none twice.
    #[tokio::test]
    async fn a_window_is_resumed_with_the_next_conversation() {
        let ids: Vec<String> = (0..150).map(|number| format!("c{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let conversations = ids.iter().map(|id| conversation(id, &[]));
        let log = log([page(1, &ids[..100], 150), page(2, &ids[100..], 150)].into_iter().chain(conversations));
        let window = Window { from: time(NOON), to: time("2026-01-15T13:00:00Z") };
        let (mut place, mut calls) = (Place::default(), 0);
        while let Some(next) = log.read(window, place, Instant::now()).await.expect("read").next {
            let stored = serde_json::to_string(&log.resume(next).expect("a place")).expect("written");
            place = serde_json::from_str(&stored).expect("read");
            calls += 1;
        }
        assert_eq!(calls + 1, 2 + 150);
    }

    #[tokio::test]
    async fn pages_that_have_shifted_and_other_lists_are_read_anew() {
        let ids: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let window = Window { from: time(NOON), to: time("2026-01-15T13:00:00Z") };
        let conversations = || ids.iter().map(|id| conversation(id, &[]));
        let before = log([page(1, &ids, 150)].into_iter().chain(conversations()));
        let mut place = Place::default();
        for _ in 0..101 {
            place = before.read(window, place, Instant::now()).await.expect("read").next.expect("more");
        }
        assert_eq!((place.page, place.conversations.len()), (1, 0));
        let mut after = log([page(2, &["c149"], 149), page(1, &ids, 149)]);
        let anew = after.read(window, place.clone(), Instant::now()).await.expect("read").next.expect("more");
        assert_eq!((anew.page, anew.total), (0, 0));
        let shrinking = Place { is_anew: true, ..place.clone() };
        let error = after.read(window, shrinking, Instant::now()).await.expect_err("it cannot be read");
        assert!(error.to_string().contains("of 150 conversations"), "{error}");
        after.look_back = SignedDuration::from_hours(1);
        let anew = after.read(window, place, Instant::now()).await.expect("read").next.expect("more");
        assert_eq!(anew.page, 1);
    }
}
