//! Requests of strangers and broken senders: each is told what is wrong, nothing authentic is lost,
//! and the functions stay within their memory.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::types::MessageAttributeValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use local::clients;
use local::genesys::{OPEN_MESSAGING_SECRET, WEBHOOK_SECRET, signature};
use local::stack::Function;
use local::target::Behaviour;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::relay::{REFUSED, Relay, peak_memory};

/// Memory of each function in `template.yaml`.
const FUNCTION_MEMORY: u64 = 256 * 1024 * 1024;

const VECTOR: &str =
    r#"{"id":"d7d58935af65a45e5234ac77de017a0a","type":"Text","text":"Hi","direction":"Outbound"}"#;

const MIB: usize = 1024 * 1024;

/// An answer over a connection of its own.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// Sends a request as it is, byte for byte: what no HTTP client would.
async fn send(url: &str, head: &[&str], body: &[u8]) -> Result<Answer> {
    let after_scheme = url.strip_prefix("http://").context("a URL")?;
    let (host, path) = after_scheme.split_once('/').context("a path")?;
    let mut request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for line in head {
        request.extend([line, "\r\n"]);
    }
    let names_length = |line: &&str| {
        ["Content-Length", "Transfer-Encoding"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    if !head.iter().any(names_length) {
        request.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all((request + "\r\n").as_bytes()).await?;
    // A server that has seen enough may hang up on the rest.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// Holds the peaks of the functions to the memory that they have.
fn check_memory(relay: &Relay, functions: &[Function]) -> Result<()> {
    for function in functions {
        let peak = peak_memory(relay, *function)?;
        assert!(
            peak > 0 && peak < FUNCTION_MEMORY,
            "{function:?} had {peak} bytes"
        );
    }
    Ok(())
}

/// Sends the vector with these lines and a type.
async fn send_vector(url: &str, head: &[String]) -> Result<Answer> {
    let head: Vec<_> = head
        .iter()
        .map(String::as_str)
        .chain(["Content-Type: application/json"])
        .collect();
    send(url, &head, VECTOR.as_bytes()).await
}

#[tokio::test]
async fn a_false_proof_is_refused_and_leaves_nothing_behind() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
    let url = relay.stack.webhook_url()?;
    let right = signature(OPEN_MESSAGING_SECRET, VECTOR.as_bytes());
    let base64 = right.strip_prefix("sha256=").context("a signature")?;
    let url_safe = base64.replace('+', "-").replace('/', "_");
    let short = BASE64_STANDARD.encode([0; 20]);
    let long = BASE64_STANDARD.encode([0; 64]);
    let hub = |value: &str| format!("X-Hub-Signature-256: {value}");
    let secret = format!("X-Webhook-Secret: {WEBHOOK_SECRET}");
    let wrong = hub(&format!("sha256={}", BASE64_STANDARD.encode([0; 32])));
    for head in [
        vec![hub(&right), wrong.clone()],
        vec![wrong.clone(), secret.clone()],
        vec![hub(&format!("{right},{right}"))],
        vec![hub(&format!("sha256={short}"))],
        vec![hub(&format!("sha256={long}"))],
        vec![hub(&format!("sha1={base64}"))],
        vec![hub(&format!("sha512={base64}"))],
        vec![hub(&format!("SHA256={base64}"))],
        vec![hub(&format!("sha256={url_safe}"))],
        vec![hub(&format!("sha256={}", base64.trim_end_matches('=')))],
        vec![hub(&format!("sha256= {base64}"))],
        vec![hub(&format!("sha256={base64}\t\u{fc}"))],
        vec![hub("")],
        vec![hub(""), secret.clone()],
        vec![format!(
            "X-Webhook-Secret: {WEBHOOK_SECRET},{WEBHOOK_SECRET}"
        )],
        vec![format!("X-Webhook-Secret: {WEBHOOK_SECRET}x")],
        vec![format!("X-Webhook-Secret-: {WEBHOOK_SECRET}")],
        vec![format!("X-Custom: a%0d%0a{secret}")],
    ] {
        let answer = send_vector(&url, &head).await?;
        assert_eq!(answer.status, 401, "{head:?}: {answer:?}");
        let is_problem = answer.head.contains("application/problem+json");
        assert!(
            is_problem && answer.body["detail"].is_string(),
            "{answer:?}"
        );
    }

    // A request that HTTP does not allow may be refused by the gateway, or be read in the one way
    // that is safe.
    let secret = secret.as_str();
    let chunked = format!("{:x}\r\n{VECTOR}\r\n0\r\n\r\n", VECTOR.len());
    let two_lengths = ["Content-Length: 4", "Content-Length: 5", secret];
    for (head, body) in [
        (
            ["Transfer-Encoding: chunked", "Content-Length: 4", secret],
            chunked.as_str(),
        ),
        (two_lengths, VECTOR),
        (["X-Webhook-Secret : x", secret, secret], VECTOR),
    ] {
        let answer = send(&url, &head, body.as_bytes()).await;
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        assert!([0, 200, 400, 401].contains(&status), "{head:?}: {answer:?}");
    }
    relay.until_empty().await?;
    for request in relay.target.requests() {
        assert_eq!(
            &request.body[..],
            VECTOR.as_bytes(),
            "a body that was not sent"
        );
    }

    // What is odd and authentic is taken.
    let long = format!("X-Custom: {}", "v".repeat(6 * 1024));
    for head in [
        vec![hub(&format!("  {right}  "))],
        vec![
            format!("x-HUB-signature-256: {right}"),
            "X-Forwarded-Proto: no scheme".to_owned(),
        ],
        vec![
            hub(&right),
            long,
            "Cookie: a=\u{fc}; =;;".to_owned(),
            "X-Genesys-~: \u{fc}".to_owned(),
        ],
    ] {
        let answer = send_vector(&url, &head).await?;
        assert_eq!(answer.status, 200, "{head:?}: {answer:?}");
    }
    // A query that cannot be parsed is refused; it is no failure of the function.
    for query in ["a=<b>", "a={\"b\"|c}^", "%ZZ&=&&"] {
        let answer = send_vector(&format!("{url}?{query}"), &[hub(&right)]).await?;
        assert!([200, 400].contains(&answer.status), "{query}: {answer:?}");
    }
    check_memory(&relay, &[Function::Ingest])
}

/// Bodies, with their names and the status that they get. What is not refused for its size is kept.
fn bodies() -> Vec<(&'static str, Vec<u8>, u16)> {
    let (deep, large) = (500_000, MIB - 64 * 1024);
    let keys: Vec<_> = (0..40_000)
        .map(|number| format!("\"same\":{number}"))
        .collect();
    let text = |name, text: String, status| (name, text.into_bytes(), status);
    let fraction = format!("[0.{}1e-{}]", "0".repeat(large / 2), "9".repeat(1000));
    let exponents = r#"{"n":[1e999999999999,-1E-999999999999,1e+308,5e-324]}"#;
    let unicode = "{\"😀\u{202e}\":\"\u{fffe}\u{200b}é\"}";
    vec![
        text("nested", "[".repeat(deep) + &"]".repeat(deep), 200),
        text("nested and open", "[".repeat(2 * deep), 400),
        text("digits", format!("[{}]", "7".repeat(large)), 200),
        text("a fraction", fraction, 200),
        text("exponents", exponents.to_owned(), 200),
        text(
            "a long text",
            format!("{{\"a\":\"{}\"}}", "x".repeat(large)),
            200,
        ),
        text(
            "escapes",
            format!("{{\"a\":\"{}\"}}", "\\u0000".repeat(large / 6)),
            200,
        ),
        text("one key", format!("{{{}}}", keys.join(",")), 200),
        text("unicode", unicode.to_owned(), 200),
        text(
            "lone surrogates",
            r#"{"a":"\ud83d","\ude00":1}"#.to_owned(),
            200,
        ),
        ("NUL", b"{\"a\":\"\0\"}".to_vec(), 400),
        ("only NUL", vec![0; 1000], 400),
        ("no UTF-8", b"{\"a\":\"\xff\xfe\"}".to_vec(), 400),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), 400),
        text(
            "two megabytes",
            format!("[\"{}\"]", "x".repeat(2 * MIB)),
            413,
        ),
        ("bytes that grow", vec![0xff; large], 413),
    ]
}

/// Message of a person: name, body, and attributes.
type ByHand = (&'static str, String, Vec<(&'static str, String)>);

