//! Configuration of the function.

use std::time::Duration;

use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::runtime::config::{Environment, Table, Variable, number, parsed, text};
use genesys_relay::runtime::logging::Sample;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) variables: Variables,
    pub(crate) schedule: Schedule,
}

genesys_relay::variables! {
    /// Variables that stand for themselves.
    Variables {
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue, for changes of the visibility timeout";
        dead_letter_queue_url: String = "DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue";
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        secret_arn: String = "SECRET_ARN", text(), "ARN of the stack's secret";
        keep_secrets_for: Duration = "SECRETS_CACHE_SECONDS", number(0, 86_400).of(Duration::from_secs), "time for which a copy of the secret is used";
        target_url: HttpsUrl = "TARGET_URL", parsed("an https URL without credentials"), "URL to which events are delivered";
        target_timeout: Duration = "TARGET_TIMEOUT_SECONDS", number(0, 86_400).of(Duration::from_secs), "time for one delivery";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
        log_sample: Sample = "LOG_SAMPLE_PERCENT", number(0, 100).of(Sample::of_percent), "share of the events whose success is logged";
    }
}

genesys_relay::variables! {
    /// Variables of the retry schedule.
    Retries {
        base: Duration = "BACKOFF_BASE_SECONDS", number(0, 86_400).of(Duration::from_secs), "delay after the first attempt";
        cap: Duration = "BACKOFF_CAP_SECONDS", number(0, 86_400).of(Duration::from_secs), "longest delay";
        max_receives: u32 = "MAX_RECEIVE_COUNT", number(0, 1000), "receives before an event is a dead letter";
    }
}

impl Table for Config {
    fn variables() -> Vec<Variable> {
        [Variables::variables(), Retries::variables()].concat()
    }

    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let (variables, retries) = (Variables::read(environment), Retries::read(environment));
        let Retries {
            base,
            cap,
            max_receives,
        } = retries?;
        let schedule = Schedule::new(base, cap, max_receives)
            .map_err(|error| environment.problem(format!("the retry schedule is wrong: {error}")));
        Some(Self {
            variables: variables?,
            schedule: schedule.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::ConfigError;

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
        Environment::new(|name: &str| {
            let found = std::iter::once(&change)
                .chain(&variables)
                .find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .read_all()
    }

    #[test]
    fn each_variable_of_a_complete_environment_is_read_into_its_own_field() {
        let Config {
            variables: config,
            schedule: read,
        } = read(("", "")).expect("complete");
        let (queues, names) = (
            (config.queue_url, config.dead_letter_queue_url),
            (config.events_table, config.secret_arn),
        );
        assert_eq!(
            queues,
            (
                "http://127.0.0.1/queue".to_owned(),
                "http://127.0.0.1/dead".to_owned()
            )
        );
        assert_eq!(names, ("events".to_owned(), "arn".to_owned()));
        assert_eq!(
            (config.keep_secrets_for, config.target_timeout),
            (Duration::from_mins(5), Duration::from_secs(10))
        );
        let schedule =
            Schedule::new(Duration::from_secs(2), Duration::from_mins(15), 10).expect("a schedule");
        assert_eq!(read, schedule);
    }

    #[test]
    fn each_wrong_variable_is_named() {
        for (name, value, says) in [
            ("TARGET_URL", "http://example.com/", "https"),
            (
                "TARGET_URL",
                "https://user:hunter2@example.com/",
                "the stack's secret",
            ),
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
