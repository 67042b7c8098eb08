//! Metrics of a queue in CloudWatch.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Statistic};

use super::failed;
use crate::ports::service::{Service, ServiceError};

/// SQS reports once a minute for an active queue, and may take 15 minutes to notice that one has
/// become active ("Available CloudWatch metrics for Amazon SQS").
const PERIOD: Duration = Duration::from_mins(1);
const LOOK_BACK: Duration = Duration::from_mins(15);

#[derive(Debug, Clone)]
pub(super) struct QueueMetrics {
    client: Client,
    queue: String,
}

impl QueueMetrics {
    /// Those of the queue at `url`.
    pub(super) fn new(config: &SdkConfig, url: &str) -> Self {
        let queue = url.rsplit('/').next().unwrap_or(url).to_owned();
        Self {
            client: Client::new(config),
            queue,
        }
    }

    /// Age of the oldest message, as SQS last reported it. Messages that were received three times
    /// or more do not count.
    pub(super) async fn age(&self) -> Result<Option<Duration>, ServiceError> {
        let now = SystemTime::now();
        let request = self
            .client
            .get_metric_statistics()
            .namespace("AWS/SQS")
            .metric_name("ApproximateAgeOfOldestMessage")
            .dimensions(
                Dimension::builder()
                    .name("QueueName")
                    .value(&self.queue)
                    .build(),
            )
            .statistics(Statistic::Maximum)
            .period(i32::try_from(PERIOD.as_secs()).unwrap_or(i32::MAX))
            .start_time((now - LOOK_BACK).into())
            .end_time(now.into());
        let output = request.send().await.map_err(failed(Service::CloudWatch))?;
        let newest = output
            .datapoints()
            .iter()
            .max_by_key(|point| point.timestamp().map(DateTime::as_nanos));
        Ok(newest.and_then(|point| Duration::try_from_secs_f64(point.maximum()?).ok()))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatch::operation::get_metric_statistics::GetMetricStatisticsOutput;
    use aws_sdk_cloudwatch::types::Datapoint;
    use aws_smithy_mocks::{RuleMode, mock, mock_client};

    use super::*;

    #[tokio::test]
    async fn the_newest_value_counts() {
        let rule = mock!(Client::get_metric_statistics)
            .match_requests(|request| {
                request.namespace() == Some("AWS/SQS")
                    && request.metric_name() == Some("ApproximateAgeOfOldestMessage")
                    && request.dimensions()[0].value() == Some("the-queue")
                    && request.statistics() == [Statistic::Maximum]
                    && request.period() == Some(60)
                    && request
                        .start_time()
                        .zip(request.end_time())
                        .is_some_and(|(from, to)| to.secs() - from.secs() == 900)
            })
            .then_output(|| {
                let point = |at, age| {
                    Datapoint::builder()
                        .timestamp(DateTime::from_secs(at))
                        .maximum(age)
                        .build()
                };
                GetMetricStatisticsOutput::builder()
                    .datapoints(point(60, 7.0))
                    .datapoints(point(120, 67.0))
                    .datapoints(point(0, 1.0))
                    .build()
            });
        let client = mock_client!(aws_sdk_cloudwatch, RuleMode::MatchAny, [&rule]);
        let metrics = QueueMetrics {
            client,
            queue: "the-queue".to_owned(),
        };
        assert_eq!(
            metrics.age().await.expect("read"),
            Some(Duration::from_secs(67))
        );
    }

    #[tokio::test]
    async fn a_queue_of_which_nothing_is_known_has_no_age() {
        let rule = mock!(Client::get_metric_statistics)
            .then_output(|| GetMetricStatisticsOutput::builder().build());
        let client = mock_client!(aws_sdk_cloudwatch, RuleMode::MatchAny, [&rule]);
        let metrics = QueueMetrics {
            client,
            queue: "the-queue".to_owned(),
        };
        assert_eq!(metrics.age().await.expect("read"), None);
    }
}
