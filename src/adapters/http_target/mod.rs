//! Delivery to the customer's system over HTTPS.

#[cfg(test)]
mod tests;

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use tokio::time::{Instant, timeout, timeout_at};

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

/// Time for TCP and TLS. A host that does not answer in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which an idle connection is kept: shorter than the 60 s after which common load
/// balancers close theirs. One that was closed while the function was frozen is noticed before it
/// is used ([`notice_closed_connections`]).
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

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

/// Delivers events by HTTP POST.
///
/// Connections are kept over invocations. Redirects are not followed: a moved endpoint is a change
/// of configuration.
pub struct HttpTarget<S, C> {
    /// Its connections.
    client: RwLock<Client>,
    url: Url,
    timeout: Duration,
    secrets: SecretCache<S, TargetSecrets, C>,
    clock: C,
}

impl<S: SecretStore, C: Clock> HttpTarget<S, C> {
    /// A target at `url` that has `timeout` for an answer.
    ///
    /// Fails when the machine's trust store cannot be read. Needs [`install_tls_provider`].
    pub fn new(
        url: HttpsUrl,
        timeout: Duration,
        secrets: SecretCache<S, TargetSecrets, C>,
        clock: C,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: RwLock::new(client()?),
            url: url.into_url(),
            timeout,
            secrets,
            clock,
        })
    }

    /// Reads the secrets that the first delivery will need. The target itself is sent nothing but
    /// deliveries.
    pub async fn warm_up(&self) -> Result<(), SecretsError> {
        self.secrets.warm_up().await
    }

    async fn post(
        &self,
        delivery: &Delivery<'_>,
        secrets: &TargetSecrets,
        deadline: Instant,
    ) -> Outcome {
        notice_closed_connections().await;
        let headers = self.headers(delivery, secrets);
        let client = self
            .client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let request = client
            .post(self.url.clone())
            .headers(headers)
            .body(delivery.event.body.clone());
        match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => self.read(response, deadline).await,
            Ok(Err(error)) => Outcome::Failed(failed_request(error)),
            Err(_) => Outcome::Failed(DeliveryFailure::new(
                FailureCause::TimedOut,
                "the target did not answer in time",
            )),
        }
    }

    fn headers(&self, delivery: &Delivery<'_>, secrets: &TargetSecrets) -> HeaderMap {
        let event = delivery.event;
        let timestamp = self.clock.now().as_second();
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
        headers
    }

    async fn read(&self, response: Response, deadline: Instant) -> Outcome {
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
            self.forget_connections();
        }
        let mut detail = format!("the target answered {status}");
        if let Some(location) = location.and_then(|location| self.place(&location)) {
            detail.extend([" and names ", &location]);
        }
        Outcome::Failed(DeliveryFailure {
            cause: FailureCause::Status(status.as_u16()),
            detail: excerpt(&detail),
            response: Some(excerpt(&String::from_utf8_lossy(&body)))
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

    /// The next attempt makes a connection of its own: the one that there is leads to a server that
    /// does not serve this URL.
    fn forget_connections(&self) {
        match client() {
            Ok(client) => *self.client.write().unwrap_or_else(PoisonError::into_inner) = client,
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to make a new connection pool; keeping the old one"
                );
            }
        }
    }
}

impl<S: SecretStore, C: Clock> Target for HttpTarget<S, C> {
    async fn deliver(&self, delivery: Delivery<'_>) -> Outcome {
        let secrets = match self.secrets.get().await {
            Ok(secrets) => secrets,
            Err(error) => return Outcome::Failed(without_credentials(&error)),
        };
        let deadline = delivery.deadline.min(Instant::now() + self.timeout);
        let outcome = self.post(&delivery, &secrets, deadline).await;
        let unauthorized = StatusCode::UNAUTHORIZED.as_u16();
        if !matches!(&outcome, Outcome::Failed(failure) if failure.cause == FailureCause::Status(unauthorized))
        {
            return outcome;
        }
        // The target's credentials may have been rotated since the secret was read: that is no
        // reason to give up.
        match self.secrets.get_fresh().await {
            Ok(fresh) if fresh.authorization != secrets.authorization => {
                self.post(&delivery, &fresh, deadline).await
            }
            Ok(_) => outcome,
            Err(error) => Outcome::Failed(without_credentials(&error)),
        }
    }

    fn address(&self) -> String {
        without_secrets(self.url.clone())
    }
}

/// A client with no connections yet.
fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("genesys-relay/", env!("CARGO_PKG_VERSION")))
        .build()
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
    DeliveryFailure::new(
        FailureCause::NotSent,
        excerpt(&format!(
            "the target's credentials cannot be read: {}",
            display_chain(error)
        )),
    )
}

fn failed_request(error: reqwest::Error) -> DeliveryFailure {
    let cause = if error.is_builder() {
        FailureCause::NotSent
    } else {
        FailureCause::Connection
    };
    // The URL may hold a token of the customer's.
    let detail = format!(
        "the target cannot be reached: {}",
        display_chain(&error.without_url())
    );
    DeliveryFailure::new(cause, excerpt(&detail))
}
