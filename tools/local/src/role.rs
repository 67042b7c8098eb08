//! The roles of the template, to find out which of their permissions are needed: each can be taken
//! away while the relay runs, and counts from the next request on.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use reqwest::Url;
use serde_json::Value;

use crate::aws::Aws;

/// A role with one inline policy, as it was deployed.
#[derive(Debug)]
pub struct Role {
    aws: Aws,
    name: String,
    policy: String,
    document: Value,
}

impl Role {
    /// Reads the role whose name begins like this, with its first policy. CloudFormation makes names
    /// of those of stack and resource.
    pub(crate) async fn read(aws: Aws, prefix: &str) -> Result<Self> {
        let roles = aws.query("iam", "ListRoles", &[]).await?;
        let mut roles = roles["Roles"].as_array().into_iter().flatten();
        let name = roles
            .find_map(|role| {
                role["RoleName"]
                    .as_str()
                    .filter(|name| name.starts_with(prefix))
            })
            .with_context(|| format!("IAM has no role {prefix}"))?
            .to_owned();
        let role = ("RoleName", name.as_str());
        let policies = aws.query("iam", "ListRolePolicies", &[role]).await?;
        let policy = policies["PolicyNames"][0]
            .as_str()
            .with_context(|| format!("{name} has no policy"))?
            .to_owned();
        Self::read_policy(aws, name, policy).await
    }

    /// The same role with another of its inline policies.
    pub async fn with_policy(&self, policy: &str) -> Result<Self> {
        Self::read_policy(self.aws.clone(), self.name.clone(), policy.to_owned()).await
    }

    async fn read_policy(aws: Aws, name: String, policy: String) -> Result<Self> {
        let parameters = [("RoleName", name.as_str()), ("PolicyName", &policy)];
        let read = aws.query("iam", "GetRolePolicy", &parameters).await?;
        let document = decoded(read["PolicyDocument"].as_str().unwrap_or_default())?;
        Ok(Self {
            document: serde_json::from_str(&document)?,
            aws,
            name,
            policy,
        })
    }

    /// Actions that it was deployed with.
    pub fn actions(&self) -> BTreeSet<String> {
        statements(&self.document)
            .iter()
            .flat_map(actions_of)
            .map(String::from)
            .collect()
    }

    /// Actions that it was deployed with on resources whose ARN contains this text.
    pub fn actions_on(&self, resource: &str) -> BTreeSet<String> {
        statements(&self.document)
            .iter()
            .filter(|statement| !resources_of(statement, |arn| arn.contains(resource)).is_empty())
            .flat_map(actions_of)
            .map(String::from)
            .collect()
    }

    /// Leaves it all that it was deployed with but this action.
    pub async fn take_away(&self, action: &str) -> Result<()> {
        self.take_away_on(action, "").await
    }

    /// Leaves it all that it was deployed with but this action on resources whose ARN contains this
    /// text.
    pub async fn take_away_on(&self, action: &str, resource: &str) -> Result<()> {
        let document = without(&self.document, action, resource);
        if statements(&document).is_empty() {
            // No policy may be empty.
            let parameters = [
                ("RoleName", self.name.as_str()),
                ("PolicyName", &self.policy),
            ];
            self.aws
                .query("iam", "DeleteRolePolicy", &parameters)
                .await?;
            return Ok(());
        }
        self.put(&document).await
    }

    /// Gives back what was taken away.
    pub async fn restore(&self) -> Result<()> {
        self.put(&self.document).await
    }

    async fn put(&self, document: &Value) -> Result<()> {
        let parameters = [
            ("RoleName", self.name.as_str()),
            ("PolicyName", &self.policy),
            ("PolicyDocument", &document.to_string()),
        ];
        self.aws.query("iam", "PutRolePolicy", &parameters).await?;
        Ok(())
    }
}

