//! Servers that ask for a client certificate, and servers of a private authority.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::*;

const LONG: Duration = Duration::from_secs(10);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities are told apart by their names.
        let name = uuid::Uuid::new_v4().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this host until the end of this year.
    fn issue(&self, name: &str, year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 12, 31);
        (params.signed_by(&key, &self.0).expect("signed"), key)
    }

    /// A client's certificate, as the field of the secret.
    fn client(&self, year: i32) -> Value {
        let (certificate, key) = self.issue("the relay", year);
        json!({ "certificate": certificate.pem(), "privateKey": key.serialize_pem() })
    }

    /// A server with a certificate by this authority, which asks for one by `clients`. It answers
    /// like `answer`.
    async fn server(
        &self,
        clients: Option<&Self>,
        answer: &'static str,
    ) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let (certificate, key) = self.issue("127.0.0.1", 4000);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&ring))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), ring);
                config.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let config = config
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        let address = listen(move |stream, _| {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            async move {
                match acceptor.accept(stream).into_fallible().await {
                    Ok(mut stream) => {
                        let mut request = vec![0; 16 * 1024];
                        let read = stream.read(&mut request).await.unwrap_or_default();
                        request.truncate(read);
                        seen.lock()
                            .expect("not poisoned")
                            .push(String::from_utf8_lossy(&request).into_owned());
                        let length = answer.len();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}"
                        );
                        let _ = stream.write_all(head.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                    // To close with unread bytes would reset the connection, and lose the alert.
                    Err((_, mut stream)) => {
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            }
        })
        .await;
        (address, requests)
    }
}

fn secure(address: SocketAddr, secret: &Value) -> HttpTarget<FakeSecretStore, FakeClock> {
    with_store(address, FakeSecretStore::holding(secret))
}

fn with_store(
    address: SocketAddr,
    store: FakeSecretStore,
) -> HttpTarget<FakeSecretStore, FakeClock> {
    install_tls_provider();
    let url = format!("https://{address}/events").parse().expect("a URL");
    let secrets = SecretCache::new(store, Duration::from_mins(5), FakeClock);
    HttpTarget::new(url, LONG, secrets, FakeClock).expect("a client")
}

async fn outcome(address: SocketAddr, secret: &Value) -> Outcome {
    deliver(&secure(address, secret), LONG).await
}

fn delivered() -> Outcome {
    Outcome::Delivered { status: Some(200) }
}