fn by_hand() -> Vec<ByHand> {
    let id = |id: &str| ("event_id", id.to_owned());
    let received_at = |time: &str| ("received_at", time.to_owned());
    let lines = json!({ "x-genesys-a": "b\r\nx: y", "": "" }).to_string();
    let encoding = ("encoding", "base64".to_owned());
    vec![
        ("not JSON, by hand", "<xml/>".to_owned(), vec![]),
        (
            "nested, by hand",
            "[".repeat(100_000) + &"]".repeat(100_000),
            vec![],
        ),
        (
            "a wrong id",
            "{\"by\":\"hand\"}".to_owned(),
            vec![id("no such id!")],
        ),
        (
            "headers of lines",
            "[1]".to_owned(),
            vec![id("odd-headers"), ("headers", lines)],
        ),
        (
            "a far time",
            "[2]".to_owned(),
            vec![id("far"), received_at("9999-12-30T21:59:59.999Z")],
        ),
        (
            "an early time",
            "[3]".to_owned(),
            vec![id("early"), received_at("-009999-01-02T01:59:59Z")],
        ),
        (
            "base64 that is none",
            "====".to_owned(),
            vec![id("base64"), encoding],
        ),
    ]
}

fn text_attribute(value: &str) -> Result<MessageAttributeValue> {
    let attribute = MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value);
    Ok(attribute.build()?)
}

