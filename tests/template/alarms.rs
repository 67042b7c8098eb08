//! Alarms, dashboard and saved queries: the metrics that they read are written, and their
//! descriptions are true.

use genesys_relay::ports::queue::is_fifo;
use genesys_relay::runtime::metrics;

use super::*;

const OURS: &str = "GenesysRelay/${AWS::StackName}";

/// Metrics of AWS, with their dimension.
const OF_AWS: [(&str, &[&str], &str, &[&str]); 4] = [
    (
        "AWS/SQS",
        &[
            "ApproximateNumberOfMessagesVisible",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateAgeOfOldestMessage",
        ],
        "QueueName",
        &[
            "${AWS::StackName}-events",
            "${AWS::StackName}-dead-letters",
            "${AWS::StackName}-ordered.fifo",
            "${AWS::StackName}-ordered-dead-letters.fifo",
            "${AWS::StackName}-journal",
        ],
    ),
    (
        "AWS/ApiGateway",
        &["Count", "4xx", "5xx", "Latency"],
        "ApiId",
        &["HttpApi"],
    ),
    (
        "AWS/Lambda",
        &["Errors", "Throttles"],
        "FunctionName",
        &[
            "${AWS::StackName}-ingest",
            "${AWS::StackName}-processor",
            "${AWS::StackName}-replay",
            "${AWS::StackName}-look",
            "${AWS::StackName}-recovery",
            "${AWS::StackName}-breaker",
            "${AWS::StackName}-canary",
        ],
    ),
    // Beside the name of the bus (EventBridge User Guide, "Monitoring Amazon EventBridge"); that is
    // how it spells it.
    (
        "AWS/Events",
        &["InvocationsFailedToBeSentToDlq"],
        "RuleName",
        &["${AWS::StackName}-genesys"],
    ),
];

/// A dimension and one of its values.
type Dimension = (String, String);

/// A metric that is written: its unit, and the dimensions that it has.
struct Written {
    unit: &'static str,
    dimensions: BTreeSet<Option<Dimension>>,
}

/// Every metric that functions and filters write.
fn written(template: &Yaml) -> BTreeMap<String, Written> {
    let of_functions = metrics::all().into_iter().map(|metric| {
        let dimensions = match metric.dimension {
            None => [None].into(),
            Some((name, values)) => {
                let values = values.into_iter();
                let values = values.map(|value| Some((name.to_owned(), value.to_owned())));
                values.collect()
            }
        };
        let unit = metric.unit;
        (metric.name.to_owned(), Written { unit, dimensions })
    });
    let filters = resources_of(template, "AWS::Logs::MetricFilter").into_iter();
    let of_filters = filters.map(|filter| {
        let name = text(&filter["MetricTransformations"][0], "MetricName");
        let (unit, dimensions) = ("Count", [None].into());
        (name, Written { unit, dimensions })
    });
    of_functions.chain(of_filters).collect()
}

/// A metric as an alarm or the dashboard names it.
#[derive(Debug)]
struct Used {
    namespace: String,
    name: String,
    dimension: Option<Dimension>,
    statistic: String,
}

impl Used {
    fn check(&self, written: &BTreeMap<String, Written>) {
        if self.namespace == OURS {
            let metric = written
                .get(&self.name)
                .unwrap_or_else(|| panic!("{self:?} is not written"));
            assert!(
                metric.dimensions.contains(&self.dimension),
                "never with that dimension: {self:?}"
            );
            let statistics: &[&str] = match metric.unit {
                "Count" => &["Sum", "Minimum", "Maximum", "SampleCount"],
                "Seconds" | "Milliseconds" => &["Maximum", "p50", "p99"],
                unit => panic!("{unit} is no unit of ours: {self:?}"),
            };
            assert!(
                statistics.contains(&self.statistic.as_str()),
                "not of {}: {self:?}",
                metric.unit
            );
            return;
        }
        let (_, names, dimension, values) = OF_AWS
            .iter()
            .find(|(namespace, ..)| *namespace == self.namespace)
            .unwrap_or_else(|| panic!("{self:?}"));
        let (of, value) = self
            .dimension
            .as_ref()
            .unwrap_or_else(|| panic!("without a dimension: {self:?}"));
        assert!(names.contains(&self.name.as_str()), "{self:?}");
        assert_eq!(
            (of.as_str(), values.contains(&value.as_str())),
            (*dimension, true),
            "{self:?}"
        );
    }
}

