//! Load times of pages with ten thousand dead letters, on the local AWS. For
//! docs/design/figures.md: `cargo test -p console --test ten_thousand -- --ignored --nocapture`

use std::env;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use console::aws;
use console::server::Server;
use local::env_file;
use local::stack::{Function, Stack, StackOptions};
use local::target::{Behaviour, Target};
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::json;

const COUNT: usize = 10_000;
const LOADS: usize = 50;

#[tokio::test]
#[ignore = "measures load times for minutes"]
async fn pages_load_while_there_are_ten_thousand_dead_letters() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    send_to_dead_letters(&stack).await?;
    let variables = env::temp_dir().join(format!(
        "genesys-relay-console-figures-{}",
        std::process::id()
    ));
    env_file::write(&variables, &stack).await?;
    let functions = aws::Stack::local(&variables).await;
    fs::remove_file(&variables)?;
    let server = Server::bind(0).await?;
    let (url, link) = (format!("http://{}", server.address()), (server.links())());
    tokio::spawn(server.serve(
        Arc::new(functions?),
        "the local AWS".to_owned(),
        "a test".to_owned(),
    ));
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let entered = client.get(link).send().await?;
    let cookie = entered
        .headers()
        .get(SET_COOKIE)
        .context("a cookie")?
        .to_str()?
        .split(';')
        .next()
        .unwrap_or_default();

    for path in ["/", "/dead-letters"] {
        let mut times = Vec::new();
        for _ in 0..LOADS {
            let began = Instant::now();
            let answer = client
                .get(format!("{url}{path}"))
                .header(COOKIE, cookie)
                .send()
                .await?
                .error_for_status()?;
            let bytes = answer.bytes().await?.len();
            times.push((began.elapsed(), bytes));
        }
        times.sort_unstable();
        let [fastest, median, slowest] =
            [0, LOADS / 2, LOADS - 1].map(|place| times[place].0.as_secs_f64() * 1000.0);
        eprintln!(
            "{path}: median {median:.0} ms, {fastest:.0} to {slowest:.0} ms, {} bytes",
            times[0].1
        );
    }
    Ok(())
}

/// Sends events to the dead-letter queue and lets the relay record them.
async fn send_to_dead_letters(stack: &Stack) -> Result<()> {
    let body = |number: usize| json!({ "webhookId": format!("orders-{}", number % 100), "payload": { "number": number }, "timestamp": "2026-01-15T12:00:00Z" });
    for tens in (0..COUNT).collect::<Vec<_>>().chunks(10) {
        let entry = |number: &usize| {
            SendMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .message_body(body(*number).to_string())
                .build()
        };
        let entries = tens.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let request = stack
            .sqs()
            .send_message_batch()
            .queue_url(stack.output("DeadLetterQueueUrl")?);
        ensure!(
            request
                .set_entries(Some(entries))
                .send()
                .await?
                .failed()
                .is_empty(),
            "SQS did not accept all messages"
        );
    }
    let mut recorded = 0;
    while recorded < COUNT as u64 {
        let report = stack
            .invoke(Function::Replay, &json!({ "action": "reconcile" }))
            .await??;
        recorded += report["recorded"].as_u64().unwrap_or_default();
        eprintln!("{recorded} recorded");
        if report["recorded"] == 0 && report["complete"] == true {
            break;
        }
    }
    Ok(())
}
