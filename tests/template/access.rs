//! Access: every role, trust, permission and resource policy in one reviewed text.

use super::*;

/// The reviewed text.
const REVIEWED: &str = "tests/template/access.snap.txt";

/// Variable with which the test writes [`REVIEWED`] before it compares.
const UPDATE: &str = "GENESYS_RELAY_UPDATE_SNAPSHOTS";

/// Properties that give no access, by type. All others are shown: a new property of these types,
/// and every property of a new type.
const NO_ACCESS: [(&str, &[&str]); 19] = [
    (
        "AWS::ApiGatewayV2::Api",
        &["Name", "Description", "ProtocolType"],
    ),
    (
        "AWS::ApiGatewayV2::Integration",
        &[
            "ApiId",
            "IntegrationType",
            "IntegrationMethod",
            "PayloadFormatVersion",
            "TimeoutInMillis",
        ],
    ),
    ("AWS::ApiGatewayV2::Route", &["ApiId"]),
    (
        "AWS::ApiGatewayV2::Stage",
        &[
            "ApiId",
            "StageName",
            "AutoDeploy",
            "DefaultRouteSettings",
            "AccessLogSettings",
        ],
    ),
    // The resources of the nested stack are shown as its own.
    ("AWS::CloudFormation::Stack", &["TemplateURL", "Parameters"]),
    (
        "AWS::CloudWatch::Alarm",
        &[
            "AlarmName",
            "AlarmDescription",
            "Namespace",
            "MetricName",
            "Dimensions",
            "Statistic",
            "Period",
            "EvaluationPeriods",
            "ComparisonOperator",
            "Threshold",
            "TreatMissingData",
            "AlarmActions",
            "OKActions",
        ],
    ),
    (
        "AWS::CloudWatch::Dashboard",
        &["DashboardName", "DashboardBody"],
    ),
    (
        "AWS::DynamoDB::Table",
        &[
            "BillingMode",
            "AttributeDefinitions",
            "KeySchema",
            "GlobalSecondaryIndexes",
            "TimeToLiveSpecification",
            "PointInTimeRecoverySpecification",
            "SSESpecification",
        ],
    ),
    (
        "AWS::Events::Rule",
        &["Name", "Description", "EventBusName", "EventPattern"],
    ),
    (
        "AWS::Lambda::EventSourceMapping",
        &["BatchSize", "FunctionResponseTypes", "ScalingConfig"],
    ),
    (
        "AWS::Logs::LogGroup",
        &["LogGroupName", "RetentionInDays", "KmsKeyId"],
    ),
    (
        "AWS::Logs::MetricFilter",
        &["LogGroupName", "FilterPattern", "MetricTransformations"],
    ),
    (
        "AWS::Logs::QueryDefinition",
        &["Name", "LogGroupNames", "QueryString"],
    ),
    (
        "AWS::S3::Bucket",
        &[
            "BucketEncryption",
            "VersioningConfiguration",
            "LifecycleConfiguration",
        ],
    ),
    (
        "AWS::SQS::Queue",
        &[
            "QueueName",
            "FifoQueue",
            "DeduplicationScope",
            "FifoThroughputLimit",
            "MessageRetentionPeriod",
            "MaximumMessageSize",
            "VisibilityTimeout",
            "ReceiveMessageWaitTimeSeconds",
            "SqsManagedSseEnabled",
            "KmsMasterKeyId",
            "KmsDataKeyReusePeriodSeconds",
            "RedrivePolicy",
        ],
    ),
    (
        "AWS::Scheduler::Schedule",
        &["Description", "ScheduleExpression", "FlexibleTimeWindow"],
    ),
    ("AWS::SNS::Topic", &["DisplayName", "KmsMasterKeyId"]),
    (
        "AWS::SecretsManager::Secret",
        &["Description", "KmsKeyId", "GenerateSecretString"],
    ),
    (
        "AWS::Serverless::Function",
        &[
            "FunctionName",
            "Description",
            "CodeUri",
            "Handler",
            "Runtime",
            "Architectures",
            "MemorySize",
            "Tracing",
            "KmsKeyArn",
            "Timeout",
            "ReservedConcurrentExecutions",
            "LoggingConfig",
            "Environment",
        ],
    ),
];

