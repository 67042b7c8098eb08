//! The stand-in for Genesys Cloud, called and judged by the official Python SDK, and what the relay
//! itself sends there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use genesys_relay::adapters::delivery_log::open_messaging::{OpenMessaging, Place};
use genesys_relay::adapters::genesys::{Genesys, Https, Region};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::delivery_log::{DeliveryLog as _, Entry, Window};
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::testing::FakeSecretStore;
use jiff::SignedDuration;
use local::clients;
use local::genesys_cloud::{CLIENT_ID, CLIENT_SECRET, CallFault, Endpoint, GenesysCloud};
use local::python::{self, Packages};
use local::workspace::Workspace;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

const SDK: Packages = Packages {
    name: "the SDK of Genesys Cloud",
    requirements: include_str!("genesys_sdk/requirements.txt"),
};

/// It takes seconds, most of them to import the SDK.
const CHECK_TAKES: Duration = Duration::from_mins(5);

const FORBIDDEN: &str = "a-forbidden-conversation";

const INTEGRATION: &str = "an-integration";

/// The webhook in a file of `events/`, parsed.
fn webhook(name: &str) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("events/ingest-open-messaging-{name}.json"));
    let event: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    serde_json::from_str(event["body"].as_str().context("a body")?)
        .with_context(|| path.display().to_string())
}

/// Adds a conversation of each kind of message, and gives the status of each message.
fn add_samples(genesys: &GenesysCloud) -> Result<Map<String, Value>> {
    let mut statuses = Map::new();
    let samples = [
        ("text", "first", "failed"),
        ("attachment", "first", "sent"),
        ("structured", "second", "failed"),
        ("typing-event", "third", "delivery-failed"),
    ];
    for (name, conversation, status) in samples {
        let message = webhook(name)?;
        statuses.insert(
            message["id"].as_str().context("an id")?.to_owned(),
            status.into(),
        );
        genesys.add_message(conversation, status, message);
    }
    let mut receipt = webhook("receipt")?;
    receipt["id"] = webhook("text")?["id"].clone();
    genesys.add_message("first", "sent", receipt);
    let mut answer = webhook("text")?;
    (answer["id"], answer["direction"]) = ("an-answer".into(), "Inbound".into());
    genesys.add_message("first", "received", answer);
    statuses.insert("an-answer".to_owned(), "received".into());
    Ok(statuses)
}

async fn token(genesys: &GenesysCloud) -> Result<Value> {
    let login = clients::http().post(format!("{}/oauth/token", genesys.url()));
    let answer = login
        .basic_auth(CLIENT_ID, Some(CLIENT_SECRET))
        .body("grant_type=client_credentials")
        .send()
        .await?;
    let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
    Ok(answer["access_token"].clone())
}

/// Reads the samples as the recovery does, and gives the queries that it sent.
async fn queries_of_the_relay(genesys: &GenesysCloud) -> Result<Vec<Value>> {
    let secrets = json!({ "genesysClientId": CLIENT_ID, "genesysClientSecret": CLIENT_SECRET });
    let secrets = SecretCache::new(
        FakeSecretStore::holding(&secrets),
        Duration::from_mins(1),
        SystemClock,
    );
    let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1), 1)?;
    let api = Genesys::new(
        Https::new()?,
        &genesys.url(),
        &genesys.url(),
        secrets,
        schedule,
        SystemClock,
    );
    let integration = webhook("text")?["channel"]["id"]
        .as_str()
        .context("an integration")?
        .to_owned();
    let log = OpenMessaging {
        api,
        integration_ids: [integration].into(),
        statuses: ["failed".to_owned()].into(),
        look_back: SignedDuration::from_hours(1),
    };
    let window = Window {
        from: "2026-03-02T01:00:00Z".parse()?,
        to: "2026-03-03T00:00:00Z".parse()?,
    };
    let (mut place, mut failed) = (Some(Place::default()), 0);
    while let Some(next) = place {
        let part = log.read(window, next, Instant::now() + CHECK_TAKES).await?;
        failed += part
            .entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Failed(_)))
            .count();
        place = part.next;
    }
    ensure!(failed == 2, "{failed} failed messages were found");
    let queries = genesys
        .calls()
        .into_iter()
        .filter(|call| call.endpoint == Endpoint::Query);
    Ok(queries
        .map(|call| json!({ "model": "ConversationQuery", "body": call.body }))
        .collect())
}

/// Variables that lead the relay to the stand-in of Genesys Cloud.
fn regions() -> Map<String, Value> {
    let domain = |region: Region| {
        region
            .api_url()
            .trim_start_matches("https://api.")
            .to_owned()
    };
    Region::all()
        .map(|region| (region.to_string(), domain(region).into()))
        .collect()
}

/// Runs `check.py`, which says in its head what it takes.
async fn check(input: &Value) -> Result<()> {
    let workspace = Workspace::locate().await?;
    let interpreter = python::environment(&workspace.local(), SDK).await?;
    let mut child = Command::new(interpreter)
        .arg(workspace.root.join("tests/genesys_sdk/check.py"))
        // The SDK reads and watches a file of settings there.
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(input.to_string().as_bytes())
        .await?;
    let output = timeout(CHECK_TAKES, child.wait_with_output())
        .await
        .context("the check does not end")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    eprint!("{told}");
    Ok(())
}

#[tokio::test]
async fn the_official_sdk_takes_the_stand_in_for_genesys_cloud_and_knows_what_the_relay_sends()
-> Result<()> {
    let genesys = GenesysCloud::start().await?;
    let messages = add_samples(&genesys)?;
    let expired = token(&genesys).await?;
    genesys.expire_tokens();
    let queries = queries_of_the_relay(&genesys).await?;
    genesys.script(|call| {
        let forbidden = call.endpoint == Endpoint::Conversation(FORBIDDEN.to_owned());
        forbidden.then(|| CallFault::missing_permission("conversation:message:view"))
    });
    genesys.set_integration(INTEGRATION, "https://relay.example/webhook/genesys");
    check(&json!({
        "url": genesys.url(),
        "integration": INTEGRATION,
        "clientId": CLIENT_ID,
        "clientSecret": CLIENT_SECRET,
        "expiredToken": expired,
        "interval": "2026-03-02T00:00:00.000Z/2026-03-03T00:00:00.000Z",
        "messages": messages,
        "forbidden": FORBIDDEN,
        "regions": regions(),
        "requests": queries,
    }))
    .await
}
