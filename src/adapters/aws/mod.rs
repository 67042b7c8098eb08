//! The ports over AWS. Nothing outside this folder uses the SDK.

pub mod cloudwatch;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
mod errors;
#[cfg(feature = "lambda")]
pub mod event_source;
mod https;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "s3")]
pub mod s3;
pub mod secrets_manager;
pub mod sigv4;
pub mod sqs;
mod timeouts;

use std::error::Error as StdError;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::SharedCredentialsProvider;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use tokio::time::timeout;

use self::errors::failed;
use self::timeouts::{ATTEMPTS, timeouts};
use crate::runtime::logging::display_chain;

/// The SDK's configuration from the function's environment, for calls that end after `call_timeout`
/// at the latest.
///
/// Lambda gives a function its region and its credentials in variables ("Defined runtime
/// environment variables"), and they are looked for nowhere else: the SDK's chain of all places is
/// a seventh of a binary, and has clients made at every start.
pub fn sdk_config(call_timeout: Duration) -> SdkConfig {
    config(call_timeout, ATTEMPTS)
}

/// The same for calls that must not be made twice: a failed call is not retried.
pub fn sdk_config_for_one_attempt(call_timeout: Duration) -> SdkConfig {
    config(call_timeout, 1)
}

fn config(call_timeout: Duration, attempts: u32) -> SdkConfig {
    let is_true = |name| variable(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(SharedCredentialsProvider::new(
            EnvironmentVariableCredentialsProvider::new(),
        ))
        .use_fips(is_true("AWS_USE_FIPS_ENDPOINT"))
        .use_dual_stack(is_true("AWS_USE_DUALSTACK_ENDPOINT"))
        .service_config(Variables)
        .http_client(https::client())
        .timeout_config(timeouts(call_timeout, attempts))
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        // It would watch the flow of bytes, where no call lasts longer than its timeout.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_region(variable("AWS_REGION").map(Region::new));
    config.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
    config.build()
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Addresses of single services: `AWS_ENDPOINT_URL_SQS` ("AWS SDKs and Tools Reference Guide:
/// Service-specific endpoints").
#[derive(Debug)]
struct Variables;

impl LoadServiceConfig for Variables {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        variable(&Self::name(&key))
    }
}

impl Variables {
    fn name(key: &ServiceConfigKey<'_>) -> String {
        format!(
            "{}_{}",
            key.env(),
            key.service_id().replace(' ', "_").to_uppercase()
        )
    }
}

/// Time for the warm-up while an event waits: with ingest's own 8 s, within the 9.5 s of the API.
const WARM_UP_TIME: Duration = Duration::from_secs(1);

/// Time for the warm-up ahead of any event, with provisioned concurrency: the time-out of the
/// calls, and far less than the 130 s that Lambda allows ("Understanding the Lambda execution
/// environment lifecycle").
const WARM_UP_TIME_AHEAD: Duration = Duration::from_secs(10);

/// Variable in which Lambda names the kind of start ("Defined runtime environment variables").
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";

/// Opens connections and reads secrets before Lambda is asked for the first event, which would
/// otherwise wait for them.
///
/// Lambda gives a function more CPU until then. A service that is down delays the start by a second
/// at most, or by as long as calls may take where Lambda starts functions ahead of events, and ends
/// nothing: the first event finds out by itself.
pub async fn warm_up(steps: impl Future<Output = Result<(), Box<dyn StdError>>>) {
    prepare(
        warm_up_time(variable(INITIALIZATION_TYPE).as_deref()),
        steps,
    )
    .await;
}

fn warm_up_time(initialization_type: Option<&str>) -> Duration {
    match initialization_type {
        Some("provisioned-concurrency") => WARM_UP_TIME_AHEAD,
        _ => WARM_UP_TIME,
    }
}

async fn prepare(time: Duration, steps: impl Future<Output = Result<(), Box<dyn StdError>>>) {
    let problem = match timeout(time, steps).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => display_chain(&*error),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::warn!(
        error = problem,
        "warm-up failed; the first event will be slower"
    );
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_address_of_a_service_is_a_variable_of_its_name() {
        let key = ServiceConfigKey::builder()
            .service_id("Secrets Manager")
            .profile("unused")
            .env("AWS_ENDPOINT_URL");
        let name = Variables::name(&key.build().expect("a key"));
        assert_eq!(name, "AWS_ENDPOINT_URL_SECRETS_MANAGER");
    }

    #[test]
    fn only_a_start_ahead_of_events_may_take_long() {
        assert_eq!(
            warm_up_time(Some("provisioned-concurrency")),
            WARM_UP_TIME_AHEAD
        );
        assert_eq!(warm_up_time(Some("on-demand")), WARM_UP_TIME);
        assert_eq!(warm_up_time(None), WARM_UP_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn preparing_ends_in_time_and_fails_nothing() {
        let began = Instant::now();
        prepare(WARM_UP_TIME, async { Err("the service is down".into()) }).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        prepare(WARM_UP_TIME, pending()).await;
        assert_eq!(began.elapsed(), WARM_UP_TIME);
    }
}
