//! A stack that is changed, put back and deleted while it holds events.

use std::time::Duration;

use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;

use super::*;

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
        (0..EVENTS)
            .map(|number| webhook(&format!("{name}, {kind} {number}")))
            .collect::<Vec<_>>()
    };
    relay.target.behave(Behaviour::Status {
        code: 503,
        retry_after: None,
    });
    let mut ids = relay.accept_all(webhooks("waits")).await?;
    let before = relay.target.requests().len();
    relay
        .target
        .until("each has failed", |_| {
            ids.iter()
                .all(|id| !relay.target.requests_of(id).is_empty())
        })
        .await?;
    // Longer than the deploy is likely to take, and than an attempt may.
    relay
        .target
        .behave(Behaviour::Slow(Duration::from_secs(30)));
    ids.extend(relay.accept_all(webhooks("at the target")).await?);
    relay
        .target
        .until("some are at the target", |requests| {
            requests.len() > before + EVENTS
        })
        .await?;

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
    anyhow::ensure!(
        old.iter().zip(&new).all(|(old, new)| old != new),
        "the code is the old one: {old:?} {new:?}"
    );
    for event in arriving {
        ids.push(event.await??);
    }

    relay.target.behave(Behaviour::Fine);
    // Nothing is left, so neither is a dead letter.
    relay.until_empty().await?;
    let deliveries = relay.deliveries();
    let lost: Vec<_> = ids
        .iter()
        .filter(|id| !deliveries.contains_key(*id))
        .collect();
    anyhow::ensure!(lost.is_empty(), "{lost:?} of {ids:?}");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_and_the_way_back_lose_nothing_that_is_under_way() -> Result<()> {
    // What is killed comes back after six times the processor's time-out.
    let parameters = [
        ("ProcessorTimeoutSeconds", 10),
        ("TargetTimeoutSeconds", 5),
        ("BackoffBaseSeconds", 1),
        ("BackoffCapSeconds", 5),
        ("MaxReceiveCount", 25),
    ];
    let mut relay = Relay::start(Behaviour::Fine, &parameters).await?;
    for (name, receives, concurrency) in [("an upgrade", "20", "5"), ("the way back", "25", "10")] {
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
        let mappings = relay
            .stack
            .lambda()
            .list_event_source_mappings()
            .send()
            .await?
            .event_source_mappings;
        let scaling = mappings
            .unwrap_or_default()
            .first()
            .and_then(|mapping| mapping.scaling_config.clone());
        assert_eq!(
            scaling.and_then(|scaling| scaling.maximum_concurrency),
            Some(concurrency.parse()?)
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_was_promised_outlives_the_stack() -> Result<()> {
    let relay = Relay::start(
        Behaviour::Status {
            code: 410,
            retry_after: None,
        },
        &[],
    )
    .await?;
    let archived = relay.accept(&webhook("archived")).await?;
    relay.until_dead(1).await?;
    assert_eq!(
        relay
            .replay(json!({ "action": "archive", "olderThanDays": 0 }))
            .await?["archived"],
        1
    );
    let dead = relay.accept(&webhook("dead")).await?;
    relay.until_dead(1).await?;
    relay.set_delivering(false).await?;
    relay.accept(&webhook("waiting")).await?;
    let (states, keys) = (relay.stack.states().await?, archive::keys(&relay).await?);
    let counts = relay.stack.queue_counts().await?;
    assert_eq!(
        (
            counts.events.total(),
            counts.dead_letters.total(),
            keys.len()
        ),
        (1, 1, 1),
        "{archived} {dead}"
    );

    relay.stack.delete().await?;
    assert_eq!(relay.stack.queue_counts().await?, counts);
    assert_eq!(relay.stack.states().await?, states);
    assert_eq!(archive::keys(&relay).await?, keys);
    assert!(!archive::object(&relay, &keys[0]).await?.is_empty());
    let secret = relay
        .stack
        .secrets_manager()
        .get_secret_value()
        .secret_id(relay.stack.output("SecretArn")?);
    assert!(secret.send().await?.secret_string.is_some());
    // All else is gone.
    let functions = relay
        .stack
        .lambda()
        .list_functions()
        .send()
        .await?
        .functions
        .unwrap_or_default();
    let alarms = relay
        .stack
        .cloudwatch()
        .describe_alarms()
        .send()
        .await?
        .metric_alarms
        .unwrap_or_default();
    assert!(
        functions.is_empty() && alarms.is_empty(),
        "{functions:?} {alarms:?}"
    );
    Ok(())
}
