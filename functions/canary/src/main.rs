//! The Lambda function that sends an event through the relay on a schedule: wires
//! [`genesys_relay::check::canary`] to the public URL and to AWS.

mod config;
mod ports;

use std::sync::Arc;
use std::time::Duration;

use genesys_relay::adapters::aws;
use genesys_relay::adapters::aws::dynamodb::DynamoDb;
use genesys_relay::adapters::aws::lambda::LambdaFunction;
use genesys_relay::adapters::aws::secrets_manager::SecretsManager;
use genesys_relay::adapters::genesys::Https;
use genesys_relay::check::canary;
use genesys_relay::check::path::{Path, Signer};
use genesys_relay::ports::clock::{SystemClock, end_of_invocation};
use genesys_relay::ports::secrets::{SecretCache, SenderSecrets};
use genesys_relay::runtime::config::Environment;
use genesys_relay::runtime::logging::display_chain;
use genesys_relay::runtime::metrics::Pending;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::Config;
use crate::ports::{Operator, PublicUrl};

/// A call of an AWS service ends within this. A look starts the function first.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for which a copy of the secret is used: a run reads it once.
const KEEP_SECRETS_FOR: Duration = Duration::from_mins(1);

/// The walk ends this long before the invocation, so that its run can be saved.
const SAVE_TIME: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config: Config = Environment::of_process().read_all()?;
    genesys_relay::runtime::logging::init(config.log_level);
    let mut metrics = Pending::start(config.metrics_namespace)?;
    genesys_relay::adapters::http_target::install_tls_provider();
    let sdk = aws::sdk_config(CALL_TIMEOUT);
    let function = Arc::new(Function {
        secrets: SecretCache::new(
            SecretsManager::new(&sdk, config.secret_arn),
            KEEP_SECRETS_FOR,
            SystemClock,
        ),
        http: Https::new()?,
        webhook: config.webhook_url,
        look: LambdaFunction::new(&sdk, config.look_function_name),
        table: DynamoDb::new(&sdk, config.events_table),
    });
    let function = service_fn(move |event| Box::pin(handle(Arc::clone(&function), event)));
    Ok(lambda_loop::run(function, || metrics.write()).await?)
}

/// Parts of the function.
struct Function {
    secrets: SecretCache<SecretsManager, SenderSecrets, SystemClock>,
    http: Https,
    webhook: genesys_relay::domain::https_url::HttpsUrl,
    look: LambdaFunction,
    table: DynamoDb,
}

/// Takes one walk, whatever the request says, and answers with its checks.
async fn handle(function: Arc<Function>, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let end = end_of_invocation(event.context.deadline());
    let path = function.secrets.get().await.map(|secrets| Path {
        webhook: PublicUrl {
            http: function.http.clone(),
            webhook: function.webhook.clone(),
        },
        relay: Operator {
            look: function.look.clone(),
            table: function.table.clone(),
            clock: SystemClock,
        },
        signer: Signer::of(&secrets),
        to_target: false,
        by: Some("canary".to_owned()),
        run: Uuid::new_v4(),
        deadline: end - SAVE_TIME,
    });
    let path = path
        .as_ref()
        .map_err(|error| format!("the secret: {}", display_chain(error)));
    let checks = canary::run(path, &function.table, &SystemClock).await;
    checks
        .map(|checks| json!({ "checks": checks }))
        .map_err(|error| Diagnostic {
            error_type: error.kind().to_owned(),
            error_message: display_chain(&error),
        })
}
