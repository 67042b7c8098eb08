//! Rules of an account: the key, the VPC, the domain, the boundary, the target that IAM protects.
//! Each is off by default, and reaches every place where it is on.

use regex_lite::Regex;

use super::*;

const BOUNDARY_PAGE: &str = "docs/operate/permissions-boundary-and-tags.md";
const KEY_PAGE: &str = "docs/operate/customer-managed-key.md";

/// The parts of an `!If`: the condition, and a value for each outcome.
fn either(yaml: &Yaml) -> [String; 3] {
    let parts = yaml.as_vec().unwrap_or_else(|| panic!("no !If: {yaml:?}"));
    let parts: Vec<_> = parts.iter().filter_map(scalar).collect();
    parts.try_into().expect("three values")
}

fn roles(template: &Yaml) -> Vec<(String, Yaml)> {
    let roles = entries(&template["Resources"])
        .filter(|(_, found)| found["Type"].as_str() == Some("AWS::IAM::Role"))
        .map(|(name, found)| (name, found["Properties"].clone()));
    roles.collect()
}

/// The policies of a role that stand under a condition.
fn conditional_policies(role: &Yaml) -> BTreeMap<String, Yaml> {
    let policies = role["Policies"].as_vec().expect("policies").iter();
    policies
        .filter_map(Yaml::as_vec)
        .map(|parts| {
            assert_eq!(parts[2].as_str(), Some("AWS::NoValue"));
            let condition = parts[0].as_str().expect("a condition").to_owned();
            (condition, parts[1].clone())
        })
        .collect()
}

fn texts(yaml: &Yaml) -> BTreeSet<String> {
    match yaml {
        Yaml::Array(items) => items.iter().filter_map(scalar).collect(),
        one => scalar(one).into_iter().collect(),
    }
}

/// The first block of JSON of a page.
fn json_of(page: &str) -> Value {
    let text = file(page);
    let (_, block) = text.split_once("```json\n").expect("a block of JSON");
    let (block, _) = block.split_once("```").expect("its end");
    serde_json::from_str(block).unwrap_or_else(|error| panic!("{page}: {error}"))
}

#[test]
fn everything_is_encrypted_with_the_accounts_key_where_it_has_one() {
    // Each type that stores something, the property that names the key, and how often there is one.
    const STORES: [(&str, &[&str], usize); 7] = [
        ("AWS::SQS::Queue", &["KmsMasterKeyId"], 5),
        (
            "AWS::DynamoDB::Table",
            &["SSESpecification", "KMSMasterKeyId"],
            1,
        ),
        ("AWS::S3::Bucket", &[], 1),
        ("AWS::SecretsManager::Secret", &["KmsKeyId"], 2),
        ("AWS::Logs::LogGroup", &["KmsKeyId"], 8),
        ("AWS::SNS::Topic", &["KmsMasterKeyId"], 1),
        ("AWS::Serverless::Function", &["KmsKeyArn"], 7),
    ];
    let template = template();
    let own = ["HasKey", "KmsKeyArn", "AWS::NoValue"];
    for (kind, path, count) in STORES {
        let stores = resources_of(&template, kind);
        assert_eq!(stores.len(), count, "{kind}");
        for store in stores.iter().filter(|_| !path.is_empty()) {
            let found = path.iter().fold(store, |found, part| &found[*part]);
            assert_eq!(either(found), own, "{kind}");
        }
    }
    // A key of SQS or of the account, never both.
    for queue in resources_of(&template, "AWS::SQS::Queue") {
        assert_eq!(
            either(&queue["SqsManagedSseEnabled"]),
            ["HasKey", "false", "true"]
        );
        assert_eq!(
            either(&queue["KmsDataKeyReusePeriodSeconds"]),
            ["HasKey", "3600", "AWS::NoValue"]
        );
    }
    let bucket = resource(&template, "ArchiveBucket")["Properties"]["BucketEncryption"].clone();
    let rule = &bucket["ServerSideEncryptionConfiguration"][0];
    let by_default = &rule["ServerSideEncryptionByDefault"];
    assert_eq!(
        either(&by_default["SSEAlgorithm"]),
        ["HasKey", "aws:kms", "AES256"]
    );
    assert_eq!(either(&by_default["KMSMasterKeyID"]), own);
    assert_eq!(
        either(&rule["BucketKeyEnabled"]),
        ["HasKey", "true", "AWS::NoValue"]
    );
}

