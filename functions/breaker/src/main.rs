//! The Lambda function that holds events back while the target is down: wires
//! [`genesys_relay::breaker`] to AWS.

mod config;
mod handler;

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::event_source::EventSourceMapping;
use genesys_relay::adapters::aws::lambda::LambdaFunction;
use genesys_relay::adapters::aws::sqs::{Sqs, SqsQueue};
use genesys_relay::breaker::{Breaker, PortTypes, Ports};
use genesys_relay::domain::circuit::Policy;
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::metrics::Pending;
use lambda_runtime::service_fn;

use crate::config::Config;

/// The timeout of a call to DynamoDB, SQS or Lambda.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// The timeout of a call to the processor: the largest `ProcessorTimeoutSeconds`.
const PROBE_TIMEOUT: Duration = Duration::from_mins(2);

/// AWS behind the ports.
struct Aws;

impl PortTypes for Aws {
    type Events = SqsQueue;
    type Table = DynamoDb;
    type EventSource = EventSourceMapping;
    type Prober = LambdaFunction;
    type Clock = SystemClock;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (config, ordered): Config = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    let mut metrics = Pending::start(config.metrics_namespace)?;
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let sqs = Sqs::new(&sdk);
    let (ordered, ordered_event_source) = ordered
        .map(|ordered| (sqs.queue(ordered.queue_url), ordered.event_source_id))
        .unzip();
    let event_sources = [Some(config.event_source_id), ordered_event_source];
    let ports = Ports {
        events: sqs.queue(config.queue_url),
        ordered,
        table: DynamoDb::new(&sdk, config.events_table),
        event_sources: event_sources
            .into_iter()
            .flatten()
            .map(|id| EventSourceMapping::new(&sdk, id))
            .collect(),
        // A second probe would be a second event.
        prober: LambdaFunction::new(
            &aws::sdk_config_for_one_attempt(PROBE_TIMEOUT),
            config.processor_function_name,
        ),
        clock: SystemClock,
    };
    let breaker = Arc::new(Breaker::<Aws> {
        ports,
        policy: Policy {
            failure_percent: config.failure_percent,
            maximum_concurrency: config.maximum_concurrency,
            processor_timeout: (config.target_rate > 0).then_some(config.processor_timeout),
        },
        is_on: config.is_on,
    });
    let function = service_fn(move |event| Box::pin(handler::handle(Arc::clone(&breaker), event)));
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}
