//! A deployed stack: its template, its resources, the clients that read them, and the relay's own
//! status.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_cloudformation::types::{Stack as CfnStack, StackResourceSummary, TemplateStage};
use genesys_relay::adapters::genesys::Https;
use genesys_relay::dead_letters::api::Status;
use genesys_relay::runtime::logging::display_chain;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::{Fault, Signed, fault};
use super::template::Template;
use crate::aws::{Place, Stack};
use crate::functions::{Function, Functions as _, InvokeError};

/// Time limit of one call, and of one with its retries.
const ATTEMPT: Duration = Duration::from_secs(8);
const CALL: Duration = Duration::from_secs(20);

/// Resource of the nested stack with the alarms.
const OBSERVABILITY: &str = "Observability";

const ALARM: &str = "AWS::CloudWatch::Alarm";

/// A deployed stack.
pub(super) struct Deployment {
    pub(super) stack: CfnStack,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) template: Template,
    /// Names of the alarms.
    pub(super) alarms: Vec<String>,
    /// Time at which CloudFormation last changed each resource, in seconds.
    pub(super) changed_at: BTreeMap<String, i64>,
    pub(super) local: Option<String>,
    pub(super) config: SdkConfig,
    pub(super) signed: Signed,
    pub(super) https: Https,
    pub(super) lambda: aws_sdk_lambda::Client,
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) dynamodb: aws_sdk_dynamodb::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) secrets: aws_sdk_secretsmanager::Client,
    pub(super) cloudwatch: aws_sdk_cloudwatch::Client,
    /// Functions of the stack; the error names the missing output.
    pub(super) functions: Result<Stack, String>,
    /// The relay's own status, by the look function.
    pub(super) status: Result<Status, Fault>,
}

impl Deployment {
    /// Reads what every check needs.
    pub(super) async fn load(place: &Place, https: Https) -> Result<Self, Fault> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(CALL);
        // Reads can be repeated, unlike what the console does.
        let config = place.config.to_builder();
        let config = config
            .retry_config(RetryConfig::standard())
            .timeout_config(timeouts.build())
            .build();
        let client = aws_sdk_cloudformation::Client::new(&config);
        let described = client.describe_stacks().stack_name(&place.stack).send();
        let described = described
            .await
            .map_err(fault("cloudformation:DescribeStacks"))?;
        let unknown = || Fault::Failed(format!("CloudFormation knows no stack {}", place.stack));
        let stack = described
            .stacks
            .and_then(|stacks| stacks.into_iter().next())
            .ok_or_else(unknown)?;
        let id = stack.stack_id().unwrap_or_default();
        // `arn:aws:cloudformation:REGION:ACCOUNT:stack/…`
        let parts: Vec<&str> = id.split(':').collect();
        let [_, partition, _, region, account, ..] = parts[..] else {
            return Fault::failed(format!("the stack's id {id} is no ARN"));
        };
        let (mut template, changed_at) =
            read_template(&client, &stack, [partition, region, account]).await?;
        let mut alarms = Vec::new();
        if let Some(nested) = template.physical(OBSERVABILITY) {
            let resources = resources(&client, nested).await?.into_iter();
            let of_type = resources.filter(|found| found.resource_type() == Some(ALARM));
            alarms = of_type
                .filter_map(|found| found.physical_resource_id)
                .collect();
        }
        let (partition, region) = (partition.to_owned(), region.to_owned());
        let outputs = stack.outputs().iter().filter_map(|output| {
            let value = output.output_value()?.to_owned();
            Some((output.output_key()?.to_owned(), value))
        });
        let outputs: BTreeMap<String, String> = outputs.collect();
        // The local AWS has the name of a secret for its physical id, and AWS its ARN.
        for (secret, output) in [
            ("Secret", "SecretArn"),
            ("SigningSecret", "SigningSecretArn"),
        ] {
            let arn = outputs.get(output).cloned();
            template
                .physical
                .extend(arn.map(|arn| (secret.to_owned(), arn)));
        }
        // Without retries: a run whose answer was lost may still be in progress.
        let functions = Stack::read(&place.stack, &stack, &place.config);
        let functions = functions.map_err(|error| format!("{error:#}"));
        let status = status(&functions).await;
        let s3 = aws_sdk_s3::config::Builder::from(&config)
            // The local AWS has no host for each bucket.
            .force_path_style(place.local.is_some());
        Ok(Self {
            outputs,
            template,
            alarms,
            changed_at,
            local: place.local.clone(),
            signed: Signed::new(config.clone(), region, partition, https.clone()),
            https,
            lambda: aws_sdk_lambda::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            config,
            functions,
            status,
            stack,
        })
    }

    /// Name of the stack.
    pub(super) fn name(&self) -> &str {
        &self.template.stack
    }

    /// An output of the stack.
    pub(super) fn output(&self, name: &str) -> Result<&str, Fault> {
        let found = self.outputs.get(name).map(String::as_str);
        found.ok_or_else(|| Fault::Failed(format!("the stack has no output {name}")))
    }

    /// URL of the webhook as it can be called from here: the local AWS serves it elsewhere than its
    /// output says.
    pub(super) fn url(&self, output: &str) -> Result<String, Fault> {
        let url = self.output(output)?;
        let Some(endpoint) = &self.local else {
            return Ok(url.to_owned());
        };
        let unusable = || Fault::Failed(format!("the output {output} is no URL: {url}"));
        let (host, path) = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'))
            .ok_or_else(unusable)?;
        let api = match host.split_once(".execute-api.") {
            Some((api, _)) => api,
            // A domain of the operator's.
            None => self.template.physical("HttpApi").ok_or_else(unusable)?,
        };
        Ok(format!(
            "{endpoint}/_aws/execute-api/{api}/%24default/{path}"
        ))
    }

    /// Time since CloudFormation last changed a resource, where it is known.
    pub(super) fn age(&self, resource: &str) -> Option<Duration> {
        let changed = *self.changed_at.get(resource)?;
        let seconds = Timestamp::now().as_second() - changed;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    /// The relay's status, or the reason for which it is unknown.
    pub(super) fn status(&self) -> Result<&Status, Fault> {
        self.status.as_ref().map_err(|fault| match fault {
            Fault::NotAllowed(permission) => Fault::NotAllowed(permission.clone()),
            Fault::Failed(why) | Fault::NotHere(why) | Fault::Missing(why) => {
                Fault::NotHere(format!("because the look function did not answer: {why}"))
            }
        })
    }
}

