//! `template.yaml` against the code: what one sets and the other reads, and the rules that CloudFormation cannot state.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use genesys_relay::genesys::Region;
use genesys_relay::recover::Request as Recovery;
use genesys_relay::retry::Schedule;
use jiff::Timestamp;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn template() -> Yaml {
    YamlLoader::load_from_str(&file("template.yaml")).expect("YAML").remove(0)
}

fn resource(template: &Yaml, name: &str) -> Yaml {
    let resource = template["Resources"][name].clone();
    assert!(!resource.is_badvalue(), "the template has no {name}");
    resource
}

fn number(yaml: &Yaml) -> u64 {
    yaml.as_i64().and_then(|number| u64::try_from(number).ok()).unwrap_or_else(|| panic!("no number: {yaml:?}"))
}

/// The names that a function's `config.rs` asks its environment for.
fn variables_read(function: &str) -> BTreeSet<String> {
    let source = file(&format!("functions/{function}/src/config.rs"));
    let source = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    // In each form of call: with a type or without, also for what may be empty.
    let calls = source.split("environment.parse").skip(1).filter_map(|rest| rest.split_once("(\""));
    calls.map(|(_, rest)| rest.split('"').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn each_variable_that_a_function_reads_is_set_and_the_other_way_round() {
    let template = template();
    for (function, logical_id) in [
        ("ingest", "IngestFunction"),
        ("processor", "ProcessorFunction"),
        ("replay", "ReplayFunction"),
        ("recovery", "RecoveryFunction"),
    ] {
        let variables = resource(&template, logical_id)["Properties"]["Environment"]["Variables"].clone();
        let set: BTreeSet<String> = variables
            .as_hash()
            .expect("variables")
            .keys()
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect();
        let read = variables_read(function);
        assert!(read.len() > 3, "{function}: {read:?}");
        assert_eq!(set, read, "{function}");
    }
}

#[test]
fn the_queue_hides_a_message_for_six_times_the_processors_time_out() {
    let template = template();
    let allowed = &template["Parameters"]["ProcessorTimeoutSeconds"]["AllowedValues"];
    let visibility = &template["Mappings"]["QueueVisibility"];
    for seconds in allowed.as_vec().expect("a list") {
        let seconds = number(seconds);
        assert_eq!(number(&visibility[seconds.to_string().as_str()]["Seconds"]), 6 * seconds);
    }
    assert_eq!(visibility.as_hash().expect("a mapping").len(), allowed.as_vec().expect("a list").len());
    let names = &resource(&template, "EventsQueue")["Properties"]["VisibilityTimeout"];
    assert_eq!(names[0].as_str(), Some("QueueVisibility"));
}

#[test]
fn every_schedule_that_the_template_takes_is_taken_by_the_processor() {
    let template = template();
    let bounds = |name: &str| {
        let parameter = &template["Parameters"][name];
        ["MinValue", "Default", "MaxValue"].map(|bound| number(&parameter[bound]))
    };
    for base in bounds("BackoffBaseSeconds") {
        for cap in bounds("BackoffCapSeconds") {
            for receives in bounds("MaxReceiveCount") {
                let receives = u32::try_from(receives).expect("small");
                let schedule = Schedule::new(Duration::from_secs(base), Duration::from_secs(cap), receives);
                assert!(schedule.is_ok(), "base {base}, cap {cap}, receives {receives}: {schedule:?}");
            }
        }
    }
}

#[test]
fn a_dead_letter_outlives_the_events_queue() {
    let template = template();
    let retention =
        |name: &str| number(&resource(&template, name)["Properties"]["MessageRetentionPeriod"]) / (24 * 60 * 60);
    assert_eq!((retention("EventsQueue"), retention("DeadLetterQueue")), (10, 14));
}

#[test]
fn a_dead_letter_is_archived_before_it_expires() {
    let template = template();
    let latest = number(&template["Parameters"]["ArchiveAfterDays"]["MaxValue"]);
    let retention = number(&resource(&template, "DeadLetterQueue")["Properties"]["MessageRetentionPeriod"]);
    assert!(latest + 2 <= retention / (24 * 60 * 60), "a night on which the archive fails can be made up for");
}

#[test]
fn what_was_promised_outlives_the_stack() {
    let template = template();
    for name in ["EventsQueue", "DeadLetterQueue", "EventsTable", "ArchiveBucket"] {
        let resource = resource(&template, name);
        assert_eq!(resource["DeletionPolicy"].as_str(), Some("RetainExceptOnCreate"), "{name}");
        assert_eq!(resource["UpdateReplacePolicy"].as_str(), Some("Retain"), "{name}");
    }
}

#[test]
fn the_events_table_forgets_in_time_and_can_be_brought_back() {
    let table = resource(&template(), "EventsTable")["Properties"].clone();
    assert_eq!(table["TimeToLiveSpecification"]["AttributeName"].as_str(), Some("expires_at"));
    assert_eq!(table["TimeToLiveSpecification"]["Enabled"].as_bool(), Some(true));
    assert_eq!(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"].as_bool(), Some(true));
    assert_eq!(table["SSESpecification"]["SSEEnabled"].as_bool(), Some(true));
    assert_eq!(table["BillingMode"].as_str(), Some("PAY_PER_REQUEST"));
}

#[test]
fn the_archive_is_private_and_ends() {
    let template = template();
    let bucket = resource(&template, "ArchiveBucket")["Properties"].clone();
    for setting in ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"] {
        assert_eq!(bucket["PublicAccessBlockConfiguration"][setting].as_bool(), Some(true), "{setting}");
    }
    assert_eq!(bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"].as_str(), Some("BucketOwnerEnforced"));
    let encryption = &bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0];
    assert_eq!(encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"].as_str(), Some("AES256"));

    let rules = bucket["LifecycleConfiguration"]["Rules"].as_vec().expect("rules").clone();
    assert!(rules.iter().all(|rule| rule["Status"].as_str() == Some("Enabled") && rule["Prefix"].is_badvalue()));
    let rule = |name: &str| rules.iter().find(|rule| !rule[name].is_badvalue()).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(rule("ExpirationInDays")["ExpirationInDays"].as_str(), Some("ArchiveRetentionDays"));
    rule("NoncurrentVersionExpiration");
    rule("AbortIncompleteMultipartUpload");

    let policy = resource(&template, "ArchiveBucketPolicy")["Properties"].clone();
    assert_eq!(policy["Bucket"].as_str(), Some("ArchiveBucket"));
    let statement = &policy["PolicyDocument"]["Statement"][0];
    assert_eq!(statement["Effect"].as_str(), Some("Deny"));
    assert_eq!(statement["Resource"][0].as_str(), Some("ArchiveBucket.Arn"));
    assert_eq!(statement["Resource"][1].as_str(), Some("${ArchiveBucket.Arn}/*"));
    assert_eq!(statement["Condition"]["Bool"]["aws:SecureTransport"].as_str(), Some("false"));
}

fn resources_of(template: &Yaml, kind: &str) -> Vec<Yaml> {
    let resources = template["Resources"].as_hash().expect("resources").values();
    resources.filter(|found| found["Type"].as_str() == Some(kind)).map(|found| found["Properties"].clone()).collect()
}

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

#[test]
fn schedules_ask_functions_in_json_and_under_a_role_that_the_scheduler_may_take() {
    let template = template();
    let schedules = resources_of(&template, "AWS::Scheduler::Schedule");
    let mut actions = BTreeSet::new();
    for schedule in &schedules {
        let target = &schedule["Target"];
        assert_eq!(target["RoleArn"].as_str(), Some("ScheduleRole.Arn"));
        let input = target["Input"].as_str().expect("an input").replace("${ArchiveAfterDays}", "10");
        let input: Value = serde_json::from_str(&input).expect("JSON");
        assert_eq!(input["by"], "schedule");
        if target["Arn"].as_str() == Some("RecoveryFunction.Arn") {
            assert!(Recovery::parse(input, "a test", Timestamp::now()).is_ok());
            continue;
        }
        assert_eq!(target["Arn"].as_str(), Some("ReplayFunction.Arn"));
        actions.insert(input["action"].as_str().expect("an action").to_owned());
    }
    assert_eq!(actions, BTreeSet::from(["archive", "reconcile"].map(String::from)));
    let trust = resource(&template, "ScheduleRole")["Properties"]["AssumeRolePolicyDocument"]["Statement"][0].clone();
    assert_eq!(trust["Principal"]["Service"].as_str(), Some("scheduler.amazonaws.com"));
}

#[test]
fn failures_of_a_batch_are_reported_one_by_one_and_nothing_is_filtered() {
    let template = template();
    let mapping = resource(&template, "ProcessorEventSource")["Properties"].clone();
    assert_eq!(mapping["FunctionResponseTypes"][0].as_str(), Some("ReportBatchItemFailures"));
    assert!(mapping["FilterCriteria"].is_badvalue(), "a filter deletes what it does not match");
    let mappings = template["Resources"].as_hash().expect("resources").values();
    let sources = mappings.filter(|found| found["Type"].as_str() == Some("AWS::Lambda::EventSourceMapping"));
    assert_eq!(sources.count(), 1, "none on the dead-letter queue: that would be a loop");
}

#[test]
fn the_recovery_is_off_until_it_is_configured() {
    let template = template();
    assert_eq!(template["Parameters"]["RecoverySource"]["Default"].as_str(), Some("none"));
    let schedule = resource(&template, "RecoverySchedule");
    assert_eq!(schedule["Condition"].as_str(), Some("RecoveryIsOn"));
    let shortest = number(&template["Parameters"]["RecoveryRateMinutes"]["MinValue"]);
    let longest_run = number(&resource(&template, "RecoveryFunction")["Properties"]["Timeout"]);
    assert!(longest_run <= 60 * shortest, "a run has ended when the next begins");
    let rule = &template["Rules"]["RecoveryIsConfigured"];
    assert_eq!(rule["Assertions"].as_vec().map(Vec::len), Some(2));
}

#[test]
fn the_regions_of_the_template_are_those_of_the_code() {
    let template = template();
    let allowed = template["Parameters"]["GenesysRegion"]["AllowedValues"].as_vec().expect("a list").clone();
    let allowed: Vec<_> = allowed.iter().filter_map(Yaml::as_str).filter(|name| !name.is_empty()).collect();
    assert_eq!(allowed, Region::all().map(|region| region.to_string()).collect::<Vec<_>>());
}

/// What the line is made of is held by a test of the whole function.
#[test]
fn each_run_of_the_recovery_makes_metrics() {
    let template = template();
    let filters = resources_of(&template, "AWS::Logs::MetricFilter");
    let mut metrics = BTreeSet::new();
    for filter in &filters {
        assert_eq!(filter["FilterPattern"].as_str(), Some(r#"{ $.message = "recovery" }"#));
        assert_eq!(filter["LogGroupName"].as_str(), Some("RecoveryLogGroup"));
        let metric = &filter["MetricTransformations"][0];
        assert_eq!(metric["MetricNamespace"].as_str(), Some("GenesysRelay/${AWS::StackName}"));
        metrics
            .insert((metric["MetricName"].as_str().expect("a name"), metric["MetricValue"].as_str().expect("a value")));
    }
    let expected = [
        ("RecoveryBehindSeconds", "$.behind_seconds"),
        ("RecoveryFetched", "$.fetched"),
        ("RecoveryKnown", "$.known"),
        ("RecoveryNew", "$.new"),
        ("RecoveryUnreadable", "$.unreadable"),
    ];
    assert_eq!(metrics, BTreeSet::from(expected));
}

#[test]
fn events_come_from_eventbridge_only_where_a_bus_is_named_and_are_never_dropped() {
    let template = template();
    assert_eq!(template["Parameters"]["EventBusName"]["Default"].as_str(), Some(""));
    let rules = resources_of(&template, "AWS::Events::Rule");
    assert_eq!(rules.len(), 1);
    let whole = resource(&template, "GenesysEventRule");
    assert_eq!(whole["Condition"].as_str(), Some("TakesEventBridge"));
    assert_eq!(template["Conditions"]["TakesEventBridge"][0][0].as_str(), Some("EventBusName"));

    let rule = &whole["Properties"];
    assert_eq!(rule["EventBusName"].as_str(), Some("EventBusName"));
    let pattern = &rule["EventPattern"];
    assert_eq!(pattern["source"][0]["prefix"].as_str(), Some("EventSourcePrefix"));
    assert_eq!(pattern["detail-type"][0]["wildcard"].as_str(), Some("EventTopics"));
    assert_eq!(pattern.as_hash().expect("a pattern").len(), 2, "nothing else decides");

    let targets = rule["Targets"].as_vec().expect("targets");
    let [target] = &targets[..] else { panic!("one target: {targets:?}") };
    assert_eq!(target["Arn"].as_str(), Some("EventsQueue.Arn"));
    assert_eq!(target["DeadLetterConfig"]["Arn"].as_str(), Some("DeadLetterQueue.Arn"));
    assert_eq!(number(&target["RetryPolicy"]["MaximumEventAgeInSeconds"]), 24 * 60 * 60);
    assert_eq!(number(&target["RetryPolicy"]["MaximumRetryAttempts"]), 185);
    for changed in ["Input", "InputPath", "InputTransformer", "RoleArn"] {
        assert!(target[changed].is_badvalue(), "{changed}: the event goes on as it came, by leave of the queue");
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

/// Queue policies have no effect in the local AWS.
#[test]
fn the_queues_are_encrypted_and_refuse_what_is_not_tls() {
    let template = template();
    for (queue, policy) in [("EventsQueue", "EventsQueuePolicy"), ("DeadLetterQueue", "DeadLetterQueuePolicy")] {
        let encrypted = resource(&template, queue)["Properties"]["SqsManagedSseEnabled"].as_bool();
        assert_eq!(encrypted, Some(true), "{queue}");
        let policy = resource(&template, policy)["Properties"].clone();
        assert_eq!(policy["Queues"][0].as_str(), Some(queue));
        let statements = policy["PolicyDocument"]["Statement"].as_vec().expect("statements").clone();
        let denied: Vec<_> = statements.iter().filter(|found| found["Effect"].as_str() == Some("Deny")).collect();
        let [denied] = &denied[..] else { panic!("{queue}: {denied:?}") };
        assert_eq!((denied["Principal"].as_str(), denied["Action"].as_str()), (Some("*"), Some("sqs:*")), "{queue}");
        assert_eq!(denied["Resource"].as_str(), Some(format!("{queue}.Arn").as_str()));
        assert_eq!(denied["Condition"]["Bool"]["aws:SecureTransport"].as_str(), Some("false"), "{queue}");
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
fn what_strangers_can_cost_has_bounds() {
    let template = template();
    let limits = resource(&template, "DefaultStage")["Properties"]["DefaultRouteSettings"].clone();
    for limit in ["ThrottlingRateLimit", "ThrottlingBurstLimit"] {
        assert_eq!(limits[limit].as_str(), Some(limit));
        number(&template["Parameters"][limit]["Default"]);
        number(&template["Parameters"][limit]["MaxValue"]);
    }
    let mapping = resource(&template, "ProcessorEventSource")["Properties"].clone();
    assert_eq!(mapping["ScalingConfig"]["MaximumConcurrency"].as_str(), Some("MaximumConcurrency"));
    for (name, found) in template["Resources"].as_hash().expect("resources") {
        if found["Type"].as_str() == Some("AWS::Logs::LogGroup") {
            assert_eq!(found["Properties"]["RetentionInDays"].as_str(), Some("LogRetentionDays"), "{name:?}");
        }
    }
}

/// Genesys gives up after ten seconds ("Open Messaging", outbound webhook).
#[test]
fn a_sender_is_answered_before_it_goes_away() {
    let template = template();
    let function = 1000 * number(&resource(&template, "IngestFunction")["Properties"]["Timeout"]);
    let integration = number(&resource(&template, "IngestIntegration")["Properties"]["TimeoutInMillis"]);
    assert!(function < integration && integration < 10_000, "{function} ms, {integration} ms");
}

#[test]
fn no_role_may_do_more_than_it_does() {
    let template = template();
    for (role, expected) in [
        ("IngestRole", ["logs", "secretsmanager:GetSecretValue", "sqs:SendMessage"].as_slice()),
        (
            "ProcessorRole",
            &[
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "logs",
                "secretsmanager:GetSecretValue",
                "sqs:ChangeMessageVisibility",
                "sqs:DeleteMessage",
                "sqs:GetQueueAttributes",
                "sqs:ReceiveMessage",
                "sqs:SendMessage",
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
            ],
        ),
        ("ScheduleRole", &["lambda:InvokeFunction"]),
    ] {
        let properties = resource(&template, role)["Properties"].clone();
        assert!(properties["ManagedPolicyArns"].is_badvalue(), "{role}: managed policies grant too much");
        let mut granted = BTreeSet::new();
        let statements = properties["Policies"][0]["PolicyDocument"]["Statement"].clone();
        for statement in statements.as_vec().expect("statements") {
            // An action of CloudWatch that names no resources ("Actions, resources, and condition keys for Amazon CloudWatch").
            let of_metrics = statement["Action"].as_str() == Some("cloudwatch:GetMetricStatistics");
            assert!(of_metrics || statement["Resource"].as_str() != Some("*"), "{role}");
            let actions = match &statement["Action"] {
                Yaml::Array(actions) => actions.clone(),
                action => vec![action.clone()],
            };
            for action in actions {
                let action = action.as_str().expect("an action").to_owned();
                assert!(!action.contains('*'), "{role}: {action}");
                granted.insert(if action.starts_with("logs:") { "logs".to_owned() } else { action });
            }
        }
        assert_eq!(granted.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{role}");
    }
}

#[test]
fn the_outputs_are_those_that_others_script_against() {
    let template = template();
    for output in [
        "WebhookUrl",
        "DeadLetterApiUrl",
        "QueueUrl",
        "QueueArn",
        "DeadLetterQueueUrl",
        "EventsTableName",
        "ArchiveBucketName",
        "SecretArn",
        "IngestFunctionName",
        "ProcessorFunctionName",
        "ReplayFunctionName",
        "RecoveryFunctionName",
    ] {
        assert!(!template["Outputs"][output]["Value"].is_badvalue(), "{output}");
    }
}

#[test]
fn every_parameter_is_described_and_in_the_readme() {
    let template = template();
    let readme = file("README.md");
    for (name, parameter) in template["Parameters"].as_hash().expect("parameters") {
        let name = name.as_str().expect("a name");
        assert!(parameter["Description"].as_str().is_some_and(|text| text.len() > 20), "{name}");
        assert!(readme.contains(&format!("`{name}`")), "the README does not list {name}");
    }
    for function in ["ingest", "processor", "replay", "recovery"] {
        for name in variables_read(function) {
            assert!(readme.contains(&format!("`{name}`")), "the README does not list {name}");
        }
    }
}
