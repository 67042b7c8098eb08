//! One deployed relay: an emulator with the repository's template in it, and the clients to look at
//! it.

mod function;
mod observation;
mod observe;
mod options;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    api::{self, ApiAnswer},
    aws::Aws,
    clients::{self, Keys},
    deploy::{self, Deployed, FIRST_RELEASE},
    emulator::Emulator,
    functions,
    role::Role,
    template::Schedules,
    workspace::Workspace,
};

pub use self::{
    function::{Function, FunctionError},
    observation::{Count, LogLine, QueueCounts},
    options::{Service, StackOptions, secret},
};

const DEATH_SHOWS_WITHIN: Duration = Duration::from_secs(1);

/// A relay that runs. Dropping it ends everything.
#[derive(Debug)]
pub struct Stack {
    emulator: Emulator,
    config: SdkConfig,
    aws: Aws,
    parameters: BTreeMap<String, String>,
    schedules: Schedules,
    release: u32,
    outputs: BTreeMap<String, String>,
    left_out: Vec<String>,
    sqs: aws_sdk_sqs::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    s3: aws_sdk_s3::Client,
    lambda: aws_sdk_lambda::Client,
    secrets_manager: aws_sdk_secretsmanager::Client,
    cloudwatch: aws_sdk_cloudwatch::Client,
}

