//! Handler of direct requests and of events of the HTTP API. Turns a request into a call of
//! [`DeadLetters`], and its outcome into an answer or an error that names the field.

use std::sync::Arc;

use genesys_relay::breaker::watchdog;
use genesys_relay::dead_letters::{Answer, DeadLetters, PortTypes, ReplayError, Request};
use genesys_relay::domain::request::InvalidRequest;
use genesys_relay::ports::clock::{Clock as _, end_of_invocation};
use genesys_relay::ports::event_source::EventSource;
use genesys_relay::ports::service::ServiceError;
use genesys_relay::runtime::lambda_http::HttpAnswer;
use genesys_relay::runtime::logging::display_chain;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde_json::Value;

use crate::api::Api;
use crate::background::Background;

/// Parts of the function.
pub(crate) struct Function<T: PortTypes, B, M> {
    pub(crate) dead_letters: DeadLetters<T>,
    pub(crate) background: B,
    /// Event source mappings that the breaker disables.
    pub(crate) event_sources: Vec<M>,
    /// Concurrent invocations of the processor while the breaker is closed.
    pub(crate) maximum_concurrency: u32,
}

/// Answer of the function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// To a direct invocation.
    Direct(Box<Answer>),
    /// To API Gateway.
    Http(HttpAnswer),
}

/// Error of an invocation, which Lambda and the console show.
#[derive(Debug)]
pub(crate) enum InvocationError {
    /// The request was not understood.
    Invalid(InvalidRequest),
    /// The request was not carried out.
    Failed(ReplayError),
    /// Lambda did not take the invocation that would carry it out.
    NotStarted(ServiceError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let (error_type, error_message) = match error {
            InvocationError::Invalid(error) => ("InvalidRequest", error.to_string()),
            InvocationError::Failed(
                error @ (ReplayError::Busy(_) | ReplayError::Moving { .. }),
            ) => ("Busy", error.to_string()),
            InvocationError::Failed(error @ ReplayError::NameTaken { .. }) => {
                ("InvalidRequest", error.to_string())
            }
            InvocationError::NotStarted(error) => (error.kind(), display_chain(&error)),
            InvocationError::Failed(
                error @ (ReplayError::Unknown(_)
                | ReplayError::NotListed(..)
                | ReplayError::UnknownRun(_)),
            ) => ("NotFound", error.to_string()),
            InvocationError::Failed(ReplayError::Service(error)) => {
                (error.kind(), display_chain(&error))
            }
            InvocationError::Failed(error @ ReplayError::Archive(_)) => {
                ("ArchiveError", display_chain(&error))
            }
        };
        Self {
            error_type: error_type.to_owned(),
            error_message,
        }
    }
}

