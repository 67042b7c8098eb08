//! Secrets of a request that an answer repeats: they are taken out of what is kept of it.

use std::cmp::Reverse;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fewer bytes are no secret, and stand in any answer.
const LEAST: usize = 4;

/// The headers of a request that have secret values.
pub(super) struct Echo(Vec<(HeaderName, HeaderValue)>);

impl Echo {
    /// Those that are marked as sensitive, except the time of a signature: it may tell why the
    /// target refuses it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let secrets = headers
            .iter()
            .filter(|(name, value)| value.is_sensitive() && *name != "x-amz-date");
        Self(
            secrets
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }

    /// A text of the target's without them, also where it ends within one.
    pub(super) fn without(&self, mut text: String) -> String {
        let mut secrets: Vec<String> = self.0.iter().flat_map(forms).collect();
        secrets.retain(|secret| secret.len() >= LEAST);
        secrets.sort_by_key(|secret| Reverse(secret.len()));
        for secret in &secrets {
            text = text.replace(secret, "…");
        }
        for secret in &secrets {
            let beginnings = secret.char_indices().rev().map(|(end, _)| &secret[..end]);
            let mut beginnings = beginnings.take_while(|beginning| beginning.len() >= LEAST);
            // A character of it may have been cut, too.
            let end = text.trim_end_matches('\u{FFFD}');
            if let Some(rest) = beginnings.find_map(|beginning| end.strip_suffix(beginning)) {
                text = format!("{rest}…");
            }
        }
        text
    }
}

/// A value, of `Authorization` also without the scheme and the last parameter, which is the
/// signature of AWS; each also as JSON writes it.
fn forms((name, value): &(HeaderName, HeaderValue)) -> Vec<String> {
    let value = String::from_utf8_lossy(value.as_bytes());
    let credentials = Some(&*value).filter(|_| name == header::AUTHORIZATION);
    let without_scheme = credentials.and_then(|value| Some(value.split_once(' ')?.1));
    let last = credentials.and_then(|value| Some(value.rsplit_once('=')?.1));
    let forms = [Some(&*value), without_scheme, last];
    let forms = forms.into_iter().flatten().map(str::trim);
    let escaped = |text: &str| {
        let json = serde_json::Value::from(text).to_string();
        json[1..json.len() - 1].to_owned()
    };
    forms
        .flat_map(|text| [text.to_owned(), escaped(text)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(value: &str, text: &str) -> String {
        let mut value: HeaderValue = value.parse().expect("a value");
        value.set_sensitive(true);
        let headers = [("x-amz-date".parse().expect("a name"), value.clone())];
        assert!(Echo::of(&headers.into_iter().collect()).0.is_empty());
        let headers = [(header::AUTHORIZATION, value)];
        Echo::of(&headers.into_iter().collect()).without(text.to_owned())
    }

    #[test]
    fn secret_is_taken_out_however_it_is_repeated() {
        for (value, text, expected) in [
            ("hunter2", "hunter2 and hunter2hunter2", "… and ……"),
            ("Bearer hunter2", "no Bearer hunter2", "no …"),
            (
                "Bearer hunter2",
                "invalid token: hunter2",
                "invalid token: …",
            ),
            (
                "AWS4 Credential=AKID, Signature=a1b2c3",
                "not a1b2c3",
                "not …",
            ),
            ("Basic aHVudGVyMg==", "(aHVudGVyMg==)", "(…)"),
            (
                r#"Key "hunter2""#,
                r#"{"key":"\"hunter2\""}"#,
                r#"{"key":"…"}"#,
            ),
            ("hunter2hunter2", "cut within hunter2hunt", "cut within …"),
            (
                "Bearer hünter2",
                "cut within h\u{FFFD}",
                "cut within h\u{FFFD}",
            ),
            (
                "Bearer hunter2ü",
                "cut within hunter2\u{FFFD}",
                "cut within …",
            ),
            (
                "t",
                "too short to be taken out",
                "too short to be taken out",
            ),
            ("hunter2", "nothing is repeated", "nothing is repeated"),
        ] {
            assert_eq!(without(value, text), expected, "{value}");
        }
    }

    #[test]
    fn no_beginning_of_a_secret_is_left_at_the_end() {
        let secret = "abcdefghij".repeat(100);
        for end in LEAST..secret.len() {
            let left = without(&secret, &format!("- {}", &secret[..end]));
            assert_eq!(left, "- …", "{end}");
        }
    }
}
