//! Connections to the target, which are kept over invocations.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};

use super::credentials::Credentials;
use crate::ports::secrets::TlsSecrets;
use crate::runtime::logging::display_chain;

/// Time for TCP and TLS. A host that does not answer in this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which an idle connection is kept: shorter than the 60 s after which common load
/// balancers close theirs. One that was closed while the function was frozen is noticed before it
/// is used ([`notice_closed_connections`](super::notice_closed_connections)).
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The client of the target, and the certificates that it was made with.
pub(super) struct Connections(RwLock<(TlsSecrets, Client)>);

impl Connections {
    /// Connections with public authorities and without a client certificate.
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        let client = builder().build()?;
        Ok(Self(RwLock::new((TlsSecrets::default(), client))))
    }

    /// The client with these credentials' certificates. Another one is made where they have
    /// changed.
    pub(super) fn client(&self, credentials: &Credentials) -> Result<Client, reqwest::Error> {
        {
            let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let (tls, client) = &*current;
            if *tls == credentials.secrets.tls {
                return Ok(client.clone());
            }
        }
        self.renew(credentials)
    }

    /// The next attempt makes a connection of its own: the one that there is leads to a server that
    /// does not serve this URL.
    pub(super) fn forget(&self, credentials: &Credentials) {
        if let Err(error) = self.renew(credentials) {
            tracing::warn!(
                error = display_chain(&error),
                "failed to make a new connection pool; keeping the old one"
            );
        }
    }

    fn renew(&self, credentials: &Credentials) -> Result<Client, reqwest::Error> {
        let client = credentials.target_client(builder()).build()?;
        let made = (credentials.secrets.tls.clone(), client.clone());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(client)
    }
}

/// A client with no connections yet.
pub(super) fn builder() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("genesys-relay/", env!("CARGO_PKG_VERSION")))
}
