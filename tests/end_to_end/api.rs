//! The HTTP API as an operator calls it, and as `openapi.yaml` describes it.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local::genesys;
use local::python::{self, Packages};
use local::stack::{Function, LogLine};
use local::target::Behaviour;
use local::wait;
use local::workspace::Workspace;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Relay, webhook};

const SCHEMATHESIS: Packages = Packages {
    name: "schemathesis",
    requirements: include_str!("schemathesis/requirements.txt"),
};

/// It ends by itself after about a minute.
const SCHEMATHESIS_TAKES: Duration = Duration::from_mins(5);

const REFUSED: Behaviour = Behaviour::Status {
    code: 404,
    retry_after: None,
};

/// A relay with so many dead letters, and their ids, oldest first.
async fn relay_with_dead_letters(count: u32) -> Result<(Relay, Vec<String>)> {
    let relay = Relay::start(REFUSED, &[]).await?;
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(relay.accept(&webhook(&format!("order {number}"))).await?);
    }
    relay.until_dead(count).await?;
    Ok((relay, ids))
}

#[tokio::test]
async fn who_does_not_sign_learns_nothing_and_changes_nothing() -> Result<()> {
    let (relay, ids) = relay_with_dead_letters(1).await?;
    let event = format!("/dlq/{}", ids[0]);
    for (method, path) in [
        ("GET", "/dlq"),
        ("GET", &event),
        ("POST", &format!("{event}/retry")),
    ] {
        let answer = relay.stack.call_api_unsigned(method, path).await?;
        assert_eq!(
            (answer.status, answer.body),
            (403, json!({ "message": "Forbidden" })),
            "{method} {path}"
        );
    }
    relay.until_dead(1).await
}

#[tokio::test]
async fn an_operator_lists_shows_and_retries() -> Result<()> {
    let (relay, ids) = relay_with_dead_letters(5).await?;
    let before = relay.stack.queue_counts().await?;

    let (mut listed, mut query) = (
        Vec::new(),
        "reason=permanent&statusCode=404&limit=2".to_owned(),
    );
    for items in [2, 2, 1] {
        let page = relay
            .stack
            .call_api("GET", &format!("/dlq?{query}"))
            .await?;
        assert_eq!(
            (page.status, &page.body["count"]),
            (200, &json!(items)),
            "{page:?}"
        );
        assert_eq!(
            (page.header("content-type"), page.header("cache-control")),
            ("application/json", "no-store")
        );
        let of_page = page.body["items"].as_array().context("items")?;
        listed.extend(
            of_page
                .iter()
                .filter_map(|item| item["eventId"].as_str())
                .map(str::to_owned),
        );
        query = format!(
            "limit=2&next={}",
            page.body["next"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(
        (listed, query.as_str()),
        (ids.clone(), "limit=2&next="),
        "oldest first, and then no more"
    );
    assert_eq!(
        relay.stack.queue_counts().await?,
        before,
        "nothing is received for a list"
    );

    let event = format!("/dlq/{}", ids[3]);
    let shown = relay.stack.call_api("GET", &event).await?;
    assert_eq!(
        (shown.status, &shown.body["state"]),
        (200, &json!("DEAD")),
        "{shown:?}"
    );
    assert_eq!(
        shown.body["body"].as_str().map(str::as_bytes),
        Some(&webhook("order 3").body[..])
    );

    relay.target.behave(Behaviour::Fine);
    let retry = format!("{event}/retry");
    let retried = relay.stack.call_api("POST", &retry).await?;
    assert_eq!(
        (retried.status, retried.body),
        (200, json!({ "status": "retried", "eventId": ids[3] }))
    );
    relay.until_dead(4).await?;
    assert_eq!(
        relay.deliveries().into_iter().collect::<Vec<_>>(),
        [(ids[3].clone(), 1)]
    );

    let shown = relay.stack.call_api("GET", &event).await?;
    assert_eq!(
        (&shown.body["state"], &shown.body["replays"]),
        (&json!("DELIVERED"), &json!(1)),
        "{shown:?}"
    );
    let by = shown.body["history"][0]["by"].as_str();
    assert!(
        by.is_some_and(|by| by.starts_with("arn:aws:iam:")),
        "{by:?}"
    );
    let again = relay.stack.call_api("POST", &retry).await?;
    assert_eq!(
        (again.status, again.header("content-type")),
        (409, "application/problem+json"),
        "{again:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &[]).await?;
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
        ("GET", "/dlq/unknown-event", 404, json!(null)),
        ("POST", "/dlq/unknown-event/retry", 404, json!(null)),
    ] {
        let answer = relay.stack.call_api(method, path).await?;
        assert_eq!(
            (answer.status, &answer.body["parameter"]),
            (status, &parameter),
            "{method} {path}: {answer:?}"
        );
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{method} {path}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_that_takes_too_long_goes_on_in_the_background() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    // Each of these has to be recorded first, which makes a sweep slow, and three seconds are not
    // enough for all.
    let strangers: Vec<_> = (0..2000)
        .map(|number| json!({ "stranger": number }).to_string())
        .collect();
    relay.send_to_dead_letters(&strangers).await?;
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

    wait::until(
        "there is an invocation that no call has made, and a run is in the audit log",
        || async {
            let lines = relay.stack.log_lines(Function::Replay, 0).await?;
            let is_start = |line: &LogLine| {
                line.content
                    .as_str()
                    .is_some_and(|text| text.starts_with("START RequestId"))
            };
            let is_run = |line: &LogLine| {
                let by = line.content["by"].as_str().unwrap_or_default();
                line.content["audit"] == "replay"
                    && !line.content["selection"].is_null()
                    && by.starts_with("arn:aws:iam:")
            };
            let invocations = lines.iter().filter(|line| is_start(line)).count();
            Ok(
                (invocations > calls.load(Ordering::Relaxed) && lines.iter().any(is_run))
                    .then_some(()),
            )
        },
    )
    .await?;
    // The run in the background may have had three seconds as well. A retry that is repeated does
    // no harm.
    wait::until("the event is delivered", || async {
        let answer = relay.stack.call_api("POST", &retry).await?;
        ensure!([200, 202, 409, 503].contains(&answer.status), "{answer:?}");
        Ok(relay.deliveries().remove(&id))
    })
    .await?;
    assert_eq!(relay.deliveries().remove(&id), Some(1));
    Ok(())
}

#[tokio::test]
async fn the_api_is_as_its_document_says() -> Result<()> {
    let (relay, _) = relay_with_dead_letters(3).await?;
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
        told.contains("4 selected / 4 total") && told.contains("No issues found"),
        "{told}"
    );
    Ok(())
}
