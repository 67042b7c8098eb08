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

    /// Leaves it all that it was deployed with but this action.
    pub async fn take_away(&self, action: &str) -> Result<()> {
        let document = without(&self.document, action);
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
    match &statement["Action"] {
        Value::Array(actions) => actions.iter().filter_map(Value::as_str).collect(),
        action => action.as_str().into_iter().collect(),
    }
}

fn without(document: &Value, action: &str) -> Value {
    let kept = statements(document).iter().filter_map(|statement| {
        let actions: Vec<_> = actions_of(statement)
            .into_iter()
            .filter(|granted| *granted != action)
            .collect();
        let mut kept = statement.clone();
        kept["Action"] = actions.clone().into();
        (!actions.is_empty()).then_some(kept)
    });
    let mut document = document.clone();
    document["Statement"] = kept.collect();
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
        assert_eq!(without(&document, "sqs:SendMessage"), expected);
        assert!(statements(&without(&expected, "sqs:ReceiveMessage")).is_empty());
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
