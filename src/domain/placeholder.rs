//! Placeholders: unfilled template variables, and defaults of types that were never set.
//!
//! They are the same on every event of a sender: an identity made of one would merge unrelated
//! events.

/// Variables that a template did not fill, as Velocity (`${…}`, `$!{…}`) and Mustache (`{{…}}`)
/// leave them. Velocity does without the braces as well: `$name`, `$!name`.
const UNFILLED: [(&str, &str); 3] = [("${", "}"), ("$!{", "}"), ("{{", "}}")];

/// Returns whether a text is a placeholder: it is empty or blank, a variable in it is not filled,
/// it is `null` or `undefined`, or it has no letter and no digit but zeros.
pub fn is_placeholder(text: &str) -> bool {
    let is_unfilled = |(open, close)| {
        text.split_once(open)
            .is_some_and(|(_, rest): (_, &str)| rest.contains(close))
    };
    let is_name = |text: &str| {
        text.strip_prefix('!')
            .unwrap_or(text)
            .starts_with(|c: char| c.is_ascii_alphabetic())
    };
    let is_empty = || !text.chars().any(|c| c.is_alphanumeric() && c != '0');
    let is_unset = || {
        ["null", "undefined"]
            .iter()
            .any(|word| text.trim().eq_ignore_ascii_case(word))
    };
    is_empty()
        || is_unset()
        || UNFILLED.into_iter().any(is_unfilled)
        || text.split('$').skip(1).any(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaningless_value_is_a_placeholder() {
        for text in [
            "",
            " ",
            "\t\r\n",
            "${input.key}",
            "$!{input.key}",
            "{{key}}",
            "{{ key }}",
            "$input.key",
            "$!input.key",
            "order-$key",
            "order-${input.id}",
            "undefined",
            "null",
            " NULL ",
            "-",
            "0",
            "00000000-0000-0000-0000-000000000000",
            "\u{a0}",
        ] {
            assert!(is_placeholder(text), "{text:?}");
        }
        for text in [
            "1",
            "a",
            "ключ",
            "鍵",
            "10",
            "order-1",
            "$5",
            "5$",
            "$!5",
            "a$-b",
            "{1}",
            "{{a",
            "${a",
            "}a${",
            "nullable",
            "undefined-1",
        ] {
            assert!(!is_placeholder(text), "{text:?}");
        }
    }
}
