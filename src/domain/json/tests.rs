//! JSON and its canonical form.

use super::*;
use proptest::prelude::*;

fn canonical(text: &str) -> String {
    let json = Json::parse(text.as_bytes()).expect("valid JSON");
    String::from_utf8(json.canonical().into_owned()).expect("UTF-8")
}

#[test]
fn the_example_of_rfc_8785_comes_out_as_the_rfc_prints_it() {
    let input = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    // 333333333.33333329 has more digits than a double holds, so it keeps them; the RFC rounds it.
    assert_eq!(
        canonical(input),
        r#"{"literals":[null,true,false],"numbers":[333333333.33333329,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
}

#[test]
fn keys_are_ordered_by_utf_16_code_units() {
    assert_eq!(
        canonical(r#"{"\ufb33":1,"\ud83d\ude00":2,"\u20ac":3,"1":4}"#),
        "{\"1\":4,\"€\":3,\"😀\":2,\"\u{fb33}\":1}"
    );
}

#[test]
fn equal_numbers_are_written_alike_and_long_ones_stay_distinct() {
    assert_eq!(
        canonical("[1.0,1e0,10e-1,100E-2,-0,0.0,0e5]"),
        "[1,1,1,1,0,0,0]"
    );
    assert_eq!(
        canonical("[9007199254740993,12345678901234567890,1e400,-1e400,0.1000000000000000055]"),
        "[9007199254740993,12345678901234567890,1e400,-1e400,0.1000000000000000055]"
    );
}

#[test]
fn a_repeated_key_keeps_its_values_and_identifies_nothing() {
    assert_eq!(
        canonical(r#"{"b":1,"a":1,"a":2}"#),
        r#"{"a":1,"a":2,"b":1}"#
    );
    let json = Json::parse(br#"{"id":1,"id":2,"type":"Text"}"#).expect("valid");
    let object = json.as_object().expect("an object");
    assert!(object.get("id").is_none());
    assert_eq!(
        object.get("type").and_then(|v| v.as_str()).as_deref(),
        Some("Text")
    );
}

#[test]
fn a_field_is_added_or_replaced_and_the_others_stay_as_they_are_written() {
    let json = Json::parse(br#"{"n":12345678901234567890.10, "\u0061":[1.0], "id":"old"}"#)
        .expect("valid JSON");
    let object = json.as_object().expect("an object");
    let written = object
        .with(&[("id", "a \"new\" one".into())])
        .expect("written");
    assert_eq!(
        written,
        r#"{"n":12345678901234567890.10,"a":[1.0],"id":"a \"new\" one"}"#
    );
    assert_eq!(
        Json::parse(b"{}")
            .expect("valid")
            .as_object()
            .expect("an object")
            .with(&[("a", "b".into())])
            .expect("written"),
        r#"{"a":"b"}"#
    );
}

#[test]
fn items_and_numbers_are_read() {
    let json = Json::parse(br#"{"items":[1,{"a":2},"x"],"count":18446744073709551615,"less":-1}"#)
        .expect("valid JSON");
    let object = json.as_object().expect("an object");
    let items = object
        .get("items")
        .and_then(|items| items.as_array(3))
        .expect("an array");
    assert_eq!(
        items.iter().map(Json::as_text).collect::<Vec<_>>(),
        ["1", r#"{"a":2}"#, r#""x""#]
    );
    assert!(
        object.get("items").expect("there").as_array(2).is_none(),
        "one too many"
    );
    assert_eq!(
        object.get("count").and_then(|count| count.as_u64()),
        Some(u64::MAX)
    );
    assert_eq!(object.get("less").and_then(|less| less.as_u64()), None);
    assert!(json.as_array(usize::MAX).is_none());
}

#[test]
fn a_million_levels_are_valid_and_stand_for_themselves() {
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    assert_eq!(canonical(&deep), deep);
    assert!(matches!(
        Json::parse(&deep.as_bytes()[1..]),
        Err(NotJson::Syntax(_))
    ));
}

#[test]
fn as_many_levels_as_have_a_canonical_form_are_counted_without_what_stands_in_texts() {
    let nested = |levels: usize, inner: &str| "[ ".repeat(levels) + inner + &"]".repeat(levels);
    assert_eq!(canonical(&nested(65, "")), nested(65, "").replace(' ', ""));
    assert_eq!(
        canonical(&nested(64, "1 ")),
        nested(64, "1").replace(' ', "")
    );
    for too_deep in [nested(66, ""), nested(65, "1 ")] {
        assert_eq!(canonical(&too_deep), too_deep);
    }
    let text = format!("[ {:?} ]", "[{\\\"".repeat(100));
    assert_eq!(
        (nesting(&text), canonical(&text)),
        (1, text.replace(' ', ""))
    );
    assert_eq!(nesting(r#"{"a":[{}],"b":[[{"}":"]"}]]}"#), 4);
}

#[test]
fn an_unpaired_surrogate_is_valid_and_stands_for_itself() {
    let text = r#"{"text":"\ud83d"}"#;
    assert_eq!(canonical(text), text);
}

#[test]
fn other_values_than_objects_and_arrays_are_explained() {
    assert!(matches!(Json::parse(b"\"text\""), Err(NotJson::Scalar)));
    assert!(matches!(
        Json::parse(b"{\"a\":\xff}"),
        Err(NotJson::NotUtf8(_))
    ));
    assert!(matches!(
        Json::parse(b"{} trailing"),
        Err(NotJson::Syntax(_))
    ));
    assert!(matches!(
        Json::parse(b"{\"a\":\"\x00\"}"),
        Err(NotJson::Syntax(_))
    ));
    assert!(
        Json::parse(b"\xef\xbb\xbf {\"a\":1} ").is_ok(),
        "a byte order mark is passed over"
    );
}

pub(crate) fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(".*", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_canonical_form_survives_being_serialised_again(value in any_json()) {
        let value = serde_json::json!({ "payload": value });
        let compact = serde_json::to_string(&value).expect("serialises");
        let pretty = serde_json::to_string_pretty(&value).expect("serialises");
        prop_assert_eq!(canonical(&compact), canonical(&pretty));
        prop_assert_eq!(canonical(&canonical(&compact)), canonical(&compact));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(json) = Json::parse(&bytes) {
            let _ = json.canonical();
            let _ = json.as_object().and_then(|object| object.get("id"));
        }
    }
}