/// The alarms, by their names in the template.
pub(crate) fn alarms(template: &Yaml) -> BTreeMap<String, Yaml> {
    let resources = template["Resources"].as_hash().expect("resources").iter();
    let alarms =
        resources.filter(|(_, found)| found["Type"].as_str() == Some("AWS::CloudWatch::Alarm"));
    let alarms: BTreeMap<_, _> = alarms
        .map(|(name, found)| (name.as_str().expect("a name").to_owned(), found.clone()))
        .collect();
    assert!(alarms.len() > 10, "{:?}", alarms.keys());
    alarms
}

fn text_of(yaml: &Yaml) -> String {
    yaml.as_str().expect("a text").to_owned()
}

fn text(yaml: &Yaml, name: &str) -> String {
    yaml[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name}: {yaml:?}"))
        .to_owned()
}

fn used_by(alarm: &Yaml) -> Used {
    let properties = &alarm["Properties"];
    let mut dimensions = properties["Dimensions"]
        .as_vec()
        .cloned()
        .unwrap_or_default();
    dimensions.retain(|dimension| dimension["Name"].as_str() != Some("EventBusName"));
    assert!(dimensions.len() < 2, "{dimensions:?}");
    Used {
        namespace: text(properties, "Namespace"),
        name: text(properties, "MetricName"),
        dimension: dimensions
            .first()
            .map(|dimension| (text(dimension, "Name"), text(dimension, "Value"))),
        statistic: text(properties, "Statistic"),
    }
}

fn dashboard(template: &Yaml) -> Vec<Value> {
    let body = resource(template, "Dashboard")["Properties"]["DashboardBody"].clone();
    let [with, without] = [1, 2].map(|branch| text_of(&body[1]["Conversations"][branch]));
    let body = text_of(&body[0]);
    let of_all = [without, with].map(|ordered| body.replace("${Conversations}", &ordered));
    let of_all = of_all.map(|body| serde_json::from_str::<Value>(&body).expect("JSON"));
    let [_, body] = of_all;
    body["widgets"].as_array().expect("widgets").clone()
}

fn on_dashboard(template: &Yaml) -> Vec<Used> {
    let widgets = dashboard(template);
    let metrics = widgets.iter().flat_map(|widget| {
        let stat = &widget["properties"]["stat"];
        widget["properties"]["metrics"]
            .as_array()
            .into_iter()
            .flatten()
            .map(move |metric| (stat, metric))
    });
    metrics
        .map(|(stat, metric)| {
            let texts: Vec<_> = metric
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let options = metric
                .as_array()
                .and_then(|metric| metric.last())
                .filter(|last| last.is_object());
            let statistic = options
                .and_then(|options| options["stat"].as_str())
                .or(stat.as_str());
            let dimension = match texts[2..] {
                [] => None,
                [name, "${HttpApi}"] => Some((name.to_owned(), "HttpApi".to_owned())),
                [name, value] => Some((name.to_owned(), value.to_owned())),
                _ => panic!("more than one dimension: {metric}"),
            };
            let [namespace, name] = [texts[0], texts[1]].map(str::to_owned);
            Used {
                namespace,
                name,
                dimension,
                statistic: statistic.expect("a statistic").to_owned(),
            }
        })
        .collect()
}

#[test]
fn every_metric_read_is_written() {
    let template = template();
    let written = written(&template);
    for used in alarms(&template)
        .values()
        .map(used_by)
        .chain(on_dashboard(&template))
    {
        used.check(&written);
    }
}

/// The nested stack knows queues and functions by their names.
#[test]
fn dimensions_are_the_names_of_queues_and_functions() {
    let template = template();
    let names = |kind: &str, property: &str| -> BTreeSet<String> {
        resources_of(&template, kind)
            .iter()
            .map(|found| text(found, property))
            .collect()
    };
    let of_aws = |namespace: &str| -> BTreeSet<String> {
        let (.., values) = OF_AWS
            .iter()
            .find(|(known, ..)| *known == namespace)
            .expect("a namespace");
        values.iter().map(|value| (*value).to_owned()).collect()
    };
    assert_eq!(of_aws("AWS/SQS"), names("AWS::SQS::Queue", "QueueName"));
    assert_eq!(
        of_aws("AWS/Lambda"),
        names("AWS::Serverless::Function", "FunctionName")
    );
    assert_eq!(of_aws("AWS/Events"), names("AWS::Events::Rule", "Name"));
}