/// Parts of a template, and attributes of a resource, that give no access.
const NO_ACCESS_OF_TEMPLATE: [&str; 9] = [
    "AWSTemplateFormatVersion",
    "Description",
    "Metadata",
    "Parameters",
    "Rules",
    "Conditions",
    "Mappings",
    "Outputs",
    "Resources",
];
const NO_ACCESS_OF_RESOURCE: [&str; 6] = [
    "Type",
    "Metadata",
    "DependsOn",
    "DeletionPolicy",
    "UpdateReplacePolicy",
    "Properties",
];

/// One value, or several, as texts.
fn scalars(yaml: &Yaml) -> Option<Vec<String>> {
    match yaml {
        Yaml::Array(values) => values.iter().map(scalar).collect(),
        value => scalar(value).map(|value| vec![value]),
    }
}

/// Text to review with everything in a template that gives access.
struct Snapshot {
    text: String,
}

impl Snapshot {
    fn of(template: &Yaml) -> Self {
        let mut snapshot = Self {
            text: String::new(),
        };
        for (part, value) in
            entries(template).filter(|(part, _)| !NO_ACCESS_OF_TEMPLATE.contains(&part.as_str()))
        {
            snapshot.value(0, &part, value);
        }
        for (name, resource) in entries(&template["Resources"]) {
            snapshot.resource(&name, resource);
        }
        snapshot
    }

    fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn resource(&mut self, name: &str, resource: &Yaml) {
        let kind = resource["Type"].as_str().expect("a type");
        let known = NO_ACCESS
            .iter()
            .find(|(known, _)| *known == kind)
            .map(|(_, properties)| *properties);
        let attributes =
            entries(resource).filter(|(key, _)| !NO_ACCESS_OF_RESOURCE.contains(&key.as_str()));
        let properties = entries(&resource["Properties"]);
        let properties: Vec<_> = properties
            .filter(|(key, _)| !known.unwrap_or_default().contains(&key.as_str()))
            .collect();
        if known.is_some() && properties.is_empty() {
            return;
        }
        self.line(0, &format!("\n{name} ({kind})"));
        for (key, value) in attributes.chain(properties) {
            self.value(1, &key, value);
        }
    }

    fn value(&mut self, depth: usize, key: &str, value: &Yaml) {
        if let Some(values) = scalars(value) {
            // The version of the language; another one is shown.
            if (key, values.join("").as_str()) != ("Version", "2012-10-17") {
                self.line(depth, &format!("{key}: {}", values.join(", ")));
            }
        } else if !value["Effect"].is_badvalue() {
            self.statement(depth, value);
        } else if let Yaml::Array(items) = value {
            self.line(depth, key);
            for item in items {
                self.value(depth + 1, "-", item);
            }
        } else {
            self.line(depth, key);
            for (key, value) in entries(value) {
                self.value(depth + 1, &key, value);
            }
        }
    }

    fn statement(&mut self, depth: usize, statement: &Yaml) {
        self.line(depth, &scalar(&statement["Effect"]).expect("an effect"));
        for (key, value) in
            entries(statement).filter(|(key, _)| !["Sid", "Effect"].contains(&key.as_str()))
        {
            let values = value
                .as_vec()
                .map_or(std::slice::from_ref(value), Vec::as_slice);
            let values: Option<Vec<_>> = values.iter().map(scalars).collect();
            match (key.as_str(), values) {
                // One under a condition is `condition, value, nothing`.
                ("Action" | "Resource", Some(values)) => {
                    for one in values {
                        self.line(depth + 1, &format!("{key}: {}", one.join(", ")));
                    }
                }
                _ => self.value(depth + 1, &key, value),
            }
        }
    }
}

/// The lines of one text that are not in another, as often as they are in it.
fn only_in<'a>(one: &'a str, other: &str) -> Vec<&'a str> {
    let mut others: Vec<_> = other.lines().collect();
    let mut is_new = |line: &&str| match others.iter().position(|other| other == line) {
        Some(at) => {
            others.swap_remove(at);
            false
        }
        None => true,
    };
    one.lines().filter(|line| is_new(line)).collect()
}

