//! Trust stores for AWS: the few authorities that its own endpoints have their certificates from,
//! and the platform's many where the few do not vouch for a certificate.
//!
//! Reading the hundred and fifty authorities of a platform takes longer than all the rest of a cold
//! start. The few are those of Amazon Trust Services (<https://www.amazontrust.com/repository/>,
//! "all certificates should be trusted"); AWS asks its customers to trust them, not the
//! intermediate certificates. A gateway with a certificate of its own, another partition, or a
//! change at AWS costs the reading of the platform's, within the handshake that needs them.

use std::env;
use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

pub(super) const AMAZON: &[u8] = include_bytes!("amazon-roots.pem");

/// Variables by which OpenSSL, and what follows it, is told of a trust store.
const NAMED: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Verifies certificates as rustls does, by the first of some trust stores that vouches for them.
#[derive(Debug)]
pub(super) struct Authorities {
    stores: Vec<Store>,
    provider: Arc<CryptoProvider>,
}

/// A trust store, read when it is needed; none if nothing is in it.
type Store = LazyLock<
    Option<Arc<WebPkiServerVerifier>>,
    Box<dyn FnOnce() -> Option<Arc<WebPkiServerVerifier>> + Send>,
>;

impl Authorities {
    /// Those of a function. Who names a trust store of their own gets that one and no other.
    pub(super) fn of_process(provider: &Arc<CryptoProvider>) -> Self {
        if NAMED.iter().any(|name| env::var_os(name).is_some()) {
            return Self::new(vec![Box::new(platform)], provider);
        }
        Self::new(vec![Box::new(amazon), Box::new(platform)], provider)
    }

    /// Those that these read, asked in this order.
    pub(super) fn new(
        stores: Vec<Box<dyn FnOnce() -> RootCertStore + Send>>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        let store = |read: Box<dyn FnOnce() -> RootCertStore + Send>| -> Store {
            let provider = Arc::clone(provider);
            LazyLock::new(Box::new(move || {
                // Fails only if nothing is in it: there are no lists of revoked certificates.
                WebPkiServerVerifier::builder_with_provider(Arc::new(read()), provider)
                    .build()
                    .ok()
            }))
        };
        Self {
            stores: stores.into_iter().map(store).collect(),
            provider: Arc::clone(provider),
        }
    }
}

/// The five of Amazon Trust Services.
pub(super) fn amazon() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(AMAZON).filter_map(Result::ok));
    roots
}

/// The platform's, or those of the store that the variables name.
fn platform() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    if !found.errors.is_empty() {
        tracing::warn!(errors = ?found.errors, "not all certificates of the trust store can be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::error!("the trust store holds no certificate: no service can be trusted");
    }
    roots
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut verdict = Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        for verifier in self.stores.iter().filter_map(|store| store.as_ref()) {
            verdict =
                verifier.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
            let Err(error) = &verdict else { break };
            let service = name.to_str();
            tracing::warn!(%service, %error, "a trust store does not vouch for a certificate; the next one is asked, if any");
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
