//! Stand-ins of SQS, DynamoDB and Secrets Manager, **for load only**.
//!
//! The local AWS takes longer for a call than a function does for an event, and grows slow with
//! tens of thousands of them. These give the smallest answers that the SDK accepts, check nothing,
//! and keep only what a test counts, so that a hundred thousand invocations show what the function
//! costs. How AWS behaves is for the local AWS and for mocked connections to tell.

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use serde_json::{Value, json};

use self::table::Table;
use crate::{
    clients::Keys,
    server::{Closed, Server},
};

/// The secret with the key that a stack generates; every other one is what the test says.
const SIGNING_SECRET: &str = "arn:of:the:signing-secret";

/// The three services behind one address. Dropping it closes the port.
#[derive(Debug)]
pub struct StandIn {
    server: Server,
    state: Arc<StandInState>,
}

/// Fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceFault {
    /// Nothing is done, and the answer is an error with this status and code.
    Refused(u16, &'static str),
    /// Nothing is done, and the connection breaks.
    Cut,
    /// Nothing is done, and there is never an answer.
    Hang,
    /// All is done, and the connection breaks before the answer.
    AnswerLost,
}

/// Decides what goes wrong, by the operation (`SendMessage`).
pub type Faults = Box<dyn Fn(&str) -> Option<ServiceFault> + Send + Sync>;

struct StandInState {
    secret: String,
    faults: Faults,
    kept: Mutex<Kept>,
}

impl fmt::Debug for StandInState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StandInState")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Kept {
    calls: BTreeMap<String, usize>,
    messages: BTreeMap<String, Vec<String>>,
    table: Table,
}

impl StandIn {
    /// Starts one that holds this secret, and in which nothing goes wrong.
    pub async fn start(secret: &Value) -> Result<Self> {
        Self::start_failing(secret, Box::new(|_| None)).await
    }

    /// Starts one in which things go wrong.
    pub async fn start_failing(secret: &Value, faults: Faults) -> Result<Self> {
        let state = Arc::new(StandInState {
            secret: secret.to_string(),
            faults,
            kept: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| serve(request, Arc::clone(&shared))).await?;
        Ok(Self { server, state })
    }

    /// URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The URL of a queue. Any name will do.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/000000000000/{name}", self.url())
    }

    /// The variables of ingest and of the processor, with the template's defaults, where queues are
    /// found below `queues`.
    pub fn variables_of_functions(
        queues: &str,
        target_url: &str,
    ) -> impl Iterator<Item = (String, String)> + use<> {
        let variables = [
            ("QUEUE_URL", format!("{queues}/000000000000/events")),
            (
                "DEAD_LETTER_QUEUE_URL",
                format!("{queues}/000000000000/dead-letters"),
            ),
            ("EVENTS_TABLE_NAME", "events".to_owned()),
            ("SECRET_ARN", "arn:of:the:secret".to_owned()),
            ("SIGNING_SECRET_ARN", SIGNING_SECRET.to_owned()),
            ("SECRETS_CACHE_SECONDS", "300".to_owned()),
            ("TARGET_URL", target_url.to_owned()),
            ("TARGET_TIMEOUT_SECONDS", "10".to_owned()),
            ("BACKOFF_BASE_SECONDS", "2".to_owned()),
            ("BACKOFF_CAP_SECONDS", "900".to_owned()),
            ("MAX_RECEIVE_COUNT", "10".to_owned()),
            ("METRICS_NAMESPACE", "GenesysRelay/local".to_owned()),
            ("LOG_LEVEL", "info".to_owned()),
            ("LOG_SAMPLE_PERCENT", "100".to_owned()),
        ];
        variables
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
    }

