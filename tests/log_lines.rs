//! Log lines under forged input: one JSON object on each line, whatever it holds,
//! and no secret in any of them. At the level that shows most.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use local::genesys::{OPEN_MESSAGING_SECRET, WEBHOOK_SECRET, signature};
use local::genesys_cloud::{CLIENT_ID, CLIENT_SECRET, GenesysCloud};
use local::runtime_api::{FunctionProcess, InvocationAnswer, Launch};
use local::server::Server;
use local::stand_in::StandIn;
use local::workspace::Workspace;
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;
use uuid::Uuid;

/// Would begin a line of its own, and colour it, where it is not escaped.
const FORGED: &str = "\n{\"level\":\"INFO\",\"message\":\"forged\"}\r\n\u{1b}[31m\u{7f}forged";

const SIGNING_KEY: &str = "a signing key of 32 bytes, planted";
const AUTHORIZATION: &str = "Bearer planted-authorization-of-the-target";
const OF_THE_SENDER: &str = "Bearer planted-authorization-of-the-sender";
const OF_THE_LOG: &str = "Bearer planted-authorization-of-the-log";
const IN_THE_URL: &str = "planted-key-of-the-url";
const WRONG: &str = "planted-wrong-secret-of-a-sender";

/// None of these may be in a log or in an answer.
fn secrets() -> Vec<String> {
    let planted = [
        OPEN_MESSAGING_SECRET,
        WEBHOOK_SECRET,
        CLIENT_SECRET,
        SIGNING_KEY,
        "Bearer",
        "planted",
        IN_THE_URL,
        WRONG,
    ];
    let encoded = [
        BASE64_STANDARD.encode(SIGNING_KEY),
        BASE64_STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")),
    ];
    planted
        .into_iter()
        .map(str::to_owned)
        .chain(encoded)
        .collect()
}

fn stack_secret() -> Value {
    json!({
        "openMessagingSecrets": [OPEN_MESSAGING_SECRET],
        "webhookSecrets": [WEBHOOK_SECRET],
        "targetAuthorization": AUTHORIZATION,
        "targetHeaders": { "x-api-key": "planted-key-of-the-api" },
        "targetSigningSecrets": [format!("whsec_{}", BASE64_STANDARD.encode(SIGNING_KEY))],
        "genesysClientId": CLIENT_ID,
        "genesysClientSecret": CLIENT_SECRET,
    })
}

/// A function with its log in a file, which goes with it.
struct Logged {
    function: FunctionProcess,
    log: PathBuf,
}

impl Logged {
    async fn start(name: &str, stand_in: &StandIn, variables: &[(&str, String)]) -> Result<Self> {
        let binaries = local::functions::binaries(&Workspace::locate().await?).await?;
        let log = std::env::temp_dir().join(format!("{name}-{}.log", Uuid::new_v4()));
        let common = [
            ("QUEUE_URL", stand_in.queue_url("events")),
            ("DEAD_LETTER_QUEUE_URL", stand_in.queue_url("dead-letters")),
            ("EVENTS_TABLE_NAME", "events".to_owned()),
            ("SECRET_ARN", "arn:of:the:secret".to_owned()),
            ("SECRETS_CACHE_SECONDS", "300".to_owned()),
            ("METRICS_NAMESPACE", "GenesysRelay/test".to_owned()),
            ("LOG_LEVEL", "trace".to_owned()),
            ("LOG_SAMPLE_PERCENT", "100".to_owned()),
        ];
        let variables = common
            .iter()
            .chain(variables)
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let launch = Launch {
            name: name.to_owned(),
            arguments: Vec::new(),
            binary: binaries
                .get(name)
                .with_context(|| format!("there is no function {name}"))?
                .clone(),
            environment: variables
                .chain(stand_in.environment())
                .collect::<BTreeMap<_, _>>(),
            time_limit: Duration::from_mins(1),
            log: Some(log.clone()),
        };
        Ok(Self {
            function: FunctionProcess::start(launch).await?,
            log,
        })
    }

