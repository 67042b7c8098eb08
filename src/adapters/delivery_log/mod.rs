//! Logs of failed deliveries in Genesys Cloud.

pub mod open_messaging;
pub mod webhook_deliveries;

/// A segment of a path, with what URLs do not take as it is encoded.
fn segment(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