#[test]
fn every_metric_is_on_the_dashboard_with_each_of_its_values() {
    let template = template();
    let used = on_dashboard(&template);
    for (name, metric) in written(&template) {
        for dimension in metric.dimensions {
            let is_there = used
                .iter()
                .any(|used| used.name == name && used.dimension == dimension);
            assert!(is_there, "{name} {dimension:?}");
        }
    }
}

#[test]
fn the_dashboard_fits_its_grid_and_shows_every_alarm() {
    let template = template();
    let cells = |widget: &Value| {
        let [x, y, width, height] =
            ["x", "y", "width", "height"].map(|name| widget[name].as_u64().expect("a number"));
        (x..x + width).flat_map(move |x| (y..y + height).map(move |y| (x, y)))
    };
    let mut taken = BTreeSet::new();
    for cell in dashboard(&template).iter().flat_map(cells) {
        assert!(
            cell.0 < 24 && taken.insert(cell),
            "{cell:?} is outside, or taken twice"
        );
    }
    let shown = &resource(&template, "Dashboard")["Properties"]["DashboardBody"][1]["Alarms"][1];
    // One with a condition is `[condition, ARN, nothing]`.
    let shown = shown
        .as_vec()
        .expect("a list")
        .iter()
        .map(|alarm| match alarm.as_vec() {
            Some(either) => (either[1].as_str().expect("an ARN"), either[0].as_str()),
            None => (alarm.as_str().expect("an ARN"), None),
        });
    let shown: BTreeSet<_> = shown
        .map(|(arn, condition)| (arn.to_owned(), condition.map(str::to_owned)))
        .collect();
    let all = alarms(&template).into_iter();
    let all = all.map(|(name, alarm)| {
        (
            format!("{name}.Arn"),
            alarm["Condition"].as_str().map(str::to_owned),
        )
    });
    assert_eq!(shown, all.collect());
}

#[test]
fn every_alarm_says_what_it_means_and_tells_the_topic_when_it_begins_and_ends() {
    let template = template();
    for (name, alarm) in alarms(&template) {
        let properties = &alarm["Properties"];
        // The topic's policy allows what begins with the stack's name.
        assert!(
            text(properties, "AlarmName").starts_with("${AWS::StackName}-alarm-"),
            "{name}"
        );
        let missing = text(properties, "TreatMissingData");
        assert!(
            ["breaching", "notBreaching", "ignore", "missing"].contains(&missing.as_str()),
            "{name}: {missing}"
        );
        // Where no data is a state of its own, it is one to be told of.
        let of_silence = (missing == "missing").then_some("InsufficientDataActions");
        for actions in ["AlarmActions", "OKActions"].into_iter().chain(of_silence) {
            let actions: Vec<_> = properties[actions]
                .as_vec()
                .into_iter()
                .flatten()
                .map(Yaml::as_str)
                .collect();
            assert_eq!(actions, [Some("AlarmTopic")], "{name}");
        }
        let description = text(properties, "AlarmDescription");
        // CloudWatch API Reference, "PutMetricAlarm". Parameters that it names are longer than
        // their values.
        assert!(description.len() < 1024, "{name}");
        let (meaning, runbook) = description
            .split_once(" Runbook: ${RunbookUrl}/")
            .expect("a runbook");
        assert!(
            meaning.len() > 80 && meaning.ends_with('.'),
            "{name}: {meaning}"
        );
        // The runbook exists.
        file(&format!(
            "{}/{runbook}",
            text(&template["Parameters"]["RunbookUrl"], "Default")
        ));
    }
}

