//! What the function reads from its environment.

use std::collections::BTreeSet;
use std::str::FromStr;

use genesys_relay::adapters::delivery_log::webhook_deliveries::LogPath;
use genesys_relay::adapters::genesys::Region;
use genesys_relay::domain::https_url::BaseUrl;
use genesys_relay::runtime::config::{ConfigError, Environment};
use jiff::SignedDuration;
use tracing::level_filters::LevelFilter;

/// The function's configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// `QUEUE_URL`: the events queue.
    pub(crate) queue_url: String,
    /// `DEAD_LETTER_QUEUE_URL`: where goes what is no event.
    pub(crate) dead_letter_queue_url: String,
    /// `EVENTS_TABLE_NAME`: the events table.
    pub(crate) events_table: String,
    /// `SECRET_ARN`: the stack's secret.
    pub(crate) secret_arn: String,
    /// How Genesys Cloud is asked; `None` where the recovery is off.
    pub(crate) connection: Option<Connection>,
    /// `METRICS_NAMESPACE`: under which name CloudWatch keeps the metrics.
    pub(crate) metrics_namespace: String,
    /// `LOG_LEVEL`: `error`, `warn`, `info` or `debug`.
    pub(crate) log_level: LevelFilter,
}

/// How Genesys Cloud is asked.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `GENESYS_API_URL`, or that of `GENESYS_REGION`.
    pub(crate) api_url: String,
    /// `GENESYS_LOGIN_URL`, or that of `GENESYS_REGION`.
    pub(crate) login_url: String,
    /// `RECOVERY_OVERLAP_MINUTES`: how far the checkpoint stays behind the present.
    pub(crate) overlap: SignedDuration,
    /// What is asked for.
    pub(crate) source: Source,
}

/// What Genesys Cloud is asked for.
#[derive(Debug)]
pub(crate) enum Source {
    /// The tutorials' delivery log.
    WebhookDeliveries {
        /// `WEBHOOK_DELIVERIES_PATH`: where it is.
        path: LogPath,
        /// `RECOVERY_IDS`: the webhooks.
        webhook_ids: Vec<String>,
    },
    /// Messages of Open Messaging integrations.
    OpenMessaging {
        /// `RECOVERY_IDS`: the integrations.
        integration_ids: BTreeSet<String>,
        /// `RECOVERY_STATUSES`: which messages count as not delivered.
        statuses: BTreeSet<String>,
        /// `RECOVERY_LOOK_BACK_HOURS`: how long before a window a conversation may have begun.
        look_back: SignedDuration,
    },
}

/// `RECOVERY_SOURCE`.
#[derive(Clone, Copy)]
enum SourceName {
    None,
    WebhookDeliveries,
    OpenMessaging,
}

#[derive(Debug, thiserror::Error)]
#[error("it is one of none, webhook-deliveries, open-messaging")]
struct UnknownSource;

impl FromStr for SourceName {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        match text {
            "none" => Ok(Self::None),
            "webhook-deliveries" => Ok(Self::WebhookDeliveries),
            "open-messaging" => Ok(Self::OpenMessaging),
            _ => Err(UnknownSource),
        }
    }
}

/// A whole number within bounds.
struct Within<const LEAST: i64, const MOST: i64>(i64);

#[derive(Debug, thiserror::Error)]
#[error("it is a whole number from {0} to {1}")]
struct OutOfBounds(i64, i64);

impl<const LEAST: i64, const MOST: i64> FromStr for Within<LEAST, MOST> {
    type Err = OutOfBounds;

    fn from_str(text: &str) -> Result<Self, OutOfBounds> {
        let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or(OutOfBounds(LEAST, MOST))
    }
}

/// Texts between commas, at least one.
struct Texts(Vec<String>);

#[derive(Debug, thiserror::Error)]
#[error("it is a list of texts between commas, none of them empty")]
struct InvalidTexts;

impl FromStr for Texts {
    type Err = InvalidTexts;

    fn from_str(text: &str) -> Result<Self, InvalidTexts> {
        let texts: Vec<String> = text.split(',').map(|text| text.trim().to_owned()).collect();
        if texts.iter().any(String::is_empty) { Err(InvalidTexts) } else { Ok(Self(texts)) }
    }
}

impl Config {
    /// Reads and checks every variable. Those about Genesys Cloud matter only where the recovery is on.
    pub(crate) fn read(mut environment: Environment<impl Fn(&str) -> Option<String>>) -> Result<Self, ConfigError> {
        let queue_url = environment.parse("QUEUE_URL");
        let dead_letter_queue_url = environment.parse("DEAD_LETTER_QUEUE_URL");
        let events_table = environment.parse("EVENTS_TABLE_NAME");
        let secret_arn = environment.parse("SECRET_ARN");
        let metrics_namespace = environment.parse("METRICS_NAMESPACE");
        let log_level = environment.parse("LOG_LEVEL");
        let connection = match environment.parse("RECOVERY_SOURCE") {
            Some(SourceName::None) => Some(None),
            Some(source) => Connection::read(source, &mut environment).map(Some),
            None => None,
        };
        environment.finish((|| {
            Some(Self {
                queue_url: queue_url?,
                dead_letter_queue_url: dead_letter_queue_url?,
                events_table: events_table?,
                secret_arn: secret_arn?,
                connection: connection?,
                metrics_namespace: metrics_namespace?,
                log_level: log_level?,
            })
        })())
    }
}

