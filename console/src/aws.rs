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
use aws_sdk_lambda::primitives::Blob;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::functions::{Function, Functions, InvokeError};

/// The stack that `cargo local` deploys.
pub const LOCAL_STACK: &str = "relay";

/// A function ends after 15 minutes at the latest ("Lambda quotas").
const LONGEST_INVOCATION: Duration = Duration::from_mins(16);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The functions of one stack, by their names.
#[derive(Debug)]
pub struct Stack {
    client: aws_sdk_lambda::Client,
    replay: String,
    breaker: String,
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
        Ok(Self {
            client: aws_sdk_lambda::Client::new(config),
            replay: output("ReplayFunctionName")?,
            breaker: output("BreakerFunctionName")?,
        })
    }

    async fn call(&self, function: Function, request: &Value) -> Result<Value, InvokeError> {
        let name = match function {
            Function::Replay => &self.replay,
            Function::Breaker => &self.breaker,
        };
        let call = self.client.invoke().function_name(name).payload(Blob::new(request.to_string()));
        let output = call.send().await.map_err(|error| InvokeError::Unanswered(error.into()))?;
        let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
        let unreadable = |error: serde_json::Error| InvokeError::Unanswered(error.into());
        if output.function_error.is_some() {
            return Err(InvokeError::Refused(serde_json::from_slice(&answer).map_err(unreadable)?));
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
    use super::*;

    #[test]
    fn the_local_stack_is_the_one_that_is_deployed() {
        assert_eq!(LOCAL_STACK, local::deploy::STACK);
    }

    #[tokio::test]
    async fn without_a_local_stack_the_error_says_what_to_do() {
        let error = Stack::local(Path::new("/nowhere/env")).await.expect_err("not there").to_string();
        assert!(error.contains("`cargo local` is not running") && error.contains("--stack"), "{error}");
    }
}
