//! Things broken on the way of an event: functions, queues, the API, Genesys Cloud and the target.

use anyhow::{Context as _, Result};
use aws_sdk_lambda::types::FunctionResponseType;
use aws_sdk_sqs::types::QueueAttributeName;
use local::genesys_cloud::{CallFault, Endpoint};
use local::stack::Function;
use serde_json::{Value, json};

use super::{
    BREAKER, INTEGRATION, NOTHING_ARRIVES, RECOVERY, REDEPLOY, Site, TARGET, TOO_OLD, until_active,
};

const ACKS: &str = "operate/runbooks/acks-failing.md";

/// The id of the mapping of a queue.
async fn mapping(site: &Site, queue: &str) -> Result<String> {
    let answer = site
        .relay
        .stack
        .lambda()
        .list_event_source_mappings()
        .send()
        .await?;
    let found = answer.event_source_mappings.unwrap_or_default();
    let found = found.into_iter().find(|mapping| {
        mapping
            .event_source_arn()
            .is_some_and(|arn| arn.ends_with(queue))
    });
    found.and_then(|mapping| mapping.uuid).context("a mapping")
}

pub(super) async fn functions(site: &Site) -> Result<()> {
    let stack = &site.relay.stack;
    let lambda = stack.lambda();
    let events = mapping(site, "relay-events").await?;
    let enable = |is_on: bool| {
        let request = lambda
            .update_event_source_mapping()
            .uuid(&events)
            .enabled(is_on);
        async move { Ok(request.send().await.map(drop)?) }
    };
    let says = "the breaker does not hold it";
    site.breaks(
        "a mapping disabled",
        &[("event-source", TOO_OLD, says)],
        enable(false),
        enable(true),
    )
    .await?;

    let report = |kinds: Vec<FunctionResponseType>| {
        let request = lambda.update_event_source_mapping().uuid(&events);
        let request = request.set_function_response_types(Some(kinds));
        async move { Ok(request.send().await.map(drop)?) }
    };
    site.breaks(
        "single failures not reported",
        &[(
            "event-source",
            TOO_OLD,
            "ReportBatchItemFailures is missing",
        )],
        report(Vec::new()),
        report(vec![FunctionResponseType::ReportBatchItemFailures]),
    )
    .await?;

    let ordered = mapping(site, "relay-ordered.fifo").await?;
    let batch = |size: i32| {
        let request = lambda
            .update_event_source_mapping()
            .uuid(&ordered)
            .batch_size(size);
        async move { Ok(request.send().await.map(drop)?) }
    };
    let says = "BatchSize is 1, and the template says 10";
    site.breaks(
        "batches of one",
        &[("event-source-ordered", TOO_OLD, says)],
        batch(1),
        batch(10),
    )
    .await?;

    site.breaks(
        "reserved concurrency 0",
        &[("function-ingest", ACKS, "reserved concurrency is 0")],
        stack.set_running(Function::Ingest, false),
        stack.set_running(Function::Ingest, true),
    )
    .await?;

    let code = |binary: &'static str| {
        let name = stack.function_name(Function::Breaker);
        async move {
            let request = lambda.update_function_code().function_name(name?);
            let request = request.s3_bucket("code").s3_key(format!("1/{binary}.zip"));
            request.send().await?;
            until_active(site, Function::Breaker).await
        }
    };
    let says = "stale function";
    site.breaks(
        "another function's code",
        &[("code-breaker", REDEPLOY, says)],
        code("ingest"),
        code("breaker"),
    )
    .await?;

    let breaker = |action: &'static str| async move {
        let request = json!({ "action": action, "why": "a test", "by": "a test" });
        site.relay
            .until_free(Function::Breaker, &request)
            .await
            .map(drop)
    };
    let says = "set by hand by a test";
    let mend = async {
        breaker("close").await?;
        breaker("automatic").await
    };
    site.breaks(
        "breaker held open by hand",
        &[("breaker", BREAKER, says)],
        breaker("open"),
        mend,
    )
    .await
}