    /// Variables that a process needs to use it.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let keys = Keys::unchecked()
            .environment()
            .map(|(name, value)| (name.to_owned(), value));
        keys.into_iter()
            .chain([("AWS_ENDPOINT_URL".to_owned(), self.url())])
    }

    /// The event ids of the messages that a queue has taken, in order. Of one without, an empty
    /// text.
    pub fn messages(&self, queue: &str) -> Vec<String> {
        lock(&self.state.kept)
            .messages
            .get(queue)
            .cloned()
            .unwrap_or_default()
    }

    /// Number of records written in this state.
    pub fn written(&self, state: &str) -> usize {
        lock(&self.state.kept).table.written(state)
    }

    /// Number of requests for an operation.
    pub fn calls(&self, operation: &str) -> usize {
        lock(&self.state.kept)
            .calls
            .get(operation)
            .copied()
            .unwrap_or_default()
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    request: Request<Incoming>,
    state: Arc<StandInState>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let target = head
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default();
    let fault = (state.faults)(operation);
    match fault {
        Some(ServiceFault::Cut) => return Err(Closed),
        Some(ServiceFault::Hang) => std::future::pending().await,
        Some(ServiceFault::Refused(status, code)) => return Ok(refusal(status, code, &json!({}))),
        Some(ServiceFault::AnswerLost) | None => {}
    }
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = lock(&state.kept).answer(operation, &request, &state.secret);
    if fault == Some(ServiceFault::AnswerLost) {
        Err(Closed)
    } else {
        Ok(answer)
    }
}

impl Kept {
    fn answer(&mut self, operation: &str, request: &Value, secret: &str) -> Response<Full<Bytes>> {
        *self.calls.entry(operation.to_owned()).or_default() += 1;
        match operation {
            "SendMessage" => {
                self.take(&request["QueueUrl"], request);
                reply(&json!({ "MessageId": "m", "MD5OfMessageBody": "" }))
            }
            "SendMessageBatch" => {
                entries(request).for_each(|entry| self.take(&request["QueueUrl"], entry));
                let done = |entry: &Value| json!({ "Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "" });
                reply(
                    &json!({ "Successful": entries(request).map(done).collect::<Vec<_>>(), "Failed": [] }),
                )
            }
            "ChangeMessageVisibilityBatch" => {
                let done = |entry: &Value| json!({ "Id": entry["Id"] });
                reply(
                    &json!({ "Successful": entries(request).map(done).collect::<Vec<_>>(), "Failed": [] }),
                )
            }
            "GetItem" => match self.table.get(request) {
                Some(item) => reply(&json!({ "Item": item })),
                None => reply(&json!({})),
            },
            "BatchGetItem" => {
                reply(&json!({ "Responses": self.table.get_many(request), "UnprocessedKeys": {} }))
            }
            "DeleteItem" => {
                self.table.delete(request);
                reply(&json!({}))
            }
            "PutItem" => match self.table.put(request) {
                Ok(()) => reply(&json!({})),
                Err(in_the_way) => refusal(
                    400,
                    "ConditionalCheckFailedException",
                    &json!({ "Item": in_the_way.cloned() }),
                ),
            },
            "GetSecretValue" => {
                let generated = json!({ "targetSigningSecrets": "k".repeat(64) }).to_string();
                let is_generated = request["SecretId"] == SIGNING_SECRET;
                let secret = if is_generated { &generated } else { secret };
                reply(&json!({ "ARN": request["SecretId"], "SecretString": secret }))
            }
            _ => refusal(400, "UnknownOperationException", &json!({})),
        }
    }

    fn take(&mut self, queue_url: &Value, message: &Value) {
        let queue = queue_url
            .as_str()
            .and_then(|url| url.rsplit('/').next())
            .unwrap_or_default();
        let id = message["MessageAttributes"]["event_id"]["StringValue"]
            .as_str()
            .unwrap_or_default();
        self.messages
            .entry(queue.to_owned())
            .or_default()
            .push(id.to_owned());
    }
}

fn entries(request: &Value) -> impl Iterator<Item = &Value> {
    request["Entries"].as_array().into_iter().flatten()
}

fn reply(body: &Value) -> Response<Full<Bytes>> {
    Response::new(Full::from(body.to_string()))
}

/// An error as the services spell it, with whatever else is told.
fn refusal(status: u16, code: &str, more: &Value) -> Response<Full<Bytes>> {
    let mut body = json!({ "__type": code, "message": "by the stand-in" });
    for (name, value) in more
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
    {
        body[name] = value.clone();
    }
    let mut response = reply(&body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
