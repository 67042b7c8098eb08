//! The identity of events.

mod laws;

use std::cell::Cell;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::json::tests::any_json;

const NOON: &str = "2026-01-15T12:00:00Z";

thread_local! {
    static LONE: Cell<u128> = const { Cell::new(0) };
}

/// An id as ingest makes it for one accepted request.
fn lone() -> EventId {
    LONE.set(LONE.get() + 1);
    EventId::of_request(at(NOON), LONE.get())
}

fn at(time: &str) -> Timestamp {
    time.parse().expect("a timestamp")
}

fn parse(body: &str) -> Json<'_> {
    Json::parse(body.as_bytes()).expect("JSON")
}

fn keyed(body: &str, time: &str, key: Option<&str>) -> EventId {
    keyed_twice(body, time, key, None)
}

fn keyed_twice(
    body: &str,
    time: &str,
    idempotency_key: Option<&str>,
    webhook_id: Option<&str>,
) -> EventId {
    Identity::of(
        parse(body),
        at(time),
        SenderKey::of(idempotency_key, webhook_id).as_ref(),
        lone,
    )
    .id
}

fn identity(body: &str) -> Identity {
    Identity::of(parse(body), at(NOON), None, lone)
}

fn id(body: &str) -> EventId {
    identity(body).id
}

/// The event of a body as the processor reads it.
fn event(body: &str) -> Event {
    let Identity {
        id,
        source,
        webhook_id,
    } = identity(body);
    let (received_at, headers) = (at(NOON), BTreeMap::new());
    Event {
        id,
        source,
        received_at,
        content_type: None,
        headers,
        body: body.into(),
        webhook_id,
        is_copy: false,
    }
}

/// The id and the digest of a body.
fn known_by(body: &str) -> (EventId, Option<BodyDigest>) {
    let event = event(body);
    (event.id.clone(), event.digest())
}

fn is_told(body: &str) -> bool {
    id(body) == id(body)
}

