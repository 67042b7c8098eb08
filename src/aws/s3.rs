//! The archive in Amazon S3.

use std::error::Error as StdError;

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;

use super::is_transient;
use crate::archive::{Archive, ArchiveError};

/// The archive's bucket, by its name.
#[derive(Debug, Clone)]
pub struct S3Archive {
    client: Client,
    bucket: String,
}

impl S3Archive {
    /// The bucket of this name.
    pub fn new(config: &SdkConfig, bucket: String) -> Self {
        Self { client: Client::new(config), bucket }
    }
}

impl Archive for S3Archive {
    async fn put(&self, key: &str, object: Vec<u8>) -> Result<(), ArchiveError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/gzip")
            .body(ByteStream::from(object));
        request.send().await.map(drop).map_err(classify)
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let output = request.send().await.map_err(|error| match &error {
            SdkError::ServiceError(context) if context.err().is_no_such_key() => ArchiveError::NotFound(key.to_owned()),
            _ => classify(error),
        })?;
        let body = output.body.collect().await.map_err(|error| ArchiveError::Unavailable(error.into()))?;
        Ok(body.to_vec())
    }
}

fn classify<E>(error: SdkError<E>) -> ArchiveError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if is_transient(&error) { ArchiveError::Unavailable(error.into()) } else { ArchiveError::Refused(error.into()) }
}
