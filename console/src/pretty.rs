//! JSON for people to read: every token as it came, on lines of its own.

use genesys_relay::domain::json::Json;

/// Deeper, or longer when laid out, it is shown as it came: indenting would multiply what a stranger has sent.
const MAX_DEPTH: usize = 64;
const MAX_BYTES: usize = 512 * 1024;

/// Lays out a JSON object or array, without reading a number or a text. Nothing where it is none, or is too much.
pub(crate) fn pretty(text: &str) -> Option<String> {
    let text = Json::parse(text.as_bytes()).ok()?.as_text();
    let mut laid_out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_text, mut escaped, mut opened) = (0, false, false, false);
    for character in text.chars() {
        if laid_out.len() > MAX_BYTES || depth > MAX_DEPTH {
            return None;
        }
        if in_text {
            laid_out.push(character);
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
        // Nothing stands between the brackets of an empty one.
        if opened != closes {
            new_line(&mut laid_out, depth);
        }
        opened = false;
        laid_out.push(character);
        match character {
            '"' => in_text = true,
            ':' => laid_out.push(' '),
            ',' => new_line(&mut laid_out, depth),
            '{' | '[' => {
                depth += 1;
                opened = true;
            }
            _ => {}
        }
    }
    Some(laid_out)
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_stays_as_it_came() {
        let text =
            r#"{"id":12345678901234567890123,"text":"a \"quoted\\\" {x:[1,2]}","e":{},"l":[ ],"n":[1.50,[true]]}"#;
        let expected = "{\n  \"id\": 12345678901234567890123,\n  \"text\": \"a \\\"quoted\\\\\\\" {x:[1,2]}\",\n  \"e\": {},\n  \
                        \"l\": [],\n  \"n\": [\n    1.50,\n    [\n      true\n    ]\n  ]\n}";
        assert_eq!(pretty(text).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_json_or_too_much_is_left_alone() {
        for text in ["", "text", "[1,", &"[".repeat(1000), &format!("{}{}", "[".repeat(100), "]".repeat(100))] {
            assert_eq!(pretty(text), None, "{text}");
        }
        let wide = format!("[{}0]", format!("{}1{},", "[".repeat(60), "]".repeat(60)).repeat(1000));
        assert_eq!(pretty(&wide), None);
    }
}
