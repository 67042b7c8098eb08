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

use crate::Relay;

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
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|url| url.split_once('/'))
        .context("a URL")?;
    let mut stream = TcpStream::connect(host).await?;
    let mut request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for line in head {
        request.push_str(line);
        request.push_str("\r\n");
    }
    if !head
        .iter()
        .any(|line| line.starts_with("Content-Length") || line.starts_with("Transfer-Encoding"))
    {
        request.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // A server that has seen enough may hang up on the rest.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no answer: {answer:?}"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    Ok(Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// The most memory that any process of a function has had.
fn peak(relay: &Relay, function: Function) -> Result<u64> {
    let mut peak = 0;
    for pid in relay.stack.pids_of(function)? {
        // One that has ended in the meantime has none.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap_or_default();
        let kilobytes: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or_default();
        peak = peak.max(kilobytes * 1024);
    }
    Ok(peak)
}

/// Holds the peaks of the functions to what they are given.
fn check_memory(relay: &Relay, functions: &[Function]) -> Result<()> {
    for function in functions {
        let peak = peak(relay, *function)?;
        assert!(
            peak > 0 && peak < FUNCTION_MEMORY,
            "{function:?} had {peak} bytes"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_proof_that_is_none_is_refused_and_what_is_refused_leaves_nothing_behind() -> Result<()> {
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
        let head: Vec<&str> = head
            .iter()
            .map(String::as_str)
            .chain(["Content-Type: application/json"])
            .collect();
        let answer = send(&url, &head, VECTOR.as_bytes()).await?;
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (401, &json!(401)),
            "{head:?}: {answer:?}"
        );
        assert!(
            answer.head.contains("application/problem+json") && answer.body["detail"].is_string(),
            "{answer:?}"
        );
    }

    // A request that HTTP does not allow may be refused by the gateway, or be read in the one way
    // that is safe.
    let chunked = format!("{:x}\r\n{VECTOR}\r\n0\r\n\r\n", VECTOR.len());
    for (head, body) in [
        (
            vec![
                secret.as_str(),
                "Transfer-Encoding: chunked",
                "Content-Length: 4",
            ],
            chunked.as_str(),
        ),
        (
            vec![secret.as_str(), "Content-Length: 4", "Content-Length: 5"],
            VECTOR,
        ),
        (
            vec!["X-Webhook-Secret : x", secret.as_str(), secret.as_str()],
            VECTOR,
        ),
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
        let head: Vec<&str> = head
            .iter()
            .map(String::as_str)
            .chain(["Content-Type: application/json"])
            .collect();
        let answer = send(&url, &head, VECTOR.as_bytes()).await?;
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (200, &json!("accepted")),
            "{head:?}: {answer:?}"
        );
    }
    // A query that cannot be parsed is refused; it is no failure of the function.
    for query in ["a=<b>", "a={\"b\"|c}^", "%ZZ&=&&"] {
        let answer = send(
            &format!("{url}?{query}"),
            &[&hub(&right), "Content-Type: application/json"],
            VECTOR.as_bytes(),
        )
        .await?;
        assert!([200, 400].contains(&answer.status), "{query}: {answer:?}");
    }
    check_memory(&relay, &[Function::Ingest])
}

/// Bodies, by what they are, with the status that they get; and what is not refused for its size is
/// kept.
fn bodies() -> Vec<(&'static str, Vec<u8>, u16)> {
    let deep = 500_000;
    let large = MIB - 64 * 1024;
    let keys = (0..40_000)
        .map(|number| format!("\"same\":{number}"))
        .collect::<Vec<_>>()
        .join(",");
    vec![
        (
            "nested",
            ("[".repeat(deep) + &"]".repeat(deep)).into_bytes(),
            200,
        ),
        ("nested and open", "[".repeat(2 * deep).into_bytes(), 400),
        (
            "digits",
            format!("[{}]", "7".repeat(large)).into_bytes(),
            200,
        ),
        (
            "a fraction",
            format!("[0.{}1e-{}]", "0".repeat(large / 2), "9".repeat(1000)).into_bytes(),
            200,
        ),
        (
            "exponents",
            b"{\"n\":[1e999999999999,-1E-999999999999,1e+308,5e-324]}".to_vec(),
            200,
        ),
        (
            "a long text",
            format!("{{\"a\":\"{}\"}}", "x".repeat(large)).into_bytes(),
            200,
        ),
        (
            "escapes",
            format!("{{\"a\":\"{}\"}}", "\\u0000".repeat(large / 6)).into_bytes(),
            200,
        ),
        ("one key", format!("{{{keys}}}").into_bytes(), 200),
        (
            "unicode",
            "{\"😀\u{202e}\":\"\u{fffe}\u{200b}é\"}".as_bytes().to_vec(),
            200,
        ),
        (
            "lone surrogates",
            br#"{"a":"\ud83d","\ude00":1}"#.to_vec(),
            200,
        ),
        ("NUL", b"{\"a\":\"\0\"}".to_vec(), 400),
        ("only NUL", vec![0; 1000], 400),
        ("no UTF-8", b"{\"a\":\"\xff\xfe\"}".to_vec(), 400),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), 400),
        (
            "two megabytes",
            format!("[\"{}\"]", "x".repeat(2 * MIB)).into_bytes(),
            413,
        ),
        ("bytes that grow", vec![0xff; large], 413),
    ]
}

