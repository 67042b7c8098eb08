//! Access tokens for the target. A failing token endpoint is a failure of the relay's credentials,
//! and not of the event.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use reqwest::Client;
use tokio::time::{Instant, timeout_at};

use super::tls::CertificateFault;
use crate::adapters::oauth::{Token, TokenCache, TokenRequest, error_of};
use crate::domain::retry::retry_after_of;
use crate::domain::text::excerpt;
use crate::ports::clock::Clock;
use crate::ports::secrets::OAuthClient;
use crate::ports::target::{DeliveryFailure, FailureCause};
use crate::runtime::logging::display_chain;

/// The least time between a failed token request and the next one, and between two tokens that the
/// target refused.
const PAUSE: Duration = Duration::from_secs(5);

/// Upper bound on the pause that a token endpoint asks for.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// A longer answer is refused. Tokens have some kilobytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Tokens of the target's OAuth client. All deliveries of a process share them, also the failure to
/// get one.
#[derive(Default)]
pub(super) struct Tokens {
    cache: TokenCache<OAuthClient>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// A failure, and the time until which it is not tried again.
    failure: Option<(OAuthClient, Timestamp, DeliveryFailure)>,
    /// The time of the last token that the target refused.
    refused: Option<Timestamp>,
}

impl Tokens {
    /// The current token of this client, or a new one by the deadline. `http` makes the connection,
    /// where one is needed.
    pub(super) async fn get(
        &self,
        client: &OAuthClient,
        clock: &impl Clock,
        deadline: Instant,
        http: impl FnOnce() -> Result<Client, reqwest::Error> + Send,
    ) -> Result<HeaderValue, DeliveryFailure> {
        let ask = async {
            if let Some(failure) = self.recent_failure(client, clock.now()) {
                return Err(failure);
            }
            let asked = timeout_at(deadline, ask(client, clock, http)).await;
            asked
                .unwrap_or_else(|_| Err(late(client)))
                .inspect_err(|failure| self.note_failure(client, clock.now(), failure))
        };
        timeout_at(deadline, self.cache.get(client, clock, ask))
            .await
            .unwrap_or_else(|_| Err(late(client)))
    }

    /// Drops a token that the target refused. A target that refuses each new one is given one in a
    /// while only.
    pub(super) async fn forget(&self, refused: &HeaderValue, now: Timestamp) {
        let is_recent = {
            let mut last = self.last();
            let is_recent = last.refused.is_some_and(|at| now < at + PAUSE);
            if !is_recent {
                last.refused = Some(now);
            }
            is_recent
        };
        if !is_recent {
            self.cache.forget(refused).await;
        }
    }

    fn recent_failure(&self, client: &OAuthClient, now: Timestamp) -> Option<DeliveryFailure> {
        let last = self.last();
        let (of, until, failure) = last.failure.as_ref()?;
        (of == client && now < *until).then(|| failure.clone())
    }

    fn note_failure(&self, client: &OAuthClient, now: Timestamp, failure: &DeliveryFailure) {
        let until = now + failure.retry_after.unwrap_or_default().max(PAUSE);
        self.last().failure = Some((client.clone(), until, failure.clone()));
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the token endpoint once.
async fn ask(
    client: &OAuthClient,
    clock: &impl Clock,
    http: impl FnOnce() -> Result<Client, reqwest::Error> + Send,
) -> Result<Token, DeliveryFailure> {
    let request = TokenRequest {
        url: client.token_url.as_url().as_str(),
        client_id: &client.client_id,
        client_secret: &client.client_secret,
        authentication: client.authentication,
        scope: client.scope.as_deref(),
        audience: client.audience.as_deref(),
    };
    let request = request.build().map_err(|_| {
        let problem = "cannot be asked: clientId or clientSecret cannot stand in a request";
        failure(client, problem)
    })?;
    let answered = match http() {
        Ok(http) => send(&http, request).await,
        Err(error) => Err(error),
    };
    let (status, headers, body) = answered.map_err(|error| unreachable(client, error))?;
    if body.len() > MAX_ANSWER_BYTES {
        return Err(failure(client, "answered with more than 64 KiB"));
    }
    if status.is_success() {
        return Token::read(&body, clock.now())
            .map_err(|problem| failure(client, &format!("gave no token: {problem}")));
    }
    let refused = match error_of(&body) {
        Some(error) => format!("refused the client: {} {error}", status.as_u16()),
        None => format!("answered {status}"),
    };
    Err(DeliveryFailure {
        retry_after: retry_after_of(&headers, clock.now()).map(|pause| pause.min(LONGEST_PAUSE)),
        ..failure(client, &refused)
    })
}

/// The status, the headers, and at most a little more of the body than is allowed.
async fn send(
    http: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<(StatusCode, HeaderMap, Vec<u8>), reqwest::Error> {
    let mut response = http.execute(request.try_into()?).await?;
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    while body.len() <= MAX_ANSWER_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok((response.status(), headers, body))
}

fn unreachable(client: &OAuthClient, error: reqwest::Error) -> DeliveryFailure {
    let hint = match CertificateFault::of(&error) {
        Some(CertificateFault::Server) => "; targetCa may name its authority",
        Some(CertificateFault::Client) => "; it does not accept the client certificate",
        None => "",
    };
    let error = display_chain(&error.without_url());
    failure(client, &format!("cannot be reached: {error}{hint}"))
}

fn late(client: &OAuthClient) -> DeliveryFailure {
    failure(client, "did not answer in time")
}

fn failure(client: &OAuthClient, problem: &str) -> DeliveryFailure {
    let host = client.token_url.as_url().host_str().unwrap_or_default();
    DeliveryFailure::new(
        FailureCause::Credentials(None),
        excerpt(&format!("the token endpoint {host} {problem}")),
    )
}
