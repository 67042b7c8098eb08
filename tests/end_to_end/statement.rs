//! The statement of a day, from the messages of Genesys Cloud to a chain that anyone can verify.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use local::genesys::Webhook;
use local::stack::Function;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::archive::object;
use crate::recovery::message;
use crate::relay::{Relay, assert_has};

const SENT: usize = 24;

/// Asks for a day until its statement is written.
pub(crate) async fn state(relay: &Relay, day: &str) -> Result<Value> {
    loop {
        let request = json!({ "action": "statement", "day": day, "by": "an auditor" });
        let answer = relay.recover(request).await?;
        match answer["outcome"].as_str() {
            Some("written") => return Ok(answer),
            Some("continues" | "busy") => {}
            _ => anyhow::bail!("{answer}"),
        }
    }
}

/// Yesterday (UTC), and its noon.
pub(crate) fn yesterday() -> Result<(String, Timestamp)> {
    let day = Timestamp::now()
        .to_zoned(TimeZone::UTC)
        .date()
        .yesterday()?;
    let noon = day.to_zoned(TimeZone::UTC)?.timestamp() + SignedDuration::from_hours(12);
    Ok((day.to_string(), noon))
}

/// The statements of a day, newest first, as the look function gives them.
pub(crate) async fn look(relay: &Relay, day: Option<&str>) -> Result<Vec<Value>> {
    let request = json!({ "action": "statements", "day": day });
    let answer = relay.stack.invoke(Function::Look, &request).await??;
    ensure!(answer["problem"].is_null(), "{answer}");
    Ok(answer["statements"]
        .as_array()
        .context("statements")?
        .clone())
}

#[tokio::test]
async fn a_lost_message_is_named_fetched_and_then_accounted_for() -> Result<()> {
    let relay = Relay::recovering("open-messaging").await?;
    let (day, noon) = yesterday()?;
    let mut webhooks = Vec::new();
    for number in 0..SENT {
        let time = noon + SignedDuration::from_secs(i64::try_from(number)?);
        // A lost one goes by a status that the recovery does not look for.
        let conversation = format!("conversation-{}", number / 10);
        relay
            .genesys
            .add_message(&conversation, "sent", message(number, time));
        if number % 10 != 3 {
            webhooks.push(Webhook::signed(message(number, time).to_string()));
        }
    }
    let arrived = webhooks.len();
    relay.accept_all(webhooks).await?;
    relay.until_each_is_delivered_once(arrived).await?;

    let first = state(&relay, &day).await?;
    assert_has(
        &first,
        json!({ "sequence": 1, "sent": SENT, "accounted": arrived, "unaccounted": SENT - arrived }),
    );
    let found = look(&relay, Some(&day)).await?;
    let statement = &found[0]["statement"];
    let genesys = &statement["genesys"];
    // One page, and two for each of three conversations.
    assert_has(
        genesys,
        json!({ "conversations": 3, "calls": 7, "unaccountedByStatus": { "sent": SENT - arrived } }),
    );
    ensure!(
        statement["aws"]["hours"].is_null(),
        "no CloudWatch of the local AWS counts: {statement}"
    );
    for named in genesys["unaccounted"].as_array().context("a list")? {
        let report = relay.recover(named["request"].clone()).await?;
        assert_has(&report, json!({ "fetched": 1, "new": 1, "complete": true }));
    }
    relay.until_each_is_delivered_once(SENT).await?;

    let second = state(&relay, &day).await?;
    assert_has(
        &second,
        json!({ "sequence": 2, "accounted": SENT, "unaccounted": 0, "balances": true }),
    );
    ensure!(
        second["key"] == format!("statements/{day}.2.json"),
        "{second}"
    );
    let chain = look(&relay, None).await?;
    ensure!(
        chain.len() == 2 && chain[0]["sha256"] == second["sha256"],
        "{chain:?}"
    );
    // The webhooks came today, and the fetched messages have the time of Genesys Cloud. A worker that
    // is faster than the recovery begins the record itself.
    let total = &chain[0]["statement"]["relay"]["total"];
    let recovered = total["recovered"].as_u64().context("a count")?;
    ensure!(
        total["accepted"] == SENT - arrived && usize::try_from(recovered)? <= SENT - arrived,
        "{total}"
    );
    verify(&relay, &chain).await
}

/// With the standard library of Python, from a copy of the bucket.
async fn verify(relay: &Relay, chain: &[Value]) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("statements-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&folder)?;
    for shown in chain {
        let key = shown["key"].as_str().context("a key")?;
        let name = Path::new(key).file_name().context("a name")?;
        std::fs::write(folder.join(name), object(relay, key).await?)?;
    }
    let head = chain[0]["sha256"].as_str().context("a hash")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify_statements.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(&folder)
        .args(["--head", head])
        .output()?;
    std::fs::remove_dir_all(&folder)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
