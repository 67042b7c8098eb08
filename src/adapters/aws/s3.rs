//! The archive in Amazon S3.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{DeleteMarkerEntry, ObjectVersion as S3Version};

use super::{ATTEMPTS, failed, timeouts};
use crate::ports::archive::{
    Archive, ArchiveError, KeyPage, MAX_OBJECT_BYTES, ObjectVersion, VersionPage, VersionPosition,
};
use crate::ports::service::{Service, ServiceError};

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

    async fn put_new(&self, key: &str, object: Vec<u8>) -> Result<bool, ArchiveError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/json")
            .if_none_match("*")
            .body(ByteStream::from(object));
        match request.send().await {
            Ok(_) => Ok(true),
            // No modelled error ("PutObject", 412 Precondition Failed).
            Err(SdkError::ServiceError(context)) if context.raw().status().as_u16() == 412 => {
                Ok(false)
            }
            Err(error) => Err(failed(Service::S3)(error).into()),
        }
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, ArchiveError> {
        read(self.client.get_object().bucket(&self.bucket).key(key), key).await
    }

    async fn get_version(&self, key: &str, version: &str) -> Result<Vec<u8>, ArchiveError> {
        let request = self.client.get_object().bucket(&self.bucket);
        let request = request.key(key).version_id(version);
        read(request, key).await
    }

    async fn list_keys(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, ArchiveError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned));
        let page = request.send().await.map_err(failed(Service::S3))?;
        let keys = page.contents.unwrap_or_default().into_iter();
        let keys: Vec<String> = keys.filter_map(|object| object.key).collect();
        let next = match (page.is_truncated, keys.last()) {
            (Some(true), None) => return Err(incomplete().into()),
            (Some(true), last) => last.cloned(),
            (Some(false) | None, _) => None,
        };
        Ok(KeyPage { keys, next })
    }

    async fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionPosition>,
    ) -> Result<VersionPage, ArchiveError> {
        let request = self.client.list_object_versions().bucket(&self.bucket);
        let request = request
            .prefix(prefix)
            .set_key_marker(after.map(|after| after.key.clone()))
            .set_version_id_marker(after.and_then(|after| after.version.clone()));
        let page = request.send().await.map_err(failed(Service::S3))?;
        let versions = page.versions.unwrap_or_default().into_iter();
        let markers = page.delete_markers.unwrap_or_default().into_iter();
        let items = versions.map(version).chain(markers.map(marker));
        let mut versions: Vec<ObjectVersion> =
            items.collect::<Option<_>>().ok_or_else(incomplete)?;
        versions.sort_by(|one, other| one.key.cmp(&other.key));
        let next = match (page.is_truncated, page.next_key_marker) {
            (Some(true), None) => return Err(incomplete().into()),
            (Some(true), Some(key)) => Some(VersionPosition {
                key,
                version: page.next_version_id_marker,
            }),
            (Some(false) | None, _) => None,
        };
        Ok(VersionPage { versions, next })
    }

    async fn delete_version(&self, key: &str, version: &str) -> Result<(), ArchiveError> {
        let request = self.client.delete_object().bucket(&self.bucket);
        let request = request.key(key).version_id(version);
        request.send().await.map_err(failed(Service::S3))?;
        Ok(())
    }
}

