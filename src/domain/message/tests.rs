//! Messages of events, and messages that were not sent by the relay.

use super::*;
use crate::domain::event::Source;
use crate::domain::text::excerpt;
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-01-15T12:00:00Z".parse().expect("a timestamp")
}

fn event(body: &[u8]) -> Event {
    Event {
        id: "an-event".parse().expect("an id"),
        source: Source::Webhook,
        received_at: now(),
        content_type: Some("application/json".to_owned()),
        headers: [(
            "inin-correlation-id".to_owned(),
            "a \"quoted\" value".to_owned(),
        )]
        .into(),
        body: body.to_vec(),
        webhook_id: None,
        is_copy: false,
    }
}

fn bare(body: &str) -> Message {
    Message {
        body: body.to_owned(),
        attributes: BTreeMap::new(),
        group: None,
        trace: None,
    }
}

#[test]
fn the_body_is_the_webhooks_body() {
    let message = Message::from_event(event(b"{ \"a\" :1}\r\n"));
    assert_eq!(message.body, "{ \"a\" :1}\r\n");
    assert!(!message.attributes.contains_key(attribute::ENCODING));
}

#[test]
fn bytes_that_sqs_refuses_travel_as_base64() {
    for body in [&b"{\"a\":\"\xEF\xBF\xBE\"}"[..], b"\x00", b"\xff\xfe", b""] {
        let event = event(body);
        let message = Message::from_event(event.clone());
        assert!(
            message.attributes.contains_key(attribute::ENCODING),
            "{body:?}"
        );
        assert_eq!(message.to_event(now()).expect("readable").body, body);
    }
}

#[test]
fn a_bare_eventbridge_event_has_the_time_of_its_envelope() {
    let message = bare(
        r#"{"detail-type":"v2.x","time":"2026-01-14T08:00:00Z","detail":{"topicName":"v2.x","eventBody":{},"timestamp":"t"}}"#,
    );
    let event = message.to_event(now()).expect("readable");
    assert_eq!(event.source, Source::EventBridge);
    assert_eq!(event.received_at.to_string(), "2026-01-14T08:00:00Z");
    assert_eq!(
        event.content_type.as_deref(),
        Some("application/json"),
        "the default for JSON"
    );
}

#[test]
fn json_that_came_without_a_type_goes_out_as_json() {
    let of = |content_type: Option<&str>, body: &[u8]| {
        let event = Event {
            content_type: content_type.map(str::to_owned),
            ..event(body)
        };
        Message::from_event(event)
            .to_event(now())
            .expect("readable")
            .content_type
    };
    assert_eq!(of(None, b" [1]\n").as_deref(), Some("application/json"));
    assert_eq!(
        of(Some("application/x-yaml"), b"{}").as_deref(),
        Some("application/x-yaml"),
        "the sender knows"
    );
    for body in [&b"<xml/>"[..], b"1", b"\x1f\x8b", b""] {
        assert_eq!(of(None, body), None, "{body:?}");
    }
    assert_eq!(
        bare("{}")
            .to_event(now())
            .expect("readable")
            .content_type
            .as_deref(),
        Some("application/json")
    );
}

#[test]
fn json_whose_encoding_a_tool_has_dropped_is_read_as_what_it_was() {
    let body = "{\"text\":\"\u{FFFE}\"}".as_bytes();
    let mut message = Message::from_event(event(body));
    message.attributes.clear();
    assert_eq!(message.to_event(now()).expect("readable").body, body);
    for body in ["bm90IEpTT04=", "not base64", ""] {
        assert!(bare(body).to_event(now()).is_err(), "{body}");
    }
}

