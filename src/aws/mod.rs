//! The ports over AWS. Nothing outside this folder uses the SDK.

mod cloudwatch;
pub mod dynamodb;
pub mod lambda;
pub mod s3;
pub mod secrets_manager;
pub mod sqs;

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{Builder, tls};

/// TCP and TLS to a service of the same region.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Two attempts fit into a call, with the pause between them.
const ATTEMPTS: u32 = 2;

/// The SDK's configuration from the function's environment, for calls that end after `call_timeout` at the latest.
///
/// TLS is ring's: aws-lc, the SDK's default, gathers entropy at the first handshake and delays the first event by it.
pub async fn sdk_config(call_timeout: Duration) -> SdkConfig {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(provider).build_https())
        .timeout_config(timeouts(call_timeout))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .load()
        .await
}

/// For calls that end after `call_timeout` at the latest.
fn timeouts(call_timeout: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(call_timeout / ATTEMPTS)
        .operation_timeout(call_timeout)
        .build()
}

/// Tells what may succeed later from what fails again.
fn is_transient<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    const THROTTLED: [&str; 9] = [
        "KmsThrottled",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TransactionConflictException",
    ];
    match error {
        SdkError::ConstructionFailure(_) => false,
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            status >= 500 || status == 429 || context.err().code().is_some_and(|code| THROTTLED.contains(&code))
        }
        // Time-outs, broken connections and answers cut short; the enum is open, and in doubt it is worth a retry.
        _ => true,
    }
}
