//! An API that IAM protects: the local API Gateway verifies the signature of the processor's role,
//! by code of its own, and judges by the role's policy.

use anyhow::{Context as _, Result};
use local::clients;
use local::stack::Function;
use local::target::Behaviour;
use serde_json::{Value, json};

use crate::relay::{QUICK, Relay, webhook};

const PARAMETERS: [(&str, &str); 6] = [
    QUICK[0],
    QUICK[1],
    QUICK[2],
    ("MaxReceiveCount", "2"),
    ("TargetSigV4Service", "execute-api"),
    (
        "TargetSigV4Arn",
        "arn:aws:execute-api:us-east-1:000000000000:protected/$default/POST/events",
    ),
];

/// Makes an HTTP API with IAM before the target, and returns the URL of its one route.
async fn protect(relay: &Relay) -> Result<String> {
    let aws = relay.stack.aws();
    let create = async |path: &str, request: Value, id: &str| -> Result<String> {
        let answer = aws.rest("apigateway", path, &request).await?;
        Ok(answer[id].as_str().context(id.to_owned())?.to_owned())
    };
    // The local AWS takes its id from a tag, so that the policy can name it before it is there.
    let api = json!({ "name": "protected", "protocolType": "HTTP", "tags": { "ms-custom-id": "protected" } });
    let api = create("/v2/apis", api, "apiId").await?;
    let path = |part: &str| format!("/v2/apis/{api}/{part}");
    let upstream = relay.target.url();
    let integration = json!({
        "integrationType": "HTTP_PROXY", "integrationMethod": "POST", "payloadFormatVersion": "1.0",
        "integrationUri": upstream.trim_end_matches("/events"),
    });
    let integration = create(&path("integrations"), integration, "integrationId").await?;
    let route = json!({
        "routeKey": "POST /events", "authorizationType": "AWS_IAM", "target": format!("integrations/{integration}"),
    });
    create(&path("routes"), route, "routeId").await?;
    let stage = json!({ "stageName": "$default", "autoDeploy": true });
    create(&path("stages"), stage, "stageName").await?;
    let endpoint = relay.stack.endpoint();
    Ok(format!(
        "{endpoint}/_aws/execute-api/{api}/%24default/events"
    ))
}

#[tokio::test]
async fn role_opens_an_api_of_iam_and_loses_nothing_without_the_right() -> Result<()> {
    let relay = Relay::start(Behaviour::Fine, &PARAMETERS).await?;
    let url = protect(&relay).await?;
    let unsigned = clients::http().post(&url).body("{}").send().await?;
    assert_eq!(unsigned.status(), 403, "without a signature");
    relay
        .set_variable(Function::Processor, "TARGET_URL", Some(&url))
        .await?;

    let first = relay.accept(&webhook("signed")).await?;
    relay.until_empty().await?;
    let requests = relay.target.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let signature = requests[0].headers["authorization"].to_str()?;
    assert!(
        signature.starts_with("AWS4-HMAC-SHA256 ") && signature.contains("/execute-api/"),
        "{signature}"
    );

    let role = relay.stack.role("ProcessorRole").await?;
    let role = role.with_policy("target").await?;
    role.take_away("execute-api:Invoke").await?;
    let second = relay.accept(&webhook("not allowed")).await?;
    let is_refused = |line: &Value| {
        let error = line["error"].as_str().unwrap_or_default();
        line["event_id"] == *second && error.contains("403")
    };
    relay
        .until_logged(Function::Processor, 3, "403", is_refused)
        .await?;
    role.restore().await?;
    relay.until_empty().await?;
    relay.assert_delivered_once(&[first, second]);
    Ok(())
}
