//! The Platform API of Genesys Cloud: signs in, keeps to its rate limits, and retries temporary
//! failures.

mod error;
mod https;
mod region;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::time::{Instant, sleep, timeout_at};

use crate::adapters::oauth::{Token, TokenCache, TokenRequest};
use crate::domain::failure::FailureCause;
use crate::domain::json::Json;
use crate::domain::retry::{RetryDecision, Schedule, retry_after_of, retry_decision};
use crate::ports::clock::Clock;
use crate::ports::secrets::{Authentication, GenesysSecrets, SecretCache, SecretStore};
use crate::runtime::logging::display_chain;

use self::error::correlation_id;

pub use self::error::{GenesysError, HttpError, Refused, Trouble};
pub use self::https::Https;
pub use self::region::{Region, UnknownRegion};

/// "Rate limits": seconds until the limit that was reached is over.
const RATE_LIMIT_RESET: &str = "inin-ratelimit-reset";

/// One call of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The body, as JSON.
    pub body: Option<String>,
    /// Permission that the call needs, where it is documented.
    pub permission: Option<&'static str>,
}

impl fmt::Display for Call {
    /// Without the query.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(formatter, "{} {path}", self.method)
    }
}

/// The port through which the delivery logs call the API.
pub trait PlatformApi: Send + Sync + 'static {
    /// Calls the API and returns its answer, which is JSON. Ends by `deadline`.
    fn call(
        &self,
        call: &Call,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<u8>, GenesysError>> + Send;
}

impl<T: PlatformApi> PlatformApi for Arc<T> {
    async fn call(&self, call: &Call, deadline: Instant) -> Result<Vec<u8>, GenesysError> {
        (**self).call(call, deadline).await
    }
}

/// The port to the network.
pub trait Http: Send + Sync + 'static {
    /// Sends one request and reads its answer.
    fn send(
        &self,
        request: Request<Vec<u8>>,
    ) -> impl Future<Output = Result<Response<Vec<u8>>, HttpError>> + Send;
}

/// A signed-in client of the API.
///
/// A call is retried by the schedule. A rate limit does not count as a failure: the client waits
/// for its end while there is time.
pub struct Genesys<H, S, C> {
    http: H,
    api_url: String,
    login_url: String,
    secrets: SecretCache<S, GenesysSecrets, C>,
    schedule: Schedule,
    clock: C,
    tokens: TokenCache<()>,
    rng: StdMutex<fastrand::Rng>,
}

impl<H: Http, S: SecretStore, C: Clock> Genesys<H, S, C> {
    /// A client of the API at `api_url` that signs in at `login_url`.
    pub fn new(
        http: H,
        api_url: &str,
        login_url: &str,
        secrets: SecretCache<S, GenesysSecrets, C>,
        schedule: Schedule,
        clock: C,
    ) -> Self {
        let base = |url: &str| url.trim_end_matches('/').to_owned();
        let (api_url, login_url) = (base(api_url), base(login_url));
        Self {
            http,
            api_url,
            login_url,
            secrets,
            schedule,
            clock,
            tokens: TokenCache::default(),
            rng: StdMutex::default(),
        }
    }

    /// The current token, or a new one.
    async fn token(&self, deadline: Instant) -> Result<HeaderValue, GenesysError> {
        let ask = async {
            let secrets = self.secrets.get().await?;
            match self.sign_in(&secrets, deadline).await {
                // The secret may have been changed since it was read.
                Err(GenesysError::Credentials(refused)) => {
                    let fresh = self.secrets.get_fresh().await?;
                    if fresh == secrets {
                        return Err(GenesysError::Credentials(refused));
                    }
                    self.sign_in(&fresh, deadline).await
                }
                outcome => outcome,
            }
        };
        self.tokens.get(&(), &self.clock, ask).await
    }

    async fn sign_in(
        &self,
        secrets: &GenesysSecrets,
        deadline: Instant,
    ) -> Result<Token, GenesysError> {
        let what = "POST /oauth/token";
        let request = TokenRequest {
            url: &format!("{}/oauth/token", self.login_url),
            client_id: &secrets.client_id,
            client_secret: &secrets.client_secret,
            authentication: Authentication::Basic,
            scope: None,
            audience: None,
        };
        let response = self.send(what, || request.build(), deadline).await?;
        if !response.status().is_success() {
            return Err(GenesysError::Credentials(Refused::of(what, &response)));
        }
        Token::read(response.body(), self.clock.now()).map_err(|problem| GenesysError::Unusable {
            what: what.to_owned(),
            problem: problem.to_owned(),
        })
    }

