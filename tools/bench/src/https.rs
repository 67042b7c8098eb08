//! HTTPS in front of a plain server, with a set latency: what AWS's endpoints are to a function.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// The most that is passed on in one piece.
const PIECE: usize = 64 * 1024;

/// The authorities that the functions trust on AWS: a trust store with ours in it is to be as large
/// as theirs.
const AMAZON: &str = include_str!("../../../src/adapters/aws/https/amazon-roots.pem");

/// Certificates of the services.
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
        let root = CertifiedIssuer::self_signed(authority("Benchmark Root CA 1", None), key()?)?;
        let intermediate = CertifiedIssuer::signed_by(
            authority("Benchmark RSA 2048 M01", Some(0)),
            key()?,
            &root,
        )?;
        let service_key = key()?;
        let service = service()?.signed_by(&service_key, &intermediate)?;
        let chain = vec![service.der().clone(), intermediate.der().clone()];
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                chain,
                PrivatePkcs8KeyDer::from(service_key.serialize_der()).into(),
            )?;
        let trusted = folder.join("trusted.pem");
        fs::write(&trusted, format!("{AMAZON}{}", root.pem()))
            .with_context(|| format!("cannot write {}", trusted.display()))?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            trusted,
        })
    }

    /// Opens a port for `upstream` (a URL without TLS and path), whose answers come this much
    /// later.
    pub(crate) async fn front(&self, upstream: &str, latency: Duration) -> Result<Front> {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let acceptor = self.acceptor.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                // An error is a client that went away.
                connections.spawn(async move {
                    pass_on(stream, &acceptor, &upstream, latency).await.ok()
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Front { port, task })
    }
}

/// Draws an RSA key, which ring can use but not make.
fn key() -> Result<KeyPair> {
    let openssl = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output()
        .context("openssl is missing: on Debian and Ubuntu, apt-get install openssl")?;
    ensure!(
        openssl.status.success(),
        "openssl made no key: {}",
        String::from_utf8_lossy(&openssl.stderr)
    );
    Ok(KeyPair::from_pkcs8_pem_and_sign_algo(
        std::str::from_utf8(&openssl.stdout)?,
        &PKCS_RSA_SHA256,
    )?)
}

fn authority(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::CountryName, "US");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "genesys-relay");
    params.is_ca = IsCa::Ca(path_length.map_or(
        BasicConstraints::Unconstrained,
        BasicConstraints::Constrained,
    ));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

fn service() -> Result<CertificateParams> {
    let names = vec![Ipv4Addr::LOCALHOST.to_string(), "localhost".to_owned()];
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "benchmark.invalid");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
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

async fn pass_on(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    upstream: &str,
    latency: Duration,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut from_client, mut to_client) = split(acceptor.accept(stream).await?);
    let service = TcpStream::connect(upstream).await?;
    service.set_nodelay(true)?;
    let (mut from_service, mut to_service) = service.into_split();
    let requests = async {
        let mut piece = vec![0; PIECE];
        loop {
            let read = from_client.read(&mut piece).await?;
            if read == 0 {
                return to_service.shutdown().await;
            }
            to_service.write_all(&piece[..read]).await?;
        }
    };
    let answers = async {
        let mut piece = vec![0; PIECE];
        loop {
            let read = from_service.read(&mut piece).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            if !latency.is_zero() {
                sleep_until(Instant::now() + latency).await;
            }
            to_client.write_all(&piece[..read]).await?;
            to_client.flush().await?;
        }
    };
    tokio::try_join!(requests, answers)?;
    Ok(())
}
