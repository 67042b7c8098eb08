//! Model of the target's identity provider, and the relay's client of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use genesys_relay::adapters::oauth::{Token, TokenCache};
use genesys_relay::ports::clock::Clock as _;
use genesys_relay::ports::secrets::{OAuthClient, SecretCache, SecretsError, TargetSecrets};
use genesys_relay::ports::target::{DeliveryFailure, FailureCause};
use genesys_relay::testing::FakeSecretStore;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::faults::{Process, Service};
use crate::lock;
use crate::ports::{Remote, SkewedClock};
use crate::scenario::CredentialPlan;

/// Requests with a refused token that a process may send: those of the deliveries that had begun, and
/// of the next ones until they have another.
const REFUSED_TOKEN_SENT: u32 = 50;

/// Name of a version of the client's secret.
fn secret(version: usize) -> String {
    format!("the-secret-of-the-client-{version}")
}

/// The target's part of the relay's secret.
pub(crate) fn target_secret(version: usize) -> Value {
    json!({ "targetOAuth": {
        "tokenUrl": "https://login.example.com/token",
        "clientId": "the-relay",
        "clientSecret": secret(version),
    } })
}

/// The identity provider of the target.
pub(crate) struct IdentityProvider {
    pub(crate) plan: CredentialPlan,
    began: Instant,
    state: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    issued: u64,
    /// The end of each valid token.
    valid: BTreeMap<String, Instant>,
    revoked: usize,
}

impl IdentityProvider {
    pub(crate) fn new(plan: CredentialPlan) -> Self {
        Self {
            plan,
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// The version of the secret that it asks for: a rotation is the beginning of a time in which the
    /// relay's is wrong.
    fn version(&self) -> usize {
        let now = self.began.elapsed();
        self.plan
            .wrong
            .iter()
            .filter(|wrong| wrong.start <= now)
            .count()
    }

    fn refusal(&self) -> Option<u16> {
        let now = self.began.elapsed();
        let mut refused = self.plan.refused.iter();
        let refused = refused.find(|(time, _)| time.contains(&now));
        refused.map(|(_, status)| *status)
    }

    /// Returns whether the relay has good credentials now.
    pub(crate) fn is_satisfied(&self) -> bool {
        let now = self.began.elapsed();
        self.refusal().is_none() && !self.plan.wrong.iter().any(|time| time.contains(&now))
    }

    /// The answer of the token endpoint.
    fn grant(&self, client: &OAuthClient) -> Result<String, &'static str> {
        if client.client_secret != secret(self.version()) {
            return Err("refused the client: 401 invalid_client");
        }
        let mut state = lock(&self.state);
        state.issued += 1;
        let token = format!("token-{}", state.issued);
        let life = self.plan.token_life;
        state
            .valid
            .insert(format!("Bearer {token}"), Instant::now() + life);
        Ok(
            json!({ "access_token": token, "token_type": "bearer", "expires_in": life.as_secs() })
                .to_string(),
        )
    }

    /// True if the target accepts this token now.
    fn accepts(&self, token: &HeaderValue) -> bool {
        let now = self.began.elapsed();
        let revocations =
            self.plan.revoked_at.iter().filter(|at| **at <= now).count() + self.version();
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.revoked, revocations) < revocations {
            state.valid.clear();
        }
        let ends = token.to_str().ok().and_then(|token| state.valid.get(token));
        ends.is_some_and(|ends| Instant::now() < *ends)
    }

    /// Gives the relay each new secret at the end of the time in which its own is wrong.
    pub(crate) async fn keep_current(self: Arc<Self>, store: FakeSecretStore) {
        let mut ends: Vec<_> = self.plan.wrong.iter().map(|wrong| wrong.end).collect();
        ends.sort_unstable();
        for end in ends {
            sleep((self.began + end).saturating_duration_since(Instant::now())).await;
            store.hold(&target_secret(self.version()));
        }
    }
}

/// One process's credentials towards the target.
#[derive(Clone)]
pub(crate) struct RelayClient(Arc<ClientState>);

struct ClientState {
    provider: Arc<IdentityProvider>,
    secrets: SecretCache<Remote<FakeSecretStore>, TargetSecrets, SkewedClock>,
    tokens: TokenCache<OAuthClient>,
    clock: SkewedClock,
    process: Process,
    /// Requests of this process with each token that the target refused.
    refused: Mutex<BTreeMap<String, u32>>,
}

impl RelayClient {
    pub(crate) fn new(
        provider: &Arc<IdentityProvider>,
        secrets: SecretCache<Remote<FakeSecretStore>, TargetSecrets, SkewedClock>,
        clock: SkewedClock,
        process: &Process,
    ) -> Self {
        Self(Arc::new(ClientState {
            provider: Arc::clone(provider),
            secrets,
            tokens: TokenCache::default(),
            clock,
            process: process.clone(),
            refused: Mutex::default(),
        }))
    }

    pub(crate) fn plan(&self) -> &CredentialPlan {
        &self.0.provider.plan
    }

    /// The token to send with a request. Where the token endpoint refuses the client, the secret is
    /// read again: it may have been rotated.
    pub(crate) async fn token(&self) -> Result<HeaderValue, DeliveryFailure> {
        let known = self.0.secrets.get().await;
        match self.token_by(known).await {
            Ok(token) => Ok(token),
            Err(_) => self.token_by(self.0.secrets.get_fresh().await).await,
        }
    }

    async fn token_by(
        &self,
        secrets: Result<Arc<TargetSecrets>, SecretsError>,
    ) -> Result<HeaderValue, DeliveryFailure> {
        let ClientState {
            provider,
            tokens,
            clock,
            process,
            ..
        } = &*self.0;
        let failed = |what: &str| DeliveryFailure::new(FailureCause::Credentials(None), what);
        let secrets = secrets.map_err(|_| failed("the secret cannot be read"))?;
        let client = secrets
            .oauth
            .as_ref()
            .ok_or_else(|| failed("there is no client"))?;
        let ask = async {
            process.faults().count("tokens asked for");
            let granted = async { provider.grant(client) };
            let granted =
                process.call(Service::TokenEndpoint, granted, || Err("cannot be reached"));
            let granted = granted.await.map_err(failed)?;
            Token::read(granted.as_bytes(), clock.now()).map_err(failed)
        };
        tokens.get(client, clock, ask).await
    }

    /// Returns whether the target accepts a token, and notes where it does not.
    pub(crate) fn is_accepted(&self, token: &HeaderValue) -> bool {
        if self.0.provider.accepts(token) {
            return true;
        }
        self.0.process.faults().count("tokens refused");
        let name = token.to_str().unwrap_or_default().to_owned();
        let sent = {
            let mut refused = lock(&self.0.refused);
            let sent = refused.entry(name).or_default();
            *sent += 1;
            *sent
        };
        if sent > REFUSED_TOKEN_SENT {
            self.0
                .process
                .invariants()
                .violate("a token is sent again and again although the target refuses it");
        }
        false
    }

    /// The status with which the target refuses every token now.
    pub(crate) fn refusal(&self) -> Option<u16> {
        self.0.provider.refusal()
    }

    /// Drops a refused token.
    pub(crate) async fn forget(&self, token: &HeaderValue) {
        self.0.tokens.forget(token).await;
    }
}
