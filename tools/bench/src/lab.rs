//! Surroundings of each measured function: stand-ins of SQS, DynamoDB and Secrets Manager behind
//! HTTPS, each with a host of its own as on AWS, and a target.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use local::genesys::Webhook;
use local::runtime_api::Launch;
use local::stack::secret;
use local::stand_in::StandIn;
use local::workspace::Workspace;
use serde_json::{Value, json};

use crate::https::{Authority, Front};
use crate::programs::{Function, Programs};

/// The time limits of the functions in the template are shorter; under valgrind everything takes
/// fifty times as long.
const TIME_LIMIT: Duration = Duration::from_mins(10);

/// The surroundings. Dropping them closes every port.
pub(crate) struct Lab {
    _stand_in: StandIn,
    pub(crate) authority: Authority,
    sqs: Front,
    dynamodb: Front,
    secrets_manager: Front,
    folder: PathBuf,
}

impl Lab {
    /// Opens all ports. Every service answers this much later than it could.
    pub(crate) async fn open(workspace: &Workspace, latency: Duration) -> Result<Self> {
        let folder = workspace.target.join("bench");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let stand_in = StandIn::start(&secret()).await?;
        let authority = Authority::new(&folder)?;
        let url = stand_in.url();
        let front = || authority.front(&url, latency);
        let (sqs, dynamodb, secrets_manager) = (front().await?, front().await?, front().await?);
        Ok(Self {
            _stand_in: stand_in,
            authority,
            sqs,
            dynamodb,
            secrets_manager,
            folder,
        })
    }

    /// Launch of a function, with its log in a file.
    pub(crate) fn launch(
        &self,
        function: Function,
        programs: &Programs,
        target_url: &str,
    ) -> Result<Launch> {
        let (binary, arguments) = match function {
            Function::Relay(name) => (programs.binary(name)?.to_path_buf(), Vec::new()),
            Function::Floor => (programs.binary("floor")?.to_path_buf(), Vec::new()),
            Function::Python(file) => {
                let arguments = ["-m", "awslambdaric"].map(Into::into).into_iter();
                (
                    programs.python.clone(),
                    arguments
                        .chain([format!("{file}.handler").into()])
                        .collect(),
                )
            }
        };
        Ok(Launch {
            name: function.name().to_owned(),
            binary,
            arguments,
            environment: self.environment(programs, target_url),
            time_limit: TIME_LIMIT,
            log: Some(self.log(function)),
        })
    }

    /// The file with the log of this function.
    pub(crate) fn log(&self, function: Function) -> PathBuf {
        self.folder
            .join(format!("{}.log", function.name().replace(' ', "-")))
    }

    fn environment(&self, programs: &Programs, target_url: &str) -> BTreeMap<String, String> {
        let certificates = self.authority.trusted.display().to_string();
        let variables = [
            ("AWS_ENDPOINT_URL_SQS", self.sqs.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.url()),
            (
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                self.secrets_manager.url(),
            ),
            // The names by which Rust and Python know a trust store.
            ("SSL_CERT_FILE", certificates.clone()),
            ("AWS_CA_BUNDLE", certificates),
            ("PYTHONPATH", programs.peers.display().to_string()),
            ("LAMBDA_TASK_ROOT", programs.peers.display().to_string()),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ];
        let variables = variables
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter();
        // Lambda's credentials have one, and every request to AWS carries and signs it.
        let variables = variables.chain([(
            "AWS_SESSION_TOKEN".to_owned(),
            "IQoJb3JpZ2luX2VjE".repeat(56),
        )]);
        let keys = local::clients::Keys::unchecked()
            .environment()
            .map(|(name, value)| (name.to_owned(), value));
        variables
            .chain(StandIn::variables_of_functions(&self.sqs.url(), target_url))
            .chain(keys)
            .collect()
    }
}

impl Function {
    /// Name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay(name) => name,
            Self::Floor => "floor",
            Self::Python("ingest" | "processor") => "boto3",
            Self::Python(_) => "Python floor",
        }
    }
}

/// A signed Open Messaging webhook, as API Gateway hands it to the function; each number makes
/// another event. Its id is no row of zeros, which says nothing.
pub(crate) fn webhook(number: usize) -> Value {
    let message = json!({
        "id": format!("d7d5{number:028x}"),
        "channel": {
            "id": "3f1c9a52-7d0b-4e0e-9a57-2f6d1f0c8b11",
            "platform": "Open",
            "type": "Private",
            "messageId": format!("{number:036x}"),
            "to": { "id": "alice@example.com" },
            "from": { "nickname": "Support", "id": "5d9a5f2b-9c1e-4c0a-8e0b-6a1f6a7d5b10" },
            "time": "2026-11-24T09:00:00.000Z",
        },
        "type": "Text",
        "text": "Hi Alice, your parcel has left the warehouse and will be with you tomorrow before noon.",
        "originatingEntity": "Human",
        "direction": "Outbound",
    });
    let Webhook {
        authentication: (name, value),
        body,
    } = Webhook::signed(message.to_string());
    json!({
        "version": "2.0",
        "routeKey": "POST /webhook/genesys",
        "rawPath": "/webhook/genesys",
        "rawQueryString": "",
        "headers": {
            "accept": "application/json",
            "content-length": body.len().to_string(),
            "content-type": "application/json",
            "host": "abcdefghij.execute-api.us-east-1.amazonaws.com",
            "user-agent": "Genesys Cloud",
            "x-amzn-trace-id": "Root=1-69242f10-0123456789abcdef01234567",
            "x-forwarded-for": "192.0.2.10",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            name.to_lowercase(): value,
        },
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "abcdefghij",
            "domainName": "abcdefghij.execute-api.us-east-1.amazonaws.com",
            "domainPrefix": "abcdefghij",
            "http": {
                "method": "POST",
                "path": "/webhook/genesys",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.10",
                "userAgent": "Genesys Cloud",
            },
            "requestId": "UQ5ZLj0bIAMEVsw=",
            "routeKey": "POST /webhook/genesys",
            "stage": "$default",
            "time": "24/Nov/2026:09:00:00 +0000",
            "timeEpoch": 1_795_510_800_000_u64,
        },
        "body": String::from_utf8_lossy(&body),
        "isBase64Encoded": false,
    })
}
