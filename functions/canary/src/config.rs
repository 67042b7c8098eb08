//! Configuration of the function.

use genesys_relay::domain::https_url::HttpsUrl;
use genesys_relay::runtime::config::{parsed, text};
use tracing::level_filters::LevelFilter;

/// The function's configuration.
pub(crate) type Config = Variables;

genesys_relay::variables! {
    /// Variables that stand for themselves.
    Variables {
        webhook_url: HttpsUrl = "WEBHOOK_URL", parsed("an https URL without credentials"), "URL of the webhook, as Genesys Cloud calls it";
        secret_arn: String = "SECRET_ARN", text(), "ARN of the stack's secret, whose first secret of a sender proves the events";
        look_function_name: String = "LOOK_FUNCTION_NAME", text(), "name of the function that shows events";
        events_table: String = "EVENTS_TABLE_NAME", text(), "name of the events table, which keeps the runs";
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
            ("WEBHOOK_URL", "https://relay.example.com/webhook/genesys"),
            ("SECRET_ARN", "secret"),
            ("LOOK_FUNCTION_NAME", "look"),
            ("EVENTS_TABLE_NAME", "events"),
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
    fn each_wrong_variable_is_named() {
        assert_eq!(read(("", "")).expect("complete").events_table, "events");
        for (name, value) in [
            ("WEBHOOK_URL", "http://relay.example.com/"),
            ("SECRET_ARN", ""),
            ("LOOK_FUNCTION_NAME", ""),
            ("EVENTS_TABLE_NAME", ""),
        ] {
            let error = read((name, value)).expect_err(name).to_string();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }
}