    /// Invokes it, and sees that its answer tells no secret.
    async fn invoke(&mut self, payload: &Value) -> Result<InvocationAnswer> {
        let answer = self.function.invoke(payload.to_string()).await?;
        let (Ok(text) | Err(text)) = &answer.outcome;
        let text = String::from_utf8_lossy(text);
        // What a sender has sent is its own.
        for secret in secrets() {
            ensure!(!text.contains(&secret), "{secret} in the answer {text}");
        }
        Ok(answer)
    }

    /// Its lines, each of which has to be an object of its own, and none the forger's.
    fn lines(&self) -> Result<Vec<Value>> {
        let log = std::fs::read_to_string(&self.log)?;
        for secret in secrets() {
            ensure!(!log.contains(&secret), "{secret} in the log:\n{log}");
        }
        let lines = log.lines().map(|line| {
            ensure!(
                !line.chars().any(|c| c < ' '),
                "a control character: {line:?}"
            );
            let line: Value =
                serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let is_metrics = line["_aws"].is_object();
            ensure!(
                is_metrics || (line["timestamp"].is_string() && line["level"].is_string()),
                "not ours: {line}"
            );
            ensure!(line["message"] != "forged", "{line}");
            Ok(line)
        });
        lines.collect()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.log));
    }
}

