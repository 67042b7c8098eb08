//! Credentials towards the target.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";

fn read(secret: &Value) -> Result<TargetSecrets, SecretsError> {
    TargetSecrets::from_secret(&secret.to_string())
}

fn error(secret: &Value) -> String {
    let error = read(secret).expect_err("unusable");
    format!("{error:?} {error}")
}

fn oauth() -> Value {
    json!({ "tokenUrl": "https://login.example.com/token", "clientId": "an-id", "clientSecret": "hunter2" })
}

#[test]
fn every_credential_is_read_also_from_text() {
    let certificate = json!({ "certificate": PEM, "privateKey": PEM });
    let fields = [
        (
            "targetHeaders",
            json!({ "X-Api-Key": " hunter2\n", "x-tenant": "t" }),
        ),
        ("targetOAuth", oauth()),
        ("targetClientCertificate", certificate),
        ("targetCa", json!(PEM)),
    ];
    let of = |write: fn(&Value) -> Value| {
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), write(value)));
        read(&Value::Object(fields.collect())).expect("usable")
    };
    let text = |value: &Value| match value {
        Value::String(text) => json!(text),
        value => json!(value.to_string()),
    };
    for secrets in [of(Value::clone), of(text)] {
        let headers: Vec<_> = secrets
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes(), value.is_sensitive()))
            .collect();
        assert_eq!(
            headers,
            [
                ("x-api-key", &b"hunter2"[..], true),
                ("x-tenant", b"t", true)
            ]
        );
        let client = secrets.oauth.as_ref().expect("a client");
        assert_eq!(
            client.token_url.as_url().host_str(),
            Some("login.example.com")
        );
        assert_eq!(
            (client.client_id.as_str(), client.client_secret.as_str()),
            ("an-id", "hunter2")
        );
        assert!(client.authentication == Authentication::Basic && client.scope.is_none());
        assert_eq!(secrets.tls.ca.as_deref(), Some(PEM));
        let certificate = secrets.tls.client.as_ref().expect("one");
        assert_eq!(
            (
                certificate.certificate.as_str(),
                certificate.private_key.as_str()
            ),
            (PEM, PEM)
        );
        assert!(!format!("{secrets:?}").contains("hunter2"));
        assert_eq!(
            secrets.fields().collect::<Vec<_>>(),
            ["targetHeaders", "targetOAuth", "targetClientCertificate"]
        );
    }
    assert_eq!(read(&json!({})).expect("usable").fields().count(), 0);
}

#[test]
fn pem_is_read_also_from_one_line() {
    for text in [
        PEM.replace('\n', "\\n"),
        PEM.replace('\n', "\\r\\n"),
        PEM.replace('\n', "\r\n"),
        PEM.replace('\n', " "),
        PEM.replace('\n', ""),
        format!("\u{FEFF}{PEM}\n\n"),
    ] {
        let secrets = read(&json!({ "targetCa": text })).expect("usable");
        let lines: String = secrets.tls.ca.expect("one").split('\n').collect();
        assert_eq!(lines, PEM.replace('\n', ""), "{text:?}");
    }
}

