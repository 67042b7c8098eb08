//! Clients for the local AWS: its address, a key pair, no TLS.

use std::{fmt, sync::LazyLock, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_sqs::config::Credentials;
use uuid::Uuid;

pub const REGION: &str = "us-east-1";

/// A key pair that programs sign their requests with.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
}

impl Keys {
    /// Draws a new pair. It opens one local AWS, while that runs.
    #[must_use]
    pub fn random() -> Self {
        // Each takes 122 bits from the system's random numbers.
        let [id, first, second] = [(); 3].map(|()| Uuid::new_v4().simple().to_string());
        Self {
            id: format!("AKIA{}", id[..16].to_uppercase()),
            secret: first + &second,
        }
    }

    /// A pair for stand-ins, which check no signature.
    #[must_use]
    pub fn unchecked() -> Self {
        Self {
            id: "test".into(),
            secret: "test".into(),
        }
    }

    /// Variables that programs need for the local AWS, beside `AWS_ENDPOINT_URL`.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", self.id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_DEFAULT_REGION", REGION.into()),
        ]
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(&self.id, &self.secret, None, None, "local")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keys")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Configuration of every SDK client of the local AWS.
pub async fn config(endpoint: &str, keys: &Keys) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::from_static(REGION))
        .credentials_provider(keys.credentials())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .load()
        .await
}

/// A client for buckets.
pub(crate) fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    // Without digests of the content: in a debug build those of the functions take longer than all
    // the rest.
    let checksums = RequestChecksumCalculation::WhenRequired;
    let settings = aws_sdk_s3::config::Builder::from(config)
        // There is no host for each bucket.
        .force_path_style(true)
        .request_checksum_calculation(checksums);
    aws_sdk_s3::Client::from_conf(settings.build())
}

/// The HTTP client that plays Genesys and the operator.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        // Fails only when one is installed already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client without special settings")
    });
    &CLIENT
}
