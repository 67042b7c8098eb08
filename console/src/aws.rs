//! The functions of a stack, on AWS or on the local AWS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_cloudformation::types::Stack as CfnStack;
use aws_sdk_lambda::config::Credentials;
use aws_sdk_lambda::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_lambda::operation::invoke::InvokeError as SdkInvokeError;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::functions::{Function, FunctionError, Functions, InvokeError};

/// The stack that `cargo local` deploys.
pub const LOCAL_STACK: &str = "relay";

/// Names of the functions' own errors (`handler.rs` of each).
const OWN_ERRORS: [&str; 12] = [
    "InvalidRequest",
    "NotAllowed",
    "InvalidPayload",
    "Busy",
    "NotFound",
    "Off",
    "TooMany",
    "QueueError",
    "TableError",
    "ArchiveError",
    "EventSourceError",
    "LambdaError",
];

/// Error of Lambda for a caller without the permission ("Invoke", Lambda API reference, common errors).
const ACCESS_DENIED: &str = "AccessDeniedException";

/// Time limit of a call: a function runs for at most 15 minutes ("Lambda quotas").
const LONGEST_INVOCATION: Duration = Duration::from_mins(16);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The functions of one stack, by their names.
#[derive(Debug)]
pub struct Stack {
    client: aws_sdk_lambda::Client,
    look: String,
    replay: String,
    breaker: String,
    place: String,
}

/// A stack, and the configuration with which AWS is called.
#[derive(Debug, Clone)]
pub struct Place {
    pub(crate) config: SdkConfig,
    /// Name of the stack.
    pub(crate) stack: String,
    /// Address of the local AWS.
    pub(crate) local: Option<String>,
}

impl Place {
    /// The stack of the running `cargo local`, by the file of variables that it writes.
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
        let id = variable("AWS_ACCESS_KEY_ID")?;
        let secret = variable("AWS_SECRET_ACCESS_KEY")?;
        let region = variable("AWS_REGION")?;
        let endpoint = variable("AWS_ENDPOINT_URL")?;
        Ok(Self::at(&endpoint, region, id, secret).await)
    }

    /// The stack of the local AWS at this address.
    pub async fn at(endpoint: &str, region: String, key_id: String, secret: String) -> Self {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region))
            .endpoint_url(endpoint)
            .credentials_provider(Credentials::new(key_id, secret, None, None, "cargo local"))
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        Self {
            config: load(loader).await,
            stack: LOCAL_STACK.to_owned(),
            local: Some(endpoint.to_owned()),
        }
    }

    /// A deployed stack, with the credentials of the operator's AWS configuration.
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
        if config.region().is_none() {
            bail!("no region: give --region, or set AWS_REGION")
        }
        Ok(Self {
            config,
            stack: name.to_owned(),
            local: None,
        })
    }
}

impl Stack {
    /// Connects to the stack of a place.
    pub async fn find(place: &Place) -> Result<Self> {
        let Place {
            config,
            stack: name,
            local,
        } = place;
        let find = async {
            let client = aws_sdk_cloudformation::Client::new(config);
            let answer = client.describe_stacks().stack_name(name).send().await?;
            let unknown = || format!("CloudFormation knows no stack {name}");
            let stack = answer.stacks().first().with_context(unknown)?;
            Self::read(name, stack, config)
        };
        find.await.with_context(|| match (local, config.region()) {
            (Some(endpoint), _) => format!("the local AWS at {endpoint} did not answer; check that `cargo local` is still running"),
            (None, Some(region)) => format!("could not read the stack {name} in {region} from CloudFormation"),
            (None, None) => format!("could not read the stack {name} from CloudFormation"),
        })
    }

    /// Reads the outputs of a stack.
    pub(crate) fn read(name: &str, stack: &CfnStack, config: &SdkConfig) -> Result<Self> {
        let output = |key: &str| {
            let mut outputs = stack.outputs().iter();
            let found = outputs.find(|output| output.output_key() == Some(key));
            found.and_then(|output| output.output_value()).map(str::to_owned).with_context(|| {
                format!(
                    "the stack {name} has no output {key}: it is not a genesys-relay, or of an older version; \
                     deploy the version of this console, or use the console of the stack's version"
                )
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
            look: output("LookFunctionName")?,
            replay: output("ReplayFunctionName")?,
            breaker: output("BreakerFunctionName")?,
        })
    }

    /// Name, account and region of the stack, which tell several relays apart.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn name(&self, function: Function) -> &str {
        match function {
            Function::Look => &self.look,
            Function::Replay => &self.replay,
            Function::Breaker => &self.breaker,
        }
    }

