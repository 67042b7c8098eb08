//! ingest under load: events of several kinds, and everything that it has to refuse.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use local::genesys::Webhook;
use local::stack::secret;
use local::stand_in::StandIn;
use serde_json::{Value, json};

use crate::footprint::Footprint;
use crate::{INGEST_TIME, NOWHERE, invocations, returned, start};

/// Requests of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Signed,
    Shared,
    Base64,
    Large,
    Again,
    NotJson,
    Empty,
    WrongSignature,
    WrongSecret,
    Unsigned,
    TooLarge,
}

impl Kind {
    /// Of forty, seven are refused. Now and then one is large, and one even too large.
    fn of(number: usize) -> Self {
        match number % 40 {
            0 if number.is_multiple_of(200) => Self::Large,
            1 if number % 400 == 1 => Self::TooLarge,
            2 | 3 => Self::NotJson,
            4 => Self::Empty,
            5 | 6 => Self::WrongSignature,
            7 => Self::WrongSecret,
            8 => Self::Unsigned,
            9..=12 => Self::Again,
            13..=16 => Self::Base64,
            rest if rest % 2 == 0 => Self::Signed,
            _ => Self::Shared,
        }
    }

    fn status(self) -> u64 {
        match self {
            Self::Signed | Self::Shared | Self::Base64 | Self::Large | Self::Again => 200,
            Self::NotJson | Self::Empty => 400,
            Self::WrongSignature | Self::WrongSecret | Self::Unsigned => 401,
            Self::TooLarge => 413,
        }
    }

    /// The request, as API Gateway hands it over.
    fn request(self, number: usize) -> Value {
        let text = match self {
            Self::Large => "x".repeat(400_000),
            Self::TooLarge => "x".repeat(1024 * 1024),
            _ => "Hi, how can I help you?".to_owned(),
        };
        let message = json!({
            "id": format!("d7d5{number:028x}"),
            "channel": { "id": "3f1c9a52-7d0b-4e0e-9a57-2f6d1f0c8b11", "platform": "Open", "type": "Private" },
            "type": "Text", "text": text, "direction": "Outbound",
        });
        let webhook = match self {
            Self::Signed | Self::Base64 | Self::Large | Self::TooLarge => {
                Webhook::signed(message.to_string())
            }
            Self::Again => Webhook::signed(r#"{"the":"same"}"#),
            Self::Shared => Webhook::with_shared_secret(message.to_string()),
            Self::NotJson => Webhook::with_shared_secret(format!("no json, {number}")),
            Self::Empty => Webhook::with_shared_secret(""),
            Self::WrongSignature => Webhook {
                body: format!("{{\"changed\":{number}}}").into(),
                ..Webhook::signed("{}")
            },
            Self::WrongSecret => Webhook {
                authentication: ("X-Webhook-Secret", format!("forged-{number}")),
                ..Webhook::signed("{}")
            },
            Self::Unsigned => Webhook {
                authentication: ("X-Nothing", String::new()),
                ..Webhook::signed("{}")
            },
        };
        request(&webhook, self == Self::Base64)
    }
}

/// A webhook as API Gateway hands it over.
pub(crate) fn request(webhook: &Webhook, in_base64: bool) -> Value {
    let (name, value) = &webhook.authentication;
    let body = if in_base64 {
        BASE64_STANDARD.encode(&webhook.body)
    } else {
        String::from_utf8_lossy(&webhook.body).into_owned()
    };
    json!({
        "version": "2.0",
        "routeKey": "POST /webhook/genesys",
        "rawPath": "/webhook/genesys",
        "rawQueryString": "",
        "headers": { "content-type": "application/json", "user-agent": "a load", name.to_lowercase(): value },
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "load",
            "http": { "method": "POST", "path": "/webhook/genesys", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.10" },
            "requestId": "load", "routeKey": "POST /webhook/genesys", "stage": "$default", "timeEpoch": 0,
        },
        "body": body,
        "isBase64Encoded": in_base64,
    })
}

#[tokio::test]
async fn ingest_holds_no_more_after_thousands_of_webhooks_and_has_stored_what_it_said_yes_to()
-> Result<()> {
    let invocations = invocations(2000)?;
    let stand_in = StandIn::start(&secret()).await?;
    let mut ingest = start("ingest", &stand_in, NOWHERE, INGEST_TIME).await?;
    let mut footprint = Footprint::of(ingest.pid(), invocations);
    let (mut accepted, mut answers) = (Vec::new(), BTreeMap::<u64, usize>::new());
    for number in 1..=invocations {
        let kind = Kind::of(number);
        let answer = returned(ingest.invoke(kind.request(number).to_string()).await?)?;
        let status = answer["statusCode"].as_u64().unwrap_or_default();
        assert_eq!(status, kind.status(), "{number}, {kind:?}: {answer}");
        *answers.entry(status).or_default() += 1;
        if status == 200 {
            let body: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
            accepted.push(body["eventId"].as_str().unwrap_or_default().to_owned());
        }
        footprint.after(number)?;
    }
    eprintln!(
        "ingest: {answers:?}, {} stored",
        stand_in.messages("events").len()
    );
    assert!(
        accepted == stand_in.messages("events"),
        "what it said yes to is what the queue has"
    );
    let malformed = (1..=invocations)
        .filter(|number| Kind::of(*number) == Kind::NotJson)
        .count();
    assert_eq!(stand_in.messages("dead-letters").len(), malformed);
    footprint.is_steady("ingest")
}
