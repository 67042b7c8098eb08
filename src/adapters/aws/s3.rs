//! The archive in Amazon S3.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::primitives::ByteStream;

use super::{ATTEMPTS, failed, timeouts};
use crate::ports::archive::{Archive, ArchiveError, MAX_OBJECT_BYTES};
use crate::ports::service::Service;

/// An object of up to 16 MiB is written, or read, within this.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// The archive's bucket, by its name.
#[derive(Debug, Clone)]
pub struct S3Archive {
    client: Client,
    bucket: String,
}

impl S3Archive {
    /// The bucket of this name.
    pub fn new(config: &SdkConfig, bucket: String) -> Self {
        let config = aws_sdk_s3::config::Builder::from(config)
            .timeout_config(timeouts(CALL_TIMEOUT, ATTEMPTS))
            .build();
        Self {
            client: Client::from_conf(config),
            bucket,
        }
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
        request.send().await.map_err(failed(Service::S3))?;
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let output = request.send().await.map_err(|error| match &error {
            // Without `s3:ListBucket`, S3 answers 403 for what is not there ("GetObject").
            SdkError::ServiceError(context)
                if context.err().is_no_such_key() || context.raw().status().as_u16() == 403 =>
            {
                tracing::warn!(key, error = %DisplayErrorContext(&error), "an object is not there, or may not be read");
                ArchiveError::NotFound(key.to_owned())
            }
            _ => failed(Service::S3)(error).into(),
        })?;
        let too_large = || ArchiveError::TooLarge {
            key: key.to_owned(),
        };
        if output.content_length().is_some_and(|length| {
            u64::try_from(length).is_ok_and(|length| length > MAX_OBJECT_BYTES)
        }) {
            return Err(too_large());
        }
        let (mut object, mut body) = (Vec::new(), output.body);
        while let Some(part) = body
            .try_next()
            .await
            .map_err(|error| Service::S3.unavailable(error))?
        {
            if (object.len() + part.len()) as u64 > MAX_OBJECT_BYTES {
                return Err(too_large());
            }
            object.extend_from_slice(&part);
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
    use aws_sdk_s3::operation::put_object::PutObjectOutput;
    use aws_sdk_s3::types::error::NoSuchKey;
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};

    use super::*;

    fn archive(rule: &Rule) -> S3Archive {
        S3Archive {
            client: mock_client!(aws_sdk_s3, RuleMode::MatchAny, [rule]),
            bucket: "the-bucket".to_owned(),
        }
    }

    #[tokio::test]
    async fn an_object_is_put_into_the_bucket_under_its_key() {
        let rule = mock!(Client::put_object)
            .match_requests(|request| {
                request.bucket() == Some("the-bucket") && request.key() == Some("a/key")
            })
            .then_output(|| PutObjectOutput::builder().build());
        archive(&rule)
            .put("a/key", vec![1, 2, 3])
            .await
            .expect("written");
    }

    #[tokio::test]
    async fn an_object_is_read_from_the_bucket_by_its_key() {
        let rule = mock!(Client::get_object)
            .match_requests(|request| {
                request.bucket() == Some("the-bucket") && request.key() == Some("a/key")
            })
            .then_output(|| {
                GetObjectOutput::builder()
                    .body(ByteStream::from_static(&[1, 2, 3]))
                    .build()
            });
        assert_eq!(archive(&rule).get("a/key").await.expect("read"), [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_object_that_is_too_large_is_not_read() {
        let most = usize::try_from(MAX_OBJECT_BYTES).expect("a size");
        let of = |bytes: usize, says: Option<i64>| {
            mock!(Client::get_object).then_output(move || {
                let output = GetObjectOutput::builder().set_content_length(says);
                output.body(ByteStream::from(vec![0; bytes])).build()
            })
        };
        // By what it says of itself, and by what comes.
        for rule in [
            of(10, Some(i64::MAX)),
            of(most + 1, None),
            of(most + 1, Some(10)),
        ] {
            let error = archive(&rule).get("a/key").await.expect_err("not read");
            assert!(matches!(error, ArchiveError::TooLarge { .. }), "{error:?}");
        }
        let largest = archive(&of(most, Some(i64::try_from(most).expect("a size"))))
            .get("a/key")
            .await;
        assert_eq!(largest.expect("read").len(), most);
    }

    #[tokio::test]
    async fn missing_object_differs_from_an_outage() {
        let missing = mock!(Client::get_object)
            .then_error(|| GetObjectError::NoSuchKey(NoSuchKey::builder().build()));
        let hidden = mock!(Client::get_object)
            .sequence()
            .http_status(403, None)
            .times(9)
            .build();
        for rule in [missing, hidden] {
            let error = archive(&rule).get("a/key").await.expect_err("not there");
            assert!(matches!(error, ArchiveError::NotFound(_)), "{error:?}");
        }
        let outage = mock!(Client::get_object)
            .sequence()
            .http_status(503, None)
            .times(9)
            .build();
        let error = archive(&outage).get("a/key").await.expect_err("down");
        assert!(
            matches!(&error, ArchiveError::Service(error) if error.is_transient()),
            "{error:?}"
        );
    }
}