/// The key is used through the services that the role's other permissions name.
#[test]
fn each_role_may_use_the_key_for_its_own_services_only() {
    let template = template();
    for (name, role) in roles(&template) {
        let statements = role["Policies"][0]["PolicyDocument"]["Statement"].clone();
        let actions: BTreeSet<_> = statements
            .as_vec()
            .expect("statements")
            .iter()
            .flat_map(|statement| texts(&statement["Action"]))
            // The attributes and the tasks of a queue are not encrypted.
            .filter(|action| {
                !["sqs:GetQueueAttributes", "sqs:ListMessageMoveTasks"].contains(&action.as_str())
            })
            .collect();
        let services = ["sqs", "dynamodb", "s3", "secretsmanager"].into_iter();
        let used: BTreeSet<_> = services
            .filter(|service| {
                actions
                    .iter()
                    .any(|action| action.starts_with(&format!("{service}:")))
            })
            .map(|service| format!("{service}.${{AWS::Region}}.*"))
            .collect();
        let policy = conditional_policies(&role).remove("HasKey");
        let via = policy.map(|policy| {
            let statement = &policy["PolicyDocument"]["Statement"][0];
            let to_use = match name.as_str() {
                // What it writes to no service needs no key.
                "LookRole" => &["kms:Decrypt"][..],
                _ => &["kms:Decrypt", "kms:GenerateDataKey"],
            };
            let to_use: BTreeSet<_> = to_use.iter().map(|action| (*action).to_owned()).collect();
            assert_eq!(texts(&statement["Action"]), to_use, "{name}");
            assert_eq!(statement["Resource"].as_str(), Some("KmsKeyArn"));
            texts(&statement["Condition"]["StringLike"]["kms:ViaService"])
        });
        assert_eq!(via.unwrap_or_default(), used, "{name}");
    }
}

#[test]
fn the_key_policy_in_the_docs_lets_in_the_services_that_call_by_themselves() {
    let policy = json_of(KEY_PAGE);
    let statements = policy["Statement"].as_array().expect("statements");
    let services: BTreeSet<_> = statements
        .iter()
        .filter_map(|statement| statement["Principal"]["Service"].as_str())
        .collect();
    assert_eq!(
        services,
        [
            "cloudwatch.amazonaws.com",
            "events.amazonaws.com",
            "logs.eu-central-1.amazonaws.com"
        ]
        .into()
    );
    // CloudFormation changes queues before roles, and what waits stays under a former key.
    let at_any_time = statements
        .iter()
        .find(|statement| statement["Principal"]["AWS"] == "*")
        .expect("a statement for the functions");
    assert_eq!(
        at_any_time["Condition"]["ArnLike"]["aws:PrincipalArn"],
        "arn:aws:iam::123456789012:role/genesys-relay-*"
    );
}

#[test]
fn every_role_is_bounded_where_the_account_demands_it() {
    let template = template();
    let roles = roles(&template);
    assert_eq!(roles.len(), 8);
    for (name, role) in roles {
        assert_eq!(
            either(&role["PermissionsBoundary"]),
            ["IsBounded", "PermissionsBoundaryArn", "AWS::NoValue"],
            "{name}"
        );
    }
    // SAM makes a role for a function without one, and CloudFormation asks for this by itself.
    for function in resources_of(&template, "AWS::Serverless::Function") {
        assert!(!function["Role"].is_badvalue(), "{function:?}");
    }
}

/// A boundary with less would refuse a function what it needs.
#[test]
fn the_boundary_in_the_docs_allows_what_the_roles_do_and_no_more() {
    let boundary = json_of(BOUNDARY_PAGE);
    let statements = boundary["Statement"].as_array().expect("statements");
    let allowed: BTreeSet<_> = statements
        .iter()
        .flat_map(|statement| statement["Action"].as_array().expect("a list"))
        .map(|action| action.as_str().expect("an action").to_owned())
        .collect();
    let mut needed = BTreeSet::new();
    for (_, role) in roles(&template()) {
        let first = role["Policies"][0].clone();
        for policy in conditional_policies(&role).into_values().chain([first]) {
            let statements = policy["PolicyDocument"]["Statement"].clone();
            for statement in statements.as_vec().expect("statements") {
                if statement["Effect"].as_str() == Some("Allow") {
                    needed.extend(texts(&statement["Action"]));
                }
            }
        }
    }
    assert_eq!(allowed, needed);
}

