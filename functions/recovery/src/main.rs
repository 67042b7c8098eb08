//! The Lambda function that fetches what Genesys Cloud failed to deliver: wires
//! [`genesys_relay::recover`] and
//! [`genesys_relay::statement`] to AWS and to Genesys Cloud.

// The future of `main` holds the SDK's and the HTTP client's, nested deeper than the compiler's
// default.
#![recursion_limit = "256"]

mod config;
mod handler;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::cloudwatch::RelayMetrics;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::s3::S3Archive;
use genesys_relay::adapters::aws::secrets_manager::SecretsManager;
use genesys_relay::adapters::aws::sqs::{Sqs, SqsQueue};
use genesys_relay::adapters::delivery_log::open_messaging::OpenMessaging;
use genesys_relay::adapters::delivery_log::webhook_deliveries::WebhookDeliveries;
use genesys_relay::adapters::genesys::{Genesys, Https};
use genesys_relay::domain::retry::Schedule;
use genesys_relay::ports::clock::SystemClock;
use genesys_relay::ports::delivery_log::DeliveryLog;
use genesys_relay::ports::event_queues::EventQueues;
use genesys_relay::ports::secrets::SecretCache;
use genesys_relay::recover::{PortTypes, Ports, Recover};
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::metrics::Pending;
use genesys_relay::statement::{self, Statements};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;

use crate::config::{Config, Connection, Source};

/// A call to SQS, DynamoDB or Secrets Manager ends within this.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);

/// Time for which a copy of the secret is used. Nothing is refused by it, and a token outlives it.
const KEEP_SECRETS_FOR: Duration = Duration::from_mins(1);

/// Backoff base, backoff cap and tries of a call to Genesys Cloud.
const RETRIES: (Duration, Duration, u32) = (Duration::from_secs(1), Duration::from_secs(30), 5);

/// AWS and a log of Genesys Cloud behind the ports.
struct Aws<L>(PhantomData<L>);

impl<L: DeliveryLog> PortTypes for Aws<L> {
    type Log = L;
    type Events = SqsQueue;
    type DeadLetters = SqsQueue;
    type Table = DynamoDb;
    type Clock = SystemClock;
}

/// The signed-in client, which both use cases call.
type Api = Arc<Genesys<Https, SecretsManager, SystemClock>>;

impl statement::PortTypes for Aws<OpenMessaging<Api>> {
    type Sent = OpenMessaging<Api>;
    type Table = DynamoDb;
    type Events = EventQueues<SqsQueue>;
    type Archive = S3Archive;
    type Counts = RelayMetrics;
    type Clock = SystemClock;
}

/// The ports that the function writes to.
struct Sinks {
    events: SqsQueue,
    dead_letters: SqsQueue,
    table: DynamoDb,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Config {
        variables: config,
        connection,
    } = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    let mut metrics = Pending::start(config.metrics_namespace.clone())?;
    genesys_relay::adapters::http_target::install_tls_provider();
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let sqs = Sqs::new(&sdk);
    let queues = EventQueues {
        standard: sqs.queue(config.queue_url.clone()),
        ordered: config.ordered_queue_url.clone().map(|url| sqs.queue(url)),
    };
    let queue_urls = [Some(&config.queue_url), config.ordered_queue_url.as_ref()];
    let queue_urls: Vec<&str> = queue_urls
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let counts = RelayMetrics::new(&sdk, config.metrics_namespace, &queue_urls);
    let sinks = Sinks {
        events: queues.standard.clone(),
        dead_letters: sqs.queue(config.dead_letter_queue_url),
        table: DynamoDb::new(&sdk, config.events_table),
    };
    let Some(Connection {
        api_url,
        login_url,
        overlap,
        source,
    }) = connection
    else {
        let refuse = |_: LambdaEvent<Value>| async { Err::<Value, _>(handler::Off) };
        return Ok(lambda_loop::run(service_fn(refuse), || metrics.write()).await?);
    };
    let (base, cap, tries) = RETRIES;
    let schedule = Schedule::new(base, cap, tries)?;
    let secrets = SecretCache::new(
        SecretsManager::new(&sdk, config.secret_arn),
        KEEP_SECRETS_FOR,
        SystemClock,
    );
    let https = Https::new().context("the HTTP client cannot be built")?;
    let api = Genesys::new(https, &api_url, &login_url, secrets, schedule, SystemClock);
    let api = Arc::new(api);
    match source {
        Source::WebhookDeliveries { path, webhook_ids } => {
            serve(
                WebhookDeliveries {
                    api,
                    path,
                    webhook_ids,
                },
                None,
                sinks,
                overlap,
                metrics,
            )
            .await
        }
        Source::OpenMessaging {
            integration_ids,
            statuses,
            look_back,
        } => {
            let log = |api| OpenMessaging {
                api,
                integration_ids: integration_ids.clone(),
                statuses: statuses.clone(),
                look_back,
            };
            let ports = statement::Ports {
                sent: log(Arc::clone(&api)),
                table: sinks.table.clone(),
                events: queues,
                archive: S3Archive::new(&sdk, config.archive_bucket),
                counts,
                clock: SystemClock,
            };
            let statements = Statements {
                ports,
                has_conversation_index: config.conversation_index,
            };
            serve(log(api), Some(statements), sinks, overlap, metrics).await
        }
    }
}

async fn serve<L: DeliveryLog>(
    log: L,
    statements: Option<Statements<Aws<OpenMessaging<Api>>>>,
    sinks: Sinks,
    overlap: jiff::SignedDuration,
    mut metrics: Pending,
) -> anyhow::Result<()> {
    let Sinks {
        events,
        dead_letters,
        table,
    } = sinks;
    let ports = Ports {
        log,
        events,
        dead_letters,
        table,
        clock: SystemClock,
    };
    let recover = Arc::new(Recover::<Aws<L>> { ports, overlap });
    // A run's future is large, and is moved around less when it is boxed.
    let statements = statements.map(Arc::new);
    let function = service_fn(move |event| {
        Box::pin(handler::route(
            Arc::clone(&recover),
            statements.clone(),
            event,
        ))
    });
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}
