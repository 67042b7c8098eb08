//! Traces of events: towards the target by W3C Trace Context ("traceparent Header"), through SQS by
//! X-Ray.
//!
//! A `traceparent` that Genesys Cloud sent is passed on. Otherwise it is made of the event's id, so
//! that every attempt, also after a replay, is in one trace, which can be looked up by the id.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::domain::event::EventId;

/// Sampled: who the target is decides what becomes of it.
const FLAGS: &str = "01";

/// The trace of an invocation, as X-Ray writes it:
/// `Root=1-67891233-abcdef012345678912345678;Parent=…;Sampled=1`.
///
/// It goes with a message in the system attribute `AWSTraceHeader`, so that X-Ray links the traces
/// of sender and receiver (Lambda Developer Guide, "Using Lambda with Amazon SQS"; X-Ray Developer
/// Guide, "Tracing header").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHeader(String);

impl TraceHeader {
    /// Keeps the parts that X-Ray accepts. SQS could refuse a message for anything else.
    pub fn new(value: &str) -> Option<Self> {
        // What else Lambda adds is its own affair.
        let is_known = |part: &&str| match part.split_once('=') {
            Some(("Root", root)) => {
                let mut parts = root.split('-');
                let is_root = parts.next() == Some("1")
                    && is_hex(parts.next(), 8)
                    && is_hex(parts.next(), 24);
                is_root && parts.next().is_none()
            }
            Some(("Parent", parent)) => is_hex(Some(parent), 16),
            Some(("Sampled", sampled)) => matches!(sampled, "0" | "1"),
            _ => false,
        };
        let known: Vec<_> = value.split(';').filter(is_known).collect();
        known
            .iter()
            .any(|part| part.starts_with("Root="))
            .then(|| Self(known.join(";")))
    }

    /// The value of the attribute.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_hex(text: Option<&str>, chars: usize) -> bool {
    text.is_some_and(|text| {
        text.len() == chars && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The trace of an event, and in it the span of one attempt.
pub(crate) fn traceparent_of(id: &EventId, attempt: u32) -> String {
    let mut text = "00-".to_owned();
    push_hex(&mut text, id.as_str().as_bytes(), 16);
    text.push('-');
    push_hex(&mut text, format!("{id}/{attempt}").as_bytes(), 8);
    text.push('-');
    text.push_str(FLAGS);
    text
}

/// Appends bytes of a hash. All zeros would not be allowed, and are too unlikely to matter.
fn push_hex(text: &mut String, of: &[u8], bytes: usize) {
    for byte in &Sha256::digest(of)[..bytes] {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
}

/// Returns whether it names a trace and a span. A later version may have more parts.
pub(crate) fn is_traceparent(value: &[u8]) -> bool {
    let mut parts = value.split(|byte| *byte == b'-');
    let mut part = |chars: usize| {
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts
            .next()
            .filter(|part| part.len() == chars && part.iter().all(is_hex))
    };
    let is_something =
        |part: Option<&[u8]>| part.is_some_and(|part| part.iter().any(|byte| *byte != b'0'));
    let version = part(2);
    let names = is_something(part(32)) && is_something(part(16)) && part(2).is_some();
    match version {
        Some(b"ff") | None => false,
        Some(b"00") => names && parts.next().is_none(),
        Some(_) => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_is_in_one_valid_trace() {
        let id: EventId = "an-event".parse().expect("an id");
        let (first, second) = (traceparent_of(&id, 1), traceparent_of(&id, 2));
        assert!(
            is_traceparent(first.as_bytes()) && is_traceparent(second.as_bytes()),
            "{first} {second}"
        );
        assert_eq!(first[..36], second[..36], "one trace");
        assert_ne!(first, second, "two spans");
        // The beginnings of two hashes of the id, computed apart from this code.
        assert_eq!(
            first,
            "00-ce2336dff40b94dfbff210375bf2358a-38082210e83e928e-01"
        );
    }

    #[test]
    fn of_an_x_ray_header_that_is_taken_which_sqs_takes() {
        let plain = "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f6413ad;Sampled=1";
        for (given, taken) in [
            (plain.to_owned(), Some(plain)),
            (format!("{plain};Lineage=1:8:0"), Some(plain)),
            (format!("{plain};Self=\u{1}"), Some(plain)),
            (
                plain.replace("Parent=463ac35c9f6413ad", "Parent=x"),
                Some("Root=1-67891233-abcdef012345678912345678;Sampled=1"),
            ),
            ("Sampled=1".to_owned(), None),
            (plain.replacen("Root=1", "Root=2", 1), None),
            (String::new(), None),
        ] {
            assert_eq!(
                TraceHeader::new(&given).as_ref().map(TraceHeader::as_str),
                taken,
                "{given}"
            );
        }
    }

    #[test]
    fn header_without_a_trace_is_recognised() {
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(sent.as_bytes()));
        assert!(is_traceparent(sent.replacen("00", "01", 1).as_bytes()));
        assert!(is_traceparent(format!("01{}-more", &sent[2..]).as_bytes()));
        for wrong in [
            String::new(),
            format!("{sent}-more"),
            sent.to_uppercase(),
            sent.replacen("00", "ff", 1),
            sent.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            sent.replace("b7ad6b7169203331", &"0".repeat(16)),
            sent.replace("b7ad6b7169203331", "b7ad6b716920333"),
            sent.replace("-01", ""),
        ] {
            assert!(!is_traceparent(wrong.as_bytes()), "{wrong}");
        }
    }
}
