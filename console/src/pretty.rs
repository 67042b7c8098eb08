//! Indents JSON and leaves every token unchanged.

use genesys_relay::domain::json::Json;

/// JSON that is deeper, or longer when indented, is not indented: that would multiply an unknown
/// sender's content.
const MAX_DEPTH: usize = 64;
const MAX_BYTES: usize = 512 * 1024;

/// Indents a JSON object or array without parsing its numbers and texts. `None` for other text, and
/// above the limits.
pub(crate) fn pretty(text: &str) -> Option<String> {
    let text = Json::parse(text.as_bytes()).ok()?.as_text();
    let mut indented = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_text, mut escaped, mut opened) = (0, false, false, false);
    for character in text.chars() {
        if indented.len() > MAX_BYTES || depth > MAX_DEPTH {
            return None;
        }
        if in_text {
            indented.push(character);
            in_text = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            continue;
        }
        if character.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(character, '}' | ']');
        if closes {
            depth -= 1;
        }
        // Empty brackets stay on one line.
        if opened != closes {
            new_line(&mut indented, depth);
        }
        opened = false;
        indented.push(character);
        match character {
            '"' => in_text = true,
            ':' => indented.push(' '),
            ',' => new_line(&mut indented, depth),
            '{' | '[' => {
                depth += 1;
                opened = true;
            }
            _ => {}
        }
    }
    Some(indented)
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_unchanged() {
        let text = r#"{"id":12345678901234567890123,"text":"a \"quoted\\\" {x:[1,2]}","e":{},"l":[ ],"n":[1.50,[true]]}"#;
        let expected = "{\n  \"id\": 12345678901234567890123,\n  \"text\": \"a \\\"quoted\\\\\\\" {x:[1,2]}\",\n  \"e\": {},\n  \
                        \"l\": [],\n  \"n\": [\n    1.50,\n    [\n      true\n    ]\n  ]\n}";
        assert_eq!(pretty(text).as_deref(), Some(expected));
    }

    #[test]
    fn other_text_and_large_json_is_not_indented() {
        for text in [
            "",
            "text",
            "[1,",
            &"[".repeat(1000),
            &format!("{}{}", "[".repeat(100), "]".repeat(100)),
        ] {
            assert_eq!(pretty(text), None, "{text}");
        }
        let wide = format!(
            "[{}0]",
            format!("{}1{},", "[".repeat(60), "]".repeat(60)).repeat(1000)
        );
        assert_eq!(pretty(&wide), None);
    }
}
