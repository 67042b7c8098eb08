//! A stack that is changed, put back and deleted while it holds events.

use std::time::Duration;

use anyhow::{Result, ensure};
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use local::genesys::Webhook;
use local::stack::Function;
use local::target::Behaviour;
use local::wait;
use serde_json::json;

use crate::archive;
use crate::relay::{REFUSED, RETRIES, Relay, assert_has, webhook};

const EVENTS: usize = 10;

/// Sends a webhook until it is accepted, as Genesys does within its 85 seconds. Gives the event's
/// id.
async fn send_until_accepted(webhook: Webhook, url: String) -> Result<String> {
    wait::until("the webhook is accepted", || async {
        let answer = webhook.send(&url).await;
        Ok(answer
            .ok()
            .filter(|(status, _)| *status == 200)
            .and_then(|(_, answer)| Some(answer["eventId"].as_str()?.into())))
    })
    .await
}

async fn configuration(
    relay: &Relay,
    function: Function,
) -> Result<GetFunctionConfigurationOutput> {
    let name = relay.stack.function_name(function)?;
    Ok(relay
        .stack
        .lambda()
        .get_function_configuration()
        .function_name(name)
        .send()
        .await?)
}

/// Deploys with these parameters while events wait for their next attempt, others are at the
/// target, and new ones come. Every one of them has to arrive.
async fn redeploy_with_events_under_way(
    relay: &mut Relay,
    name: &str,
    changed: &[(&str, &str)],
) -> Result<()> {
    let webhooks = |kind: &str| {
        let named = (0..EVENTS).map(|number| webhook(&format!("{name}, {kind} {number}")));
        named.collect::<Vec<_>>()
    };
    relay.target.behave(Behaviour::Status {
        code: 503,
        retry_after: None,
    });
    let mut ids = relay.accept_all(webhooks("waits")).await?;
    let before = relay.target.requests().len();
    let has_failed = |id: &String| !relay.target.requests_of(id).is_empty();
    let all = |_: &[_]| ids.iter().all(has_failed);
    relay.target.until("each has failed", all).await?;
    // Longer than an attempt may take.
    let slow = Behaviour::Slow(Duration::from_secs(30));
    relay.target.behave(slow);
    ids.extend(relay.accept_all(webhooks("at the target")).await?);
    let some = |requests: &[_]| requests.len() > before + EVENTS;
    relay.target.until("some are at the target", some).await?;

    let codes = async |relay: &Relay| -> Result<Vec<_>> {
        let mut codes = Vec::new();
        for function in Function::ALL {
            codes.push(configuration(relay, function).await?.code_sha256);
        }
        Ok(codes)
    };
    let old = codes(relay).await?;
    let url = relay.stack.webhook_url()?;
    let arriving = webhooks("arrives")
        .into_iter()
        .map(|webhook| tokio::spawn(send_until_accepted(webhook, url.clone())));
    let arriving: Vec<_> = arriving.collect();
    relay.stack.redeploy(changed).await?;
    let new = codes(relay).await?;
    let is_new = old.iter().zip(&new).all(|(old, new)| old != new);
    ensure!(is_new, "the code is the old one: {old:?} {new:?}");
    for event in arriving {
        ids.push(event.await??);
    }

    relay.target.behave(Behaviour::Fine);
    // Nothing is left, so neither is a dead letter.
    relay.until_empty().await?;
    let deliveries = relay.deliveries();
    ids.retain(|id| !deliveries.contains_key(id));
    ensure!(ids.is_empty(), "lost: {ids:?}");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_and_a_rollback_lose_no_event() -> Result<()> {
    // Events of a killed processor come back after six times its time-out.
    let parameters = [
        RETRIES[0],
        ("BackoffCapSeconds", "5"),
        ("ProcessorTimeoutSeconds", "5"),
        ("TargetTimeoutSeconds", "2"),
        ("MaxReceiveCount", "25"),
    ];
    let mut relay = Relay::start(Behaviour::Fine, &parameters).await?;
    for (name, receives, concurrency) in [("an upgrade", "20", "5"), ("a rollback", "25", "10")] {
        let changed = [
            ("MaxReceiveCount", receives),
            ("MaximumConcurrency", concurrency),
        ];
        redeploy_with_events_under_way(&mut relay, name, &changed).await?;
        let variables = configuration(&relay, Function::Processor)
            .await?
            .environment
            .and_then(|all| all.variables);
        let set = variables.unwrap_or_default();
        assert_eq!(set["MAX_RECEIVE_COUNT"], receives, "{set:?}");
        let mappings = relay.stack.lambda().list_event_source_mappings();
        let mappings = mappings.send().await?;
        let scaling = mappings.event_source_mappings()[0].scaling_config();
        let found = scaling.and_then(|scaling| scaling.maximum_concurrency);
        assert_eq!(found, Some(concurrency.parse()?));
    }
    Ok(())
}

#[tokio::test]
async fn events_archive_and_secret_outlive_the_stack() -> Result<()> {
    let relay = Relay::start(REFUSED, &[]).await?;
    relay.accept_dead(["archived"]).await?;
    let archive = json!({ "action": "archive", "olderThanDays": 0 });
    assert_has(&relay.replay(archive).await?, json!({ "archived": 1 }));
    relay.accept_dead(["dead"]).await?;
    relay.set_delivering(false).await?;
    relay.accept(&webhook("waiting")).await?;
    let (states, keys) = (relay.stack.states().await?, archive::keys(&relay).await?);
    let held = relay.held().await?;
    assert_eq!((held, keys.len()), ((1, 1), 1));

    relay.stack.delete().await?;
    assert_eq!(relay.held().await?, held);
    assert_eq!(relay.stack.states().await?, states);
    assert_eq!(archive::keys(&relay).await?, keys);
    assert!(!archive::object(&relay, &keys[0]).await?.is_empty());
    let secret = relay.stack.secrets_manager().get_secret_value();
    let secret = secret.secret_id(relay.stack.output("SecretArn")?);
    assert!(secret.send().await?.secret_string.is_some());
    // Everything else is gone.
    let functions = relay.stack.lambda().list_functions().send().await?;
    assert!(functions.functions().is_empty(), "{functions:?}");
    let alarms = relay.stack.cloudwatch().describe_alarms().send().await?;
    assert!(alarms.metric_alarms().is_empty(), "{alarms:?}");
    Ok(())
}
