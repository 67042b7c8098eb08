//! `cargo local`: the relay runs until Ctrl-C, and a person tries it out.

use std::{convert::Infallible, path::Path};

use anyhow::Result;
use serde_json::json;

use crate::{
    clients::REGION,
    env_file,
    genesys::{self, Webhook},
    genesys_cloud::GenesysCloud,
    journey::Journey,
    screen::{Colour, Screen},
    stack::{Function, Stack, StackOptions},
    target::{Behaviour, Target},
    workspace::Workspace,
};

/// The webhook and the integration of the commands that are printed.
const WEBHOOK: &str = "webhook-1";
const INTEGRATION: &str = "integration-1";

/// The shortest that the template takes.
const RECOVERY_RATE_MINUTES: u32 = 5;

/// Delivered events are kept as long as the records of the table.
const JOURNAL_DAYS: u32 = 15;

/// Options of the command line.
#[derive(Debug)]
pub struct Options {
    /// Port of the local AWS; a free one if there is none.
    pub port: Option<u16>,
    /// Initial behaviour of the target.
    pub behaviour: Behaviour,
    /// Parameters of the template.
    pub parameters: Vec<(String, String)>,
}

/// Builds, deploys, says how to use it, and shows what happens. Ends only by an error, or by being
/// dropped.
pub async fn run(options: Options, screen: Screen) -> Result<Infallible> {
    let workspace = Workspace::locate().await?;
    let target = Target::start(options.behaviour).await?;
    let genesys = GenesysCloud::start().await?;
    let stack_options = StackOptions::new(target.url())
        .port(options.port)
        .with_schedules()
        .recovering_from(
            &genesys.url(),
            "webhook-deliveries",
            &[WEBHOOK, INTEGRATION],
        )
        .set("RecoveryRateMinutes", RECOVERY_RATE_MINUTES)
        .set("JournalDays", JOURNAL_DAYS);
    let stack_options = options
        .parameters
        .into_iter()
        .fold(stack_options, |all, (name, value)| all.set(name, value));
    screen.print("Starting the local AWS and deploying template.yaml …");
    let stack = Stack::start(stack_options).await?;
    genesys.set_webhook_url(stack.webhook_url()?);
    let mut journey = Journey::new(screen);
    let show = async {
        let (env, for_curl) = (
            workspace.local().join("env"),
            workspace.local().join("curl"),
        );
        env_file::write(&env, &stack).await?;
        env_file::write_for_curl(&for_curl, stack.keys())?;
        let curl = Curl {
            stack: &stack,
            config: &for_curl,
        };
        screen.print(&usage(screen, &curl, &target)?);
        screen.print(&recovery(screen, &curl, &genesys)?);
        screen.print("\nThe operator's console, from another terminal:  cargo console");
        screen.print(&format!(
            "\nFor cargo lambda watch:  --env-file {}",
            env.display()
        ));
        screen.print(&format!(
            "For sam and the AWS CLI:  export $(grep ^AWS_ {})",
            genesys::quote(&env.display().to_string())
        ));
        screen.print("\nSteps of each event (Ctrl-C ends everything):");
        journey.follow(&stack).await
    };
    stack.guard(Box::pin(show)).await
}

fn usage(screen: Screen, curl: &Curl<'_>, target: &Target) -> Result<String> {
    let stack = curl.stack;
    let webhook_url = stack.webhook_url()?;
    let heading = |text: &str| screen.paint(Colour::Green, text);
    let now = fastrand::u32(..);
    let message = json!({
        "id": format!("message-{now}"), "type": "Text", "text": "Hi", "direction": "Outbound",
        "channel": { "id": INTEGRATION, "platform": "Open", "type": "Private", "time": "2026-01-01T00:00:00.000Z" },
        "conversationId": "conversation-1",
    });
    let envelope = json!({ "webhookId": WEBHOOK, "webhookName": "Try", "payload": { "number": now }, "timestamp": "2026-01-01T00:00:00Z" });
    let request = json!({ "action": "replay", "all": true, "why": "the target is back" });
    let left_out = stack.left_out().join("\n  ");
    Ok(format!(
        "{}  {webhook_url}\n{}  {} (process {})\n{}  {} {}\n{}  {}, now {}\n\nNot deployed here:\n  {left_out}\n\
         \n{}\n{}\n\n{}\n{}\n\n{}\n{}\n\n{}\n{}\n\n{}\n{}",
        heading("Webhook URL "),
        heading("Local AWS   "),
        stack.endpoint(),
        stack.emulator().pid(),
        heading("Its key pair"),
        stack.keys().id,
        stack.keys().secret,
        heading("Target      "),
        target.url(),
        target.behaviour(),
        heading("Send an Open Messaging webhook, signed:"),
        Webhook::signed(message.to_string()).curl(&webhook_url),
        heading("Send a webhook with the shared secret:"),
        Webhook::with_shared_secret(envelope.to_string()).curl(&webhook_url),
        heading(
            "Change the target (fine, fail:30, status:404, status:503:60, slow:2s, down, reset …):"
        ),
        format_args!("curl -X PUT --data fail:30 {}", target.control_url()),
        heading("List the dead letters:"),
        curl.signed("execute-api", &stack.dead_letter_api_url()?),
        heading("Replay all dead letters:"),
        curl.invoke(Function::Replay, &request.to_string())?,
    ))
}

/// Hints for a recovery.
fn recovery(screen: Screen, curl: &Curl<'_>, genesys: &GenesysCloud) -> Result<String> {
    let stack = curl.stack;
    let heading = |text: &str| screen.paint(Colour::Green, text);
    let lost = json!({ "webhookId": WEBHOOK, "webhookName": "Lost", "payload": { "number": fastrand::u32(..) }, "timestamp": "2026-01-01T00:00:00Z" });
    let url = format!(
        "{}/2017-10-31/functions/{}/concurrency",
        stack.endpoint(),
        stack.function_name(Function::Ingest)?
    );
    let concurrency = curl.signed("lambda", &url);
    Ok(format!(
        "\n{}\n{concurrency} -X PUT --data '{{\"ReservedConcurrentExecutions\":0}}'\n\n{}\ncurl --data {} {}\n\n{}\n{concurrency} \
         -X DELETE\n\n{}\n{}",
        heading("Watch a recovery: stop ingest,"),
        heading("let Genesys Cloud send a webhook and give up after half a minute,"),
        genesys::quote(&lost.to_string()),
        genesys.control_url(),
        heading("start ingest again,"),
        heading(&format!(
            "and fetch the lost event, or wait {RECOVERY_RATE_MINUTES} minutes for the schedule:"
        )),
        curl.invoke(Function::Recovery, "{}")?,
    ))
}

/// Commands with curl.
struct Curl<'a> {
    stack: &'a Stack,
    /// File with the key pair.
    config: &'a Path,
}

impl Curl<'_> {
    /// A command that invokes a function.
    fn invoke(&self, function: Function, payload: &str) -> Result<String> {
        let (endpoint, name) = (self.stack.endpoint(), self.stack.function_name(function)?);
        let url = format!("{endpoint}/2015-03-31/functions/{name}/invocations");
        Ok(format!(
            "{} --data {}",
            self.signed("lambda", &url),
            genesys::quote(payload)
        ))
    }

    /// A command that calls a URL, signed for a service of the local AWS.
    fn signed(&self, service: &str, url: &str) -> String {
        let config = genesys::quote(&self.config.display().to_string());
        format!("curl --config {config} -w '\\n' --aws-sigv4 aws:amz:{REGION}:{service} {url}")
    }
}
