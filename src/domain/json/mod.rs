//! JSON as it arrives: checked, read and put into canonical form without losing a digit or
//! exhausting the stack.
//!
//! The relay hands the target the bytes it received, so a body is never parsed into values and
//! written again. It is only checked to be JSON, and read for what identifies the event.
//! `serde_json` skips values without recursion, so no depth of nesting can exhaust the stack.

#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::placeholder::is_placeholder;

/// Nesting up to which a value has a canonical form; every level is scanned once more, so this
/// bounds the work.
const MAX_CANONICAL_DEPTH: usize = 64;

/// A body that is not a JSON object or array in UTF-8.
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
        serde_json::from_str(self.text())
            .ok()
            .map(|Entries(entries)| Object(entries))
    }

    /// The items, if this is an array of at most `most`. A longer one is read no further: each item
    /// takes memory.
    pub fn as_array(&self, most: usize) -> Option<Vec<Self>> {
        struct Items<'a>(usize, PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Items<'a> {
            type Value = Vec<Json<'a>>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "an array of at most {} items", self.0)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Self::Value, S::Error> {
                let mut read = Vec::new();
                while let Some(item) = items.next_element()? {
                    if read.len() == self.0 {
                        return Err(S::Error::invalid_length(read.len() + 1, &self));
                    }
                    read.push(Json(item));
                }
                Ok(read)
            }
        }

        serde_json::Deserializer::from_str(self.text())
            .deserialize_seq(Items(most, PhantomData))
            .ok()
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
        serde_json::from_str::<Text<'a>>(self.text())
            .ok()
            .map(|text| text.0)
    }

    /// The canonical form of RFC 8785, so that two serialisations of one value are equal.
    ///
    /// It departs from the RFC where following it would merge or refuse events:
    /// - a number that a double cannot hold stands as it was written, so that ids of 19 digits stay
    ///   distinct;
    /// - a repeated key is kept with each of its values;
    /// - a value nested deeper than 64 levels, or with an unpaired surrogate, stands byte for byte
    ///   as it came.
    pub fn canonical(&self) -> Cow<'a, [u8]> {
        let mut out = Vec::with_capacity(self.text().len());
        // How deep it is is found out beforehand: each level costs a look at all that is in it.
        if nesting(self.text()) <= MAX_CANONICAL_DEPTH
            && write_canonical(self.text(), &mut out).is_ok()
        {
            return Cow::Owned(out);
        }
        Cow::Borrowed(self.text().as_bytes())
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
    /// A key that stands there twice means different things to different readers, so it identifies
    /// nothing.
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(Json(value)),
            _ => None,
        }
    }

    /// Returns whether a field is there, once or more.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Returns whether this field is there once, and no other.
    pub(crate) fn is_only(&self, name: &str) -> bool {
        matches!(&*self.0, [(key, _)] if key == name)
    }

    /// The text of a field that is there exactly once, and says something.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name)?.as_str()?.into_owned()).filter(|text| !is_placeholder(text))
    }

    /// The object as text, with these fields replaced.
    pub fn with(&self, fields: &[(&str, serde_json::Value)]) -> Result<String, serde_json::Error> {
        let is_kept = |key: &str| fields.iter().all(|(name, _)| *name != key);
        let kept = self
            .0
            .iter()
            .filter(|(key, _)| is_kept(key))
            .map(|(key, kept)| (key.as_ref(), kept.get().to_owned()));
        let new = fields
            .iter()
            .map(|(name, value)| (*name, value.to_string()));
        let written = kept
            .chain(new)
            .map(|(key, value)| Ok(format!("{}:{value}", serde_json::to_string(key)?)));
        Ok(format!(
            "{{{}}}",
            written
                .collect::<Result<Vec<_>, serde_json::Error>>()?
                .join(",")
        ))
    }
}

/// The depth of nesting of valid JSON.
fn nesting(text: &str) -> usize {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => {
                in_string = !in_string;
                deepest = deepest.max(open);
            }
            _ if in_string => {}
            b'[' | b'{' => {
                deepest = deepest.max(open);
                open += 1;
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => deepest = deepest.max(open),
        }
    }
    deepest
}

/// Fails where a text is not Unicode. Goes as deep as the text does.
fn write_canonical(text: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let Entries(mut entries) = serde_json::from_str(text)?;
            // RFC 8785 section 3.2.3 orders keys by their UTF-16 code units.
            entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            write_list(b'{', b'}', &entries, out, |(key, value), out| {
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write_canonical(value.get(), out)
            })
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            write_list(b'[', b']', &items, out, |item, out| {
                write_canonical(item.get(), out)
            })
        }
        // serde_json escapes exactly what RFC 8785 section 3.2.2.2 asks for.
        Some(b'"') => serde_json::to_writer(out, &serde_json::from_str::<Text<'_>>(text)?.0),
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
    mut write_item: impl FnMut(&T, &mut Vec<u8>) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
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
            return Some(Self {
                negative: false,
                digits: String::new(),
                exponent: 0,
            });
        }
        let shift =
            i64::try_from(all.len() - digits.len()).ok()? - i64::try_from(fraction.len()).ok()?;
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
