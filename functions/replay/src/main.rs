//! The Lambda function that operators invoke: wires [`genesys_relay::replay`] to AWS.

mod config;
mod handler;

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::aws;
use genesys_relay::aws::sqs::Sqs;
use genesys_relay::clock::SystemClock;
use genesys_relay::config::Environment;
use genesys_relay::replay::Replay;
use lambda_runtime::{run, service_fn};

use crate::config::Config;

/// A call to SQS ends within this, the waiting of a long poll included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config = Config::read(Environment::of_process())?;
    genesys_relay::logging::init(config.log_level);
    let sqs = Sqs::new(&aws::sdk_config(CALL_TIMEOUT).await);
    let replay = Arc::new(Replay {
        events: sqs.queue(config.queue_url),
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        redrive: sqs.redrive(config.dead_letter_queue_arn, config.queue_arn),
        clock: SystemClock,
    });
    run(service_fn(move |event| handler::handle(Arc::clone(&replay), event))).await.map_err(anyhow::Error::from_boxed)
}
