//! Tells an operator's request from an event of the HTTP API. Turns the request into a call of [`Replay`], and its
//! outcome into an answer or an error that names the field.

use std::sync::Arc;

use genesys_relay::clock::end_of_invocation;
use genesys_relay::logging::chain;
use genesys_relay::replay::{Answer, Ports, Replay, ReplayError, Request};
use genesys_relay::request::InvalidRequest;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde_json::Value;

use crate::api::{Api, Response};
use crate::background::Background;

/// What the function is made of.
pub(crate) struct Function<P: Ports, B> {
    pub(crate) replay: Replay<P>,
    pub(crate) background: B,
}

/// What the function answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// To somebody who invoked it.
    Direct(Box<Answer>),
    /// To API Gateway.
    Http(Response),
}

/// Why there is no answer; the console shows it as the function's error.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request was not understood.
    Invalid(InvalidRequest),
    /// The request was not carried out.
    Failed(ReplayError),
}

impl From<Refusal> for Diagnostic {
    fn from(refusal: Refusal) -> Self {
        let (error_type, error_message) = match refusal {
            Refusal::Invalid(error) => ("InvalidRequest", error.to_string()),
            Refusal::Failed(error @ (ReplayError::Busy(_) | ReplayError::Moving { .. })) => ("Busy", error.to_string()),
            Refusal::Failed(error @ ReplayError::Unknown(_)) => ("NotFound", error.to_string()),
            Refusal::Failed(error @ ReplayError::Queue(_)) => ("QueueError", chain(&error)),
            Refusal::Failed(error @ ReplayError::Table(_)) => ("TableError", chain(&error)),
            Refusal::Failed(error @ ReplayError::Archive(_)) => ("ArchiveError", chain(&error)),
        };
        Self { error_type: error_type.to_owned(), error_message }
    }
}

/// Answers one request.
pub(crate) async fn handle<P: Ports, B: Background>(
    function: Arc<Function<P, B>>,
    event: LambdaEvent<Value>,
) -> Result<Reply, Refusal> {
    let LambdaEvent { payload, context } = event;
    let Function { replay, background } = function.as_ref();
    let end = end_of_invocation(context.deadline());
    if payload["requestContext"]["http"].is_object() {
        return Ok(Reply::Http(Api { replay, background }.answer(payload, end).await));
    }
    let request = Request::parse(payload, &format!("invocation {}", context.request_id)).map_err(Refusal::Invalid)?;
    replay.handle(request, end).await.map(Box::new).map(Reply::Direct).map_err(Refusal::Failed)
}

#[cfg(test)]
mod tests {
    use genesys_relay::archive::Archive as _;
    use serde_json::json;

    use crate::testing::{Fakes, bury, function, invoke, letter_of, sample};

    /// The dead letters that the samples are about.
    async fn with_the_dead_letters_of_the_samples() -> Fakes {
        let function = function();
        bury(&function, ["ingest-webhook-envelope", "ingest-open-messaging-text"].map(letter_of)).await;
        function
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_the_events_folder_is_understood() {
        for name in
            ["status", "list", "show", "dry-run", "all", "filter", "ids", "cancel", "reconcile", "archive", "discard"]
        {
            let function = with_the_dead_letters_of_the_samples().await;
            let request = sample(&format!("replay-{name}"));
            let answer = invoke(&function, request.clone()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(answer["action"], request["action"], "{name}");
            assert!(answer["failed"].as_array().is_none_or(Vec::is_empty), "{name}: {answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_sample_of_a_restore_restores_what_was_archived() {
        let function = with_the_dead_letters_of_the_samples().await;
        let archived = invoke(&function, json!({ "action": "archive", "olderThanDays": 0 })).await.expect("archived");
        let request = sample("replay-restore");
        let archive = &function.replay.archive;
        let object = archive.get(archived["keys"][0].as_str().expect("a key")).await.expect("there");
        archive.put(request["key"].as_str().expect("a key"), object).await.expect("written");

        let answer = invoke(&function, request).await.expect("restored");
        assert_eq!((&answer["action"], &answer["restored"]), (&json!("restore"), &json!(2)), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_understood_is_an_error_that_names_the_field() {
        let request = json!({ "action": "replay", "all": true, "ratePerSecond": "fast" });
        let error = invoke(&function(), request).await.expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        assert!(error.error_message.contains("ratePerSecond"), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_from_the_http_api_is_a_direct_request() {
        for payload in [json!(null), json!([]), json!({ "requestContext": { "http": "GET" } })] {
            let error = invoke(&function(), payload.clone()).await.expect_err("refused");
            assert_eq!(error.error_type, "InvalidRequest", "{payload}");
        }
    }
}