/// Reads the object that a request is for.
async fn read(request: GetObjectFluentBuilder, key: &str) -> Result<Vec<u8>, ArchiveError> {
    let output = request.send().await.map_err(|error| match &error {
        // `NoSuchVersion` is no modelled error. With `s3:ListBucket`, S3 answers 403 only for what
        // it refuses ("GetObject").
        SdkError::ServiceError(context)
            if context.err().is_no_such_key() || context.raw().status().as_u16() == 404 =>
        {
            tracing::warn!(key, error = %DisplayErrorContext(&error), "an object is not there");
            ArchiveError::NotFound(key.to_owned())
        }
        _ => failed(Service::S3)(error).into(),
    })?;
    let too_large = || ArchiveError::TooLarge {
        key: key.to_owned(),
    };
    if output
        .content_length()
        .is_some_and(|length| u64::try_from(length).is_ok_and(|length| length > MAX_OBJECT_BYTES))
    {
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

fn version(version: S3Version) -> Option<ObjectVersion> {
    Some(ObjectVersion {
        key: version.key?,
        version: version.version_id?,
        is_latest: version.is_latest.unwrap_or_default(),
        is_delete_marker: false,
    })
}

fn marker(marker: DeleteMarkerEntry) -> Option<ObjectVersion> {
    Some(ObjectVersion {
        key: marker.key?,
        version: marker.version_id?,
        is_latest: marker.is_latest.unwrap_or_default(),
        is_delete_marker: true,
    })
}

/// A list that cannot be followed to its end.
fn incomplete() -> ServiceError {
    Service::S3.unreadable("a list without a key, a version id or the place of the next page")
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::delete_object::DeleteObjectOutput;
    use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
    use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
    use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
    use aws_sdk_s3::operation::put_object::PutObjectOutput;
    use aws_sdk_s3::types::Object;
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
    async fn a_new_object_replaces_no_other() {
        let free = mock!(Client::put_object)
            .match_requests(|request| {
                request.key() == Some("a/key") && request.if_none_match() == Some("*")
            })
            .then_output(|| PutObjectOutput::builder().build());
        assert!(
            archive(&free)
                .put_new("a/key", vec![1])
                .await
                .expect("written")
        );
        let status = |status| {
            let answers = mock!(Client::put_object).sequence();
            answers.http_status(status, None).times(9).build()
        };
        let taken = archive(&status(412)).put_new("a/key", vec![1]).await;
        assert!(!taken.expect("answered"));
        // 409: another write of the key was under way. Nothing is known of either.
        for other in [409, 403, 503] {
            let error = archive(&status(other)).put_new("a/key", vec![1]).await;
            assert!(error.is_err(), "{other}");
        }
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
    async fn missing_object_differs_from_a_refusal_and_an_outage() {
        let missing = mock!(Client::get_object)
            .then_error(|| GetObjectError::NoSuchKey(NoSuchKey::builder().build()));
        let missing_version = mock!(Client::get_object)
            .sequence()
            .http_status(404, None)
            .times(9)
            .build();
        for rule in [missing, missing_version] {
            let error = archive(&rule).get("a/key").await.expect_err("not there");
            assert!(matches!(error, ArchiveError::NotFound(_)), "{error:?}");
        }
        // An erasure that took a refusal for a missing object would erase nothing.
        let refused = mock!(Client::get_object)
            .sequence()
            .http_status(403, None)
            .times(9)
            .build();
        let error = archive(&refused).get("a/key").await.expect_err("refused");
        assert!(
            matches!(&error, ArchiveError::Service(error) if !error.is_transient()),
            "{error:?}"
        );
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

    #[tokio::test]
    async fn keys_are_listed_page_by_page_from_behind_the_last() {
        let rule = mock!(Client::list_objects_v2)
            .match_requests(|request| {
                request.bucket() == Some("the-bucket")
                    && request.prefix() == Some("journal/")
                    && request.start_after() == Some("journal/0")
            })
            .then_output(|| {
                let object = |key| Object::builder().key(key).build();
                let page = ListObjectsV2Output::builder().is_truncated(true);
                let page = page.contents(object("journal/1"));
                page.contents(object("journal/2")).build()
            });
        let page = archive(&rule)
            .list_keys("journal/", Some("journal/0"))
            .await;
        let page = page.expect("listed");
        assert_eq!(page.keys, ["journal/1", "journal/2"]);
        assert_eq!(page.next.as_deref(), Some("journal/2"));
        let last = mock!(Client::list_objects_v2)
            .match_requests(|request| request.start_after().is_none())
            .then_output(|| ListObjectsV2Output::builder().build());
        let page = archive(&last)
            .list_keys("journal/", None)
            .await
            .expect("listed");
        assert_eq!((page.keys.len(), page.next), (0, None));
    }

    #[tokio::test]
    async fn versions_are_listed_with_the_marks_of_deletions() {
        let rule = mock!(Client::list_object_versions)
            .match_requests(|request| {
                request.prefix() == Some("a/")
                    && request.key_marker() == Some("a/b")
                    && request.version_id_marker() == Some("v0")
            })
            .then_output(|| {
                let version = |key, id| S3Version::builder().key(key).version_id(id);
                let mark = DeleteMarkerEntry::builder().key("a/key").version_id("v2");
                ListObjectVersionsOutput::builder()
                    .versions(version("a/key", "v1").is_latest(false).build())
                    .versions(version("a/last", "v3").is_latest(true).build())
                    .delete_markers(mark.is_latest(true).build())
                    .is_truncated(true)
                    .next_key_marker("a/last")
                    .next_version_id_marker("v3")
                    .build()
            });
        let position = |key: &str, version: &str| VersionPosition {
            key: key.to_owned(),
            version: Some(version.to_owned()),
        };
        let after = position("a/b", "v0");
        let page = archive(&rule).versions("a/", Some(&after)).await;
        let page = page.expect("listed");
        let shown = |item: &ObjectVersion| {
            let flags = (item.is_latest, item.is_delete_marker);
            (format!("{} {}", item.key, item.version), flags)
        };
        assert_eq!(
            page.versions.iter().map(shown).collect::<Vec<_>>(),
            [
                ("a/key v1".to_owned(), (false, false)),
                ("a/key v2".to_owned(), (true, true)),
                ("a/last v3".to_owned(), (true, false)),
            ]
        );
        assert_eq!(page.next, Some(position("a/last", "v3")));
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_followed_is_an_error() {
        let keys = mock!(Client::list_objects_v2)
            .then_output(|| ListObjectsV2Output::builder().is_truncated(true).build());
        let error = archive(&keys).list_keys("a/", None).await.expect_err("cut");
        assert!(matches!(error, ArchiveError::Service(_)), "{error:?}");
        let versions = mock!(Client::list_object_versions).then_output(|| {
            let unnamed = S3Version::builder().key("a/key").build();
            ListObjectVersionsOutput::builder()
                .versions(unnamed)
                .build()
        });
        let error = archive(&versions).versions("a/", None).await;
        assert!(matches!(error, Err(ArchiveError::Service(_))), "{error:?}");
    }

    #[tokio::test]
    async fn one_version_is_read_and_deleted_by_its_id() {
        let read = mock!(Client::get_object)
            .match_requests(|request| {
                request.key() == Some("a/key") && request.version_id() == Some("v1")
            })
            .then_output(|| {
                let body = ByteStream::from_static(&[1]);
                GetObjectOutput::builder().body(body).build()
            });
        let object = archive(&read).get_version("a/key", "v1").await;
        assert_eq!(object.expect("read"), [1]);
        let delete = mock!(Client::delete_object)
            .match_requests(|request| {
                request.key() == Some("a/key") && request.version_id() == Some("v1")
            })
            .then_output(|| DeleteObjectOutput::builder().build());
        let deleted = archive(&delete).delete_version("a/key", "v1").await;
        deleted.expect("deleted");
    }
}