/// Roles with their policies and trusts, permissions, routes, function URLs, policies of queues,
/// bucket and topic: each action, resource, condition and principal.
#[test]
fn access_is_what_was_reviewed() {
    let found = Snapshot::of(&template()).text;
    if std::env::var_os(UPDATE).is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(REVIEWED);
        std::fs::write(&path, &found).expect("written");
    }
    let reviewed = file(REVIEWED);
    assert!(
        found == reviewed,
        "template.yaml gives other access than {REVIEWED}, which people have reviewed.\nnow: {:#?}\nreviewed: {:#?}\n\
         If that is meant: cargo xtask snapshots, and review the file's diff.",
        only_in(&found, &reviewed),
        only_in(&reviewed, &found),
    );
}

/// Sets the value at a path, or appends to a list when the path ends in `+`.
fn set(yaml: &mut Yaml, path: &str, value: &str) {
    let mut place = yaml;
    for part in path.split('.') {
        if let Yaml::Array(items) = place {
            let at = part.parse().unwrap_or(items.len());
            if at == items.len() {
                items.push(Yaml::Null);
            }
            place = &mut items[at];
        } else {
            if place.as_hash().is_none() {
                *place = Yaml::Hash(yaml_rust2::yaml::Hash::new());
            }
            let Yaml::Hash(entries) = place else {
                unreachable!("it was made one")
            };
            place = entries
                .entry(Yaml::String(part.to_owned()))
                .or_insert(Yaml::Null);
        }
    }
    *place = YamlLoader::load_from_str(value).expect("YAML").remove(0);
}

