//! Turns a request of the schedule or of an operator into a call of [`Breaker`], and its outcome
//! into an answer or an error.

use std::sync::Arc;

use genesys_relay::breaker::{Breaker, BreakerError, BreakerStatus, PortTypes, Request};
use genesys_relay::domain::request::{Caller, InvalidRequest};
use genesys_relay::ports::clock::end_of_invocation;
use genesys_relay::runtime::logging::display_chain;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::Value;

/// An invocation without an answer; the console shows it as the function's error.
#[derive(Debug)]
pub(crate) enum InvocationError {
    /// The request was not understood.
    Invalid(InvalidRequest),
    /// The run failed.
    Failed(BreakerError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let (error_type, error_message) = match error {
            InvocationError::Invalid(error) => ("InvalidRequest", error.to_string()),
            InvocationError::Failed(error @ BreakerError::Busy(_)) => ("Busy", error.to_string()),
            InvocationError::Failed(error @ BreakerError::Off) => ("Off", error.to_string()),
            InvocationError::Failed(BreakerError::Service(error)) => {
                (error.kind(), display_chain(&error))
            }
        };
        Self {
            error_type: error_type.to_owned(),
            error_message,
        }
    }
}

/// Answers one request.
pub(crate) async fn handle<T: PortTypes>(
    breaker: Arc<Breaker<T>>,
    event: LambdaEvent<Value>,
) -> Result<BreakerStatus, InvocationError> {
    let LambdaEvent { payload, context } = event;
    let caller = Caller::of_invocation(&context.request_id);
    let request = Request::parse(payload, caller).map_err(InvocationError::Invalid)?;
    breaker
        .handle(&request, end_of_invocation(context.deadline()))
        .await
        .map_err(InvocationError::Failed)
}

#[cfg(test)]
mod tests {
    use genesys_relay::breaker::Ports;
    use genesys_relay::domain::circuit::Policy;
    use genesys_relay::ports::clock::Clock as _;
    use genesys_relay::ports::events_table::{EventsTable as _, LeaseName, RunLease};
    use genesys_relay::testing::{
        FakeClock, FakeEventSource, FakePorts, FakeProber, FakeQueue, FakeTable,
    };
    use lambda_runtime::Context;
    use serde_json::json;

    use super::*;

    async fn invoke(request: Value) -> Result<Value, Diagnostic> {
        invoke_over(FakeTable::default(), request).await
    }

    async fn invoke_over(table: FakeTable, request: Value) -> Result<Value, Diagnostic> {
        let ports = Ports {
            events: FakeQueue::default(),
            table,
            ordered: None,
            event_sources: vec![FakeEventSource::default()],
            prober: FakeProber::default(),
            clock: FakeClock,
        };
        let breaker = Breaker::<FakePorts> {
            ports,
            policy: Policy {
                failure_percent: 90,
                maximum_concurrency: 10,
                processor_timeout: None,
            },
            is_on: true,
        };
        let answer = handle(
            Arc::new(breaker),
            LambdaEvent::new(request, Context::default()),
        )
        .await;
        answer.map(|shown| json!(shown)).map_err(Diagnostic::from)
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_of_the_events_folder_is_understood() {
        for (name, state) in [
            ("run", "closed"),
            ("open", "open"),
            ("close", "closed"),
            ("automatic", "closed"),
        ] {
            let path = format!(
                "{}/../../events/breaker-{name}.json",
                env!("CARGO_MANIFEST_DIR")
            );
            let request =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let answer = invoke(serde_json::from_str(&request).expect("JSON"))
                .await
                .expect("understood");
            assert_eq!(answer["state"], state, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_understood_is_an_error_that_names_the_field() {
        let error = invoke(json!({ "action": "shut" }))
            .await
            .expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        assert!(error.error_message.starts_with("action"), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_for_another() {
        let (table, now) = (FakeTable::default(), FakeClock.now());
        let until = now.as_millisecond() + 120_000;
        let owner = "00000000-0000-0000-0000-000000000000";
        let other = json!({ "owner": owner, "action": "breaker", "by": "another", "since": now, "until": until });
        let other: RunLease = serde_json::from_value(other).expect("a lease");
        assert_eq!(
            table
                .acquire(LeaseName::Breaker, &other, now)
                .await
                .expect("written"),
            None
        );
        let error = invoke_over(table, json!({ "action": "run" }))
            .await
            .expect_err("busy");
        assert_eq!(error.error_type, "Busy");
        assert!(error.error_message.contains("another"), "{error:?}");
    }
}
