//! JSON as it arrives: checked, looked into and put into canonical form without ever losing a digit or a stack frame.
//!
//! The relay hands the target the bytes it received, so a body is never parsed into values and written again.
//! It is only checked to be JSON, and read for what identifies the event. `serde_json` skips values without
//! recursion, so no depth of nesting can exhaust the stack.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting up to which a value has a canonical form; every level is scanned once more, so this bounds the work.
const MAX_CANONICAL_DEPTH: usize = 64;

/// Why a body is not what the relay takes: a JSON object or array, in UTF-8.
#[derive(Debug, thiserror::Error)]
pub enum NotJson {
    /// The bytes are not UTF-8, which RFC 8259 section 8.1 requires.
    #[error("the body is not UTF-8: {0}")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// The text breaks the JSON grammar; the message names line and column.
    #[error("the body is not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A bare string, number, `true`, `false` or `null`.
    #[error("the body is JSON, but neither an object nor an array")]
    Scalar,
}

/// A JSON value as text: valid, not interpreted.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(&'a RawValue);

impl<'a> From<&'a RawValue> for Json<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(value)
    }
}

impl<'a> Json<'a> {
    /// Checks that `body` is one JSON object or array. A byte order mark in front is passed over.
    pub fn parse(body: &'a [u8]) -> Result<Self, NotJson> {
        let text = std::str::from_utf8(body)?;
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let value = Self(serde_json::from_str(text)?);
        match value.text().as_bytes().first() {
            Some(b'{' | b'[') => Ok(value),
            _ => Err(NotJson::Scalar),
        }
    }

    /// The fields, if this is an object. It is scanned here, once for all fields.
    pub fn as_object(&self) -> Option<Object<'a>> {
        serde_json::from_str(self.text()).ok().map(|Entries(entries)| Object(entries))
    }

    /// The items, if this is an array.
    pub fn as_array(&self) -> Option<Vec<Self>> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.text()).ok()?;
        Some(items.into_iter().map(Self).collect())
    }

    /// The number, if this is one that fits.
    pub fn as_u64(&self) -> Option<u64> {
        serde_json::from_str(self.text()).ok()
    }

    /// The value as it is written.
    pub fn as_text(&self) -> &'a str {
        self.text()
    }

    /// The text of a JSON string.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        serde_json::from_str::<Text<'a>>(self.text()).ok().map(|text| text.0)
    }

    /// The canonical form of RFC 8785, so that two serialisations of one value are equal.
    ///
    /// It departs from the RFC where following it would merge or refuse events:
    /// - a number that a double cannot hold stands as it was written, so that ids of 19 digits stay distinct;
    /// - a repeated key is kept with each of its values;
    /// - a value nested deeper than 64 levels, or with an unpaired surrogate, stands byte for byte as it came.
    pub fn canonical(&self) -> Cow<'a, [u8]> {
        // Found out beforehand, so that what is too deep costs one look and not one for each level.
        if nesting(self.text()) > MAX_CANONICAL_DEPTH + 1 {
            return Cow::Borrowed(self.text().as_bytes());
        }
        let mut out = Vec::with_capacity(self.text().len());
        match write_canonical(self.text(), 0, &mut out) {
            Ok(()) => Cow::Owned(out),
            Err(NoCanonicalForm) => Cow::Borrowed(self.text().as_bytes()),
        }
    }

    fn text(&self) -> &'a str {
        self.0.get()
    }
}

/// The fields of a JSON object, each of them as text.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// The value of a field that is there exactly once.
    ///
    /// A key that stands there twice means different things to different readers, so it identifies nothing.
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(Json(value)),
            _ => None,
        }
    }

    /// Whether a field is there, once or more.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The text of a field that is there exactly once, and not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name)?.as_str()?.into_owned()).filter(|text| !text.is_empty())
    }

    /// The object written anew, with these fields in place of what it had.
    pub fn with(&self, fields: &[(&str, serde_json::Value)]) -> Result<String, serde_json::Error> {
        let is_kept = |key: &str| fields.iter().all(|(name, _)| *name != key);
        let kept =
            self.0.iter().filter(|(key, _)| is_kept(key)).map(|(key, kept)| (key.as_ref(), kept.get().to_owned()));
        let new = fields.iter().map(|(name, value)| (*name, value.to_string()));
        let written = kept.chain(new).map(|(key, value)| Ok(format!("{}:{value}", serde_json::to_string(key)?)));
        Ok(format!("{{{}}}", written.collect::<Result<Vec<_>, serde_json::Error>>()?.join(",")))
    }
}

/// The value is too deep, or holds text that is not Unicode.
struct NoCanonicalForm;

impl From<serde_json::Error> for NoCanonicalForm {
    fn from(_: serde_json::Error) -> Self {
        Self
    }
}