    /// Sends a request until its answer is final.
    async fn send(
        &self,
        what: &str,
        request: impl Fn() -> Result<Request<Vec<u8>>, http::Error>,
        deadline: Instant,
    ) -> Result<Response<Vec<u8>>, GenesysError> {
        let (mut failures, mut backoffs) = (0, 0);
        loop {
            let request = request().map_err(|error| unusable_call(what, &error))?;
            let started = Instant::now();
            let out_of_time = |why: String| GenesysError::OutOfTime {
                what: what.to_owned(),
                why,
            };
            let sent = timeout_at(deadline, self.http.send(request)).await;
            let outcome = sent
                .map_err(|_| out_of_time("the call did not end before the deadline".to_owned()))?;
            if let Ok(response) = &outcome {
                log(what, response, started);
            }
            let (trouble, asked) = match outcome {
                Ok(response) if response.status().is_success() => {
                    match Json::parse(response.body()) {
                        Ok(_) => return Ok(response),
                        Err(error) => (Trouble::NotJson(display_chain(&error)), None),
                    }
                }
                Ok(response) => match retry_decision(
                    FailureCause::Status(response.status().as_u16()),
                    self.asked_to_wait(&response).is_some(),
                ) {
                    RetryDecision::Permanent => return Ok(response),
                    RetryDecision::Retry | RetryDecision::RetryUncounted => {
                        let asked = self.asked_to_wait(&response);
                        (Trouble::Answered(Refused::of(what, &response)), asked)
                    }
                },
                Err(HttpError::TooLarge(most)) => {
                    let problem = HttpError::TooLarge(most).to_string();
                    return Err(GenesysError::Unusable {
                        what: what.to_owned(),
                        problem,
                    });
                }
                Err(error) => (Trouble::Http(error), None),
            };
            let is_limit = matches!(&trouble, Trouble::Answered(refused) if refused.status == StatusCode::TOO_MANY_REQUESTS);
            failures += u32::from(!is_limit);
            // Where Genesys Cloud names a time, no backoff is added.
            backoffs += u32::from(!is_limit || asked.is_none());
            tracing::warn!(
                call = what,
                error = display_chain(&trouble),
                failures,
                "call to Genesys Cloud failed"
            );
            if self.schedule.is_last(failures) {
                return Err(GenesysError::Unavailable {
                    what: what.to_owned(),
                    tries: failures,
                    last: trouble,
                });
            }
            let wait = {
                let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
                self.schedule.delay(backoffs, asked, &mut rng)
            };
            if Instant::now() + wait >= deadline {
                return Err(out_of_time(format!(
                    "Genesys Cloud asks for a pause of {} s: {}",
                    wait.as_secs(),
                    display_chain(&trouble)
                )));
            }
            sleep(wait).await;
        }
    }

    /// Pause that Genesys Cloud asks for: the longer of two headers. One of them is on every
    /// answer, and counts only where a limit is reached.
    fn asked_to_wait(&self, response: &Response<Vec<u8>>) -> Option<Duration> {
        let text = |name: &str| response.headers().get(name)?.to_str().ok();
        let is_limit = response.status() == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = retry_after_of(response.headers(), self.clock.now());
        let reset = text(RATE_LIMIT_RESET)
            .filter(|_| is_limit)
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        retry_after.max(reset)
    }
}

impl<H: Http, S: SecretStore, C: Clock> PlatformApi for Genesys<H, S, C> {
    async fn call(&self, call: &Call, deadline: Instant) -> Result<Vec<u8>, GenesysError> {
        let what = call.to_string();
        let mut renewed = false;
        loop {
            let token = self.token(deadline).await?;
            let request = || {
                let request = Request::builder()
                    .method(&call.method)
                    .uri(format!("{}{}", self.api_url, call.path));
                let request = request.header(header::AUTHORIZATION, token.clone());
                let request = request.header(header::CONTENT_TYPE, "application/json");
                request.body(call.body.clone().unwrap_or_default().into_bytes())
            };
            let response = self.send(&what, request, deadline).await?;
            let refused = || Refused::of(&what, &response);
            return match response.status() {
                status if status.is_success() => Ok(response.into_body()),
                StatusCode::UNAUTHORIZED if !renewed => {
                    self.tokens.forget(&token).await;
                    renewed = true;
                    continue;
                }
                StatusCode::UNAUTHORIZED => Err(GenesysError::Credentials(refused())),
                StatusCode::FORBIDDEN => Err(GenesysError::Forbidden {
                    permission: call.permission,
                    refused: refused(),
                }),
                StatusCode::NOT_FOUND => Err(GenesysError::NotFound(refused())),
                _ => Err(GenesysError::Refused(refused())),
            };
        }
    }
}

/// One line for each answer.
fn log(what: &str, response: &Response<Vec<u8>>, started: Instant) {
    tracing::info!(
        call = what,
        status = response.status().as_u16(),
        correlation_id = correlation_id(response),
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "called Genesys Cloud"
    );
}

fn unusable_call(what: &str, error: &http::Error) -> GenesysError {
    GenesysError::Unusable {
        what: what.to_owned(),
        problem: format!("the request cannot be made: {error}"),
    }
}
