//! Against TLS servers whose authority is made for the test.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_sqs::error::SdkError;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::authorities::{AMAZON, amazon};
use super::*;

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
                .expect("a certificate"),
        )
    }

    fn trusted(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        roots
    }

    /// A service with a certificate by this authority: its URL, and how many requests it got.
    async fn service(&self) -> (String, Arc<AtomicUsize>) {
        let (url, requests, _) = self.service_answering(|_| 200).await;
        (url, requests)
    }

    /// One that answers its requests, counted from one, with these statuses: also how many
    /// connections it got.
    async fn service_answering(
        &self,
        status: fn(usize) -> u16,
    ) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()]).expect("a name");
        let certificate = params
            .signed_by(&key, &self.0)
            .expect("a certificate")
            .der()
            .clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
        let config = config
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a key of the certificate")));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let (requests, connections) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counted = (Arc::clone(&requests), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, requests) = (acceptor.clone(), Arc::clone(&counted.0));
                counted.1.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = service_fn(|_: hyper::Request<Incoming>| {
                        let mut answer = hyper::Response::new(Full::new(Bytes::from_static(b"{}")));
                        let status = status(requests.fetch_add(1, Ordering::Relaxed) + 1);
                        *answer.status_mut() = status.try_into().expect("a status");
                        async { Ok::<_, hyper::Error>(answer) }
                    });
                    // An error is a client that went away.
                    drop(
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), answer)
                            .await,
                    );
                });
            }
        });
        (url, requests, connections)
    }
}

fn client(url: String, first: RootCertStore, then: RootCertStore) -> Client {
    let provider = Arc::new(provider());
    let authorities = Authorities::new(vec![Box::new(|| first), Box::new(|| then)], &provider);
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(url)
        .http_client(with(authorities, provider));
    Client::from_conf(config.build())
}

fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    find(error).is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
}

#[tokio::test]
async fn an_issuer_unknown_to_the_first_authorities_is_looked_for_among_the_others() {
    let (theirs, other) = (Authority::new(), Authority::new());
    let (url, requests) = theirs.service().await;
    let client = client(url, other.trusted(), theirs.trusted());
    for sent in 1..=2 {
        client.list_queues().send().await.expect("an answer");
        assert_eq!(requests.load(Ordering::Relaxed), sent, "each is sent once");
    }
}

#[tokio::test]
async fn the_others_are_not_asked_where_the_first_know_the_issuer() {
    let (theirs, other) = (Authority::new(), Authority::new());
    let (url, requests) = theirs.service().await;
    client(url, theirs.trusted(), other.trusted())
        .list_queues()
        .send()
        .await
        .expect("an answer");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_service_whose_issuer_is_unknown_gets_nothing() {
    let (theirs, first, then) = (Authority::new(), Authority::new(), Authority::new());
    let (url, requests) = theirs.service().await;
    let error = client(url, first.trusted(), then.trusted())
        .list_queues()
        .send()
        .await
        .expect_err("no trust");
    assert!(is_distrust(&error), "{error:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let theirs = Authority::new();
    let (url, requests) = theirs.service().await;
    let client = client(
        url.replace("127.0.0.1", "localhost"),
        theirs.trusted(),
        theirs.trusted(),
    );
    let error = client.list_queues().send().await.expect_err("another name");
    assert!(is_distrust(&error), "{error:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_empty_trust_store_vouches_for_nothing() {
    let theirs = Authority::new();
    let (url, requests) = theirs.service().await;
    let untrusting = client(url.clone(), RootCertStore::empty(), RootCertStore::empty());
    let error = untrusting.list_queues().send().await.expect_err("no trust");
    assert!(is_distrust(&error), "{error:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    client(url, RootCertStore::empty(), theirs.trusted())
        .list_queues()
        .send()
        .await
        .expect("an answer");
}

#[tokio::test]
async fn after_an_answer_that_bodes_ill_the_next_attempt_takes_another_connection() {
    let theirs = Authority::new();
    let (url, requests, connections) = theirs
        .service_answering(|request| if request == 1 { 500 } else { 200 })
        .await;
    let client = client(url, theirs.trusted(), theirs.trusted());
    for _ in 0..3 {
        client.list_queues().send().await.expect("an answer");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 4);
    assert_eq!(
        connections.load(Ordering::Relaxed),
        2,
        "one for the answer that failed, and one for all after it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_the_connection_and_says_nothing_is_given_a_second() {
    let authority = Authority::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let url = format!("https://{}", silent.local_addr().expect("an address"));
    let client = client(url, authority.trusted(), authority.trusted());
    let config = client
        .config()
        .to_builder()
        .retry_config(RetryConfig::disabled());
    let began = Instant::now();
    let error = Client::from_conf(config.build())
        .list_queues()
        .send()
        .await
        .expect_err("no connection");
    assert!(
        matches!(&error, SdkError::DispatchFailure(failure) if failure.is_timeout()),
        "{error:?}"
    );
    assert!(began.elapsed() >= CONNECT_TIMEOUT);
}

#[test]
fn the_usual_authorities_are_those_of_amazon() {
    // The SHA-256 fingerprints of the repository of Amazon Trust Services.
    const FINGERPRINTS: [&str; 5] = [
        "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
        "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
        "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
        "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
    ];
    let fingerprints = CertificateDer::pem_slice_iter(AMAZON).map(|certificate| {
        let digest = Sha256::digest(certificate.expect("PEM"));
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .concat()
    });
    assert_eq!(fingerprints.collect::<Vec<_>>(), FINGERPRINTS);
}

#[test]
fn the_usual_authorities_can_be_read() {
    assert_eq!(amazon().len(), 5);
}
