//! The HTTP API, and the rule of EventBridge: the ways by which events come.

use serde_json::{Value, json};

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::template::text;
use super::{Named, named, unless_any};

const RUNBOOK: &str = "operate/runbooks/nothing-arrives.md";

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named("api-routes", RUNBOOK, routes(deployment)),
        named("api-permissions", RUNBOOK, permissions(deployment)),
        named(
            "event-rule",
            "operate/runbooks/eventbridge-lost.md",
            rule(deployment),
        ),
    ]
}

/// Every route of the template leads to its integration.
async fn routes(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let Some(api) = template.physical("HttpApi") else {
        return Fault::failed("the stack has no HTTP API");
    };
    let path = format!("/v2/apis/{api}/routes?maxResults=100");
    let found = deployment
        .signed
        .get("apigateway:GET", "apigateway", &path)
        .await?;
    let found = found["items"]
        .as_array()
        .or_else(|| found["Items"].as_array())
        .cloned()
        .unwrap_or_default();
    let field = |route: &Value, name: &str| {
        let upper = name[..1].to_uppercase() + &name[1..];
        route
            .get(name)
            .or_else(|| route.get(&upper))
            .map(text)
            .unwrap_or_default()
    };
    let mut problems = Vec::new();
    let routes = template.of_type("AWS::ApiGatewayV2::Route");
    for route in &routes {
        let wanted = template.properties(route);
        let key = text(&wanted["RouteKey"]);
        let Some(found) = found.iter().find(|found| field(found, "routeKey") == key) else {
            problems.push(format!("the route {key} is missing"));
            continue;
        };
        let (target, kind) = (field(found, "target"), field(found, "authorizationType"));
        if target != text(&wanted["Target"]) {
            problems.push(format!("the route {key} leads to {target}"));
        }
        if kind != text(&wanted["AuthorizationType"]) {
            problems.push(format!(
                "the route {key} asks for {kind}, and not {}",
                text(&wanted["AuthorizationType"])
            ));
        }
    }
    unless_any(&problems, format!("{} routes", routes.len()))
}

/// API Gateway may invoke the functions behind the routes.
async fn permissions(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let mut problems = Vec::new();
    let permissions = template.of_type("AWS::Lambda::Permission");
    for permission in &permissions {
        let wanted = template.properties(permission);
        let arn = text(&wanted["FunctionName"]);
        let name = arn.rsplit(':').next().unwrap_or_default();
        let answer = deployment.lambda.get_policy().function_name(name).send();
        let policy = match answer.await.map_err(fault("lambda:GetPolicy")) {
            Ok(answer) => answer.policy.unwrap_or_default(),
            // A function without a policy is told from one that does not exist, which has a check
            // of its own.
            Err(Fault::Missing(_)) if exists(deployment, name).await => String::new(),
            Err(Fault::Missing(_)) => continue,
            Err(fault) => return Err(fault),
        };
        let policy: Value = serde_json::from_str(&policy).unwrap_or_default();
        let source = text(&wanted["SourceArn"]);
        let mut statements = policy["Statement"].as_array().into_iter().flatten();
        let allows = |statement: &Value| {
            let conditions = statement["Condition"].as_object().into_iter().flatten();
            let mut sources = conditions.flat_map(|(_, of)| of.as_object().into_iter().flatten());
            statement["Effect"] == "Allow" && sources.any(|(_, arn)| *arn == source.as_str())
        };
        if !statements.any(allows) {
            problems.push(format!("API Gateway may not invoke {name} ({source})"));
        }
    }
    unless_any(
        &problems,
        format!("API Gateway may invoke {} functions", permissions.len()),
    )
}

async fn exists(deployment: &Deployment, function: &str) -> bool {
    let request = deployment.lambda.get_function_configuration();
    let answer = request.function_name(function).send().await;
    let answer = answer.map_err(fault("lambda:GetFunctionConfiguration"));
    !matches!(answer, Err(Fault::Missing(_)))
}

async fn rule(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let rules = template.of_type("AWS::Events::Rule");
    let Some(rule) = rules.first() else {
        return Fault::not_here("EventBusName is not set: no events come from EventBridge");
    };
    let wanted = template.properties(rule);
    let request = json!({ "Name": wanted["Name"], "EventBusName": wanted["EventBusName"] });
    let found = deployment
        .signed
        .json("events:DescribeRule", "AWSEvents", &request)
        .await?;
    let state = text(&found["State"]);
    if state != "ENABLED" {
        return Fault::failed(format!("the rule {} is {state}", text(&wanted["Name"])));
    }
    let request = json!({ "Rule": wanted["Name"], "EventBusName": wanted["EventBusName"] });
    let found = deployment
        .signed
        .json("events:ListTargetsByRule", "AWSEvents", &request)
        .await?;
    let found = found["Targets"].as_array().cloned().unwrap_or_default();
    let mut problems = Vec::new();
    for target in wanted["Targets"].as_array().into_iter().flatten() {
        let (arn, kept_in) = (
            text(&target["Arn"]),
            text(&target["DeadLetterConfig"]["Arn"]),
        );
        match found.iter().find(|found| found["Arn"] == target["Arn"]) {
            None => problems.push(format!("the rule does not lead to {arn}")),
            Some(found)
                if found["DeadLetterConfig"]["Arn"] != target["DeadLetterConfig"]["Arn"] =>
            {
                problems.push(format!(
                    "the rule keeps what it cannot deliver nowhere, and not in {kept_in}"
                ));
            }
            Some(_) => {}
        }
    }
    unless_any(
        &problems,
        format!(
            "{} on {} is ENABLED",
            text(&wanted["Name"]),
            text(&wanted["EventBusName"])
        ),
    )
}
