//! Plays the Platform API of Genesys Cloud, its login included, as far as a lost event can be found there, and the
//! sender that gives up on webhooks.
//!
//! The login, the conversations and the messages have the shape that the official SDK knows, and `tests/genesys_sdk.rs`
//! holds them to it. The log of webhook deliveries is **not** in the public API: it is what the tutorials build on.
//!
//! What it refuses that Genesys might let pass is there to notice a wrong client: unknown fields, parameters and dimensions.

mod access;
mod answer;
mod call;
mod conversations;
mod deliveries;
mod fault;
mod query;
mod sender;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use access::{CLIENT_ID, CLIENT_SECRET};
use access::{RateLimit, Tokens};
pub use answer::Answer;
use answer::{Body, Refusal};
pub use call::{Call, Endpoint};
use conversations::Conversations;
use deliveries::Deliveries;
pub use fault::Fault;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Bytes, Incoming},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

use crate::{genesys::Webhook, server::Server, wait};

const CONTROL: &str = "/_webhooks";

type Script = dyn Fn(&Call) -> Option<Fault> + Send + Sync;

/// A Genesys Cloud on a free port of 127.0.0.1. Dropping it closes the port and all connections, and ends its sending.
pub struct GenesysCloud {
    server: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    skew: SignedDuration,
    tokens: Tokens,
    rate_limit: RateLimit,
    conversations: Conversations,
    deliveries: Deliveries,
    calls: Vec<Call>,
    script: Box<Script>,
    webhook_url: Option<String>,
    sending: JoinSet<()>,
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection breaks")]
struct Broken;

impl GenesysCloud {
    /// Starts one that holds nothing and has no faults.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new(State::new()));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| answer(request, Arc::clone(&shared))).await?;
        Ok(Self { server, state })
    }

    /// The base of all its URLs: the login is `/oauth/token` below it, the API `/api/v2`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where a person posts a body that is then sent to the relay, signed, in the background: see
    /// [`Self::set_webhook_url`].
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("{}{CONTROL}", self.url())
    }

    /// The time by its own clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// Sets its clock fast (or slow, if negative) by so much. All times that it gives are of this clock, and tokens
    /// expire by it.
    pub fn set_skew(&self, skew: SignedDuration) {
        self.lock().skew = skew;
    }

    /// How long the tokens live that are issued from now on: a day, unless this is called.
    pub fn set_token_life(&self, life: Duration) {
        self.lock().tokens.life = life;
    }

    /// Lets no token pass that has been issued so far.
    pub fn expire_tokens(&self) {
        self.lock().tokens.expire();
    }

    /// How many calls a minute it takes: 300, as Genesys does, unless this is called.
    pub fn set_rate_limit(&self, allowed: u32) {
        self.lock().rate_limit.allowed = allowed;
    }

    /// Adds an entity to the log of webhook deliveries, as it is. What cannot be read of it (`webhookId`, `status`,
    /// `timestamp`) does not keep it out of an answer.
    pub fn add_delivery(&self, entity: Value) {
        self.lock().deliveries.add(entity);
    }

    /// Adds an Open Messaging message in the shape of its webhook; it is known by its `id`, and of `channel.time`. A
    /// message that is already there gets this status and content. A receipt of a message that is there becomes one of
    /// its `normalizedReceipts`.
    pub fn add_message(&self, conversation_id: &str, status: &str, normalized: Value) {
        self.lock().add_message(conversation_id, status, normalized);
    }

    /// Answers this to who asks for the details of a message, whatever it is.
    pub fn set_details(&self, message_id: &str, details: Value) {
        self.lock().conversations.set_details(message_id, details);
    }

    /// Decides of each call from now on whether, and how, it goes wrong. It must not look at the stand-in.
    pub fn script(&self, script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) {
        self.lock().script = Box::new(script);
    }

    /// All calls so far, in the order of their arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Waits until the calls are as `expected` says, and gives them.
    ///
    /// # Errors
    /// When they are not within [`wait::LIMIT`].
    pub async fn until(&self, what: &str, expected: impl Fn(&[Call]) -> bool) -> anyhow::Result<Vec<Call>> {
        wait::until(what, || async { Ok(Some(self.calls()).filter(|calls| expected(calls))) }).await
    }

    /// Sends a webhook as Genesys does: on 429, 5xx and no answer up to five times more, after such a pause each, and
    /// not on any other refusal. The outcome is logged as a delivery when it is final, and with an Open Messaging body
    /// as a message too. Gives whether it was delivered.
    pub async fn deliver(&self, webhook_url: &str, webhook: &Webhook, pause: Duration) -> bool {
        sender::deliver(&self.state, webhook_url, webhook, pause).await
    }

    /// Where the bodies go that people post to [`Self::control_url`].
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        self.lock().webhook_url = Some(url.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for GenesysCloud {
    fn drop(&mut self) {
        self.lock().sending.abort_all();
    }
}

impl fmt::Debug for GenesysCloud {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GenesysCloud").field("server", &self.server).finish_non_exhaustive()
    }
}