impl Connection {
    fn read(name: SourceName, environment: &mut Environment<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        let region = environment.parse::<Region>("GENESYS_REGION");
        let api_url = environment.parse_if_set::<BaseUrl>("GENESYS_API_URL");
        let login_url = environment.parse_if_set::<BaseUrl>("GENESYS_LOGIN_URL");
        let overlap = environment.parse_number::<Within<5, 1440>>("RECOVERY_OVERLAP_MINUTES");
        let ids = environment.parse::<Texts>("RECOVERY_IDS");
        let source = match name {
            SourceName::None => None,
            SourceName::WebhookDeliveries => {
                let path = environment.parse("WEBHOOK_DELIVERIES_PATH");
                (|| Some(Source::WebhookDeliveries { path: path?, webhook_ids: ids?.0 }))()
            }
            SourceName::OpenMessaging => {
                let statuses = environment.parse::<Texts>("RECOVERY_STATUSES");
                let look_back = environment.parse_number::<Within<1, 720>>("RECOVERY_LOOK_BACK_HOURS");
                (|| {
                    Some(Source::OpenMessaging {
                        integration_ids: ids?.0.into_iter().collect(),
                        statuses: statuses?.0.into_iter().collect(),
                        look_back: SignedDuration::from_hours(look_back?.0),
                    })
                })()
            }
        };
        let url = |given: Option<BaseUrl>, of_region: fn(Region) -> String| {
            given.map(String::from).or_else(|| region.map(of_region))
        };
        Some(Self {
            api_url: url(api_url, Region::api_url)?,
            login_url: url(login_url, Region::login_url)?,
            overlap: SignedDuration::from_mins(overlap?.0),
            source: source?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 15] = [
        ("QUEUE_URL", "https://sqs.example/events"),
        ("DEAD_LETTER_QUEUE_URL", "https://sqs.example/dead"),
        ("EVENTS_TABLE_NAME", "events"),
        ("SECRET_ARN", "arn:secret"),
        ("METRICS_NAMESPACE", "GenesysRelay/test"),
        ("LOG_LEVEL", "info"),
        ("RECOVERY_SOURCE", "webhook-deliveries"),
        ("RECOVERY_IDS", "w1, w2"),
        ("RECOVERY_STATUSES", "failed"),
        ("RECOVERY_OVERLAP_MINUTES", "15"),
        ("RECOVERY_LOOK_BACK_HOURS", "24"),
        ("WEBHOOK_DELIVERIES_PATH", "/api/v2/webhooks/{webhookId}/deliveries"),
        ("GENESYS_REGION", "eu-central-1"),
        ("GENESYS_API_URL", ""),
        ("GENESYS_LOGIN_URL", ""),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(Environment::new(|name| {
            let found = changes.iter().chain(&COMPLETE).find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }))
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
    fn where_it_is_off_nothing_of_genesys_has_to_be_there() {
        let off: Vec<_> =
            COMPLETE[7..].iter().map(|(name, _)| (*name, "")).chain([("RECOVERY_SOURCE", "none")]).collect();
        assert!(read(&off).expect("complete").connection.is_none());
    }

    #[test]
    fn each_source_has_what_it_needs() {
        let webhooks = read(&[("RECOVERY_STATUSES", ""), ("RECOVERY_LOOK_BACK_HOURS", "")]).expect("complete");
        let Some(Connection { source: Source::WebhookDeliveries { webhook_ids, .. }, .. }) = webhooks.connection else {
            panic!("another source")
        };
        assert_eq!(webhook_ids, ["w1", "w2"]);
        let messages = [("RECOVERY_SOURCE", "open-messaging"), ("WEBHOOK_DELIVERIES_PATH", "")];
        let messages = read(&messages).expect("complete").connection.expect("on");
        let Source::OpenMessaging { look_back, .. } = messages.source else { panic!("another source") };
        assert_eq!((messages.overlap, look_back), (SignedDuration::from_mins(15), SignedDuration::from_hours(24)));
    }

    #[test]
    fn times_are_taken_from_the_least_to_the_most_that_is_documented() {
        for (name, least, most) in [("RECOVERY_OVERLAP_MINUTES", 5, 1440), ("RECOVERY_LOOK_BACK_HOURS", 1, 720)] {
            for (value, is_taken) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
                let read = read(&[("RECOVERY_SOURCE", "open-messaging"), (name, &value.to_string())]);
                assert_eq!(read.is_ok(), is_taken, "{name}={value}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value, says) in [
            ("RECOVERY_SOURCE", "email", "open-messaging"),
            ("RECOVERY_SOURCE", "", "RECOVERY_SOURCE is missing"),
            ("GENESYS_REGION", "", "GENESYS_REGION is missing"),
            ("GENESYS_REGION", "mypurecloud.com", "us-east-1, us-east-2"),
            ("GENESYS_API_URL", "http://api.example.com", "https"),
            ("GENESYS_LOGIN_URL", "https://user:hunter2@example.com/", "the stack's secret"),
            ("RECOVERY_IDS", "", "RECOVERY_IDS is missing"),
            ("RECOVERY_IDS", "w1,,w2", "between commas"),
            ("RECOVERY_OVERLAP_MINUTES", "soon", "from 5 to 1440"),
            ("RECOVERY_OVERLAP_MINUTES", "0.5", "from 5 to 1440"),
            ("GENESYS_API_URL", "https://api.example.com/?a=b", "no query"),
            ("WEBHOOK_DELIVERIES_PATH", "/deliveries", "{webhookId}"),
            ("QUEUE_URL", "", "QUEUE_URL is missing"),
        ] {
            let error = read(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(says), "{name}={value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