impl Stack {
    /// Builds the functions if the options bring none, starts an emulator, deploys the template and
    /// sets the secret.
    pub async fn start(options: StackOptions) -> Result<Self> {
        let workspace = Workspace::locate().await?;
        Emulator::prepare(&workspace, options.port).await?;
        let packages = match &options.binaries {
            Some(binaries) => &functions::pack_all(binaries)?,
            None => functions::packages(&workspace).await?,
        };
        let variables: Vec<_> = options
            .ways
            .iter()
            .map(|(service, proxy)| (service.variable(), proxy.url()))
            .collect();
        let emulator = Emulator::start(&workspace, options.port, &variables).await?;
        for (_, proxy) in &options.ways {
            proxy.lead_to(emulator.port());
        }
        let config = emulator.config().await;
        let aws = Aws::new(emulator.endpoint(), emulator.keys().clone());
        let s3 = clients::s3(&config);
        // On AWS it belongs to the partner event source, and the rule of the template refers to it.
        if let Some(name) = options
            .parameters
            .get(options::EVENT_BUS)
            .filter(|name| !name.is_empty())
        {
            aws.json(
                "events",
                "AWSEvents.CreateEventBus",
                &json!({ "Name": name }),
            )
            .await?;
        }
        let Deployed { outputs, left_out } = deploy::deploy(
            &workspace,
            &aws,
            &s3,
            packages,
            &options.parameters,
            options.schedules,
            FIRST_RELEASE,
        )
        .await?;

        let stack = Self {
            emulator,
            outputs,
            left_out,
            sqs: aws_sdk_sqs::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            aws,
            s3,
            lambda: aws_sdk_lambda::Client::new(&config),
            secrets_manager: aws_sdk_secretsmanager::Client::new(&config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            parameters: options.parameters,
            schedules: options.schedules,
            release: FIRST_RELEASE,
            config,
        };
        if let Some(secret) = &options.secret {
            stack.set_secret(secret).await?;
        }
        Ok(stack)
    }

    /// Deploys another release of the same functions, with some parameters of the template changed,
    /// onto the stack as it is. A way back is the same with the former values. What a function is
    /// at is ended, which on AWS comes to its end.
    pub async fn redeploy(&mut self, changed: &[(&str, &str)]) -> Result<()> {
        let workspace = Workspace::locate().await?;
        let (release, mut parameters) = (self.release + 1, self.parameters.clone());
        parameters.extend(
            changed
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let packages =
            functions::of_another_release(functions::packages(&workspace).await?, release)?;
        let deployed = deploy::deploy(
            &workspace,
            &self.aws,
            &self.s3,
            &packages,
            &parameters,
            self.schedules,
            release,
        )
        .await?;
        (self.outputs, self.parameters, self.release) = (deployed.outputs, parameters, release);
        Ok(())
    }

    /// Deletes the stack, and with it what the template does not retain. The emulator goes on.
    pub async fn delete(&self) -> Result<()> {
        deploy::delete(&self.aws).await
    }

    /// URL for webhooks on this machine. The template's own output names a host of AWS, or a domain.
    pub fn webhook_url(&self) -> Result<String> {
        self.api_url("/webhook/genesys")
    }

    /// URL of the dead-letter list on this machine; `/{eventId}` and `/{eventId}/retry` follow.
    /// Calls must be signed.
    pub fn dead_letter_api_url(&self) -> Result<String> {
        self.local_url("DeadLetterApiUrl")
    }

    fn local_url(&self, output: &str) -> Result<String> {
        let url = self.output(output)?;
        local_url(&self.endpoint(), url)
            .with_context(|| format!("not the URL of an HTTP API: {url}"))
    }

    /// Calls the HTTP API as the owner of the account, signed for IAM. The path is encoded as URLs
    /// are.
    pub async fn call_api(&self, method: &str, path_and_query: &str) -> Result<ApiAnswer> {
        self.call_api_as(self.keys(), method, path_and_query).await
    }

    /// The same as the owner of this key pair.
    pub async fn call_api_as(
        &self,
        keys: &Keys,
        method: &str,
        path_and_query: &str,
    ) -> Result<ApiAnswer> {
        api::call_signed(keys, method, &self.api_url(path_and_query)?).await
    }

    /// The same without a signature.
    pub async fn call_api_unsigned(&self, method: &str, path_and_query: &str) -> Result<ApiAnswer> {
        api::call(method, &self.api_url(path_and_query)?, Vec::new()).await
    }

    fn api_url(&self, path_and_query: &str) -> Result<String> {
        let dead_letters = self.dead_letter_api_url()?;
        let api = dead_letters
            .strip_suffix("/dlq")
            .context("the URL of the dead-letter API does not end in /dlq")?;
        Ok(format!("{api}{path_and_query}"))
    }

    /// An output of the template.
    pub fn output(&self, name: &str) -> Result<&str> {
        self.outputs
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the stack has no output {name}"))
    }

    /// URL of the queue that keeps the order of conversations, if the stack has one.
    pub fn ordered_queue(&self) -> Option<&str> {
        self.outputs.get("OrderedQueueUrl").map(String::as_str)
    }

    /// The deployed name of a function.
    pub fn function_name(&self, function: Function) -> Result<&str> {
        self.output(function.output())
    }

    /// The address of the local AWS.
    pub fn endpoint(&self) -> String {
        self.emulator.endpoint()
    }

    /// The key pair to which the local AWS allows everything.
    pub fn keys(&self) -> &Keys {
        self.emulator.keys()
    }

    /// Configuration of clients with that key pair.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// The process that plays AWS.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// The template's resources that the local deploy leaves out, one line each, with the reason.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Calls of the services that have no client here.
    pub fn aws(&self) -> &Aws {
        &self.aws
    }

    /// A client for the queues.
    pub fn sqs(&self) -> &aws_sdk_sqs::Client {
        &self.sqs
    }

    /// A client for the events table.
    pub fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }

    /// A client for the alarms and the dashboard.
    pub fn cloudwatch(&self) -> &aws_sdk_cloudwatch::Client {
        &self.cloudwatch
    }

    /// A client for the secret.
    pub fn secrets_manager(&self) -> &aws_sdk_secretsmanager::Client {
        &self.secrets_manager
    }

    /// A client for the archive.
    pub fn s3(&self) -> &aws_sdk_s3::Client {
        &self.s3
    }

    /// A client for the functions.
    pub fn lambda(&self) -> &aws_sdk_lambda::Client {
        &self.lambda
    }

    /// Invokes a function and waits. That the function fails is an outcome, not an error.
    pub async fn invoke(
        &self,
        function: Function,
        payload: &Value,
    ) -> Result<Result<Value, FunctionError>> {
        let name = self.function_name(function)?;
        let blob = aws_sdk_lambda::primitives::Blob::new(payload.to_string());
        let output = self
            .lambda
            .invoke()
            .function_name(name)
            .payload(blob)
            .send()
            .await?;
        let answer =
            serde_json::from_slice(output.payload().map_or(b"null".as_slice(), AsRef::as_ref))
                .context("the answer of the function is not JSON")?;
        Ok(if output.function_error().is_some() {
            Err(FunctionError(answer))
        } else {
            Ok(answer)
        })
    }

    /// Stops a function, so that it cannot be invoked, or starts it again, as an operator does on
    /// AWS: by a reserved concurrency of zero.
    pub async fn set_running(&self, function: Function, is_running: bool) -> Result<()> {
        let name = self.function_name(function)?;
        if is_running {
            self.lambda
                .delete_function_concurrency()
                .function_name(name)
                .send()
                .await?;
        } else {
            let request = self.lambda.put_function_concurrency().function_name(name);
            request.reserved_concurrent_executions(0).send().await?;
        }
        Ok(())
    }

    /// Makes a user of IAM who has the policies of these outputs and nothing else.
    pub async fn user(&self, name: &str, policies: &[&str]) -> Result<Keys> {
        let user = ("UserName", name);
        self.aws.query("iam", "CreateUser", &[user]).await?;
        for policy in policies {
            let policy = ("PolicyArn", self.output(policy)?);
            self.aws
                .query("iam", "AttachUserPolicy", &[user, policy])
                .await?;
        }
        let answer = self.aws.query("iam", "CreateAccessKey", &[user]).await?;
        let text = |name: &str| answer["AccessKey"][name].as_str().map(str::to_owned);
        let (id, secret) = text("AccessKeyId")
            .zip(text("SecretAccessKey"))
            .with_context(|| format!("IAM gave {name} no key pair: {answer}"))?;
        Ok(Keys { id, secret })
    }

    /// A role, by its name in the template.
    pub async fn role(&self, name: &str) -> Result<Role> {
        Role::read(self.aws.clone(), &format!("{}-{name}-", deploy::STACK)).await
    }

    /// Puts a new version of the secret.
    pub async fn set_secret(&self, secret: &Value) -> Result<()> {
        let id = self.output("SecretArn")?;
        self.secrets_manager
            .put_secret_value()
            .secret_id(id)
            .secret_string(secret.to_string())
            .send()
            .await
            .context("Secrets Manager did not accept the secret")?;
        Ok(())
    }

    /// Current version of a secret, whose ARN is this output.
    pub async fn secret(&self, output: &str) -> Result<Value> {
        let request = self.secrets_manager.get_secret_value();
        let answer = request.secret_id(self.output(output)?).send().await?;
        let text = answer.secret_string.context("the secret is not a text")?;
        serde_json::from_str(&text).context("the secret is not JSON")
    }

    /// Publishes an event on a bus: its source, detail-type and detail. All else EventBridge writes
    /// itself, such as the id that this gives.
    pub async fn put_event(&self, bus: &str, event: &Value) -> Result<String> {
        let entry = json!({
            "EventBusName": bus,
            "Source": event["source"],
            "DetailType": event["detail-type"],
            "Detail": event["detail"].to_string(),
        });
        let answer = self
            .aws
            .json(
                "events",
                "AWSEvents.PutEvents",
                &json!({ "Entries": [entry] }),
            )
            .await?;
        let id = answer["Entries"][0]["EventId"].as_str();
        Ok(id
            .with_context(|| format!("EventBridge did not accept the event: {answer}"))?
            .to_owned())
    }

    /// Does some work with the stack, and stops it when the local AWS ends by itself, with that as
    /// the error: everything else that fails then is only a consequence.
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
        timeout(DEATH_SHOWS_WITHIN, self.emulator.died())
            .await
            .map_or(Err(error), |died| Err(died.into()))
    }
}

/// `https://<id>.execute-api.<region>.amazonaws.com/<path>` as the emulator serves it.
fn local_url(endpoint: &str, url: &str) -> Option<String> {
    let (host, path) = url.split_once("://")?.1.split_once('/')?;
    let (api, _) = host.split_once(".execute-api.")?;
    Some(format!(
        "{endpoint}/_aws/execute-api/{api}/%24default/{path}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_url_is_that_of_this_machine() {
        let url = local_url(
            "http://127.0.0.1:4566",
            "https://abc1.execute-api.us-east-1.amazonaws.com/webhook/genesys",
        );
        assert_eq!(
            url.as_deref(),
            Some("http://127.0.0.1:4566/_aws/execute-api/abc1/%24default/webhook/genesys")
        );
        assert_eq!(
            local_url("http://127.0.0.1:4566", "https://example.com/webhook"),
            None
        );
    }
}
