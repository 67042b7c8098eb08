//! HTTPS in front of a plain server, with a set latency: what AWS's endpoints are to a function.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The most that is passed on in one piece.
const PIECE: usize = 64 * 1024;

/// The certificate of every service, its issuer's, and its key. They are of the kinds that AWS's endpoints have: RSA with 2,048
/// bits, by an intermediate authority. Whoever checks an elliptic curve in place of RSA works five times as long.
///
/// The authority's own key is gone, and nobody trusts it but the functions of this benchmark.
const CERTIFICATES: &[u8] = include_bytes!("../certificates/service.pem");
const KEY: &[u8] = include_bytes!("../certificates/service.key");

/// The authority, for those who are to trust it.
const AUTHORITY: &str = include_str!("../certificates/authority.pem");

/// The authorities that the functions trust on AWS: a trust store with ours in it is to be as large as theirs.
const AMAZON: &str = include_str!("../../src/aws/https/amazon-roots.pem");

/// What services prove themselves with.
pub(crate) struct Authority {
    acceptor: TlsAcceptor,
    /// The trust store of the functions.
    pub(crate) trusted: PathBuf,
}

impl Authority {
    /// Reads the certificates, and writes a trust store into `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let certificates = CertificateDer::pem_slice_iter(CERTIFICATES).collect::<Result<Vec<_>, _>>()?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(KEY)?)?;
        let trusted = folder.join("trusted.pem");
        fs::write(&trusted, format!("{AMAZON}{AUTHORITY}"))
            .with_context(|| format!("cannot write {}", trusted.display()))?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), trusted })
    }

    /// Opens a port for `upstream` (a URL without TLS and path), whose answers come this much later.
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
                connections.spawn(async move { pass_on(stream, &acceptor, &upstream, latency).await.ok() });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Front { port, task })
    }
}

/// An HTTPS port. Dropping it closes the port and its connections.
#[derive(Debug)]
pub(crate) struct Front {
    port: u16,
    task: JoinHandle<()>,
}

impl Front {
    /// Where it is, without a path.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(stream: TcpStream, acceptor: &TlsAcceptor, upstream: &str, latency: Duration) -> Result<()> {
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
