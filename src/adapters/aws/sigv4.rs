//! Signatures of requests to a target that IAM protects: AWS Signature Version 4.

use std::error::Error as StdError;
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_sdk_sqs::config::{Credentials, ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

type Error = Box<dyn StdError + Send + Sync>;

/// A service that takes no signature of the body, and wants that said in a header (user guide of
/// Amazon VPC Lattice, "Considerations").
const VPC_LATTICE: &str = "vpc-lattice-svcs";

/// Signs as the function's role.
#[derive(Debug)]
pub struct SigV4 {
    credentials: SharedCredentialsProvider,
    service: String,
    region: String,
}

impl SigV4 {
    /// A signer for a service, in this region or else the function's own.
    ///
    /// Returns `None` without a region or credentials, which Lambda always gives.
    pub fn new(config: &SdkConfig, service: &str, region: Option<String>) -> Option<Self> {
        let own = || config.region().map(ToString::to_string);
        Some(Self {
            credentials: config.credentials_provider()?,
            service: service.to_owned(),
            region: region.or_else(own)?,
        })
    }

    /// Adds the headers that sign a POST at `now`. The signature covers the host, the body, and
    /// those of the headers that are named in `signed`.
    pub(crate) async fn sign(
        &self,
        url: &str,
        headers: &mut HeaderMap,
        signed: &[HeaderName],
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), Error> {
        let credentials = self.credentials.provide_credentials().await?;
        let mut settings = SigningSettings::default();
        let mut body = SignableBody::Bytes(body);
        if self.service == VPC_LATTICE {
            // As the AWS document's own examples sign: as for S3.
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            body = SignableBody::UnsignedPayload;
        }
        let text = |name: &HeaderName| {
            let value = std::str::from_utf8(headers.get(name)?.as_bytes()).ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        let signed: Vec<_> = signed.iter().filter_map(text).collect();
        let signed = signed
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new("POST", url, signed, body)?;
        for (name, value) in self.signature(request, settings, credentials, now)? {
            headers.insert(name, value);
        }
        Ok(())
    }

    fn signature(
        &self,
        request: SignableRequest<'_>,
        settings: SigningSettings,
        credentials: Credentials,
        now: Timestamp,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let identity = credentials.into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(SystemTime::from(now))
            .settings(settings)
            .build()?;
        let (signature, _) = sign(request, &parameters.into())?.into_parts();
        let headers = signature
            .headers()
            .map(|(name, value)| -> Result<_, Error> {
                let mut value = HeaderValue::from_str(value)?;
                value.set_sensitive(true);
                Ok((name.parse()?, value))
            });
        headers.collect()
    }
}

#[cfg(test)]
impl SigV4 {
    /// A signer with the keys of AWS's test suite.
    pub(crate) fn of_test_suite(service: &str, session_token: Option<&str>) -> Self {
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session_token.map(str::to_owned),
            None,
            "test",
        );
        Self {
            credentials: SharedCredentialsProvider::new(credentials),
            service: service.to_owned(),
            region: "us-east-1".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    const BASE: &str = "https://example.amazonaws.com";

    fn now() -> Timestamp {
        "2015-08-30T12:36:00Z".parse().expect("a time")
    }

    /// The vector with the session token that Lambda's credentials have, too.
    const WITH_SESSION: &str = "post-sts-header-before";

    const SESSION_TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    /// A vector of AWS: method, path, headers, body, names of the signed headers, signature.
    type Vector = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
        &'static str,
        &'static str,
    );

    /// "Signature Version 4 signing test suite": the names are those of its folders.
    const VECTORS: [(&str, Vector); 10] = [
        (
            WITH_SESSION,
            (
                "POST",
                "/",
                &[],
                None,
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ),
        (
            "get-utf8",
            (
                "GET",
                "/ሴ",
                &[],
                None,
                "host;x-amz-date",
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
        ),
        (
            "get-vanilla",
            (
                "GET",
                "/",
                &[],
                None,
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
        ),
        (
            "post-vanilla-query",
            (
                "POST",
                "/?Param1=value1",
                &[],
                None,
                "host;x-amz-date",
                "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            ),
        ),
        (
            "get-vanilla-query-order-encoded",
            (
                "GET",
                "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
                &[],
                None,
                "host;x-amz-date",
                "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
            ),
        ),
        (
            "get-vanilla-query-unreserved",
            (
                "GET",
                "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                &[],
                None,
                "host;x-amz-date",
                "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
            ),
        ),
        (
            "get-header-value-trim",
            (
                "GET",
                "/",
                &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
                None,
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
        ),
        (
            "get-header-key-duplicate",
            (
                "GET",
                "/",
                &[
                    ("My-Header1", "value2"),
                    ("My-Header1", "value2"),
                    ("My-Header1", "value1"),
                ],
                None,
                "host;my-header1;x-amz-date",
                "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ),
        ),
        (
            "post-x-www-form-urlencoded",
            (
                "POST",
                "/",
                &[
                    ("Content-Type", "application/x-www-form-urlencoded"),
                    ("Content-Length", "13"),
                ],
                Some("Param1=value1"),
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
        ),
        (
            "post-x-www-form-urlencoded-parameters",
            (
                "POST",
                "/",
                &[
                    (
                        "Content-Type",
                        "application/x-www-form-urlencoded; charset=utf-8",
                    ),
                    ("Content-Length", "13"),
                ],
                Some("Param1=value1"),
                "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
            ),
        ),
    ];

    #[tokio::test]
    async fn signatures_are_those_that_aws_publishes() {
        for (name, (method, path, headers, body, signed, signature)) in VECTORS {
            let token = (name == WITH_SESSION).then_some(SESSION_TOKEN);
            let signer = SigV4::of_test_suite("service", token);
            let credentials = signer.credentials.provide_credentials().await.expect(name);
            let mut settings = SigningSettings::default();
            if body.is_some() {
                settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            }
            let body = SignableBody::Bytes(body.unwrap_or_default().as_bytes());
            let url = format!("{BASE}{path}");
            let request = SignableRequest::new(method, url, headers.iter().copied(), body);
            let headers = signer
                .signature(request.expect(name), settings, credentials, now())
                .expect(name);
            let (_, authorization) = headers
                .iter()
                .find(|(name, _)| name == header::AUTHORIZATION)
                .expect(name);
            assert_eq!(
                authorization.to_str().expect("text"),
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders={signed}, Signature={signature}"
                ),
                "{name}"
            );
            assert!(headers.iter().all(|(_, value)| value.is_sensitive()));
        }
    }

    #[tokio::test]
    async fn delivery_is_signed_with_its_body_except_for_vpc_lattice() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let sign = async |service: &str, body: &[u8]| {
            let mut headers = headers.clone();
            SigV4::of_test_suite(service, None)
                .sign(BASE, &mut headers, &[header::CONTENT_TYPE], body, now())
                .await
                .expect("signed");
            headers
        };
        let api = sign("execute-api", b"a body").await;
        assert_ne!(
            api[header::AUTHORIZATION],
            sign("execute-api", b"another").await[header::AUTHORIZATION]
        );
        assert!(!api.contains_key("x-amz-content-sha256"));
        let text = api[header::AUTHORIZATION].to_str().expect("text");
        assert!(
            text.contains(
                "/us-east-1/execute-api/aws4_request, SignedHeaders=content-type;host;x-amz-date"
            ),
            "{text}"
        );
        let lattice = sign(VPC_LATTICE, b"a body").await;
        assert_eq!(lattice["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert_eq!(
            lattice[header::AUTHORIZATION],
            sign(VPC_LATTICE, b"another").await[header::AUTHORIZATION]
        );
    }
}
