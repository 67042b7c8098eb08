//! The whole relay: the repository's template on a local AWS, the functions as real binaries, a target that misbehaves.
//!
//! Each test starts a stack of its own, so that they run side by side.

mod acknowledgement;
mod delivery;
mod replay;
mod watch;

use anyhow::{Context, Result};
use local::genesys::Webhook;
use local::stack::{Stack, StackOptions};
use local::target::{Behaviour, Target};
use serde_json::{Value, json};

/// A stack and its target.
struct Relay {
    stack: Stack,
    target: Target,
}

impl Relay {
    /// Starts a relay with the template's defaults but for `parameters`.
    async fn start(behaviour: Behaviour, parameters: &[(&str, u32)]) -> Result<Self> {
        let target = Target::start(behaviour).await?;
        let options = StackOptions::new(target.url());
        let options = parameters.iter().fold(options, |options, (name, value)| options.set(*name, value));
        Ok(Self { stack: Stack::start(options).await?, target })
    }

    /// Sends a webhook as Genesys would, and gives the id under which it was accepted.
    async fn accept(&self, webhook: &Webhook) -> Result<String> {
        let (status, answer) = webhook.send(&self.stack.webhook_url()?).await?;
        anyhow::ensure!(status == 200, "not accepted: {status} {answer}");
        Ok(answer["eventId"].as_str().context("an eventId")?.to_owned())
    }

    /// Waits until neither queue holds anything.
    async fn until_empty(&self) -> Result<()> {
        self.stack
            .until_queues("both queues are empty", |counts| counts.events.total() + counts.dead_letters.total() == 0)
            .await?;
        Ok(())
    }

    /// Waits until all that is left are `count` dead letters.
    async fn until_dead(&self, count: u32) -> Result<()> {
        let what = format!("{count} dead letters are all that is left");
        self.stack
            .until_queues(&what, |counts| counts.events.total() == 0 && counts.dead_letters.visible == count)
            .await?;
        Ok(())
    }

    /// Invokes the replay function, which has to answer.
    async fn replay(&self, request: Value) -> Result<Value> {
        Ok(self.stack.invoke(local::stack::Function::Replay, &request).await??)
    }
}

/// A webhook of the tutorials' envelope, told from others by `name`.
fn webhook(name: &str) -> Webhook {
    let body = json!({
        "webhookId": "11111111-2222-4333-8444-555555555555",
        "webhookName": "orders",
        "payload": { "name": name },
        "timestamp": "2026-01-15T12:00:00Z",
    });
    Webhook::with_shared_secret(body.to_string())
}

/// The name given to [`webhook`], as the target received it.
fn name_of(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["payload"]["name"].as_str().unwrap_or_default().to_owned()
}
