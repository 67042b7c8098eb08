//! Delivery to the customer's system over HTTPS.

mod connections;
mod credentials;
mod echo;
#[cfg(test)]
mod tests;
mod tls;
mod token;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use reqwest::{Client, Response, Url};
use tokio::time::{Instant, timeout, timeout_at};

use self::connections::Connections;
pub use self::credentials::Credentials;
use self::echo::Echo;
use self::tls::CertificateFault;
pub use self::tls::not_after;
use self::token::Tokens;
use crate::adapters::aws::sigv4::SigV4;
use crate::adapters::standard_webhooks;
use crate::domain::event::Event;
use crate::domain::https_url::{HttpsUrl, without_secrets};
use crate::domain::message::is_kept_header;
use crate::domain::retry::retry_after_of;
use crate::domain::text::{MAX_EXCERPT_BYTES, excerpt};
use crate::domain::trace::{is_traceparent, traceparent_of};
use crate::ports::clock::Clock;
use crate::ports::secrets::{SecretCache, SecretStore, SecretsError, TargetSecrets};
use crate::ports::target::{Delivery, DeliveryFailure, FailureCause, Outcome, Target};
use crate::runtime::logging::display_chain;

/// An answer is read this far, so that its connection can be used again; a longer one costs the
/// connection.
const MAX_DRAINED_BYTES: usize = 64 * 1024;

/// An answer's body has this long once its status is there. The status alone decides.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Makes ring the provider of TLS for this process. Call it once, before a target is made.
///
/// A second call changes nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Headers that a signature of AWS covers, beside its own. None has a value that a sender chose,
/// except the type of the body.
static SIGNED: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
];

/// Delivers events by HTTP POST.
///
/// Connections are kept over invocations. Redirects are not followed: a moved endpoint is a change
/// of configuration.
pub struct HttpTarget<S, C> {
    connections: Connections,
    url: Url,
    timeout: Duration,
    secrets: SecretCache<S, Credentials, C>,
    tokens: Tokens,
    signer: Option<SigV4>,
    clock: C,
}

