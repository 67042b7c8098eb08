//! What the function reads from its environment.

use std::time::Duration;

use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::runtime::config::{ConfigError, Environment};
use genesys_relay::runtime::logging::Sample;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// `QUEUE_URL`: the events queue, for changes of visibility.
    pub(crate) queue_url: String,
    /// `DEAD_LETTER_QUEUE_URL`: where events go that can never be delivered.
    pub(crate) dead_letter_queue_url: String,
    /// `EVENTS_TABLE_NAME`: the events table.
    pub(crate) events_table: String,
    /// `SECRET_ARN`: the stack's secret.
    pub(crate) secret_arn: String,
    /// `SECRETS_CACHE_SECONDS`: how long a copy of the secret is used.
    pub(crate) keep_secrets_for: Duration,
    /// `TARGET_URL`: the customer's system.
    pub(crate) target_url: HttpsUrl,
    /// `TARGET_TIMEOUT_SECONDS`: how long it has to answer.
    pub(crate) target_timeout: Duration,
    /// `BACKOFF_BASE_SECONDS`, `BACKOFF_CAP_SECONDS` and `MAX_RECEIVE_COUNT`: when to try again, and how often.
    pub(crate) schedule: Schedule,
    /// `METRICS_NAMESPACE`: under which name CloudWatch keeps the metrics.
    pub(crate) metrics_namespace: String,
    /// `LOG_LEVEL`: `error`, `warn`, `info` or `debug`.
    pub(crate) log_level: LevelFilter,
    /// `LOG_SAMPLE_PERCENT`: of how many events in a hundred it is logged that all went well.
    pub(crate) log_sample: Sample,
}

impl Config {
    /// Reads and checks every variable.
    pub(crate) fn read(mut environment: Environment<impl Fn(&str) -> Option<String>>) -> Result<Self, ConfigError> {
        let queue_url = environment.parse("QUEUE_URL");
        let dead_letter_queue_url = environment.parse("DEAD_LETTER_QUEUE_URL");
        let events_table = environment.parse("EVENTS_TABLE_NAME");
        let secret_arn = environment.parse("SECRET_ARN");
        let keep_secrets_for = environment.parse_number("SECRETS_CACHE_SECONDS").map(Duration::from_secs);
        let target_url = environment.parse("TARGET_URL");
        let target_timeout = environment.parse_number("TARGET_TIMEOUT_SECONDS").map(Duration::from_secs);
        let base = environment.parse_number("BACKOFF_BASE_SECONDS").map(Duration::from_secs);
        let cap = environment.parse_number("BACKOFF_CAP_SECONDS").map(Duration::from_secs);
        let max_receives = environment.parse_number("MAX_RECEIVE_COUNT");
        let metrics_namespace = environment.parse("METRICS_NAMESPACE");
        let log_level = environment.parse("LOG_LEVEL");
        let log_sample = environment.parse_number("LOG_SAMPLE_PERCENT");
        let schedule = match (base, cap, max_receives) {
            (Some(base), Some(cap), Some(max_receives)) => Schedule::new(base, cap, max_receives)
                .map_err(|error| environment.problem(format!("the retry schedule is wrong: {error}")))
                .ok(),
            _ => None,
        };
        environment.finish((|| {
            Some(Self {
                queue_url: queue_url?,
                dead_letter_queue_url: dead_letter_queue_url?,
                events_table: events_table?,
                secret_arn: secret_arn?,
                keep_secrets_for: keep_secrets_for?,
                target_url: target_url?,
                target_timeout: target_timeout?,
                schedule: schedule?,
                metrics_namespace: metrics_namespace?,
                log_level: log_level?,
                log_sample: log_sample?,
            })
        })())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: (&str, &str)) -> Result<Config, ConfigError> {
        let variables = [
            ("QUEUE_URL", "http://127.0.0.1/queue"),
            ("DEAD_LETTER_QUEUE_URL", "http://127.0.0.1/dead"),
            ("EVENTS_TABLE_NAME", "events"),
            ("SECRET_ARN", "arn"),
            ("SECRETS_CACHE_SECONDS", "300"),
            ("TARGET_URL", "https://example.com/events"),
            ("TARGET_TIMEOUT_SECONDS", "10"),
            ("BACKOFF_BASE_SECONDS", "2"),
            ("BACKOFF_CAP_SECONDS", "900"),
            ("MAX_RECEIVE_COUNT", "10"),
            ("METRICS_NAMESPACE", "GenesysRelay/test"),
            ("LOG_LEVEL", "info"),
            ("LOG_SAMPLE_PERCENT", "100"),
        ];
        Config::read(Environment::new(|name: &str| {
            let found = std::iter::once(&change).chain(&variables).find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }))
    }

    #[test]
    fn each_variable_of_a_complete_environment_is_read_into_its_own_field() {
        let config = read(("", "")).expect("complete");
        let (queues, names) =
            ((config.queue_url, config.dead_letter_queue_url), (config.events_table, config.secret_arn));
        assert_eq!(queues, ("http://127.0.0.1/queue".to_owned(), "http://127.0.0.1/dead".to_owned()));
        assert_eq!(names, ("events".to_owned(), "arn".to_owned()));
        assert_eq!((config.keep_secrets_for, config.target_timeout), (Duration::from_mins(5), Duration::from_secs(10)));
        let schedule = Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10).expect("a schedule");
        assert_eq!(config.schedule, schedule);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value, says) in [
            ("TARGET_URL", "http://example.com/", "https"),
            ("TARGET_URL", "https://user:hunter2@example.com/", "the stack's secret"),
            ("TARGET_URL", "nowhere", "TARGET_URL"),
            ("MAX_RECEIVE_COUNT", "26", "24 h"),
            ("BACKOFF_BASE_SECONDS", "0", "at least 1 s"),
            ("LOG_LEVEL", "loud", "LOG_LEVEL"),
            ("LOG_SAMPLE_PERCENT", "101", "from 0 to 100"),
            ("QUEUE_URL", "", "QUEUE_URL is missing"),
        ] {
            let error = read((name, value)).expect_err(name).to_string();
            assert!(error.contains(says), "{name}={value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
