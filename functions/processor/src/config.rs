//! Configuration of the function.

use std::num::NonZeroU32;
use std::time::Duration;

use genesys_relay::deliver::{Order, SETTLE_TIME};
use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::pace::Pace;
use genesys_relay::runtime::config::{
    Environment, Table, Variable, number, one_of, optional, parsed, text,
};
use genesys_relay::runtime::logging::Sample;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) variables: Variables,
    pub(crate) schedule: Schedule,
    /// The bound on the requests to the target, if there is one.
    pub(crate) pace: Option<Pace>,
    /// The way in which the order of conversations is kept, if it is, and the URL of its queue.
    pub(crate) order: Option<(Order, String)>,
}

genesys_relay::variables! {
    /// Variables that stand for themselves.
    Variables {
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue, for changes of the visibility timeout";
        dead_letter_queue_url: String = "DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue";
        journal_queue_url: Option<String> = "JOURNAL_QUEUE_URL", optional(text()), "URL of the queue of delivered events, from which the journal is written";
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        secret_arn: String = "SECRET_ARN", text(), "ARN of the stack's secret";
        signing_secret_arn: Option<String> = "SIGNING_SECRET_ARN", optional(text()), "ARN of the secret with the generated signing keys";
        keep_secrets_for: Duration = "SECRETS_CACHE_SECONDS", number(0, 86_400).of(Duration::from_secs), "time for which a copy of the secret is used";
        target_url: HttpsUrl = "TARGET_URL", parsed("an https URL without credentials"), "URL to which events are delivered";
        target_timeout: Duration = "TARGET_TIMEOUT_SECONDS", number(0, 86_400).of(Duration::from_secs), "time for one delivery";
        target_sigv4_service: Option<&'static str> = "TARGET_SIGV4_SERVICE", optional(one_of(&[("execute-api", "execute-api"), ("lambda", "lambda"), ("vpc-lattice-svcs", "vpc-lattice-svcs")])), "service that requests to the target are signed for";
        target_sigv4_region: Option<String> = "TARGET_SIGV4_REGION", optional(text()), "region of that service instead of the function's";
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

genesys_relay::variables! {
    /// Variables of the bound on the requests to the target.
    Rate {
        per_second: Option<u32> = "TARGET_RATE_PER_SECOND", optional(number(0, 10_000)), "requests to the target in a second, at most; 0 for no bound";
        maximum_concurrency: Option<u32> = "MAXIMUM_CONCURRENCY", optional(number(0, 1000)), "invocations of this function at the same time";
        function_timeout: Option<u32> = "PROCESSOR_TIMEOUT_SECONDS", optional(number(0, 900)), "time that one invocation may take";
    }
}

genesys_relay::variables! {
    /// Variables of the order per conversation.
    Ordered {
        queue_url: String = "ORDERED_QUEUE_URL", text(), "URL of the queue that keeps the order of conversations";
        patience: Duration = "ORDER_PATIENCE_SECONDS", number(10, 900).of(Duration::from_secs), "time for which a conversation waits for an event that fails";
    }
}

impl Rate {
    /// The bound for requests that take up to `target_timeout` each, where this many mappings each
    /// invoke the function `MAXIMUM_CONCURRENCY` times at once.
    fn pace(self, target_timeout: Duration, mappings: u32) -> Result<Option<Pace>, String> {
        let Some(rate) = self.per_second.and_then(NonZeroU32::new) else {
            return Ok(None);
        };
        let concurrency = self.maximum_concurrency.map(|most| most * mappings);
        let concurrency = concurrency.and_then(NonZeroU32::new);
        let (Some(concurrency), Some(timeout)) = (concurrency, self.function_timeout) else {
            let needs = "TARGET_RATE_PER_SECOND needs MAXIMUM_CONCURRENCY and PROCESSOR_TIMEOUT_SECONDS: \
                         each invocation has a share of the rate";
            return Err(needs.to_owned());
        };
        let time = Duration::from_secs(timeout.into()).saturating_sub(SETTLE_TIME);
        let pace = Pace::new(rate, concurrency, target_timeout.min(time / 2));
        if pace.shortest_invocation() > time {
            return Err(format!(
                "no request fits into an invocation: each may send {rate}/{concurrency} requests a second and has {time:?}; \
                 raise TargetRatePerSecond, or lower MaximumConcurrency"
            ));
        }
        Ok(Some(pace))
    }
}

impl Table for Config {
    fn variables() -> Vec<Variable> {
        [
            Variables::variables(),
            Retries::variables(),
            Rate::variables(),
            <Option<Ordered>>::variables(),
        ]
        .concat()
    }

    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let (variables, retries) = (Variables::read(environment), Retries::read(environment));
        let target_timeout = variables.as_ref().map(|variables| variables.target_timeout);
        let ordered = <Option<Ordered>>::read(environment);
        let mappings = if let Some(Some(_)) = ordered { 2 } else { 1 };
        let pace = Rate::read(environment).zip(target_timeout);
        let pace = pace.and_then(|(rate, target_timeout)| {
            let pace = rate.pace(target_timeout, mappings);
            pace.map_err(|error| environment.problem(error)).ok()
        });
        let Retries {
            base,
            cap,
            max_receives,
        } = retries?;
        let schedule = Schedule::new(base, cap, max_receives)
            .map_err(|error| environment.problem(format!("the retry schedule is wrong: {error}")));
        let request_time = target_timeout?;
        let order = |Ordered {
                         queue_url,
                         patience,
                     }| {
            let order = Order {
                patience,
                request_time,
            };
            (order, queue_url)
        };
        Some(Self {
            variables: variables?,
            schedule: schedule.ok()?,
            pace: pace?,
            order: ordered?.map(order),
        })
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::ConfigError;

    use super::*;

    fn read(change: (&str, &str)) -> Result<Config, ConfigError> {
        read_with(&[change])
    }

    fn read_with(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
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
            let found = changes
                .iter()
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
            pace,
            order,
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
        assert!(pace.is_none() && order.is_none() && config.signing_secret_arn.is_none());
        assert!(config.target_sigv4_service.is_none() && config.target_sigv4_region.is_none());
    }

    #[test]
    fn a_rate_must_leave_room_for_one_request_in_an_invocation() {
        let read = |rate: &str, concurrency: &str, timeout: &str| {
            let rate = [
                ("TARGET_RATE_PER_SECOND", rate),
                ("MAXIMUM_CONCURRENCY", concurrency),
                ("PROCESSOR_TIMEOUT_SECONDS", timeout),
            ];
            read_with(&rate)
        };
        for (rate, concurrency, timeout) in [("1", "60", "60"), ("2", "10", "5")] {
            let error = read(rate, concurrency, timeout)
                .expect_err("too low")
                .to_string();
            assert!(
                error.contains("no request fits into an invocation"),
                "{error}"
            );
        }
        for (rate, concurrency, timeout) in [("1", "40", "60"), ("2", "2", "5"), ("20", "10", "60")]
        {
            let config = read(rate, concurrency, timeout).expect("a rate");
            assert!(config.pace.is_some());
        }
        assert!(read("0", "1000", "5").expect("no rate").pace.is_none());
    }

    const ORDERED: [(&str, &str); 2] = [
        ("ORDERED_QUEUE_URL", "http://127.0.0.1/queue.fifo"),
        ("ORDER_PATIENCE_SECONDS", "120"),
    ];

    #[test]
    fn order_has_a_queue_and_a_patience() {
        let (order, url) = read_with(&ORDERED).expect("complete").order.expect("order");
        assert_eq!(url, "http://127.0.0.1/queue.fifo");
        assert_eq!(
            (order.patience, order.request_time),
            (Duration::from_mins(2), Duration::from_secs(10))
        );
        for ((name, _), there) in ORDERED.into_iter().zip(ORDERED.into_iter().rev()) {
            let error = read(there).expect_err("half of it").to_string();
            assert!(error.contains(&format!("{name} is missing")), "{error}");
        }
    }

    #[test]
    fn rate_is_shared_by_the_mappings_of_both_queues() {
        // One invocation of 60 s has room for a request of 10 s at 1/40, not at 1/80.
        let rate = [
            ("TARGET_RATE_PER_SECOND", "1"),
            ("MAXIMUM_CONCURRENCY", "40"),
            ("PROCESSOR_TIMEOUT_SECONDS", "60"),
        ];
        assert!(read_with(&rate).is_ok());
        let error = read_with(&[&rate[..], &ORDERED].concat()).expect_err("too low");
        assert!(error.to_string().contains("1/80 requests"), "{error}");
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
            (
                "TARGET_SIGV4_SERVICE",
                "s3",
                "execute-api, lambda, vpc-lattice-svcs",
            ),
            ("TARGET_RATE_PER_SECOND", "10001", "from 0 to 10000"),
            ("TARGET_RATE_PER_SECOND", "1", "MAXIMUM_CONCURRENCY"),
        ] {
            let error = read((name, value)).expect_err(name).to_string();
            assert!(error.contains(says), "{name}={value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