fn refuses<const N: usize>(secrets: [(Value, &str); N]) {
    for (secret, says) in secrets {
        let error = error(&secret);
        assert!(error.contains(says), "{says}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
        let secret = secret.to_string();
        let senders = SenderSecrets::from_secret(&secret);
        assert!(senders.is_ok(), "other functions go on");
    }
}

#[test]
fn header_that_cannot_be_sent_is_refused_by_its_name() {
    let header = |name: &str, value: Value| json!({ "targetHeaders": { name: value } });
    refuses([
        (
            header("authorization", json!("hunter2")),
            "targetHeaders.authorization belongs into the field targetAuthorization",
        ),
        (
            header("Connection", json!("hunter2")),
            "targetHeaders.connection is a header of the connection",
        ),
        (header("host", json!("hunter2")), "targetHeaders.host"),
        (
            header("content-type", json!("hunter2")),
            "targetHeaders.content-type is a header that the relay sets",
        ),
        (
            header("Webhook-Id", json!("hunter2")),
            "targetHeaders.webhook-id is a header that the relay sets",
        ),
        (
            header("x-relay-source", json!("hunter2")),
            "targetHeaders.x-relay-source",
        ),
        (
            header("idempotency-key", json!("hunter2")),
            "targetHeaders.idempotency-key",
        ),
        (
            header("traceparent", json!("hunter2")),
            "targetHeaders.traceparent",
        ),
        (
            header("hunter2 with blanks", json!("x")),
            "targetHeaders has a name that HTTP does not allow",
        ),
        (
            header("x-api-key", json!("")),
            "targetHeaders has a value that is empty",
        ),
        (
            header("x-api-key", json!("hunter2\nhunter2")),
            "targetHeaders has a value that is empty, not a text, or not allowed by HTTP",
        ),
        (
            header("x-api-key", json!(["hunter2"])),
            "targetHeaders has a value that is empty, not a text",
        ),
        (header("hunter2", json!("")), "targetHeaders has a value"),
        (
            json!({ "targetHeaders": "hunter2" }),
            "targetHeaders is not a JSON object",
        ),
    ]);
}

#[test]
fn unusable_credential_is_refused_by_its_name() {
    let with = |name: &str, value: Value| {
        let mut client = oauth();
        client[name] = value;
        json!({ "targetOAuth": client })
    };
    let certificate = |certificate: Value| json!({ "targetClientCertificate": certificate });
    refuses([
        (
            json!({ "targetOAuth": "hunter2" }),
            "targetOAuth is not a JSON object",
        ),
        (
            with("hunter2", json!("x")),
            "targetOAuth has a name that is not known",
        ),
        (
            with("tokenUrl", json!("http://login.example.com/")),
            "targetOAuth.tokenUrl",
        ),
        (
            with("tokenUrl", json!("https://a:hunter2@login.example.com/")),
            "targetOAuth.tokenUrl",
        ),
        (
            with("clientId", Value::Null),
            "targetOAuth.clientId is missing",
        ),
        (
            with("clientSecret", json!("")),
            "targetOAuth.clientSecret is empty",
        ),
        (
            with("clientSecret", json!(7)),
            "targetOAuth.clientSecret is empty or not a text",
        ),
        (
            with("authentication", json!("hunter2")),
            "targetOAuth.authentication is neither basic nor post",
        ),
        (
            certificate(json!({ "certificate": PEM })),
            "targetClientCertificate.privateKey is missing",
        ),
        (
            certificate(json!({ "certificate": PEM, "privateKey": PEM, "hunter2": "x" })),
            "targetClientCertificate has a name",
        ),
        (json!({ "targetCa": ["hunter2"] }), "targetCa is not a text"),
        (
            json!({ "targetAuthorization": "hunter2", "targetOAuth": oauth() }),
            "remove one of the two",
        ),
    ]);
    for url in ["http://127.0.0.1:9/token", "http://localhost/token"] {
        assert!(read(&with("tokenUrl", json!(url))).is_ok(), "{url}");
    }
    assert!(read(&with("authentication", json!("post"))).is_ok());
}

proptest! {
    #[test]
    fn no_value_is_shown_wherever_it_stands(value in "[a-z]{3}QX[A-Za-z0-9\\\\\"\n{}\\[\\]-]{12,40}") {
        for secret in [
            json!({ "targetAuthorization": [value] }),
            json!({ "targetHeaders": value }),
            json!({ "targetHeaders": { "x-key": [value], "host": value } }),
            json!({ "targetHeaders": { "x-key": format!("{value}\n{value}") } }),
            json!({ "targetOAuth": { "tokenUrl": value, "clientId": value, "clientSecret": value } }),
            json!({ "targetOAuth": { "clientSecret": value } }),
            json!({ "targetClientCertificate": { "certificate": value, "privateKey": [value] } }),
            json!({ "targetSigningSecrets": [format!("whsec_{value}")] }),
        ] {
            let shown = format!("{:?}", read(&secret));
            prop_assert!(!shown.contains(&value), "{shown}");
        }
    }
}
