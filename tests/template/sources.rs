//! Triggers of the functions: schedules, the event source mapping, the rule of EventBridge.

use genesys_relay::breaker::Request as Breaker;
use genesys_relay::recover::Request as Recovery;
use genesys_relay::statement::Request as Statement;
use jiff::Timestamp;

use super::*;

#[test]
fn schedules_ask_functions_in_json_and_under_a_role_that_the_scheduler_may_take() {
    let template = template();
    let schedules = resources_of(&template, "AWS::Scheduler::Schedule");
    let mut actions = BTreeSet::new();
    for schedule in &schedules {
        let target = &schedule["Target"];
        assert_eq!(target["RoleArn"].as_str(), Some("ScheduleRole.Arn"));
        let input = target["Input"]
            .as_str()
            .expect("an input")
            .replace("${ArchiveAfterDays}", "10");
        let input: Value = serde_json::from_str(&input).expect("JSON");
        assert_eq!(input["by"], "schedule");
        if target["Arn"].as_str() == Some("RecoveryFunction.Arn") {
            let now = Timestamp::now();
            if Statement::is_for(&input) {
                assert!(Statement::parse(input, "a test", now).is_ok());
            } else {
                assert!(Recovery::parse(input, "a test", now).is_ok());
            }
            continue;
        }
        if target["Arn"].as_str() == Some("BreakerFunction.Arn") {
            assert!(Breaker::parse(input, "a test").is_ok());
            continue;
        }
        // It takes any request.
        if target["Arn"].as_str() == Some("CanaryFunction.Arn") {
            continue;
        }
        assert_eq!(target["Arn"].as_str(), Some("ReplayFunction.Arn"));
        actions.insert(input["action"].as_str().expect("an action").to_owned());
    }
    assert_eq!(
        actions,
        BTreeSet::from(["archive", "journal", "reconcile"].map(String::from))
    );
    let trust =
        resource(&template, "ScheduleRole")["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            [0]
        .clone();
    assert_eq!(
        trust["Principal"]["Service"].as_str(),
        Some("scheduler.amazonaws.com")
    );
}

#[test]
fn invocations_that_lambda_puts_off_do_not_come_together_hours_later() {
    let template = template();
    let properties = |name: &str| resource(&template, name)["Properties"].clone();
    let longest = |function: &str| {
        number(&properties(function)["EventInvokeConfig"]["MaximumEventAgeInSeconds"])
    };
    // It is asked anew within that time anyway.
    assert_eq!(longest("BreakerFunction"), 60);
    // A run that is killed at its time-out is begun again, and a reconciliation that another has
    // replaced is not.
    assert!(longest("ReplayFunction") >= 3 * number(&properties("ReplayFunction")["Timeout"]));
    let input = properties("ReconcileSchedule")["Target"]["Input"].clone();
    assert!(
        input
            .as_str()
            .is_some_and(|input| input.contains(r#""dueAt":"<aws.scheduler.scheduled-time>""#))
    );
    assert_eq!(
        properties("ReconcileSchedule")["ScheduleExpression"].as_str(),
        Some("rate(5 minutes)")
    );
}

#[test]
fn failures_of_a_batch_are_reported_one_by_one_and_nothing_is_filtered() {
    let template = template();
    let mappings = resources_of(&template, "AWS::Lambda::EventSourceMapping");
    for mapping in &mappings {
        assert_eq!(
            mapping["FunctionResponseTypes"][0].as_str(),
            Some("ReportBatchItemFailures")
        );
        assert!(
            mapping["FilterCriteria"].is_badvalue(),
            "a filter deletes what it does not match"
        );
    }
    let sources: Vec<_> = mappings
        .iter()
        .map(|mapping| mapping["EventSourceArn"].as_str())
        .collect();
    assert_eq!(
        sources,
        [Some("EventsQueue.Arn"), Some("OrderedQueue.Arn")],
        "none on a dead-letter queue: that would be a loop"
    );
}

#[test]
fn the_recovery_is_off_until_it_is_configured() {
    let template = template();
    assert_eq!(
        template["Parameters"]["RecoverySource"]["Default"].as_str(),
        Some("none")
    );
    let schedule = resource(&template, "RecoverySchedule");
    assert_eq!(schedule["Condition"].as_str(), Some("RecoveryIsOn"));
    let rates = template["Parameters"]["RecoveryRateMinutes"]["AllowedValues"]
        .as_vec()
        .expect("a list")
        .iter();
    let shortest = rates.map(number).min().expect("a rate");
    let longest_run = number(&resource(&template, "RecoveryFunction")["Properties"]["Timeout"]);
    assert!(
        longest_run <= 60 * shortest,
        "a run has ended when the next begins"
    );
    let rule = &template["Rules"]["RecoveryIsConfigured"];
    assert_eq!(rule["Assertions"].as_vec().map(Vec::len), Some(2));
}

#[test]
fn the_regions_of_the_template_are_those_of_the_code() {
    let template = template();
    let allowed = template["Parameters"]["GenesysRegion"]["AllowedValues"]
        .as_vec()
        .expect("a list")
        .clone();
    let allowed: Vec<_> = allowed
        .iter()
        .filter_map(Yaml::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(
        allowed,
        Region::all()
            .map(|region| region.to_string())
            .collect::<Vec<_>>()
    );
}

#[test]
fn events_come_from_eventbridge_only_where_a_bus_is_named_and_are_never_dropped() {
    let template = template();
    assert_eq!(
        template["Parameters"]["EventBusName"]["Default"].as_str(),
        Some("")
    );
    let rules = resources_of(&template, "AWS::Events::Rule");
    assert_eq!(rules.len(), 1);
    let whole = resource(&template, "GenesysEventRule");
    assert_eq!(whole["Condition"].as_str(), Some("TakesEventBridge"));
    assert_eq!(
        template["Conditions"]["TakesEventBridge"][0][0].as_str(),
        Some("EventBusName")
    );

    let rule = &whole["Properties"];
    assert_eq!(rule["EventBusName"].as_str(), Some("EventBusName"));
    let pattern = &rule["EventPattern"];
    assert_eq!(
        pattern["source"][0]["prefix"].as_str(),
        Some("aws.partner/genesys.com")
    );
    assert_eq!(
        pattern["detail-type"][0]["wildcard"].as_str(),
        Some("EventTopics")
    );
    assert_eq!(
        pattern.as_hash().expect("a pattern").len(),
        2,
        "nothing else decides"
    );

    let targets = rule["Targets"].as_vec().expect("targets");
    let [target] = &targets[..] else {
        panic!("one target: {targets:?}")
    };
    assert_eq!(target["Arn"].as_str(), Some("EventsQueue.Arn"));
    assert_eq!(
        target["DeadLetterConfig"]["Arn"].as_str(),
        Some("DeadLetterQueue.Arn")
    );
    assert_eq!(
        number(&target["RetryPolicy"]["MaximumEventAgeInSeconds"]),
        24 * 60 * 60
    );
    assert_eq!(number(&target["RetryPolicy"]["MaximumRetryAttempts"]), 185);
    for changed in ["Input", "InputPath", "InputTransformer", "RoleArn"] {
        assert!(
            target[changed].is_badvalue(),
            "{changed}: the event goes on as it came, by leave of the queue"
        );
    }
}
