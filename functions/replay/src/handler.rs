//! Turns an operator's request into a call of [`Replay`], and its outcome into an answer or an error that names the field.

use std::sync::Arc;

use genesys_relay::clock::{Clock, end_of_invocation};
use genesys_relay::logging::chain;
use genesys_relay::queue::{Countable, Receiver, Redrive, Sender};
use genesys_relay::replay::{Answer, InvalidRequest, Replay, ReplayError, Request};
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde_json::Value;

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
            Refusal::Failed(error @ ReplayError::Busy { .. }) => ("Busy", error.to_string()),
            Refusal::Failed(error @ ReplayError::Queue(_)) => ("QueueError", chain(&error)),
        };
        Self { error_type: error_type.to_owned(), error_message }
    }
}

/// Answers one request.
pub(crate) async fn handle<E, D, R, C>(
    replay: Arc<Replay<E, D, R, C>>,
    event: LambdaEvent<Value>,
) -> Result<Answer, Refusal>
where
    E: Sender + Countable,
    D: Receiver + Countable,
    R: Redrive,
    C: Clock,
{
    let deadline = end_of_invocation(event.context.deadline());
    let request = Request::parse(event.payload).map_err(Refusal::Invalid)?;
    replay.handle(request, deadline).await.map_err(Refusal::Failed)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use genesys_relay::testing::{FakeClock, FakeQueue};
    use lambda_runtime::Context;
    use serde_json::json;

    use super::*;

    async fn invoke(request: Value) -> Result<Value, Diagnostic> {
        let dead_letters = FakeQueue::default();
        let redrive = dead_letters.clone();
        let replay = Replay { events: FakeQueue::default(), dead_letters, redrive, clock: FakeClock };
        let mut context = Context::default();
        let deadline = SystemTime::now() + Duration::from_mins(1);
        let since_epoch = deadline.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        context.deadline = u64::try_from(since_epoch.as_millis()).expect("in range");
        let answer = handle(Arc::new(replay), LambdaEvent::new(request, context)).await?;
        Ok(serde_json::to_value(answer).expect("serialises"))
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_the_events_folder_is_understood() {
        for name in ["status", "dry-run", "all", "filter", "cancel"] {
            let path = format!("{}/../../events/replay-{name}.json", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let request: Value = serde_json::from_str(&text).expect("JSON");
            let answer = invoke(request.clone()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(answer["action"], request["action"], "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_understood_is_an_error_that_names_the_field() {
        let error =
            invoke(json!({ "action": "replay", "all": true, "ratePerSecond": "fast" })).await.expect_err("refused");
        assert_eq!(error.error_type, "InvalidRequest");
        assert!(error.error_message.contains("ratePerSecond"), "{error:?}");
    }
}
