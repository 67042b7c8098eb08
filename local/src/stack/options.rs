//! What a stack is deployed with.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use crate::{genesys, genesys_cloud};

/// The parameter that names the bus.
pub(super) const EVENT_BUS: &str = "EventBusName";

/// What to deploy.
#[derive(Debug, Clone)]
pub struct StackOptions {
    pub(super) port: Option<u16>,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) secret: Value,
}

impl StackOptions {
    /// A relay that delivers to this URL, with the template's defaults, on a free port.
    #[must_use]
    pub fn new(target_url: impl Into<String>) -> Self {
        Self { port: None, parameters: BTreeMap::from([("TargetUrl".into(), target_url.into())]), secret: secret() }
    }

    /// Sets a parameter of the template.
    #[must_use]
    pub fn set(mut self, parameter: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.insert(parameter.into(), value.to_string());
        self
    }

    /// Uses this port of 127.0.0.1; `None` stands for a free one.
    #[must_use]
    pub fn port(mut self, port: Option<u16>) -> Self {
        self.port = port;
        self
    }

    /// Recovers what the webhooks or integrations with these ids have lost from the Genesys Cloud at this URL, whose
    /// `source` is one that the template takes.
    #[must_use]
    pub fn recovering_from(self, genesys_url: &str, source: &str, ids: &[&str]) -> Self {
        self.set("RecoverySource", source)
            .set("RecoveryIds", ids.join(","))
            .set("GenesysRegion", "us-east-1")
            .set("GenesysApiUrl", genesys_url)
            .set("GenesysLoginUrl", genesys_url)
    }

    /// Takes events from an event bus of this name, which is made before the deploy.
    #[must_use]
    pub fn event_bus(self, name: impl fmt::Display) -> Self {
        self.set(EVENT_BUS, name)
    }
}

/// The secret of local runs.
#[must_use]
pub fn secret() -> Value {
    json!({
        "openMessagingSecrets": [genesys::OPEN_MESSAGING_SECRET],
        "webhookSecrets": [genesys::WEBHOOK_SECRET],
        "genesysClientId": genesys_cloud::CLIENT_ID,
        "genesysClientSecret": genesys_cloud::CLIENT_SECRET,
    })
}
