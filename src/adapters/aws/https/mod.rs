//! HTTPS to AWS: hyper's client with ring, in place of the SDK's own.
//!
//! The SDK's brings HTTP/2 and proxies, which none of the services here needs, and has one trust
//! store, chosen at start. With it and the same store, a cold start of ingest takes 2.9 % more
//! instructions, and the zip 16 % more bytes: 2.99 MB, where 3.0 MB are the bound. This one has one
//! pool of connections for all clients that are made of one configuration, and two trust stores
//! that only [`Authorities`] knows of.

mod authorities;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{Client, connect};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use self::authorities::Authorities;
use super::timeouts::CONNECT_TIMEOUT;

/// The client of a configuration, for all services.
pub(super) fn client() -> SharedHttpClient {
    let ring = Arc::new(provider());
    with(Authorities::of_process(&ring), ring)
}

/// A client that trusts these.
fn with(authorities: Authorities, provider: Arc<CryptoProvider>) -> SharedHttpClient {
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for them")
        .dangerous()
        // Nothing dangerous about it: they verify as rustls does.
        .with_custom_certificate_verifier(Arc::new(authorities))
        .with_no_client_auth();
    let mut tcp = connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // Without TLS on a machine of one's own: the SDK is told so by a variable.
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(InTime(https));
    SharedHttpClient::new(Https(SharedHttpConnector::new(Hyper(client))))
}

/// ring's, and first of all the suite that hashes with SHA-256, for which processors have
/// instructions.
///
/// aws-lc, the SDK's default, gathers entropy at the first handshake, and delays the first event by
/// it.
fn provider() -> CryptoProvider {
    let mut ring = ring::default_provider();
    ring.cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    ring
}

/// The client of each of the SDK's clients: one pool for all.
#[derive(Debug)]
struct Https(SharedHttpConnector);

impl HttpClient for Https {
    /// The time limit for a connection is ours, [`CONNECT_TIMEOUT`]; those for attempts and calls
    /// are above this.
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.clone()
    }
}

/// A pool of connections.
#[derive(Debug)]
struct Hyper(Client<InTime, SdkBody>);

impl HttpConnector for Hyper {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
            }
        };
        lend_connection(&mut request);
        let answer = self.0.request(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await.map_err(|error| classify(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Lets the SDK have the connection closed after an answer that does not bode well for the next
/// one.
fn lend_connection(request: &mut Request<SdkBody>) {
    let captured = capture_connection(request);
    if let Some(sdk) = request.extensions().get::<CaptureSmithyConnection>() {
        sdk.set_connection_retriever(move || lent(captured.clone()));
    }
}

fn lent(captured: CaptureConnection) -> Option<ConnectionMetadata> {
    // Before there is one, there is none to close.
    captured.connection_metadata().as_ref()?;
    let close = move || {
        if let Some(connection) = captured.connection_metadata().as_ref() {
            connection.poison();
        }
    };
    Some(
        ConnectionMetadata::builder()
            .proxied(false)
            .poison_fn(close)
            .build(),
    )
}

/// Kind of a failure, by which the SDK decides whether to retry.
fn classify(error: Box<dyn StdError + Send + Sync>) -> ConnectorError {
    if find::<TookTooLong>(&*error).is_some() {
        ConnectorError::timeout(error)
    } else if find::<hyper::Error>(&*error).is_some_and(hyper::Error::is_user) {
        ConnectorError::user(error)
    } else {
        // Connections that cannot be made or that end early; all else about a request is settled
        // before it comes here.
        ConnectorError::io(error)
    }
}

/// The first error of this kind among an error and its causes.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an I/O error wraps is not its source: the source of that is.
        let wrapped = error
            .downcast_ref()
            .and_then(io::Error::get_ref)
            .map(|error| error as &(dyn StdError + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    None
}

/// TCP and TLS, within [`CONNECT_TIMEOUT`].
#[derive(Debug, Clone)]
struct InTime(HttpsConnector<connect::HttpConnector>);

/// A connection was not there in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {CONNECT_TIMEOUT:?}")]
struct TookTooLong;

impl Service<Uri> for InTime {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(|_| TookTooLong)?
        })
    }
}
