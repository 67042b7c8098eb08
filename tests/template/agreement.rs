//! Values in both the template and the code: each variable refers to the resource or parameter of
//! its name, and times fit.

use genesys_relay::dead_letters;
use genesys_relay::domain::event_record::LIFE;
use serde_json::json;

use super::*;

/// `BACKOFF_BASE_SECONDS` is of the parameter `BackoffBaseSeconds`.
fn parameter_of(variable: &str) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_lowercase();
    variable.split('_').map(word).collect()
}

#[test]
fn each_variable_is_the_resource_or_the_parameter_of_its_name() {
    const RESOURCES: [(&str, &str); 19] = [
        ("QUEUE_URL", "EventsQueue"),
        ("QUEUE_ARN", "EventsQueue.Arn"),
        ("DEAD_LETTER_QUEUE_URL", "DeadLetterQueue"),
        ("DEAD_LETTER_QUEUE_ARN", "DeadLetterQueue.Arn"),
        ("ORDERED_QUEUE_URL", "OrderedQueue"),
        ("ORDERED_DEAD_LETTER_QUEUE_URL", "OrderedDeadLetterQueue"),
        ("JOURNAL_QUEUE_URL", "JournalQueue"),
        ("EVENTS_TABLE_NAME", "EventsTable"),
        ("ARCHIVE_BUCKET_NAME", "ArchiveBucket"),
        ("EVENT_SOURCE_ID", "ProcessorEventSource"),
        ("ORDERED_EVENT_SOURCE_ID", "OrderedEventSource"),
        ("PROCESSOR_FUNCTION_NAME", "ProcessorFunction"),
        ("LOOK_FUNCTION_NAME", "LookFunction"),
        ("ACTING_FUNCTION_NAME", "${AWS::StackName}-replay"),
        ("SECRET_ARN", "Secret.Id"),
        ("SIGNING_SECRET_ARN", "SigningSecret.Id"),
        ("TARGET_SIGV4_SERVICE", "TargetSigV4Service"),
        ("TARGET_SIGV4_REGION", "TargetSigV4Region"),
        ("METRICS_NAMESPACE", "GenesysRelay/${AWS::StackName}"),
    ];
    const CONSTANTS: [(&str, &str); 1] = [("BREAKER_FAILURE_PERCENT", "90")];
    let template = template();
    let name = |function: &str| resource(&template, function)["Properties"]["FunctionName"].clone();
    for function in resources_of(&template, "AWS::Serverless::Function") {
        let looks = (function["FunctionName"] == name("LookFunction")).to_string();
        let looks = [("LOOK_ONLY", looks.as_str())];
        for (name, value) in entries(&function["Environment"]["Variables"]) {
            let expected = RESOURCES
                .iter()
                .chain(&CONSTANTS)
                .chain(&looks)
                .find(|(known, _)| *known == name);
            let expected = expected.map_or_else(|| parameter_of(&name), |(_, of)| (*of).to_owned());
            if name == "WEBHOOK_URL" {
                let output = &template["Outputs"]["WebhookUrl"]["Value"];
                assert_eq!(value, output, "as Genesys Cloud calls it");
                continue;
            }
            let (_, value) = conditional(value);
            assert_eq!(scalar(value), Some(expected), "{name}");
        }
    }
    assert_eq!(
        name("ReplayFunction").as_str(),
        Some("${AWS::StackName}-replay"),
        "the function that acts"
    );
    let redrive = resource(&template, "EventsQueue")["Properties"]["RedrivePolicy"].clone();
    assert_eq!(
        redrive["maxReceiveCount"].as_str(),
        Some("MaxReceiveCount"),
        "the last receive is SQS's last as well"
    );
    assert_eq!(
        redrive["deadLetterTargetArn"].as_str(),
        Some("DeadLetterQueue.Arn")
    );
}

/// A number without quotes, such as `90`, is text on AWS and a number on the local AWS.
#[test]
fn every_environment_value_is_text() {
    for function in resources_of(&template(), "AWS::Serverless::Function") {
        for (name, value) in entries(&function["Environment"]["Variables"]) {
            let (_, value) = conditional(value);
            // `!If` with a text for each case.
            let texts = value
                .as_vec()
                .map_or(std::slice::from_ref(value), Vec::as_slice);
            let are_texts = texts.iter().all(|text| matches!(text, Yaml::String(_)));
            assert!(are_texts, "{name}: {value:?}");
        }
    }
}

#[test]
fn times_of_the_template_fit_those_of_the_code() {
    let template = template();
    let days = |queue: &str| {
        number(&resource(&template, queue)["Properties"]["MessageRetentionPeriod"]) / 86_400
    };
    let life = u64::try_from(LIFE.as_hours() / 24).expect("positive");
    assert_eq!(
        life,
        days("DeadLetterQueue") + 1,
        "a record outlives its dead letter"
    );
    for bound in ["MinValue", "Default", "MaxValue"] {
        let days = number(&template["Parameters"]["ArchiveAfterDays"][bound]);
        let request = json!({ "action": "archive", "olderThanDays": days });
        assert!(
            dead_letters::Request::parse(request, "a test").is_ok(),
            "{days} days"
        );
    }
    // It waits for the processor, which takes one event and answers.
    let timeout = number(&resource(&template, "BreakerFunction")["Properties"]["Timeout"]);
    let slowest = template["Parameters"]["ProcessorTimeoutSeconds"]["AllowedValues"]
        .as_vec()
        .expect("a list")
        .clone();
    assert!(
        slowest.iter().all(|seconds| number(seconds) < timeout),
        "{timeout} s"
    );
    let rate =
        |schedule: &str| resource(&template, schedule)["Properties"]["ScheduleExpression"].clone();
    assert_eq!(
        rate("BreakerSchedule").as_str(),
        Some("rate(1 minute)"),
        "it looks at minutes"
    );
}