impl<S: SecretStore, C: Clock> HttpTarget<S, C> {
    /// A target at `url` that has `timeout` for an answer.
    ///
    /// Fails when the machine's trust store cannot be read. Needs [`install_tls_provider`].
    pub fn new(
        url: HttpsUrl,
        timeout: Duration,
        secrets: SecretCache<S, Credentials, C>,
        clock: C,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            connections: Connections::new()?,
            url: url.into_url(),
            timeout,
            secrets,
            tokens: Tokens::default(),
            signer: None,
            clock,
        })
    }

    /// Signs each request for AWS, where there is a signer.
    #[must_use]
    pub fn sign_with(self, signer: Option<SigV4>) -> Self {
        Self { signer, ..self }
    }

    /// Reads the secrets that the first delivery will need. The target itself is sent nothing but
    /// deliveries.
    pub async fn warm_up(&self) -> Result<(), SecretsError> {
        self.secrets.warm_up().await
    }

    /// Sends one request.
    async fn post(
        &self,
        delivery: &Delivery<'_>,
        session: &Session<'_>,
    ) -> Result<Outcome, DeliveryFailure> {
        let turn = delivery.turn().await?;
        let deadline = self.deadline(delivery);
        notice_closed_connections().await;
        let now = self.clock.now();
        drop(turn);
        let credentials = session.credentials;
        let mut headers = Self::headers(delivery, &credentials.secrets, now);
        if let Some(token) = &session.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        if let Some(signer) = &self.signer {
            let (url, body) = (self.url.as_str(), &delivery.event.body);
            Box::pin(signer.sign(url, &mut headers, &SIGNED, body, now))
                .await
                .map_err(|error| {
                    let error = display_chain(&*error);
                    no_credentials(&format!("the request cannot be signed for AWS: {error}"))
                })?;
        }
        let sent = Echo::of(&headers);
        let request = session
            .client
            .post(self.url.clone())
            .headers(headers)
            .body(delivery.event.body.clone());
        match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => Ok(self.read(response, session, &sent, deadline).await),
            Ok(Err(error)) => Err(failed_request(error, credentials)),
            Err(_) => Err(DeliveryFailure::new(
                FailureCause::TimedOut,
                "the target did not answer in time",
            )),
        }
    }

    fn deadline(&self, delivery: &Delivery<'_>) -> Instant {
        delivery.deadline.min(Instant::now() + self.timeout)
    }

    /// Makes ready what a request is sent with.
    async fn session<'a>(
        &self,
        delivery: &Delivery<'_>,
        credentials: &'a Credentials,
    ) -> Result<Session<'a>, DeliveryFailure> {
        credentials.check(self.clock.now(), self.signer.is_some())?;
        let client = self
            .connections
            .client(credentials)
            .map_err(|error| unusable_client(&error))?;
        let token = match &credentials.secrets.oauth {
            None => None,
            Some(oauth) => {
                let is_same_host = oauth.token_url.as_url().host() == self.url.host();
                let http = || credentials.token_client(&client, is_same_host);
                let deadline = self.deadline(delivery);
                let token = self.tokens.get(oauth, &self.clock, deadline, http);
                Some(Box::pin(token).await?)
            }
        };
        Ok(Session {
            client,
            token,
            credentials,
        })
    }

    /// Sends one request with these credentials.
    async fn send(&self, delivery: &Delivery<'_>, credentials: &Credentials) -> Sent {
        match self.session(delivery, credentials).await {
            Ok(session) => Sent {
                outcome: self.post(delivery, &session).await,
                token: session.token,
            },
            Err(failure) => Sent {
                outcome: Err(failure),
                token: None,
            },
        }
    }

    /// Tries once more where the credentials may have been changed or revoked since they were read:
    /// the event is not refused for that.
    async fn send_again(
        &self,
        delivery: &Delivery<'_>,
        used: &Credentials,
        first: Sent,
    ) -> Result<Outcome, DeliveryFailure> {
        let fresh = match (self.secrets.get_fresh().await, &first.outcome) {
            (Ok(fresh), _) => fresh,
            (Err(error), Ok(_)) => return Err(without_credentials(&error)),
            (Err(_), Err(_)) => return first.outcome,
        };
        // A 403 is about what the token's client may do, and another token of it would do no more.
        let refused = first.token.as_ref();
        let refused = refused.filter(|_| first.cause().and_then(FailureCause::status) == Some(401));
        if let Some(refused) = refused {
            self.tokens.forget(refused, self.clock.now()).await;
        }
        let is_changed = fresh.secrets != used.secrets;
        // With the same secret, only another token can help.
        if !is_changed && refused.is_none() {
            return first.outcome;
        }
        let session = self.session(delivery, &fresh).await?;
        if !is_changed && session.token == first.token {
            return first.outcome;
        }
        match self.post(delivery, &session).await {
            // The first request was sent: this is no attempt that was postponed.
            Err(second) if second.cause == FailureCause::Postponed => first.outcome,
            second => second,
        }
    }

    fn headers(delivery: &Delivery<'_>, secrets: &TargetSecrets, now: Timestamp) -> HeaderMap {
        let event = delivery.event;
        let timestamp = now.as_second();
        let mut headers = kept_headers(event);
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            } else {
                tracing::warn!(event_id = %event.id, header = %name, "left out a header that HTTP does not allow");
            }
        };
        if let Some(content_type) = &event.content_type {
            put(header::CONTENT_TYPE, content_type);
        }
        put(HeaderName::from_static("webhook-id"), event.id.as_str());
        put(
            HeaderName::from_static("webhook-timestamp"),
            &timestamp.to_string(),
        );
        if !secrets.signing.is_empty() {
            let signature = standard_webhooks::sign(
                &secrets.signing,
                event.id.as_str(),
                timestamp,
                &event.body,
            );
            put(HeaderName::from_static("webhook-signature"), &signature);
        }
        put(
            HeaderName::from_static("idempotency-key"),
            event.id.as_str(),
        );
        put(
            HeaderName::from_static("x-relay-attempt"),
            &delivery.attempt.to_string(),
        );
        put(
            HeaderName::from_static("x-relay-source"),
            event.source.as_str(),
        );
        if let Some(order) = delivery.order {
            put(HeaderName::from_static("x-relay-order"), order.as_str());
        }
        if let Some(run) = delivery.resend {
            put(HeaderName::from_static("x-relay-resend"), run);
        }
        if !headers
            .get(TRACEPARENT)
            .is_some_and(|sent| is_traceparent(sent.as_bytes()))
            && let Ok(made) = traceparent_of(&event.id, delivery.attempt).parse()
        {
            headers.insert(TRACEPARENT, made);
        }
        if let Some(value) = &secrets.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        headers.extend(secrets.headers.iter().cloned());
        headers
    }

    async fn read(
        &self,
        response: Response,
        session: &Session<'_>,
        sent: &Echo,
        deadline: Instant,
    ) -> Outcome {
        let status = response.status();
        let headers = response.headers();
        // One that cannot be read asks for a later try all the same.
        let is_asked = headers.contains_key(header::RETRY_AFTER);
        let retry_after =
            is_asked.then(|| retry_after_of(headers, self.clock.now()).unwrap_or_default());
        let location = headers
            .get(header::LOCATION)
            .filter(|_| status.is_redirection())
            .cloned();
        let body = timeout_at(deadline, read_beginning(response))
            .await
            .unwrap_or_default();
        if status.is_success() {
            return Outcome::Delivered {
                status: Some(status.as_u16()),
            };
        }
        if status == StatusCode::MISDIRECTED_REQUEST {
            self.connections.forget(session.credentials);
        }
        let mut cause = FailureCause::Status(status.as_u16());
        let mut detail = format!("the target answered {status}");
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let fields = session.credentials.secrets.fields();
            let fields = fields.chain(self.signer.as_ref().map(|_| "TargetSigV4Service"));
            let fields = fields.collect::<Vec<_>>().join(", ");
            if !fields.is_empty() {
                cause = FailureCause::Credentials(Some(status.as_u16()));
                detail.extend([" to the relay's credentials (", &fields, ")"]);
            }
        }
        if let Some(location) = location.and_then(|location| self.place(&location)) {
            detail.extend([" and names ", &sent.without(location)]);
        }
        Outcome::Failed(DeliveryFailure {
            cause,
            detail: excerpt(&detail),
            response: Some(excerpt(
                &sent.without(String::from_utf8_lossy(&body).into_owned()),
            ))
            .filter(|text| !text.is_empty()),
            retry_after,
        })
    }

    /// URL that a `Location` of the target leads to, without the parts that may be secret.
    fn place(&self, location: &HeaderValue) -> Option<String> {
        let url = self
            .url
            .join(&String::from_utf8_lossy(location.as_bytes()))
            .ok()?;
        url.has_host().then(|| without_secrets(url))
    }
}