#[tokio::test]
async fn hostile_bodies_are_kept_byte_for_byte_or_refused_in_words_and_fit_into_the_memory()
-> Result<()> {
    // Refused for good, so that all that was taken lies in one place, whole.
    let relay = Relay::start(
        Behaviour::Status {
            code: 404,
            retry_after: None,
        },
        &[],
    )
    .await?;
    let url = relay.stack.webhook_url()?;
    let mut kept = BTreeMap::<Vec<u8>, &str>::new();
    for (name, body, status) in bodies() {
        // Without a type of text API Gateway passes the bytes on as they are.
        let request = clients::http()
            .post(&url)
            .header("X-Webhook-Secret", WEBHOOK_SECRET);
        let answer = request
            .header("content-type", "application/octet-stream")
            .body(body.clone())
            .send()
            .await?;
        let code = answer.status().as_u16();
        let kind = answer
            .headers()
            .get("content-type")
            .map(|kind| kind.to_str().unwrap_or_default().to_owned());
        let answer: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        assert_eq!(code, status, "{name}: {answer}");
        if status != 200 {
            assert_eq!(kind.as_deref(), Some("application/problem+json"), "{name}");
            assert!(
                answer["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.len() > 20 && detail.len() < 1024),
                "{name}: {answer}"
            );
        }
        if status != 413 {
            kept.insert(body, name);
        }
    }
    // More than Lambda takes never reaches the function.
    let huge = clients::http()
        .post(&url)
        .header("X-Webhook-Secret", WEBHOOK_SECRET)
        .body(vec![b' '; 6 * MIB]);
    let huge = huge.send().await?.status().as_u16();
    assert!([413, 500, 502, 503].contains(&huge), "{huge}");

    // The same by hand, without a record.
    let stranger = |value: &str| {
        MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value)
            .build()
    };
    let by_hand = [
        ("not JSON, by hand", "<xml/>".to_owned(), vec![]),
        (
            "nested, by hand",
            "[".repeat(100_000) + &"]".repeat(100_000),
            vec![],
        ),
        (
            "a wrong id",
            "{\"by\":\"hand\"}".to_owned(),
            vec![("event_id", "no such id!".to_owned())],
        ),
        (
            "headers of lines",
            "[1]".to_owned(),
            vec![
                ("event_id", "odd-headers".to_owned()),
                (
                    "headers",
                    json!({ "x-genesys-a": "b\r\nx: y", "": "" }).to_string(),
                ),
            ],
        ),
        (
            "a far time",
            "[2]".to_owned(),
            vec![
                ("event_id", "far".to_owned()),
                ("received_at", "9999-12-30T21:59:59.999Z".to_owned()),
            ],
        ),
        (
            "an early time",
            "[3]".to_owned(),
            vec![
                ("event_id", "early".to_owned()),
                ("received_at", "-009999-01-02T01:59:59Z".to_owned()),
            ],
        ),
        (
            "base64 that is none",
            "====".to_owned(),
            vec![
                ("event_id", "base64".to_owned()),
                ("encoding", "base64".to_owned()),
            ],
        ),
    ];
    for (name, body, attributes) in by_hand {
        let mut request = relay
            .stack
            .sqs()
            .send_message()
            .queue_url(relay.stack.output("QueueUrl")?)
            .message_body(&body);
        for (name, value) in attributes {
            request = request.message_attributes(name, stranger(&value)?);
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
        let name = kept
            .remove(&bytes)
            .with_context(|| format!("{:.100}", String::from_utf8_lossy(&bytes)))?;
        let reason: Value =
            serde_json::from_str(text("reason").with_context(|| format!("{name} has no reason"))?)?;
        assert!(
            ["permanent", "malformed"].contains(&reason["reason"].as_str().unwrap_or_default()),
            "{name}: {reason}"
        );
    }
    ensure!(
        kept.is_empty(),
        "lost: {:?}",
        kept.into_values().collect::<Vec<_>>()
    );

    let long = "n".repeat(MIB);
    for (request, word) in [
        (
            json!({ "action": "list", "since": "-009999-01-02T01:59:59Z", "limit": 1, "next": "////" }),
            "next",
        ),
        (json!({ "action": "list", &long: 1 }), "nnnn"),
        (json!({ "action": &long }), "action"),
        (json!({ "action": "show", "eventId": "a\u{0}" }), "eventId"),
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
