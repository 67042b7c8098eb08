//! `template.yaml`, with its nested stack, against the code: variables that one sets and the other
//! reads, and rules that CloudFormation cannot state.

mod access;
mod account;
mod agreement;
mod alarms;
mod api;
mod journal;
mod order;
mod parameters;
mod reference;
mod sources;
mod storage;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use genesys_relay::adapters::genesys::Region;
use genesys_relay::domain::event::Source;
use genesys_relay::domain::failure::ReasonKind;
use genesys_relay::domain::retry::Schedule;
use serde_json::Value;
use yaml_rust2::yaml::Hash;
use yaml_rust2::{Yaml, YamlLoader};

/// Each binary, and the function that runs it.
const FUNCTIONS: [(&str, &str); 7] = [
    ("ingest", "IngestFunction"),
    ("processor", "ProcessorFunction"),
    ("replay", "ReplayFunction"),
    ("replay", "LookFunction"),
    ("recovery", "RecoveryFunction"),
    ("breaker", "BreakerFunction"),
    ("canary", "CanaryFunction"),
];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn load(path: &str) -> Yaml {
    YamlLoader::load_from_str(&file(path))
        .expect("YAML")
        .remove(0)
}

/// The whole deploy as one template: resources, conditions and mappings of nested stacks beside
/// those of the main one, and each function with its properties of `Globals`.
fn template() -> Yaml {
    let mut template = load("template.yaml");
    for stack in resources_of(&template, "AWS::CloudFormation::Stack") {
        let path = stack["TemplateURL"].as_str().expect("a path");
        let mut nested = load(path);
        let given: BTreeMap<_, _> = entries(&stack["Parameters"])
            .map(|(name, value)| (name, value.clone()))
            .collect();
        let declared: BTreeSet<_> = entries(&nested["Parameters"])
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            given.keys().cloned().collect::<BTreeSet<_>>(),
            declared,
            "{path}"
        );
        substitute(&mut nested, &given);
        for part in ["Resources", "Conditions", "Mappings"] {
            for (name, value) in hash(part_of(&mut nested, part)).clone() {
                let former = hash(part_of(&mut template, part)).insert(name.clone(), value.clone());
                let is_alike = part == "Conditions" && former.as_ref() == Some(&value);
                assert!(
                    former.is_none() || is_alike,
                    "{path}: {part} has another {name:?}"
                );
            }
        }
    }
    let globals = hash(&mut template)
        .remove(&Yaml::String("Globals".to_owned()))
        .expect("Globals");
    for (_, function) in hash(part_of(&mut template, "Resources")) {
        if function["Type"].as_str() == Some("AWS::Serverless::Function") {
            complete(part_of(function, "Properties"), &globals["Function"]);
        }
    }
    template
}

/// Puts the values that a nested stack is given in place of its parameters. The loader drops tags:
/// `!Ref` is a name, and no other text of a nested template is the name of a parameter.
fn substitute(yaml: &mut Yaml, given: &BTreeMap<String, Yaml>) {
    match yaml {
        Yaml::Hash(entries) => entries
            .iter_mut()
            .for_each(|(_, value)| substitute(value, given)),
        Yaml::Array(items) => items.iter_mut().for_each(|item| substitute(item, given)),
        Yaml::String(text) => {
            for (name, value) in given
                .iter()
                .filter_map(|(name, value)| Some((name, value.as_str()?)))
            {
                *text = text.replace(&format!("${{{name}}}"), &format!("${{{value}}}"));
            }
            if let Some(value) = given.get(text) {
                *yaml = value.clone();
            }
        }
        _ => {}
    }
}

/// Adds missing entries at any depth, as SAM does with `Globals`.
fn complete(yaml: &mut Yaml, globals: &Yaml) {
    for (name, value) in globals.as_hash().expect("a mapping") {
        if let own @ Yaml::Hash(_) = hash(yaml)
            .entry(name.clone())
            .or_insert_with(|| value.clone())
        {
            complete(own, value);
        }
    }
}

fn hash(yaml: &mut Yaml) -> &mut Hash {
    let Yaml::Hash(entries) = yaml else {
        panic!("not a mapping: {yaml:?}")
    };
    entries
}

fn part_of<'a>(yaml: &'a mut Yaml, part: &str) -> &'a mut Yaml {
    hash(yaml)
        .get_mut(&Yaml::String(part.to_owned()))
        .unwrap_or_else(|| panic!("no {part}"))
}

fn resource(template: &Yaml, name: &str) -> Yaml {
    let resource = template["Resources"][name].clone();
    assert!(!resource.is_badvalue(), "the template has no {name}");
    resource
}

/// A value, and the condition under which it is there: `!If [condition, value, AWS::NoValue]`.
fn conditional(yaml: &Yaml) -> (Option<&str>, &Yaml) {
    match yaml.as_vec().map(Vec::as_slice) {
        Some([condition, value, nothing]) if nothing.as_str() == Some("AWS::NoValue") => {
            (condition.as_str(), value)
        }
        _ => (None, yaml),
    }
}

fn number(yaml: &Yaml) -> u64 {
    yaml.as_i64()
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or_else(|| panic!("no number: {yaml:?}"))
}