impl<S: SecretStore, C: Clock> Target for HttpTarget<S, C> {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let credentials = match self.secrets.get().await {
            Ok(credentials) => credentials,
            Err(error) => return Outcome::Failed(without_credentials(&error)),
        };
        let first = self.send(&delivery, &credentials).await;
        let outcome = if first.may_be_outdated() {
            Box::pin(self.send_again(&delivery, &credentials, first)).await
        } else {
            first.outcome
        };
        outcome.unwrap_or_else(Outcome::Failed)
    }

    fn address(&self) -> String {
        without_secrets(self.url.clone())
    }
}

/// The connections and credentials of a request.
struct Session<'a> {
    client: Client,
    token: Option<HeaderValue>,
    credentials: &'a Credentials,
}

/// A request that was sent, or could not be, and its token.
struct Sent {
    outcome: Result<Outcome, DeliveryFailure>,
    token: Option<HeaderValue>,
}

impl Sent {
    fn cause(&self) -> Option<FailureCause> {
        match &self.outcome {
            Ok(Outcome::Failed(failure)) | Err(failure) => Some(failure.cause),
            Ok(Outcome::Delivered { .. }) => None,
        }
    }

    /// True if the cause may be that the secret was changed, or the token revoked.
    fn may_be_outdated(&self) -> bool {
        matches!(
            self.cause(),
            Some(FailureCause::Status(401 | 403) | FailureCause::Credentials(_))
        )
    }
}

/// Lets the runtime hear of connections that the target has closed while the function was frozen,
/// so that none of them is used: the first turn asks the sockets, the second one runs what waits
/// for them.
async fn notice_closed_connections() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

fn kept_headers(event: &Event) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &event.headers {
        let (Ok(header), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) else {
            tracing::warn!(event_id = %event.id, header = name, "left out a header that HTTP does not allow");
            continue;
        };
        // A message written by hand could name any header.
        if is_kept_header(header.as_str()) {
            headers.insert(header, value);
        }
    }
    headers
}

/// Reads the beginning of an answer, and a little more where that frees the connection for the next
/// delivery.
async fn read_beginning(mut response: Response) -> Vec<u8> {
    let mut beginning = Vec::new();
    let _ = timeout(BODY_TIMEOUT, async {
        let mut drained = 0;
        while drained < MAX_DRAINED_BYTES
            && let Ok(Some(chunk)) = response.chunk().await
        {
            drained += chunk.len();
            let missing = MAX_EXCERPT_BYTES.saturating_sub(beginning.len());
            beginning.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        }
    })
    .await;
    beginning
}

fn without_credentials(error: &SecretsError) -> DeliveryFailure {
    let error = display_chain(error);
    no_credentials(&format!("the target's credentials cannot be read: {error}"))
}

fn no_credentials(detail: &str) -> DeliveryFailure {
    DeliveryFailure::new(FailureCause::Credentials(None), excerpt(detail))
}

fn unusable_client(error: &reqwest::Error) -> DeliveryFailure {
    let error = display_chain(error);
    no_credentials(&format!(
        "targetClientCertificate or targetCa cannot be used: {error}"
    ))
}

fn failed_request(error: reqwest::Error, credentials: &Credentials) -> DeliveryFailure {
    let (cause, hint) = match CertificateFault::of(&error) {
        Some(fault) => credentials.explain(fault),
        None if error.is_builder() => (FailureCause::NotSent, ""),
        None => (FailureCause::Connection, ""),
    };
    // The URL may hold a token of the customer's.
    let error = display_chain(&error.without_url());
    let detail = format!("the target cannot be reached: {error}{hint}");
    DeliveryFailure::new(cause, excerpt(&detail))
}