/// Thresholds are no parameters of their own; one that depends on another parameter follows it.
#[test]
fn every_threshold_is_a_constant_or_follows_from_a_parameter() {
    let template = template();
    let rates = template["Parameters"]["RecoveryRateMinutes"]["AllowedValues"]
        .as_vec()
        .expect("a list")
        .iter();
    let rates: BTreeSet<_> = rates.filter_map(scalar).collect();
    let mapping = &template["Mappings"]["Recovery"];
    assert_eq!(
        entries(mapping)
            .map(|(rate, _)| rate)
            .collect::<BTreeSet<_>>(),
        rates
    );
    let mut fields = BTreeSet::new();
    for (name, alarm) in alarms(&template) {
        for property in ["Threshold", "EvaluationPeriods"] {
            match &alarm["Properties"][property] {
                Yaml::Array(parts) if parts[0].as_str() == Some("Recovery") => {
                    assert_eq!(parts[1].as_str(), Some("RecoveryRateMinutes"), "{name}");
                    fields.insert(parts[2].as_str().expect("a field").to_owned());
                }
                Yaml::Array(parts) => {
                    assert_eq!(parts[0].as_str(), Some("ArchivesLate"), "{name}");
                    assert!(number(&parts[1]) > number(&parts[2]), "{name}");
                }
                constant => assert!(number(constant) >= 1, "{name}"),
            }
        }
    }
    let declared = entries(mapping)
        .flat_map(|(_, line)| entries(line).map(|(field, _)| field).collect::<Vec<_>>());
    assert_eq!(declared.collect::<BTreeSet<_>>(), fields);
    for (name, parameter) in entries(&template["Parameters"]) {
        assert!(
            !name.starts_with("Alarm") || parameter["Type"].as_str() == Some("String"),
            "{name}"
        );
    }
}

/// SQS leaves messages received three times out of the queue's age, and a function that cannot
/// start writes no metrics.
#[test]
fn a_function_that_cannot_begin_rings_an_alarm() {
    let template = template();
    let alarms = alarms(&template);
    let watches = |name: &str, metric: &str, function: &str| {
        let used = used_by(&alarms[name]);
        assert_eq!(
            (used.namespace.as_str(), used.name.as_str()),
            ("AWS/Lambda", metric),
            "{name}"
        );
        assert_eq!(
            used.dimension,
            Some(("FunctionName".to_owned(), function.to_owned())),
            "{name}"
        );
        let period = number(&alarms[name]["Properties"]["Period"])
            * number(&alarms[name]["Properties"]["EvaluationPeriods"]);
        assert!(
            period <= 300,
            "{name}: a receive is used up each {period} s at least"
        );
        let threshold = number(&alarms[name]["Properties"]["Threshold"]);
        assert_eq!(
            threshold, 1,
            "{name}: a single event fails once in six minutes"
        );
    };
    for function in ["Ingest", "Processor"] {
        let name = format!("${{AWS::StackName}}-{}", function.to_lowercase());
        watches(&format!("{function}ErrorsAlarm"), "Errors", &name);
        watches(&format!("{function}ThrottledAlarm"), "Throttles", &name);
    }
    // The others run by a schedule: what they write at each run is missed.
    for (alarm, function) in [
        ("BreakerSilentAlarm", "breaker"),
        ("RecoverySilentAlarm", "recovery"),
        ("UnaccountedAlarm", "recovery"),
        ("DeadLetterAgeAlarm", "replay"),
        ("CanaryAlarm", "canary"),
    ] {
        let properties = &alarms[alarm]["Properties"];
        assert_eq!(text(properties, "TreatMissingData"), "breaching", "{alarm}");
        let metric = text(properties, "MetricName");
        let mut written = metrics::all().into_iter();
        let written = written.find(|written| written.name == metric);
        let written_by = written.expect("a metric of ours").written_by;
        assert!(written_by.contains(function), "{alarm}: {written_by}");
    }
}

/// A run that fails or never ends is told of, and neither a new stack nor a try that is repeated
/// rings.
#[test]
fn a_day_without_a_run_of_the_archive_is_told_of_where_there_was_one() {
    let template = template();
    let properties = &alarms(&template)["ArchiveFailedAlarm"]["Properties"];
    assert_eq!(text(properties, "TreatMissingData"), "missing");
    assert_eq!(
        text(properties, "Statistic"),
        "Minimum",
        "a try that succeeds makes up for those before it"
    );
    let (period, periods) = (
        number(&properties["Period"]),
        number(&properties["EvaluationPeriods"]),
    );
    let schedule =
        resource(&template, "ArchiveSchedule")["Properties"]["ScheduleExpression"].clone();
    assert_eq!(
        schedule.as_str(),
        Some("cron(17 3,15 * * ? *)"),
        "every twelve hours"
    );
    assert!(
        period * periods >= 2 * 12 * 60 * 60,
        "two runs are in each window"
    );
    // CloudWatch API Reference, "PutMetricAlarm", for periods of an hour and more.
    assert!(period >= 3600 && period * periods <= 7 * 24 * 60 * 60);
    assert_eq!(
        number(&properties["DatapointsToAlarm"]),
        1,
        "one failed hour is enough"
    );
}