/// The variables that a function reads and the template sets.
fn variables_read(function: &str) -> BTreeSet<String> {
    variables::of(function)
        .into_iter()
        .map(|variable| variable.name.to_owned())
        .collect()
}

/// `sam build` makes each function by itself, and nothing else here does: with the others, it has
/// the features of all.
#[test]
fn each_function_declares_the_services_that_it_uses() {
    const ADAPTERS: [(&str, &str); 4] = [
        ("dynamodb", "dynamodb"),
        ("event_source", "lambda"),
        ("lambda", "lambda"),
        ("s3", "s3"),
    ];
    for (function, _) in FUNCTIONS {
        let wired = file(&format!("functions/{function}/src/main.rs"));
        let is_wired = |adapter: &str| wired.contains(&format!("aws::{adapter}::"));
        let used: BTreeSet<&str> = ADAPTERS
            .iter()
            .filter(|(adapter, _)| is_wired(adapter))
            .map(|(_, feature)| *feature)
            .collect();
        let manifest = file(&format!("functions/{function}/Cargo.toml"));
        let dependency = manifest
            .lines()
            .find(|line| line.starts_with("genesys_relay"))
            .expect("our own library");
        let declared = dependency
            .split_once("features = [")
            .map_or("", |(_, features)| features);
        let declared: BTreeSet<&str> = declared.split('"').skip(1).step_by(2).collect();
        assert_eq!(declared, used, "{function}");
    }
}

#[test]
fn each_variable_that_a_function_reads_is_set_and_the_other_way_round() {
    let template = template();
    for (function, logical_id) in FUNCTIONS {
        let variables =
            resource(&template, logical_id)["Properties"]["Environment"]["Variables"].clone();
        let set: BTreeSet<String> = variables
            .as_hash()
            .expect("variables")
            .keys()
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect();
        let read = variables_read(function);
        assert!(read.len() > 3, "{function}: {read:?}");
        assert_eq!(set, read, "{logical_id}");
    }
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
                let schedule = Schedule::new(
                    Duration::from_secs(base),
                    Duration::from_secs(cap),
                    receives,
                );
                assert!(
                    schedule.is_ok(),
                    "base {base}, cap {cap}, receives {receives}: {schedule:?}"
                );
            }
        }
    }
}

fn resources_of(template: &Yaml, kind: &str) -> Vec<Yaml> {
    let resources = template["Resources"].as_hash().expect("resources").values();
    resources
        .filter(|found| found["Type"].as_str() == Some(kind))
        .map(|found| found["Properties"].clone())
        .collect()
}

#[test]
fn cost_that_strangers_can_cause_is_bounded() {
    let template = template();
    let limits = resource(&template, "DefaultStage")["Properties"]["DefaultRouteSettings"].clone();
    for limit in ["ThrottlingRateLimit", "ThrottlingBurstLimit"] {
        assert_eq!(limits[limit].as_str(), Some(limit));
        number(&template["Parameters"][limit]["Default"]);
        number(&template["Parameters"][limit]["MaxValue"]);
    }
    for mapping in resources_of(&template, "AWS::Lambda::EventSourceMapping") {
        assert_eq!(
            mapping["ScalingConfig"]["MaximumConcurrency"].as_str(),
            Some("MaximumConcurrency")
        );
    }
    for (name, found) in template["Resources"].as_hash().expect("resources") {
        if found["Type"].as_str() == Some("AWS::Logs::LogGroup") {
            assert_eq!(
                found["Properties"]["RetentionInDays"].as_str(),
                Some("LogRetentionDays"),
                "{name:?}"
            );
        }
    }
}

/// Genesys gives up after ten seconds ("Open Messaging", outbound webhook).
#[test]
fn a_sender_is_answered_before_it_goes_away() {
    let template = template();
    let function = 1000 * number(&resource(&template, "IngestFunction")["Properties"]["Timeout"]);
    let integration =
        number(&resource(&template, "IngestIntegration")["Properties"]["TimeoutInMillis"]);
    assert!(
        function < integration && integration < 10_000,
        "{function} ms, {integration} ms"
    );
}

#[test]
fn the_outputs_are_those_that_others_script_against() {
    let template = template();
    for output in [
        "WebhookUrl",
        "DeadLetterApiUrl",
        "QueueUrl",
        "QueueArn",
        "OrderedQueueUrl",
        "JournalQueueUrl",
        "DeadLetterQueueUrl",
        "EventsTableName",
        "ArchiveBucketName",
        "SecretArn",
        "SigningSecretArn",
        "IngestFunctionName",
        "ProcessorFunctionName",
        "ReplayFunctionName",
        "LookFunctionName",
        "LookPolicyArn",
        "ActPolicyArn",
        "CheckPolicyArn",
        "RecoveryFunctionName",
        "AlarmTopicArn",
        "DashboardName",
    ] {
        assert!(
            !template["Outputs"][output]["Value"].is_badvalue(),
            "{output}"
        );
    }
}

fn entries(yaml: &Yaml) -> impl Iterator<Item = (String, &Yaml)> {
    yaml.as_hash()
        .into_iter()
        .flatten()
        .map(|(key, value)| (scalar(key).expect("a name"), value))
}

fn scalar(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(boolean) => Some(boolean.to_string()),
        Yaml::Null => Some("null".to_owned()),
        _ => None,
    }
}
