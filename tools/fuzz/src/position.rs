//! The token with which a list goes on.

use genesys_relay::domain::event::{EventId, Source};
use genesys_relay::ports::events_table::Position;
use jiff::Timestamp;

/// A token is one that the relay makes, or is refused; and so are ids and sources.
pub(crate) fn position(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.token(), text, "two tokens for one place");
    }
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.as_str(), text);
        assert!(
            (1..=80).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }
    if let Ok(source) = text.parse::<Source>() {
        assert_eq!(source.as_str(), text);
    }
    let Some((time, id)) = text.split_once('#') else {
        return;
    };
    if let (Ok(time), Ok(id)) = (time.parse::<Timestamp>(), id.parse::<EventId>()) {
        let position = Position::of(time, &id);
        assert_eq!(
            position.token().parse::<Position>().ok(),
            Some(position),
            "a token that the relay has made"
        );
    }
}