/// Ways to widen access: a path in the template, its new value, and the line that the snapshot must
/// show.
const WIDER: [(&str, &str, &str); 38] = [
    (
        "IngestRole.Properties.Policies.0.PolicyDocument.Statement.+",
        "{Effect: Allow, Action: 'secretsmanager:GetSecretValue', Resource: '*'}",
        "Resource: *",
    ),
    (
        "ReplayRole.Properties.Policies.0.PolicyDocument.Statement.+",
        "{Effect: Allow, Action: 'logs:DeleteLogGroup', Resource: '*'}",
        "Action: logs:DeleteLogGroup",
    ),
    (
        "ReplayRole.Properties.Policies.0.PolicyDocument.Statement.+",
        "{Effect: Allow, Action: ['s3:GetObject', 's3:PutObject'], Resource: 'arn:aws:s3:::*/*'}",
        "Resource: arn:aws:s3:::*/*",
    ),
    (
        "IngestRole.Properties.Policies.0.PolicyDocument.Statement.0.Action",
        "'logs:*'",
        "Action: logs:*",
    ),
    (
        "ProcessorRole.Properties.Policies.0.PolicyDocument.Statement.+",
        "{Effect: Allow, NotAction: 'iam:*', NotResource: 'arn:aws:s3:::none'}",
        "NotAction: iam:*",
    ),
    (
        "IngestRole.Properties.Policies.+",
        "{PolicyName: more, PolicyDocument: {Statement: {Effect: Allow, Action: 'sqs:*', Resource: '*'}}}",
        "Action: sqs:*",
    ),
    (
        "BreakerRole.Properties.ManagedPolicyArns",
        "['arn:aws:iam::aws:policy/AdministratorAccess']",
        "AdministratorAccess",
    ),
    (
        "ReplayRole.Properties.AssumeRolePolicyDocument.Statement.+",
        "{Effect: Allow, Principal: {AWS: '*'}, Action: 'sts:AssumeRole'}",
        "AWS: *",
    ),
    (
        "LookRole.Properties.Policies.0.PolicyDocument.Statement.+",
        "{Effect: Allow, Action: 'dynamodb:PutItem', Resource: EventsTable.Arn}",
        "Action: dynamodb:PutItem",
    ),
    (
        "LookPolicy.Properties.PolicyDocument.Statement.0.Resource",
        "ReplayFunction.Arn",
        "Resource: ReplayFunction.Arn",
    ),
    (
        "ActPolicy.Properties.Roles",
        "[IngestRole]",
        "Roles: IngestRole",
    ),
    (
        "ScheduleRole.Properties.AssumeRolePolicyDocument.Statement.0.Condition",
        "{}",
        "",
    ),
    (
        "ScheduleRole.Properties.AssumeRolePolicyDocument.Statement.0.Principal",
        "'*'",
        "Principal: *",
    ),
    (
        "BreakerRole.Properties.Policies.0.PolicyDocument.Statement.2.Condition",
        "{}",
        "",
    ),
    (
        "BreakerRole.Properties.Policies.0.PolicyDocument.Statement.2.Condition.Null",
        "{}",
        "",
    ),
    (
        "Extra",
        "{Type: 'AWS::IAM::Policy', Properties: {PolicyName: more, Roles: [IngestRole], PolicyDocument: \
         {Statement: [{Effect: Allow, Action: '*', Resource: '*'}]}}}",
        "Action: *",
    ),
    (
        "Extra",
        "{Type: 'AWS::IAM::Role', Properties: {AssumeRolePolicyDocument: {Statement: [{Effect: Allow, \
         Principal: {AWS: '*'}, Action: 'sts:AssumeRole'}]}}}",
        "AWS: *",
    ),
    (
        "Extra",
        "{Type: 'AWS::IAM::User'}",
        "Extra (AWS::IAM::User)",
    ),
    (
        "IngestFunction.Properties.FunctionUrlConfig",
        "{AuthType: NONE}",
        "AuthType: NONE",
    ),
    (
        "Extra",
        "{Type: 'AWS::Lambda::Url', Properties: {AuthType: NONE, TargetFunctionArn: ReplayFunction.Arn}}",
        "AuthType: NONE",
    ),
    (
        "ReplayFunction.Properties.EventInvokeConfig.DestinationConfig.OnSuccess",
        "{Type: SQS, Destination: 'arn:aws:sqs:eu-central-1:999999999999:theirs'}",
        "Destination: arn:aws:sqs:eu-central-1:999999999999:theirs",
    ),
    (
        "GenesysEventRule.Properties.Targets.+",
        "{Id: more, Arn: 'arn:aws:sqs:eu-central-1:999999999999:theirs'}",
        "Arn: arn:aws:sqs:eu-central-1:999999999999:theirs",
    ),
    (
        "IngestFunction.Properties.Policies",
        "[AdministratorAccess]",
        "AdministratorAccess",
    ),
    (
        "ReplayPermission.Properties.Principal",
        "'*'",
        "Principal: *",
    ),
    (
        "Extra",
        "{Type: 'AWS::Lambda::Permission', Properties: {FunctionName: ReplayFunction, Principal: '*', \
         Action: 'lambda:InvokeFunction'}}",
        "Principal: *",
    ),
    (
        "ShowDeadLetterRoute.Properties.AuthorizationType",
        "NONE",
        "AuthorizationType: NONE",
    ),
    (
        "ArchiveBucketPolicy.Properties.PolicyDocument.Statement.+",
        "{Effect: Allow, Principal: '*', Action: 's3:GetObject', Resource: '*'}",
        "Action: s3:GetObject",
    ),
    (
        "ArchiveBucket.Properties.PublicAccessBlockConfiguration.BlockPublicPolicy",
        "false",
        "BlockPublicPolicy: false",
    ),
    (
        "ArchiveBucket.Properties.AccessControl",
        "PublicRead",
        "AccessControl: PublicRead",
    ),
    (
        "EventsQueuePolicy.Properties.PolicyDocument.Statement.1.Condition.ArnLike.aws:SourceArn",
        "'*'",
        "aws:SourceArn: *",
    ),
    (
        "OrderedDeadLetterQueue.Properties.RedriveAllowPolicy.redrivePermission",
        "allowAll",
        "redrivePermission: allowAll",
    ),
    (
        "AlarmTopicPolicy.Properties.PolicyDocument.Statement.0.Principal",
        "{AWS: '*'}",
        "AWS: *",
    ),
    (
        "EventsTable.Properties.ResourcePolicy",
        "{PolicyDocument: {Statement: [{Effect: Allow, Principal: '*', Action: 'dynamodb:*', Resource: '*'}]}}",
        "Action: dynamodb:*",
    ),
    (
        "Extra",
        "{Type: 'AWS::SecretsManager::ResourcePolicy', Properties: {SecretId: Secret, ResourcePolicy: {Statement: \
         [{Effect: Allow, Principal: '*', Action: 'secretsmanager:GetSecretValue', Resource: '*'}]}}}",
        "Action: secretsmanager:GetSecretValue",
    ),
    (
        "IngestRole.Properties.Policies.1.1.PolicyDocument.Statement.0.Resource",
        "'*'",
        "Resource: *",
    ),
    (
        "ReplayRole.Properties.Policies.1.1.PolicyDocument.Statement.0.Condition",
        "{}",
        "",
    ),
    (
        "ProcessorRole.Properties.Policies.2.1.PolicyDocument.Statement.1.Condition",
        "{}",
        "",
    ),
    (
        "RecoveryRole.Properties.PermissionsBoundary",
        "'AWS::NoValue'",
        "PermissionsBoundary: AWS::NoValue",
    ),
];

