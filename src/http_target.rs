//! The customer's system over HTTPS: what is sent to it, and how its answer is read.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::Clock;
use crate::event::Event;
use crate::logging::chain;
use crate::message::is_kept_header;
use crate::reason::{MAX_EXCERPT_BYTES, excerpt};
use crate::retry::parse_retry_after;
use crate::secrets::{SecretCache, SecretStore, SecretsError, TargetSecrets};
use crate::standard_webhooks;
use crate::target::{Cause, Delivery, Failure, Outcome, Target};

/// Time for TCP and TLS. A host that does not answer in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept: shorter than the 60 s after which common load balancers close theirs.
/// One that was closed while the function was frozen is noticed before it is used, if word of it has come.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// An answer is read this far, so that its connection can be used again; a longer one costs the connection.
const MAX_DRAINED_BYTES: usize = 64 * 1024;

/// An answer's body has this long once its status is there. The status alone decides.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// A URL that events cannot be delivered to.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTargetUrl {
    /// It cannot be parsed.
    #[error("it is not a URL")]
    Syntax,
    /// Events would travel in clear.
    #[error("it must be https (http is for 127.0.0.1, [::1] and localhost only)")]
    NotHttps,
    /// Credentials do not belong into an environment variable.
    #[error("it must not hold a user name or password; put targetAuthorization into the stack's secret")]
    Credentials,
}

/// Where events are delivered: a URL that leaks neither events nor credentials.
#[derive(Debug, Clone)]
pub struct TargetUrl(Url);

impl FromStr for TargetUrl {
    type Err = InvalidTargetUrl;

    fn from_str(text: &str) -> Result<Self, InvalidTargetUrl> {
        let url = Url::parse(text).map_err(|_| InvalidTargetUrl::Syntax)?;
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            _ => return Err(InvalidTargetUrl::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTargetUrl::Credentials);
        }
        Ok(Self(url))
    }
}

/// Makes ring the provider of TLS for this process. Call it once, before a target is made.
///
/// A second call changes nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Delivers events by HTTP POST.
///
/// Connections are kept over invocations. Redirects are not followed: a moved endpoint is a change of configuration.
pub struct HttpTarget<S, C> {
    client: Client,
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
        TargetUrl(url): TargetUrl,
        timeout: Duration,
        secrets: SecretCache<S, TargetSecrets, C>,
        clock: C,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("genesys-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, url, timeout, secrets, clock })
    }

    async fn post(&self, delivery: &Delivery<'_>, secrets: &TargetSecrets, deadline: Instant) -> Outcome {
        let headers = self.headers(delivery, secrets);
        let request = self.client.post(self.url.clone()).headers(headers).body(delivery.event.body.clone());
        match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => self.read(response, deadline).await,
            Ok(Err(error)) => Outcome::Failed(failed_request(error)),
            Err(_) => Outcome::Failed(Failure::new(Cause::TimedOut, "the target did not answer in time")),
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
        put(HeaderName::from_static("webhook-timestamp"), &timestamp.to_string());
        if !secrets.signing.is_empty() {
            let signature = standard_webhooks::sign(&secrets.signing, event.id.as_str(), timestamp, &event.body);
            put(HeaderName::from_static("webhook-signature"), &signature);
        }
        put(HeaderName::from_static("idempotency-key"), event.id.as_str());
        put(HeaderName::from_static("x-relay-attempt"), &delivery.attempt.to_string());
        put(HeaderName::from_static("x-relay-source"), event.source.as_str());
        if let Some(value) = &secrets.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        headers
    }

    async fn read(&self, response: Response, deadline: Instant) -> Outcome {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.to_str().ok()?, self.clock.now()));
        let body = timeout_at(deadline, read_beginning(response)).await.unwrap_or_default();
        if status.is_success() {
            return Outcome::Delivered { status: Some(status.as_u16()) };
        }
        Outcome::Failed(Failure {
            cause: Cause::Status(status.as_u16()),
            detail: format!("the target answered {status}"),
            response: Some(excerpt(&String::from_utf8_lossy(&body))).filter(|text| !text.is_empty()),
            retry_after,
        })
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
        if !matches!(&outcome, Outcome::Failed(failure) if failure.cause == Cause::Status(unauthorized)) {
            return outcome;
        }
        // The target's credentials may have been rotated since the secret was read: that is no reason to give up.
        match self.secrets.get_fresh().await {
            Ok(fresh) if fresh.authorization != secrets.authorization => self.post(&delivery, &fresh, deadline).await,
            Ok(_) => outcome,
            Err(error) => Outcome::Failed(without_credentials(&error)),
        }
    }

    /// The URL without its query, where some put their keys.
    fn address(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }
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

