//! State of the stand-in: tokens, messages, deliveries, and the calls so far.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    access::{RateLimit, Tokens},
    answer::{CloudAnswer, Refusal, Response},
    call::{Call, Endpoint},
    conversations::Conversations,
    deliveries::Deliveries,
    fault::CallFault,
    query,
};
use crate::genesys;

type Script = dyn Fn(&Call) -> Option<CallFault> + Send + Sync;

pub(super) struct CloudState {
    pub(super) skew: SignedDuration,
    pub(super) tokens: Tokens,
    pub(super) rate_limit: RateLimit,
    pub(super) conversations: Conversations,
    pub(super) deliveries: Deliveries,
    /// URLs of the webhooks of the integrations, by their ids.
    pub(super) integrations: BTreeMap<String, String>,
    pub(super) calls: Vec<Call>,
    pub(super) script: Box<Script>,
    pub(super) webhook_url: Option<String>,
    pub(super) sending: JoinSet<()>,
}

impl CloudState {
    pub(super) fn new() -> Self {
        Self {
            skew: SignedDuration::ZERO,
            tokens: Tokens::default(),
            rate_limit: RateLimit::default(),
            conversations: Conversations::default(),
            deliveries: Deliveries::default(),
            integrations: BTreeMap::new(),
            calls: Vec::new(),
            script: Box::new(|_| None),
            webhook_url: None,
            sending: JoinSet::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() + self.skew
    }

    pub(super) fn add_message(&mut self, conversation_id: &str, status: &str, normalized: Value) {
        let now = self.now();
        self.conversations
            .add(conversation_id, status, normalized, now);
    }

    /// Answers a call, with the delay before the answer; `None` where the connection breaks.
    pub(super) fn take(
        &mut self,
        mut call: Call,
        headers: &HeaderMap,
    ) -> (Duration, Option<Response>) {
        let mut delay = Duration::ZERO;
        let answer = match (self.script)(&call) {
            None => Some(self.right_answer(&call, headers)),
            Some(CallFault::Slow(duration)) => {
                delay = duration;
                Some(self.right_answer(&call, headers))
            }
            Some(CallFault::CutShort) => Some(self.right_answer(&call, headers).cut_short()),
            Some(CallFault::CloudAnswer(answer)) => Some(answer),
            Some(CallFault::Broken) => None,
        };
        call.status = answer.as_ref().map(|answer| answer.status);
        self.calls.push(call);
        let now = self.now();
        (delay, answer.map(|answer| answer.into_response(now)))
    }

    fn right_answer(&mut self, call: &Call, headers: &HeaderMap) -> CloudAnswer {
        let answer = match &call.endpoint {
            Endpoint::Token => self.tokens.issue(&call.body, headers, self.now()),
            endpoint => match self
                .admit(headers)
                .and_then(|()| self.look_up(endpoint, call))
            {
                Ok(found) => CloudAnswer::json(200, &found),
                Err(refusal) => refusal.into(),
            },
        };
        answer.with_headers(self.rate_limit.headers(self.now()))
    }

    fn admit(&mut self, headers: &HeaderMap) -> Result<(), Refusal> {
        let now = self.now();
        self.tokens.check(headers, now)?;
        self.rate_limit.count(now)
    }

    fn look_up(&self, endpoint: &Endpoint, call: &Call) -> Result<Value, Refusal> {
        match endpoint {
            Endpoint::Query => query::answer(&self.conversations, &call.body),
            Endpoint::Conversation(id) => {
                call.check_query(&[])?;
                self.conversations
                    .conversation(id)
                    .ok_or_else(|| Refusal::not_found(id))
            }
            Endpoint::Message(id) => {
                call.check_query(&["useNormalizedMessage"])?;
                self.conversations
                    .details(id)
                    .ok_or_else(|| Refusal::not_found(id))
            }
            Endpoint::Messages(id) => {
                call.check_query(&[])?;
                self.conversations.bulk(id, &call.body)
            }
            Endpoint::Integration(id) => {
                call.check_query(&[])?;
                let url = self.integrations.get(id);
                url.map(|url| integration(id, url))
                    .ok_or_else(|| Refusal::not_found(id))
            }
            Endpoint::Deliveries(webhook_id) => self.deliveries.answer(webhook_id, call),
            Endpoint::Token | Endpoint::Unknown => Err(Refusal::not_found(&call.path)),
        }
    }
}

/// An `OpenIntegration`.
fn integration(id: &str, webhook_url: &str) -> Value {
    json!({
        "id": id,
        "name": "Support",
        "outboundNotificationWebhookUrl": webhook_url,
        "outboundNotificationWebhookSignatureSecretToken": genesys::OPEN_MESSAGING_SECRET,
        "status": "Active",
        "createStatus": "Completed",
        "selfUri": format!("/api/v2/conversations/messaging/integrations/open/{id}"),
    })
}

pub(super) fn lock(state: &Mutex<CloudState>) -> MutexGuard<'_, CloudState> {
    // A script that panics does not lose the record of the calls.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