#[test]
fn only_the_processor_calls_from_the_vpc_and_only_lambda_connects_it() {
    let template = template();
    for (function, logical_id) in FUNCTIONS {
        let vpc = &resource(&template, logical_id)["Properties"]["VpcConfig"];
        assert_eq!(!vpc.is_badvalue(), function == "processor", "{function}");
    }
    let vpc = resource(&template, "ProcessorFunction")["Properties"]["VpcConfig"].clone();
    assert_eq!(vpc[0].as_str(), Some("IsInVpc"));
    for (property, parameter) in [
        ("SubnetIds", "VpcSubnetIds"),
        ("SecurityGroupIds", "VpcSecurityGroupIds"),
    ] {
        assert_eq!(vpc[1][property][1].as_str(), Some(parameter));
    }
    let role = resource(&template, "ProcessorRole")["Properties"].clone();
    let policy = conditional_policies(&role)
        .remove("IsInVpc")
        .expect("a policy");
    let deny = &policy["PolicyDocument"]["Statement"][1];
    let function = deny["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"].as_str();
    let name = resource(&template, "ProcessorFunction")["Properties"]["FunctionName"].clone();
    assert!(
        function.is_some_and(|arn| arn.ends_with(name.as_str().expect("a name"))),
        "{function:?}"
    );
    assert_eq!(
        (deny["Effect"].as_str(), deny["Action"].as_str()),
        (Some("Deny"), Some("ec2:*"))
    );
}

#[test]
fn the_role_may_call_the_target_of_the_parameter_alone() {
    let role = resource(&template(), "ProcessorRole")["Properties"].clone();
    let policy = conditional_policies(&role)
        .remove("SignsForIam")
        .expect("a policy");
    let statements = policy["PolicyDocument"]["Statement"].clone();
    let statements = statements.as_vec().expect("statements");
    for statement in statements {
        assert_eq!(statement["Resource"].as_str(), Some("TargetSigV4Arn"));
    }
    let of_function = statements
        .iter()
        .find(|statement| texts(&statement["Action"]).contains("lambda:InvokeFunction"))
        .expect("for a function URL");
    let by_url = &of_function["Condition"]["Bool"]["lambda:InvokedViaFunctionUrl"];
    assert_eq!(scalar(by_url).as_deref(), Some("true"), "not past its URL");
}

/// An update, or a deleted stack, never takes the URL away that Genesys Cloud calls.
#[test]
fn the_domain_outlives_the_stack_and_leads_to_all_routes() {
    let template = template();
    for name in ["WebhookDomain", "WebhookDomainMapping"] {
        let resource = resource(&template, name);
        assert_eq!(resource["Condition"].as_str(), Some("HasDomain"));
        assert_eq!(
            resource["DeletionPolicy"].as_str(),
            Some("RetainExceptOnCreate")
        );
        assert_eq!(resource["UpdateReplacePolicy"].as_str(), Some("Retain"));
    }
    let domain = resource(&template, "WebhookDomain")["Properties"].clone();
    let configuration = &domain["DomainNameConfigurations"][0];
    assert_eq!(configuration["SecurityPolicy"].as_str(), Some("TLS_1_2"));
    let api = resource(&template, "HttpApi")["Properties"].clone();
    assert!(
        api["DisableExecuteApiEndpoint"].is_badvalue(),
        "the API keeps its own name"
    );
    let url = &template["Outputs"]["WebhookUrl"]["Value"];
    assert_eq!(
        either(url),
        [
            "HasDomain",
            "https://${DomainName}/webhook/genesys",
            "${HttpApi.ApiEndpoint}/webhook/genesys"
        ]
    );
}

#[test]
fn signing_key_is_generated_once_and_read_by_the_processor_alone() {
    let template = template();
    let secret = resource(&template, "SigningSecret")["Properties"]["GenerateSecretString"].clone();
    assert_eq!(
        secret["GenerateStringKey"].as_str(),
        Some("targetSigningSecrets")
    );
    // Base64 of 24 to 64 bytes (Standard Webhooks), of letters and digits only.
    let bytes = number(&secret["PasswordLength"]) * 3 / 4;
    assert!((24..=64).contains(&bytes) && number(&secret["PasswordLength"]).is_multiple_of(4));
    assert_eq!(secret["ExcludePunctuation"].as_bool(), Some(true));
    for (name, role) in roles(&template) {
        let policy = &role["Policies"][0]["PolicyDocument"];
        let reads = policy["Statement"]
            .as_vec()
            .expect("statements")
            .iter()
            .any(|statement| texts(&statement["Resource"]).contains("SigningSecret.Id"));
        assert_eq!(reads, name == "ProcessorRole", "{name}");
    }
}

