//! HTTPS to AWS: trusts the few authorities that AWS's own endpoints have their certificates from, and the platform's many
//! only where those do not do.
//!
//! Reading the hundred and fifty authorities of a platform takes longer than all the rest of a cold start. The few are those of
//! Amazon Trust Services (<https://www.amazontrust.com/repository/>, "all certificates should be trusted"); AWS asks its
//! customers to trust them, not the intermediate certificates. A gateway with a certificate of its own, another partition,
//! or a change at AWS costs one handshake more, and then the platform's authorities are asked.

#[cfg(test)]
mod tests;

use std::env;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use aws_sdk_sqs::config::SharedAsyncSleep;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::CertificateError;

use crate::logging::chain;

const AMAZON: &[u8] = include_bytes!("https/amazon-roots.pem");

/// aws-lc, the SDK's default, gathers entropy at the first handshake, and delays the first event by it.
const RING: Provider = Provider::Rustls(CryptoMode::Ring);

/// Variables by which OpenSSL, and what follows it, is told of a trust store.
const NAMED: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The client for all services. Who names a trust store of their own gets that one and no other.
pub(super) fn client() -> SharedHttpClient {
    if NAMED.iter().any(|name| env::var_os(name).is_some()) {
        return Builder::new().tls_provider(RING).build_https();
    }
    SharedHttpClient::new(Fallback::new(TrustStore::empty().with_pem_certificate(AMAZON), TrustStore::default()))
}

fn context(roots: TrustStore) -> TlsContext {
    TlsContext::builder().with_trust_store(roots).build().expect("a context of certificates alone")
}

/// A client that asks other authorities once the first do not vouch for a certificate.
struct Fallback {
    first: SharedHttpClient,
    then: Arc<Then>,
}

/// What comes after the first. Its authorities are read when they are needed.
struct Then {
    roots: TrustStore,
    connector: OnceLock<SharedHttpConnector>,
}

impl Fallback {
    fn new(first: TrustStore, then: TrustStore) -> Self {
        Self {
            first: Builder::new().tls_provider(RING).tls_context(context(first)).build_https(),
            then: Arc::new(Then { roots: then, connector: OnceLock::new() }),
        }
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fallback").field("then", &self.then.connector).finish_non_exhaustive()
    }
}

impl HttpClient for Fallback {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        if let Some(then) = self.then.connector.get() {
            return then.clone();
        }
        SharedHttpConnector::new(First {
            connector: self.first.http_connector(settings, components),
            then: Arc::clone(&self.then),
            settings: settings.clone(),
            sleep: components.sleep_impl(),
        })
    }
}

/// For a call before anybody has needed others.
struct First {
    connector: SharedHttpConnector,
    then: Arc<Then>,
    settings: HttpConnectorSettings,
    sleep: Option<SharedAsyncSleep>,
}

impl fmt::Debug for First {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("First").field(&self.connector).finish()
    }
}

impl HttpConnector for First {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Some(again) = request.try_clone() else { return self.connector.call(request) };
        let answer = self.connector.call(request);
        let (then, settings, sleep) = (Arc::clone(&self.then), self.settings.clone(), self.sleep.clone());
        HttpConnectorFuture::new(async move {
            match answer.await {
                // Nothing of the request has been sent: the handshake comes before it.
                Err(error) if is_distrust(&error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "AWS's usual authorities do not vouch for a certificate; the platform's are asked from now on"
                    );
                    then.connector(settings, sleep).call(again).await
                }
                outcome => outcome,
            }
        })
    }
}

impl Then {
    fn connector(&self, settings: HttpConnectorSettings, sleep: Option<SharedAsyncSleep>) -> &SharedHttpConnector {
        self.connector.get_or_init(|| {
            let mut connector = Connector::builder().connector_settings(settings);
            connector.set_sleep_impl(sleep);
            SharedHttpConnector::new(connector.tls_provider(RING).tls_context(context(self.roots.clone())).build())
        })
    }
}

/// Whether this comes of an authority that is not among those that were asked, or of another one with the same name.
fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return matches!(reason, CertificateError::UnknownIssuer | CertificateError::BadSignature);
        }
        // What an I/O error wraps is not its source: the source of that is.
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref).map(|error| error as &(dyn StdError + 'static));
        cause = wrapped.or_else(|| error.source());
    }
    false
}
