//! The path of a synthetic event, from the public URL on.

use genesys_relay::adapters::genesys::{Http as _, Https};
use genesys_relay::check::path::{Path, Signer};
use genesys_relay::check::{Check, Relay, RelayError, WebRequest, Webhook};
use genesys_relay::ports::secrets::{FromSecret as _, SenderSecrets};
use genesys_relay::runtime::logging::display_chain;
use http::Request;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::call::Fault;
use super::deployment::Deployment;
use super::{Options, outcome, secrets, stack};
use crate::aws::Stack;
use crate::functions::{Function, Functions as _, InvokeError};

/// Name of the check that stands for the whole path where it cannot begin.
const NAME: &str = "path";

/// The requester in records and in the audit log.
const BY: &str = "cargo relay check";

/// Takes the whole path, and leaves nothing behind.
pub(super) async fn checks(
    deployment: &Deployment,
    options: Options,
    deadline: Instant,
) -> Vec<Check> {
    match path(deployment, options, deadline).await {
        Ok(path) => path.check().await,
        Err(fault) => vec![outcome(NAME, stack::RUNBOOK, Err(fault))],
    }
}

async fn path(
    deployment: &Deployment,
    options: Options,
    deadline: Instant,
) -> Result<Path<PublicUrl, Invoked<'_>>, Fault> {
    let functions = deployment.functions.as_ref();
    let functions =
        functions.map_err(|_| Fault::NotHere("because the check stack failed".to_owned()))?;
    let secret = match secrets::read(deployment, "SecretArn").await {
        Err(Fault::Failed(_) | Fault::Missing(_)) => {
            return Fault::not_here("because the check secret failed");
        }
        read => read?,
    };
    let Ok(senders) = SenderSecrets::from_secret(&secret) else {
        return Fault::not_here("because the check secret failed");
    };
    Ok(Path {
        webhook: PublicUrl {
            https: deployment.https.clone(),
            webhook: deployment.url("WebhookUrl")?,
            dead_letters: deployment.url("DeadLetterApiUrl")?,
        },
        relay: Invoked(functions),
        signer: Signer::of(&senders),
        to_target: options.to_target,
        by: Some(BY.to_owned()),
        run: Uuid::new_v4(),
        deadline,
    })
}

struct PublicUrl {
    https: Https,
    webhook: String,
    dead_letters: String,
}

impl Webhook for PublicUrl {
    async fn send(&self, request: WebRequest) -> Result<u16, String> {
        let request = match request {
            WebRequest::Webhook { proof, body } => {
                let request = Request::post(&self.webhook);
                let request = request.header(http::header::CONTENT_TYPE, "application/json");
                let add =
                    |request: http::request::Builder, (name, value)| request.header(name, value);
                proof.into_iter().fold(request, add).body(body)
            }
            WebRequest::DeadLetters => Request::get(&self.dead_letters).body(Vec::new()),
        };
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.https.send(request).await;
        // Its own errors speak of Genesys Cloud.
        let answer = answer.map_err(|error| match std::error::Error::source(&error) {
            Some(cause) => format!("the URL did not answer: {}", display_chain(cause)),
            None => "the URL did not answer in time".to_owned(),
        })?;
        Ok(answer.status().as_u16())
    }
}

struct Invoked<'a>(&'a Stack);

impl Invoked<'_> {
    async fn invoke(&self, function: Function, request: Value) -> Result<Value, RelayError> {
        let answer = self.0.invoke(function, request).await;
        answer.map_err(|error| match error {
            InvokeError::Refused(error) => RelayError::Refused {
                kind: error.kind,
                message: error.message,
            },
            InvokeError::Denied { function, .. } => {
                RelayError::NotAllowed(format!("lambda:InvokeFunction on {function}"))
            }
            error => RelayError::Unreachable(display_chain(&error)),
        })
    }
}

impl Relay for Invoked<'_> {
    async fn look(&self, request: Value) -> Result<Value, RelayError> {
        self.invoke(Function::Look, request).await
    }

    async fn act(&self, request: Value) -> Result<Value, RelayError> {
        self.invoke(Function::Replay, request).await
    }
}