/// Of a rule on such a bus `Ref` is `<bus>|<name>`, which is no dimension of a metric.
#[test]
fn the_alarm_of_the_rule_knows_it_by_its_name() {
    let template = template();
    let rule = &resource(&template, "GenesysEventRule")["Properties"];
    let dimensions = &resource(&template, "EventBridgeLostAlarm")["Properties"]["Dimensions"];
    let dimensions = dimensions.as_vec().expect("a list").iter();
    let dimensions: BTreeMap<_, _> = dimensions
        .map(|dimension| (text(dimension, "Name"), text(dimension, "Value")))
        .collect();
    let of_rule = [
        ("EventBusName", text(rule, "EventBusName")),
        ("RuleName", text(rule, "Name")),
    ];
    assert_eq!(
        dimensions,
        of_rule.map(|(name, value)| (name.to_owned(), value)).into()
    );
}

/// The runs of a schedule drift over the border of minutes, so that one minute has two and the next
/// none. SQS's own metrics are no runs.
#[test]
fn a_minute_without_a_run_neither_ends_an_alarm_nor_keeps_it_from_ringing() {
    let of_several = alarms(&template()).into_iter().filter(|(_, alarm)| {
        let properties = &alarm["Properties"];
        let missing = text(properties, "TreatMissingData");
        properties["EvaluationPeriods"].as_i64() != Some(1)
            && text(properties, "Namespace") != "AWS/SQS"
            && !["breaching", "missing"].contains(&missing.as_str())
    });
    let of_several: BTreeMap<_, _> = of_several
        .map(|(name, alarm)| (name, text(&alarm["Properties"], "TreatMissingData")))
        .collect();
    let expected = ["HeldBackAlarm", "ProcessorSilentAlarm"]
        .map(|name| (name.to_owned(), "ignore".to_owned()));
    assert_eq!(of_several, expected.into());
}

/// A stranger gets 503 for a made-up signature where no secret for signatures is set.
#[test]
fn no_alarm_of_failed_acks_counts_what_ingest_answers_to_strangers() {
    let alarms = alarms(&template());
    let used: Vec<_> = alarms.values().map(used_by).collect();
    assert!(
        used.iter().all(|used| used.namespace != "AWS/ApiGateway"),
        "{used:?}"
    );
    let reason = Some(("Reason".to_owned(), "unavailable".to_owned()));
    assert_eq!(used_by(&alarms["FailedAcksAlarm"]).dimension, reason);
    let filter = resource(&template(), "ApiFailedFilter")["Properties"]["FilterPattern"].clone();
    let of_its_own = r#"&& ($.integrationError != "-" || $.error != "-") }"#;
    assert!(
        filter
            .as_str()
            .is_some_and(|pattern| pattern.ends_with(of_its_own)),
        "{filter:?}"
    );
}

#[test]
fn thresholds_follow_from_what_they_are_about() {
    let template = template();
    let (alarms, parameters) = (alarms(&template), &template["Parameters"]);
    let threshold = |name: &str| alarms[name]["Properties"]["Threshold"].clone();
    let retention =
        |name: &str| number(&resource(&template, name)["Properties"]["MessageRetentionPeriod"]);
    let day = 24 * 60 * 60;
    // SQS Developer Guide, "Amazon SQS message quotas".
    assert_eq!(number(&threshold("InFlightAlarm")), 120_000 * 8 / 10);
    for age in ["EventAgeAlarm", "OrderedEventAgeAlarm"] {
        assert!(number(&threshold(age)) < retention("EventsQueue"));
    }
    assert!(
        number(&threshold("ConversationWaitAlarm"))
            > number(&parameters["OrderPatienceSeconds"]["MaxValue"]),
        "an event that leaves the line does not ring"
    );
    // The archive runs twice a day.
    let age = threshold("DeadLetterAgeAlarm");
    let archives = &parameters["ArchiveAfterDays"];
    let latest = number(&archives["MaxValue"]);
    assert_eq!((number(&age[1]), number(&age[2])), (13 * day, 12 * day));
    assert!(
        number(&age[2]) > (number(&archives["Default"]) + 1) * day
            && number(&age[2]) + 2 * day <= retention("DeadLetterQueue")
    );
    let late: Vec<_> = template["Conditions"]["ArchivesLate"]
        .as_vec()
        .expect("a list")
        .iter()
        .filter_map(|equal| scalar(&equal[1]))
        .collect();
    assert_eq!(
        late,
        [latest - 1, latest].map(|days| days.to_string()),
        "later than that, the alarm comes before the archive"
    );
    assert!(
        number(&age[1]) >= (latest + 1) * day
            && number(&age[1]) + day <= retention("DeadLetterQueue")
    );
    let overlap = number(&parameters["RecoveryOverlapMinutes"]["MaxValue"]);
    for (rate, line) in entries(&template["Mappings"]["Recovery"]) {
        let rate: u64 = rate.parse().expect("minutes");
        assert!(
            number(&line["BehindSeconds"]) > 60 * (overlap + rate),
            "a recovery that is well is behind by so much"
        );
        assert!(
            number(&line["SilentHours"]) * 60 > rate,
            "{rate}: one run is due in that time"
        );
        assert!(
            number(&line["Failures"]) <= (60 / rate).max(1),
            "{rate}: so many runs are in an hour"
        );
        // CloudWatch User Guide, "Using Amazon CloudWatch alarms": a week at most with periods of
        // an hour.
        assert!(number(&line["SilentHours"]) <= 7 * 24);
    }
}

