//! Values that only the secret may hold.

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use local::tls::Identity;
use uuid::Uuid;

/// Values that must not show, in no encoding that they could travel in.
#[derive(Default)]
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    /// Draws a value that must not show.
    pub(super) fn draw(&mut self) -> String {
        let value = Uuid::new_v4().simple().to_string();
        self.keep(&value);
        value
    }

    pub(super) fn keep(&mut self, value: &str) {
        self.0.push(value.to_owned());
    }

    pub(super) fn keep_all(&mut self, values: Vec<String>) {
        self.0.extend(values);
    }

    /// Keeps the private key of an identity: each line of its PEM.
    pub(super) fn identity(&mut self, identity: Identity) -> Identity {
        let lines = identity.private_key.lines();
        let lines = lines.filter(|line| !line.starts_with("-----"));
        self.0.extend(lines.map(str::to_owned));
        identity
    }

    /// Checks that a text has none of the values.
    pub(super) fn check(&self, place: &str, text: &str) -> Result<()> {
        for value in &self.0 {
            for form in forms(value) {
                let start = text.find(&form);
                let around = start.map(|start| {
                    let from = text.floor_char_boundary(start.saturating_sub(300));
                    &text[from..start]
                });
                ensure!(
                    start.is_none(),
                    "a secret shows in {place} after {around:?}"
                );
            }
        }
        Ok(())
    }
}

/// The value itself, and what base64 makes of it wherever it stands in what is encoded.
fn forms(value: &str) -> Vec<String> {
    let mut forms = vec![value.to_owned()];
    for before in 0..3 {
        let bytes = [&vec![b'x'; before][..], value.as_bytes()].concat();
        // The first and the last signs also depend on the neighbours.
        let signs = (8 * before).div_ceil(6)..8 * bytes.len() / 6;
        for alphabet in [BASE64_STANDARD, BASE64_URL_SAFE] {
            forms.push(alphabet.encode(&bytes)[signs.clone()].to_owned());
        }
    }
    forms
}

#[test]
fn value_is_found_as_it_is_and_in_any_base64() {
    let mut hidden = Hidden::default();
    let value = hidden.draw();
    assert!(hidden.check("a text", "nothing").is_ok());
    assert!(hidden.check("a text", &format!("key={value}&")).is_err());
    for pair in ["", "a", "ab", "abc"].map(|before| format!("{before}:{value}:after")) {
        let encoded = format!("Basic {}", BASE64_STANDARD.encode(pair));
        assert!(hidden.check("a text", &encoded).is_err(), "{encoded}");
    }
}
