//! Who may do what: routes, policies, roles, and what the access log tells.

use super::*;

/// The routes, each as method and path, with the route's properties.
fn routes(template: &Yaml) -> Vec<(String, Yaml)> {
    let routes = resources_of(template, "AWS::ApiGatewayV2::Route").into_iter();
    routes.map(|route| (route["RouteKey"].as_str().expect("a key").to_owned(), route)).collect()
}

#[test]
fn only_the_webhook_is_open_to_who_is_not_authorised_by_iam() {
    let template = template();
    let routes = routes(&template);
    let keys: BTreeSet<_> = routes.iter().map(|(key, _)| key.as_str()).collect();
    let expected = ["GET /dlq", "GET /dlq/{eventId}", "POST /dlq/{eventId}/retry", "POST /webhook/genesys"];
    assert_eq!(keys, BTreeSet::from(expected));
    for (key, route) in &routes {
        let expected = if key == "POST /webhook/genesys" { "NONE" } else { "AWS_IAM" };
        assert_eq!(route["AuthorizationType"].as_str(), Some(expected), "{key}");
    }
}

/// The local AWS does not ask for this permission; on AWS the route answers 500 without it.
#[test]
fn each_route_may_invoke_its_function() {
    let template = template();
    let permissions = resources_of(&template, "AWS::Lambda::Permission");
    for (key, route) in routes(&template) {
        let target = route["Target"].as_str().expect("a target");
        let integration = target.trim_start_matches("integrations/${").trim_end_matches('}');
        let function = resource(&template, integration)["Properties"]["IntegrationUri"].clone();
        let (method, path) = key.split_once(" /").expect("a method and a path");
        let allows = |permission: &&Yaml| {
            let source = permission["SourceArn"].as_str().expect("a source");
            let (_, source) = source.split_once("${HttpApi}/*/").expect("any stage of the API");
            let (methods, paths) = source.split_once('/').expect("a method and a path");
            let covers = paths.strip_suffix('*').map_or(paths == path, |start| path.starts_with(start));
            permission["FunctionName"] == function && covers && ["*", method].contains(&methods)
        };
        assert!(permissions.iter().any(|permission| allows(&permission)), "{key}");
    }
}

/// Queue policies have no effect in the local AWS.
#[test]
fn only_the_rule_of_the_stack_may_put_events_into_the_queues_and_it_may_before_it_is_there() {
    let template = template();
    let rule = resource(&template, "GenesysEventRule");
    let name = rule["Properties"]["Name"].as_str().expect("a name");
    let waits_for: Vec<_> = rule["DependsOn"].as_vec().expect("a list").iter().filter_map(Yaml::as_str).collect();
    assert_eq!(waits_for, ["EventsQueuePolicy", "DeadLetterQueuePolicy"]);
    for (queue, policy) in [("EventsQueue", "EventsQueuePolicy"), ("DeadLetterQueue", "DeadLetterQueuePolicy")] {
        let policy = resource(&template, policy);
        assert!(policy["Condition"].is_badvalue(), "it outlives a rule that is taken away");
        let statements = policy["Properties"]["PolicyDocument"]["Statement"].as_vec().expect("statements").clone();
        let allowed: Vec<_> = statements.iter().filter(|found| found["Effect"].as_str() == Some("Allow")).collect();
        let [allowed] = &allowed[..] else { panic!("{queue}: {allowed:?}") };
        let principals = allowed["Principal"].as_hash().expect("services");
        assert_eq!((principals.len(), allowed["Principal"]["Service"].as_str()), (1, Some("events.amazonaws.com")));
        assert_eq!(allowed["Action"].as_str(), Some("sqs:SendMessage"));
        assert_eq!(allowed["Resource"].as_str(), Some(format!("{queue}.Arn").as_str()));
        let source = allowed["Condition"]["ArnLike"]["aws:SourceArn"].as_str().expect("a source");
        let expected = format!("arn:${{AWS::Partition}}:events:${{AWS::Region}}:${{AWS::AccountId}}:rule/*/{name}");
        assert_eq!(source, expected, "{queue}");
    }
}