/// How many arrays and objects stand within each other in valid JSON.
fn nesting(text: &str) -> usize {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn write_canonical(text: &str, depth: usize, out: &mut Vec<u8>) -> Result<(), NoCanonicalForm> {
    if depth > MAX_CANONICAL_DEPTH {
        return Err(NoCanonicalForm);
    }
    match text.as_bytes().first() {
        Some(b'{') => {
            let Entries(mut entries) = serde_json::from_str(text)?;
            // RFC 8785 section 3.2.3 orders keys by their UTF-16 code units.
            entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            write_list(b'{', b'}', &entries, out, |(key, value), out| {
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write_canonical(value.get(), depth + 1, out)
            })
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            write_list(b'[', b']', &items, out, |item, out| write_canonical(item.get(), depth + 1, out))
        }
        // serde_json escapes exactly what RFC 8785 section 3.2.2.2 asks for.
        Some(b'"') => Ok(serde_json::to_writer(out, &serde_json::from_str::<Text<'_>>(text)?.0)?),
        Some(b'-' | b'0'..=b'9') => {
            write_number(text, out);
            Ok(())
        }
        _ => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
}

fn write_list<T>(
    open: u8,
    close: u8,
    items: &[T],
    out: &mut Vec<u8>,
    mut write_item: impl FnMut(&T, &mut Vec<u8>) -> Result<(), NoCanonicalForm>,
) -> Result<(), NoCanonicalForm> {
    out.push(open);
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_item(item, out)?;
    }
    out.push(close);
    Ok(())
}

fn write_number(literal: &str, out: &mut Vec<u8>) {
    let mut buffer = ryu_js::Buffer::new();
    let shortest = match literal.parse::<f64>() {
        Ok(value) if value.is_finite() => buffer.format(value),
        _ => literal,
    };
    let same = Decimal::read(literal).is_some_and(|exact| Some(exact) == Decimal::read(shortest));
    out.extend_from_slice(if same { shortest } else { literal }.as_bytes());
}

/// The exact value of a number literal: `digits` × 10^`exponent`, without zeros at either end.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn read(literal: &str) -> Option<Self> {
        let (mantissa, exponent) = match literal.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (literal, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        if digits.is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let shift = i64::try_from(all.len() - digits.len()).ok()? - i64::try_from(fraction.len()).ok()?;
        Some(Self {
            negative,
            digits: digits.trim_start_matches('0').to_owned(),
            exponent: exponent.checked_add(shift)?,
        })
    }
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields of an object in their order, repeated ones included.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
pub(crate) mod tests {
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
        assert_eq!(canonical("[1.0,1e0,10e-1,100E-2,-0,0.0,0e5]"), "[1,1,1,1,0,0,0]");
        assert_eq!(
            canonical("[9007199254740993,12345678901234567890,1e400,-1e400,0.1000000000000000055]"),
            "[9007199254740993,12345678901234567890,1e400,-1e400,0.1000000000000000055]"
        );
    }

    #[test]
    fn a_repeated_key_keeps_its_values_and_identifies_nothing() {
        assert_eq!(canonical(r#"{"b":1,"a":1,"a":2}"#), r#"{"a":1,"a":2,"b":1}"#);
        let json = Json::parse(br#"{"id":1,"id":2,"type":"Text"}"#).expect("valid");
        let object = json.as_object().expect("an object");
        assert!(object.get("id").is_none());
        assert_eq!(object.get("type").and_then(|v| v.as_str()).as_deref(), Some("Text"));
    }

    #[test]
    fn a_field_is_added_or_replaced_and_the_others_stay_as_they_are_written() {
        let json = Json::parse(br#"{"n":12345678901234567890.10, "\u0061":[1.0], "id":"old"}"#).expect("valid JSON");
        let object = json.as_object().expect("an object");
        let written = object.with(&[("id", "a \"new\" one".into())]).expect("written");
        assert_eq!(written, r#"{"n":12345678901234567890.10,"a":[1.0],"id":"a \"new\" one"}"#);
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
        let json =
            Json::parse(br#"{"items":[1,{"a":2},"x"],"count":18446744073709551615,"less":-1}"#).expect("valid JSON");
        let object = json.as_object().expect("an object");
        let items = object.get("items").and_then(|items| items.as_array()).expect("an array");
        assert_eq!(items.iter().map(Json::as_text).collect::<Vec<_>>(), ["1", r#"{"a":2}"#, r#""x""#]);
        assert_eq!(object.get("count").and_then(|count| count.as_u64()), Some(u64::MAX));
        assert_eq!(object.get("less").and_then(|less| less.as_u64()), None);
        assert!(json.as_array().is_none());
    }

    #[test]
    fn a_million_levels_are_valid_and_stand_for_themselves() {
        let deep = "[".repeat(500_000) + &"]".repeat(500_000);
        assert_eq!(canonical(&deep), deep);
        assert!(matches!(Json::parse(&deep.as_bytes()[1..]), Err(NotJson::Syntax(_))));
    }

    #[test]
    fn as_many_levels_as_have_a_canonical_form_are_counted_without_what_stands_in_texts() {
        let nested = |levels: usize, inner: &str| "[ ".repeat(levels) + inner + &"]".repeat(levels);
        assert_eq!(canonical(&nested(65, "")), nested(65, "").replace(' ', ""));
        assert_eq!(canonical(&nested(64, "1 ")), nested(64, "1").replace(' ', ""));
        for too_deep in [nested(66, ""), nested(65, "1 ")] {
            assert_eq!(canonical(&too_deep), too_deep);
        }
        let text = format!("[ {:?} ]", "[{\\\"".repeat(100));
        assert_eq!((nesting(&text), canonical(&text)), (1, text.replace(' ', "")));
        assert_eq!(nesting(r#"{"a":[{}],"b":[[{"}":"]"}]]}"#), 4);
    }

    #[test]
    fn an_unpaired_surrogate_is_valid_and_stands_for_itself() {
        let text = r#"{"text":"\ud83d"}"#;
        assert_eq!(canonical(text), text);
    }

    #[test]
    fn what_is_not_an_object_or_array_says_why() {
        assert!(matches!(Json::parse(b"\"text\""), Err(NotJson::Scalar)));
        assert!(matches!(Json::parse(b"{\"a\":\xff}"), Err(NotJson::NotUtf8(_))));
        assert!(matches!(Json::parse(b"{} trailing"), Err(NotJson::Syntax(_))));
        assert!(matches!(Json::parse(b"{\"a\":\"\x00\"}"), Err(NotJson::Syntax(_))));
        assert!(Json::parse(b"\xef\xbb\xbf {\"a\":1} ").is_ok(), "a byte order mark is passed over");
    }

    pub(crate) fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Into::into),
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
}
