//! One deployed relay: an emulator with the repository's template in it, and the clients to look at it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::types::QueueAttributeName::{
    ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    api::{self, Answer},
    clients,
    deploy::{self, Deployed},
    emulator::Emulator,
    functions, genesys, genesys_cloud,
    role::Role,
    wait,
    workspace::Workspace,
};

/// The parameter that names the bus.
const EVENT_BUS: &str = "EventBusName";

const DEATH_SHOWS_WITHIN: Duration = Duration::from_secs(1);

/// What to deploy.
#[derive(Debug, Clone)]
pub struct StackOptions {
    port: Option<u16>,
    parameters: BTreeMap<String, String>,
    secret: Value,
}

impl StackOptions {
    /// A relay that delivers to this URL, with the template's defaults, on a free port.
    #[must_use]
    pub fn new(target_url: impl Into<String>) -> Self {
        Self { port: None, parameters: BTreeMap::from([("TargetUrl".into(), target_url.into())]), secret: secret() }
    }

    /// Sets a parameter of the template.
    #[must_use]
    pub fn set(mut self, parameter: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.insert(parameter.into(), value.to_string());
        self
    }

    /// Uses this port of 127.0.0.1; `None` stands for a free one.
    #[must_use]
    pub fn port(mut self, port: Option<u16>) -> Self {
        self.port = port;
        self
    }

    /// Recovers what the webhooks or integrations with these ids have lost from the Genesys Cloud at this URL, whose
    /// `source` is one that the template takes.
    #[must_use]
    pub fn recovering_from(self, genesys_url: &str, source: &str, ids: &[&str]) -> Self {
        self.set("RecoverySource", source)
            .set("RecoveryIds", ids.join(","))
            .set("GenesysRegion", "us-east-1")
            .set("GenesysApiUrl", genesys_url)
            .set("GenesysLoginUrl", genesys_url)
    }

    /// Takes events from an event bus of this name, which is made before the deploy.
    #[must_use]
    pub fn event_bus(self, name: impl fmt::Display) -> Self {
        self.set(EVENT_BUS, name)
    }
}

/// The secret of local runs.
#[must_use]
pub fn secret() -> Value {
    json!({
        "openMessagingSecrets": [genesys::OPEN_MESSAGING_SECRET],
        "webhookSecrets": [genesys::WEBHOOK_SECRET],
        "genesysClientId": genesys_cloud::CLIENT_ID,
        "genesysClientSecret": genesys_cloud::CLIENT_SECRET,
    })
}

/// A function of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// Takes webhooks.
    Ingest,
    /// Delivers to the target.
    Processor,
    /// Brings dead letters back.
    Replay,
    /// Fetches what Genesys Cloud failed to deliver.
    Recovery,
}

impl Function {
    /// All of them, in the order in which an event meets them.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Processor, Self::Replay, Self::Recovery];

    fn output(self) -> &'static str {
        match self {
            Self::Ingest => "IngestFunctionName",
            Self::Processor => "ProcessorFunctionName",
            Self::Replay => "ReplayFunctionName",
            Self::Recovery => "RecoveryFunctionName",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ingest => "ingest",
            Self::Processor => "processor",
            Self::Replay => "replay",
            Self::Recovery => "recovery",
        })
    }
}

/// What a function answered instead of a result: its error's type and message, as JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the function failed: {0}")]
pub struct FunctionError(pub Value);

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Could be received now.
    pub visible: u32,
    /// Received and not deleted, or waiting for their next attempt.
    pub in_flight: u32,
    /// Sent with a delay.
    pub delayed: u32,
}

impl Count {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u32 {
        self.visible + self.in_flight + self.delayed
    }
}

/// What both queues hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Events on their way to the target.
    pub events: Count,
    /// Events that need somebody's decision.
    pub dead_letters: Count,
}

/// One line that a function logged.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Which function.
    pub function: Function,
    /// Tells it from all other lines of the function.
    pub id: String,
    /// Milliseconds since 1970 at which it was taken in: the end of its invocation.
    pub at: i64,
    /// The line, parsed where it is JSON.
    pub content: Value,
}

/// A relay that runs. Dropping it ends everything.
#[derive(Debug)]
pub struct Stack {
    emulator: Emulator,
    outputs: BTreeMap<String, String>,
    left_out: Vec<String>,
    sqs: aws_sdk_sqs::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    eventbridge: aws_sdk_eventbridge::Client,
    s3: aws_sdk_s3::Client,
    lambda: aws_sdk_lambda::Client,
    scheduler: aws_sdk_scheduler::Client,
    iam: aws_sdk_iam::Client,
    secrets_manager: aws_sdk_secretsmanager::Client,
    logs: aws_sdk_cloudwatchlogs::Client,
}

