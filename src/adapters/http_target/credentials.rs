//! Credentials towards the target, ready for use.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, ClientBuilder};

use super::connections::builder;
use super::no_credentials;
use super::tls::{CertificateFault, Tls};
use crate::ports::secrets::{FromSecret, SecretsError, TargetSecrets};
use crate::ports::target::{DeliveryFailure, FailureCause};
use crate::runtime::metrics;

/// The least time between two values of the metric of the client certificate.
const BETWEEN_MEASURES: SignedDuration = SignedDuration::from_hours(1);

/// The target's part of the secret, with its certificates parsed.
pub struct Credentials {
    pub(super) secrets: TargetSecrets,
    /// Absent where no certificate is configured.
    tls: Option<Tls>,
}

impl FromSecret for Credentials {
    fn from_secret(text: &str) -> Result<Self, SecretsError> {
        let secrets = TargetSecrets::from_secret(text)?;
        let is_configured = secrets.tls.client.is_some() || secrets.tls.ca.is_some();
        let tls = is_configured.then(|| Tls::of(&secrets.tls)).transpose()?;
        Ok(Self { secrets, tls })
    }
}

impl Credentials {
    /// Checks before a request what can be known to be refused.
    pub(super) fn check(&self, now: Timestamp, is_signed: bool) -> Result<(), DeliveryFailure> {
        if is_signed && (self.secrets.authorization.is_some() || self.secrets.oauth.is_some()) {
            return Err(no_credentials(
                "the parameter TargetSigV4Service and targetAuthorization or targetOAuth of the secret \
                 exclude each other: remove one of them",
            ));
        }
        if let Some(ends) = self.tls.as_ref().and_then(Tls::client_ends) {
            measure(ends, now);
            if ends <= now {
                return Err(no_credentials(&format!(
                    "the client certificate in targetClientCertificate expired at {ends}"
                )));
            }
        }
        Ok(())
    }

    /// A client for the target.
    pub(super) fn target_client(&self, client: ClientBuilder) -> ClientBuilder {
        match &self.tls {
            Some(tls) => tls.of_target(client),
            None => client,
        }
    }

    /// A client for the token endpoint: that of the target, unless it has certificates that are not
    /// meant for another host.
    pub(super) fn token_client(
        &self,
        target: &Client,
        is_same_host: bool,
    ) -> Result<Client, reqwest::Error> {
        match &self.tls {
            Some(tls) if !is_same_host => tls.of_another_host(builder()).build(),
            _ => Ok(target.clone()),
        }
    }

    /// The cause of a failed request for a reason of certificates, and words for it.
    pub(super) fn explain(&self, fault: CertificateFault) -> (FailureCause, &'static str) {
        let (client, ca) = (&self.secrets.tls.client, &self.secrets.tls.ca);
        match fault {
            CertificateFault::Client if client.is_some() => (
                FailureCause::Credentials(None),
                "; it does not accept targetClientCertificate",
            ),
            CertificateFault::Client => (
                FailureCause::Credentials(None),
                "; it may ask for a client certificate: set targetClientCertificate",
            ),
            // Another version of the secret may have the right one.
            CertificateFault::Server if ca.is_some() => (
                FailureCause::Credentials(None),
                "; targetCa has no authority of its certificate",
            ),
            CertificateFault::Server => (
                FailureCause::Connection,
                "; if a private authority issued its certificate, set targetCa",
            ),
        }
    }
}

/// Records the days until the client certificate ends, at most once an hour in a process.
fn measure(ends: Timestamp, now: Timestamp) {
    static MEASURED: AtomicI64 = AtomicI64::new(0);
    if is_due(&MEASURED, now) {
        let days = ends.duration_since(now).as_hours().div_euclid(24);
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        metrics::CERTIFICATE_DAYS_LEFT.record(f64::from(days));
    }
}

fn is_due(measured: &AtomicI64, now: Timestamp) -> bool {
    let (last, now) = (measured.load(Ordering::Relaxed), now.as_second());
    let is_due = now - last >= BETWEEN_MEASURES.as_secs();
    if is_due {
        measured.store(now, Ordering::Relaxed);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_measured_once_an_hour() {
        let measured = AtomicI64::new(0);
        let noon: Timestamp = "2026-01-15T12:00:00Z".parse().expect("a time");
        let due = [0, 1, 3599, 3600, 3601, 7200]
            .map(|seconds| is_due(&measured, noon + SignedDuration::from_secs(seconds)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
