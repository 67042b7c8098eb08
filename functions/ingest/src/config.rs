//! Configuration of the function.

use std::time::Duration;

use genesys_relay::runtime::config::{number, optional, parsed, text};
use genesys_relay::runtime::logging::Sample;
use tracing::level_filters::LevelFilter;

genesys_relay::variables! {
    /// The function's configuration.
    Config {
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue";
        ordered_queue_url: Option<String> = "ORDERED_QUEUE_URL", optional(text()), "URL of the queue that keeps the order of conversations";
        dead_letter_queue_url: String = "DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue, for malformed bodies";
        secret_arn: String = "SECRET_ARN", text(), "ARN of the stack's secret";
        keep_secrets_for: Duration = "SECRETS_CACHE_SECONDS", number(0, 86_400).of(Duration::from_secs), "time for which a copy of the secret is used";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
        log_sample: Sample = "LOG_SAMPLE_PERCENT", number(0, 100).of(Sample::of_percent), "share of the events whose success is logged";
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::{ConfigError, Environment};

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
        Environment::new(|name: &str| {
            let found = COMPLETE
                .iter()
                .find(|(known, _)| *known == name && name != left_out);
            found.map(|(_, value)| (*value).to_owned())
        })
        .read_all()
    }

    #[test]
    fn each_variable_is_read_into_its_own_field_and_has_to_be_there() {
        let config = read("").expect("complete");
        assert_eq!(
            (
                config.queue_url.as_str(),
                config.dead_letter_queue_url.as_str()
            ),
            ("events", "dead")
        );
        assert_eq!(
            (
                config.secret_arn.as_str(),
                config.metrics_namespace.as_str()
            ),
            ("secret", "metrics")
        );
        assert_eq!(
            (config.keep_secrets_for, config.log_level),
            (Duration::from_mins(5), LevelFilter::INFO)
        );
        assert_eq!(config.log_sample, Sample::of_percent(7));
        assert_eq!(config.ordered_queue_url, None);
        for (name, _) in COMPLETE {
            let error = read(name).expect_err(name);
            assert_eq!(error.0, [format!("{name} is missing")]);
        }
    }
}
