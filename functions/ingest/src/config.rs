//! What the function reads from its environment.

use std::time::Duration;

use genesys_relay::runtime::config::{ConfigError, Environment};
use genesys_relay::runtime::logging::Sample;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// `QUEUE_URL`: the events queue.
    pub(crate) queue_url: String,
    /// `DEAD_LETTER_QUEUE_URL`: where malformed bodies are kept.
    pub(crate) dead_letter_queue_url: String,
    /// `SECRET_ARN`: the stack's secret.
    pub(crate) secret_arn: String,
    /// `SECRETS_CACHE_SECONDS`: how long a copy of the secret is used.
    pub(crate) keep_secrets_for: Duration,
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
        let secret_arn = environment.parse("SECRET_ARN");
        let keep_secrets_for = environment.parse_number("SECRETS_CACHE_SECONDS").map(Duration::from_secs);
        let metrics_namespace = environment.parse("METRICS_NAMESPACE");
        let log_level = environment.parse("LOG_LEVEL");
        let log_sample = environment.parse_number("LOG_SAMPLE_PERCENT");
        environment.finish((|| {
            Some(Self {
                queue_url: queue_url?,
                dead_letter_queue_url: dead_letter_queue_url?,
                secret_arn: secret_arn?,
                keep_secrets_for: keep_secrets_for?,
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

    const COMPLETE: [(&str, &str); 7] = [
        ("QUEUE_URL", "events"),
        ("DEAD_LETTER_QUEUE_URL", "dead"),
        ("SECRET_ARN", "secret"),
        ("SECRETS_CACHE_SECONDS", "300"),
        ("METRICS_NAMESPACE", "metrics"),
        ("LOG_LEVEL", "info"),
        ("LOG_SAMPLE_PERCENT", "7"),
    ];

    fn read(left_out: &str) -> Result<Config, ConfigError> {
        Config::read(Environment::new(|name: &str| {
            let found = COMPLETE.iter().find(|(known, _)| *known == name && name != left_out);
            found.map(|(_, value)| (*value).to_owned())
        }))
    }

    #[test]
    fn each_variable_is_read_into_its_own_field_and_has_to_be_there() {
        let config = read("").expect("complete");
        assert_eq!((config.queue_url.as_str(), config.dead_letter_queue_url.as_str()), ("events", "dead"));
        assert_eq!((config.secret_arn.as_str(), config.metrics_namespace.as_str()), ("secret", "metrics"));
        assert_eq!((config.keep_secrets_for, config.log_level), (Duration::from_mins(5), LevelFilter::INFO));
        assert_eq!(config.log_sample, "7".parse().expect("a sample"));
        for (name, _) in COMPLETE {
            let error = read(name).expect_err(name);
            assert_eq!(error.0, [format!("{name} is missing")]);
        }
    }
}