impl Stack {
    /// Builds the functions, starts an emulator, deploys the template and sets the secret.
    ///
    /// # Errors
    /// When any of that fails; the message says what to do where we know it.
    pub async fn start(options: StackOptions) -> Result<Self> {
        let workspace = Workspace::locate().await?;
        Emulator::prepare(&workspace, options.port).await?;
        let packages = functions::packages(&workspace).await?;
        let emulator = Emulator::start(&workspace, options.port).await?;
        let config = clients::config(&emulator.endpoint()).await;
        let eventbridge = aws_sdk_eventbridge::Client::new(&config);
        // On AWS it belongs to the partner event source, and the rule of the template refers to it.
        if let Some(name) = options.parameters.get(EVENT_BUS).filter(|name| !name.is_empty()) {
            eventbridge.create_event_bus().name(name).send().await.context("cannot make the event bus")?;
        }
        let Deployed { outputs, left_out } = deploy::deploy(&workspace, &config, packages, &options.parameters).await?;

        let stack = Self {
            emulator,
            outputs,
            left_out,
            sqs: aws_sdk_sqs::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            eventbridge,
            s3: clients::s3(&config),
            lambda: aws_sdk_lambda::Client::new(&config),
            scheduler: aws_sdk_scheduler::Client::new(&config),
            iam: aws_sdk_iam::Client::new(&config),
            secrets_manager: aws_sdk_secretsmanager::Client::new(&config),
            logs: aws_sdk_cloudwatchlogs::Client::new(&config),
        };
        stack.set_secret(&options.secret).await?;
        Ok(stack)
    }

    /// Where webhooks go, on this machine. The template's own output names a host of AWS.
    ///
    /// # Errors
    /// When the stack has no such output.
    pub fn webhook_url(&self) -> Result<String> {
        self.local_url("WebhookUrl")
    }

    /// Where dead letters are listed, on this machine; `/{eventId}` and `/{eventId}/retry` follow. Calls must be signed.
    ///
    /// # Errors
    /// When the stack has no such output.
    pub fn dead_letter_api_url(&self) -> Result<String> {
        self.local_url("DeadLetterApiUrl")
    }

    fn local_url(&self, output: &str) -> Result<String> {
        let url = self.output(output)?;
        local_url(&self.endpoint(), url).with_context(|| format!("not the URL of an HTTP API: {url}"))
    }

