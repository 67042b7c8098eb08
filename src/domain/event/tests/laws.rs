//! The two laws of what identifies an event, over generated bodies of all sources.

use super::*;

/// Values of fields that tell events apart: some that say something, and some that do not.
fn telling() -> BoxedStrategy<Value> {
    let said = prop_oneof![
        Just("one"),
        Just("two"),
        Just(NOON),
        Just("2026-01-15T12:00:01Z"),
        Just("Receipt"),
        Just("Failed")
    ];
    let unsaid = prop_oneof![
        Just(""),
        Just(" "),
        Just("${input.x}"),
        Just("$!{x}"),
        Just("{{x}}"),
        Just("undefined"),
        Just("2026-01-15")
    ];
    prop_oneof![
        4 => said.prop_map(Value::from),
        3 => unsaid.prop_map(Value::from),
        1 => Just(Value::Null),
        1 => prop_oneof![Just(json!(1_768_478_400)), Just(json!(0))],
        1 => any_json(),
    ]
    .boxed()
}

/// Bodies of all sources, with fields left out.
fn any_body() -> BoxedStrategy<Value> {
    let field = || prop::option::weighted(0.9, telling()).boxed();
    let fields = (field(), field(), field(), field(), field(), field());
    (0..5_u8, fields, any::<bool>())
        .prop_map(|(shape, (one, two, three, four, five, six), marked)| {
            let object = |fields: Vec<(&str, Option<Value>)>| -> Value {
                fields
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            };
            let mark = |name| (name, marked.then(|| json!("v2")));
            match shape {
                0 => {
                    let channel = object(vec![("id", one), ("time", two), mark("platform")]);
                    object(vec![
                        ("channel", Some(channel)),
                        ("id", three),
                        ("type", four),
                        ("status", five),
                        ("text", six),
                    ])
                }
                1 => {
                    let detail = object(vec![
                        ("timestamp", one),
                        ("eventBody", two),
                        mark("topicName"),
                    ]);
                    object(vec![
                        ("detail", Some(detail)),
                        ("detail-type", three),
                        ("id", four),
                        ("time", five),
                        ("source", six),
                    ])
                }
                2 => object(vec![
                    ("webhookId", one),
                    ("payload", two),
                    ("timestamp", three),
                    ("webhookName", four),
                ]),
                3 => object(vec![
                    ("id", one),
                    ("timestamp", two),
                    ("a", three),
                    ("b", four),
                ]),
                _ => json!([one, two, three]),
            }
        })
        .boxed()
}

/// The two key headers, as far as they are there.
type Keys = (Option<String>, Option<String>);

fn any_keys() -> impl Strategy<Value = Keys> {
    let key = || {
        let key = prop_oneof![
            Just(""),
            Just("${k}"),
            Just("a"),
            Just("b"),
            Just("a,b"),
            Just("ab"),
            Just("${a"),
            Just("a}")
        ];
        prop::option::of(prop_oneof![4 => key.prop_map(str::to_owned), 1 => "[ -~]{0,4}"])
    };
    (key(), key())
}

/// Returns whether a text somewhere in a value differs from one event to the next: the words of
/// `telling`, or random text.
fn holds_something(value: &Value) -> bool {
    match value {
        Value::String(text) => !crate::domain::placeholder::is_placeholder(text),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => items.iter().any(holds_something),
        Value::Object(fields) => fields.values().any(holds_something),
        Value::Null | Value::Bool(_) => false,
    }
}

/// The body as a law sees it: of an event bus, what the sender said, and not what the bus wrote
/// around it.
fn stated(body: &Value) -> Value {
    let mut stated = body.clone();
    if identity(&body.to_string()).source == Source::EventBridge {
        stated = json!({ "detail": body["detail"] });
    }
    stated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn two_different_bodies_are_never_one_event(
        one in any_body(), other in any_body(), key in prop::option::of(prop_oneof![Just("k"), Just("l"), Just("")]),
    ) {
        let name = |body: &Value| {
            let text = body.to_string();
            let event = Event { id: keyed(&text, NOON, key), ..event(&text) };
            let digest = event.digest();
            digest.map_or(event.id.clone(), |digest| event.id.with_body(&digest))
        };
        if parse(&stated(&one).to_string()).canonical() != parse(&stated(&other).to_string()).canonical() {
            prop_assert_ne!(name(&one), name(&other));
        }
    }

    /// However static the other key is that a sender or a proxy adds.
    #[test]
    fn two_messages_that_hold_different_telling_keys_are_two_events(
        body in prop_oneof![Just(with(ENVELOPE, r#""2026-01-15T12:00:00Z""#)), Just(r#"{"a":1}"#.to_owned())],
        one in any_keys(), other in any_keys(),
    ) {
        let said = |keys: &Keys| [&keys.0, &keys.1].into_iter().flatten().filter(|key| !crate::domain::placeholder::is_placeholder(key)).cloned().collect::<Vec<_>>();
        let id = |keys: &Keys| keyed_twice(&body, NOON, keys.0.as_deref(), keys.1.as_deref());
        if said(&one) != said(&other) {
            prop_assert_ne!(id(&one), id(&other));
        } else if !said(&one).is_empty() {
            prop_assert_eq!(id(&one), id(&other));
        }
    }

    /// A body is told by itself only where it holds an instant, or an id of the bus.
    #[test]
    fn placeholders_identify_no_event(body in any_body(), key in prop_oneof![Just(""), Just("${k}"), Just("k")]) {
        let text = body.to_string();
        let (one, other) = (keyed(&text, NOON, Some(key)), keyed(&text, NOON, Some(key)));
        if key != "k" && !holds_something(&body) {
            prop_assert_ne!(&one, &other, "{} says nothing", text);
        }
        if key == "k" {
            prop_assert_eq!(&one, &other, "{} has a key", text);
        }
        let is_instant = |value: &Value| crate::domain::instant::instant(Json::from(&*serde_json::value::to_raw_value(value).expect("JSON")), at(NOON)).is_some();
        let told_by = [&body["timestamp"], &body["channel"]["time"], &body["detail"]["timestamp"]];
        let has_bus_id = body["detail"] != Value::Null && body["id"].as_str().is_some_and(|id| !crate::domain::placeholder::is_placeholder(id));
        if key != "k" && !has_bus_id && !told_by.into_iter().any(is_instant) {
            prop_assert_ne!(one, other, "{} is told by what is no instant", text);
        }
    }

    #[test]
    fn a_body_is_the_same_event_however_it_is_written(body in any_body()) {
        let (compact, pretty) = (body.to_string(), serde_json::to_string_pretty(&body).expect("written"));
        let (one, other) = (keyed(&compact, NOON, Some("k")), keyed(&pretty, NOON, Some("k")));
        prop_assert_eq!(one, other);
        prop_assert_eq!(event(&compact).digest(), event(&pretty).digest());
    }
}
