//! Configuration of the function.

use std::time::Duration;

use genesys_relay::dead_letters::OrderMode;
use genesys_relay::runtime::config::{number, one_of, optional, parsed, text};
use tracing::level_filters::LevelFilter;

/// The function's configuration, with the order of conversations where the stack keeps it.
pub(crate) type Config = (Variables, Option<Ordered>);

genesys_relay::variables! {
    /// Variables that stand for themselves. Lambda itself sets `AWS_LAMBDA_FUNCTION_NAME` ("Defined
    /// runtime environment variables").
    Variables {
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue";
        queue_arn: String = "QUEUE_ARN", text(), "ARN of the events queue, the destination of a move task";
        dead_letter_queue_url: String = "DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue";
        dead_letter_queue_arn: String = "DEAD_LETTER_QUEUE_ARN", text(), "ARN of the dead-letter queue, the source of a move task";
        journal_queue_url: Option<String> = "JOURNAL_QUEUE_URL", optional(text()), "URL of the queue of delivered events that wait for the journal, where the stack keeps one";
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        archive_bucket: String = "ARCHIVE_BUCKET_NAME", text(), "name of the bucket of archived dead letters";
        event_source_id: String = "EVENT_SOURCE_ID", text(), "id of the event source mapping from the events queue to the processor";
        maximum_concurrency: u32 = "MAXIMUM_CONCURRENCY", number(0, 1000), "invocations of the processor at the same time";
        target_rate: u32 = "TARGET_RATE_PER_SECOND", number(0, 10_000), "bound on the rate that the status shows; 0 is none";
        conversation_index: bool = "CONVERSATION_INDEX", one_of(&[("on", true), ("off", false)]), "switch of the index of conversations";
        processor_timeout: Duration = "PROCESSOR_TIMEOUT_SECONDS", number(1, 900).of(Duration::from_secs), "time that one invocation of the processor may take, for which an erasure waits";
        backup_days: u32 = "BACKUP_DAYS", number(1, 35), "days of the point-in-time recovery of the events table, for the report of an erasure";
        log_retention_days: u32 = "LOG_RETENTION_DAYS", number(1, 3653), "days for which logs are kept, for the report of an erasure";
        canary_minutes: u32 = "CANARY_MINUTES", number(0, 60), "minutes between two runs of the canary, whose runs the status shows; 0 is none";
        look_only: bool = "LOOK_ONLY", one_of(&[("true", true), ("false", false)]), "true in the function that changes nothing";
        acting_function_name: String = "ACTING_FUNCTION_NAME", text(), "name of the function that carries out changes";
        function_name: String = "AWS_LAMBDA_FUNCTION_NAME", text(), "name of this function, which invokes itself to continue in the background";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
    }
}

genesys_relay::variables! {
    /// Variables of the order per conversation.
    Ordered {
        mode: OrderMode = "ORDER", one_of(&[("conversation", OrderMode::Conversation), ("draining", OrderMode::Draining)]), "way in which the order is kept";
        queue_url: String = "ORDERED_QUEUE_URL", text(), "URL of the queue that keeps the order of conversations";
        dead_letter_queue_url: String = "ORDERED_DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue of that queue";
        event_source_id: String = "ORDERED_EVENT_SOURCE_ID", text(), "id of the event source mapping from that queue to the processor";
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::{ConfigError, Environment};

    use super::*;

    const COMPLETE: [(&str, &str); 19] = [
        ("QUEUE_URL", "events"),
        ("QUEUE_ARN", "arn:events"),
        ("DEAD_LETTER_QUEUE_URL", "dead"),
        ("DEAD_LETTER_QUEUE_ARN", "arn:dead"),
        ("EVENTS_TABLE_NAME", "table"),
        ("ARCHIVE_BUCKET_NAME", "bucket"),
        ("EVENT_SOURCE_ID", "mapping"),
        ("MAXIMUM_CONCURRENCY", "10"),
        ("TARGET_RATE_PER_SECOND", "20"),
        ("CONVERSATION_INDEX", "on"),
        ("PROCESSOR_TIMEOUT_SECONDS", "60"),
        ("BACKUP_DAYS", "35"),
        ("LOG_RETENTION_DAYS", "30"),
        ("CANARY_MINUTES", "5"),
        ("LOOK_ONLY", "true"),
        ("ACTING_FUNCTION_NAME", "another"),
        ("AWS_LAMBDA_FUNCTION_NAME", "itself"),
        ("METRICS_NAMESPACE", "metrics"),
        ("LOG_LEVEL", "info"),
    ];

    const ORDERED: [(&str, &str); 4] = [
        ("ORDER", "draining"),
        ("ORDERED_QUEUE_URL", "ordered.fifo"),
        ("ORDERED_DEAD_LETTER_QUEUE_URL", "dead.fifo"),
        ("ORDERED_EVENT_SOURCE_ID", "ordered-mapping"),
    ];

    fn read(left_out: &str) -> Result<Config, ConfigError> {
        read_of(&COMPLETE, left_out)
    }

    fn read_of(variables: &[(&str, &str)], left_out: &str) -> Result<Config, ConfigError> {
        Environment::new(|name: &str| {
            let found = variables
                .iter()
                .find(|(known, _)| *known == name && name != left_out);
            found.map(|(_, value)| (*value).to_owned())
        })
        .read_all()
    }

    #[test]
    fn each_variable_is_read_into_its_own_field_and_has_to_be_there() {
        let (config, ordered) = read("").expect("complete");
        assert!(ordered.is_none());
        let read_as = [
            config.queue_url,
            config.queue_arn,
            config.dead_letter_queue_url,
            config.dead_letter_queue_arn,
            config.events_table,
            config.archive_bucket,
            config.event_source_id,
            config.maximum_concurrency.to_string(),
            config.target_rate.to_string(),
            if config.conversation_index {
                "on"
            } else {
                "off"
            }
            .to_owned(),
            config.processor_timeout.as_secs().to_string(),
            config.backup_days.to_string(),
            config.log_retention_days.to_string(),
            config.canary_minutes.to_string(),
            config.look_only.to_string(),
            config.acting_function_name,
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

    #[test]
    fn journal_is_off_without_its_queue() {
        let (config, _) = read("").expect("complete");
        assert_eq!(config.journal_queue_url, None);
        let with_journal = [&COMPLETE[..], &[("JOURNAL_QUEUE_URL", "journal")]].concat();
        let (config, _) = read_of(&with_journal, "").expect("complete");
        assert_eq!(config.journal_queue_url.as_deref(), Some("journal"));
    }

    #[test]
    fn order_needs_each_of_its_variables() {
        let all = [&COMPLETE[..], &ORDERED].concat();
        let ordered = read_of(&all, "").expect("complete").1.expect("order");
        assert_eq!(ordered.mode, OrderMode::Draining);
        let read_as = [
            ordered.queue_url,
            ordered.dead_letter_queue_url,
            ordered.event_source_id,
        ];
        assert_eq!(read_as, ["ordered.fifo", "dead.fifo", "ordered-mapping"]);
        for (name, _) in ORDERED {
            let error = read_of(&all, name).expect_err(name);
            assert_eq!(error.0, [format!("{name} is missing")]);
        }
    }
}