#[test]
fn the_access_log_holds_no_header_no_query_and_no_body() {
    let stage = resource(&template(), "DefaultStage")["Properties"].clone();
    let format = stage["AccessLogSettings"]["Format"].as_str().expect("a format").to_owned();
    let logged: BTreeSet<_> = format.split("$context.").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let expected = [
        "error.responseType",
        "identity.sourceIp",
        "integrationLatency",
        "integrationStatus",
        "requestId",
        "requestTime",
        "responseLatency",
        "responseLength",
        "routeKey",
        "status",
    ];
    assert_eq!(logged, BTreeSet::from(expected));
    assert_eq!(format.matches('$').count(), expected.len(), "nothing but these");
}

#[test]
fn no_role_may_do_more_than_it_does() {
    let template = template();
    for (role, expected) in [
        ("IngestRole", ["logs", "secretsmanager:GetSecretValue", "sqs:SendMessage", "xray"].as_slice()),
        (
            "ProcessorRole",
            &[
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "dynamodb:UpdateItem",
                "logs",
                "secretsmanager:GetSecretValue",
                "sqs:ChangeMessageVisibility",
                "sqs:DeleteMessage",
                "sqs:GetQueueAttributes",
                "sqs:ReceiveMessage",
                "sqs:SendMessage",
                "xray",
            ],
        ),
        (
            "BreakerRole",
            &[
                "dynamodb:BatchGetItem",
                "dynamodb:DeleteItem",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "lambda:GetEventSourceMapping",
                "lambda:InvokeFunction",
                "lambda:UpdateEventSourceMapping",
                "logs",
                "xray",
            ],
        ),
        (
            "ReplayRole",
            &[
                "cloudwatch:GetMetricStatistics",
                "dynamodb:BatchGetItem",
                "dynamodb:DeleteItem",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "dynamodb:Query",
                "lambda:InvokeFunction",
                "lambda:UpdateEventSourceMapping",
                "logs",
                "s3:GetObject",
                "s3:PutObject",
                "sqs:CancelMessageMoveTask",
                "sqs:ChangeMessageVisibility",
                "sqs:DeleteMessage",
                "sqs:GetQueueAttributes",
                "sqs:ListMessageMoveTasks",
                "sqs:ReceiveMessage",
                "sqs:SendMessage",
                "sqs:StartMessageMoveTask",
                "xray",
            ],
        ),
        (
            "RecoveryRole",
            &[
                "dynamodb:BatchGetItem",
                "dynamodb:DeleteItem",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "logs",
                "secretsmanager:GetSecretValue",
                "sqs:SendMessage",
                "xray",
            ],
        ),
        ("ScheduleRole", &["lambda:InvokeFunction"]),
    ] {
        let properties = resource(&template, role)["Properties"].clone();
        assert!(properties["ManagedPolicyArns"].is_badvalue(), "{role}: managed policies grant too much");
        let mut granted = BTreeSet::new();
        let statements = properties["Policies"][0]["PolicyDocument"]["Statement"].clone();
        for statement in statements.as_vec().expect("statements") {
            let actions = match &statement["Action"] {
                Yaml::Array(actions) => actions.clone(),
                action => vec![action.clone()],
            };
            for action in actions {
                let action = action.as_str().expect("an action").to_owned();
                assert!(!action.contains('*'), "{role}: {action}");
                // Actions that name no resources ("Actions, resources, and condition keys" for CloudWatch and for X-Ray).
                let is_of_none = action == "cloudwatch:GetMetricStatistics" || action.starts_with("xray:Put");
                assert!(is_of_none || statement["Resource"].as_str() != Some("*"), "{role}: {action}");
                let whole = ["logs", "xray"].into_iter().find(|service| action.starts_with(&format!("{service}:")));
                granted.insert(whole.map_or(action.clone(), str::to_owned));
            }
        }
        assert_eq!(granted.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{role}");
    }
}
