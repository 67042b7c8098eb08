//! The roles of the template, to find out which of their permissions are needed: each can be taken
//! away while the relay runs, and counts from the next request on.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aws_sdk_iam::Client;
use reqwest::Url;
use serde_json::Value;

/// A role with its one inline policy, as it was deployed.
#[derive(Debug)]
pub struct Role {
    iam: Client,
    name: String,
    policy: String,
    document: Value,
}

impl Role {
    /// Reads the role whose name begins like this. CloudFormation makes names of those of stack and
    /// resource.
    pub(crate) async fn read(iam: Client, prefix: &str) -> Result<Self> {
        let roles = iam.list_roles().send().await?.roles;
        let found = roles
            .into_iter()
            .find(|role| role.role_name().starts_with(prefix));
        let name = found
            .with_context(|| format!("IAM has no role {prefix}"))?
            .role_name;
        let policies = iam
            .list_role_policies()
            .role_name(&name)
            .send()
            .await?
            .policy_names;
        let policy = policies
            .into_iter()
            .next()
            .with_context(|| format!("{name} has no policy"))?;
        let document = iam
            .get_role_policy()
            .role_name(&name)
            .policy_name(&policy)
            .send()
            .await?
            .policy_document;
        Ok(Self {
            iam,
            name,
            policy,
            document: serde_json::from_str(&decoded(&document)?)?,
        })
    }

    /// Parameters of its deploy.
    #[must_use]
    pub fn actions(&self) -> BTreeSet<String> {
        statements(&self.document)
            .iter()
            .flat_map(actions_of)
            .map(String::from)
            .collect()
    }

    /// Leaves it all that it was deployed with but this action.
    ///
    /// # Errors
    /// When the local AWS refuses it.
    pub async fn take_away(&self, action: &str) -> Result<()> {
        let document = without(&self.document, action);
        if statements(&document).is_empty() {
            // No policy may be empty.
            self.iam
                .delete_role_policy()
                .role_name(&self.name)
                .policy_name(&self.policy)
                .send()
                .await?;
            return Ok(());
        }
        self.put(&document).await
    }

    /// Gives back what was taken away.
    ///
    /// # Errors
    /// When the local AWS refuses it.
    pub async fn restore(&self) -> Result<()> {
        self.put(&self.document).await
    }

    async fn put(&self, document: &Value) -> Result<()> {
        let request = self
            .iam
            .put_role_policy()
            .role_name(&self.name)
            .policy_name(&self.policy);
        request.policy_document(document.to_string()).send().await?;
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
