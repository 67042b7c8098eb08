//! The HTTP API: its routes, the order in which it is created, and the fields of its access log.

use super::*;

/// The routes, each as method and path, with the route's properties.
fn routes(template: &Yaml) -> Vec<(String, Yaml)> {
    let routes = resources_of(template, "AWS::ApiGatewayV2::Route").into_iter();
    routes
        .map(|route| (route["RouteKey"].as_str().expect("a key").to_owned(), route))
        .collect()
}

/// The local AWS does not ask for this permission; on AWS the route answers 500 without it.
#[test]
fn each_route_may_invoke_its_function() {
    let template = template();
    let permissions = resources_of(&template, "AWS::Lambda::Permission");
    for (key, route) in routes(&template) {
        let target = route["Target"].as_str().expect("a target");
        let integration = target
            .trim_start_matches("integrations/${")
            .trim_end_matches('}');
        let function = resource(&template, integration)["Properties"]["IntegrationUri"].clone();
        let (method, path) = key.split_once(" /").expect("a method and a path");
        let allows = |permission: &&Yaml| {
            let source = permission["SourceArn"].as_str().expect("a source");
            let (_, source) = source
                .split_once("${HttpApi}/*/")
                .expect("any stage of the API");
            let (methods, paths) = source.split_once('/').expect("a method and a path");
            let covers = paths
                .strip_suffix('*')
                .map_or(paths == path, |start| path.starts_with(start));
            permission["FunctionName"] == function && covers && ["*", method].contains(&methods)
        };
        assert!(
            permissions.iter().any(|permission| allows(&permission)),
            "{key}"
        );
    }
}

/// API Gateway refuses two changes of one API at the same time (`ConflictException`), and
/// CloudFormation creates independent resources at the same time.
#[test]
fn resources_of_the_api_are_created_one_by_one() {
    let template = template();
    let of_api = |found: &Yaml| {
        let kind = found["Type"].as_str().expect("a type");
        // A domain name is of no API until it is mapped.
        kind.starts_with("AWS::ApiGatewayV2::")
            && !["AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::DomainName"].contains(&kind)
    };
    // cfn-lint objects to naming twice what the Target of a route refers to.
    let integration = |found: &Yaml| {
        let target = found["Properties"]["Target"].as_str()?;
        Some(
            target
                .trim_start_matches("integrations/${")
                .trim_end_matches('}')
                .to_owned(),
        )
    };
    let after = |found: &Yaml| {
        found["DependsOn"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| integration(found))
    };
    let waiting: Vec<_> = entries(&template["Resources"])
        .filter(|(_, found)| of_api(found))
        .map(|(name, found)| (after(found), name))
        .collect();
    let mut made: Vec<&str> = Vec::new();
    while let Some((_, name)) = waiting
        .iter()
        .find(|(after, _)| after.as_deref() == made.last().copied())
    {
        made.push(name);
    }
    assert_eq!(
        made.len(),
        waiting.len(),
        "the row ends after {:?}: {waiting:?}",
        made.last()
    );
    assert_eq!(
        made[made.len() - 2..],
        ["DefaultStage", "WebhookDomainMapping"],
        "what is deployed, and mapped, has every route"
    );
}

/// Without the queues' policies EventBridge drops events at once.
#[test]
fn the_rule_may_put_events_into_the_queues_before_it_is_there() {
    let template = template();
    let rule = resource(&template, "GenesysEventRule");
    let waits_for: Vec<_> = rule["DependsOn"]
        .as_vec()
        .expect("a list")
        .iter()
        .filter_map(Yaml::as_str)
        .collect();
    assert_eq!(waits_for, ["EventsQueuePolicy", "DeadLetterQueuePolicy"]);
    let name = rule["Properties"]["Name"].as_str().expect("a name");
    for policy in waits_for {
        let policy = resource(&template, policy);
        assert!(
            policy["Condition"].is_badvalue(),
            "it outlives a rule that is taken away"
        );
        let statements = &policy["Properties"]["PolicyDocument"]["Statement"];
        let source = statements[1]["Condition"]["ArnLike"]["aws:SourceArn"]
            .as_str()
            .expect("a source");
        assert!(source.ends_with(&format!(":rule/*/{name}")), "{source}");
    }
}

#[test]
fn the_access_log_holds_no_header_no_query_and_no_body() {
    let stage = resource(&template(), "DefaultStage")["Properties"].clone();
    let format = stage["AccessLogSettings"]["Format"]
        .as_str()
        .expect("a format")
        .to_owned();
    let logged: BTreeSet<_> = format
        .split("$context.")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let expected = [
        "error.responseType",
        "identity.sourceIp",
        "identity.userArn",
        "integrationErrorMessage",
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
    assert_eq!(
        format.matches('$').count(),
        expected.len(),
        "nothing but these"
    );
}

/// The fields that the filters of the access log compare are in its lines.
#[test]
fn the_filters_of_the_access_log_look_at_what_it_holds() {
    let template = template();
    let stage = resource(&template, "DefaultStage")["Properties"].clone();
    let format = stage["AccessLogSettings"]["Format"]
        .as_str()
        .expect("a format")
        .replace(['\n', ' '], "");
    let line: Value = serde_json::from_str(&format).expect("JSON");
    let filters = resources_of(&template, "AWS::Logs::MetricFilter");
    assert_eq!(filters.len(), 2);
    for filter in filters {
        assert_eq!(filter["LogGroupName"].as_str(), Some("AccessLogGroup"));
        let pattern = filter["FilterPattern"].as_str().expect("a pattern");
        let fields: Vec<_> = pattern
            .split("$.")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next())
            .collect();
        assert!(
            !fields.is_empty() && fields.iter().all(|field| line[field].is_string()),
            "{pattern}: {line}"
        );
    }
}
