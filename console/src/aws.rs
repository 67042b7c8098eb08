//! The functions of a stack, on AWS or on the local AWS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_lambda::config::Credentials;
use aws_sdk_lambda::error::SdkError;
use aws_sdk_lambda::operation::invoke::InvokeError as SdkInvokeError;
use aws_sdk_lambda::primitives::Blob;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::functions::{Function, FunctionError, Functions, InvokeError};

/// The stack that `cargo local` deploys.
pub const LOCAL_STACK: &str = "relay";

/// Names of the two functions' own errors (`handler.rs` of each).
const OWN_ERRORS: [&str; 10] = [
    "InvalidRequest",
    "InvalidPayload",
    "Busy",
    "NotFound",
    "Off",
    "QueueError",
    "TableError",
    "ArchiveError",
    "EventSourceError",
    "LambdaError",
];

/// Time limit of a call: a function runs for at most 15 minutes ("Lambda quotas").
const LONGEST_INVOCATION: Duration = Duration::from_mins(16);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The functions of one stack, by their names.
#[derive(Debug)]
pub struct Stack {
    client: aws_sdk_lambda::Client,
    replay: String,
    breaker: String,
    place: String,
}

impl Stack {
    /// Connects to the running `cargo local`, by the file of variables that it writes.
    pub async fn local(variables: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(variables).with_context(|| {
            format!(
                "`cargo local` is not running ({} does not exist); start it, or give --stack",
                variables.display()
            )
        })?;
        let variable = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(found, _)| *found == name);
            found.map(|(_, value)| value.to_owned()).with_context(|| {
                format!("{name} is missing in the variables of `cargo local`; restart it")
            })
        };
        let endpoint = variable("AWS_ENDPOINT_URL")?;
        let id = variable("AWS_ACCESS_KEY_ID")?;
        let secret = variable("AWS_SECRET_ACCESS_KEY")?;
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(variable("AWS_REGION")?))
            .endpoint_url(&endpoint)
            .credentials_provider(Credentials::new(id, secret, None, None, "cargo local"))
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        Self::find(&load(loader).await, LOCAL_STACK).await.with_context(|| {
            format!("the local AWS at {endpoint} did not answer; check that `cargo local` is still running")
        })
    }

    /// Connects to a deployed stack, with the credentials of the operator's AWS configuration.
    pub async fn deployed(
        name: &str,
        region: Option<String>,
        profile: Option<&str>,
    ) -> Result<Self> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        let config = load(loader).await;
        let Some(region) = config.region() else {
            bail!("no region: give --region, or set AWS_REGION")
        };
        Self::find(&config, name).await.with_context(|| {
            format!("could not read the stack {name} in {region} from CloudFormation")
        })
    }

    async fn find(config: &SdkConfig, name: &str) -> Result<Self> {
        let client = aws_sdk_cloudformation::Client::new(config);
        let answer = client.describe_stacks().stack_name(name).send().await?;
        let unknown = || format!("CloudFormation knows no stack {name}");
        let stack = answer.stacks().first().with_context(unknown)?;
        let output = |key: &str| {
            let mut outputs = stack.outputs().iter();
            let found = outputs.find(|output| output.output_key() == Some(key));
            found.and_then(|output| output.output_value()).map(str::to_owned).with_context(|| {
                format!("the stack {name} has no output {key}; check that it is a genesys-relay of this version")
            })
        };
        // `arn:aws:cloudformation:REGION:ACCOUNT:stack/…`
        let id: Vec<&str> = stack.stack_id().unwrap_or_default().split(':').collect();
        let [_, _, _, region, account, ..] = id[..] else {
            bail!("the id of the stack {name} is not an ARN")
        };
        Ok(Self {
            place: format!("stack {name}, account {account}, {region}"),
            client: aws_sdk_lambda::Client::new(config),
            replay: output("ReplayFunctionName")?,
            breaker: output("BreakerFunctionName")?,
        })
    }

    /// Name, account and region of the stack, which tell several relays apart.
    pub fn place(&self) -> &str {
        &self.place
    }

    async fn call(&self, function: Function, request: &Value) -> Result<Value, InvokeError> {
        let name = match function {
            Function::Replay => &self.replay,
            Function::Breaker => &self.breaker,
        };
        let payload = Blob::new(request.to_string());
        let call = self.client.invoke().function_name(name).payload(payload);
        let output = call.send().await.map_err(classify)?;
        let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
        let unreadable = |error: serde_json::Error| InvokeError::Unanswered(error.into());
        if output.function_error.is_some() {
            let error: FunctionError = serde_json::from_slice(&answer).map_err(unreadable)?;
            // Lambda reports other errors, of a function that timed out or panicked.
            return Err(if OWN_ERRORS.contains(&error.kind.as_str()) {
                InvokeError::Refused(error)
            } else {
                InvokeError::Unanswered(format!("{}: {}", error.kind, error.message).into())
            });
        }
        serde_json::from_slice(&answer).map_err(unreadable)
    }
}

