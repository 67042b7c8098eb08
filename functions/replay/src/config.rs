//! Configuration of the function, from its environment.

use genesys_relay::runtime::config::{ConfigError, Environment};
use tracing::level_filters::LevelFilter;

/// Set by Lambda itself ("Defined runtime environment variables"), not by the template.
const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// `QUEUE_URL`: the events queue.
    pub(crate) queue_url: String,
    /// `QUEUE_ARN`: the events queue, as the destination of a move task.
    pub(crate) queue_arn: String,
    /// `DEAD_LETTER_QUEUE_URL`: the dead-letter queue.
    pub(crate) dead_letter_queue_url: String,
    /// `DEAD_LETTER_QUEUE_ARN`: the dead-letter queue, as the source of a move task.
    pub(crate) dead_letter_queue_arn: String,
    /// `EVENTS_TABLE_NAME`: the events table.
    pub(crate) events_table: String,
    /// `ARCHIVE_BUCKET_NAME`: the bucket of archived dead letters.
    pub(crate) archive_bucket: String,
    /// `EVENT_SOURCE_ID`: the mapping of the events queue to the processor.
    pub(crate) event_source_id: String,
    /// `MAXIMUM_CONCURRENCY`: concurrent invocations of the processor.
    pub(crate) maximum_concurrency: u32,
    /// `AWS_LAMBDA_FUNCTION_NAME`: this function, which invokes itself for background runs.
    pub(crate) function_name: String,
    /// `METRICS_NAMESPACE`: namespace of the metrics in CloudWatch.
    pub(crate) metrics_namespace: String,
    /// `LOG_LEVEL`: `error`, `warn`, `info` or `debug`.
    pub(crate) log_level: LevelFilter,
}

impl Config {
    /// Reads and checks every variable.
    pub(crate) fn read(mut environment: Environment<impl Fn(&str) -> Option<String>>) -> Result<Self, ConfigError> {
        let queue_url = environment.parse("QUEUE_URL");
        let queue_arn = environment.parse("QUEUE_ARN");
        let dead_letter_queue_url = environment.parse("DEAD_LETTER_QUEUE_URL");
        let dead_letter_queue_arn = environment.parse("DEAD_LETTER_QUEUE_ARN");
        let events_table = environment.parse("EVENTS_TABLE_NAME");
        let archive_bucket = environment.parse("ARCHIVE_BUCKET_NAME");
        let event_source_id = environment.parse("EVENT_SOURCE_ID");
        let maximum_concurrency = environment.parse_number("MAXIMUM_CONCURRENCY");
        let function_name = environment.parse(FUNCTION_NAME);
        let metrics_namespace = environment.parse("METRICS_NAMESPACE");
        let log_level = environment.parse("LOG_LEVEL");
        environment.finish((|| {
            Some(Self {
                queue_url: queue_url?,
                queue_arn: queue_arn?,
                dead_letter_queue_url: dead_letter_queue_url?,
                dead_letter_queue_arn: dead_letter_queue_arn?,
                events_table: events_table?,
                archive_bucket: archive_bucket?,
                event_source_id: event_source_id?,
                maximum_concurrency: maximum_concurrency?,
                function_name: function_name?,
                metrics_namespace: metrics_namespace?,
                log_level: log_level?,
            })
        })())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 11] = [
        ("QUEUE_URL", "events"),
        ("QUEUE_ARN", "arn:events"),
        ("DEAD_LETTER_QUEUE_URL", "dead"),
        ("DEAD_LETTER_QUEUE_ARN", "arn:dead"),
        ("EVENTS_TABLE_NAME", "table"),
        ("ARCHIVE_BUCKET_NAME", "bucket"),
        ("EVENT_SOURCE_ID", "mapping"),
        ("MAXIMUM_CONCURRENCY", "10"),
        (FUNCTION_NAME, "itself"),
        ("METRICS_NAMESPACE", "metrics"),
        ("LOG_LEVEL", "info"),
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
        let read_as = [
            config.queue_url,
            config.queue_arn,
            config.dead_letter_queue_url,
            config.dead_letter_queue_arn,
            config.events_table,
            config.archive_bucket,
            config.event_source_id,
            config.maximum_concurrency.to_string(),
            config.function_name,
            config.metrics_namespace,
            config.log_level.to_string(),
        ];
        assert_eq!(read_as, COMPLETE.map(|(_, value)| value.to_owned()));
        for (name, _) in COMPLETE {
            let error = read(name).expect_err(name);
            assert_eq!(error.0, [format!("{name} is missing")]);
        }
    }
}