    async fn call(&self, function: Function, request: &Value) -> Result<Value, InvokeError> {
        let name = self.name(function);
        let payload = Blob::new(request.to_string());
        let call = self.client.invoke().function_name(name).payload(payload);
        let refused = |error| classify(name, error);
        let output = call.send().await.map_err(refused)?;
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

    fn check(&self, function: Function) -> BoxFuture<'_, Result<(), InvokeError>> {
        let name = self.name(function);
        let call = self.client.invoke().function_name(name);
        let call = call.invocation_type(InvocationType::DryRun).send();
        let refused = |error| classify(name, error);
        call.map(move |answer| answer.map(drop).map_err(refused))
            .boxed()
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

fn classify(function: &str, error: SdkError<SdkInvokeError>) -> InvokeError {
    let answer = error.raw_response();
    let status = answer.map(|answer| answer.status().as_u16());
    match &error {
        SdkError::ServiceError(_) if error.code() == Some(ACCESS_DENIED) => InvokeError::Denied {
            function: function.to_owned(),
            source: error.message().unwrap_or(ACCESS_DENIED).into(),
        },
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
    use aws_sdk_cloudformation::primitives::DateTime;
    use aws_sdk_cloudformation::types::{Output, StackStatus};
    use aws_sdk_lambda::config::http::HttpResponse;
    use aws_sdk_lambda::operation::invoke::InvokeInput;
    use aws_sdk_lambda::primitives::SdkBody;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};

    use super::*;

    #[test]
    fn local_stack_has_the_deployed_name() {
        assert_eq!(LOCAL_STACK, local::deploy::STACK);
    }

    /// The error for an answer of Lambda.
    async fn error_of(status: u16, is_function_error: bool, body: &str) -> InvokeError {
        let body = body.to_owned();
        let rule = mock!(aws_sdk_lambda::Client::invoke).then_http_response(move || {
            let mut answer = answer(status, &body);
            if is_function_error {
                answer
                    .headers_mut()
                    .insert("x-amz-function-error", "Unhandled");
            }
            answer
        });
        let answer = stack(&rule).invoke(Function::Replay, Value::Null).await;
        answer.expect_err("an error")
    }

    fn answer(status: u16, body: &str) -> HttpResponse {
        let status = status.try_into().expect("a status");
        HttpResponse::new(status, SdkBody::from(body))
    }

    /// A stack before this Lambda.
    fn stack(rule: &Rule) -> Stack {
        let no_retries =
            |config: aws_sdk_lambda::config::Builder| config.retry_config(RetryConfig::disabled());
        Stack {
            client: mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule], no_retries),
            look: "look".to_owned(),
            replay: "replay".to_owned(),
            breaker: "breaker".to_owned(),
            place: "a test".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_permission_is_asked_without_an_invocation() {
        let is_dry_run = |input: &InvokeInput| {
            input.invocation_type() == Some(&InvocationType::DryRun)
                && input.function_name() == Some("breaker")
        };
        let dry_run = mock!(aws_sdk_lambda::Client::invoke).match_requests(is_dry_run);
        let allowed = dry_run.then_http_response(|| answer(204, ""));
        let allowed = stack(&allowed).check(Function::Breaker).await;
        assert!(allowed.is_ok(), "{allowed:?}");

        let body = r#"{"__type":"AccessDeniedException","Message":"no policy allows this"}"#;
        let denied =
            mock!(aws_sdk_lambda::Client::invoke).then_http_response(move || answer(403, body));
        for outcome in [
            stack(&denied).check(Function::Breaker).await,
            stack(&denied)
                .invoke(Function::Breaker, Value::Null)
                .await
                .map(drop),
        ] {
            let Err(InvokeError::Denied { function, source }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(function, "breaker");
            assert_eq!(source.to_string(), "no policy allows this");
        }
    }

    #[tokio::test]
    async fn an_older_stack_is_named_with_what_to_do() {
        let outputs = |names: &[&str]| {
            let output = |name: &&str| {
                let output = Output::builder().output_key(*name).output_value("a-name");
                output.build()
            };
            let outputs = names.iter().map(output).collect();
            CfnStack::builder()
                .stack_name("relay")
                .stack_id("arn:aws:cloudformation:eu-central-1:1:stack/relay/1")
                .creation_time(DateTime::from_secs(0))
                .stack_status(StackStatus::CreateComplete)
                .set_outputs(Some(outputs))
                .build()
        };
        let mut names = vec!["ReplayFunctionName", "BreakerFunctionName"];
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .build();
        let error = Stack::read("relay", &outputs(&names), &config);
        let error = error.expect_err("a function is missing").to_string();
        assert!(error.contains("no output LookFunctionName"), "{error}");
        assert!(error.contains("of an older version"), "{error}");
        names.push("LookFunctionName");
        let stack = Stack::read("relay", &outputs(&names), &config).expect("a stack");
        assert_eq!(stack.place(), "stack relay, account 1, eu-central-1");
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
        let missing = Place::local(Path::new("/nowhere/env")).await;
        let error = missing.expect_err("not there").to_string();
        assert!(error.contains("`cargo local` is not running"), "{error}");
        assert!(error.contains("--stack"), "{error}");
    }
}
