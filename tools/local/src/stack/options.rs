//! Options of a deploy.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use crate::{faulty_proxy::FaultyProxy, genesys, genesys_cloud, template::Schedules};

/// The parameter that names the bus.
pub(super) const EVENT_BUS: &str = "EventBusName";

/// A service of AWS that the functions can be led to by a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The queues.
    Sqs,
    /// The events table.
    DynamoDb,
}

impl Service {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sqs, Self::DynamoDb];

    /// The variable by which the SDKs find it elsewhere than the rest of AWS.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::Sqs => "AWS_ENDPOINT_URL_SQS",
            Self::DynamoDb => "AWS_ENDPOINT_URL_DYNAMODB",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Sqs => "SQS",
            Self::DynamoDb => "DynamoDB",
        })
    }
}

/// Options of a stack.
#[derive(Debug, Clone)]
pub struct StackOptions {
    pub(super) port: Option<u16>,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) secret: Option<Value>,
    pub(super) ways: Vec<(Service, Arc<FaultyProxy>)>,
    pub(super) binaries: Option<BTreeMap<String, PathBuf>>,
    pub(super) schedules: Schedules,
}

impl StackOptions {
    /// A relay that delivers to this URL, with the template's defaults, on a free port. Its
    /// schedules are stopped: no run of theirs comes in between, however long a test takes.
    #[must_use]
    pub fn new(target_url: impl Into<String>) -> Self {
        let parameters = BTreeMap::from([("TargetUrl".into(), target_url.into())]);
        Self {
            port: None,
            parameters,
            secret: Some(secret()),
            ways: Vec::new(),
            binaries: None,
            schedules: Schedules::Stopped,
        }
    }

    /// Sets a parameter of the template.
    #[must_use]
    pub fn set(mut self, parameter: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.insert(parameter.into(), value.to_string());
        self
    }

    /// Leaves the secret as the template creates it.
    #[must_use]
    pub fn with_first_secret(mut self) -> Self {
        self.secret = None;
        self
    }

    /// Lets the schedules of the template come.
    #[must_use]
    pub fn with_schedules(mut self) -> Self {
        self.schedules = Schedules::Running;
        self
    }

    /// Deploys these binaries of the functions, by name, instead of debug builds that are made for
    /// it.
    #[must_use]
    pub fn binaries(mut self, binaries: BTreeMap<String, PathBuf>) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// Uses this port of 127.0.0.1; `None` stands for a free one.
    #[must_use]
    pub fn port(mut self, port: Option<u16>) -> Self {
        self.port = port;
        self
    }

    /// Recovers what the webhooks or integrations with these ids have lost from the Genesys Cloud
    /// at this URL, whose `source` is one that the template takes.
    #[must_use]
    pub fn recovering_from(self, genesys_url: &str, source: &str, ids: &[&str]) -> Self {
        self.set("RecoverySource", source)
            .set("RecoveryIds", ids.join(","))
            .set("GenesysRegion", "us-east-1")
            .set("GenesysApiUrl", genesys_url)
            .set("GenesysLoginUrl", genesys_url)
    }

    /// Lets the functions reach this service only through the proxy, which must not lead anywhere
    /// yet. What the local AWS does by itself, such as to poll the queue for a function, does not
    /// go through it.
    #[must_use]
    pub fn through(mut self, service: Service, proxy: &Arc<FaultyProxy>) -> Self {
        self.ways.push((service, Arc::clone(proxy)));
        self
    }

    /// Takes events from an event bus of this name, which is made before the deploy.
    #[must_use]
    pub fn event_bus(self, name: impl fmt::Display) -> Self {
        self.set(EVENT_BUS, name)
    }
}

/// The secret of local runs.
pub fn secret() -> Value {
    json!({
        "openMessagingSecrets": [genesys::OPEN_MESSAGING_SECRET],
        "webhookSecrets": [genesys::WEBHOOK_SECRET],
        "genesysClientId": genesys_cloud::CLIENT_ID,
        "genesysClientSecret": genesys_cloud::CLIENT_SECRET,
    })
}
