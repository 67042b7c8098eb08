//! Configuration of the function.

use std::time::Duration;

use genesys_relay::runtime::config::{number, one_of, parsed, text};
use tracing::level_filters::LevelFilter;

/// The function's configuration, with the ordered queue where the stack has one.
pub(crate) type Config = (Variables, Option<Ordered>);

genesys_relay::variables! {
    /// Variables that stand for themselves.
    Variables {
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue, whose messages are counted";
        event_source_id: String = "EVENT_SOURCE_ID", text(), "id of the event source mapping from the events queue to the processor";
        processor_function_name: String = "PROCESSOR_FUNCTION_NAME", text(), "name of the processor, which is invoked for a probe";
        is_on: bool = "BREAKER", one_of(&[("on", true), ("off", false)]), "switch of the breaker";
        failure_percent: u8 = "BREAKER_FAILURE_PERCENT", number(1, 100), "share of events failing at their first attempt that opens the breaker";
        maximum_concurrency: u32 = "MAXIMUM_CONCURRENCY", number(2, 1000), "invocations of the processor at the same time while the breaker is closed";
        target_rate: u32 = "TARGET_RATE_PER_SECOND", number(0, 10_000), "bound on the rate; with one, a probe runs beside no other invocation of the processor; 0 is none";
        processor_timeout: Duration = "PROCESSOR_TIMEOUT_SECONDS", number(1, 900).of(Duration::from_secs), "time that one invocation of the processor may take";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
    }
}

genesys_relay::variables! {
    /// Variables of the order per conversation.
    Ordered {
        queue_url: String = "ORDERED_QUEUE_URL", text(), "URL of the queue that keeps the order of conversations, whose messages are counted too";
        event_source_id: String = "ORDERED_EVENT_SOURCE_ID", text(), "id of the event source mapping from that queue to the processor";
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
            ("TARGET_RATE_PER_SECOND", "20"),
            ("PROCESSOR_TIMEOUT_SECONDS", "60"),
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
        let (config, ordered) = read(("", "")).expect("complete");
        assert!(config.is_on && ordered.is_none());
        assert!(!read(("BREAKER", "off")).expect("complete").0.is_on);
        for (name, value) in [
            ("BREAKER_FAILURE_PERCENT", "1"),
            ("BREAKER_FAILURE_PERCENT", "100"),
            ("MAXIMUM_CONCURRENCY", "2"),
            ("MAXIMUM_CONCURRENCY", "1000"),
            ("TARGET_RATE_PER_SECOND", "0"),
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
            ("PROCESSOR_TIMEOUT_SECONDS", "0"),
            ("EVENT_SOURCE_ID", ""),
        ] {
            let error = read((name, value)).expect_err(name).to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn queue_in_order_and_its_mapping_need_each_other() {
        let names = ["ORDERED_QUEUE_URL", "ORDERED_EVENT_SOURCE_ID"];
        for (there, missing) in names.into_iter().zip(names.into_iter().rev()) {
            let error = read((there, "there")).expect_err(missing).to_string();
            assert!(error.contains(&format!("{missing} is missing")), "{error}");
        }
    }
}