pub(super) async fn queues(site: &Site) -> Result<()> {
    use QueueAttributeName as Name;
    let stack = &site.relay.stack;
    for (what, queue, attribute, value, check, says) in [
        (
            "redrive removed",
            "QueueUrl",
            Name::RedrivePolicy,
            "",
            "queue-events",
            "RedrivePolicy is missing",
        ),
        (
            "short visibility timeout",
            "QueueUrl",
            Name::VisibilityTimeout,
            "30",
            "queue-events",
            "VisibilityTimeout is 30, and the template says 360",
        ),
        (
            "short retention of dead letters",
            "DeadLetterQueueUrl",
            Name::MessageRetentionPeriod,
            "3600",
            "queue-dead-letters",
            "MessageRetentionPeriod is 3600",
        ),
        (
            "policy of a queue removed",
            "QueueUrl",
            Name::Policy,
            "",
            "queue-policies",
            "EventsQueue: sqs:SendMessage on",
        ),
        (
            "small messages only",
            "OrderedQueueUrl",
            Name::MaximumMessageSize,
            "1024",
            "queue-ordered",
            "MaximumMessageSize is 1024",
        ),
    ] {
        let url = stack.output(queue)?;
        let request = stack.sqs().get_queue_attributes().queue_url(url);
        let answer = request.attribute_names(attribute.clone()).send().await?;
        let before = answer.attributes.and_then(|mut all| all.remove(&attribute));
        let before = before.context("the attribute")?;
        let set = |value: String| {
            let request = stack.sqs().set_queue_attributes().queue_url(url);
            let request = request.attributes(attribute.clone(), value);
            async move { Ok(request.send().await.map(drop)?) }
        };
        site.breaks(
            what,
            &[(check, REDEPLOY, says)],
            set(value.to_owned()),
            set(before),
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn api_and_rule(site: &Site) -> Result<()> {
    let stack = &site.relay.stack;
    let aws = stack.aws();
    let url = stack.output("DeadLetterApiUrl")?;
    let api = url.split(['/', '.']).nth(2).context("the id of the API")?;
    let routes = format!("/v2/apis/{api}/routes");
    let all = aws.get("apigateway", &routes).await?;
    let mut all = all["items"].as_array().context("routes")?.iter();
    let route = all
        .find(|route| route["routeKey"] == "POST /webhook/genesys")
        .context("the route")?;
    let path = format!("{routes}/{}", route["routeId"].as_str().context("its id")?);
    let whole: Value = ["routeKey", "target", "authorizationType"]
        .into_iter()
        .map(|field| (field.to_owned(), route[field].clone()))
        .collect();
    site.breaks(
        "the webhook's route removed",
        &[(
            "api-routes",
            NOTHING_ARRIVES,
            "the route POST /webhook/genesys is missing",
        )],
        aws.delete("apigateway", &path),
        async { aws.rest("apigateway", &routes, &whole).await.map(drop) },
    )
    .await?;

    let name = stack.function_name(Function::Ingest)?;
    let policy = stack
        .lambda()
        .get_policy()
        .function_name(name)
        .send()
        .await?;
    let policy: Value = serde_json::from_str(policy.policy().unwrap_or_default())?;
    let statement = &policy["Statement"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let source = text(&statement["Condition"]["ArnLike"]["AWS:SourceArn"]);
    let id = text(&statement["Sid"]);
    site.breaks(
        "API Gateway's permission removed",
        &[(
            "api-permissions",
            NOTHING_ARRIVES,
            "may not invoke relay-ingest",
        )],
        async {
            let request = stack.lambda().remove_permission().function_name(name);
            Ok(request.statement_id(&id).send().await.map(drop)?)
        },
        async {
            let request = stack.lambda().add_permission().function_name(name);
            let request = request.statement_id(&id).action("lambda:InvokeFunction");
            let request = request
                .principal("apigateway.amazonaws.com")
                .source_arn(&source);
            Ok(request.send().await.map(drop)?)
        },
    )
    .await?;

    let rule = |action: &'static str| async move {
        let rule = json!({ "Name": "relay-genesys", "EventBusName": super::BUS });
        aws.json("events", &format!("AWSEvents.{action}"), &rule)
            .await
            .map(drop)
    };
    let runbook = "operate/runbooks/eventbridge-lost.md";
    site.breaks(
        "the rule disabled",
        &[("event-rule", runbook, "is DISABLED")],
        rule("DisableRule"),
        rule("EnableRule"),
    )
    .await
}

pub(super) async fn genesys(site: &Site) -> Result<()> {
    let genesys = &site.relay.genesys;
    let url = site.relay.stack.output("WebhookUrl")?;
    let leads_here = async {
        genesys.set_integration(INTEGRATION, url);
        Ok(())
    };
    let says = "sends to https://elsewhere.example/hook";
    site.breaks(
        "an integration's webhook leads elsewhere",
        &[("genesys-webhook-urls", NOTHING_ARRIVES, says)],
        async {
            genesys.set_integration(INTEGRATION, "https://elsewhere.example/hook");
            Ok(())
        },
        leads_here,
    )
    .await?;
    site.breaks(
        "an integration unknown",
        &[(
            "genesys-webhook-urls",
            NOTHING_ARRIVES,
            "no Open Messaging integration",
        )],
        async {
            genesys.remove_integration(INTEGRATION);
            Ok(())
        },
        async {
            genesys.set_integration(INTEGRATION, url);
            Ok(())
        },
    )
    .await?;
    site.breaks(
        "a permission in Genesys Cloud taken",
        &[(
            "genesys-permissions",
            RECOVERY,
            "analytics:conversationDetail:view",
        )],
        async {
            genesys.script(|call| {
                let permission = "analytics:conversationDetail:view";
                (call.endpoint == Endpoint::Query)
                    .then(|| CallFault::missing_permission(permission))
            });
            Ok(())
        },
        async {
            genesys.script(|_| None);
            Ok(())
        },
    )
    .await?;
    site.breaks(
        "wrong credentials of Genesys Cloud",
        &[(
            "genesys-sign-in",
            RECOVERY,
            "refused to sign the OAuth client in",
        )],
        site.set_secret(json!({ "genesysClientSecret": "another-secret-0001" })),
        site.set_secret(json!({})),
    )
    .await
}

pub(super) async fn target(site: &Site) -> Result<()> {
    site.breaks(
        "an expired certificate",
        &[("target-certificate", TARGET, "expired at 2025-12-31")],
        async { site.front.expire(&site.servers) },
        async { site.front.require(&site.servers, None) },
    )
    .await?;
    let own = local::tls::Authority::new("another")?;
    site.breaks(
        "a certificate of an unknown authority",
        &[(
            "target-certificate",
            TARGET,
            "no authority that the relay trusts",
        )],
        async { site.front.require(&own, None) },
        async { site.front.require(&site.servers, None) },
    )
    .await?;
    let lead_to = |url: String| async move {
        let relay = &site.relay;
        relay
            .set_variable(Function::Processor, "TARGET_URL", Some(&url))
            .await?;
        until_active(site, Function::Processor).await
    };
    let right = format!("{}/events", site.front.url());
    let runbook = "operate/runbooks/processor-failing.md";
    let variable = ("function-processor", runbook, "its variable TARGET_URL");
    let other = local::target::Target::start(local::target::Behaviour::Fine).await?;
    site.breaks(
        "another target, which is there",
        &[variable],
        lead_to(other.url()),
        lead_to(right.clone()),
    )
    .await?;
    site.breaks(
        "a target that has no address",
        &[
            variable,
            ("target-name", TARGET, "nowhere.invalid has no address"),
        ],
        lead_to("https://nowhere.invalid/events".to_owned()),
        lead_to(right.clone()),
    )
    .await?;
    site.breaks(
        "a target that does not listen",
        &[
            variable,
            ("target-connection", TARGET, "refused the connection"),
        ],
        lead_to("https://localhost:1/events".to_owned()),
        lead_to(right),
    )
    .await
}

pub(super) async fn look(site: &Site) -> Result<()> {
    let stack = &site.relay.stack;
    let name = stack.function_name(Function::Look)?;
    site.breaks(
        "the look function deleted",
        &[("function-look", REDEPLOY, "ResourceNotFound")],
        async {
            Ok(stack
                .lambda()
                .delete_function()
                .function_name(name)
                .send()
                .await
                .map(drop)?)
        },
        async { Ok(()) },
    )
    .await
}
