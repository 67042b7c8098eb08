//! Surroundings of each measured program: stand-ins of AWS's services and of the target, each
//! behind HTTPS and with a host of its own as on AWS, and the payloads.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use local::clients::Keys;
use local::genesys::Webhook;
use local::runtime_api::Launch;
use local::stack::secret;
use local::stand_in::StandIn;
use local::target::{Behaviour, Target};
use local::workspace::Workspace;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::process;
use crate::programs::{Program, Programs};
use crate::tls::{Authority, Front};

/// The time limits of the functions in the template are shorter; under valgrind everything takes
/// fifty times as long.
const TIME_LIMIT: Duration = Duration::from_mins(10);

/// Response time of the target.
pub(crate) const TARGET_TIME: Duration = Duration::from_millis(100);

/// The surroundings. Dropping them closes every port.
pub(crate) struct Lab {
    _stand_in: StandIn,
    authority: Authority,
    sqs: Front,
    beside: Beside,
    thread: Thread,
    folder: PathBuf,
}

/// Surroundings beside SQS. They have a thread of their own, so that what calls SQS does not wait
/// for what calls them.
struct Beside {
    _stand_in: StandIn,
    target: Target,
    dynamodb: Front,
    secrets_manager: Front,
    target_front: Front,
}

/// Dropping it ends the tasks of the thread.
struct Thread(Option<Runtime>);

impl Thread {
    /// Starts a thread on the cores of this one.
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start a thread")?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Result<&Handle> {
        let runtime = self.0.as_ref().context("the thread has ended")?;
        Ok(runtime.handle())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Beside {
    async fn open(authority: Authority) -> Result<Self> {
        let stand_in = StandIn::start(&secret()).await?;
        let target = Target::start(Behaviour::Slow(TARGET_TIME)).await?;
        Ok(Self {
            dynamodb: authority.front(&stand_in.url()).await?,
            secrets_manager: authority.front(&stand_in.url()).await?,
            target_front: authority.front(&target.url()).await?,
            _stand_in: stand_in,
            target,
        })
    }
}

impl Lab {
    /// Opens all ports.
    pub(crate) async fn open(workspace: &Workspace) -> Result<Self> {
        process::leave()?;
        let folder = workspace.target.join("bench");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let authority = Authority::new(&folder)?;
        let stand_in = StandIn::start(&secret()).await?;
        let thread = Thread::start()?;
        let beside = thread.handle()?.spawn(Beside::open(authority.clone()));
        Ok(Self {
            sqs: authority.front(&stand_in.url()).await?,
            beside: beside.await??,
            _stand_in: stand_in,
            authority,
            thread,
            folder,
        })
    }

    /// The thread of all surroundings but SQS.
    pub(crate) fn beside(&self) -> Result<&Handle> {
        self.thread.handle()
    }

    /// The target of the deliveries.
    pub(crate) fn target(&self) -> &Target {
        &self.beside.target
    }

    /// Launch of a program, with its log in a file.
    pub(crate) fn launch(&self, program: Program, programs: &Programs) -> Result<Launch> {
        let (binary, arguments) = match program.python {
            None => (programs.binary(program.name)?.to_path_buf(), Vec::new()),
            Some(file) => {
                let arguments = ["-m".to_owned(), "awslambdaric".to_owned()];
                let handler = format!("{file}.handler");
                let arguments = arguments.into_iter().chain([handler]).map(Into::into);
                (programs.interpreter.clone(), arguments.collect())
            }
        };
        let certificates = self.authority.trusted.display().to_string();
        let peers = programs.peers.display().to_string();
        let variables = [
            ("AWS_ENDPOINT_URL_SQS", self.sqs.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.beside.dynamodb.url()),
            (
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                self.beside.secrets_manager.url(),
            ),
            // The names by which Rust and Python know a trust store.
            ("SSL_CERT_FILE", certificates.clone()),
            ("AWS_CA_BUNDLE", certificates),
            ("PYTHONPATH", peers.clone()),
            ("LAMBDA_TASK_ROOT", peers),
            ("PATH", "/usr/bin:/bin".to_owned()),
            // Lambda's credentials have one, and every request to AWS carries and signs it.
            ("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjE".repeat(56)),
        ];
        let variables = variables.into_iter().chain(Keys::unchecked().environment());
        let target = format!("{}/events", self.beside.target_front.url());
        let functions = StandIn::variables_of_functions(&self.sqs.url(), &target);
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        Ok(Launch {
            name: program.name.to_owned(),
            binary,
            arguments,
            environment: variables.chain(functions).collect(),
            time_limit: TIME_LIMIT,
            log: Some(self.log(program)),
        })
    }

    /// The file with the log of this program.
    pub(crate) fn log(&self, program: Program) -> PathBuf {
        let name = program.name.replace(' ', "-");
        self.folder.join(format!("{name}.log"))
    }
}

/// A payload with new events: a webhook, or a batch of ten.
pub(crate) fn payload(program: Program) -> Value {
    if program.takes_batches {
        let records = [(); 10].map(|()| record(fastrand::u128(..), 1));
        json!({ "Records": records })
    } else {
        webhook()
    }
}

/// A signed Open Messaging webhook of 700 bytes, as API Gateway hands it to the function.
fn webhook() -> Value {
    let number = fastrand::u128(..);
    let message = json!({
        "id": format!("{number:032x}"),
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

/// A message, as the event source mapping passes it.
pub(crate) fn record(number: u128, receives: u32) -> Value {
    let now = Timestamp::now();
    let id = format!("{number:032x}");
    let body = json!({ "id": id, "text": "Hi Alice, your parcel has left the warehouse." });
    let text = |value: &str| json!({ "stringValue": value, "dataType": "String" });
    json!({
        "messageId": id,
        "receiptHandle": format!("receipt-{id}"),
        "body": body.to_string(),
        "attributes": {
            "ApproximateReceiveCount": receives.to_string(),
            "SentTimestamp": now.as_millisecond().to_string(),
        },
        "messageAttributes": {
            "event_id": text(&id),
            "source": text("generic"),
            "received_at": text(&now.to_string()),
            "content_type": text("application/json"),
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:events",
        "awsRegion": "us-east-1",
    })
}
