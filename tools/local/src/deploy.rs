//! Deploys the repository's template to the local AWS, upgrades the stack, and deletes it: uploads
//! the functions and the nested templates, and executes a change set.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::types::{Capability, ChangeSetType, Parameter, Stack, StackStatus};

use crate::{
    clients,
    functions::Packages,
    template::{self, Fitted, Schedules},
    wait,
    workspace::{TEMPLATE, Workspace},
};

/// The name of the stack.
pub const STACK: &str = "relay";
const CODE_BUCKET: &str = "code";
/// The release that creates the stack.
pub(crate) const FIRST_RELEASE: u32 = 1;

/// Result of a deploy.
#[derive(Debug)]
pub struct Deployed {
    /// The outputs of the template.
    pub outputs: BTreeMap<String, String>,
    /// The resources that were left out, one line each, with the reason.
    pub left_out: Vec<String>,
}

/// Deploys a release of the template and the functions with these parameters: the first release
/// creates the stack, later ones update it, as `sam deploy` does. A rollback is a later release
/// with the former values.
///
/// # Errors
/// When the local AWS refuses the request or fails; the message names the resources that failed.
pub async fn deploy(
    workspace: &Workspace,
    config: &SdkConfig,
    packages: &Packages,
    parameters: &BTreeMap<String, String>,
    schedules: Schedules,
    release: u32,
) -> Result<Deployed> {
    let endpoint = config
        .endpoint_url()
        .context("the local AWS has no address")?;
    // A new location for each release: a change set compares only that.
    let location_of = |binary: &str| {
        packages
            .contains_key(binary)
            .then(|| format!("s3://{CODE_BUCKET}/{release}/{binary}.zip"))
    };
    let url_of = |path: &str| format!("{endpoint}/{CODE_BUCKET}/{release}/{path}");
    let fit = |path: &str| -> Result<Fitted> {
        let path = workspace.root.join(path);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        template::fit(&text, schedules, location_of, url_of)
    };
    let main = fit(TEMPLATE)?;
    let mut left_out = main.left_out;
    let mut templates = BTreeMap::from([(TEMPLATE.to_owned(), main.body)]);
    for path in main.nested {
        let nested = fit(&path)?;
        left_out.extend(nested.left_out);
        templates.insert(path, nested.body);
    }
    upload(config, packages, &templates, release).await?;
    let outputs = execute(config, parameters, release, &url_of(TEMPLATE)).await?;
    Ok(Deployed { outputs, left_out })
}

/// Deletes the stack, as `sam delete` does.
///
/// # Errors
/// When the local AWS refuses the request or fails; the message names the resources that failed.
pub async fn delete(config: &SdkConfig) -> Result<()> {
    let client = aws_sdk_cloudformation::Client::new(config);
    let stacks = client
        .describe_stacks()
        .stack_name(STACK)
        .send()
        .await?
        .stacks
        .unwrap_or_default();
    // By its id, by which it can be looked at when it is gone.
    let id = stacks
        .first()
        .and_then(Stack::stack_id)
        .context("CloudFormation has no stack to delete")?
        .to_owned();
    client
        .delete_stack()
        .stack_name(&id)
        .send()
        .await
        .context("CloudFormation did not delete the stack")?;
    let stack = wait::until("the stack is deleted", || finished(&client, &id)).await?;
    if stack.stack_status() != Some(&StackStatus::DeleteComplete) {
        bail!(
            "CloudFormation failed to delete the stack:\n{}",
            failures(&client).await?
        );
    }
    Ok(())
}

async fn upload(
    config: &SdkConfig,
    packages: &Packages,
    templates: &BTreeMap<String, String>,
    release: u32,
) -> Result<()> {
    let s3 = clients::s3(config);
    if release == FIRST_RELEASE {
        s3.create_bucket()
            .bucket(CODE_BUCKET)
            .send()
            .await
            .context("S3 did not create the bucket for code")?;
    }
    for (name, zip) in packages {
        let key = format!("{release}/{name}.zip");
        let put = s3
            .put_object()
            .bucket(CODE_BUCKET)
            .key(key)
            .body(zip.clone().into())
            .customize()
            .disable_payload_signing();
        put.send()
            .await
            .with_context(|| format!("could not upload {name}"))?;
    }
    // In a request it may have 51,200 bytes ("Understand CloudFormation quotas").
    for (path, body) in templates {
        let put = s3
            .put_object()
            .bucket(CODE_BUCKET)
            .key(format!("{release}/{path}"));
        let put = put
            .body(body.as_bytes().to_vec().into())
            .customize()
            .disable_payload_signing();
        put.send()
            .await
            .with_context(|| format!("could not upload {path}"))?;
    }
    Ok(())
}

async fn execute(
    config: &SdkConfig,
    parameters: &BTreeMap<String, String>,
    release: u32,
    template_url: &str,
) -> Result<BTreeMap<String, String>> {
    let (kind, complete) = match release {
        FIRST_RELEASE => (ChangeSetType::Create, StackStatus::CreateComplete),
        _ => (ChangeSetType::Update, StackStatus::UpdateComplete),
    };
    let change_set = format!("release-{release}");
    let client = aws_sdk_cloudformation::Client::new(config);
    let parameters = parameters.iter().map(|(key, value)| {
        Parameter::builder()
            .parameter_key(key)
            .parameter_value(value)
            .build()
    });
    client
        .create_change_set()
        .stack_name(STACK)
        .change_set_name(&change_set)
        .change_set_type(kind)
        .template_url(template_url)
        .set_parameters(Some(parameters.collect()))
        .capabilities(Capability::CapabilityIam)
        .capabilities(Capability::CapabilityAutoExpand)
        .send()
        .await
        .context("CloudFormation refused the template")?;
    client
        .execute_change_set()
        .stack_name(STACK)
        .change_set_name(change_set)
        .send()
        .await
        .context("CloudFormation did not start the deploy")?;
    let stack = wait::until("the deploy ends", || finished(&client, STACK)).await?;
    if stack.stack_status() != Some(&complete) {
        bail!(
            "CloudFormation failed to deploy the template:\n{}",
            failures(&client).await?
        );
    }
    let outputs = stack.outputs().iter();
    Ok(outputs
        .filter_map(|output| Some((output.output_key()?.into(), output.output_value()?.into())))
        .collect())
}

async fn finished(client: &aws_sdk_cloudformation::Client, stack: &str) -> Result<Option<Stack>> {
    let answer = client
        .describe_stacks()
        .stack_name(stack)
        .send()
        .await
        .context("CloudFormation did not describe the stack")?;
    let under_way = |status: &StackStatus| status.as_str().ends_with("_IN_PROGRESS");
    Ok(answer
        .stacks
        .unwrap_or_default()
        .into_iter()
        .find(|stack| !stack.stack_status().is_none_or(under_way)))
}

async fn failures(client: &aws_sdk_cloudformation::Client) -> Result<String> {
    let answer = client
        .describe_stack_events()
        .stack_name(STACK)
        .send()
        .await?;
    let failed = answer.stack_events().iter().filter_map(|event| {
        let reason = event.resource_status_reason()?;
        event
            .resource_status()?
            .as_str()
            .ends_with("_FAILED")
            .then(|| {
                format!(
                    "  {}: {reason}",
                    event.logical_resource_id().unwrap_or_default()
                )
            })
    });
    Ok(failed.collect::<Vec<_>>().join("\n"))
}