impl Functions for Stack {
    fn invoke(
        &self,
        function: Function,
        request: Value,
    ) -> BoxFuture<'_, Result<Value, InvokeError>> {
        async move { self.call(function, &request).await }.boxed()
    }
}

/// The file into which `cargo local` writes its variables, in the target folder that also holds
/// this program.
pub fn local_variables() -> Result<PathBuf> {
    let program = std::env::current_exe().context("could not find the path of this program")?;
    let target = program
        .ancestors()
        .nth(2)
        .context("this program is not in a target folder of Cargo")?;
    Ok(target.join("local").join("env"))
}

fn classify(error: SdkError<SdkInvokeError>) -> InvokeError {
    let answer = error.raw_response();
    let status = answer.map(|answer| answer.status().as_u16());
    match &error {
        SdkError::ConstructionFailure(_) => InvokeError::NotAsked {
            is_throttled: false,
            source: error.into(),
        },
        SdkError::ServiceError(_) if matches!(status, Some(400..500)) => InvokeError::NotAsked {
            is_throttled: status == Some(429),
            source: error.into(),
        },
        _ => InvokeError::Unanswered(error.into()),
    }
}

/// Loads the configuration without retries: a run whose answer was lost may still be in progress.
async fn load(loader: ConfigLoader) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_timeout(LONGEST_INVOCATION);
    loader
        .timeout_config(timeouts.build())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::config::http::HttpResponse;
    use aws_sdk_lambda::primitives::SdkBody;
    use aws_smithy_mocks::{RuleMode, mock, mock_client};

    use super::*;

    #[test]
    fn local_stack_has_the_deployed_name() {
        assert_eq!(LOCAL_STACK, local::deploy::STACK);
    }

    /// The error for an answer of Lambda.
    async fn error_of(status: u16, is_function_error: bool, body: &str) -> InvokeError {
        let body = body.to_owned();
        let rule = mock!(aws_sdk_lambda::Client::invoke).then_http_response(move || {
            let status = status.try_into().expect("a status");
            let mut answer = HttpResponse::new(status, SdkBody::from(body.as_str()));
            if is_function_error {
                answer
                    .headers_mut()
                    .insert("x-amz-function-error", "Unhandled");
            }
            answer
        });
        let no_retries =
            |config: aws_sdk_lambda::config::Builder| config.retry_config(RetryConfig::disabled());
        let stack = Stack {
            client: mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [&rule], no_retries),
            replay: "replay".to_owned(),
            breaker: "breaker".to_owned(),
            place: "a test".to_owned(),
        };
        let answer = stack.invoke(Function::Replay, Value::Null).await;
        answer.expect_err("an error")
    }

    #[tokio::test]
    async fn an_error_tells_whether_the_request_may_have_been_carried_out() {
        let busy = r#"{"errorType":"Busy","errorMessage":"another run is in progress"}"#;
        let refused = error_of(200, true, busy).await;
        assert!(matches!(refused, InvokeError::Refused(_)), "{refused:?}");
        assert!(refused.is_temporary());
        for kind in ["Sandbox.Timedout", "Runtime.ExitError", "Panic"] {
            let body = format!(r#"{{"errorType":"{kind}","errorMessage":"it ended"}}"#);
            let InvokeError::Unanswered(source) = error_of(200, true, &body).await else {
                panic!("{kind}")
            };
            assert!(source.to_string().contains(kind), "{source}");
        }
        for (status, is_throttled) in [(403, false), (400, false), (404, false), (429, true)] {
            let error = error_of(status, false, r#"{"message":"no"}"#).await;
            let is_not_asked = matches!(error, InvokeError::NotAsked { .. });
            assert!(is_not_asked, "{status}: {error:?}");
            assert_eq!(error.is_temporary(), is_throttled, "{status}");
        }
        let broken = error_of(500, false, "{}").await;
        assert!(matches!(broken, InvokeError::Unanswered(_)), "{broken:?}");
    }

    #[tokio::test]
    async fn a_missing_local_stack_says_what_to_do() {
        let missing = Stack::local(Path::new("/nowhere/env")).await;
        let error = missing.expect_err("not there").to_string();
        assert!(error.contains("`cargo local` is not running"), "{error}");
        assert!(error.contains("--stack"), "{error}");
    }
}
