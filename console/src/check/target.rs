//! The target: its name, its port, and its certificate, without a request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::adapters::http_target::not_after;
use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::ports::secrets::{FromSecret as _, TargetSecrets, TlsSecrets};
use jiff::Timestamp;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::{Named, named, secrets};

const RUNBOOK: &str = "operate/runbooks/target-down.md";

/// Time for one step.
const LIMIT: Duration = Duration::from_secs(10);

/// A certificate that ends in fewer days is a failure.
const FEW_DAYS: i64 = 14;

const DAY: i64 = 24 * 3600;

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named("target-name", RUNBOOK, name(deployment)),
        named("target-connection", RUNBOOK, connection(deployment)),
        named("target-certificate", RUNBOOK, certificate(deployment)),
    ]
}

/// Host and port of the target, and whether it speaks TLS.
struct Target {
    host: String,
    port: u16,
    is_tls: bool,
}

impl Target {
    /// The target of the deployed processor.
    async fn of(deployment: &Deployment) -> Result<Self, Fault> {
        if !deployment.template.parameter("VpcSubnetIds").is_empty() {
            return Fault::not_here(
                "the processor calls the target from its VPC, and not from this machine",
            );
        }
        let function = deployment
            .template
            .physical("ProcessorFunction")
            .unwrap_or_default();
        let answer = deployment
            .lambda
            .get_function_configuration()
            .function_name(function)
            .send();
        let found = match answer
            .await
            .map_err(fault("lambda:GetFunctionConfiguration"))
        {
            Ok(found) => found,
            Err(Fault::Missing(_)) => {
                return Fault::not_here("because the processor does not exist");
            }
            Err(fault) => return Err(fault),
        };
        let hidden = found.environment().and_then(|found| found.error());
        if let Some(error) = hidden {
            return Err(match error.error_code() {
                Some("AccessDeniedException") => {
                    Fault::NotAllowed("kms:Decrypt on the key of the stack".to_owned())
                }
                _ => Fault::Failed(format!(
                    "Lambda cannot read the variables of {function}: {}",
                    error.message().unwrap_or("no reason given")
                )),
            });
        }
        let variables = found
            .environment
            .and_then(|environment| environment.variables)
            .unwrap_or_default();
        let url = variables
            .get("TARGET_URL")
            .map(String::as_str)
            .unwrap_or_default();
        let url: Result<HttpsUrl, _> = url.parse();
        let url = url.map_err(|error| {
            Fault::Failed(format!("TARGET_URL of the processor is unusable: {error}"))
        })?;
        let url = url.into_url();
        let host = url.host_str().unwrap_or_default();
        Ok(Self {
            // Without the brackets of an IPv6 address.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(443),
            is_tls: url.scheme() == "https",
        })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let Self { host, port, .. } = self;
        let found = timeout(LIMIT, lookup_host((host.as_str(), *port))).await;
        let found =
            found.map_err(|_| format!("{host} was not resolved within {} s", LIMIT.as_secs()))?;
        let found = found.map_err(|error| format!("{host} has no address: {error}"))?;
        Ok(found.collect())
    }

    /// Connects to the first address that answers.
    async fn connect(&self) -> Result<(TcpStream, SocketAddr), Fault> {
        let addresses = self.addresses().await;
        let addresses = addresses
            .map_err(|_| Fault::NotHere("because the check target-name failed".to_owned()))?;
        let mut last = format!("{} has no address", self.host);
        for address in addresses {
            match timeout(LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(error)) => last = format!("{address} refused the connection: {error}"),
                Err(_) => last = format!("{address} did not answer within {} s", LIMIT.as_secs()),
            }
        }
        Fault::failed(format!("{last}; from this machine"))
    }
}

async fn name(deployment: &Deployment) -> Result<String, Fault> {
    let target = Target::of(deployment).await?;
    let addresses = target.addresses().await.map_err(Fault::Failed)?;
    let mut addresses: Vec<_> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    addresses.dedup();
    Ok(format!("{} is {}", target.host, addresses.join(", ")))
}