/// Reads the beginning of an answer, and a little more where that frees the connection for the next delivery.
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

fn without_credentials(error: &SecretsError) -> Failure {
    Failure::new(Cause::NotSent, excerpt(&format!("the target's credentials cannot be read: {}", chain(error))))
}

fn failed_request(error: reqwest::Error) -> Failure {
    let cause = if error.is_builder() { Cause::NotSent } else { Cause::Connection };
    // The URL may hold a token of the customer's.
    let detail = format!("the target cannot be reached: {}", chain(&error.without_url()));
    Failure::new(cause, excerpt(&detail))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use http::{Request, Response as Answer};
    use http_body_util::{BodyExt, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::secrets::FromSecret as _;
    use crate::testing::{FakeClock, FakeSecretStore};

    type Requests = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    /// Listens on loopback and hands each connection, with its number, to `serve`.
    async fn listen<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(serve(stream, number));
            }
        });
        address
    }

    /// A server that answers as `answer` says and remembers what it was asked, and over how many connections.
    async fn server(
        answer: impl Fn(&HeaderMap) -> Answer<Full<Bytes>> + Clone + Send + Sync + 'static,
    ) -> (SocketAddr, Requests, Arc<Mutex<usize>>) {
        let (requests, connections) = (Requests::default(), Arc::<Mutex<usize>>::default());
        let (seen, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let address = listen(move |stream, _| {
            *opened.lock().expect("not poisoned") += 1;
            let (seen, answer) = (Arc::clone(&seen), answer.clone());
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (Arc::clone(&seen), answer.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.expect("a body").to_bytes();
                        let answer = answer(&parts.headers);
                        seen.lock().expect("not poisoned").push((parts.headers, body));
                        Ok::<_, Infallible>(answer)
                    }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await;
        (address, requests, connections)
    }

    fn status(status: u16) -> Answer<Full<Bytes>> {
        Answer::builder().status(status).body(Full::default()).expect("an answer")
    }

    fn target(address: SocketAddr, store: FakeSecretStore) -> HttpTarget<FakeSecretStore, FakeClock> {
        install_tls_provider();
        let url = format!("http://{address}/events?token=hunter2").parse().expect("a URL");
        let secrets = SecretCache::new(store, Duration::from_mins(5), FakeClock);
        HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client")
    }

    fn plain(address: SocketAddr) -> HttpTarget<FakeSecretStore, FakeClock> {
        target(address, FakeSecretStore::holding(&serde_json::json!({})))
    }

    fn event() -> Event {
        let headers = [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-genesys-webhook-id", "w1"),
            ("authorization", "Basic bWFkZSBieSBoYW5k"),
            ("host", "elsewhere.example"),
        ];
        Event {
            id: "an-event".parse().expect("an id"),
            source: crate::event::Source::Webhook,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            content_type: Some("application/json; charset=utf-8".to_owned()),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            body: b"{ \"a\": 1 }\n".to_vec(),
            origin: None,
        }
    }

    async fn deliver<S: SecretStore, C: Clock>(target: &HttpTarget<S, C>, limit: Duration) -> Outcome {
        target.deliver(Delivery { event: &event(), attempt: 3, deadline: Instant::now() + limit }).await
    }

    async fn deliver_to(address: SocketAddr) -> Outcome {
        deliver(&plain(address), Duration::from_secs(10)).await
    }

    fn failure(outcome: Outcome) -> Failure {
        match outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Delivered { .. } => panic!("delivered"),
        }
    }

    #[tokio::test]
    async fn a_delivery_carries_the_body_and_the_headers_that_the_readme_lists() {
        let (address, requests, _) = server(|_| status(204)).await;
        let store = FakeSecretStore::holding(&serde_json::json!({
            "targetAuthorization": "Bearer of-the-target",
            "targetSigningSecrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        }));
        let outcome = deliver(&target(address, store), Duration::from_secs(10)).await;
        assert_eq!(outcome, Outcome::Delivered { status: Some(204) });
        let (headers, body) = requests.lock().expect("not poisoned").pop().expect("a request");
        assert_eq!(&body[..], event().body);
        for (name, value) in [
            ("content-type", "application/json; charset=utf-8"),
            ("webhook-id", "an-event"),
            ("idempotency-key", "an-event"),
            ("x-relay-attempt", "3"),
            ("x-relay-source", "webhook"),
            ("x-genesys-webhook-id", "w1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("authorization", "Bearer of-the-target"),
            ("host", &address.to_string()),
        ] {
            assert_eq!(headers.get(name).map(|value| value.to_str().expect("text")), Some(value), "{name}");
        }
        let timestamp: i64 = headers["webhook-timestamp"].to_str().expect("text").parse().expect("seconds");
        let secret = r#"{"targetSigningSecrets":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#;
        let key = TargetSecrets::from_secret(secret).expect("secrets");
        let signature = standard_webhooks::sign(&key.signing, "an-event", timestamp, &body);
        assert_eq!(headers["webhook-signature"], signature.as_str());
    }

    #[tokio::test]
    async fn an_answer_that_is_not_2xx_is_a_failure_with_its_beginning() {
        let (address, ..) = server(|_| {
            Answer::builder()
                .status(429)
                .header("retry-after", "120")
                .body(Full::from("slow\u{7} down".repeat(1000)))
                .expect("an answer")
        })
        .await;
        let failure = failure(deliver_to(address).await);
        assert_eq!((failure.cause, failure.retry_after), (Cause::Status(429), Some(Duration::from_mins(2))));
        let response = failure.response.expect("an excerpt");
        assert!(response.starts_with("slow  down") && response.len() <= MAX_EXCERPT_BYTES);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (elsewhere, requests, _) = server(|_| status(200)).await;
        let (address, ..) = server(move |_| {
            let location = format!("http://{elsewhere}/");
            Answer::builder().status(307).header("location", location).body(Full::default()).expect("an answer")
        })
        .await;
        assert_eq!(failure(deliver_to(address).await).cause, Cause::Status(307));
        assert!(requests.lock().expect("not poisoned").is_empty());
    }

    #[tokio::test]
    async fn a_target_that_cannot_be_reached_is_a_failure_that_shows_no_token() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let reset = listen(|stream, _| async move { drop(stream) }).await;
        for address in [closed, reset] {
            let failure = failure(deliver_to(address).await);
            assert_eq!(failure.cause, Cause::Connection);
            assert!(!failure.detail.contains("hunter2"), "{}", failure.detail);
        }
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_in_time_timed_out() {
        let silent = listen(|mut stream, _| async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let failure = failure(deliver(&plain(silent), Duration::from_millis(300)).await);
        assert_eq!(failure.cause, Cause::TimedOut);
    }

    #[tokio::test]
    async fn the_status_decides_however_the_body_goes_on() {
        let endless = listen(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n").await;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
        })
        .await;
        assert_eq!(deliver_to(endless).await, Outcome::Delivered { status: Some(200) });
        let trickling = listen(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\nno").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let failure = failure(deliver_to(trickling).await);
        assert_eq!((failure.cause, failure.response.as_deref()), (Cause::Status(404), Some("no")));
    }

    #[tokio::test]
    async fn one_connection_serves_many_deliveries() {
        let (address, _, connections) =
            server(|_| Answer::new(Full::from("an answer to be drained".repeat(100)))).await;
        let target = plain(address);
        for _ in 0..5 {
            assert!(matches!(deliver(&target, Duration::from_secs(10)).await, Outcome::Delivered { .. }));
        }
        assert_eq!(*connections.lock().expect("not poisoned"), 1);
    }

    /// Freezes this thread, as Lambda freezes a function, while the target closes the idle connection.
    #[tokio::test]
    async fn a_connection_that_was_closed_during_a_freeze_is_not_used_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answered, closed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                drop(stream);
                let _ = answered.send(());
            }
        });
        let target = plain(address);
        for _ in 0..20 {
            let outcome = deliver(&target, Duration::from_secs(10)).await;
            assert_eq!(outcome, Outcome::Delivered { status: Some(200) });
            // Blocks the only thread until the target has closed: the runtime cannot notice before the next delivery.
            closed.recv().expect("closed");
        }
    }

    #[tokio::test]
    async fn rotated_credentials_of_the_target_are_read_again_before_giving_up() {
        let (address, requests, _) = server(|headers| {
            let valid = headers.get("authorization").is_some_and(|value| value == "Bearer new");
            status(if valid { 200 } else { 401 })
        })
        .await;
        let store = FakeSecretStore::holding(&serde_json::json!({ "targetAuthorization": "Bearer old" }));
        let target = {
            install_tls_provider();
            let url = format!("http://{address}/").parse().expect("a URL");
            // Kept for no time at all, so that the test need not wait until the copy is old.
            let secrets = SecretCache::new(store.clone(), Duration::ZERO, FakeClock);
            HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client")
        };
        assert_eq!(failure(deliver(&target, Duration::from_secs(10)).await).cause, Cause::Status(401));
        assert_eq!(requests.lock().expect("not poisoned").len(), 1, "the same credentials are not tried twice");
        let rotating = RotatesOnSecondRead { first: store.clone(), reads: Mutex::default() };
        let url = format!("http://{address}/").parse().expect("a URL");
        let secrets = SecretCache::new(rotating, Duration::ZERO, FakeClock);
        let target = HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client");
        assert_eq!(deliver(&target, Duration::from_secs(10)).await, Outcome::Delivered { status: Some(200) });
    }

    struct RotatesOnSecondRead {
        first: FakeSecretStore,
        reads: Mutex<usize>,
    }

    impl SecretStore for RotatesOnSecondRead {
        async fn read(&self) -> Result<String, SecretsError> {
            let reads = {
                let mut reads = self.reads.lock().expect("not poisoned");
                *reads += 1;
                *reads
            };
            if reads > 1 {
                self.first.hold(&serde_json::json!({ "targetAuthorization": "Bearer new" }));
            }
            self.first.read().await
        }
    }

    #[tokio::test]
    async fn a_401_is_not_final_while_the_credentials_cannot_be_read_again() {
        let (address, ..) = server(|_| status(401)).await;
        let store = FakeSecretStore::holding(&serde_json::json!({ "targetAuthorization": "Bearer old" }));
        let secrets = SecretCache::new(FailsAfterFirstRead(store), Duration::ZERO, FakeClock);
        install_tls_provider();
        let url = format!("http://{address}/").parse().expect("a URL");
        let target = HttpTarget::new(url, Duration::from_secs(10), secrets, FakeClock).expect("a client");
        assert_eq!(failure(deliver(&target, Duration::from_secs(10)).await).cause, Cause::NotSent);
    }

    struct FailsAfterFirstRead(FakeSecretStore);

    impl SecretStore for FailsAfterFirstRead {
        async fn read(&self) -> Result<String, SecretsError> {
            let secret = self.0.read().await;
            self.0.fail();
            secret
        }
    }

    #[tokio::test]
    async fn without_credentials_nothing_is_sent() {
        let (address, requests, _) = server(|_| status(200)).await;
        let store = FakeSecretStore::holding(&serde_json::json!({}));
        store.fail();
        let failure = failure(deliver(&target(address, store), Duration::from_secs(10)).await);
        assert_eq!(failure.cause, Cause::NotSent);
        assert!(requests.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn a_url_that_would_leak_is_refused() {
        for url in ["https://example.com/x", "http://127.0.0.1:8080/", "http://localhost/", "http://[::1]:1/"] {
            assert!(url.parse::<TargetUrl>().is_ok(), "{url}");
        }
        for url in ["http://example.com/", "ftp://example.com/", "https://a:b@example.com/", "http://127.0.0.1.nip.io/"]
        {
            assert!(url.parse::<TargetUrl>().is_err(), "{url}");
        }
    }
}
