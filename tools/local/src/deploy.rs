//! Deploys the repository's template to the local AWS, upgrades the stack, and deletes it: uploads
//! the functions and the nested templates, and executes a change set.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    aws::Aws,
    functions::Packages,
    template::{self, Fitted, Schedules},
    wait,
    workspace::{TEMPLATE, Workspace},
};

/// The name of the stack.
pub const STACK: &str = "relay";
const SERVICE: &str = "cloudformation";
const CODE_BUCKET: &str = "code";
/// The release that creates the stack.
pub(crate) const FIRST_RELEASE: u32 = 1;

/// The variable with the public URL, as the template sets it.
const CANARY_URL: &str = "WEBHOOK_URL: !If [HasDomain, \
    !Sub \"https://${DomainName}/webhook/genesys\", !Sub \"${HttpApi.ApiEndpoint}/webhook/genesys\"]";

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
pub async fn deploy(
    workspace: &Workspace,
    aws: &Aws,
    s3: &aws_sdk_s3::Client,
    packages: &Packages,
    parameters: &BTreeMap<String, String>,
    schedules: Schedules,
    release: u32,
) -> Result<Deployed> {
    let endpoint = aws.endpoint();
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
    // The canary calls the URL of the webhook as the local AWS serves it.
    let api = format!("{endpoint}/_aws/execute-api/${{HttpApi}}/%24default");
    let body = main.body.replace(
        CANARY_URL,
        &format!("WEBHOOK_URL: !Sub {api}/webhook/genesys"),
    );
    let mut templates = BTreeMap::from([(TEMPLATE.to_owned(), body)]);
    for path in main.nested {
        let nested = fit(&path)?;
        left_out.extend(nested.left_out);
        templates.insert(path, nested.body);
    }
    upload(s3, packages, &templates, release).await?;
    let outputs = execute(aws, parameters, release, &url_of(TEMPLATE)).await?;
    Ok(Deployed { outputs, left_out })
}

/// Deletes the stack, as `sam delete` does.
pub async fn delete(aws: &Aws) -> Result<()> {
    let stack = describe(aws, STACK).await?;
    // By its id, by which it can be looked at when it is gone.
    let id = stack["StackId"]
        .as_str()
        .context("CloudFormation has no stack to delete")?;
    aws.query(SERVICE, "DeleteStack", &[("StackName", id)])
        .await?;
    let stack = wait::until("the stack is deleted", || finished(aws, id)).await?;
    if stack["StackStatus"] != "DELETE_COMPLETE" {
        bail!(
            "CloudFormation failed to delete the stack:\n{}",
            failures(aws).await?
        );
    }
    Ok(())
}

async fn upload(
    s3: &aws_sdk_s3::Client,
    packages: &Packages,
    templates: &BTreeMap<String, String>,
    release: u32,
) -> Result<()> {
    if release == FIRST_RELEASE {
        s3.create_bucket()
            .bucket(CODE_BUCKET)
            .send()
            .await
            .context("S3 did not create the bucket for code")?;
    }
    let zips = packages
        .iter()
        .map(|(name, zip)| (format!("{name}.zip"), zip.clone()));
    // In a request a template may have 51,200 bytes ("Understand CloudFormation quotas").
    let templates = templates
        .iter()
        .map(|(path, body)| (path.clone(), body.clone().into_bytes()));
    for (name, body) in zips.chain(templates) {
        s3.put_object()
            .bucket(CODE_BUCKET)
            .key(format!("{release}/{name}"))
            .body(body.into())
            .customize()
            .disable_payload_signing()
            .send()
            .await
            .with_context(|| format!("could not upload {name}"))?;
    }
    Ok(())
}

async fn execute(
    aws: &Aws,
    parameters: &BTreeMap<String, String>,
    release: u32,
    template_url: &str,
) -> Result<BTreeMap<String, String>> {
    let (kind, complete) = match release {
        FIRST_RELEASE => ("CREATE", "CREATE_COMPLETE"),
        _ => ("UPDATE", "UPDATE_COMPLETE"),
    };
    let change_set = format!("release-{release}");
    let names = [("StackName", STACK), ("ChangeSetName", &change_set)];
    let numbered: Vec<_> = (1..)
        .zip(parameters)
        .flat_map(|(number, (key, value))| {
            [("Key", key), ("Value", value)].map(|(name, text)| {
                (
                    format!("Parameters.member.{number}.Parameter{name}"),
                    text.as_str(),
                )
            })
        })
        .collect();
    let numbered = numbered.iter().map(|(name, text)| (name.as_str(), *text));
    let request: Vec<_> = [
        ("ChangeSetType", kind),
        ("TemplateURL", template_url),
        ("Capabilities.member.1", "CAPABILITY_IAM"),
        ("Capabilities.member.2", "CAPABILITY_AUTO_EXPAND"),
    ]
    .into_iter()
    .chain(names)
    .chain(numbered)
    .collect();
    aws.query(SERVICE, "CreateChangeSet", &request).await?;
    aws.query(SERVICE, "ExecuteChangeSet", &names).await?;
    let stack = wait::until("the deploy ends", || finished(aws, STACK)).await?;
    if stack["StackStatus"] != complete {
        bail!(
            "CloudFormation failed to deploy the template:\n{}",
            failures(aws).await?
        );
    }
    let outputs = stack["Outputs"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(outputs
        .filter_map(|output| Some((text(&output["OutputKey"])?, text(&output["OutputValue"])?)))
        .collect())
}

async fn describe(aws: &Aws, stack: &str) -> Result<Value> {
    let mut answer = aws
        .query(SERVICE, "DescribeStacks", &[("StackName", stack)])
        .await?;
    Ok(answer["Stacks"][0].take())
}

async fn finished(aws: &Aws, stack: &str) -> Result<Option<Value>> {
    let stack = describe(aws, stack).await?;
    let status = stack["StackStatus"].as_str();
    Ok(status
        .is_some_and(|status| !status.ends_with("_IN_PROGRESS"))
        .then_some(stack))
}

async fn failures(aws: &Aws) -> Result<String> {
    let answer = aws
        .query(SERVICE, "DescribeStackEvents", &[("StackName", STACK)])
        .await?;
    let events = answer["StackEvents"].as_array().into_iter().flatten();
    let failed = events.filter_map(|event| {
        let text = |name: &str| event[name].as_str();
        text("ResourceStatus")?.ends_with("_FAILED").then_some(())?;
        Some(format!(
            "  {}: {}",
            text("LogicalResourceId").unwrap_or_default(),
            text("ResourceStatusReason")?
        ))
    });
    Ok(failed.collect::<Vec<_>>().join("\n"))
}