impl State {
    fn new() -> Self {
        Self {
            skew: SignedDuration::ZERO,
            tokens: Tokens::default(),
            rate_limit: RateLimit::default(),
            conversations: Conversations::default(),
            deliveries: Deliveries::default(),
            calls: Vec::new(),
            script: Box::new(|_| None),
            webhook_url: None,
            sending: JoinSet::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() + self.skew
    }

    fn add_message(&mut self, conversation_id: &str, status: &str, normalized: Value) {
        let now = self.now();
        self.conversations.add(conversation_id, status, normalized, now);
    }

    /// What the call gets, `None` when the connection breaks, and what is waited first.
    fn take(&mut self, mut call: Call, headers: &HeaderMap) -> (Duration, Option<Response<Body>>) {
        let mut delay = Duration::ZERO;
        let answer = match (self.script)(&call) {
            None => Some(self.right_answer(&call, headers)),
            Some(Fault::Slow(duration)) => {
                delay = duration;
                Some(self.right_answer(&call, headers))
            }
            Some(Fault::CutShort) => Some(self.right_answer(&call, headers).cut_short()),
            Some(Fault::Answer(answer)) => Some(answer),
            Some(Fault::Broken) => None,
        };
        call.status = answer.as_ref().map(|answer| answer.status);
        self.calls.push(call);
        let now = self.now();
        (delay, answer.map(|answer| answer.into_response(now)))
    }

    fn right_answer(&mut self, call: &Call, headers: &HeaderMap) -> Answer {
        let answer = match &call.endpoint {
            Endpoint::Token => self.tokens.issue(&call.body, headers, self.now()),
            endpoint => match self.admit(headers).and_then(|()| self.look_up(endpoint, call)) {
                Ok(found) => Answer::json(200, &found),
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
                self.conversations.conversation(id).ok_or_else(|| Refusal::not_found(id))
            }
            Endpoint::Message(id) => {
                call.check_query(&["useNormalizedMessage"])?;
                self.conversations.details(id).ok_or_else(|| Refusal::not_found(id))
            }
            Endpoint::Deliveries(webhook_id) => self.deliveries.answer(webhook_id, call),
            Endpoint::Token | Endpoint::Unknown => Err(Refusal::not_found(&call.path)),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A script that panics must not take the record of the calls with it.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Body>, Broken> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    if head.uri.path() == CONTROL {
        let now = lock(&state).now();
        return Ok(control(&head.method, body, &state).into_response(now));
    }
    let (delay, answer) = {
        let mut state = lock(&state);
        let call = Call::new(&head, &body, &state.calls);
        state.take(call, &head.headers)
    };
    sleep(delay).await;
    answer.ok_or(Broken)
}

fn control(method: &Method, body: Bytes, state: &Arc<Mutex<State>>) -> Answer {
    let mut locked = lock(state);
    let Some(url) = locked.webhook_url.clone().filter(|_| method == Method::POST) else {
        return Refusal::bad_request("only POST, and only when a webhook URL is set").into();
    };
    let state = Arc::clone(state);
    locked.sending.spawn(async move {
        sender::deliver(&state, &url, &Webhook::signed(body), sender::PAUSE).await;
    });
    while locked.sending.try_join_next().is_some() {}
    Answer::json(202, &json!({ "status": "sending" }))
}

/// As Genesys writes times.
fn iso(time: Timestamp) -> String {
    format!("{time:.3}")
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}
