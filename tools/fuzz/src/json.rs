//! JSON parsing and canonical form.

use genesys_relay::domain::event::{EventId, Identity};
use genesys_relay::domain::json::Json;
use genesys_relay::ports::clock::Clock as _;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::runtime::Noon;

/// The parser takes what `serde_json` takes; the canonical form is JSON that means the same, is its
/// own canonical form, and does not depend on how the text is spaced; and neither does the event's
/// id.
pub(crate) fn json(text: &[u8]) {
    let parsed = Json::parse(text);
    assert_eq!(parsed.is_ok(), is_object_or_array(text), "{parsed:?}");
    let Ok(json) = parsed else { return };
    let canonical = json.canonical();
    let again = Json::parse(&canonical).expect("the canonical form is JSON");
    assert_eq!(
        again.canonical(),
        canonical,
        "the canonical form has another"
    );
    check_fields(json);

    // `Value` knows no lone surrogates, no numbers beyond doubles and no more than 128 levels.
    let Ok(value) = serde_json::from_str::<Value>(json.as_text()) else {
        return;
    };
    let meant: Value = serde_json::from_slice(&canonical).expect("as readable as the original");
    assert!(is_same(&value, &meant), "{value} became {meant}");
    if depth(&value) <= 60 {
        let spaced = spaced(json.as_text());
        let spaced = Json::parse(spaced.as_bytes()).expect("spaces change nothing");
        assert_eq!(
            spaced.canonical(),
            canonical,
            "the canonical form depends on spaces"
        );
        let identity = |json| {
            Identity::of(json, Noon.now(), None, || {
                EventId::of_request(Noon.now(), 0)
            })
        };
        assert_eq!(
            identity(spaced),
            identity(json),
            "the event depends on spaces"
        );
        assert_eq!(
            identity(again),
            identity(json),
            "the event depends on how it is written"
        );
    }
}

fn is_object_or_array(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let first = text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .chars()
        .next();
    matches!(first, Some('{' | '[')) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Every field that can be looked up survives when another is set beside it.
fn check_fields(json: Json<'_>) {
    const NEW: &str = "a field that is new";
    assert!(json.as_object().is_none() || json.as_array(usize::MAX).is_none());
    let Some(object) = json.as_object() else {
        return;
    };
    let written = object.with(&[(NEW, "new".into())]).expect("written");
    let written = Json::parse(written.as_bytes()).expect("what is written is JSON");
    let written = written.as_object().expect("an object");
    assert_eq!(written.text(NEW).as_deref(), Some("new"));
    let names = [
        "id",
        "type",
        "channel",
        "detail",
        "webhookId",
        "payload",
        "timestamp",
        "time",
        "a",
        "",
    ];
    for name in names {
        let text = |object: &genesys_relay::domain::json::Object<'_>| {
            object.get(name).map(|value| value.as_text().to_owned())
        };
        assert_eq!(text(&written), text(&object), "{name}");
    }
}

/// Equal, where numbers are what a double holds. `serde_json` reads some of them not quite as they
/// are written.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 4.0 * f64::EPSILON,
            _ => false,
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_same = |(name, one): (&String, _)| {
                other.get(name).is_some_and(|other| is_same(one, other))
            };
            one.len() == other.len() && one.iter().all(is_same)
        }
        _ => one == other,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// The same JSON with white space wherever it may stand.
fn spaced(text: &str) -> String {
    let (mut spaced, mut in_string, mut escaped) = (String::new(), false, false);
    for c in text.chars() {
        let is_mark = !in_string && "{}[]:,".contains(c);
        if is_mark {
            spaced.push_str("\n\t");
        }
        spaced.push(c);
        if is_mark {
            spaced.push_str(" \r");
        }
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
    }
    spaced
}