/// Actions that a managed policy allows.
pub async fn actions_of_policy(aws: &Aws, arn: &str) -> Result<BTreeSet<String>> {
    let policy = ("PolicyArn", arn);
    let found = aws.query("iam", "GetPolicy", &[policy]).await?;
    let version = found["Policy"]["DefaultVersionId"].as_str();
    let version = ("VersionId", version.context("a version")?);
    let found = aws
        .query("iam", "GetPolicyVersion", &[policy, version])
        .await?;
    let document = found["PolicyVersion"]["Document"].as_str();
    let document: Value = serde_json::from_str(&decoded(document.unwrap_or_default())?)?;
    let statements = statements(&document);
    let actions = statements.iter().flat_map(actions_of);
    Ok(actions.map(String::from).collect())
}

/// IAM gives documents percent-encoded.
fn decoded(document: &str) -> Result<String> {
    let url = Url::parse(&format!("policy:?document={document}"))?;
    url.query_pairs()
        .next()
        .map(|(_, text)| text.into_owned())
        .context("IAM returned an empty policy")
}

fn statements(document: &Value) -> &[Value] {
    document["Statement"].as_array().map_or(&[], Vec::as_slice)
}

fn actions_of(statement: &Value) -> Vec<&str> {
    texts(&statement["Action"])
}

fn resources_of(statement: &Value, is_it: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut resources = texts(&statement["Resource"]);
    resources.retain(|resource| is_it(resource));
    resources
}

fn texts(one_or_many: &Value) -> Vec<&str> {
    match one_or_many {
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        text => text.as_str().into_iter().collect(),
    }
}

fn without(document: &Value, action: &str, resource: &str) -> Value {
    let part = |statement: &Value, actions: Vec<&str>, resources: Value| {
        let mut part = statement.clone();
        (part["Action"], part["Resource"]) = (actions.into(), resources);
        part
    };
    let mut kept = Vec::new();
    for statement in statements(document) {
        let (taken, others): (Vec<_>, Vec<_>) = actions_of(statement)
            .into_iter()
            .partition(|granted| *granted == action);
        if !others.is_empty() {
            kept.push(part(statement, others, statement["Resource"].clone()));
        }
        let elsewhere = resources_of(statement, |arn| !arn.contains(resource));
        if !taken.is_empty() && !elsewhere.is_empty() {
            kept.push(part(statement, taken, elsewhere.into()));
        }
    }
    let mut document = document.clone();
    document["Statement"] = kept.into();
    document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_action_is_taken_from_every_statement_that_grants_it() {
        let document = json!({ "Version": "2012-10-17", "Statement": [
            { "Sid": "Both", "Action": ["sqs:SendMessage", "sqs:ReceiveMessage"], "Resource": "one" },
            { "Sid": "Only", "Action": "sqs:SendMessage", "Resource": "other" },
        ]});
        let expected = json!({ "Version": "2012-10-17", "Statement": [
            { "Sid": "Both", "Action": ["sqs:ReceiveMessage"], "Resource": "one" },
        ]});
        assert_eq!(without(&document, "sqs:SendMessage", ""), expected);
        assert!(statements(&without(&expected, "sqs:ReceiveMessage", "")).is_empty());
    }

    #[test]
    fn an_action_can_be_taken_from_one_resource_alone() {
        let document = json!({ "Statement": [
            { "Action": ["sqs:SendMessage", "sqs:ReceiveMessage"], "Resource": ["one", "other"] },
        ]});
        let expected = json!({ "Statement": [
            { "Action": ["sqs:ReceiveMessage"], "Resource": ["one", "other"] },
            { "Action": ["sqs:SendMessage"], "Resource": ["other"] },
        ]});
        assert_eq!(without(&document, "sqs:SendMessage", "one"), expected);
        assert_eq!(
            statements(&without(&document, "sqs:SendMessage", "none")).len(),
            2
        );
    }

    #[test]
    fn documents_are_decoded() -> Result<()> {
        assert_eq!(
            decoded("%7B%22a%22%3A%20%22b%2B%26c%2F%2A%22%7D")?,
            r#"{"a": "b+&c/*"}"#
        );
        Ok(())
    }
}
