//! Certificates of the connection to the target: the relay's own, and the authorities of the
//! target's.

use std::error::Error as StdError;
use std::io;

use jiff::Timestamp;
use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, RootCertStore};

use crate::ports::secrets::target::unusable;
use crate::ports::secrets::{ClientCertificate, SecretsError, TlsSecrets};

/// Certificates that can be used.
pub(super) struct Tls {
    identity: Option<(Identity, Timestamp)>,
    authorities: Vec<Certificate>,
}

impl Tls {
    /// Parses certificates and keys. Nothing of them is in an error.
    pub(super) fn of(secrets: &TlsSecrets) -> Result<Self, SecretsError> {
        Ok(Self {
            identity: secrets.client.as_ref().map(identity).transpose()?,
            authorities: authorities(secrets.ca.as_deref())?,
        })
    }

    /// The end of the client certificate, or of the one of its chain that ends first.
    pub(super) fn client_ends(&self) -> Option<Timestamp> {
        self.identity.as_ref().map(|(_, ends)| *ends)
    }

    /// For connections to the target: its authorities take the place of the public ones.
    pub(super) fn of_target(&self, client: ClientBuilder) -> ClientBuilder {
        let client = match &self.identity {
            Some((identity, _)) => client.identity(identity.clone()),
            None => client,
        };
        if self.authorities.is_empty() {
            client
        } else {
            client.tls_certs_only(self.authorities.clone())
        }
    }

    /// For connections to a token endpoint of another host, which may have a public certificate,
    /// and is not shown the client certificate.
    pub(super) fn of_another_host(&self, client: ClientBuilder) -> ClientBuilder {
        client.tls_certs_merge(self.authorities.clone())
    }
}

fn identity(client: &ClientCertificate) -> Result<(Identity, Timestamp), SecretsError> {
    const CERTIFICATE: &str = "targetClientCertificate.certificate";
    const KEY: &str = "targetClientCertificate.privateKey";
    let chain = certificates(&client.certificate)
        .ok_or_else(|| unusable(CERTIFICATE, "has no certificate that can be read as PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(client.private_key.as_bytes()).map_err(|_| {
        let problem = "has no unencrypted private key that can be read as PEM";
        unusable(KEY, problem)
    })?;
    let ends = chain.iter().map(|certificate| not_after(certificate));
    let ends = ends.collect::<Option<Vec<_>>>();
    let ends = ends
        .and_then(|ends| ends.into_iter().min())
        .ok_or_else(|| unusable(CERTIFICATE, "has a certificate that cannot be read"))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(
        |error| match error {
            rustls::Error::InconsistentKeys(_) => {
                unusable(KEY, "does not fit the first certificate")
            }
            rustls::Error::InvalidCertificate(_) => {
                unusable(CERTIFICATE, "has a certificate that cannot be read")
            }
            _ => unusable(KEY, "is of a kind that TLS does not support"),
        },
    )?;
    let both = [&*client.private_key, &*client.certificate].concat();
    let identity = Identity::from_pem(both.as_bytes())
        .map_err(|_| unusable(CERTIFICATE, "has something that is no certificate"))?;
    Ok((identity, ends))
}

fn authorities(pem: Option<&str>) -> Result<Vec<Certificate>, SecretsError> {
    let Some(pem) = pem else {
        return Ok(Vec::new());
    };
    let problem = || {
        unusable(
            "targetCa",
            "has no certificate of an authority that can be read as PEM",
        )
    };
    let read = |authority: CertificateDer<'static>| {
        let certificate = Certificate::from_der(&authority).ok()?;
        RootCertStore::empty().add(authority).ok()?;
        Some(certificate)
    };
    let authorities = certificates(pem).ok_or_else(problem)?;
    let authorities = authorities.into_iter().map(read);
    authorities.collect::<Option<_>>().ok_or_else(problem)
}

/// At least one certificate, and nothing that cannot be read.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let certificates = certificates.collect::<Result<Vec<_>, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}

/// The end of a certificate's validity, from its DER (RFC 5280 section 4.1).
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    const VERSION: u8 = 0xA0;
    const UTC_TIME: u8 = 0x17;
    let (_, mut certificate) = element(&mut &*certificate)?;
    let (_, mut certificate) = element(&mut certificate)?;
    if certificate.first() == Some(&VERSION) {
        element(&mut certificate)?;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        element(&mut certificate)?;
    }
    let (_, mut validity) = element(&mut certificate)?;
    element(&mut validity)?;
    let (kind, time) = element(&mut validity)?;
    let time = std::str::from_utf8(time).ok()?;
    // Years from 50 on are of the last century (section 4.1.2.5.1).
    let century = match kind {
        UTC_TIME if time < "50" => "20",
        UTC_TIME => "19",
        _ => "",
    };
    let time = format!("{century}{time}");
    let (date, time) = time.split_at_checked(8)?;
    format!("{date}T{time}").parse().ok()
}

/// Takes the first element: its tag and its content.
fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7F))?;
        let length = bytes.iter().try_fold(0_usize, |length, byte| {
            Some(length.checked_mul(256)? + usize::from(*byte))
        });
        (length?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, content))
}

/// A failure of TLS that certificates explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateFault {
    /// The server does not accept the relay's certificate, or misses one.
    Client,
    /// No authority that the relay trusts has signed the server's certificate.
    Server,
}

impl CertificateFault {
    pub(super) fn of(error: &reqwest::Error) -> Option<Self> {
        match find(error)? {
            rustls::Error::AlertReceived(
                AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::UnsupportedCertificate,
            ) => Some(Self::Client),
            rustls::Error::InvalidCertificate(
                CertificateError::BadSignature | CertificateError::UnknownIssuer,
            ) => Some(Self::Server),
            _ => None,
        }
    }
}

/// The error of TLS among the causes. An error of I/O has its own inside, and not as its source.
fn find(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        let inside = error.downcast_ref().and_then(io::Error::get_ref);
        cause = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}
