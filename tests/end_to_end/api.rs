//! The HTTP API as an operator calls it, and as `openapi.yaml` describes it.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use local::genesys::{self, Webhook};
use local::python::{self, Packages};
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use local::workspace::Workspace;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::relay::{REFUSED, Relay, assert_has, webhook};

const SCHEMATHESIS: Packages = Packages {
    name: "schemathesis",
    requirements: include_str!("schemathesis/requirements.txt"),
};

/// The conversation of the document's examples, so that some requests find events.
const EXAMPLE: &str = "0b6c2e34-5a1d-4c7b-8f29-6d3e9b7a1c02";

/// It ends by itself after about a minute.
const SCHEMATHESIS_TAKES: Duration = Duration::from_mins(5);

#[tokio::test]
async fn an_operator_lists_shows_and_retries() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(relay.accept(&webhook(&format!("order {number}"))).await?);
    }
    relay.until_dead(5).await?;
    let event = format!("/dlq/{}", ids[3]);
    let retry = format!("{event}/retry");
    for (method, path) in [("GET", "/dlq"), ("GET", &event), ("POST", &retry)] {
        let answer = relay.stack.call_api_unsigned(method, path).await?;
        let forbidden = json!({ "message": "Forbidden" });
        assert_eq!((answer.status, answer.body), (403, forbidden), "{path}");
    }
    problems_of_a_request_are_named(&relay).await?;
    let before = relay.stack.queue_counts().await?;
    assert_eq!(before.dead_letters.visible, 5);

    let mut listed = Vec::new();
    let mut query = "reason=permanent&statusCode=404&limit=2".to_owned();
    for items in [2, 2, 1] {
        let path = format!("/dlq?{query}");
        let page = relay.stack.call_api("GET", &path).await?;
        assert_eq!(page.status, 200, "{page:?}");
        assert_has(&page.body, json!({ "count": items }));
        let headers = ["content-type", "cache-control"].map(|name| page.header(name));
        assert_eq!(headers, ["application/json", "no-store"]);
        let of_page = page.body["items"].as_array().context("items")?;
        listed.extend(of_page.iter().map(|item| item["eventId"].clone()));
        query = format!(
            "limit=2&next={}",
            page.body["next"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(json!(listed), json!(ids), "oldest first");
    assert_eq!(query, "limit=2&next=", "no more");
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(counts, before, "nothing is received for a list");

    let shown = relay.stack.call_api("GET", &event).await?;
    let body = String::from_utf8(webhook("order 3").body)?;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_has(&shown.body, json!({ "state": "DEAD", "body": body }));

    relay.target.behave(Behaviour::Fine);
    let retried = relay.stack.call_api("POST", &retry).await?;
    let expected = json!({ "status": "retried", "eventId": ids[3] });
    assert_eq!((retried.status, retried.body), (200, expected));
    relay.until_dead(4).await?;
    relay.assert_delivered_once(&ids[3..4]);
    let shown = relay.stack.call_api("GET", &event).await?;
    assert_has(&shown.body, json!({ "state": "DELIVERED", "replays": 1 }));
    let by = shown.body["history"][0]["by"].as_str();
    assert!(
        by.is_some_and(|by| by.starts_with("arn:aws:iam:")),
        "{by:?}"
    );
    let again = relay.stack.call_api("POST", &retry).await?;
    assert_eq!(again.status, 409, "{again:?}");
    assert_eq!(again.header("content-type"), "application/problem+json");
    Ok(())
}

async fn problems_of_a_request_are_named(relay: &Relay) -> Result<()> {
    let retry = "/dlq/unknown-event/retry";
    for (method, path, status, parameter) in [
        ("GET", "/dlq?limit=5000", 400, json!("limit")),
        ("GET", "/dlq?reason=boredom", 400, json!("reason")),
        (
            "GET",
            "/dlq?source=webhook&source=generic",
            400,
            json!("source"),
        ),
        ("GET", "/dlq?webhookId=%FF", 400, json!("webhookId")),
        ("GET", "/dlq?next=bm8gdG9rZW4", 400, json!("next")),
        ("GET", "/dlq/no%20id", 400, json!("eventId")),
        (
            "POST",
            "/dlq/an-event/retry?force=true",
            400,
            json!("force"),
        ),
        ("GET", "/dlq/unknown-event", 404, Value::Null),
        ("POST", retry, 404, Value::Null),
    ] {
        let answer = relay.stack.call_api(method, path).await?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(
            answer.body["parameter"], parameter,
            "{method} {path}: {answer:?}"
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_that_takes_too_long_goes_on_in_the_background() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    // Each of these must be recorded first. Three seconds are too few for all.
    let strangers = (0..2000).map(|number| json!({ "stranger": number }).to_string());
    relay.send_to_dead_letters(strangers).await?;
    let id = relay.accept(&webhook("order")).await?;
    relay.until_dead(2001).await?;
    relay.target.behave(Behaviour::Fine);

    relay.set_timeout(Function::Replay, 3).await?;
    let retry = format!("/dlq/{id}/retry");
    // On a busy machine three seconds can be too few to begin with; the function is then ended, and
    // answers later.
    let calls = AtomicUsize::new(0);
    let answer = wait::until("the retry goes on in the background", || async {
        calls.fetch_add(1, Ordering::Relaxed);
        let answer = relay.stack.call_api("POST", &retry).await?;
        ensure!(answer.status == 202 || answer.status >= 500, "{answer:?}");
        Ok(Some(answer).filter(|answer| answer.status == 202))
    })
    .await?;
    assert_eq!(answer.body, json!({ "status": "accepted", "eventId": id }));
    relay.set_timeout(Function::Replay, 900).await?;

    let what = "an invocation that no call has made, and a run in the audit log";
    wait::until(what, || async {
        let lines = relay.log(Function::Replay).await?;
        let is_start = |line: &&Value| {
            let text = line.as_str();
            text.is_some_and(|text| text.starts_with("START RequestId"))
        };
        let is_run = |line: &Value| {
            let by = line["by"].as_str().unwrap_or_default();
            line["audit"] == "replay"
                && !line["selection"].is_null()
                && by.starts_with("arn:aws:iam:")
        };
        let has_another = lines.iter().filter(is_start).count() > calls.load(Ordering::Relaxed);
        Ok((has_another && lines.iter().any(is_run)).then_some(()))
    })
    .await?;
    // The run in the background may have had three seconds as well. A retry that is repeated does
    // no harm.
    wait::until("the event is delivered", || async {
        let answer = relay.stack.call_api("POST", &retry).await?;
        ensure!([200, 202, 409, 503].contains(&answer.status), "{answer:?}");
        Ok(relay.deliveries().remove(&id))
    })
    .await?;
    relay.assert_delivered_once(&[id]);
    Ok(())
}

#[tokio::test]
async fn the_api_is_as_its_document_says() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    for name in ["one", "two", "three"] {
        let mut body: Value = serde_json::from_slice(&webhook(name).body)?;
        body["payload"]["conversationId"] = EXAMPLE.into();
        let webhook = Webhook::with_shared_secret(body.to_string());
        relay.accept(&webhook).await?;
    }
    relay.until_all_dead(3).await?;
    let page = relay.stack.call_api("GET", "/dlq?limit=1").await?;
    let token = page.body["next"].as_str().context("a token")?;
    let dead_letters = relay.stack.dead_letter_api_url()?;
    let api = dead_letters
        .strip_suffix("/dlq")
        .context("the API of dead letters is elsewhere")?;

    let workspace = Workspace::locate().await?;
    let interpreter = python::environment(&workspace.local(), SCHEMATHESIS).await?;
    let settings = workspace.root.join("tests/end_to_end/schemathesis");
    let output = Command::new(interpreter)
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(settings.join("schemathesis.toml"))
        .args(["run", "--no-color", "--url", api])
        .arg(workspace.root.join("openapi.yaml"))
        .env("SCHEMATHESIS_HOOKS", settings.join("hooks.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "*")
        .env("WEBHOOK_SECRET", genesys::WEBHOOK_SECRET)
        .env("TOKEN_OF_A_LIST", token)
        .envs(relay.stack.keys().environment())
        .current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(SCHEMATHESIS_TAKES, output)
        .await
        .context("schemathesis does not end")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        told.contains("5 selected / 5 total") && told.contains("No issues found"),
        "{told}"
    );
    Ok(())
}
