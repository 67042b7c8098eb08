//! Configuration of the function.

use std::collections::BTreeSet;

use genesys_relay::adapters::delivery_log::webhook_deliveries::LogPath;
use genesys_relay::adapters::genesys::Region;
use genesys_relay::domain::https_url::BaseUrl;
use genesys_relay::runtime::config::{
    Environment, Table, Variable, list, number, one_of, optional, parsed, text,
};
use jiff::SignedDuration;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) variables: Variables,
    /// Access to Genesys Cloud; `None` where the recovery is off.
    pub(crate) connection: Option<Connection>,
}

/// Access to Genesys Cloud.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) api_url: String,
    pub(crate) login_url: String,
    /// Distance of the checkpoint from the present.
    pub(crate) overlap: SignedDuration,
    pub(crate) source: Source,
}

/// A source of failed deliveries.
#[derive(Debug)]
pub(crate) enum Source {
    /// The tutorials' delivery log.
    WebhookDeliveries {
        path: LogPath,
        webhook_ids: Vec<String>,
    },
    /// Messages of Open Messaging integrations.
    OpenMessaging {
        integration_ids: BTreeSet<String>,
        statuses: BTreeSet<String>,
        look_back: SignedDuration,
    },
}

/// The name of a [`Source`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum SourceName {
    WebhookDeliveries,
    OpenMessaging,
}

/// Names of the sources; `none` switches the recovery off.
const SOURCES: &[(&str, Option<SourceName>)] = &[
    ("none", None),
    ("webhook-deliveries", Some(SourceName::WebhookDeliveries)),
    ("open-messaging", Some(SourceName::OpenMessaging)),
];

genesys_relay::variables! {
    /// Variables that are always there.
    Variables {
        queue_url: String = "QUEUE_URL", text(), "URL of the events queue";
        dead_letter_queue_url: String = "DEAD_LETTER_QUEUE_URL", text(), "URL of the dead-letter queue, for entries that are no events";
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table";
        secret_arn: String = "SECRET_ARN", text(), "ARN of the stack's secret";
        ordered_queue_url: Option<String> = "ORDERED_QUEUE_URL", optional(text()), "URL of the queue that keeps the order of conversations, for the counts of a statement";
        archive_bucket: String = "ARCHIVE_BUCKET_NAME", text(), "name of the bucket of the statements";
        conversation_index: bool = "CONVERSATION_INDEX", one_of(&[("on", true), ("off", false)]), "switch of the index of conversations";
        metrics_namespace: String = "METRICS_NAMESPACE", text(), "namespace of the metrics in CloudWatch";
        log_level: LevelFilter = "LOG_LEVEL", parsed("error, warn, info or debug"), "least severe level that is logged";
    }
}

genesys_relay::variables! {
    /// The switch of the recovery.
    Switch {
        source: Option<SourceName> = "RECOVERY_SOURCE", one_of(SOURCES), "source that the recovery reads; none switches it off";
    }
}

genesys_relay::variables! {
    /// Variables of every source.
    Access {
        region: Region = "GENESYS_REGION", parsed("a region of Genesys Cloud, by its name at AWS"), "region of the organization";
        api_url: Option<BaseUrl> = "GENESYS_API_URL", optional(parsed("an https URL without query")), "base URL of the API instead of the region's";
        login_url: Option<BaseUrl> = "GENESYS_LOGIN_URL", optional(parsed("an https URL without query")), "base URL of the sign-in instead of the region's";
        overlap: SignedDuration = "RECOVERY_OVERLAP_MINUTES", number(5, 1440).of(SignedDuration::from_mins), "part of the recent past that each run reads again";
        ids: Vec<String> = "RECOVERY_IDS", list(), "webhooks or integrations that point to the relay";
    }
}

genesys_relay::variables! {
    /// Variables of `webhook-deliveries`.
    WebhookDeliveries {
        path: LogPath = "WEBHOOK_DELIVERIES_PATH", parsed("a path with {webhookId}"), "path of the delivery log";
    }
}

genesys_relay::variables! {
    /// Variables of `open-messaging`.
    OpenMessaging {
        statuses: Vec<String> = "RECOVERY_STATUSES", list(), "message statuses that count as not delivered";
        look_back: SignedDuration = "RECOVERY_LOOK_BACK_HOURS", number(1, 720).of(SignedDuration::from_hours), "time before a window in which a conversation may have begun";
    }
}

impl Table for Config {
    fn variables() -> Vec<Variable> {
        let always = [Variables::variables(), Switch::variables()].concat();
        [
            always,
            Access::variables(),
            WebhookDeliveries::variables(),
            OpenMessaging::variables(),
        ]
        .concat()
    }

    /// Reads the variables of Genesys Cloud only where the recovery is on.
    fn read(environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let (variables, switch) = (Variables::read(environment), Switch::read(environment));
        let connection = match switch?.source {
            Some(source) => Some(Connection::read(source, environment)?),
            None => None,
        };
        Some(Self {
            variables: variables?,
            connection,
        })
    }
}