#[test]
fn canary_has_one_run_in_each_period_of_its_alarm() {
    let template = template();
    let minutes = template["Parameters"]["CanaryMinutes"]["AllowedValues"].clone();
    let minutes = minutes.as_vec().expect("a list").iter().map(number);
    let periods: BTreeMap<u64, u64> = entries(&template["Mappings"]["Canary"])
        .map(|(minutes, line)| (minutes.parse().expect("minutes"), number(&line["Seconds"])))
        .collect();
    for minutes in minutes.filter(|minutes| *minutes > 0) {
        assert_eq!(periods.get(&minutes), Some(&(60 * minutes)));
        let timeout = &resource(&template, "CanaryFunction")["Properties"]["Timeout"];
        assert!(
            number(timeout) < 60 * minutes,
            "one run ends before the next"
        );
    }
}

#[test]
fn feature_that_is_off_has_no_alarm() {
    for (name, alarm) in alarms(&template()) {
        let metric = text(&alarm["Properties"], "MetricName");
        let condition = match metric.as_str() {
            "ConversationWait" => Some("HasOrderedQueue"),
            "JournalFailed" => Some("HasJournal"),
            metric if metric.starts_with("Approximate") => {
                match used_by(&alarm).dimension.expect("a queue").1 {
                    queue if is_fifo(&queue) => Some("HasOrderedQueue"),
                    queue if queue.ends_with("-journal") => Some("HasJournal"),
                    _ => None,
                }
            }
            metric if metric.starts_with("Breaker") || metric == "ProcessorSilent" => {
                Some("BreakerIsOn")
            }
            "InvocationsFailedToBeSentToDlq" => Some("TakesEventBridge"),
            metric if metric.starts_with("Recovery") => Some("RecoveryIsOn"),
            "Unaccounted" => Some("StatesDays"),
            "CanaryAge" => Some("HasCanary"),
            _ => None,
        };
        assert_eq!(alarm["Condition"].as_str(), condition, "{name}");
    }
}

#[test]
fn alarms_are_mailed_where_an_address_is_given() {
    let subscription = resource(&template(), "AlarmSubscription");
    assert_eq!(subscription["Condition"].as_str(), Some("MailsAlarms"));
    assert_eq!(
        subscription["Properties"]["Endpoint"].as_str(),
        Some("AlarmEmail")
    );
}

/// The end-to-end tests show that the fields exist.
#[test]
fn the_saved_queries_look_at_the_log_of_every_function() {
    let template = template();
    let resources = template["Resources"].as_hash().expect("resources").iter();
    let groups: BTreeSet<_> = resources
        .filter_map(|(name, found)| {
            let is_function = found["Type"].as_str() == Some("AWS::Serverless::Function");
            is_function.then(|| {
                name.as_str()
                    .expect("a name")
                    .replace("Function", "LogGroup")
            })
        })
        .collect();
    let queries = resources_of(&template, "AWS::Logs::QueryDefinition");
    assert_eq!(queries.len(), 3);
    for query in queries {
        // They come from the main stack, joined.
        let looked_at = query["LogGroupNames"][1].as_vec().expect("groups").iter();
        // That of a function that may be missing is `[condition, name, nothing]`.
        let looked_at = looked_at.map(|group| {
            let name = group.as_str().or_else(|| group[1].as_str());
            name.expect("a name").to_owned()
        });
        assert_eq!(looked_at.collect::<BTreeSet<_>>(), groups);
    }
}