#[test]
fn parameters_that_belong_together_are_given_together() {
    const PAIRS: [(&str, [&str; 2]); 3] = [
        ("SigV4IsComplete", ["TargetSigV4Service", "TargetSigV4Arn"]),
        ("VpcIsComplete", ["VpcSubnetIds", "VpcSecurityGroupIds"]),
        ("DomainIsComplete", ["DomainName", "CertificateArn"]),
    ];
    let template = template();
    // `!Equals [parameter, ""]`, or within one more list the same under `!Not`.
    let holds = |yaml: &Yaml, set: &BTreeSet<&str>| -> bool {
        let is_empty = |yaml: &Yaml| !set.contains(yaml[0].as_str().expect("a parameter"));
        match &yaml[0] {
            Yaml::Array(_) => !is_empty(&yaml[0]),
            _ => is_empty(yaml),
        }
    };
    for (rule, pair) in PAIRS {
        let assertion = &template["Rules"][rule]["Assertions"][0];
        assert!(
            template["Rules"][rule]["RuleCondition"].is_badvalue(),
            "{rule}"
        );
        for set in [&pair[..0], &pair[..1], &pair[1..], &pair[..]] {
            let set: BTreeSet<&str> = set.iter().copied().collect();
            let either = assertion["Assert"].as_vec().expect("an !Or");
            let passes = either.iter().any(|both| {
                both.as_vec()
                    .expect("an !And")
                    .iter()
                    .all(|one| holds(one, &set))
            });
            assert_eq!(passes, set.len() != 1, "{rule}: {set:?}");
        }
        for parameter in pair {
            let names = scalar(&assertion["AssertDescription"]).expect("a text");
            assert!(names.contains(parameter), "{rule}: {names}");
        }
    }
}

#[test]
fn each_parameter_takes_what_aws_does_and_refuses_a_slip() {
    const VALUES: [(&str, &[&str], &[&str]); 9] = [
        (
            "TargetSigV4Region",
            &[
                "eu-central-1",
                "us-gov-west-1",
                "eusc-de-east-1",
                "mx-central-1",
            ],
            &["eu-central", "EU-central-1", "eu-central-1a"],
        ),
        (
            "TargetSigV4Arn",
            &[
                "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/prod/POST/events",
                "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3/$default/POST/*",
                "arn:aws:lambda:eu-central-1:123456789012:function:receiver",
                "arn:aws-us-gov:vpc-lattice:us-gov-west-1:123456789012:service/svc-0123456789abcdef0/*",
            ],
            &[
                "*",
                "arn:aws:execute-api:eu-central-1:123456789012:*",
                "arn:aws:execute-api:*:*:*",
                "arn:aws:lambda:eu-central-1:1234:function:receiver",
                "arn:aws:sqs:eu-central-1:123456789012:queue",
            ],
        ),
        (
            "VpcSubnetIds",
            &[
                "subnet-0123456789abcdef0",
                "subnet-01234567,subnet-89abcdef",
            ],
            &[
                "subnet-01234567, subnet-89abcdef",
                "subnet-01234567,",
                "sg-01234567",
            ],
        ),
        (
            "VpcSecurityGroupIds",
            &["sg-0123456789abcdef0", "sg-01234567,sg-89abcdef"],
            &["sg-01234567, sg-89abcdef", "subnet-01234567"],
        ),
        (
            "DomainName",
            &["relay.example.com", "a-b.example.co"],
            &[
                "https://relay.example.com",
                "*.example.com",
                "Relay.example.com",
                "relay",
                "relay.example.com.",
            ],
        ),
        (
            "CertificateArn",
            &[
                "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012",
            ],
            &["arn:aws:iam::123456789012:server-certificate/name"],
        ),
        (
            "KmsKeyArn",
            &[
                "arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012",
                "arn:aws:kms:eu-central-1:123456789012:key/mrk-12345678123412341234123456789012",
            ],
            &[
                "alias/relay",
                "arn:aws:kms:eu-central-1:123456789012:alias/relay",
                "12345678-1234-1234-1234-123456789012",
            ],
        ),
        (
            "PermissionsBoundaryArn",
            &[
                "arn:aws:iam::123456789012:policy/boundaries/developers",
                "arn:aws:iam::aws:policy/PowerUserAccess",
            ],
            &["developers", "arn:aws:iam::123456789012:role/developers"],
        ),
        (
            "TargetSigV4Service",
            &["execute-api", "lambda", "vpc-lattice-svcs"],
            &["apigateway"],
        ),
    ];
    let template = template();
    for (name, good, bad) in VALUES {
        let parameter = &template["Parameters"][name];
        assert_eq!(parameter["Default"].as_str(), Some(""), "{name} is off");
        let pattern = parameter["AllowedPattern"].as_str().map(Regex::new);
        let takes = |value: &str| match &pattern {
            Some(pattern) => pattern.as_ref().expect("a pattern").is_match(value),
            None => texts(&parameter["AllowedValues"]).contains(value),
        };
        assert!(takes(""), "{name}");
        for value in good {
            assert!(takes(value), "{name}: {value}");
        }
        for value in bad {
            assert!(!takes(value), "{name}: {value}");
        }
    }
    let rate = &template["Parameters"]["TargetRatePerSecond"];
    assert_eq!(
        ["Default", "MinValue", "MaxValue"].map(|bound| number(&rate[bound])),
        [0, 0, 10_000]
    );
}