/// A bare event as EventBridge leaves it behind, with these attributes besides rule and target.
fn left_by_eventbridge(attributes: &[(&str, &str)]) -> Message {
    let mut message = bare(r#"{"detail-type":"v2.x","detail":{"topicName":"v2.x"}}"#);
    let arns = [
        (
            "RULE_ARN",
            "arn:aws:events:us-east-1:123456789012:rule/a-bus/genesys-relay-genesys",
        ),
        (
            "TARGET_ARN",
            "arn:aws:sqs:us-east-1:123456789012:genesys-relay-events",
        ),
    ];
    let attributes = arns
        .iter()
        .chain(attributes)
        .map(|(name, value)| ((*name).to_owned(), Attribute::text(*value)));
    message.attributes.extend(attributes);
    message
}

#[test]
fn undelivered_message_of_eventbridge_has_its_reason() {
    let refused = left_by_eventbridge(&[
        ("ERROR_CODE", "NO_PERMISSIONS"),
        ("ERROR_MESSAGE", "not authorised"),
        ("RETRY_ATTEMPTS", "0"),
    ]);
    let reason = refused.reason(now()).expect("a reason");
    assert_eq!(
        (reason.reason, reason.attempt, reason.at),
        (ReasonKind::Permanent, Some(1), now())
    );
    for word in ["EventBridge", "NO_PERMISSIONS", "not authorised"] {
        assert!(reason.detail.contains(word), "{}", reason.detail);
    }
    let given_up = left_by_eventbridge(&[
        ("ERROR_CODE", "THROTTLING"),
        ("EXHAUSTED_RETRY_CONDITION", "MaximumEventAgeInSeconds"),
        ("RETRY_ATTEMPTS", "many"),
    ]);
    let reason = given_up.reason(now()).expect("a reason");
    assert_eq!(
        (reason.reason, reason.attempt),
        (ReasonKind::Exhausted, None)
    );
    assert!(
        reason.detail.contains("MaximumEventAgeInSeconds"),
        "{}",
        reason.detail
    );

    let mut foreign = refused;
    foreign.attributes.remove("RULE_ARN");
    assert_eq!(foreign.reason(now()), None);
}

#[test]
fn a_body_pasted_in_the_console_has_the_time_sqs_took_it() {
    let event = bare(r#"{"pasted":true}"#)
        .to_event(now())
        .expect("readable");
    assert_eq!((event.source, event.received_at), (Source::Generic, now()));
}

#[test]
fn a_message_that_is_sent_again_stays_the_same_event() {
    let pasted = bare(r#"{"pasted":true}"#);
    let first = pasted.to_event(now()).expect("readable");
    let later = now() + jiff::SignedDuration::from_hours(1);
    assert_ne!(pasted.to_event(later).expect("readable").id, first.id);
    assert_eq!(
        pasted
            .with_identity(now())
            .to_event(later)
            .expect("readable"),
        first
    );
    let sent = Message::from_event(first.clone());
    assert_eq!(sent.clone().with_identity(later), sent);

    let mut full = bare("{}");
    full.attributes = (0..10)
        .map(|number| (number.to_string(), Attribute::text("x")))
        .collect();
    assert_eq!(
        full.clone().with_identity(now()),
        full,
        "SQS takes no more than ten"
    );
}

#[test]
fn unreadable_message_names_its_defect() {
    let with = |name: &str, value: &str| {
        let mut message = bare("{}");
        message
            .attributes
            .insert(name.to_owned(), Attribute::text(value));
        message.to_event(now()).expect_err(name).to_string()
    };
    for name in ["event_id", "source", "received_at", "headers", "encoding"] {
        assert!(with(name, "no such thing!").contains(name));
    }
    assert!(with("encoding", "base64").contains("base64"));
    assert!(
        bare("not json")
            .to_event(now())
            .expect_err("not JSON")
            .to_string()
            .contains("event_id")
    );
}

#[test]
fn a_reason_always_fits_into_what_ingest_leaves_free() {
    let worst = "\"\\\u{7}😀".repeat(10_000);
    let reason = Reason {
        reason: ReasonKind::Permanent,
        detail: excerpt(&worst),
        status_code: Some(404),
        response: Some(excerpt(&worst)),
        attempt: Some(u32::MAX),
        at: now(),
        resent_at: Some(now()),
    };
    let bare = bare("{}");
    let added = bare.clone().with_reason(&reason).size() - bare.size();
    assert!(added < 16 * 1024, "{added}");
    assert_eq!(bare.with_reason(&reason).reason(now()), Some(reason));
}

#[test]
fn the_size_is_that_of_body_and_names_types_and_values() {
    let mut message = bare("{}");
    message
        .attributes
        .insert("name".to_owned(), Attribute::text("value"));
    let bytes = AttributeValue::Binary(vec![0; 7]);
    message.attributes.insert(
        "ü".to_owned(),
        Attribute {
            data_type: "Binary.own".to_owned(),
            value: bytes,
        },
    );
    assert_eq!(message.size(), 2 + (4 + 6 + 5) + (2 + 10 + 7));
}

#[test]
fn a_header_is_kept_by_its_whole_name_or_its_whole_prefix() {
    for name in [
        "x-hub-signature-256",
        "traceparent",
        "x-genesys-webhook-id",
        "inin-correlation-id",
    ] {
        assert!(is_kept_header(name), "{name}");
    }
    for name in [
        "x-hub-signature",
        "traceparents",
        "x-genesys",
        "x-genesysid",
        "my-inin-id",
        "inin",
        "x-webhook-secret",
    ] {
        assert!(!is_kept_header(name), "{name}");
    }
}

#[test]
fn unreadable_message_keeps_the_identity_it_carries() {
    let mut message = bare("no json");
    message.attributes.insert(
        attribute::RECEIVED_AT.to_owned(),
        Attribute::text("2026-01-14T08:00:00Z"),
    );
    assert_eq!(
        message.identity(now()).1.to_string(),
        "2026-01-14T08:00:00Z"
    );
    message
        .attributes
        .insert(attribute::EVENT_ID.to_owned(), Attribute::text("an-event"));
    message
        .attributes
        .insert(attribute::SOURCE.to_owned(), Attribute::text("fax"));
    let (id, received_at) = message.identity(now());
    assert_eq!(
        (id.as_str(), received_at.to_string().as_str()),
        ("an-event", "2026-01-14T08:00:00Z")
    );
    assert_eq!(bare("no json").identity(now()).1, now());
}

#[test]
fn only_an_envelope_of_eventbridge_tells_when_it_was_received() {
    let event = bare(r#"{"time":"2026-01-14T08:00:00Z","name":"generic"}"#)
        .to_event(now())
        .expect("readable");
    assert_eq!(event.received_at, now());
}

#[test]
fn an_origin_that_sqs_would_refuse_makes_no_group() {
    for webhook_id in ["d3a1-4f", "x", &"x".repeat(128)] {
        assert_eq!(as_group_id(webhook_id).as_deref(), Some(webhook_id));
    }
    for webhook_id in ["", "a b", "ü", &"x".repeat(129)] {
        assert_eq!(as_group_id(webhook_id), None, "{webhook_id:?}");
    }
}

proptest! {
    #[test]
    fn an_event_comes_out_as_it_went_in(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let event = event(&body);
        let message = Message::from_event(event.clone());
        prop_assert!(message.body.chars().all(is_allowed));
        prop_assert_eq!(message.to_event(now()).expect("readable"), event);
    }

    #[test]
    fn reason_of_eventbridge_fits_and_yields_to_the_relays(
        code in any::<String>(), error in any::<String>(), retries in any::<String>(), gave_up in any::<bool>(),
    ) {
        let mut said = vec![("ERROR_CODE", &*code), ("ERROR_MESSAGE", &error), ("RETRY_ATTEMPTS", &retries)];
        said.extend(gave_up.then_some(("EXHAUSTED_RETRY_CONDITION", "MaximumRetryAttempts")));
        let left = left_by_eventbridge(&said);
        let theirs = left.reason(now()).expect("a reason");
        prop_assert!(theirs.detail.len() <= crate::domain::text::MAX_EXCERPT_BYTES);
        prop_assert_eq!(theirs.reason == ReasonKind::Exhausted, gave_up);
        let ours = Reason { detail: "ours".to_owned(), ..theirs };

        let mut with_both = left.clone().with_identity(now()).with_reason(&ours);
        prop_assert_eq!(with_both.attributes.len(), 3, "of the ten that SQS takes: identity and reason");
        with_both.attributes.extend(left.attributes.clone());
        prop_assert_eq!(with_both.reason(now()), Some(ours));
        prop_assert_eq!(left.without_reason().attributes, BTreeMap::new(), "a replay takes it all off");
    }
}
