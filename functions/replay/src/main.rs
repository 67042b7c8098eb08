//! The Lambda function that operators invoke, directly and over HTTP: wires
//! [`genesys_relay::dead_letters`] to AWS.

mod api;
mod background;
mod config;
mod handler;
#[cfg(test)]
mod testing;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::event_source::EventSourceMapping;
use genesys_relay::adapters::aws::lambda::LambdaFunction;
use genesys_relay::adapters::aws::s3::S3Archive;
use genesys_relay::adapters::aws::sqs::{Sqs, SqsQueue, SqsRedrive};
use genesys_relay::dead_letters::{DeadLetters, PortTypes, Ports};
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::metrics::Pending;
use lambda_runtime::service_fn;

use crate::config::Config;
use crate::handler::Function;

/// Timeout of a call to AWS, a long poll of 2 s included. An answer over HTTP has room for two
/// calls that hang.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// AWS behind the ports.
struct Aws;

impl PortTypes for Aws {
    type Events = SqsQueue;
    type DeadLetters = SqsQueue;
    type Redrive = SqsRedrive;
    type Table = DynamoDb;
    type Archive = S3Archive;
    type Clock = SystemClock;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config: Config = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    let mut metrics = Pending::start(config.metrics_namespace)?;
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let sqs = Sqs::new(&sdk);
    let ports = Ports {
        events: sqs.queue_with_age(config.queue_url, &sdk),
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        redrive: sqs.redrive(config.dead_letter_queue_arn, config.queue_arn),
        table: DynamoDb::new(&sdk, config.events_table),
        archive: S3Archive::new(&sdk, config.archive_bucket),
        clock: SystemClock,
    };
    let function = Arc::new(Function {
        dead_letters: DeadLetters::<Aws> {
            ports,
            target_rate: NonZeroU32::new(config.target_rate).map(NonZeroU32::get),
        },
        background: LambdaFunction::new(&sdk, config.function_name),
        event_source: EventSourceMapping::new(&sdk, config.event_source_id),
        maximum_concurrency: config.maximum_concurrency,
    });
    // The future of a run is large; a box moves it less often.
    let function = service_fn(move |event| Box::pin(handler::handle(Arc::clone(&function), event)));
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}