async fn connection(deployment: &Deployment) -> Result<String, Fault> {
    let (_, address) = Target::of(deployment).await?.connect().await?;
    Ok(format!("{address} accepts connections from this machine"))
}

async fn certificate(deployment: &Deployment) -> Result<String, Fault> {
    let target = Target::of(deployment).await?;
    if !target.is_tls {
        return Fault::not_here("the target speaks plain HTTP, which only a local run may");
    }
    let own = match secrets::read(deployment, "SecretArn").await {
        Ok(text) => match TargetSecrets::from_secret(&text) {
            Ok(secrets) => secrets.tls,
            Err(_) => return Fault::not_here("because the check secret failed"),
        },
        Err(fault) => return Err(fault),
    };
    let stream = match target.connect().await {
        Err(Fault::Failed(_)) => {
            return Fault::not_here("because the check target-connection failed");
        }
        connected => connected?.0,
    };
    let (config, trusted) = config(&own)?;
    let server = ServerName::try_from(target.host.clone());
    let server = server.map_err(|error| {
        Fault::Failed(format!("{} is no name of a server: {error}", target.host))
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = timeout(LIMIT, connector.connect(server, stream)).await;
    let handshake = handshake
        .map_err(|_| Fault::Failed(format!("TLS did not begin within {} s", LIMIT.as_secs())))?;
    let stream = handshake.map_err(|error| Fault::Failed(explain(&error)))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    // The server may send certificates that no path needs.
    let ends = chain.first().and_then(|certificate| not_after(certificate));
    let ends =
        ends.ok_or_else(|| Fault::Failed("the end of its certificate cannot be read".to_owned()))?;
    let days = (ends.as_second() - Timestamp::now().as_second()) / DAY;
    let says = format!(
        "valid for {} by {trusted}, until {ends} ({days} days)",
        target.host
    );
    if days < FEW_DAYS {
        Fault::failed(says)
    } else {
        Ok(says)
    }
}

/// The trust of the relay: the authorities of `targetCa`, or else the platform's.
fn config(own: &TlsSecrets) -> Result<(ClientConfig, &'static str), Fault> {
    let unusable =
        |what: &str| Fault::NotHere(format!("because {what} of the secret cannot be used"));
    let mut roots = RootCertStore::empty();
    let trusted = if let Some(pem) = &own.ca {
        for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let authority = authority.map_err(|_| unusable("targetCa"))?;
            roots.add(authority).map_err(|_| unusable("targetCa"))?;
        }
        "targetCa"
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        "an authority of this machine"
    };
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config
        .map_err(|error| Fault::Failed(error.to_string()))?
        .with_root_certificates(roots);
    let Some(client) = &own.client else {
        return Ok((config.with_no_client_auth(), trusted));
    };
    let chain =
        CertificateDer::pem_slice_iter(client.certificate.as_bytes()).collect::<Result<_, _>>();
    let chain = chain.map_err(|_| unusable("targetClientCertificate"))?;
    let key = PrivateKeyDer::from_pem_slice(client.private_key.as_bytes());
    let key = key.map_err(|_| unusable("targetClientCertificate"))?;
    let config = config.with_client_auth_cert(chain, key);
    Ok((
        config.map_err(|_| unusable("targetClientCertificate"))?,
        trusted,
    ))
}

/// The reason for which TLS failed.
fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inside| inside.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            let ended = i64::try_from(not_after.as_secs()).ok();
            let ended = ended.and_then(|ended| Timestamp::from_second(ended).ok());
            format!("its certificate expired at {}", ended.map_or_else(|| "an unknown time".to_owned(), |ended| ended.to_string()))
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => "its certificate has expired".to_owned(),
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "no authority that the relay trusts has signed its certificate: see targetCa in docs/reference/secret.md".to_owned()
        }
        Some(error) => format!("TLS failed: {error}"),
        None => format!("TLS failed: {error}"),
    }
}
