//! Calls of AWS: their errors, and the services of which the console has no SDK client, since each
//! takes as long to compile as the console itself.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_lambda::config::ProvideCredentials as _;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use futures_util::FutureExt as _;
use genesys_relay::adapters::genesys::{Http as _, Https};
use genesys_relay::runtime::logging::display_chain;
use http::{Method, Request, Response, StatusCode};
use roxmltree::{Document, Node};
use serde_json::Value;
use tokio::time::sleep;

/// Codes by which services of AWS say that IAM does not allow a call.
const DENIALS: [&str; 6] = [
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
    "UnauthorizedOperation",
    "KMSAccessDeniedException",
];

/// Attempts of a call that fails for a moment, and the pause between two.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Reason for which a check is not `ok`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The subject is not as it should be.
    Failed(String),
    /// There is nothing to check, and why.
    NotHere(String),
    /// A permission is missing, by its name.
    NotAllowed(String),
    /// The subject does not exist.
    Missing(String),
}

impl Fault {
    pub(super) fn failed<T>(what: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(what.into()))
    }

    pub(super) fn not_here<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::NotHere(why.into()))
    }
}

/// Judges the error of an SDK client. `permission` is that of the call.
pub(super) fn fault<E: ProvideErrorMetadata + std::error::Error + 'static>(
    permission: &'static str,
) -> impl Fn(SdkError<E>) -> Fault {
    move |error| match &error {
        SdkError::ServiceError(refused) => {
            let (code, status) = (error.code().unwrap_or_default(), refused.raw().status());
            judge(permission, code, error.message(), status.as_u16())
        }
        _ => Fault::Failed(format!(
            "{permission} got no answer: {}",
            display_chain(&error)
        )),
    }
}

fn judge(permission: &str, code: &str, message: Option<&str>, status: u16) -> Fault {
    let message = message.unwrap_or("without a message");
    if code == "KMSAccessDeniedException" || (DENIALS.contains(&code) && message.contains("KMS")) {
        Fault::NotAllowed(format!("kms:Decrypt on the stack's key, for {permission}"))
    } else if DENIALS.contains(&code) || (status == 403 && code.is_empty()) {
        Fault::NotAllowed(permission.to_owned())
    } else if status == 404 || code.contains("NotFound") || code.contains("NonExistent") {
        Fault::Missing(format!("{code}: {message}"))
    } else {
        Fault::Failed(format!("{permission} was answered {code}: {message}"))
    }
}

/// Caller of services without an SDK client.
pub(super) struct Signed {
    config: SdkConfig,
    region: String,
    partition: String,
    https: Https,
}

impl Signed {
    pub(super) fn new(config: SdkConfig, region: String, partition: String, https: Https) -> Self {
        Self {
            config,
            region,
            partition,
            https,
        }
    }

    /// Calls a service of the Query protocol, and returns the content of its result, lists as
    /// arrays.
    pub(super) async fn query(
        &self,
        permission: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<Value, Fault> {
        let (service, action) = permission.split_once(':').unwrap_or((permission, ""));
        let version = match service {
            "iam" => "2010-05-08",
            _ => "2010-03-31",
        };
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("Action", action), ("Version", version)])
            .extend_pairs(parameters)
            .finish();
        let content = ("content-type", "application/x-www-form-urlencoded");
        let answer = self
            .call(permission, service, (Method::POST, "/"), &[content], body)
            .await?;
        let document =
            Document::parse(&answer).map_err(|error| unreadable(permission, &error.to_string()))?;
        let result = document.root_element().first_element_child();
        Ok(result.map_or(Value::Null, value_of))
    }

    /// Calls a service of the JSON protocol by the prefix of its targets.
    pub(super) async fn json(
        &self,
        permission: &'static str,
        prefix: &str,
        request: &Value,
    ) -> Result<Value, Fault> {
        let (service, action) = permission.split_once(':').unwrap_or((permission, ""));
        let target = format!("{prefix}.{action}");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", &target),
        ];
        let place = (Method::POST, "/");
        let answer = self
            .call(permission, service, place, &headers, request.to_string())
            .await?;
        serde_json::from_str(&answer).map_err(|error| unreadable(permission, &error.to_string()))
    }

    /// Reads a path of a service of the REST protocol.
    pub(super) async fn get(
        &self,
        permission: &'static str,
        service: &str,
        path: &str,
    ) -> Result<Value, Fault> {
        let answer = self
            .call(permission, service, (Method::GET, path), &[], String::new())
            .await?;
        serde_json::from_str(&answer).map_err(|error| unreadable(permission, &error.to_string()))
    }

    async fn call(
        &self,
        permission: &str,
        service: &str,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<String, Fault> {
        let unsent =
            |error: String| Fault::Failed(format!("{permission} could not be called: {error}"));
        let (base, region) = self.endpoint(service);
        let url = format!("{base}{path}");
        let credentials = self.config.credentials_provider();
        let credentials = credentials.ok_or_else(|| unsent("no credentials".to_owned()))?;
        let credentials = credentials.provide_credentials();
        let credentials = credentials.await.map_err(|e| unsent(display_chain(&e)))?;
        let identity = credentials.into();
        let parameters = SigningParams::builder()
            .identity(&identity)
            .region(&region)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsent(error.to_string()))?;
        let request = SignableRequest::new(
            method.as_str(),
            &url,
            headers.iter().copied(),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(|error| unsent(error.to_string()))?;
        let signed = sign(request, &parameters.into()).map_err(|e| unsent(e.to_string()))?;
        let (signed, _) = signed.into_parts();
        let mut request = Request::builder().method(method).uri(&url);
        for (name, value) in headers.iter().copied().chain(signed.headers()) {
            request = request.header(name, value);
        }
        let request = request.body(body.into_bytes());
        let request = request.map_err(|error| unsent(error.to_string()))?;
        // The future is large.
        let mut attempt = 1;
        let answer = loop {
            let answer = self.https.send(request.clone()).boxed().await;
            let is_temporary = match &answer {
                Ok(answer) => is_temporary(answer),
                Err(_) => true,
            };
            if !is_temporary || attempt == ATTEMPTS {
                break answer;
            }
            sleep(PAUSE * attempt).await;
            attempt += 1;
        };
        let answer = answer.map_err(|error| {
            Fault::Failed(format!(
                "{permission} got no answer: {}",
                display_chain(&error)
            ))
        })?;
        let code = answer.headers().get("x-amzn-errortype");
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default();
        let code = code.split(':').next().unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        match answer.status() {
            status if status.is_success() => Ok(text),
            status => Err(refusal(permission, status, &code, &text)),
        }
    }

    /// Address of a service, and the region for which its calls are signed.
    fn endpoint(&self, service: &str) -> (String, String) {
        let region = self.region.clone();
        if let Some(url) = self.config.endpoint_url() {
            return (url.trim_end_matches('/').to_owned(), region);
        }
        let domain = match self.partition.as_str() {
            "aws-cn" => "amazonaws.com.cn",
            "aws-eusc" => "amazonaws.eu",
            _ => "amazonaws.com",
        };
        // IAM is one service for a partition (IAM, "Endpoints and quotas").
        match (service, self.partition.as_str()) {
            ("iam", "aws") => (
                "https://iam.amazonaws.com".to_owned(),
                "us-east-1".to_owned(),
            ),
            ("iam", "aws-us-gov") => (
                "https://iam.us-gov.amazonaws.com".to_owned(),
                "us-gov-west-1".to_owned(),
            ),
            ("iam", "aws-cn") => (
                "https://iam.cn-north-1.amazonaws.com.cn".to_owned(),
                "cn-north-1".to_owned(),
            ),
            _ => (format!("https://{service}.{region}.{domain}"), region),
        }
    }
}

