//! Stand-ins of systems that a token opens: a token endpoint for the grant of client credentials
//! (RFC 6749 section 4.4), and the API behind it.

mod product;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use tokio::time::sleep;
use uuid::Uuid;

pub use self::product::Product;
use crate::{
    server::{Closed, Server},
    target::{Answer, Behaviour, ReceivedRequest},
};

/// Fault of the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// The connection breaks without an answer.
    Down,
    /// The right answer, but only after a while.
    Slow(Duration),
    /// 429, with this many seconds in `Retry-After`.
    TooManyRequests(u32),
    /// 200 with a page of HTML, as a proxy or a sign-in page gives it.
    NotJson,
}

/// A token endpoint on a free port of 127.0.0.1, and what its API knows. Dropping it closes the
/// port.
#[derive(Debug)]
pub struct TokenEndpoint {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    product: Product,
    client_id: String,
    secrets: BTreeSet<String>,
    scope: Option<String>,
    lifetime: Duration,
    fault: Option<TokenFault>,
    tokens: Vec<Token>,
    /// Requests for a token, whatever became of them.
    requests: usize,
    /// Calls of the API that are still accepted before all tokens are revoked.
    revoke_after: Option<usize>,
    is_limited: bool,
}

#[derive(Debug)]
struct Token {
    value: String,
    valid_until: Instant,
}

impl TokenEndpoint {
    /// Starts the endpoint of a product that knows one client.
    pub async fn start(product: Product, client_id: &str, secret: &str) -> Result<Self> {
        let state = Arc::new(Mutex::new(State {
            product,
            client_id: client_id.to_owned(),
            secrets: BTreeSet::from([secret.to_owned()]),
            scope: None,
            lifetime: product.lifetime(),
            fault: None,
            tokens: Vec::new(),
            requests: 0,
            revoke_after: None,
            is_limited: false,
        }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| serve(request, Arc::clone(&shared))).await?;
        Ok(Self { server, state })
    }

    /// URL of the endpoint: the value of `tokenUrl`.
    pub fn url(&self) -> String {
        format!("{}{}", self.server.url(), self.state().product.path())
    }

    /// The API that takes these tokens.
    pub fn api(&self) -> Behaviour {
        let state = Arc::clone(&self.state);
        Behaviour::script(move |request| lock(&state).call(request))
    }

    /// Sets what goes wrong from the next request on.
    pub fn fail(&self, fault: impl Into<Option<TokenFault>>) {
        self.state().fault = fault.into();
    }

    /// Knows the client by these secrets only. Tokens that were issued stay valid.
    pub fn accept_only(&self, secrets: &[&str]) {
        self.state().secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
    }

    /// Refuses requests for a token of any other scope.
    pub fn require_scope(&self, scope: &str) {
        self.state().scope = Some(scope.to_owned());
    }

    /// Issues tokens that live this long. `expires_in` is their time in whole seconds.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Revokes every token after this many more calls of the API have been accepted.
    pub fn revoke_after(&self, calls: usize) {
        self.state().revoke_after = Some(calls);
    }

    /// Lets the API answer that the quota of requests is used up, or ends that.
    pub fn set_limited(&self, is_limited: bool) {
        self.state().is_limited = is_limited;
    }

    /// Number of requests for a token so far.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// All tokens that were issued.
    pub fn issued(&self) -> Vec<String> {
        let tokens = self.state();
        tokens.tokens.iter().map(|it| it.value.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let fault = {
        let mut state = lock(&state);
        state.requests += 1;
        state.fault
    };
    match fault {
        Some(TokenFault::Down) => return Err(Closed),
        Some(TokenFault::Slow(delay)) => sleep(delay).await,
        Some(TokenFault::TooManyRequests(seconds)) => {
            let mut response = json(429, r#"{"error":"temporarily_unavailable"}"#);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
            return Ok(response);
        }
        Some(TokenFault::NotJson) => return Ok(json(200, "<html>sign in</html>")),
        None => {}
    }
    let (status, body) = lock(&state).grant(&head.headers, &body);
    Ok(json(status, body))
}

fn json(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content = HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

impl State {
    /// Answers a request for a token.
    fn grant(&mut self, headers: &HeaderMap, body: &[u8]) -> (u16, String) {
        let form = |name: &str| {
            let mut pairs = form_urlencoded::parse(body);
            pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
        };
        let content = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content.is_none_or(|it| !it.starts_with(b"application/x-www-form-urlencoded")) {
            return (400, r#"{"error":"invalid_request"}"#.to_owned());
        }
        if form("grant_type").as_deref() != Some("client_credentials") {
            return (400, r#"{"error":"unsupported_grant_type"}"#.to_owned());
        }
        let client = basic(headers).or_else(|| Some((form("client_id")?, form("client_secret")?)));
        let is_known = client
            .is_some_and(|(id, secret)| id == self.client_id && self.secrets.contains(&secret));
        if !is_known {
            return self.product.unknown_client();
        }
        if self.scope.is_some() && form("scope") != self.scope {
            return self.product.invalid_scope();
        }
        let value = self.product.token();
        self.tokens.push(Token {
            value: value.clone(),
            valid_until: Instant::now() + self.lifetime,
        });
        (200, self.product.grant(&value, self.lifetime.as_secs()))
    }

    /// Answers a call of the API.
    fn call(&mut self, request: &ReceivedRequest) -> Answer {
        let bearer = request.headers.get(AUTHORIZATION);
        let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if self.revoke_after == Some(0) {
            self.revoke_after = None;
            let now = Instant::now();
            self.tokens
                .iter_mut()
                .for_each(|token| token.valid_until = token.valid_until.min(now));
        }
        let is_valid =
            |token: &Token| Some(&*token.value) == bearer && Instant::now() < token.valid_until;
        if !self.tokens.iter().any(is_valid) {
            return self.product.unauthorized();
        }
        if self.is_limited {
            return self.product.limited();
        }
        if let Some(left) = &mut self.revoke_after {
            *left -= 1;
        }
        self.product.accepted()
    }
}

/// Client id and secret of `Authorization: Basic`, each form-encoded within it (RFC 6749 section
/// 2.3.1).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let pair = BASE64_STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decoded = |text: &str| {
        let (decoded, _) = form_urlencoded::parse(text.as_bytes()).next()?;
        Some(decoded.into_owned())
    };
    Some((decoded(id)?, decoded(secret)?))
}

/// Random letters and digits of a token.
fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
