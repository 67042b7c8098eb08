//! Stand-in for Genesys Cloud: its login, the parts of its Platform API that show lost events, and
//! its sender of webhooks.
//!
//! The login, the conversations and the messages have the shape that the official SDK knows, and
//! `tests/genesys_sdk.rs` holds them to it. The log of webhook deliveries is **not** in the public
//! API: it is what the tutorials build on.
//!
//! It is stricter than Genesys may be, to notice a wrong client: it refuses unknown fields,
//! parameters and dimensions.

mod access;
mod answer;
mod call;
mod conversations;
mod deliveries;
mod fault;
mod format;
mod query;
mod sender;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

pub use access::{CLIENT_ID, CLIENT_SECRET};
pub use answer::CloudAnswer;
use answer::Refusal;
pub use call::{Call, Endpoint};
pub use fault::CallFault;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use state::{CloudState, lock};
use tokio::time::sleep;

use crate::{
    genesys::Webhook,
    server::{Cause, Closed, Server},
    wait,
};

const CONTROL: &str = "/_webhooks";

/// A Genesys Cloud on a free port of 127.0.0.1. Dropping it closes the port and all connections,
/// and ends its sending.
pub struct GenesysCloud {
    server: Server,
    state: Arc<Mutex<CloudState>>,
}

impl GenesysCloud {
    /// Starts one that holds nothing and has no faults.
    pub async fn start() -> anyhow::Result<Self> {
        let state = Arc::new(Mutex::new(CloudState::new()));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| answer(request, Arc::clone(&shared))).await?;
        Ok(Self { server, state })
    }

    /// The base of all its URLs: the login is `/oauth/token` below it, the API `/api/v2`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// URL to which a person posts a body that is then sent to the relay, signed, in the background:
    /// see [`Self::set_webhook_url`].
    pub fn control_url(&self) -> String {
        format!("{}{CONTROL}", self.url())
    }

    /// The time by its own clock.
    pub fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// Sets its clock fast (or slow, if negative) by so much. All times that it gives are of this
    /// clock, and tokens expire by it.
    pub fn set_skew(&self, skew: SignedDuration) {
        self.lock().skew = skew;
    }

    /// Sets the life of new tokens. Default: a day.
    pub fn set_token_life(&self, life: Duration) {
        self.lock().tokens.life = life;
    }

    /// Lets no token pass that has been issued so far.
    pub fn expire_tokens(&self) {
        self.lock().tokens.expire();
    }

    /// Sets the rate limit in calls per minute. Default: 300, as in Genesys Cloud.
    pub fn set_rate_limit(&self, allowed: u32) {
        self.lock().rate_limit.allowed = allowed;
    }

    /// Adds an entity to the log of webhook deliveries, as it is. What cannot be read of it
    /// (`webhookId`, `status`, `timestamp`) does not keep it out of an answer.
    pub fn add_delivery(&self, entity: Value) {
        self.lock().deliveries.add(entity);
    }

    /// Adds an Open Messaging message in the shape of its webhook; it is known by its `id`, and of
    /// `channel.time`. A message that is already there gets this status and content. A receipt of a
    /// message that is there becomes one of its `normalizedReceipts`.
    pub fn add_message(&self, conversation_id: &str, status: &str, normalized: Value) {
        self.lock().add_message(conversation_id, status, normalized);
    }

    /// Adds an Open Messaging integration, or leads its webhook to another URL.
    pub fn set_integration(&self, id: &str, webhook_url: &str) {
        let mut state = self.lock();
        state
            .integrations
            .insert(id.to_owned(), webhook_url.to_owned());
    }

    /// Removes an Open Messaging integration.
    pub fn remove_integration(&self, id: &str) {
        self.lock().integrations.remove(id);
    }

    /// Answers this to who asks for the details of a message, whatever it is.
    pub fn set_details(&self, message_id: &str, details: Value) {
        self.lock().conversations.set_details(message_id, details);
    }

    /// Decides of each call from now on whether, and how, it goes wrong. It must not look at the
    /// stand-in.
    pub fn script(&self, script: impl Fn(&Call) -> Option<CallFault> + Send + Sync + 'static) {
        self.lock().script = Box::new(script);
    }

    /// All calls so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Waits until the calls are as `expected` says, and gives them.
    pub async fn until(
        &self,
        what: &str,
        expected: impl Fn(&[Call]) -> bool,
    ) -> anyhow::Result<Vec<Call>> {
        wait::until(what, || async {
            Ok(Some(self.calls()).filter(|calls| expected(calls)))
        })
        .await
    }

    /// Sends a webhook as Genesys does: on 429, 5xx and no answer up to five times more, after such
    /// a pause each, and not on any other refusal. The outcome is logged as a delivery when it is
    /// final, and with an Open Messaging body as a message too. Gives whether it was delivered.
    pub async fn deliver(&self, webhook_url: &str, webhook: &Webhook, pause: Duration) -> bool {
        sender::deliver(&self.state, webhook_url, webhook, pause).await
    }

    /// Sets the webhook URL for bodies posted to [`Self::control_url`].
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        self.lock().webhook_url = Some(url.into());
    }

    fn lock(&self) -> MutexGuard<'_, CloudState> {
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
        formatter
            .debug_struct("GenesysCloud")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<CloudState>>,
) -> Result<Response<Full<Bytes>>, Cause> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    if head.uri.path() == CONTROL {
        let now = lock(&state).now();
        return Ok(control(&head.method, body, &state).into_response(now)?);
    }
    let (delay, answer) = {
        let mut state = lock(&state);
        let call = Call::new(&head, &body, &state.calls);
        state.take(call, &head.headers)
    };
    sleep(delay).await;
    Ok(answer.ok_or(Closed)??)
}

fn control(method: &Method, body: Bytes, state: &Arc<Mutex<CloudState>>) -> CloudAnswer {
    let mut locked = lock(state);
    let Some(url) = locked
        .webhook_url
        .clone()
        .filter(|_| method == Method::POST)
    else {
        return Refusal::bad_request("only POST, and only when a webhook URL is set").into();
    };
    let state = Arc::clone(state);
    locked.sending.spawn(async move {
        sender::deliver(&state, &url, &Webhook::signed(body), sender::PAUSE).await;
    });
    while locked.sending.try_join_next().is_some() {}
    CloudAnswer::json(202, &json!({ "status": "sending" }))
}
