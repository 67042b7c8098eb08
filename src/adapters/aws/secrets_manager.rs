//! The stack's secret in AWS Secrets Manager.

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;

use super::failed;
use crate::ports::secrets::{SecretStore, SecretsError};
use crate::ports::service::Service;

/// One secret, by its ARN.
#[derive(Debug, Clone)]
pub struct SecretsManager {
    client: Client,
    secret_arn: String,
}

impl SecretsManager {
    /// The secret with this ARN.
    pub fn new(config: &SdkConfig, secret_arn: String) -> Self {
        Self {
            client: Client::new(config),
            secret_arn,
        }
    }

    /// Another secret, through the same client.
    #[must_use]
    pub fn another(&self, secret_arn: String) -> Self {
        Self {
            client: self.client.clone(),
            secret_arn,
        }
    }
}

impl SecretStore for SecretsManager {
    async fn read(&self) -> Result<String, SecretsError> {
        let value = self
            .client
            .get_secret_value()
            .secret_id(&self.secret_arn)
            .send()
            .await
            .map_err(failed(Service::SecretsManager))?;
        value.secret_string.ok_or_else(|| {
            Service::SecretsManager
                .refused("the secret has no text")
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_secretsmanager::operation::get_secret_value::{
        GetSecretValueError, GetSecretValueOutput,
    };
    use aws_smithy_mocks::{RuleMode, mock, mock_client};

    use super::*;

    #[tokio::test]
    async fn the_secret_is_read_by_its_arn() {
        let rule = mock!(Client::get_secret_value)
            .match_requests(|request| request.secret_id() == Some("arn:of:the:secret"))
            .then_output(|| {
                GetSecretValueOutput::builder()
                    .secret_string(r#"{"webhookSecrets":"0123456789abcdef"}"#)
                    .build()
            });
        let client = mock_client!(aws_sdk_secretsmanager, RuleMode::MatchAny, [&rule]);
        let store = SecretsManager {
            client,
            secret_arn: "arn:of:the:secret".to_owned(),
        };
        assert_eq!(
            store.read().await.expect("a text"),
            r#"{"webhookSecrets":"0123456789abcdef"}"#
        );
    }

    #[tokio::test]
    async fn a_refusal_and_an_empty_secret_are_errors() {
        let refusal = mock!(Client::get_secret_value)
            .then_error(|| GetSecretValueError::unhandled("no access"));
        let client = mock_client!(aws_sdk_secretsmanager, RuleMode::MatchAny, [&refusal]);
        let store = SecretsManager {
            client,
            secret_arn: String::new(),
        };
        assert!(matches!(store.read().await, Err(SecretsError::Service(_))));

        let binary =
            mock!(Client::get_secret_value).then_output(|| GetSecretValueOutput::builder().build());
        let client = mock_client!(aws_sdk_secretsmanager, RuleMode::MatchAny, [&binary]);
        let store = SecretsManager {
            client,
            secret_arn: String::new(),
        };
        assert!(matches!(store.read().await, Err(SecretsError::Service(_))));
    }
}
