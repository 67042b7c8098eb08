//! The way out of the events queue: Lambda's event source mapping, which hands events to the
//! processor.

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::ScalingConfig;

use super::failed;
use crate::domain::circuit::Settings;
use crate::ports::event_source::EventSource;
use crate::ports::service::{Service, ServiceError};

/// One event source mapping, by its id.
#[derive(Debug, Clone)]
pub struct EventSourceMapping {
    client: Client,
    uuid: String,
}

impl EventSourceMapping {
    /// The mapping of this id.
    pub fn new(config: &SdkConfig, uuid: String) -> Self {
        Self {
            client: Client::new(config),
            uuid,
        }
    }
}

impl EventSource for EventSourceMapping {
    async fn settings(&self) -> Result<Option<Settings>, ServiceError> {
        let mapping = self
            .client
            .get_event_source_mapping()
            .uuid(&self.uuid)
            .send()
            .await
            .map_err(failed(Service::EventSourceMapping))?;
        // "Creating, Enabling, Enabled, Disabling, Disabled, Updating, or Deleting"
        // (`GetEventSourceMapping`).
        let enabled = match mapping.state.as_deref() {
            Some("Enabled") => true,
            Some("Disabled") => false,
            _ => return Ok(None),
        };
        let scaling = mapping
            .scaling_config
            .and_then(|scaling| scaling.maximum_concurrency);
        let maximum_concurrency = scaling
            .and_then(|most| u32::try_from(most).ok())
            .unwrap_or(0);
        Ok(Some(Settings {
            enabled,
            maximum_concurrency,
        }))
    }

    async fn set(
        &self,
        Settings {
            enabled,
            maximum_concurrency,
        }: Settings,
    ) -> Result<(), ServiceError> {
        let most = i32::try_from(maximum_concurrency).unwrap_or(i32::MAX);
        let scaling = ScalingConfig::builder().maximum_concurrency(most).build();
        let request = self.client.update_event_source_mapping().uuid(&self.uuid);
        request
            .enabled(enabled)
            .scaling_config(scaling)
            .send()
            .await
            .map(drop)
            .map_err(failed(Service::EventSourceMapping))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_lambda::error::ErrorMetadata;
    use aws_sdk_lambda::operation::get_event_source_mapping::GetEventSourceMappingOutput;
    use aws_sdk_lambda::operation::update_event_source_mapping::{
        UpdateEventSourceMappingError, UpdateEventSourceMappingOutput,
    };
    use aws_sdk_lambda::types::error::{
        ResourceConflictException, ResourceInUseException, ResourceNotFoundException,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};

    use super::*;
    use crate::ports::service::Fault;

    fn mapping(rule: &Rule) -> EventSourceMapping {
        let client = mock_client!(aws_sdk_lambda, RuleMode::MatchAny, [rule]);
        EventSourceMapping {
            client,
            uuid: "the-mapping".to_owned(),
        }
    }

    fn found(state: &'static str, most: i32) -> Rule {
        mock!(Client::get_event_source_mapping)
            .match_requests(|request| request.uuid() == Some("the-mapping"))
            .then_output(move || {
                let scaling = ScalingConfig::builder().maximum_concurrency(most).build();
                GetEventSourceMappingOutput::builder()
                    .state(state)
                    .scaling_config(scaling)
                    .build()
            })
    }

    #[tokio::test]
    async fn it_is_set_as_lambda_says_and_unknown_while_it_changes() {
        for (state, settings) in [
            (
                "Enabled",
                Some(Settings {
                    enabled: true,
                    maximum_concurrency: 10,
                }),
            ),
            (
                "Disabled",
                Some(Settings {
                    enabled: false,
                    maximum_concurrency: 10,
                }),
            ),
            ("Enabling", None),
            ("Disabling", None),
            ("Updating", None),
        ] {
            assert_eq!(
                mapping(&found(state, 10)).settings().await.expect("read"),
                settings,
                "{state}"
            );
        }
    }

    #[tokio::test]
    async fn both_settings_are_sent_in_one_call() {
        let rule = mock!(Client::update_event_source_mapping)
            .match_requests(|request| {
                request.uuid() == Some("the-mapping")
                    && request.enabled() == Some(false)
                    && request
                        .scaling_config()
                        .and_then(ScalingConfig::maximum_concurrency)
                        == Some(2)
            })
            .then_output(|| UpdateEventSourceMappingOutput::builder().build());
        mapping(&rule)
            .set(Settings {
                enabled: false,
                maximum_concurrency: 2,
            })
            .await
            .expect("set");
    }

    #[tokio::test]
    async fn a_change_under_way_passes_and_a_mapping_that_is_not_there_does_not() {
        let settings = Settings {
            enabled: true,
            maximum_concurrency: 2,
        };
        let meta = |code: &str| ErrorMetadata::builder().code(code).build();
        let in_use = mock!(Client::update_event_source_mapping).then_error(move || {
            let in_use = ResourceInUseException::builder().meta(meta("ResourceInUseException"));
            UpdateEventSourceMappingError::ResourceInUseException(in_use.build())
        });
        let conflict = mock!(Client::update_event_source_mapping).then_error(move || {
            let conflict =
                ResourceConflictException::builder().meta(meta("ResourceConflictException"));
            UpdateEventSourceMappingError::ResourceConflictException(conflict.build())
        });
        for busy in [in_use, conflict] {
            let error = mapping(&busy).set(settings).await.expect_err("busy");
            assert!(error.fault == Fault::Unavailable, "{error:?}");
        }
        let gone = mock!(Client::update_event_source_mapping).then_error(|| {
            UpdateEventSourceMappingError::ResourceNotFoundException(
                ResourceNotFoundException::builder().build(),
            )
        });
        let error = mapping(&gone).set(settings).await.expect_err("gone");
        assert!(error.fault == Fault::Refused, "{error:?}");
    }
}