    /// Calls the HTTP API as the owner of the account, signed for IAM. The path begins with `/dlq`, and is encoded as
    /// URLs are.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call_api(&self, method: &str, path_and_query: &str) -> Result<Answer> {
        api::call_signed(clients::credentials(), method, &self.api_url(path_and_query)?).await
    }

    /// The same without a signature.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call_api_unsigned(&self, method: &str, path_and_query: &str) -> Result<Answer> {
        api::call(method, &self.api_url(path_and_query)?, Vec::new()).await
    }

    fn api_url(&self, path_and_query: &str) -> Result<String> {
        let dead_letters = self.dead_letter_api_url()?;
        let api = dead_letters.strip_suffix("/dlq").context("the API of dead letters is elsewhere")?;
        Ok(format!("{api}{path_and_query}"))
    }

    /// An output of the template.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn output(&self, name: &str) -> Result<&str> {
        self.outputs.get(name).map(String::as_str).with_context(|| format!("the stack has no output {name}"))
    }

    /// The deployed name of a function.
    ///
    /// # Errors
    /// When the stack has no such output.
    pub fn function_name(&self, function: Function) -> Result<&str> {
        self.output(function.output())
    }

    /// The address of the local AWS.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.emulator.endpoint()
    }

    /// The process that plays AWS.
    #[must_use]
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The template's resources that the local deploy leaves out, one line each, with the reason.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// A client for the queues.
    #[must_use]
    pub fn sqs(&self) -> &aws_sdk_sqs::Client {
        &self.sqs
    }

    /// A client for the events table.
    #[must_use]
    pub fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }

    /// A client for the event bus and the rule on it.
    #[must_use]
    pub fn eventbridge(&self) -> &aws_sdk_eventbridge::Client {
        &self.eventbridge
    }

    /// A client for the archive.
    #[must_use]
    pub fn s3(&self) -> &aws_sdk_s3::Client {
        &self.s3
    }

    /// A client for the schedules.
    #[must_use]
    pub fn scheduler(&self) -> &aws_sdk_scheduler::Client {
        &self.scheduler
    }

    /// A client for the roles.
    #[must_use]
    pub fn iam(&self) -> &aws_sdk_iam::Client {
        &self.iam
    }

    /// A client for the functions.
    #[must_use]
    pub fn lambda(&self) -> &aws_sdk_lambda::Client {
        &self.lambda
    }

    /// Invokes a function and waits. That the function fails is an outcome, not an error.
    ///
    /// # Errors
    /// When it could not be invoked, or its answer is not JSON.
    pub async fn invoke(&self, function: Function, payload: &Value) -> Result<Result<Value, FunctionError>> {
        let name = self.function_name(function)?;
        let blob = aws_sdk_lambda::primitives::Blob::new(payload.to_string());
        let output = self.lambda.invoke().function_name(name).payload(blob).send().await?;
        let answer = serde_json::from_slice(output.payload().map_or(b"null".as_slice(), AsRef::as_ref))
            .context("the answer is not JSON")?;
        Ok(if output.function_error().is_some() { Err(FunctionError(answer)) } else { Ok(answer) })
    }

    /// Stops a function, so that nobody can invoke it, or lets it run again, as an operator does on AWS: by a reserved
    /// concurrency of zero.
    ///
    /// # Errors
    /// When the local AWS refuses it.
    pub async fn set_running(&self, function: Function, is_running: bool) -> Result<()> {
        let name = self.function_name(function)?;
        if is_running {
            self.lambda.delete_function_concurrency().function_name(name).send().await?;
        } else {
            let request = self.lambda.put_function_concurrency().function_name(name);
            request.reserved_concurrent_executions(0).send().await?;
        }
        Ok(())
    }

    /// A role, by its name in the template.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be read.
    pub async fn role(&self, name: &str) -> Result<Role> {
        Role::read(self.iam.clone(), &format!("{}-{name}-", deploy::STACK)).await
    }

    /// Puts a new version of the secret.
    ///
    /// # Errors
    /// When the local AWS refuses it.
    pub async fn set_secret(&self, secret: &Value) -> Result<()> {
        let id = self.output("SecretArn")?;
        self.secrets_manager
            .put_secret_value()
            .secret_id(id)
            .secret_string(secret.to_string())
            .send()
            .await
            .context("cannot set the secret")?;
        Ok(())
    }

    /// The live processes of a function; ending one is a crash. Linux only.
    ///
    /// # Errors
    /// When processes cannot be listed here.
    pub fn pids_of(&self, function: Function) -> Result<Vec<u32>> {
        let name = self.function_name(function)?;
        self.emulator.pids_of(name).map_err(|error: io::Error| anyhow!(error).context("cannot list processes"))
    }

    /// Publishes an event on a bus: its source, detail-type and detail. All else EventBridge writes itself, such as the
    /// id that this gives.
    ///
    /// # Errors
    /// When the local AWS refuses it.
    pub async fn put_event(&self, bus: &str, event: &Value) -> Result<String> {
        let text = |name: &str| event[name].as_str().with_context(|| format!("the event has no {name}"));
        let entry = PutEventsRequestEntry::builder().event_bus_name(bus).source(text("source")?);
        let entry = entry.detail_type(text("detail-type")?).detail(event["detail"].to_string());
        let answer = self.eventbridge.put_events().entries(entry.build()).send().await?;
        let id = answer.entries().first().and_then(|entry| entry.event_id());
        Ok(id.with_context(|| format!("not published: {answer:?}"))?.to_owned())
    }

    /// What the queues hold now.
    ///
    /// # Errors
    /// When they cannot be asked.
    pub async fn queue_counts(&self) -> Result<QueueCounts> {
        let (events, dead_letters) = tokio::try_join!(self.count("QueueUrl"), self.count("DeadLetterQueueUrl"))?;
        Ok(QueueCounts { events, dead_letters })
    }

    /// How many events are in each state. It reads the whole table, which only a local run can afford.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn states(&self) -> Result<BTreeMap<String, usize>> {
        let request = self.dynamodb.scan().table_name(self.output("EventsTableName")?);
        let request = request.projection_expression("#state").expression_attribute_names("#state", "state");
        let mut pages = request.into_paginator().send();
        let mut states = BTreeMap::new();
        while let Some(page) = pages.try_next().await? {
            for state in page.items().iter().filter_map(|item| item.get("state")?.as_s().ok()) {
                *states.entry(state.clone()).or_default() += 1;
            }
        }
        Ok(states)
    }

    async fn count(&self, output: &str) -> Result<Count> {
        let names =
            [ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, ApproximateNumberOfMessagesDelayed];
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(self.output(output)?)
            .set_attribute_names(Some(names.to_vec()))
            .send()
            .await?;
        let number =
            |name| answer.attributes().and_then(|all| all.get(&name)?.parse().ok()).context("a count is missing");
        Ok(Count {
            visible: number(ApproximateNumberOfMessages)?,
            in_flight: number(ApproximateNumberOfMessagesNotVisible)?,
            delayed: number(ApproximateNumberOfMessagesDelayed)?,
        })
    }

    /// Waits until the queues hold what `expected` says.
    ///
    /// # Errors
    /// When they do not within [`wait::LIMIT`].
    pub async fn until_queues(&self, what: &str, expected: impl Fn(QueueCounts) -> bool) -> Result<QueueCounts> {
        wait::until(what, || async { Ok(Some(self.queue_counts().await?).filter(|counts| expected(*counts))) }).await
    }

    /// What a function has logged since a time in milliseconds since 1970, oldest first. A line appears when
    /// its invocation ends.
    ///
    /// # Errors
    /// When the logs cannot be read.
    pub async fn log_lines(&self, function: Function, since: i64) -> Result<Vec<LogLine>> {
        let group = format!("/aws/lambda/{}", self.function_name(function)?);
        let mut pages = self.logs.filter_log_events().log_group_name(group).start_time(since).into_paginator().send();
        let mut lines = Vec::new();
        // The emulator gives no event ids, but each invocation a stream: a line is known by its place in that.
        let mut places = HashMap::new();
        while let Some(page) = pages.try_next().await? {
            lines.extend(page.events().iter().map(|event| {
                let message = event.message().unwrap_or_default();
                let stream = event.log_stream_name().unwrap_or_default();
                let place = places.entry(stream.to_owned()).and_modify(|place| *place += 1).or_insert(0);
                LogLine {
                    function,
                    id: format!("{stream} {place}"),
                    at: event.timestamp().unwrap_or_default(),
                    content: serde_json::from_str(message).unwrap_or_else(|_| message.into()),
                }
            }));
        }
        Ok(lines)
    }

    /// The environment variables of all functions together.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn function_variables(&self) -> Result<BTreeMap<String, String>> {
        let mut variables = BTreeMap::new();
        for function in Function::ALL {
            let configuration =
                self.lambda.get_function_configuration().function_name(self.function_name(function)?).send().await?;
            let own = configuration.environment().and_then(|environment| environment.variables()).cloned();
            variables.extend(own.unwrap_or_default());
        }
        Ok(variables)
    }

    /// Does some work with the stack, and stops it when the local AWS ends by itself, with that as the error:
    /// everything else that fails then is only a consequence.
    ///
    /// # Errors
    /// Those of the work, and [`crate::emulator::EmulatorError::Died`].
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let error = tokio::select! {
            died = self.emulator.died() => return Err(died.into()),
            outcome = work => match outcome {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
        };
        self.emulator.keep_log();
        // A broken connection shows a moment before the end of the process does.
        timeout(DEATH_SHOWS_WITHIN, self.emulator.died()).await.map_or(Err(error), |died| Err(died.into()))
    }
}

/// `https://<id>.execute-api.<region>.amazonaws.com/<path>` as the emulator serves it.
fn local_url(endpoint: &str, url: &str) -> Option<String> {
    let (host, path) = url.split_once("://")?.1.split_once('/')?;
    let (api, _) = host.split_once(".execute-api.")?;
    Some(format!("{endpoint}/_aws/execute-api/{api}/%24default/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_url_is_that_of_this_machine() {
        let url =
            local_url("http://127.0.0.1:4566", "https://abc1.execute-api.us-east-1.amazonaws.com/webhook/genesys");
        assert_eq!(url.as_deref(), Some("http://127.0.0.1:4566/_aws/execute-api/abc1/%24default/webhook/genesys"));
        assert_eq!(local_url("http://127.0.0.1:4566", "https://example.com/webhook"), None);
    }
}
