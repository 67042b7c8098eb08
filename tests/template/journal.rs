//! Journal, index of conversations and policies for people: each parameter brings what it needs, and
//! nothing where it is off.

use super::order::{deployed_with, texts};
use super::*;

#[test]
fn nothing_of_the_journal_exists_without_it() {
    let of_journal = |days: &str| -> BTreeSet<String> {
        let template = deployed_with("JournalDays", days);
        let resources = entries(&template["Resources"]).map(|(name, _)| name);
        let outputs = entries(&template["Outputs"]).map(|(name, _)| name);
        let used = ["Resources", "Outputs"].map(|part| texts(&template[part]));
        resources
            .chain(outputs)
            .chain(used.concat())
            .filter(|text| {
                ["Journal", "JOURNAL_QUEUE"]
                    .iter()
                    .any(|start| text.starts_with(start))
            })
            .collect()
    };
    // The nested stack is told that there is none.
    assert_eq!(of_journal("0"), ["JournalDays".to_owned()].into());
    let expected = [
        "JOURNAL_QUEUE_URL",
        "JournalAgeAlarm.Arn",
        "JournalFailingAlarm",
        "JournalQueue",
        "JournalQueue.Arn",
        "JournalQueuePolicy",
        "JournalQueueUrl",
        "JournalSchedule",
    ];
    let found = of_journal("30");
    assert!(
        expected.iter().all(|name| found.contains(*name)),
        "{found:?}"
    );
}

/// Leaves an orphan that no erasure reaches, and whose name blocks the next one.
#[test]
fn journal_queue_does_not_outlive_the_journal() {
    let template = template();
    for name in ["JournalQueue", "JournalQueuePolicy"] {
        let resource = resource(&template, name);
        assert!(resource["DeletionPolicy"].is_badvalue(), "{name}");
    }
    let queue = resource(&template, "JournalQueue")["Properties"].clone();
    let other = resource(&template, "DeadLetterQueue")["Properties"].clone();
    for (property, value) in entries(&other) {
        if !["QueueName", "RedriveAllowPolicy"].contains(&property.as_str()) {
            assert_eq!(&queue[property.as_str()], value, "{property}");
        }
    }
}

/// `DynamoDB` refuses a table that defines another attribute.
#[test]
fn table_defines_the_keys_of_its_indexes_and_no_other() {
    for (value, indexes) in [
        ("on", &["dead-letters", "conversations"][..]),
        ("off", &["dead-letters"]),
    ] {
        let template = deployed_with("ConversationIndex", value);
        let table = resource(&template, "EventsTable")["Properties"].clone();
        let of_indexes = table["GlobalSecondaryIndexes"].as_vec().expect("indexes");
        let names: Vec<_> = of_indexes
            .iter()
            .filter_map(|index| index["IndexName"].as_str())
            .collect();
        assert_eq!(names, indexes);
        let schemas = of_indexes
            .iter()
            .chain([&table])
            .map(|index| &index["KeySchema"]);
        let keys = schemas.flat_map(|schema| schema.as_vec().expect("keys"));
        let keys: BTreeSet<_> = keys
            .filter_map(|key| key["AttributeName"].as_str())
            .collect();
        let defined = table["AttributeDefinitions"]
            .as_vec()
            .expect("attributes")
            .iter();
        let defined: Vec<_> = defined
            .filter_map(|one| one["AttributeName"].as_str())
            .collect();
        assert_eq!(defined.len(), keys.len());
        assert_eq!(defined.into_iter().collect::<BTreeSet<_>>(), keys);
        let may_read = texts(&template["Resources"]).into_iter();
        let may_read = may_read.filter(|text| text.ends_with("/index/conversations"));
        assert_eq!(may_read.count(), 3 * usize::from(value == "on"));
    }
}

fn actions(statements: &Yaml) -> BTreeSet<String> {
    let statements = statements.as_vec().expect("statements").iter();
    let actions = statements.flat_map(|statement| texts(&statement["Action"]));
    actions.collect()
}

/// Beside its own log lines and traces.
#[test]
fn look_function_may_read_and_nothing_else() {
    let template = template();
    let policy = &resource(&template, "LookRole")["Properties"]["Policies"][0]["PolicyDocument"];
    let changes = actions(&policy["Statement"]).into_iter().filter(|action| {
        let (service, action) = action.split_once(':').expect("a service");
        let reads = ["Get", "List", "Query", "BatchGet"]
            .iter()
            .any(|verb| action.starts_with(verb));
        !reads && !["logs", "xray"].contains(&service)
    });
    assert_eq!(changes.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn policies_give_each_function_to_those_who_may_use_it() {
    let template = template();
    let invoked = |policy: &str| {
        let statements = &resource(&template, policy)["Properties"]["PolicyDocument"]["Statement"];
        let statements = statements.as_vec().expect("statements").iter();
        let of_lambda = statements
            .filter(|statement| statement["Action"].as_str() == Some("lambda:InvokeFunction"));
        let functions = of_lambda.flat_map(|statement| texts(&statement["Resource"]));
        functions.collect::<BTreeSet<_>>()
    };
    let arns = |functions: &[&str]| {
        let arns = functions
            .iter()
            .map(|function| format!("{function}Function.Arn"));
        arns.collect::<BTreeSet<_>>()
    };
    assert_eq!(invoked("LookPolicy"), arns(&["Look"]));
    assert_eq!(
        invoked("ActPolicy"),
        arns(&["Replay", "Breaker", "Recovery"])
    );
    // Those of the HTTP API, by method.
    for (key, route) in resources_of(&template, "AWS::ApiGatewayV2::Route")
        .iter()
        .filter(|route| route["AuthorizationType"].as_str() == Some("AWS_IAM"))
        .map(|route| (route["RouteKey"].as_str().expect("a key"), route))
    {
        let integration = match key.split_once(' ') {
            Some(("GET", _)) => "integrations/${LookIntegration}",
            _ => "integrations/${ReplayIntegration}",
        };
        assert_eq!(route["Target"].as_str(), Some(integration), "{key}");
    }
}
