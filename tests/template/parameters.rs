//! Parameters: a function starts with every value that the template accepts.

use genesys_relay::adapters::delivery_log::webhook_deliveries::LogPath;
use genesys_relay::domain::https_url::{BaseUrl, HttpsUrl};
use proptest::prelude::*;
use proptest::string::string_regex;
use regex_lite::Regex;
use tracing::level_filters::LevelFilter;

use super::*;

/// A parameter whose values have a pattern in the template and a parser in the code.
type Parsed = (&'static str, fn(&str) -> bool);

const TARGET_URL: Parsed = ("TargetUrl", |text| text.parse::<HttpsUrl>().is_ok());
const GENESYS_API_URL: Parsed = ("GenesysApiUrl", |text| text.parse::<BaseUrl>().is_ok());
const GENESYS_LOGIN_URL: Parsed = ("GenesysLoginUrl", |text| text.parse::<BaseUrl>().is_ok());
const WEBHOOK_DELIVERIES_PATH: Parsed = ("WebhookDeliveriesPath", |text| {
    text.parse::<LogPath>().is_ok()
});
const PARSED: [Parsed; 4] = [
    TARGET_URL,
    GENESYS_API_URL,
    GENESYS_LOGIN_URL,
    WEBHOOK_DELIVERIES_PATH,
];

fn pattern(template: &Yaml, parameter: &str) -> String {
    let pattern = template["Parameters"][parameter]["AllowedPattern"].as_str();
    pattern
        .unwrap_or_else(|| panic!("{parameter} has no pattern"))
        .to_owned()
}

#[test]
fn patterns_of_the_template_agree_with_the_parsers() {
    const ORIGINS: [&str; 9] = [
        "https://example.com",
        "https://EXAMPLE.com:8443",
        "https://10.0.0.255",
        "https://host",
        "https://1and1.example.com:443",
        "https://a-b--c.d-e.example",
        "https://foo--bar.example.com",
        "http://127.0.0.1:8080",
        "http://localhost",
    ];
    // The first of each pair: whether the code takes it. A host that only the template refuses
    // could not be reached.
    const NO_ORIGINS: [(bool, &str); 24] = [
        (false, "https://10.0.0.256"),
        (false, "https://10.0.0.0.1"),
        (false, "https://example.256"),
        (false, "https://example.com.0x"),
        (true, "https://1.2.3"),
        (true, "https://0x7f.0.0.1"),
        (false, "https://xn--a"),
        (false, "https://xn--.com"),
        (true, "https://example.com."),
        (true, "https://a..b"),
        (true, "https://-a.com"),
        (true, "https://a-.com"),
        (false, "https://exa mple.com"),
        (false, "https://example.com:65536"),
        (false, "https://example.com:99999"),
        (true, "https://example.com:"),
        (false, "https://user@example.com"),
        (false, "https://user:pass@example.com"),
        (false, "http://example.com"),
        (false, "http://127.0.0.1.example.com"),
        (false, "http://169.254.169.254"),
        (false, "ftp://example.com"),
        (false, "example.com"),
        (false, "SET-TargetUrl-IN-samconfig.toml"),
    ];
    const PATHS: [&str; 3] = [
        "/api/v2/webhooks/{webhookId}/deliveries",
        "/{webhookId}",
        "/a{webhookId}{webhookId}~!$",
    ];
    const NO_PATHS: [(bool, &str); 6] = [
        (false, "/deliveries"),
        (false, "api/{webhookId}"),
        (false, "/{webhookId}?a=b"),
        (false, "/{webhookId}#a"),
        (false, "/{webhookId}/ü"),
        (false, "/{webhookId} "),
    ];
    let template = template();
    let check = |(name, parses): Parsed, text: &str, by_template: bool, by_code: bool| {
        let allowed = Regex::new(&pattern(&template, name)).expect("a pattern");
        assert_eq!(
            (allowed.is_match(text), parses(text)),
            (by_template, by_code),
            "{name}: {text}"
        );
    };
    for origin in ORIGINS {
        for path in ["", "/", "/hook", "/hook/%20|^`{}"] {
            for url in [TARGET_URL, GENESYS_API_URL, GENESYS_LOGIN_URL] {
                check(url, &format!("{origin}{path}"), true, true);
            }
        }
        check(
            TARGET_URL,
            &format!("{origin}/hook?t=1&u={{x}}"),
            true,
            true,
        );
        check(TARGET_URL, &format!("{origin}?t=1"), true, true);
        check(TARGET_URL, &format!("{origin}/#part"), false, true);
        check(GENESYS_API_URL, &format!("{origin}/?t=1"), false, false);
        check(GENESYS_API_URL, &format!("{origin}/#part"), false, false);
    }
    for (by_code, origin) in NO_ORIGINS {
        for url in [TARGET_URL, GENESYS_API_URL, GENESYS_LOGIN_URL] {
            check(url, &format!("{origin}/x"), false, by_code);
        }
    }
    for path in PATHS {
        check(WEBHOOK_DELIVERIES_PATH, path, true, true);
    }
    for (by_code, path) in NO_PATHS {
        check(WEBHOOK_DELIVERIES_PATH, path, false, by_code);
    }
}

proptest! {
    /// Otherwise a deploy succeeds, and the function ends in INIT.
    #[test]
    fn functions_accept_every_value_of_a_pattern(
        (name, parses, text) in prop::sample::select(PARSED.to_vec()).prop_flat_map(|(name, parses)| {
            // Without anchors, and without the alternative of being empty, which the functions take
            // for absent.
            let pattern = pattern(&template(), name);
            let pattern = pattern.trim_start_matches("^$|").trim_start_matches('^').trim_end_matches('$').to_owned();
            (Just(name), Just(parses), string_regex(&pattern).expect("a pattern"))
        })
    ) {
        prop_assert!(parses(&text), "{name}: {text:?}");
    }
}

#[test]
fn levels_and_lists_are_those_that_the_functions_know() {
    let template = template();
    for level in template["Parameters"]["LogLevel"]["AllowedValues"]
        .as_vec()
        .expect("a list")
    {
        assert!(
            level
                .as_str()
                .is_some_and(|level| level.parse::<LevelFilter>().is_ok()),
            "{level:?}"
        );
    }
    // `sam` cuts a value in samconfig.toml at a blank.
    for list in ["RecoveryIds", "RecoveryStatuses"] {
        let allowed = Regex::new(&pattern(&template, list)).expect("a pattern");
        assert!(allowed.is_match("a,b-c,d"), "{list}");
        for wrong in ["a, b", "a,b ", " a", "a,,b", "a,"] {
            assert!(!allowed.is_match(wrong), "{list}: {wrong:?}");
        }
    }
}

/// `CloudFormation` takes 1.5 for a number, and hands it on.
#[test]
fn every_number_that_a_function_reads_may_have_a_fraction() {
    let template = template();
    let mut numbers = 0;
    for (function, logical_id) in FUNCTIONS {
        let read = variables::of(function);
        let variables =
            resource(&template, logical_id)["Properties"]["Environment"]["Variables"].clone();
        for (variable, parameter) in variables.as_hash().expect("variables") {
            let variable = variable.as_str().expect("a name");
            let kind = parameter
                .as_str()
                .and_then(|name| template["Parameters"][name]["Type"].as_str());
            if kind != Some("Number") {
                continue;
            }
            let is_number = read
                .iter()
                .any(|read| read.name == variable && read.is_number);
            assert!(is_number, "{function}: {variable}");
            numbers += 1;
        }
    }
    assert!(numbers > 10, "{numbers}");
}

/// Lambda gives all variables of a function 4 KB ("Lambda quotas"), CloudFormation a template 1 MB,
/// 500 resources and 200 parameters ("Understand CloudFormation quotas"), Lambda a function's name
/// 64 characters, and SQS a queue's name 80.
#[test]
fn the_template_is_within_the_quotas_of_aws() {
    const LONGEST_ARN: u64 = 200;
    /// `https://sqs.cn-northwest-1.amazonaws.com.cn/123456789012/` and a name of 80 characters.
    const LONGEST_QUEUE_URL: u64 = 137;
    /// As docs/operate/deploy.md says.
    const LONGEST_STACK_NAME: usize = 54;
    let template = template();
    let size = file("template.yaml").len();
    assert!(size < 1024 * 1024, "{size}");
    let count = |part: &str| template[part].as_hash().expect("a part").len();
    assert!(
        count("Resources") < 250 && count("Parameters") < 200,
        "SAM makes more resources of these"
    );
    for queue in resources_of(&template, "AWS::SQS::Queue") {
        let name = queue["QueueName"].as_str().expect("a name");
        let name = name.replace("${AWS::StackName}", "");
        assert!(name.len() <= 80 - LONGEST_STACK_NAME, "{name}");
    }
    for (function, logical_id) in FUNCTIONS {
        let properties = resource(&template, logical_id)["Properties"].clone();
        let name = properties["FunctionName"]
            .as_str()
            .expect("a name")
            .replace("${AWS::StackName}", "");
        assert!(name.len() <= 64 - LONGEST_STACK_NAME, "{function}");
        let variables = properties["Environment"]["Variables"]
            .as_hash()
            .expect("variables");
        let bytes = variables.iter().map(|(name, value)| {
            let name = name.as_str().expect("a name");
            let parameter = conditional(value)
                .1
                .as_str()
                .map(|name| &template["Parameters"][name])
                .filter(|found| !found.is_badvalue());
            let longest = match parameter {
                Some(text)
                    if text["Type"].as_str() == Some("String")
                        && text["AllowedValues"].is_badvalue() =>
                {
                    number(&text["MaxLength"])
                }
                Some(_) => 20,
                None if name.ends_with("QUEUE_URL") => LONGEST_QUEUE_URL,
                None => LONGEST_ARN,
            };
            name.len() as u64 + longest
        });
        assert!(bytes.sum::<u64>() <= 4096, "{function}");
    }
}

#[test]
fn costly_parameters_are_off_by_default() {
    let template = template();
    let default = |name: &str| scalar(&template["Parameters"][name]["Default"]);
    assert_eq!(default("Tracing").as_deref(), Some("PassThrough"));
    assert_eq!(default("IngestReservedConcurrency").as_deref(), Some(""));
    assert_eq!(default("JournalDays").as_deref(), Some("0"));
    let reserved =
        &resource(&template, "IngestFunction")["Properties"]["ReservedConcurrentExecutions"];
    let branches = reserved.as_vec().expect("an !If");
    let branches: Vec<_> = branches
        .iter()
        .map(scalar)
        .map(Option::unwrap_or_default)
        .collect();
    assert_eq!(
        branches,
        [
            "ReservesIngest",
            "IngestReservedConcurrency",
            "AWS::NoValue"
        ]
    );
}