/// Answers one request.
pub(crate) async fn handle<T: PortTypes, B: Background, M: EventSource>(
    function: Arc<Function<T, B, M>>,
    event: LambdaEvent<Value>,
) -> Result<Reply, InvocationError> {
    let LambdaEvent { payload, context } = event;
    let Function {
        dead_letters,
        background,
        event_sources,
        maximum_concurrency,
    } = function.as_ref();
    let end = end_of_invocation(context.deadline());
    if payload["requestContext"]["http"].is_object() {
        return Ok(Reply::Http(
            Api {
                dead_letters,
                background,
            }
            .answer(payload, end)
            .await,
        ));
    }
    let request = Request::parse(payload, &format!("invocation {}", context.request_id))
        .map_err(InvocationError::Invalid)?;
    if let Request::Reconcile {
        if_needed: true,
        requester,
        ..
    } = &request
    {
        let (table, now) = (&dead_letters.ports.table, dead_letters.ports.clock.now());
        if let Err(error) = watchdog::release_if_stale(
            table,
            event_sources,
            *maximum_concurrency,
            &requester.by,
            now,
        )
        .await
        {
            // The next schedule is minutes away, and the reconciliation is independent of the
            // breaker.
            tracing::error!(
                error = display_chain(&error),
                "failed to check whether the breaker is still running"
            );
        }
    }
    if let Request::Start(start) = request {
        let (status, is_open) = dead_letters
            .enlist(&start)
            .await
            .map_err(InvocationError::Failed)?;
        if is_open {
            background
                .hand_over(&start.payload)
                .await
                .map_err(InvocationError::NotStarted)?;
        }
        return Ok(Reply::Direct(Box::new(Answer::from(status))));
    }
    dead_letters
        .handle(request, end)
        .await
        .map(Box::new)
        .map(Reply::Direct)
        .map_err(InvocationError::Failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use genesys_relay::domain::circuit::{Circuit, Settings, State};
    use genesys_relay::ports::archive::Archive as _;
    use genesys_relay::ports::clock::Clock as _;
    use genesys_relay::ports::event_source::EventSource as _;
    use genesys_relay::ports::events_table::EventsTable as _;
    use genesys_relay::testing::FakeClock;
    use serde_json::json;

    use crate::testing::{Fakes, dead_letter_of, function, invoke, sample, send_to_dead_letters};

    /// The dead letters that the samples are about.
    async fn with_the_dead_letters_of_the_samples() -> Fakes {
        let function = function();
        send_to_dead_letters(
            &function,
            ["ingest-webhook-envelope", "ingest-open-messaging-text"].map(dead_letter_of),
        )
        .await;
        function
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_the_events_folder_is_understood() {
        for name in [
            "status",
            "list",
            "show",
            "dry-run",
            "all",
            "filter",
            "ids",
            "cancel",
            "reconcile",
            "archive",
            "discard",
        ] {
            let function = with_the_dead_letters_of_the_samples().await;
            let request = sample(&format!("replay-{name}"));
            let answer = invoke(&function, request.clone())
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(answer["action"], request["action"], "{name}");
            assert!(
                answer["failed"].as_array().is_none_or(Vec::is_empty),
                "{name}: {answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_sample_of_a_restore_restores_what_was_archived() {
        let function = with_the_dead_letters_of_the_samples().await;
        let archived = invoke(
            &function,
            json!({ "action": "archive", "olderThanDays": 0 }),
        )
        .await
        .expect("archived");
        let request = sample("replay-restore");
        let archive = &function.dead_letters.ports.archive;
        let object = archive
            .get(archived["keys"][0].as_str().expect("a key"))
            .await
            .expect("there");
        archive
            .put(request["key"].as_str().expect("a key"), object)
            .await
            .expect("written");

        let answer = invoke(&function, request).await.expect("restored");
        assert_eq!(
            (&answer["action"], &answer["restored"]),
            (&json!("restore"), &json!(2)),
            "{answer}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_understood_is_an_error_that_names_the_field() {
        let request = json!({ "action": "replay", "all": true, "ratePerSecond": "fast" });
        let error = invoke(&function(), request).await.expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        assert!(error.error_message.contains("ratePerSecond"), "{error:?}");
        let error = invoke(
            &function(),
            json!({ "action": "show", "eventId": "unknown-event" }),
        )
        .await
        .expect_err("unknown");
        assert_eq!(error.error_type, "NotFound");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_with_a_name_is_handed_over_and_answered_at_once() {
        let function = with_the_dead_letters_of_the_samples().await;
        let mut request = sample("replay-background");
        request["olderThanDays"] = 0.into();
        let status = json!({ "action": "status", "runId": request["runId"] });
        function.background.fail();
        let error = invoke(&function, request.clone())
            .await
            .expect_err("not taken");
        assert_eq!(error.error_type, "LambdaError");
        let function = with_the_dead_letters_of_the_samples().await;
        let answer = invoke(&function, request.clone()).await.expect("started");
        assert_eq!(
            (&answer["action"], &answer["background"]["state"]),
            (&json!("status"), &json!("waiting"))
        );
        let [payload] = &function.background.requests()[..] else {
            panic!("handed over once")
        };
        assert_eq!(
            (&payload["begin"], &payload["by"]),
            (&json!(true), &request["by"])
        );
        invoke(&function, payload.clone())
            .await
            .expect("carried out");
        assert_eq!(
            invoke(&function, request).await.expect("known")["background"]["state"],
            "ended"
        );
        assert_eq!(
            function.background.requests().len(),
            1,
            "not handed over again"
        );
        let answer = invoke(&function, status).await.expect("known");
        assert_eq!(answer["background"]["report"]["archived"], 2, "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn schedule_enables_the_mapping_of_a_stopped_breaker() {
        let function = function();
        let now = FakeClock.now();
        let circuit = Circuit {
            state: State::Open,
            ..Circuit::closed(now)
        };
        function
            .dead_letters
            .ports
            .table
            .save_circuit(&circuit)
            .await
            .expect("saved");
        let held = Settings {
            enabled: false,
            maximum_concurrency: 2,
        };
        function.event_sources[0].set(held).await.expect("set");

        let schedule = json!({ "action": "reconcile", "ifNeeded": true });
        tokio::time::advance(Duration::from_mins(9)).await;
        invoke(&function, schedule.clone()).await.expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            held,
            "the breaker may be running"
        );
        tokio::time::advance(Duration::from_mins(1)).await;
        invoke(&function, json!({ "action": "reconcile" }))
            .await
            .expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            held,
            "an operator's request does not check the breaker"
        );
        invoke(&function, schedule).await.expect("done");
        assert_eq!(
            function.event_sources[0].now(),
            Settings {
                enabled: true,
                maximum_concurrency: 10
            }
        );
        let circuit = function
            .dead_letters
            .ports
            .table
            .circuit()
            .await
            .expect("read")
            .expect("a breaker");
        assert!(
            circuit.state == State::Closed && circuit.why.contains("has not run"),
            "{circuit:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn payload_without_http_context_is_a_direct_request() {
        for payload in [
            json!(null),
            json!([]),
            json!({ "requestContext": { "http": "GET" } }),
        ] {
            let error = invoke(&function(), payload.clone())
                .await
                .expect_err("refused");
            assert_eq!(error.error_type, "InvalidRequest", "{payload}");
        }
    }
}
