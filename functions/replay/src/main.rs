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
use genesys_relay::dead_letters::{
    DeadLetters, OrderMode, OrderedQueues, PortTypes, Ports, Settings,
};
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::event_queues::EventQueues;
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
    type Events = EventQueues<SqsQueue>;
    type DeadLetters = SqsQueue;
    type Redrive = SqsRedrive;
    type Table = DynamoDb;
    type Archive = S3Archive;
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
        .map(|ordered| {
            let queues = OrderedQueues {
                mode: ordered.mode,
                queue: sqs.queue(ordered.queue_url),
                dead_letters: sqs.queue(ordered.dead_letter_queue_url),
            };
            (queues, ordered.event_source_id)
        })
        .unzip();
    let to_ordered = ordered
        .as_ref()
        .filter(|ordered| ordered.mode == OrderMode::Conversation);
    let ports = Ports {
        events: EventQueues {
            standard: sqs.queue_with_age(config.queue_url, &sdk),
            ordered: to_ordered.map(|ordered| ordered.queue.clone()),
        },
        ordered,
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        journal: config.journal_queue_url.map(|url| sqs.queue(url)),
        redrive: sqs.redrive(config.dead_letter_queue_arn, config.queue_arn),
        table: DynamoDb::new(&sdk, config.events_table),
        archive: S3Archive::new(&sdk, config.archive_bucket),
        clock: SystemClock,
    };
    let function = Arc::new(Function {
        dead_letters: DeadLetters::<Aws> {
            ports,
            settings: Settings {
                target_rate: NonZeroU32::new(config.target_rate).map(NonZeroU32::get),
                has_conversation_index: config.conversation_index,
                processor_timeout: config.processor_timeout,
                backup_days: config.backup_days,
                log_retention_days: config.log_retention_days,
                canary_minutes: config.canary_minutes,
            },
        },
        background: LambdaFunction::new(&sdk, config.function_name),
        event_sources: [Some(config.event_source_id), ordered_event_source]
            .into_iter()
            .flatten()
            .map(|id| EventSourceMapping::new(&sdk, id))
            .collect(),
        maximum_concurrency: config.maximum_concurrency,
        acts_elsewhere: config.look_only.then_some(config.acting_function_name),
    });
    // The future of a run is large; a box moves it less often.
    let function = service_fn(move |event| Box::pin(handler::handle(Arc::clone(&function), event)));
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}
