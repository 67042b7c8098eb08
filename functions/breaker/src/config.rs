//! Configuration of the function.

use genesys_relay::runtime::config::{number, one_of, parsed, text};
use tracing::level_filters::LevelFilter;

genesys_relay::variables! {
    /// The function's configuration.
    Config {
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue, whose messages are counted";
        event_source_id: String = "EVENT_SOURCE_ID", text(), "id of the event source mapping from the events queue to the processor";
        processor_function_name: String = "PROCESSOR_FUNCTION_NAME", text(), "name of the processor, which is invoked for a probe";
        is_on: bool = "BREAKER", one_of(&[("on", true), ("off", false)]), "switch of the breaker";
        failure_percent: u8 = "BREAKER_FAILURE_PERCENT", number(1, 100), "share of events failing at their first attempt that opens the breaker";
        maximum_concurrency: u32 = "MAXIMUM_CONCURRENCY", number(2, 1000), "invocations of the processor at the same time while the breaker is closed";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::{ConfigError, Environment};

    use super::*;

    fn read(change: (&str, &str)) -> Result<Config, ConfigError> {
        let variables = [
            ("EVENTS_TABLE_NAME", "events"),
            (
                "QUEUE_URL",
                "https://sqs.us-east-1.amazonaws.com/123456789012/events",
            ),
            ("EVENT_SOURCE_ID", "mapping"),
            ("PROCESSOR_FUNCTION_NAME", "processor"),
            ("BREAKER", "on"),
            ("BREAKER_FAILURE_PERCENT", "90"),
            ("MAXIMUM_CONCURRENCY", "10"),
            ("METRICS_NAMESPACE", "GenesysRelay/test"),
            ("LOG_LEVEL", "info"),
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
    fn each_wrong_variable_is_named() {
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
