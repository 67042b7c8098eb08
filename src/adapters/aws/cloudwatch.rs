//! Metrics of queues and of the relay in CloudWatch.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{
    Dimension, Metric, MetricDataQuery, MetricStat, Statistic, StatusCode,
};
use jiff::Timestamp;

use super::failed;
use crate::domain::book::hour_of;
use crate::ports::hourly_counts::{HourCounts, HourlyCounts};
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
        let queue = name_of(url);
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

fn name_of(url: &str) -> String {
    url.rsplit('/').next().unwrap_or(url).to_owned()
}

/// The hourly counts of the relay and of its queues of events.
#[derive(Debug, Clone)]
pub struct RelayMetrics {
    client: Client,
    namespace: String,
    queues: Vec<String>,
}

impl RelayMetrics {
    /// Those of the relay with this namespace, and of the queues at these URLs.
    pub fn new(config: &SdkConfig, namespace: String, queue_urls: &[&str]) -> Self {
        Self {
            client: Client::new(config),
            namespace,
            queues: queue_urls.iter().map(|url| name_of(url)).collect(),
        }
    }

    fn queries(&self) -> Vec<MetricDataQuery> {
        let query = |id: String, metric: aws_sdk_cloudwatch::types::builders::MetricBuilder| {
            let stat = MetricStat::builder()
                .metric(metric.build())
                .period(3600)
                .stat("Sum");
            MetricDataQuery::builder()
                .id(id)
                .metric_stat(stat.build())
                .build()
        };
        let of_relay = Metric::builder()
            .namespace(&self.namespace)
            .metric_name("Accepted");
        let mut queries = vec![query("accepted".to_owned(), of_relay)];
        for (nth, queue) in self.queues.iter().enumerate() {
            for (id, name) in [
                ("sent", "NumberOfMessagesSent"),
                ("deleted", "NumberOfMessagesDeleted"),
            ] {
                let metric = Metric::builder().namespace("AWS/SQS").metric_name(name);
                let dimension = Dimension::builder().name("QueueName").value(queue);
                queries.push(query(
                    format!("{id}{nth}"),
                    metric.dimensions(dimension.build()),
                ));
            }
        }
        queries
    }
}

impl HourlyCounts for RelayMetrics {
    async fn counts(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<Timestamp, HourCounts>, ServiceError> {
        let mut hours = BTreeMap::<Timestamp, HourCounts>::new();
        let time = |at: Timestamp| DateTime::from_secs(at.as_second());
        let mut token = None;
        loop {
            let request = self
                .client
                .get_metric_data()
                .start_time(time(from))
                .end_time(time(to));
            let request = request.set_metric_data_queries(Some(self.queries()));
            let output = request.set_next_token(token).send().await;
            let output = output.map_err(failed(Service::CloudWatch))?;
            for result in output.metric_data_results() {
                match result.status_code() {
                    // The rest follows on the next page.
                    Some(StatusCode::Complete | StatusCode::PartialData) => {}
                    other => {
                        let problem = format!("{:?} has the status {other:?}", result.id());
                        return Err(Service::CloudWatch.unavailable(problem));
                    }
                }
                let id = result.id().unwrap_or_default();
                for (at, value) in result.timestamps().iter().zip(result.values()) {
                    let at = Timestamp::from_second(at.secs());
                    let at = at.map_err(|error| Service::CloudWatch.unreadable(error))?;
                    let hour = hours.entry(hour_of(at)).or_default();
                    let count = if id.starts_with("sent") {
                        &mut hour.sent
                    } else if id.starts_with("deleted") {
                        &mut hour.deleted
                    } else {
                        &mut hour.accepted
                    };
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a sum of counts; a cast saturates"
                    )]
                    let value = value.round() as u64;
                    *count = Some(count.unwrap_or_default() + value);
                }
            }
            token = output.next_token;
            if token.is_none() {
                return Ok(hours);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatch::operation::get_metric_data::GetMetricDataOutput;
    use aws_sdk_cloudwatch::operation::get_metric_statistics::GetMetricStatisticsOutput;
    use aws_sdk_cloudwatch::types::{Datapoint, MetricDataResult};
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

    fn relay(rule: &aws_smithy_mocks::Rule) -> RelayMetrics {
        RelayMetrics {
            client: mock_client!(aws_sdk_cloudwatch, RuleMode::MatchAny, [rule]),
            namespace: "GenesysRelay/test".to_owned(),
            queues: vec!["events".to_owned(), "ordered.fifo".to_owned()],
        }
    }

    fn result(id: &str, status: StatusCode, points: &[(i64, f64)]) -> MetricDataResult {
        let result = MetricDataResult::builder().id(id).status_code(status);
        points
            .iter()
            .fold(result, |result, (at, value)| {
                result.timestamps(DateTime::from_secs(*at)).values(*value)
            })
            .build()
    }

    #[tokio::test]
    async fn counts_are_summed_by_the_hour_over_queues_and_pages() {
        let rule = mock!(Client::get_metric_data)
            .match_requests(|request| request.metric_data_queries().len() == 5)
            .then_compute_output(|request| {
                let output = GetMetricDataOutput::builder();
                if request.next_token().is_none() {
                    let output = output.next_token("more");
                    let output = output.metric_data_results(result(
                        "accepted",
                        StatusCode::Complete,
                        &[(0, 7.0), (7200, 1.0)],
                    ));
                    output
                        .metric_data_results(result("sent0", StatusCode::PartialData, &[(0, 5.0)]))
                        .build()
                } else {
                    output
                        .metric_data_results(result("sent1", StatusCode::Complete, &[(0, 2.0)]))
                        .build()
                }
            });
        let hour = |hours: i64| Timestamp::from_second(3600 * hours).expect("in range");
        let counts = relay(&rule).counts(hour(0), hour(24)).await.expect("read");
        let counted = |accepted, sent| HourCounts {
            accepted: Some(accepted),
            sent,
            deleted: None,
        };
        let expected = [(hour(0), counted(7, Some(7))), (hour(2), counted(1, None))];
        assert_eq!(counts, BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn counts_that_cannot_be_read_are_no_zeros() {
        let rule = mock!(Client::get_metric_data).then_output(|| {
            GetMetricDataOutput::builder()
                .metric_data_results(result("accepted", StatusCode::InternalError, &[]))
                .build()
        });
        let error = relay(&rule)
            .counts(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)
            .await;
        assert!(error.expect_err("failed").is_transient());
    }
}