async fn status(functions: &Result<Stack, String>) -> Result<Status, Fault> {
    let functions = functions
        .as_ref()
        .map_err(|why| Fault::Failed(why.clone()))?;
    let request = json!({ "action": "status", "by": "check" });
    let answer = functions.invoke(Function::Look, request).await;
    let answer = answer.map_err(|error| match &error {
        InvokeError::Denied { function, .. } => {
            Fault::NotAllowed(format!("lambda:InvokeFunction on {function}"))
        }
        _ => Fault::Failed(display_chain(&error)),
    })?;
    serde_json::from_value(answer)
        .map_err(|error| Fault::Failed(format!("its status cannot be read: {error}")))
}

async fn read_template(
    client: &aws_sdk_cloudformation::Client,
    stack: &CfnStack,
    [partition, region, account]: [&str; 3],
) -> Result<(Template, BTreeMap<String, i64>), Fault> {
    let id = stack.stack_id().unwrap_or_default();
    let answer = client
        .get_template()
        .stack_name(id)
        .template_stage(TemplateStage::Processed)
        .send();
    let answer = answer.await.map_err(fault("cloudformation:GetTemplate"))?;
    let body = answer.template_body().unwrap_or_default();
    let body: Value = serde_json::from_str(body).map_err(|error| {
        Fault::Failed(format!(
            "the processed template of {id} is no JSON: {error}"
        ))
    })?;
    let (mut physical, mut changed_at) = (BTreeMap::new(), BTreeMap::new());
    for resource in resources(client, id).await? {
        let name = resource.logical_resource_id.unwrap_or_default();
        if let Some(time) = resource.last_updated_timestamp {
            changed_at.insert(name.clone(), time.secs());
        }
        if let Some(id) = resource.physical_resource_id {
            physical.insert(name, id);
        }
    }
    let defaults = body["Parameters"].as_object().into_iter().flatten();
    let defaults = defaults.filter_map(|(name, parameter)| {
        let default = parameter.get("Default")?;
        Some((name.clone(), super::template::text(default)))
    });
    let given = stack.parameters().iter().filter_map(|parameter| {
        let value = parameter.parameter_value()?.to_owned();
        Some((parameter.parameter_key()?.to_owned(), value))
    });
    let parameters = defaults.chain(given).collect();
    let template = Template {
        body,
        parameters,
        physical,
        stack: stack.stack_name().unwrap_or_default().to_owned(),
        partition: partition.to_owned(),
        region: region.to_owned(),
        account: account.to_owned(),
    };
    Ok((template, changed_at))
}

async fn resources(
    client: &aws_sdk_cloudformation::Client,
    stack: &str,
) -> Result<Vec<StackResourceSummary>, Fault> {
    let pages = client.list_stack_resources().stack_name(stack);
    let mut pages = pages.into_paginator().send();
    let mut resources = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(fault("cloudformation:ListStackResources"))?;
        resources.extend(page.stack_resource_summaries.unwrap_or_default());
    }
    Ok(resources)
}
