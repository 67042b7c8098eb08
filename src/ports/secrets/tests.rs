//! Accepted and refused forms of the secret.

mod target;

use serde_json::json;

use super::*;

const OLD: &str = "old-secret-of-a-sender";
const NEW: &str = "new-secret-of-a-sender";

/// The fields that are lists of senders' secrets, and what is read of them.
fn both(value: &Value) -> [(&'static str, Result<Vec<String>, SecretsError>); 2] {
    let read = |field: &str| SenderSecrets::from_secret(&json!({ field: value }).to_string());
    [
        (
            "webhookSecrets",
            read("webhookSecrets").map(|secrets| secrets.webhook),
        ),
        (
            "openMessagingSecrets",
            read("openMessagingSecrets").map(|secrets| secrets.open_messaging),
        ),
    ]
}

#[test]
fn a_list_is_read_however_it_is_written() {
    for value in [
        json!([OLD, NEW]),
        json!([format!(" {OLD}\n"), format!("\u{FEFF}{NEW}\u{A0}")]),
        json!(format!("[\"{OLD}\",\"{NEW}\"]")),
        json!(format!(" [ \"{OLD}\\n\" , \"{NEW}\" ]\n")),
        json!([format!("[\"{OLD}\"]"), NEW]),
    ] {
        for (field, secrets) in both(&value) {
            assert_eq!(secrets.expect(field), [OLD, NEW], "{field}: {value}");
        }
    }
    for (field, secrets) in both(&json!([])).into_iter().chain(both(&json!("[]"))) {
        assert!(secrets.expect(field).is_empty());
    }
    let nothing = SenderSecrets::from_secret("{}").expect("every field may be absent");
    assert!(nothing.webhook.is_empty() && nothing.open_messaging.is_empty());
}

#[test]
fn blanks_around_a_secret_are_ignored() {
    for edge in [
        "\n",
        "\r\n",
        " ",
        "\t",
        "\u{FEFF}",
        "\u{A0}",
        "\u{200B}",
        "\0",
        "\u{2028} \n",
    ] {
        for value in [
            format!("{NEW}{edge}"),
            format!("{edge}{NEW}"),
            format!("{edge}{NEW}{edge}"),
        ] {
            for (field, secrets) in both(&json!(value)) {
                assert_eq!(secrets.expect(field), [NEW], "{field}: {value:?}");
            }
            let target = json!({ "targetAuthorization": value, "targetSigningSecrets": format!("{edge}{KEY}{edge}") });
            let target =
                TargetSecrets::from_secret(&format!("{edge}{target}{edge}")).expect("secrets");
            assert_eq!(
                (target.authorization.expect("one"), target.signing.len()),
                (HeaderValue::from_static(NEW), 1)
            );
            let genesys =
                json!({ "genesysClientId": value, "genesysClientSecret": value }).to_string();
            let genesys = GenesysSecrets::from_secret(&genesys).expect("secrets");
            assert_eq!(
                (genesys.client_id.as_str(), genesys.client_secret.as_str()),
                (NEW, NEW)
            );
        }
    }
}

/// A key of 24 bytes.
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn a_text_with_separators_opens_as_one_secret_and_as_a_list() {
    for separator in [",", ", ", ";"] {
        let text = format!("{OLD}{separator}{NEW}");
        for (field, secrets) in both(&json!(text)) {
            assert_eq!(secrets.expect(field), [&text, OLD, NEW], "{field}");
        }
    }
    // A part that is too short for a secret opens nothing.
    let (text, long) = (
        "one,of-the-characters-is-a-comma",
        "of-the-characters-is-a-comma",
    );
    for value in [json!(text), json!([text]), json!(format!("[\"{text}\"]"))] {
        for (field, secrets) in both(&value) {
            assert_eq!(secrets.expect(field), [text, long], "{field}: {value}");
        }
    }
    let keys = json!({ "targetSigningSecrets": format!("{KEY},{KEY}") }).to_string();
    assert_eq!(
        TargetSecrets::from_secret(&keys)
            .expect("base64 holds no comma")
            .signing
            .len(),
        2
    );
}

#[test]
fn impossible_secret_is_refused_by_name_without_its_value() {
    let of_senders = [
        json!(null),
        json!(1_234_567_890_123_456_789_u64),
        json!({ "hunter2": 1 }),
        json!([OLD, null]),
        json!("hunter2"),
        json!(""),
        json!(" \u{FEFF}\n"),
        json!([OLD, ""]),
        json!("[\"hunter2\"]"),
        json!("[hunter2-hunter2-hunter2]"),
        json!("['hunter2-hunter2-hunter2']"),
        json!("[\"hunter2-hunter2-hunter2\""),
        json!("\"hunter2-hunter2-hunter2\""),
        json!("\"hunter2-hunter2-hunter2\",\"hunter2-hunter2-hunter3\""),
    ];
    let refused = |text: &str| {
        let senders = SenderSecrets::from_secret(text).map(drop);
        let (target, genesys) = (
            TargetSecrets::from_secret(text).map(drop),
            GenesysSecrets::from_secret(text).map(drop),
        );
        let error = senders.and(target).and(genesys).expect_err(text);
        assert!(
            !format!("{error:?}{error}").contains("hunter2"),
            "{error:?}"
        );
        error.to_string()
    };
    for value in &of_senders {
        for (field, secrets) in both(value) {
            assert!(secrets.is_err(), "{field}: {value}");
            assert!(
                refused(&json!({ field: value }).to_string()).contains(field),
                "{field}: {value}"
            );
        }
    }
    for value in [
        "hunter2-\n-hunter2-hunter2",
        "hunter2-ü-hunter2-hunter2",
        "hunter2-\u{7}-hunter2-hunter2",
    ] {
        for value in [json!(value), json!([OLD, value])] {
            let text = json!({ "webhookSecrets": value }).to_string();
            assert!(refused(&text).contains("webhookSecrets"), "{text}");
        }
    }
    for (field, value) in [
        ("targetAuthorization", json!("")),
        ("targetAuthorization", json!("Bearer hunter2\nx")),
        ("targetAuthorization", json!("[\"Bearer hunter2\"]")),
        ("targetAuthorization", json!(["Bearer hunter2"])),
        ("targetSigningSecrets", json!(["whsec_hunter2"])),
        ("targetSigningSecrets", json!(format!("{KEY}AA"))),
        ("targetSigningSecrets", json!("hunter2")),
        ("targetSigningSecrets", json!("a".repeat(88))),
        ("targetSigningSecrets", json!(format!("v1,{KEY}"))),
        ("genesysClientId", json!(["hunter2"])),
        ("genesysClientId", json!(" ")),
    ] {
        let text = json!({ field: value }).to_string();
        assert!(refused(&text).contains(field), "{text}");
    }
    for text in [
        "hunter2",
        "[\"hunter2\"]",
        r#"{"webhookSecrets":["hunter2"],"webhookSecrets":[]}"#,
    ] {
        assert!(refused(text).contains("line 1"), "{text}");
    }
}

/// Secrets Manager generates letters and digits only.
#[test]
fn a_signing_secret_may_lack_its_prefix() {
    for (secret, bytes) in [("a".repeat(64), 48), (KEY["whsec_".len()..].to_owned(), 24)] {
        let secret = json!({ "targetSigningSecrets": secret }).to_string();
        let secrets = TargetSecrets::from_secret(&secret).expect("secrets");
        assert_eq!(secrets.signing[0].len(), bytes);
    }
}

/// It is the key of an HMAC, and never travels in a header.
#[test]
fn a_signature_secret_may_hold_any_character() {
    let secret = "ein Geheimnis für Übersee 秘密の鍵です";
    let secrets = json!({ "openMessagingSecrets": [secret] }).to_string();
    assert_eq!(
        SenderSecrets::from_secret(&secrets)
            .expect("secrets")
            .open_messaging,
        [secret]
    );
}

#[test]
fn a_slip_in_one_half_leaves_the_other_alone() {
    let text = r#"{"webhookSecrets":"0123456789abcdef","targetSigningSecrets":["a slip"]}"#;
    assert!(SenderSecrets::from_secret(text).is_ok() && TargetSecrets::from_secret(text).is_err());
    let text = r#"{"webhookSecrets":"a slip","targetAuthorization":"Bearer x","a later field":1}"#;
    assert!(SenderSecrets::from_secret(text).is_err() && TargetSecrets::from_secret(text).is_ok());
}

#[test]
fn debug_shows_numbers_only() {
    let text = r#"{"webhookSecrets":"hunter2-hunter2-hunter2","targetAuthorization":"hunter2"}"#;
    let senders = SenderSecrets::from_secret(text).expect("secrets");
    let target = TargetSecrets::from_secret(text).expect("secrets");
    assert!(!format!("{senders:?} {target:?}").contains("hunter2"));
}
