//! Invocations of a function of AWS Lambda, with or without waiting for the answer.

use std::error::Error as StdError;

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::failed;
use crate::domain::circuit::Probed;
use crate::domain::text::excerpt;
use crate::ports::event_source::Prober;
use crate::ports::service::{Service, ServiceError};

/// `Invoke`: the status of the answer when an asynchronous invocation was taken.
const TAKEN: i32 = 202;

/// Failure of an invocation.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The call failed. The invocation may have been accepted.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The function failed, or did not answer what was asked.
    #[error("the function failed: {0}")]
    Failed(String),
}

/// One function, by its name.
#[derive(Debug, Clone)]
pub struct LambdaFunction {
    client: Client,
    name: String,
}

impl LambdaFunction {
    /// The function of this name.
    pub fn new(config: &SdkConfig, name: String) -> Self {
        Self {
            client: Client::new(config),
            name,
        }
    }

    /// Invokes it asynchronously. `Ok` means that Lambda has accepted the invocation, not that it
    /// has succeeded.
    pub async fn invoke_later(&self, payload: &Value) -> Result<(), ServiceError> {
        let request = self
            .client
            .invoke()
            .function_name(&self.name)
            .invocation_type(InvocationType::Event)
            .payload(Blob::new(payload.to_string()));
        let output = request.send().await.map_err(failed(Service::Lambda))?;
        match output.status_code() {
            TAKEN => Ok(()),
            status => Err(Service::Lambda.unavailable(format!("Lambda answered {status}"))),
        }
    }

    /// Invokes it, and waits for its answer.
    pub async fn invoke<T: DeserializeOwned>(&self, payload: &Value) -> Result<T, InvokeError> {
        let request = self
            .client
            .invoke()
            .function_name(&self.name)
            .payload(Blob::new(payload.to_string()));
        let output = request.send().await.map_err(failed(Service::Lambda))?;
        let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
        if output.function_error.is_some() {
            return Err(InvokeError::Failed(excerpt(&String::from_utf8_lossy(
                &answer,
            ))));
        }
        serde_json::from_slice(&answer).map_err(|error| InvokeError::Failed(error.to_string()))
    }
}

/// The processor probes when it is invoked with this payload.
impl Prober for LambdaFunction {
    async fn probe(
        &self,
        delivered_at: Option<Timestamp>,
    ) -> Result<Probed, Box<dyn StdError + Send + Sync>> {
        self.invoke(&json!({ "probe": true, "deliveredAt": delivered_at }))
            .await
            .map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
    use aws_sdk_lambda::types::error::ResourceNotFoundException;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};

    fn function(rule: &Rule) -> LambdaFunction {
        LambdaFunction {
            client: mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]),
            name: "itself".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_function_is_invoked_by_its_name_without_waiting_for_its_answer() {
        let rule = mock!(Client::invoke)
            .match_requests(|request| {
                request.function_name() == Some("itself")
                    && request.invocation_type() == Some(&InvocationType::Event)
                    && request.payload().map(AsRef::as_ref)
                        == Some(br#"{"action":"status"}"#.as_slice())
            })
            .then_output(|| InvokeOutput::builder().status_code(202).build());
        function(&rule)
            .invoke_later(&json!({ "action": "status" }))
            .await
            .expect("taken");
    }

    #[tokio::test]
    async fn a_probe_is_what_the_processor_answers() {
        let answering = |answer: &'static str, error: Option<&'static str>| {
            mock!(Client::invoke)
                .match_requests(|request| {
                    request.function_name() == Some("itself")
                        && request
                            .payload()
                            .and_then(|payload| serde_json::from_slice(payload.as_ref()).ok())
                            == Some(json!({ "probe": true, "deliveredAt": "2026-01-15T12:00:00Z" }))
                })
                .then_output(move || {
                    let output = InvokeOutput::builder()
                        .status_code(200)
                        .payload(Blob::new(answer));
                    output.set_function_error(error.map(str::to_owned)).build()
                })
        };
        let delivered_at = Some("2026-01-15T12:00:00Z".parse().expect("a time"));
        let rule = answering(r#"{"outcome":"delivered","eventId":"e1"}"#, None);
        let probed = function(&rule).probe(delivered_at).await.expect("probed");
        assert_eq!(
            probed,
            Probed::Delivered {
                event_id: "e1".to_owned()
            }
        );
        for (answer, error) in [
            (r#"{"errorMessage":"panicked"}"#, Some("Unhandled")),
            ("{}", None),
            ("", None),
        ] {
            let error = function(&answering(answer, error))
                .probe(delivered_at)
                .await
                .expect_err("failed")
                .to_string();
            assert!(error.starts_with("the function failed: "), "{error}");
        }
    }

    #[tokio::test]
    async fn unconfirmed_invocation_is_an_error() {
        let rule =
            mock!(Client::invoke).then_output(|| InvokeOutput::builder().status_code(200).build());
        let error = function(&rule)
            .invoke_later(&Value::Null)
            .await
            .expect_err("not confirmed");
        assert!(error.is_transient(), "{error:?}");
    }

    #[tokio::test]
    async fn a_refusal_and_an_outage_are_told_apart() {
        let refusal = mock!(Client::invoke).then_error(|| {
            InvokeError::ResourceNotFoundException(ResourceNotFoundException::builder().build())
        });
        let error = function(&refusal)
            .invoke_later(&Value::Null)
            .await
            .expect_err("refused");
        assert!(!error.is_transient(), "{error:?}");

        let outage = mock!(Client::invoke)
            .sequence()
            .http_status(503, None)
            .times(9)
            .build();
        let error = function(&outage)
            .invoke_later(&Value::Null)
            .await
            .expect_err("down");
        assert!(error.is_transient(), "{error:?}");
    }
}
