//! Instants that senders write, as texts or numbers.

use jiff::{SignedDuration, Timestamp};

use crate::domain::json::Json;

/// An instant further than ten years from the receipt is a default, such as the years 1 and 1970,
/// and no time of an event.
const NEAR: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// The instant that a value names: RFC 3339 with date, time and offset, or seconds or milliseconds
/// since 1970, as a number or a text. It has to lie within ten years of `received_at`.
pub fn instant(value: Json<'_>, received_at: Timestamp) -> Option<Timestamp> {
    let text = value.as_str();
    let literal = text.as_deref().unwrap_or(value.as_text()).trim();
    let is_near = |time: &Timestamp| time.duration_since(received_at).abs() <= NEAR;
    if let Ok(time) = literal.parse::<Timestamp>() {
        return Some(time).filter(is_near);
    }
    let number: f64 = literal.parse().ok()?;
    let since_1970 = |seconds: f64| {
        let duration = SignedDuration::try_from_secs_f64(seconds).ok()?;
        Timestamp::from_duration(duration).ok().filter(is_near)
    };
    since_1970(number).or_else(|| since_1970(number / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::placeholder::is_placeholder;
    use proptest::prelude::*;

    fn noon() -> Timestamp {
        "2026-01-15T12:00:00Z".parse().expect("a time")
    }

    #[test]
    fn instant_is_a_time_that_was_set() {
        let of = |literal: &str| {
            let body = format!("[{literal}]");
            let item = Json::parse(body.as_bytes())
                .expect("JSON")
                .as_array(usize::MAX)
                .expect("an array")[0];
            instant(item, noon()).map(|time| time.to_string())
        };
        for literal in [
            r#""2026-01-15T12:00:00Z""#,
            r#"" 2026-01-15T12:00:00.000Z ""#,
            r#""2026-01-15T13:00:00+01:00""#,
            "1768478400",
            "1768478400000",
            r#""1768478400""#,
            r#""1768478400000""#,
            "1768478400.0",
            "1.7684784e9",
        ] {
            assert_eq!(
                of(literal).as_deref(),
                Some("2026-01-15T12:00:00Z"),
                "{literal}"
            );
        }
        for literal in [
            "null",
            r#""""#,
            r#"" ""#,
            r#""${input.timestamp}""#,
            r#""$!{input.timestamp}""#,
            r#""{{timestamp}}""#,
            r#""undefined""#,
            r#""2026-01-15""#,
            r#""12:00:00""#,
            r#""2026-01-15T12:00:00""#,
            r#""0001-01-01T00:00:00Z""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""2099-01-01T00:00:00Z""#,
            "0",
            "1",
            "-1",
            "1e400",
            r#""NaN""#,
            r#""inf""#,
            "1768478400000000",
            "true",
            "{}",
            "[1768478400]",
            r#"{"time":1768478400}"#,
            r#""yesterday""#,
        ] {
            assert_eq!(of(literal), None, "{literal}");
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(text in any::<String>(), number in any::<f64>()) {
            let _ = is_placeholder(&text);
            let body = serde_json::json!([text, number]).to_string();
            for item in Json::parse(body.as_bytes()).expect("JSON").as_array(usize::MAX).expect("an array") {
                let _ = instant(item, noon());
            }
        }
    }
}