impl Connection {
    fn read(
        name: SourceName,
        environment: &mut Environment<impl Fn(&str) -> Option<String>>,
    ) -> Option<Self> {
        let access = Access::read(environment);
        let ids = access
            .as_ref()
            .map(|access| access.ids.clone())
            .unwrap_or_default();
        let source = match name {
            SourceName::WebhookDeliveries => {
                let WebhookDeliveries { path } = WebhookDeliveries::read(environment)?;
                Source::WebhookDeliveries {
                    path,
                    webhook_ids: ids,
                }
            }
            SourceName::OpenMessaging => {
                let OpenMessaging {
                    statuses,
                    look_back,
                } = OpenMessaging::read(environment)?;
                let (integration_ids, statuses) =
                    (ids.into_iter().collect(), statuses.into_iter().collect());
                Source::OpenMessaging {
                    integration_ids,
                    statuses,
                    look_back,
                }
            }
        };
        let Access {
            region,
            api_url,
            login_url,
            overlap,
            ids: _,
        } = access?;
        Some(Self {
            api_url: api_url.map_or_else(|| region.api_url(), String::from),
            login_url: login_url.map_or_else(|| region.login_url(), String::from),
            overlap,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use genesys_relay::runtime::config::ConfigError;

    use super::*;

    const COMPLETE: [(&str, &str); 17] = [
        ("QUEUE_URL", "https://sqs.example/events"),
        ("DEAD_LETTER_QUEUE_URL", "https://sqs.example/dead"),
        ("EVENTS_TABLE_NAME", "events"),
        ("SECRET_ARN", "arn:secret"),
        ("METRICS_NAMESPACE", "GenesysRelay/test"),
        ("ARCHIVE_BUCKET_NAME", "bucket"),
        ("CONVERSATION_INDEX", "on"),
        ("LOG_LEVEL", "info"),
        ("RECOVERY_SOURCE", "webhook-deliveries"),
        ("RECOVERY_IDS", "w1, w2"),
        ("RECOVERY_STATUSES", "failed"),
        ("RECOVERY_OVERLAP_MINUTES", "15"),
        ("RECOVERY_LOOK_BACK_HOURS", "24"),
        (
            "WEBHOOK_DELIVERIES_PATH",
            "/api/v2/webhooks/{webhookId}/deliveries",
        ),
        ("GENESYS_REGION", "eu-central-1"),
        ("GENESYS_API_URL", ""),
        ("GENESYS_LOGIN_URL", ""),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Environment::new(|name: &str| {
            let found = changes
                .iter()
                .chain(&COMPLETE)
                .find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .read_all()
    }

    #[test]
    fn the_urls_are_those_of_the_region_unless_others_are_given() {
        let connection = |changes: &[_]| read(changes).expect("complete").connection.expect("on");
        let by_region = connection(&[]);
        assert_eq!(by_region.api_url, "https://api.mypurecloud.de");
        assert_eq!(by_region.login_url, "https://login.mypurecloud.de");
        let given = connection(&[("GENESYS_API_URL", "https://proxy.example/genesys")]);
        assert_eq!(given.api_url, "https://proxy.example/genesys");
        assert_eq!(given.login_url, "https://login.mypurecloud.de");
    }

    #[test]
    fn recovery_that_is_off_needs_no_variable_of_genesys() {
        let off: Vec<_> = COMPLETE[9..]
            .iter()
            .map(|(name, _)| (*name, ""))
            .chain([("RECOVERY_SOURCE", "none")])
            .collect();
        assert!(read(&off).expect("complete").connection.is_none());
    }

    #[test]
    fn each_source_has_what_it_needs() {
        let webhooks =
            read(&[("RECOVERY_STATUSES", ""), ("RECOVERY_LOOK_BACK_HOURS", "")]).expect("complete");
        let Some(Connection {
            source: Source::WebhookDeliveries { webhook_ids, .. },
            ..
        }) = webhooks.connection
        else {
            panic!("another source")
        };
        assert_eq!(webhook_ids, ["w1", "w2"]);
        let messages = [
            ("RECOVERY_SOURCE", "open-messaging"),
            ("WEBHOOK_DELIVERIES_PATH", ""),
        ];
        let messages = read(&messages).expect("complete").connection.expect("on");
        let Source::OpenMessaging { look_back, .. } = messages.source else {
            panic!("another source")
        };
        assert_eq!(
            (messages.overlap, look_back),
            (
                SignedDuration::from_mins(15),
                SignedDuration::from_hours(24)
            )
        );
    }

    #[test]
    fn times_are_taken_from_the_least_to_the_most_that_is_documented() {
        for (name, least, most) in [
            ("RECOVERY_OVERLAP_MINUTES", 5, 1440),
            ("RECOVERY_LOOK_BACK_HOURS", 1, 720),
        ] {
            for (value, is_taken) in [
                (least - 1, false),
                (least, true),
                (most, true),
                (most + 1, false),
            ] {
                let read = read(&[
                    ("RECOVERY_SOURCE", "open-messaging"),
                    (name, &value.to_string()),
                ]);
                assert_eq!(read.is_ok(), is_taken, "{name}={value}");
            }
        }
    }

    #[test]
    fn each_wrong_variable_is_named() {
        for (name, value, says) in [
            ("RECOVERY_SOURCE", "email", "open-messaging"),
            ("RECOVERY_SOURCE", "", "RECOVERY_SOURCE is missing"),
            ("GENESYS_REGION", "", "GENESYS_REGION is missing"),
            ("GENESYS_REGION", "mypurecloud.com", "us-east-1, us-east-2"),
            ("GENESYS_API_URL", "http://api.example.com", "https"),
            (
                "GENESYS_LOGIN_URL",
                "https://user:hunter2@example.com/",
                "the stack's secret",
            ),
            ("RECOVERY_IDS", "", "RECOVERY_IDS is missing"),
            ("RECOVERY_IDS", "w1,,w2", "between commas"),
            ("RECOVERY_OVERLAP_MINUTES", "soon", "from 5 to 1440"),
            ("RECOVERY_OVERLAP_MINUTES", "0.5", "from 5 to 1440"),
            (
                "GENESYS_API_URL",
                "https://api.example.com/?a=b",
                "no query",
            ),
            ("WEBHOOK_DELIVERIES_PATH", "/deliveries", "{webhookId}"),
            ("QUEUE_URL", "", "QUEUE_URL is missing"),
        ] {
            let error = read(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(says), "{name}={value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