#[test]
fn access_that_is_widened_is_noticed() {
    let reviewed = Snapshot::of(&template()).text;
    for (path, value, shown) in WIDER {
        let mut wider = template();
        set(&mut wider, &format!("Resources.{path}"), value);
        let found = Snapshot::of(&wider).text;
        assert_ne!(found, reviewed, "{path}: {value}");
        let added = only_in(&found, &reviewed);
        assert!(
            shown.is_empty() || added.iter().any(|line| line.contains(shown)),
            "{path}: {value}: {added:?}"
        );
    }
    let mut globals = template();
    set(
        &mut globals,
        "Globals.Function.FunctionUrlConfig",
        "{AuthType: NONE}",
    );
    assert!(Snapshot::of(&globals).text.contains("AuthType: NONE"));
}

/// True where a condition on the keys allows this one to be written. `Null` excludes requests
/// without keys.
fn covers(condition: &Yaml, key: &str) -> bool {
    assert_eq!(
        condition["Null"]["dynamodb:LeadingKeys"].as_str(),
        Some("false"),
        "{condition:?}"
    );
    let matches = |operator: &str| {
        let patterns = scalars(&condition[operator]["dynamodb:LeadingKeys"]).unwrap_or_default();
        patterns.iter().any(|pattern| {
            pattern
                .strip_suffix('*')
                .map_or(pattern == key, |start| key.starts_with(start))
        })
    };
    if condition["ForAllValues:StringNotLike"].is_badvalue() {
        matches("ForAllValues:StringLike") || matches("ForAllValues:StringEquals")
    } else {
        !matches("ForAllValues:StringNotLike")
    }
}

/// Items of the relay itself, beside records of events and their bodies. replay closes a breaker
/// that does not run.
#[test]
fn no_function_writes_an_item_of_the_relay_that_belongs_to_another() {
    let template = template();
    let items = [
        "event",
        "#breaker",
        "#canary",
        "#erasures",
        "#statement",
        "attempts#now",
        "check-1",
        "checkpoint#log",
        "lease#breaker",
        "lease#dead-letters",
        "lease#recovery",
        "run#1",
    ];
    let own: [(&str, &[&str]); 6] = [
        ("LookRole", &[]),
        ("ProcessorRole", &["event", "attempts#now", "check-1"]),
        ("CanaryRole", &["#canary", "check-1"]),
        ("BreakerRole", &["#breaker", "lease#breaker"]),
        (
            "ReplayRole",
            &[
                "event",
                "#breaker",
                "#erasures",
                "check-1",
                "lease#dead-letters",
                "run#1",
            ],
        ),
        (
            "RecoveryRole",
            &[
                "event",
                "#statement",
                "check-1",
                "checkpoint#log",
                "lease#recovery",
            ],
        ),
    ];
    for (role, own) in own {
        let policy = &resource(&template, role)["Properties"]["Policies"][0]["PolicyDocument"];
        let statements = policy["Statement"].as_vec().expect("statements").iter();
        let writing: Vec<_> = statements
            .filter(|statement| {
                let actions = scalars(&statement["Action"]).expect("actions");
                actions.iter().any(|action| {
                    action.starts_with("dynamodb:")
                        && ["Put", "Update", "Delete", "*"]
                            .iter()
                            .any(|verb| action.contains(verb))
                })
            })
            .collect();
        let written = items.into_iter().filter(|item| {
            writing
                .iter()
                .any(|found| covers(&found["Condition"], item))
        });
        assert_eq!(written.collect::<Vec<_>>(), own, "{role}");
    }
}
