//! What the function reads from its environment.

use genesys_relay::domain::circuit::Policy;
use genesys_relay::runtime::config::{ConfigError, Environment};
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// `EVENTS_TABLE_NAME`: the events table.
    pub(crate) events_table: String,
    /// `QUEUE_URL`: the events queue, which it counts.
    pub(crate) queue_url: String,
    /// `EVENT_SOURCE_ID`: the mapping of the events queue to the processor.
    pub(crate) event_source_id: String,
    /// `PROCESSOR_FUNCTION_NAME`: what lets one event through.
    pub(crate) processor_function_name: String,
    /// `BREAKER`: `on` or `off`.
    pub(crate) is_on: bool,
    /// `BREAKER_FAILURE_PERCENT` and `MAXIMUM_CONCURRENCY`: when the breaker opens, and how far it closes.
    pub(crate) policy: Policy,
    /// `METRICS_NAMESPACE`: under which name CloudWatch keeps the metrics.
    pub(crate) metrics_namespace: String,
    /// `LOG_LEVEL`: `error`, `warn`, `info` or `debug`.
    pub(crate) log_level: LevelFilter,
}

impl Config {
    /// Reads and checks every variable.
    pub(crate) fn read(mut environment: Environment<impl Fn(&str) -> Option<String>>) -> Result<Self, ConfigError> {
        let events_table = environment.parse("EVENTS_TABLE_NAME");
        let queue_url = environment.parse("QUEUE_URL");
        let event_source_id = environment.parse("EVENT_SOURCE_ID");
        let processor_function_name = environment.parse("PROCESSOR_FUNCTION_NAME");
        let breaker: Option<String> = environment.parse("BREAKER");
        let failure_percent: Option<u8> = environment.parse_number("BREAKER_FAILURE_PERCENT");
        let maximum_concurrency: Option<u32> = environment.parse_number("MAXIMUM_CONCURRENCY");
        let metrics_namespace = environment.parse("METRICS_NAMESPACE");
        let log_level = environment.parse("LOG_LEVEL");
        let is_on = breaker.map(|breaker| {
            breaker == "on" || {
                if breaker != "off" {
                    environment.problem("BREAKER must be on or off".to_owned());
                }
                false
            }
        });
        if failure_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            environment.problem("BREAKER_FAILURE_PERCENT must be from 1 to 100".to_owned());
        }
        if maximum_concurrency.is_some_and(|most| !(2..=1000).contains(&most)) {
            environment.problem("MAXIMUM_CONCURRENCY must be from 2 to 1000".to_owned());
        }
        environment.finish((|| {
            Some(Self {
                events_table: events_table?,
                queue_url: queue_url?,
                event_source_id: event_source_id?,
                processor_function_name: processor_function_name?,
                is_on: is_on?,
                policy: Policy { failure_percent: failure_percent?, maximum_concurrency: maximum_concurrency? },
                metrics_namespace: metrics_namespace?,
                log_level: log_level?,
            })
        })())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: (&str, &str)) -> Result<Config, ConfigError> {
        let variables = [
            ("EVENTS_TABLE_NAME", "events"),
            ("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/events"),
            ("EVENT_SOURCE_ID", "mapping"),
            ("PROCESSOR_FUNCTION_NAME", "processor"),
            ("BREAKER", "on"),
            ("BREAKER_FAILURE_PERCENT", "90"),
            ("MAXIMUM_CONCURRENCY", "10"),
            ("METRICS_NAMESPACE", "GenesysRelay/test"),
            ("LOG_LEVEL", "info"),
        ];
        Config::read(Environment::new(|name: &str| {
            let found = std::iter::once(&change).chain(&variables).find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }))
    }

    #[test]
    fn a_complete_environment_is_taken() {
        assert!(read(("", "")).expect("complete").is_on);
        assert!(!read(("BREAKER", "off")).expect("complete").is_on);
        for (name, value) in [
            ("BREAKER_FAILURE_PERCENT", "1"),
            ("BREAKER_FAILURE_PERCENT", "100"),
            ("MAXIMUM_CONCURRENCY", "2"),
            ("MAXIMUM_CONCURRENCY", "1000"),
        ] {
            assert!(read((name, value)).is_ok(), "{name}={value}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("BREAKER", "perhaps"),
            ("BREAKER_FAILURE_PERCENT", "0"),
            ("BREAKER_FAILURE_PERCENT", "101"),
            ("MAXIMUM_CONCURRENCY", "1"),
            ("MAXIMUM_CONCURRENCY", "1001"),
            ("EVENT_SOURCE_ID", ""),
        ] {
            let error = read((name, value)).expect_err(name).to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }
}
