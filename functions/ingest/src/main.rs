//! The Lambda function behind `POST /webhook/genesys`: wires [`genesys_relay::ingest`] to AWS.

mod config;
mod handler;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::secrets_manager::SecretsManager;
use genesys_relay::adapters::aws::sqs::{Sqs, SqsQueue};
use genesys_relay::ingest::{Ingest, PortTypes, Ports};
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::event_queues::EventQueues;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::lambda_http::HttpEvent;
use genesys_relay::runtime::metrics::Pending;
use lambda_http::{LambdaEvent, service_fn};

use crate::config::Config;

/// The timeout of a call to AWS. The sender waits 10 seconds for the secret to be read and the
/// event to be sent.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// AWS behind the ports.
struct Aws;

impl PortTypes for Aws {
    type Events = EventQueues<SqsQueue>;
    type DeadLetters = SqsQueue;
    type Secrets = SecretsManager;
    type Clock = SystemClock;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config: Config = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    config.log_sample.apply();
    let mut metrics = Pending::start(config.metrics_namespace)?;
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let sqs = Sqs::new(&sdk);
    let ports = Ports {
        events: EventQueues {
            standard: sqs.queue(config.queue_url),
            ordered: config.ordered_queue_url.map(|url| sqs.queue(url)),
        },
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        secrets: SecretCache::new(
            SecretsManager::new(&sdk, config.secret_arn),
            config.keep_secrets_for,
            SystemClock,
        ),
        clock: SystemClock,
    };
    let ingest = Arc::new(Ingest::<Aws> {
        ports,
        rng: Mutex::default(),
    });
    aws::warm_up(Box::pin(async {
        let ports = &ingest.ports;
        let (secrets, queue) =
            tokio::join!(ports.secrets.warm_up(), ports.events.standard.warm_up());
        secrets?;
        queue?;
        Ok(())
    }))
    .await;
    let function = service_fn(move |event: LambdaEvent<HttpEvent>| {
        let ingest = Arc::clone(&ingest);
        async move { Ok::<_, Infallible>(handler::handle(&ingest, event).await) }
    });
    Ok(Box::pin(lambda_loop::run(function, || metrics.flush_throttled())).await?)
}
