//! The Lambda function behind the events queue: wires [`genesys_relay::deliver`] to AWS and to the
//! customer's system.

// The future of `main` holds the SDK's and the HTTP client's, nested deeper than the compiler's
// default.
#![recursion_limit = "256"]

mod config;
mod handler;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::secrets_manager::SecretsManager;
use genesys_relay::adapters::aws::sigv4::SigV4;
use genesys_relay::adapters::aws::sqs::{Sqs, SqsQueue};
use genesys_relay::adapters::http_target::HttpTarget;
use genesys_relay::deliver::{PortTypes, Ports, Processor};
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::secrets::{SecretCache, WithGeneratedKeys};
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::metrics::Pending;
use lambda_runtime::service_fn;

use crate::config::Config;

/// The timeout of a call to SQS, DynamoDB or Secrets Manager.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// AWS and the customer's system behind the ports.
struct Aws;

impl PortTypes for Aws {
    type Events = SqsQueue;
    type DeadLetters = SqsQueue;
    type Table = DynamoDb;
    type Target = HttpTarget<WithGeneratedKeys<SecretsManager>, SystemClock>;
    type Clock = SystemClock;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Config {
        variables: config,
        schedule,
        pace,
        order,
    } = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    config.log_sample.apply();
    let mut metrics = Pending::start(config.metrics_namespace)?;
    genesys_relay::adapters::http_target::install_tls_provider();
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let sqs = Sqs::new(&sdk);
    let secret = SecretsManager::new(&sdk, config.secret_arn);
    let generated = config.signing_secret_arn.map(|arn| secret.another(arn));
    let secrets = SecretCache::new(
        WithGeneratedKeys::new(secret, generated),
        config.keep_secrets_for,
        SystemClock,
    );
    let signer = config
        .target_sigv4_service
        .map(|service| {
            SigV4::new(&sdk, service, config.target_sigv4_region).context("AWS_REGION is missing")
        })
        .transpose()?;
    let target = HttpTarget::new(
        config.target_url,
        config.target_timeout,
        secrets,
        SystemClock,
    )
    .context("the HTTP client cannot be built")?
    .sign_with(signer);
    let (order, ordered) = order.unzip();
    let ports = Ports {
        events: sqs.queue(config.queue_url),
        ordered: ordered.map(|url| sqs.queue(url)),
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        journal: config.journal_queue_url.map(|url| sqs.queue(url)),
        table: DynamoDb::new(&sdk, config.events_table),
        target,
        clock: SystemClock,
    };
    let processor = Arc::new(
        Processor::<Aws>::new(ports, schedule)
            .with_pace(pace)
            .with_order(order),
    );
    aws::warm_up(Box::pin(async {
        let ports = &processor.ports;
        let (secrets, table) = tokio::join!(ports.target.warm_up(), ports.table.warm_up());
        secrets?;
        table?;
        Ok(())
    }))
    .await;
    // A batch's future is large, and is moved around less when it is boxed.
    let function =
        service_fn(move |event| Box::pin(handler::handle(Arc::clone(&processor), event)));
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}