#[tokio::test]
async fn server_of_a_private_authority_is_trusted_by_its_ca_only() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _) = authority.server(None, "").await;
    let both = [other.pem(), authority.pem()].concat();
    for ca in [authority.pem(), both] {
        assert_eq!(
            outcome(address, &json!({ "targetCa": ca })).await,
            delivered()
        );
    }
    for (secret, cause, says) in [
        (json!({}), FailureCause::Connection, "set targetCa"),
        (
            json!({ "targetCa": other.pem() }),
            FailureCause::Credentials(None),
            "targetCa has no authority of its certificate",
        ),
    ] {
        let failure = failure(outcome(address, &secret).await);
        assert_eq!(failure.cause, cause);
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn server_that_asks_for_a_certificate_accepts_its_own() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (address, _) = authority.server(Some(&clients), "").await;
    let secret = |certificate: Option<Value>| json!({ "targetCa": authority.pem(), "targetClientCertificate": certificate });
    let accepted = outcome(address, &secret(Some(clients.client(2049)))).await;
    assert_eq!(accepted, delivered());
    for (certificate, says) in [
        (None, "set targetClientCertificate"),
        (
            Some(authority.client(2049)),
            "does not accept targetClientCertificate",
        ),
    ] {
        let failure = failure(outcome(address, &secret(certificate)).await);
        assert_eq!(
            failure.cause,
            FailureCause::Credentials(None),
            "{}",
            failure.detail
        );
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn expired_certificate_is_named_and_not_sent() {
    let authority = Authority::new();
    let (address, requests) = authority.server(None, "").await;
    for (year, is_expired) in [
        (2024, true),
        (2025, true),
        (2026, false),
        (2049, false),
        (2050, false),
    ] {
        let secret = json!({ "targetCa": authority.pem(), "targetClientCertificate": authority.client(year) });
        let outcome = outcome(address, &secret).await;
        if !is_expired {
            assert_eq!(outcome, delivered(), "{year}");
            continue;
        }
        let failure = failure(outcome);
        assert_eq!(failure.cause, FailureCause::Credentials(None));
        let says = format!("expired at {year}-12-31T00:00:00Z");
        assert!(failure.detail.contains(&says), "{}", failure.detail);
    }
    assert_eq!(requests.lock().expect("not poisoned").len(), 3);
}

#[tokio::test]
async fn rotated_certificate_is_used_without_a_new_process() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (address, _) = authority.server(Some(&clients), "").await;
    let secret = |ca: &Authority, client: &Authority| json!({ "targetCa": ca.pem(), "targetClientCertificate": client.client(2049) });
    for outdated in [secret(&authority, &authority), secret(&clients, &clients)] {
        let store = FakeSecretStore::holding(&outdated);
        let target = with_store(address, store.clone());
        failure(deliver(&target, LONG).await);
        store.hold(&secret(&authority, &clients));
        tokio::time::pause();
        tokio::time::advance(crate::ports::secrets::FRESH).await;
        tokio::time::resume();
        assert_eq!(
            deliver(&target, LONG).await,
            delivered(),
            "in the attempt that is refused"
        );
    }
}

#[tokio::test]
async fn token_endpoint_is_reached_with_the_private_authority() {
    let authority = Authority::new();
    let (login, asked) = authority
        .server(None, r#"{"access_token":"t","token_type":"bearer"}"#)
        .await;
    let (address, requests) = authority.server(None, "").await;
    // The name of another host, for which the client of the target is not used.
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{}/token", login.port());
        let secret = json!({
            "targetCa": authority.pem(),
            "targetOAuth": { "tokenUrl": url, "clientId": "c", "clientSecret": "s" },
        });
        let outcome = outcome(address, &secret).await;
        if host == "127.0.0.1" {
            assert_eq!(outcome, delivered());
        } else {
            // Its certificate is of another name: an authority that was not trusted would be said.
            let failure = failure(outcome);
            assert!(
                failure.detail.contains("not valid for name"),
                "{}",
                failure.detail
            );
        }
    }
    assert_eq!(asked.lock().expect("not poisoned").len(), 1);
    let requests = requests.lock().expect("not poisoned");
    assert!(
        requests[0].contains("authorization: Bearer t"),
        "{requests:?}"
    );
}

#[test]
fn certificate_that_cannot_be_used_is_named_when_it_is_read() {
    let authority = Authority::new();
    let (good, other) = (authority.client(2049), authority.client(2049));
    let of = |certificate: &Value, key: &Value| json!({ "targetClientCertificate": { "certificate": certificate, "privateKey": key } });
    let (certificate, key) = (&good["certificate"], &good["privateKey"]);
    let marker = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (secret, says) in [
        (
            of(certificate, &other["privateKey"]),
            "targetClientCertificate.privateKey does not fit the first certificate",
        ),
        (
            of(certificate, certificate),
            "targetClientCertificate.privateKey has no unencrypted private key",
        ),
        (
            of(certificate, &json!(encrypted)),
            "targetClientCertificate.privateKey has no unencrypted private key",
        ),
        (
            of(key, key),
            "targetClientCertificate.certificate has no certificate",
        ),
        (
            of(&json!(marker), key),
            "targetClientCertificate.certificate has a certificate that cannot be read",
        ),
        (
            json!({ "targetCa": key }),
            "targetCa has no certificate of an authority",
        ),
        (
            json!({ "targetCa": marker }),
            "targetCa has no certificate of an authority",
        ),
        (
            json!({ "targetCa": "hunter2" }),
            "targetCa has no certificate of an authority",
        ),
    ] {
        let read = Credentials::from_secret(&secret.to_string()).map(drop);
        let error = read.expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
    let one_line = good.to_string().replace("\\n", "\\\\n");
    let secret = format!(r#"{{"targetClientCertificate":{one_line}}}"#);
    assert!(Credentials::from_secret(&secret).is_ok());
}