/// Fills the text of a body that is given as `"$"`.
fn with(body: &str, literal: &str) -> String {
    body.replace(r#""$""#, literal)
}

const TEXT: &str = r#"{"id":"m1","channel":{"id":"c1","platform":"Open","time":"2025-06-10T21:03:05.427Z"},"type":"Text","text":"Hi"}"#;

#[test]
fn a_message_is_known_by_channel_type_id_and_time() {
    let copy = r#"{"type":"Text","text":"Hi","conversationId":"later","id":"m1","channel":{"platform":"Open","time":"2025-06-10T23:03:05.427+02:00","id":"c1"}}"#;
    assert_eq!(id(TEXT), id(copy));
    assert_eq!(
        (identity(TEXT).source, identity(TEXT).webhook_id.as_deref()),
        (Source::OpenMessaging, Some("c1"))
    );
    for (one, other) in [
        ("m1", "m2"),
        ("c1", "c2"),
        ("Text\"", "Structured\""),
        (".427Z", ".428Z"),
    ] {
        assert_ne!(id(TEXT), id(&TEXT.replace(one, other)), "{other}");
    }
}

#[test]
fn receipts_of_one_message_differ_by_status() {
    let receipt = |status| {
        TEXT.replace("Text\"", "Receipt\"")
            .replace("\"text\":\"Hi\"", &format!("\"status\":\"{status}\""))
    };
    assert_eq!(id(&receipt("Delivered")), id(&receipt("Delivered")));
    assert_ne!(id(&receipt("Delivered")), id(&receipt("Failed")));
}

#[test]
fn a_message_without_an_id_is_known_by_its_body_and_one_without_a_time_by_nothing() {
    for (place, literals) in [
        ("\"m1\"", ["null", r#""""#, r#""${message.id}""#]),
        ("\"c1\"", ["null", r#"" ""#, r#""{{id}}""#]),
    ] {
        for literal in literals {
            let body = TEXT.replacen(place, literal, 1);
            assert_eq!(identity(&body).source, Source::OpenMessaging);
            assert!(is_told(&body), "{body}");
            assert_ne!(id(&body), id(&body.replace("Hi", "Bye")), "{body}");
        }
    }
    for literal in [
        "null",
        r#""""#,
        r#""yesterday""#,
        r#""0001-01-01T00:00:00Z""#,
    ] {
        assert!(
            !is_told(&TEXT.replace(r#""2025-06-10T21:03:05.427Z""#, literal)),
            "{literal}"
        );
    }
}

#[test]
fn only_what_has_its_own_marks_is_open_messaging() {
    let body = r#"{"type":"conversation","id":"c","channel":{"id":"voice"},"state":"alerting"}"#;
    assert_eq!(identity(body).source, Source::Generic);
    for mark in [
        r#""direction":"Outbound","#,
        r#""originatingEntity":"Human","#,
    ] {
        assert_eq!(
            identity(&body.replacen('{', &format!("{{{mark}"), 1)).source,
            Source::OpenMessaging,
            "{mark}"
        );
    }
    assert_eq!(
        identity(r#"{"type":"Text","direction":"Outbound"}"#).source,
        Source::Generic,
        "it has no channel"
    );
}

#[test]
fn the_same_id_with_another_body_is_another_event() {
    let other = TEXT.replace("Hi", "Correction");
    let ((one, digest), (same, other)) = (known_by(TEXT), known_by(&other));
    assert_eq!(one, same);
    let (digest, other) = (digest.expect("a digest"), other.expect("a digest"));
    assert_ne!(one.with_body(&digest), one.with_body(&other));
    assert_eq!(
        known_by(&TEXT.replace(r#""Hi""#, r#" "\u0048i""#)).1,
        Some(digest),
        "written otherwise"
    );
    assert_eq!(
        Event {
            is_copy: true,
            ..event(TEXT)
        }
        .digest(),
        None,
        "a copy is known by its id alone"
    );
}

#[test]
fn an_eventbridge_event_is_known_whatever_its_envelope() {
    let event = r#"{"id":"a","detail-type":"v2.x","time":"t1","detail":{"topicName":"v2.x","eventBody":{"id":"user","state":1},"timestamp":"2026-01-15T12:00:00Z"}}"#;
    assert_eq!(identity(event).source, Source::EventBridge);
    assert_eq!(id(event), id(&event.replace(r#""id":"a""#, r#""id":"b""#)));
    for (one, other) in [
        (r#""state":1"#, r#""state":2"#),
        ("12:00:00", "12:00:01"),
        (r#"topicName":"v2.x"#, r#"topicName":"v2.y"#),
    ] {
        assert_ne!(id(event), id(&event.replace(one, other)));
    }
}

#[test]
fn events_without_a_time_are_known_by_all_that_they_hold() {
    for timestamp in [
        "",
        r#","timestamp":null"#,
        r#","timestamp":"""#,
        r#","timestamp":"t""#,
    ] {
        let event = format!(
            r#"{{"id":"a","detail-type":"v2.x","time":"t1","detail":{{"topicName":"v2.x","eventBody":{{"state":1}}{timestamp}}}}}"#
        );
        assert_eq!(identity(&event).source, Source::EventBridge);
        assert_eq!(id(&event), id(&event), "a copy of SQS");
        assert_ne!(
            id(&event),
            id(&event.replace(r#""id":"a""#, r#""id":"b""#)),
            "{event}"
        );
        assert!(
            !is_told(&event.replace(r#""id":"a","#, "")),
            "no bus has given it an id"
        );
    }
}

#[test]
fn an_eventbridge_event_is_known_by_its_source_its_topic_or_its_envelope() {
    let bus = |source: &str, detail: &str| {
        format!(
            r#"{{"version":"0","id":"i","detail-type":"d","source":"{source}","account":"1","time":"t","region":"r","resources":[],"detail":{detail}}}"#
        )
    };
    for event in [
        r#"{"source":"aws.partner/genesys.com/cloud/x","detail":{"eventBody":{}}}"#,
        r#"{"detail-type":"d","detail":{"topicName":"v2.x"}}"#,
        &bus("local.partner/genesys.com", "{}"),
        &bus("of.my.own", r#""text""#),
    ] {
        assert_eq!(identity(event).source, Source::EventBridge, "{event}");
    }
    for event in [
        r#"{"source":"aws.partner/genesys.com/cloud/x"}"#,
        r#"{"source":"crm","detail":{"topicName":"v2.x"}}"#,
        r#"{"source":"crm","detail-type":"d","detail":{}}"#,
        &bus("of.my.own", "{}").replace(r#""account":"1","#, ""),
    ] {
        assert_eq!(identity(event).source, Source::Generic, "{event}");
    }
}

/// The samples have the shapes of events that Genesys Cloud sent; where the envelope was not in the
/// capture, it is that of the other topics.
#[test]
fn the_shapes_that_genesys_sends_over_eventbridge_are_known_by_what_happened() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events");
    let paths = std::fs::read_dir(folder)
        .expect("samples")
        .map(|entry| entry.expect("a sample").path());
    let is_bare = |path: &std::path::PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("eventbridge-"))
    };
    let mut seen = std::collections::BTreeSet::new();
    for path in paths.filter(is_bare) {
        let text = std::fs::read_to_string(&path).expect("a sample");
        let event: Value = serde_json::from_str(&text).expect("JSON");
        let original = id(&text);
        assert_eq!(identity(&text).source, Source::EventBridge, "{path:?}");

        let mut again = event.clone();
        again["id"] = "00000000-0000-4000-8000-000000000009".into();
        again["time"] = "2026-03-04T00:00:00Z".into();
        let has_time = event["detail"]["timestamp"].is_string();
        assert_eq!(
            id(&again.to_string()) == original,
            has_time,
            "published again: {path:?}"
        );
        assert!(is_told(&text), "{path:?}");

        let mut changed = event.clone();
        changed["detail"]["eventBody"]["changed"] = true.into();
        let mut later = event;
        later["detail"]["timestamp"] = "2026-03-04T00:00:00.000Z".into();
        for other in [changed, later] {
            assert_ne!(
                id(&other.to_string()),
                original,
                "another change of the same: {path:?}"
            );
        }
        assert!(seen.insert(original), "{path:?}");
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

const ENVELOPE: &str = r#"{"webhookId":"w","webhookName":"n","payload":{"a":1},"timestamp":"$"}"#;

#[test]
fn two_webhooks_of_the_same_second_are_two_events() {
    let webhook = with(ENVELOPE, r#""2026-01-15T12:00:00Z""#);
    assert_eq!(
        (
            identity(&webhook).source,
            identity(&webhook).webhook_id.as_deref()
        ),
        (Source::Webhook, Some("w"))
    );
    assert!(is_told(&webhook));
    assert_ne!(id(&webhook), id(&webhook.replace(r#""a":1"#, r#""a":2"#)));
    assert_eq!(
        identity(&webhook.replace(r#":"w""#, r#":"${input.id}""#)).webhook_id,
        None,
        "it names no webhook"
    );
}

/// The Data Action of `docs/use/data-action.md` without its input `timestamp`: an optional input is
/// left out, empty, or stands as it was written in the template.
#[test]
fn webhooks_without_a_time_of_their_own_are_events_of_their_own() {
    for timestamp in [
        r#""""#,
        "null",
        r#""${input.timestamp}""#,
        r#""$!{input.timestamp}""#,
        r#""2026-01-15""#,
        r#""t""#,
        "0",
    ] {
        let body = with(ENVELOPE, timestamp);
        assert_eq!(identity(&body).source, Source::Webhook);
        assert!(
            !is_told(&body),
            "{timestamp}: the second event is dropped as a duplicate of the first"
        );
        assert!(
            !is_told(&body.replace(r#""a":1"#, r#""a":"${input.a}""#)),
            "{timestamp}"
        );
    }
}

#[test]
fn bodies_that_nothing_tells_apart_are_events_of_their_own() {
    for body in [
        r#"{"hello":"world"}"#,
        "{}",
        "[]",
        r#"{"timestamp":"2026-01-15T12:00:00Z"}"#,
        r#"{"id":"1"}"#,
    ] {
        assert!(!is_told(body), "{body}");
        for key in [
            "",
            " ",
            "${input.key}",
            "$!{input.key}",
            "$input.key",
            "$!input.key",
            "{{key}}",
            "undefined",
            "null",
        ] {
            assert_ne!(
                keyed(body, NOON, Some(key)),
                keyed(body, NOON, Some(key)),
                "{body} with the key {key:?}"
            );
        }
    }
}

#[test]
fn a_key_counts_with_its_body_and_for_a_day() {
    let body = r#"{"a":1}"#;
    assert_eq!(
        keyed(body, NOON, Some("k")),
        keyed(r#"{ "a": 1.0 }"#, "2026-01-15T23:59:59Z", Some("k"))
    );
    assert_ne!(
        keyed(body, NOON, Some("k")),
        keyed(body, NOON, Some("other"))
    );
    assert_ne!(
        keyed(body, NOON, Some("static")),
        keyed(r#"{"a":2}"#, NOON, Some("static"))
    );
    // A header that is configured once would merge equal events of different days.
    assert_ne!(
        keyed(body, NOON, Some("static")),
        keyed(body, "2026-01-16T12:00:00Z", Some("static"))
    );
}

#[test]
fn envelopes_that_their_senders_key_tells_apart_are_two_events() {
    let body = with(ENVELOPE, r#""2026-01-15T12:00:00Z""#);
    let of = |key| keyed(&body, NOON, Some(key));
    assert_eq!(of("key-1"), of("key-1"));
    assert_ne!(of("key-1"), of("key-2"));
    assert_eq!(
        of("${input.key}"),
        keyed(&body, NOON, None),
        "it says nothing, and the time does"
    );
}

#[test]
fn a_fetched_event_is_the_one_that_would_have_come_by_itself() {
    let (envelope, generic) = (with(ENVELOPE, r#""2026-01-15T12:00:00Z""#), r#"{"a":1}"#);
    let fetched = |body, time: Option<&str>| {
        let key = SenderKey::of(Some("k"), None);
        Identity::of_fetched(
            parse(body),
            time.map(at),
            at("2026-01-17T00:00:00Z"),
            key.as_ref(),
            lone,
        )
        .id
    };
    for time in [None, Some(NOON)] {
        assert_eq!(
            fetched(&envelope, time),
            keyed(&envelope, NOON, Some("k")),
            "{time:?}"
        );
    }
    assert_eq!(
        fetched(generic, Some(NOON)),
        keyed(generic, NOON, Some("k"))
    );
    assert_ne!(fetched(generic, None), fetched(generic, None), "of no day");
}

/// The expected values were computed apart from this code, from the documented parts.
#[test]
fn ids_are_43_url_safe_characters_and_never_change_between_releases() {
    for (body, key, expected) in [
        (
            r#"{"webhookId":"w","payload":null,"timestamp":"2026-01-15T12:00:00Z"}"#,
            None,
            "A7zErMYTNbmDwjhL87Vb8182Ul83GYmjEkS8wH5s3fY",
        ),
        (
            r#"{"webhookId":"w","payload":null,"timestamp":"2026-01-15T12:00:00Z"}"#,
            Some("k"),
            "uy9lBcKbeOX8vn3V1te8avoeUXZ9yL1TSMPXo2Sx4yg",
        ),
        (
            r#"{"id":"m1","channel":{"id":"c1","time":"2026-01-15T12:00:00Z"},"type":"Receipt","status":"Delivered","direction":"Outbound"}"#,
            None,
            "tot_IzsEq15s4EHfXjWUVxDnz7Hz5FHIGVWTN5A4ll8",
        ),
        (
            r#"{"detail-type":"v2.x","detail":{"topicName":"v2.x","eventBody":{"a":1},"timestamp":"2026-01-15T12:00:00Z"}}"#,
            None,
            "KDi_6Q_Evwbtj7twkVIRZyxLbJkWgJPE7hnj2XwzOPE",
        ),
        (
            r#"{"a":1}"#,
            Some("k"),
            "vVkH9fLrXcYbk-9gjXekbXD0aROQE96lLhMBIP4sSRw",
        ),
    ] {
        let id = keyed(body, NOON, key);
        assert_eq!(id.as_str(), expected, "{body}");
        assert_eq!(id.as_str().parse::<EventId>().expect("parses"), id);
    }
}

#[test]
fn ids_and_sources_that_cannot_be_are_refused() {
    for text in ["", "a b", "ü", &"x".repeat(81)] {
        assert!(text.parse::<EventId>().is_err(), "{text:?}");
    }
    assert!("openmessaging".parse::<Source>().is_err());
    for source in Source::ALL {
        assert_eq!(source.as_str().parse::<Source>().expect("parses"), source);
        assert_eq!(
            serde_json::to_value(source).expect("serialises"),
            source.as_str()
        );
    }
}
