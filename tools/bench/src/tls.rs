//! HTTPS in front of plain servers, as AWS's endpoints are to a function.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
};
use tokio::io::{copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// The authorities that the functions trust on AWS: a trust store with ours in it is to be as large
/// as theirs.
const AMAZON: &str = include_str!("../../../src/adapters/aws/https/amazon-roots.pem");

/// Certificates of the services.
#[derive(Clone)]
pub(crate) struct Authority {
    acceptor: TlsAcceptor,
    /// The trust store of the functions.
    pub(crate) trusted: PathBuf,
}

impl Authority {
    /// Makes keys and certificates for this run, and writes a trust store into `folder`. They are
    /// of the kinds that AWS's endpoints have: RSA with 2,048 bits, by an intermediate authority. A
    /// client that checks an elliptic curve in place of RSA works five times as long.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let root = authority("Benchmark Root CA 1", BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(root, key()?)?;
        let between = authority("Benchmark RSA 2048 M01", BasicConstraints::Constrained(0));
        let between = CertifiedIssuer::signed_by(between, key()?, &root)?;
        let service_key = key()?;
        let mut service =
            CertificateParams::new([Ipv4Addr::LOCALHOST.to_string(), "localhost".to_owned()])?;
        service.use_authority_key_identifier_extension = true;
        service.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        service.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let service = service.signed_by(&service_key, &between)?;
        let chain = vec![service.der().clone(), between.der().clone()];
        let key = PrivatePkcs8KeyDer::from(service_key.serialize_der()).into();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let trusted = folder.join("trusted.pem");
        fs::write(&trusted, format!("{AMAZON}{}", root.pem()))
            .with_context(|| format!("cannot write {}", trusted.display()))?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            trusted,
        })
    }

    /// Opens a port for `upstream`, a URL without TLS. Its path is left out.
    pub(crate) async fn front(&self, upstream: &str) -> Result<Front> {
        let host = upstream.trim_start_matches("http://").split('/').next();
        let host = host.unwrap_or_default().to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let acceptor = self.acceptor.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // An error is a client that went away.
                let (acceptor, host) = (acceptor.clone(), host.clone());
                connections.spawn(async move { pass_on(stream, &acceptor, &host).await.ok() });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Front { port, task })
    }
}

/// Draws an RSA key, which ring can use but not make.
fn key() -> Result<KeyPair> {
    let openssl = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA"])
        .args(["-pkeyopt", "rsa_keygen_bits:2048"])
        .output()
        .context("openssl is missing: on Debian and Ubuntu, apt-get install openssl")?;
    let errors = String::from_utf8_lossy(&openssl.stderr);
    ensure!(openssl.status.success(), "openssl made no key: {errors}");
    let pem = str::from_utf8(&openssl.stdout)?;
    Ok(KeyPair::from_pkcs8_pem_and_sign_algo(
        pem,
        &PKCS_RSA_SHA256,
    )?)
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

/// An HTTPS port. Dropping it closes the port and its connections.
#[derive(Debug)]
pub(crate) struct Front {
    port: u16,
    task: JoinHandle<()>,
}

impl Front {
    /// URL without a path.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(stream: TcpStream, acceptor: &TlsAcceptor, host: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut from_client, mut to_client) = split(acceptor.accept(stream).await?);
    let service = TcpStream::connect(host).await?;
    service.set_nodelay(true)?;
    let (mut from_service, mut to_service) = service.into_split();
    let requests = copy(&mut from_client, &mut to_service);
    let answers = copy(&mut from_service, &mut to_client);
    tokio::try_join!(requests, answers)?;
    Ok(())
}