fn unreadable(permission: &str, error: &str) -> Fault {
    Fault::Failed(format!(
        "the answer to {permission} cannot be read: {error}"
    ))
}

/// Judges whether the same call can succeed a moment later.
fn is_temporary(answer: &Response<Vec<u8>>) -> bool {
    let text = String::from_utf8_lossy(answer.body());
    let is_throttled = ["Throttl", "TooManyRequests", "RequestLimitExceeded"];
    answer.status().is_server_error()
        || (!answer.status().is_success() && is_throttled.iter().any(|code| text.contains(code)))
        || answer.status() == StatusCode::TOO_MANY_REQUESTS
}

/// Reads the code of an error, in its header, XML or JSON.
fn refusal(permission: &str, status: StatusCode, header: &str, text: &str) -> Fault {
    let of_xml = |name: &str| {
        let document = Document::parse(text).ok()?;
        let mut nodes = document.descendants();
        let node = nodes.find(|node| node.has_tag_name(name))?;
        node.text().map(str::to_owned)
    };
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let of_json = |name: &str| json[name].as_str().map(str::to_owned);
    let of_header = Some(header.to_owned()).filter(|code| !code.is_empty());
    let code = of_header
        .or_else(|| of_json("__type"))
        .or_else(|| of_json("code"));
    let code = code.or_else(|| of_xml("Code")).unwrap_or_default();
    // `com.amazonaws.events#ResourceNotFoundException`
    let code = code.rsplit('#').next().unwrap_or_default();
    let message = of_json("message").or_else(|| of_json("Message"));
    let message = message.or_else(|| of_xml("Message"));
    judge(permission, code, message.as_deref(), status.as_u16())
}

/// Content of an element: an array of its members, an object of its elements, or its text.
fn value_of(element: Node<'_, '_>) -> Value {
    let mut elements = element.children().filter(Node::is_element).peekable();
    match elements.peek() {
        None => element.text().unwrap_or_default().into(),
        Some(first) if first.has_tag_name("member") || first.has_tag_name("entry") => {
            elements.map(value_of).collect()
        }
        Some(_) => elements
            .map(|element| (element.tag_name().name().to_owned(), value_of(element)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_becomes_the_permission_in_every_protocol() {
        let denied = Fault::NotAllowed("iam:GetRolePolicy".to_owned());
        for (status, text) in [
            (
                403,
                "<ErrorResponse xmlns='urn:x'><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>",
            ),
            (
                400,
                r#"{"__type":"com.amazonaws.events#AccessDeniedException","message":"no"}"#,
            ),
            (403, r#"{"message":"no"}"#),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(
                refusal("iam:GetRolePolicy", status, "", text),
                denied,
                "{text}"
            );
        }
    }

    #[test]
    fn missing_subject_is_told_from_a_refusal() {
        let xml = "<ErrorResponse><Error><Code>NoSuchEntity</Code><Message>gone</Message></Error></ErrorResponse>";
        let missing = refusal("iam:GetRolePolicy", StatusCode::NOT_FOUND, "", xml);
        assert_eq!(missing, Fault::Missing("NoSuchEntity: gone".to_owned()));
        let json = r#"{"__type":"Throttling","message":"slow down"}"#;
        let refused = refusal("events:DescribeRule", StatusCode::BAD_REQUEST, "", json);
        let says = "events:DescribeRule was answered Throttling: slow down";
        assert_eq!(refused, Fault::Failed(says.to_owned()));
    }
}
