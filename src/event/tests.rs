//! What two messages have in common that are the same event.

use super::*;

const NOON: &str = "2026-01-15T12:00:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().expect("a timestamp")
}

fn identity(body: &str) -> Identity {
    Identity::of(Json::parse(body.as_bytes()).expect("JSON"), at(NOON), None)
}

fn id(body: &str) -> EventId {
    identity(body).id
}

const TEXT: &str = r#"{"id":"m1","channel":{"id":"c1","time":"2025-06-10T21:03:05.427Z"},"type":"Text","text":"Hi"}"#;

#[test]
fn a_message_is_known_by_channel_type_and_id_alone() {
    let copy = r#"{"type":"Text","text":"Hi","conversationId":"later","id":"m1","channel":{"time":"other","id":"c1"}}"#;
    assert_eq!(id(TEXT), id(copy));
    assert_eq!(identity(TEXT).source, Source::OpenMessaging);
    assert_eq!(identity(TEXT).origin.as_deref(), Some("c1"));
    for other in [TEXT.replace("m1", "m2"), TEXT.replace("c1", "c2"), TEXT.replace("Text\"", "Structured\"")] {
        assert_ne!(id(TEXT), id(&other));
    }
}

#[test]
fn receipts_of_one_message_differ_by_status() {
    let receipt =
        |status: &str| id(&format!(r#"{{"id":"m1","channel":{{"id":"c1"}},"type":"Receipt","status":"{status}"}}"#));
    assert_eq!(receipt("Delivered"), receipt("Delivered"));
    assert_ne!(receipt("Delivered"), receipt("Failed"));
}

#[test]
fn typing_events_differ_by_time() {
    let typing = |time: &str| id(&format!(r#"{{"id":"e1","channel":{{"id":"c1","time":"{time}"}},"type":"Event"}}"#));
    assert_ne!(typing("2026-01-15T12:00:00Z"), typing("2026-01-15T12:00:01Z"));
}

#[test]
fn a_message_without_an_id_is_identified_as_generic() {
    let one = r#"{"channel":{"id":"c1"},"type":"Text","text":"one"}"#;
    assert_eq!(identity(one).source, Source::OpenMessaging);
    assert_ne!(id(one), id(&one.replace("one", "two")));
}

#[test]
fn an_eventbridge_event_is_known_whatever_its_envelope() {
    let event = r#"{"id":"a","detail-type":"v2.x","time":"t1","detail":{"topicName":"v2.x","eventBody":{"id":"user","state":1},"timestamp":"t"}}"#;
    assert_eq!(identity(event).source, Source::EventBridge);
    assert_eq!(id(event), id(&event.replace(r#""id":"a""#, r#""id":"b""#)));
    assert_ne!(id(event), id(&event.replace(r#""state":1"#, r#""state":2"#)));
}

#[test]
fn events_without_a_time_are_never_merged() {
    for timestamp in ["", r#","timestamp":null"#] {
        let event = format!(
            r#"{{"id":"a","detail-type":"v2.x","time":"t1","detail":{{"topicName":"v2.x","eventBody":{{"state":1}}{timestamp}}}}}"#
        );
        assert_eq!(identity(&event).source, Source::EventBridge);
        assert_eq!(id(&event), id(&event), "a copy of SQS");
        assert_ne!(id(&event), id(&event.replace(r#""id":"a""#, r#""id":"b""#)), "{event}");
    }
}

/// The samples have the shapes of events that Genesys Cloud sent; where the envelope was not in the capture, it is
/// that of the other topics.
#[test]
fn the_shapes_that_genesys_sends_over_eventbridge_are_known_by_what_happened() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events");
    let paths = std::fs::read_dir(folder).expect("samples").map(|entry| entry.expect("a sample").path());
    let is_bare = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("eventbridge-"))
    };
    let mut seen = std::collections::BTreeSet::new();
    for path in paths.filter(is_bare) {
        let text = std::fs::read_to_string(&path).expect("a sample");
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let original = id(&text);
        assert_eq!(identity(&text).source, Source::EventBridge, "{path:?}");

        let mut again = event.clone();
        again["id"] = "00000000-0000-4000-8000-000000000009".into();
        again["time"] = "2026-03-04T00:00:00Z".into();
        assert_eq!(id(&again.to_string()), original, "published again: {path:?}");

        let mut changed = event.clone();
        changed["detail"]["eventBody"]["changed"] = true.into();
        let mut later = event;
        later["detail"]["timestamp"] = "2026-03-04T00:00:00.000Z".into();
        for other in [changed, later] {
            assert_ne!(id(&other.to_string()), original, "another change of the same: {path:?}");
        }
        assert!(seen.insert(original), "{path:?}");
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn two_webhooks_of_the_same_second_are_two_events() {
    let webhook = r#"{"webhookId":"w","webhookName":"n","payload":{"a":1},"timestamp":"2026-01-15T12:00:00Z"}"#;
    assert_eq!(identity(webhook).source, Source::Webhook);
    assert_eq!(identity(webhook).origin.as_deref(), Some("w"));
    assert_ne!(id(webhook), id(&webhook.replace(r#""a":1"#, r#""a":2"#)));
}

#[test]
fn equal_generic_bodies_are_one_event_for_five_minutes() {
    let body = Json::parse(br#"{"hello":"world"}"#).expect("JSON");
    let at = |time| Identity::of(body, at(time), None).id;
    assert_eq!(at("2026-01-15T12:00:00Z"), at("2026-01-15T12:04:59Z"));
    assert_ne!(at("2026-01-15T12:00:00Z"), at("2026-01-15T12:06:00Z"));
}

#[test]
fn a_static_key_header_never_merges_different_bodies() {
    let keyed =
        |body: &str, time| Identity::of(Json::parse(body.as_bytes()).expect("JSON"), at(time), Some("static")).id;
    assert_ne!(keyed(r#"{"a":1}"#, NOON), keyed(r#"{"a":2}"#, NOON));
    assert_eq!(keyed(r#"{"a":1}"#, NOON), keyed(r#"{ "a": 1.0 }"#, "2026-01-15T18:00:00Z"));
}

/// The expected values were computed apart from this code, from the documented parts.
#[test]
fn ids_are_43_url_safe_characters_and_never_change_between_releases() {
    for (body, key, expected) in [
        (r#"{"webhookId":"w","payload":null,"timestamp":"t"}"#, None, "_zMenyE7KjtOsLHx3tku9CR4nBAGWUQyFlLP1ByKMQo"),
        (
            r#"{"id":"m1","channel":{"id":"c1"},"type":"Receipt","status":"Delivered"}"#,
            None,
            "pAi3vtTfQdAYKfTW70VzkAw6_00PlXCuqMVmKfl7z3A",
        ),
        (
            r#"{"detail-type":"v2.x","detail":{"topicName":"v2.x","eventBody":{"a":1},"timestamp":"t"}}"#,
            None,
            "8d1D0NUos5ya_9oTinSxN5GCgT4sv-hv1J6D8xNqvzI",
        ),
        (r#"{"a":1}"#, None, "395y6de-ZuEc4NNoOTgECaiOqUXyILBsJrUqbk1NdBY"),
        (r#"{"a":1}"#, Some("k"), "vW4h-JwHic1JW_rAJF7QK7rMDRq1PelTHq1Nf0juZ8s"),
    ] {
        let id = Identity::of(Json::parse(body.as_bytes()).expect("JSON"), at(NOON), key).id;
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
        assert_eq!(serde_json::to_value(source).expect("serialises"), source.as_str());
    }
}
