//! TLS before a plain server of this crate: an authority of its own, and a front that can ask for
//! client certificates.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::PrivatePkcs8KeyDer,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::server::end_with;

/// Year in which the expired certificates of [`Authority::expired_client`] and [`Front::expire`] ended.
pub const EXPIRED_IN: i32 = 2025;

/// An authority that no public trust store has.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, each as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub private_key: String,
}

impl Authority {
    /// Makes a new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self(issuer))
    }

    /// Its certificate as PEM: the value of `targetCa`.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a client certificate.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.issue_client(name, CertificateParams::default())
    }

    /// Issues a client certificate that has expired.
    pub fn expired_client(&self, name: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(EXPIRED_IN, 1, 1);
        self.issue_client(name, params)
    }

    fn issue_client(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate: params.signed_by(&key, &self.0)?.pem(),
            private_key: key.serialize_pem(),
        })
    }

    /// A server of this machine that takes client certificates of `clients` only, or takes none. Its
    /// certificate ends with this year.
    fn server(&self, clients: Option<&Self>, ends: Option<i32>) -> Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ClientCertVerifier> = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone())?;
                let roots = Arc::new(roots);
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?
            }
        };
        let names = [Ipv4Addr::LOCALHOST.to_string(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(year) = ends {
            params.not_after = date_time_ymd(year, 12, 31);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        Ok(config)
    }
}

/// An HTTPS port before a plain server. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct Front {
    port: u16,
    config: watch::Sender<Arc<ServerConfig>>,
    task: JoinHandle<()>,
}

impl Front {
    /// Opens a port for the server at `upstream`, a URL of this machine without TLS. Anyone may
    /// connect until [`Front::require`] says otherwise.
    pub async fn start(authority: &Authority, upstream: &str) -> Result<Self> {
        let host = upstream.trim_start_matches("http://").split('/').next();
        let host = host.unwrap_or_default().to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (config, mut current) = watch::channel(Arc::new(authority.server(None, None)?));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&current.borrow_and_update()));
                let (mut changes, host) = (current.clone(), host.clone());
                connections.spawn(async move {
                    // An error is a client that went away, or that was refused.
                    tokio::select! {
                        _ = pass_on(stream, &acceptor, &host) => {}
                        _ = changes.changed() => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, config, task })
    }

    /// URL without a path.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Shows a certificate of `authority`, and takes client certificates of `clients` only, or takes
    /// none. Ends the connections that are open.
    pub fn require(&self, authority: &Authority, clients: Option<&Authority>) -> Result<()> {
        self.config
            .send_replace(Arc::new(authority.server(clients, None)?));
        Ok(())
    }

    /// Shows a certificate that has expired. Ends the connections that are open.
    pub fn expire(&self, authority: &Authority) -> Result<()> {
        let expired = authority.server(None, Some(EXPIRED_IN))?;
        self.config.send_replace(Arc::new(expired));
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(stream: TcpStream, acceptor: &TlsAcceptor, host: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        // Unread bytes of the client would turn our end into a reset, and the alert would be lost.
        Err((_, refused)) => return Ok(end_with(refused, b"").await?),
    };
    let mut upstream = TcpStream::connect(host).await?;
    upstream.set_nodelay(true)?;
    copy_bidirectional(&mut stream, &mut upstream).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use reqwest::Certificate;

    use super::*;
    use crate::target::{Behaviour, Target};

    fn client(authority: &Authority, identity: Option<&Identity>) -> Result<reqwest::Client> {
        // Installs the provider of TLS.
        let _ = crate::clients::http();
        let trusted = [Certificate::from_pem(authority.pem().as_bytes())?];
        let mut builder = reqwest::Client::builder().tls_certs_only(trusted);
        if let Some(Identity {
            certificate,
            private_key,
        }) = identity
        {
            let pem = format!("{certificate}{private_key}");
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
        }
        Ok(builder.no_proxy().build()?)
    }

    #[tokio::test]
    async fn front_takes_certificates_of_the_named_authority_only() -> Result<()> {
        let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
        let target = Target::start(Behaviour::Fine).await?;
        let front = Front::start(&servers, &target.url()).await?;
        let delivers = async |identity: Option<&Identity>| -> Result<bool> {
            let answer = client(&servers, identity)?.post(front.url()).send().await;
            Ok(answer.is_ok_and(|answer| answer.status() == 200))
        };
        assert!(delivers(None).await?, "nothing is asked for");
        let stranger = client(&clients, None)?.post(front.url()).send().await;
        assert!(stranger.is_err(), "the authority is private");

        front.require(&servers, Some(&clients))?;
        assert!(!delivers(None).await?, "without a certificate");
        assert!(delivers(Some(&clients.client("relay")?)).await?);
        for wrong in [servers.client("relay")?, clients.expired_client("relay")?] {
            assert!(!delivers(Some(&wrong)).await?, "{}", wrong.certificate);
        }
        Ok(())
    }
}
