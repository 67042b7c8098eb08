//! The receiver's checks of `examples/verify` accept what the relay signs, and nothing else.

#[path = "../examples/verify/verify.rs"]
#[expect(unreachable_pub, reason = "receivers copy it as it is")]
mod verify;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use genesys_relay::adapters::standard_webhooks::sign;
use local::python::{self, EMULATOR};
use local::workspace::Workspace;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use self::verify::Refused;

const NOW: i64 = 1_768_478_400;
const ID: &str = "bXAqN19BAqa6Zo0m7BkUJ697YDCs2mOPtAyShqk0yfU";
/// The answers to what does not verify, and to a secret of the receiver that is none.
const REFUSED: &str = "refused";
const NO_KEY: &str = "no key";
const BODY: &str = r#"{"text":"Grüße 😀"}"#;

/// Reads the cases, calls `verify` for each, and prints a list of what it returned.
const PYTHON: &str = r"
import base64, json, sys
sys.path.insert(0, 'examples/verify')
from verify import verify
def of(case):
    try:
        return verify(case['secret'], case['headers'], base64.b64decode(case['body']), case['now'])
    except ValueError:
        return 'refused'
    except RuntimeError:
        return 'no key'
print(json.dumps([of(case) for case in json.load(sys.stdin)]))
";
const JAVASCRIPT: &str = r"
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
const { verify } = await import(pathToFileURL('examples/verify/verify.mjs'));
const of = ({ secret, headers, body, now }) => {
  try { return verify(secret, headers, Buffer.from(body, 'base64'), now); }
  catch (error) { return error instanceof RangeError ? 'no key' : 'refused'; }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(of)));
";

struct Case {
    name: &'static str,
    secret: String,
    headers: BTreeMap<&'static str, String>,
    body: String,
    now: i64,
    expected: &'static str,
}

/// A delivery that the relay signs with `keys`, to a receiver that knows the first.
fn delivery(name: &'static str, keys: &[Vec<u8>]) -> Case {
    let headers = [
        ("webhook-id", ID.to_owned()),
        ("webhook-timestamp", NOW.to_string()),
        ("webhook-signature", sign(keys, ID, NOW, BODY.as_bytes())),
    ];
    Case {
        name,
        secret: format!("whsec_{}", BASE64_STANDARD.encode(&keys[0])),
        headers: headers.into(),
        body: BODY.to_owned(),
        now: NOW,
        expected: ID,
    }
}

fn cases() -> Vec<Case> {
    // As a stack generates it: 64 letters and digits are the base64 of 48 bytes.
    let generated = BASE64_STANDARD
        .decode("Qk3vZ0b9".repeat(8))
        .expect("base64");
    let (one, other) = (vec![7; 24], vec![8; 64]);
    let valid = |name| delivery(name, std::slice::from_ref(&generated));
    let refused = |name, change: &dyn Fn(&mut Case)| {
        let mut case = valid(name);
        change(&mut case);
        case.expected = REFUSED;
        case
    };
    let second = || Case {
        secret: format!("whsec_{}", BASE64_STANDARD.encode(&other)),
        ..delivery(
            "the second of two signatures",
            &[one.clone(), other.clone()],
        )
    };
    // Signed with the same key, as anyone can who guesses that it is empty.
    let no_key = |name, secret: &str, key: Vec<u8>| Case {
        secret: secret.to_owned(),
        expected: NO_KEY,
        ..delivery(name, &[key])
    };
    let at = |name, seconds, expected| Case {
        now: NOW + seconds,
        expected,
        ..valid(name)
    };
    vec![
        valid("one signature"),
        second(),
        delivery("the first of two signatures", &[one.clone(), other.clone()]),
        at("five minutes old", 300, ID),
        at("a receiver's clock that is late", -300, ID),
        at("older than five minutes", 301, REFUSED),
        at("more than five minutes ahead", -301, REFUSED),
        no_key("a secret that is not set", "", Vec::new()),
        no_key("a prefix alone", "whsec_", Vec::new()),
        no_key(
            "a key of 23 bytes",
            &format!("whsec_{}", BASE64_STANDARD.encode([7; 23])),
            vec![7; 23],
        ),
        refused("another secret", &|case| {
            case.secret = format!("whsec_{}", BASE64_STANDARD.encode([9; 24]));
        }),
        refused("a changed body", &|case| case.body.push(' ')),
        refused("another id", &|case| {
            case.headers.insert("webhook-id", "another".to_owned());
        }),
        refused("another time", &|case| {
            let time = (NOW + 1).to_string();
            case.headers.insert("webhook-timestamp", time);
        }),
        refused("a time that is no number", &|case| {
            let time = format!("{NOW}.0");
            case.headers.insert("webhook-timestamp", time);
        }),
        refused("no time", &|case| {
            case.headers.remove("webhook-timestamp");
        }),
        refused("no signature", &|case| {
            case.headers.remove("webhook-signature");
        }),
        refused("an empty signature", &|case| {
            case.headers.insert("webhook-signature", "v1,".to_owned());
        }),
        refused("a part of the signature", &|case| {
            let signature = &case.headers["webhook-signature"];
            let part = signature[..signature.len() - 4].to_owned();
            case.headers.insert("webhook-signature", part);
        }),
        refused("an asymmetric signature", &|case| {
            let signature = case.headers["webhook-signature"].replace("v1,", "v1a,");
            case.headers.insert("webhook-signature", signature);
        }),
    ]
}

/// Gives all cases to a program, and compares its answers.
async fn check(program: &Path, arguments: &[&str]) -> Result<()> {
    let all = cases();
    let input: Value = all
        .iter()
        .map(|case| {
            json!({ "secret": case.secret, "headers": case.headers, "now": case.now,
                "body": BASE64_STANDARD.encode(&case.body) })
        })
        .collect();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.to_string().as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{} failed", program.display());
    let answers: Vec<String> = serde_json::from_slice(&output.stdout)?;
    ensure!(answers.len() == all.len(), "{answers:?}");
    for (case, answer) in all.iter().zip(answers) {
        assert_eq!(answer, case.expected, "{}", case.name);
    }
    Ok(())
}

#[test]
fn check_in_rust_accepts_only_what_the_relay_signed() {
    for case in cases() {
        let header = |name: &str| case.headers.get(name).map(String::as_str);
        let now = u64::try_from(case.now).expect("after 1970");
        let answer = verify::verify(&case.secret, header, case.body.as_bytes(), now);
        let answer = answer.unwrap_or_else(|refused| match refused {
            Refused::OwnSecret => NO_KEY,
            Refused::Time | Refused::Signature => REFUSED,
        });
        assert_eq!(answer, case.expected, "{}", case.name);
    }
}

#[tokio::test]
async fn check_in_python_accepts_only_what_the_relay_signed() -> Result<()> {
    let local = Workspace::locate().await?.local();
    let interpreter = python::environment(&local, EMULATOR).await?;
    check(&interpreter, &["-B", "-c", PYTHON]).await
}

#[tokio::test]
async fn check_in_javascript_accepts_only_what_the_relay_signed() -> Result<()> {
    let node = Path::new("node");
    let version = Command::new(node).arg("--version").output().await;
    if version.is_err() {
        let hint = "no Node.js: on Debian, apt-get install nodejs";
        let mut variables = ["CI", "GENESYS_RELAY_NODE"].iter();
        ensure!(variables.all(|name| env::var_os(name).is_none()), hint);
        eprintln!("SKIPPED: {hint}");
        return Ok(());
    }
    check(node, &["--input-type=module", "--eval", JAVASCRIPT]).await
}
