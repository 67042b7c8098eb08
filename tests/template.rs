//! `template.yaml` against the code: what one sets and the other reads, and the rules that CloudFormation cannot state.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use genesys_relay::retry::Schedule;
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
    let calls = source.split("environment.parse(\"").skip(1);
    calls.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn each_variable_that_a_function_reads_is_set_and_the_other_way_round() {
    let template = template();
    for (function, logical_id) in
        [("ingest", "IngestFunction"), ("processor", "ProcessorFunction"), ("replay", "ReplayFunction")]
    {
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
fn no_function_may_do_more_than_it_does() {
    let template = template();
    for (role, expected) in [
        ("IngestRole", ["logs", "secretsmanager:GetSecretValue", "sqs:SendMessage"].as_slice()),
        (
            "ProcessorRole",
            &[
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
                "logs",
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
    ] {
        let properties = resource(&template, role)["Properties"].clone();
        assert!(properties["ManagedPolicyArns"].is_badvalue(), "{role}: managed policies grant too much");
        let mut granted = BTreeSet::new();
        let statements = properties["Policies"][0]["PolicyDocument"]["Statement"].clone();
        for statement in statements.as_vec().expect("statements") {
            assert_ne!(statement["Resource"].as_str(), Some("*"), "{role}");
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
        "QueueUrl",
        "QueueArn",
        "DeadLetterQueueUrl",
        "SecretArn",
        "IngestFunctionName",
        "ProcessorFunctionName",
        "ReplayFunctionName",
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
    for function in ["ingest", "processor", "replay"] {
        for name in variables_read(function) {
            assert!(readme.contains(&format!("`{name}`")), "the README does not list {name}");
        }
    }
}
