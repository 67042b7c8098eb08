//! Text that SQS, logs and terminals accept.

/// The longest detail or response excerpt that is kept of an error or an answer, in bytes.
pub const MAX_EXCERPT_BYTES: usize = 1024;

/// Returns whether SQS accepts the character (`SendMessage`: `#x9 | #xA | #xD | #x20–#xD7FF |
/// #xE000–#xFFFD | #x10000–#x10FFFF`).
pub(crate) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// `text` cut to [`MAX_EXCERPT_BYTES`], with spaces for characters that SQS, a terminal or a log
/// does not accept.
pub fn excerpt(text: &str) -> String {
    excerpt_of(text, MAX_EXCERPT_BYTES)
}

/// [`excerpt`], cut to `most` bytes.
pub(crate) fn excerpt_of(text: &str, most: usize) -> String {
    let mut excerpt = String::new();
    for c in text.chars() {
        let c = if c.is_control() || !is_allowed(c) {
            ' '
        } else {
            c
        };
        if excerpt.len() + c.len_utf8() > most {
            break;
        }
        excerpt.push(c);
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_as_long_as_fits_and_ends_between_characters() {
        for (text, most, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("abü", 3, "ab"),
            ("aü", 3, "aü"),
            ("ü", 1, ""),
            ("a\u{7}b\u{FFFE}", 9, "a b "),
        ] {
            assert_eq!(excerpt_of(text, most), expected, "{text:?}");
        }
        assert_eq!(excerpt(&"x".repeat(2000)).len(), 1024);
    }
}
