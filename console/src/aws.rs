//! The functions of a stack on AWS, or on the local one.

use std::collections::BTreeMap;
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

/// What the two functions call their own errors (`handler.rs` of each).
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

/// A function ends after 15 minutes at the latest ("Lambda quotas").
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
    /// That of the running `cargo local`, by the file of variables that it writes.
    pub async fn local(variables: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(variables).with_context(|| {
            format!("`cargo local` is not running ({} is not there); start it, or give --stack", variables.display())
        })?;
        let variables = parse(&text);
        let variable = |name: &str| {
            variables.get(name).map(|value| (*value).to_owned()).with_context(|| format!("{name} is not in the file"))
        };
        let endpoint = variable("AWS_ENDPOINT_URL")?;
        let keys = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(variable("AWS_REGION")?))
            .endpoint_url(&endpoint)
            .credentials_provider(Credentials::new(keys.0, keys.1, None, None, "cargo local"))
            .http_client(aws_smithy_http_client::Builder::new().build_http());
        Self::find(&load(loader).await, LOCAL_STACK).await.with_context(|| {
            format!("`cargo local` was at {endpoint} and does not answer as it should; is it still running?")
        })
    }

    /// A deployed one, with whatever credentials the operator's AWS configuration gives.
    pub async fn deployed(name: &str, region: Option<String>, profile: Option<&str>) -> Result<Self> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
        );
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        let config = load(loader).await;
        let Some(region) = config.region() else { bail!("no region: give --region, or set AWS_REGION") };
        Self::find(&config, name).await.with_context(|| format!("the stack {name} of {region} cannot be looked at"))
    }

    async fn find(config: &SdkConfig, name: &str) -> Result<Self> {
        let client = aws_sdk_cloudformation::Client::new(config);
        let answer = client.describe_stacks().stack_name(name).send().await?;
        let stack = answer.stacks().first().with_context(|| format!("there is no stack {name}"))?;
        let output = |key: &str| {
            let found = stack.outputs().iter().find(|output| output.output_key() == Some(key));
            let value = found.and_then(|output| output.output_value()).map(str::to_owned);
            value.with_context(|| {
                format!("the stack {name} has no output {key}: is it a genesys-relay, and up to date?")
            })
        };
        // `arn:aws:cloudformation:REGION:ACCOUNT:stack/…`
        let id: Vec<&str> = stack.stack_id().unwrap_or_default().split(':').collect();
        let [_, _, _, region, account, ..] = id[..] else { bail!("the id of the stack {name} is no ARN") };
        Ok(Self {
            place: format!("stack {name}, account {account}, {region}"),
            client: aws_sdk_lambda::Client::new(config),
            replay: output("ReplayFunctionName")?,
            breaker: output("BreakerFunctionName")?,
        })
    }

    /// Which relay this is: what somebody has to look at who has several.
    pub fn place(&self) -> &str {
        &self.place
    }

    async fn call(&self, function: Function, request: &Value) -> Result<Value, InvokeError> {
        let name = match function {
            Function::Replay => &self.replay,
            Function::Breaker => &self.breaker,
        };
        let call = self.client.invoke().function_name(name).payload(Blob::new(request.to_string()));
        let output = call.send().await.map_err(classify)?;
        let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
        let unreadable = |error: serde_json::Error| InvokeError::Unanswered(error.into());
        if output.function_error.is_some() {
            let refusal: FunctionError = serde_json::from_slice(&answer).map_err(unreadable)?;
            // Any other is Lambda's word on a function that was cut off, or panicked.
            return Err(if OWN_ERRORS.contains(&refusal.kind.as_str()) {
                InvokeError::Refused(refusal)
            } else {
                InvokeError::Unanswered(format!("{}: {}", refusal.kind, refusal.message).into())
            });
        }
        serde_json::from_slice(&answer).map_err(unreadable)
    }
}

impl Functions for Stack {
    fn invoke(&self, function: Function, request: Value) -> BoxFuture<'_, Result<Value, InvokeError>> {
        async move { self.call(function, &request).await }.boxed()
    }
}

/// Where `cargo local` writes its variables: Cargo has put this program into a folder beside that one.
pub fn local_variables() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    let target = program.ancestors().nth(2).context("this program is in no target folder of Cargo")?;
    Ok(target.join("local").join("env"))
}

fn classify(error: SdkError<SdkInvokeError>) -> InvokeError {
    let status = error.raw_response().map(|response| response.status().as_u16());
    match &error {
        SdkError::ConstructionFailure(_) => InvokeError::NotAsked { is_throttled: false, source: error.into() },
        SdkError::ServiceError(_) if matches!(status, Some(400..500)) => {
            InvokeError::NotAsked { is_throttled: status == Some(429), source: error.into() }
        }
        _ => InvokeError::Unanswered(error.into()),
    }
}

/// No call is made twice: a run that was cut off may still be at work.
async fn load(loader: ConfigLoader) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(LONGEST_INVOCATION);
    loader
        .timeout_config(timeouts.build())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

fn parse(variables: &str) -> BTreeMap<&str, &str> {
    variables.lines().filter_map(|line| line.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture as _;

    use axum::Router;
    use axum::http::{HeaderMap, HeaderValue, StatusCode};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_local_stack_is_the_one_that_is_deployed() {
        assert_eq!(LOCAL_STACK, local::deploy::STACK);
    }

    /// What is made of an answer of Lambda's.
    async fn asked(status: u16, function_error: bool, body: &'static str) -> InvokeError {
        let answer = move || async move {
            let mut headers = HeaderMap::new();
            if function_error {
                headers.insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
            }
            (StatusCode::from_u16(status).expect("a status"), headers, body)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
        let config = aws_sdk_lambda::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "a test"))
            .endpoint_url(endpoint)
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        let client = aws_sdk_lambda::Client::from_conf(config);
        let place = "a test".to_owned();
        let stack = Stack { client, replay: "replay".to_owned(), breaker: "breaker".to_owned(), place };
        stack.call(Function::Replay, &Value::Null).await.expect_err("an error")
    }

    #[tokio::test]
    async fn an_error_says_whether_anything_can_have_been_done() {
        let refused = asked(200, true, r#"{"errorType":"Busy","errorMessage":"at work"}"#).await;
        assert!(matches!(&refused, InvokeError::Refused(_)) && refused.is_temporary(), "{refused:?}");
        for lambda in ["Sandbox.Timedout", "Runtime.ExitError", "Panic"] {
            let body = format!(r#"{{"errorType":"{lambda}","errorMessage":"it ended"}}"#).leak();
            let error = asked(200, true, body).await;
            assert!(matches!(&error, InvokeError::Unanswered(why) if why.to_string().contains(lambda)), "{error:?}");
        }
        for (status, throttled) in [(403, false), (400, false), (404, false), (429, true)] {
            let error = asked(status, false, r#"{"message":"no"}"#).await;
            assert!(
                matches!(&error, InvokeError::NotAsked { is_throttled, .. } if *is_throttled == throttled),
                "{status}: {error:?}"
            );
            assert_eq!(error.is_temporary(), throttled, "{status}");
        }
        let broken = asked(500, false, "{}").await;
        assert!(matches!(broken, InvokeError::Unanswered(_)), "{broken:?}");
    }

    #[tokio::test]
    async fn without_a_local_stack_the_error_says_what_to_do() {
        let error = Stack::local(Path::new("/nowhere/env")).await.expect_err("not there").to_string();
        assert!(error.contains("`cargo local` is not running") && error.contains("--stack"), "{error}");
    }
}