/// The replay function refuses each hostile request in words.
async fn check_refusals(relay: &Relay) -> Result<()> {
    let long = "n".repeat(MIB);
    let next =
        json!({ "action": "list", "since": "-009999-01-02T01:59:59Z", "limit": 1, "next": "////" });
    for (request, word) in [
        (next, "next"),
        (json!({ "action": "list", &long: 1 }), "nnnn"),
        (json!({ "action": &long }), "action"),
        (json!({ "action": "show", "eventId": "a\u{0}" }), "eventId"),
        (
            json!({ "action": "replay", "all": true, "dryrun": true }),
            "dryrun",
        ),
        (
            json!({ "action": "replay", "eventIds": vec!["a"; 1001] }),
            "eventIds",
        ),
        (json!([[[[[[[[[[]]]]]]]]]]), "request"),
    ] {
        let error = relay.replay_fails(request, "InvalidRequest").await?;
        let message = error.0["errorMessage"].as_str().unwrap_or_default();
        assert!(
            message.starts_with(word) && message.len() < 4096,
            "{message:.200}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn hostile_bodies_are_kept_byte_for_byte_or_refused_in_words() -> Result<()> {
    // Refused for good, so that all that was taken lies in one place, whole.
    let relay = Relay::start(REFUSED, &[]).await?;
    let url = relay.stack.webhook_url()?;
    let mut kept = BTreeMap::<Vec<u8>, &str>::new();
    for (name, body, status) in bodies() {
        // Without a type of text API Gateway passes the bytes on as they are.
        let request = clients::http()
            .post(&url)
            .header("X-Webhook-Secret", WEBHOOK_SECRET);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body(body.clone()).send().await?;
        let (code, kind) = (
            answer.status().as_u16(),
            answer.headers().get("content-type").cloned(),
        );
        let answer: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        assert_eq!(code, status, "{name}: {answer}");
        if status != 200 {
            assert_eq!(
                kind.context("a type")?,
                "application/problem+json",
                "{name}"
            );
            let detail = answer["detail"].as_str().unwrap_or_default();
            assert!((21..1024).contains(&detail.len()), "{name}: {answer}");
        }
        if status != 413 {
            kept.insert(body, name);
        }
    }
    // More than Lambda takes never reaches the function.
    let huge = clients::http()
        .post(&url)
        .header("X-Webhook-Secret", WEBHOOK_SECRET);
    let huge = huge
        .body(vec![b' '; 6 * MIB])
        .send()
        .await?
        .status()
        .as_u16();
    assert!([413, 500, 502, 503].contains(&huge), "{huge}");

    for (name, body, attributes) in by_hand() {
        let request = relay
            .stack
            .sqs()
            .send_message()
            .queue_url(relay.stack.output("QueueUrl")?);
        let mut request = request.message_body(&body);
        for (name, value) in attributes {
            request = request.message_attributes(name, text_attribute(&value)?);
        }
        request.send().await?;
        kept.insert(body.into_bytes(), name);
    }
    let count = u32::try_from(kept.len())?;
    relay.until_dead(count).await?;
    for letter in relay.dead_letters().await? {
        let body = letter.body.context("a body")?;
        let attributes = letter.message_attributes.unwrap_or_default();
        let text = |name: &str| {
            attributes
                .get(name)
                .and_then(MessageAttributeValue::string_value)
        };
        let is_encoded = text("encoding") == Some("base64") && text("event_id") != Some("base64");
        let bytes = if is_encoded {
            BASE64_STANDARD.decode(&body)?
        } else {
            body.into_bytes()
        };
        let excerpt = format!("{:.100}", String::from_utf8_lossy(&bytes));
        let name = kept.remove(&bytes).context(excerpt)?;
        let reason: Value = serde_json::from_str(text("reason").context(name)?)?;
        let kind = reason["reason"].as_str().unwrap_or_default();
        assert!(
            ["permanent", "malformed"].contains(&kind),
            "{name}: {reason}"
        );
    }
    ensure!(kept.is_empty(), "lost: {:?}", kept.values());

    check_refusals(&relay).await?;
    // Unreadable messages have no record.
    let reconciled = relay.replay(json!({ "action": "reconcile" })).await?;
    let ends = json!({ "action": "list", "since": "-009999-01-02T01:59:59Z", "until": "9999-12-30T22:00:00.999999999Z" });
    let list = relay.replay(ends).await?;
    assert_eq!(list["count"], count, "{reconciled}: {list}");
    check_memory(
        &relay,
        &[Function::Ingest, Function::Processor, Function::Replay],
    )
}