/// A request as API Gateway hands it over, with the credentials that a sender may have added.
fn request(headers: &Value, body: &str) -> Value {
    let mut all = json!({ "content-type": "application/json", "authorization": OF_THE_SENDER, "cookie": "planted=1" });
    for (name, value) in headers.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    json!({
        "version": "2.0", "routeKey": "POST /webhook/genesys", "rawPath": "/webhook/genesys", "rawQueryString": "",
        "headers": all,
        "requestContext": {
            "http": { "method": "POST", "path": "/webhook/genesys", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.10" },
            "stage": "$default", "timeEpoch": 0,
        },
        "body": body, "isBase64Encoded": false,
    })
}

/// With this variable, the test of the panic is the process that panics.
const PANICS: &str = "GENESYS_RELAY_TEST_PANICS";

#[test]
fn a_panic_is_one_line_whatever_it_says() -> Result<()> {
    if std::env::var_os(PANICS).is_some() {
        genesys_relay::runtime::logging::init(LevelFilter::TRACE);
        // Once in a function, as the runtime catches it, and once in a thread of its own.
        let caught = std::panic::catch_unwind(|| panic!("of a received text: {FORGED}"));
        let joined = std::thread::spawn(|| std::panic::panic_any(FORGED)).join();
        // Whatever the harness would say of this test is not the relay's.
        std::process::exit(i32::from(caught.is_ok() || joined.is_ok()));
    }
    let name = "a_panic_is_one_line_whatever_it_says";
    let process = Command::new(std::env::current_exe()?)
        .args([name, "--exact", "--nocapture", "--quiet"])
        .env(PANICS, "1")
        .env_remove("RUST_BACKTRACE")
        .output()?;
    let (out, errors) = (
        String::from_utf8(process.stdout)?,
        String::from_utf8(process.stderr)?,
    );
    ensure!(
        process.status.success(),
        "{}: {out}{errors}",
        process.status
    );
    assert_eq!(errors, "", "a panic as plain text");
    let lines = out
        .lines()
        .filter(|line| !line.is_empty() && *line != "running 1 test");
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).context(line.to_owned()))
        .collect::<Result<_>>()?;
    assert_eq!(lines.len(), 2, "each is logged once: {out}");
    for line in lines {
        assert_eq!(
            (&line["level"], &line["message"]),
            (&json!("ERROR"), &json!("panicked")),
            "{line}"
        );
        assert!(
            line["error"]
                .as_str()
                .is_some_and(|error| error.ends_with(FORGED)),
            "{line}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn ingest_lets_no_sender_forge_a_line_and_tells_no_secret() -> Result<()> {
    let stand_in = StandIn::start(&stack_secret()).await?;
    let mut ingest = Logged::start("ingest", &stand_in, &[]).await?;
    let event =
        json!({ "webhookId": FORGED, "webhookName": FORGED, "payload": FORGED, "timestamp": FORGED }).to_string();
    let shared = json!({ "x-webhook-secret": WEBHOOK_SECRET });
    let signed =
        json!({ "x-hub-signature-256": signature(OPEN_MESSAGING_SECRET, event.as_bytes()) });
    let odd = json!({ "x-webhook-secret": WEBHOOK_SECRET, "x-genesys-webhook-id": "\"}\t forged {\"",
        "idempotency-key": "\"forged\"", "content-type": "\"forged\"" });
    for (headers, body, status) in [
        (&shared, event.as_str(), 200),
        (&signed, &event, 200),
        (&odd, &event, 200),
        (&shared, FORGED, 400),
        (&json!({ "x-webhook-secret": WRONG }), &event, 401),
        (
            &json!({ "x-hub-signature-256": signature(WRONG, event.as_bytes()) }),
            &event,
            401,
        ),
        (
            &json!({ "x-hub-signature-256": format!("sha256={WRONG}") }),
            &event,
            401,
        ),
    ] {
        let answer = ingest.invoke(&request(headers, body)).await?;
        let answer: Value = serde_json::from_slice(&answer.outcome.expect("an answer"))?;
        assert_eq!(answer["statusCode"], status, "{headers}: {answer}");
    }
    // No HTTP request has such a header, and no function panics at it.
    let broken = json!({ "x-webhook-secret": WEBHOOK_SECRET, "x-genesys-webhook-id": FORGED });
    ingest.invoke(&request(&broken, &event)).await?;
    let lines = ingest.lines()?;
    assert!(lines.len() >= 7, "{lines:?}");
    assert!(
        lines.iter().any(|line| line["webhook_id"]
            .as_str()
            .is_some_and(|id| id.contains("forged"))),
        "{lines:?}"
    );
    Ok(())
}

/// Each of a few would be a line of its own; of many, the line of an answer is what costs.
#[tokio::test]
async fn the_metrics_of_many_webhooks_share_a_line_and_none_waits_for_long() -> Result<()> {
    const WEBHOOKS: u64 = 120;
    /// Invocations after which metrics are written, however fast they come.
    const TOGETHER: u64 = 50;
    let stand_in = StandIn::start(&stack_secret()).await?;
    let mut ingest = Logged::start("ingest", &stand_in, &[]).await?;
    for number in 0..WEBHOOKS {
        let body = json!({ "number": number }).to_string();
        ingest
            .invoke(&request(
                &json!({ "x-webhook-secret": WEBHOOK_SECRET }),
                &body,
            ))
            .await?;
    }
    let lines = ingest.lines()?;
    let accepted: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["Accepted"].as_u64())
        .collect();
    // The last invocation's may be on their way.
    assert_eq!(
        accepted.first(),
        Some(&1),
        "the first is written at once: {accepted:?}"
    );
    assert!(
        accepted.iter().sum::<u64>() >= WEBHOOKS - TOGETHER,
        "{accepted:?}"
    );
    assert!(
        accepted.iter().all(|count| *count <= TOGETHER),
        "{accepted:?}"
    );
    for line in lines.iter().filter(|line| line["Accepted"].is_u64()) {
        let times = line["EnqueueTime"].as_array().context("times")?;
        assert_eq!(
            Some(times.len() as u64),
            line["Accepted"].as_u64(),
            "{line}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_processor_lets_no_message_and_no_target_forge_a_line_and_tells_no_secret() -> Result<()>
{
    let stand_in = StandIn::start(&stack_secret()).await?;
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let visits = Arc::clone(&elsewhere);
    let target = Server::start(move |request: Request<_>| {
        // A follower of the redirect comes without the key.
        if request.uri().query().is_none() {
            visits.fetch_add(1, Ordering::Relaxed);
        }
        let authorized = request
            .headers()
            .get("authorization")
            .is_some_and(|value| value == AUTHORIZATION);
        let answer = Response::builder()
            .status(if authorized { 302 } else { 500 })
            .header("location", "/elsewhere");
        std::future::ready(answer.body(Full::<Bytes>::from(FORGED)))
    })
    .await?;
    let variables = [
        (
            "TARGET_URL",
            format!("{}/events?key={IN_THE_URL}", target.url()),
        ),
        ("TARGET_TIMEOUT_SECONDS", "10".to_owned()),
        ("BACKOFF_BASE_SECONDS", "2".to_owned()),
        ("BACKOFF_CAP_SECONDS", "900".to_owned()),
        ("MAX_RECEIVE_COUNT", "10".to_owned()),
    ];
    let mut processor = Logged::start("processor", &stand_in, &variables).await?;
    let text = |value: &str| json!({ "stringValue": value, "dataType": "String" });
    let record = |attributes: Value| {
        json!({
            "messageId": format!("message{FORGED}"), "receiptHandle": "r", "body": json!({ "text": FORGED }).to_string(),
            "attributes": { "ApproximateReceiveCount": "1", "SentTimestamp": "1768478400000" },
            "messageAttributes": attributes,
        })
    };
    for attributes in [
        json!({}),
        json!({ "event_id": text(FORGED) }),
        json!({ "source": text(FORGED) }),
        json!({ "received_at": text(FORGED) }),
        json!({ "encoding": text(FORGED) }),
        json!({ "headers": text(FORGED) }),
        json!({ "headers": text(&json!({ "x-genesys-a": FORGED, FORGED: "a", "authorization": OF_THE_LOG }).to_string()) }),
        json!({ "content_type": text(FORGED) }),
    ] {
        let answer = processor
            .invoke(&json!({ "Records": [record(attributes)] }))
            .await?;
        assert!(answer.outcome.is_ok(), "{answer:?}");
    }
    let lines = processor.lines()?;
    assert!(lines.len() >= 8, "{lines:?}");
    assert!(
        lines.iter().any(|line| line["status"] == 302),
        "the target had its credentials: {lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.to_string().contains("forged")),
        "it got as far as the log: {lines:?}"
    );
    assert_eq!(
        elsewhere.load(Ordering::Relaxed),
        0,
        "no redirect is followed"
    );
    Ok(())
}

#[tokio::test]
async fn the_recovery_lets_no_log_of_genesys_forge_a_line_and_tells_no_secret() -> Result<()> {
    let (stand_in, genesys) = (
        StandIn::start(&stack_secret()).await?,
        GenesysCloud::start().await?,
    );
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let visits = Arc::clone(&elsewhere);
    let never_called = Server::start(move |_| {
        visits.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Full::<
            Bytes,
        >::default(
        ))))
    })
    .await?;
    let time = Timestamp::now() - SignedDuration::from_mins(5);
    for (number, body) in [json!({ "text": FORGED }), json!(FORGED), json!(7)]
        .into_iter()
        .enumerate()
    {
        genesys.add_delivery(json!({
            "id": format!("{number}{FORGED}"), "webhookId": "w1", "status": "failed", "httpStatusCode": 503, "body": body,
            "headers": { "Authorization": OF_THE_LOG, "X-Genesys-A": FORGED },
            "webhookUrl": format!("{}/?key={IN_THE_URL}", never_called.url()), "timestamp": format!("{time:.3}"),
        }));
    }
    let variables = [
        ("ARCHIVE_BUCKET_NAME", "archive".to_owned()),
        ("CONVERSATION_INDEX", "on".to_owned()),
        ("RECOVERY_SOURCE", "webhook-deliveries".to_owned()),
        ("RECOVERY_IDS", "w1".to_owned()),
        ("RECOVERY_OVERLAP_MINUTES", "15".to_owned()),
        (
            "WEBHOOK_DELIVERIES_PATH",
            "/api/v2/webhooks/{webhookId}/deliveries".to_owned(),
        ),
        ("GENESYS_REGION", "us-east-1".to_owned()),
        ("GENESYS_API_URL", genesys.url()),
        ("GENESYS_LOGIN_URL", genesys.url()),
    ];
    let mut recovery = Logged::start("recovery", &stand_in, &variables).await?;
    let answer = recovery
        .invoke(&json!({ "by": FORGED, "why": "forged" }))
        .await?;
    assert!(
        answer.outcome.is_err(),
        "who acts is one line of text: {answer:?}"
    );
    let answer = recovery.invoke(&json!({ "by": "a test" })).await?;
    let report: Value = serde_json::from_slice(&answer.outcome.expect("a report"))?;
    assert_eq!(report["fetched"], 3, "{report}");
    assert_eq!(
        elsewhere.load(Ordering::Relaxed),
        0,
        "a URL that comes from data is not called"
    );
    let lines = recovery.lines()?;
    assert!(
        lines
            .iter()
            .any(|line| line["message"] == "finished recovery"),
        "{lines:?}"
    );
    Ok(())
}
