//! Clients for the local AWS: its address, its dummy keys, no TLS.

use std::{sync::LazyLock, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_sqs::config::Credentials;

pub(crate) const REGION: &str = "us-east-1";
const KEY: &str = "test";

/// What programs need in their environment to use the local AWS, next to `AWS_ENDPOINT_URL`.
/// The keys are the emulator's root pair and open nothing else.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", KEY),
    ("AWS_SECRET_ACCESS_KEY", KEY),
    ("AWS_REGION", REGION),
    ("AWS_DEFAULT_REGION", REGION),
];

/// What every SDK client of the local AWS is made from.
pub async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::from_static(REGION))
        .credentials_provider(credentials())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .load()
        .await
}

/// The emulator's root pair.
pub(crate) fn credentials() -> Credentials {
    Credentials::new(KEY, KEY, None, None, "local")
}

/// A client for buckets.
pub(crate) fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    // Without digests of the content: in a debug build those of the functions take longer than all the rest.
    let checksums = RequestChecksumCalculation::WhenRequired;
    let settings = aws_sdk_s3::config::Builder::from(config)
        // There is no host for each bucket.
        .force_path_style(true)
        .request_checksum_calculation(checksums);
    aws_sdk_s3::Client::from_conf(settings.build())
}

/// The HTTP client that plays Genesys and the operator.
///
/// # Panics
/// When the platform cannot give a client at all.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        // Fails only when somebody installed one before, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client without special settings")
    });
    &CLIENT
}
