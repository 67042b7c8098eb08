//! A stand-in of Genesys Cloud behind the adapter: it answers the calls of the statement.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::adapters::genesys::{Call, GenesysError, HttpError, PlatformApi, Trouble};

/// A message of Genesys Cloud.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) conversation: String,
    pub(super) id: String,
    pub(super) integration: &'static str,
    pub(super) status: &'static str,
    pub(super) direction: &'static str,
    /// Its time, as the list of the conversation has it.
    pub(super) at: Timestamp,
    /// The time that its webhook had, beside the one that Genesys Cloud has now.
    pub(super) webhook_at: Timestamp,
    /// True if a second participant lists it too.
    pub(super) is_listed_twice: bool,
}

impl Message {
    /// A message as it should be.
    pub(super) fn sent(conversation: &str, id: &str, at: Timestamp) -> Self {
        Self {
            conversation: conversation.to_owned(),
            id: id.to_owned(),
            integration: "i1",
            status: "sent",
            direction: "Outbound",
            at,
            webhook_at: at,
            is_listed_twice: false,
        }
    }

    fn normalized(&self, time: Timestamp) -> Value {
        json!({
            "id": self.id, "type": "Text", "text": "Grüße", "direction": self.direction,
            "channel": { "id": self.integration, "platform": "Open", "time": format!("{time:.3}") },
            "conversationId": self.conversation,
        })
    }

    /// The body of its webhook.
    pub(super) fn webhook(&self) -> Value {
        self.normalized(self.webhook_at)
    }

    fn details(&self) -> Value {
        json!({
            "id": self.id, "direction": self.direction.to_lowercase(), "status": self.status,
            "conversationId": self.conversation, "normalizedMessage": self.normalized(self.at),
        })
    }

    fn listed(&self) -> Value {
        json!({ "messageId": self.id, "messageStatus": self.status, "messageTime": format!("{:.3}", self.at) })
    }
}

/// The cloud, and the calls that it had.
#[derive(Clone, Default)]
pub(super) struct Cloud(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Conversations by name, and the time of the first message.
    conversations: BTreeMap<(Timestamp, String), Vec<Message>>,
    begins: BTreeMap<String, Timestamp>,
    by_id: BTreeMap<String, Message>,
    calls: u64,
    last_minute: VecDeque<Instant>,
    most_in_a_minute: usize,
    calls_until_halt: Option<usize>,
}

impl Cloud {
    /// Adds a message. The first of a conversation must be the oldest.
    pub(super) fn add(&self, message: Message) {
        let mut state = self.0.lock().expect("not poisoned");
        let name = message.conversation.clone();
        let begin = *state.begins.entry(name.clone()).or_insert(message.at);
        state.by_id.insert(message.id.clone(), message.clone());
        state
            .conversations
            .entry((begin, name))
            .or_default()
            .push(message);
    }

    pub(super) fn calls(&self) -> u64 {
        self.0.lock().expect("not poisoned").calls
    }

    pub(super) fn most_in_a_minute(&self) -> usize {
        self.0.lock().expect("not poisoned").most_in_a_minute
    }

    /// Makes every call after `calls` more hang, or none.
    pub(super) fn halt_after(&self, calls: Option<usize>) {
        self.0.lock().expect("not poisoned").calls_until_halt = calls;
    }
}

impl State {
    fn count(&mut self) {
        self.calls += 1;
        let now = Instant::now();
        self.last_minute.push_back(now);
        while self
            .last_minute
            .front()
            .is_some_and(|at| now - *at >= Duration::from_mins(1))
        {
            self.last_minute.pop_front();
        }
        self.most_in_a_minute = self.most_in_a_minute.max(self.last_minute.len());
    }

    fn query(&self, body: &Value) -> Value {
        let (from, to) = body["interval"]
            .as_str()
            .and_then(|it| it.split_once('/'))
            .expect("an interval");
        let [from, to] = [from, to].map(|time| time.parse::<Timestamp>().expect("a time"));
        let number = |name: &str| {
            usize::try_from(body["paging"][name].as_u64().expect("a number")).expect("in range")
        };
        let in_interval = self
            .conversations
            .iter()
            .filter(|((at, _), _)| (from..to).contains(at));
        let found: Vec<_> = in_interval
            .map(|((at, name), messages)| {
                let end = messages.iter().map(|message| message.at).max().expect("a message");
                let end = end + SignedDuration::from_mins(1);
                json!({ "conversationId": name, "conversationStart": format!("{at:.3}"), "conversationEnd": format!("{end:.3}") })
            })
            .collect();
        let (size, page) = (number("pageSize"), number("pageNumber"));
        let of_page: Vec<_> = found
            .iter()
            .skip(size * (page - 1))
            .take(size)
            .cloned()
            .collect();
        json!({ "conversations": of_page, "totalHits": found.len() })
    }
}

fn missing(what: &str) -> GenesysError {
    GenesysError::Unusable {
        what: what.to_owned(),
        problem: "it is gone".to_owned(),
    }
}

impl PlatformApi for Cloud {
    async fn call(&self, call: &Call, _deadline: Instant) -> Result<Vec<u8>, GenesysError> {
        let halted = self.0.lock().expect("not poisoned").calls_until_halt == Some(0);
        if halted {
            std::future::pending::<()>().await;
        }
        let mut state = self.0.lock().expect("not poisoned");
        state.calls_until_halt = state.calls_until_halt.map(|calls| calls - 1);
        state.count();
        let body = || -> Value {
            serde_json::from_str(call.body.as_deref().expect("a body")).expect("JSON")
        };
        let parts: Vec<&str> = call
            .path
            .split('?')
            .next()
            .unwrap_or_default()
            .split('/')
            .skip(3)
            .collect();
        let answer = match parts[..] {
            ["analytics", "conversations", "details", "query"] => state.query(&body()),
            ["conversations", "messages", id, "details"] => state
                .by_id
                .get(id)
                .filter(|_| id != "gone")
                .ok_or_else(|| missing(id))?
                .details(),
            ["conversations", "messages", name, "messages", "bulk"] => {
                let ids = body();
                let ids = ids.as_array().expect("a list").iter();
                let found: Vec<_> = ids
                    .filter_map(|id| state.by_id.get(id.as_str()?))
                    .filter(|message| message.conversation == name && message.id != "gone")
                    .map(Message::details)
                    .collect();
                json!({ "entities": found })
            }
            ["conversations", "messages", name] if name.contains("withheld") => {
                return Err(GenesysError::Unavailable {
                    what: name.to_owned(),
                    tries: 5,
                    last: Trouble::Http(HttpError::TimedOut),
                });
            }
            ["conversations", "messages", name] => {
                let begin = *state.begins.get(name).ok_or_else(|| missing(name))?;
                let messages = &state.conversations[&(begin, name.to_owned())];
                let all: Vec<_> = messages.iter().map(Message::listed).collect();
                let twice = messages.iter().filter(|message| message.is_listed_twice);
                let twice: Vec<_> = twice.map(Message::listed).collect();
                json!({ "participants": [{ "purpose": "agent", "messages": all }, { "purpose": "bot", "messages": twice }] })
            }
            _ => panic!("unexpected call: {call}"),
        };
        Ok(answer.to_string().into_bytes())
    }
}
