//! The two secrets: readable, and usable by every function. No evidence holds a value.

use genesys_relay::ports::secrets::{
    FromSecret as _, GenesysSecrets, SenderSecrets, TargetSecrets,
};
use serde_json::Value;

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::{Named, named, unless_any};

const RUNBOOK: &str = "operate/runbooks/wrong-secret.md";

/// Fields whose values may have line breaks: PEM.
const MULTILINE: [&str; 4] = [
    "targetCa",
    "targetClientCertificate",
    "certificate",
    "privateKey",
];

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    vec![
        named("secret", RUNBOOK, secret(deployment)),
        named(
            "signing-secret",
            "operate/runbooks/target-credentials.md",
            signing_secret(deployment),
        ),
    ]
}

/// The text of the secret whose ARN is this output.
pub(super) async fn read(deployment: &Deployment, output: &str) -> Result<String, Fault> {
    let arn = deployment.output(output)?;
    let answer = deployment.secrets.get_secret_value().secret_id(arn).send();
    let answer = answer
        .await
        .map_err(fault("secretsmanager:GetSecretValue"))?;
    answer
        .secret_string
        .ok_or_else(|| Fault::Failed(format!("{output} has no text")))
}

async fn secret(deployment: &Deployment) -> Result<String, Fault> {
    let text = read(deployment, "SecretArn").await?;
    let recovers = deployment.template.parameter("RecoverySource") != "none";
    let (problems, evidence) = judge(&text, recovers);
    unless_any(&problems, evidence)
}

/// Problems of a secret's text, and the evidence that it has none.
fn judge(text: &str, recovers: bool) -> (Vec<String>, String) {
    let mut problems = Vec::new();
    let mut evidence = Vec::new();
    match SenderSecrets::from_secret(text) {
        Ok(senders) if senders.open_messaging.is_empty() && senders.webhook.is_empty() => {
            problems.push(
                "it has neither openMessagingSecrets nor webhookSecrets: every webhook is refused"
                    .to_owned(),
            );
        }
        Ok(senders) => evidence.push(format!(
            "{} of Open Messaging, {} of webhooks",
            senders.open_messaging.len(),
            senders.webhook.len()
        )),
        Err(error) => problems.push(error.to_string()),
    }
    match TargetSecrets::from_secret(text) {
        Ok(target) => {
            let fields: Vec<_> = target.fields().collect();
            evidence.push(if fields.is_empty() {
                "no credentials for the target".to_owned()
            } else {
                fields.join(", ")
            });
        }
        Err(error) => problems.push(error.to_string()),
    }
    if recovers {
        match GenesysSecrets::from_secret(text) {
            Ok(_) => evidence.push("a client of Genesys Cloud".to_owned()),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if let Ok(Value::Object(fields)) = serde_json::from_str(text) {
        for (field, value) in &fields {
            blanks(field, value, &mut problems);
        }
    }
    // Each part reads the whole secret, and reports the same error of its syntax.
    problems.dedup();
    (problems, evidence.join("; "))
}

/// Names texts with a blank or a line break around or in them: invisible where a person looks.
fn blanks(field: &str, value: &Value, problems: &mut Vec<String>) {
    if MULTILINE.contains(&field) {
        return;
    }
    match value {
        Value::String(text) => {
            let what = if text.contains(['\n', '\r']) {
                "a line break"
            } else if text.trim() != text {
                "a blank before or after its text"
            } else {
                return;
            };
            problems.push(format!("the field {field} has {what}: write it without"));
        }
        Value::Array(items) => items.iter().for_each(|item| blanks(field, item, problems)),
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            if !MULTILINE.contains(&name.as_str()) {
                blanks(field, member, problems);
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

async fn signing_secret(deployment: &Deployment) -> Result<String, Fault> {
    let text = read(deployment, "SigningSecretArn").await?;
    match TargetSecrets::from_secret(&text) {
        Ok(keys) if keys.signing.is_empty() => {
            Fault::failed("it has no targetSigningSecrets: deliveries are not signed")
        }
        Ok(keys) => Ok(format!("{} generated signing keys", keys.signing.len())),
        Err(error) => Fault::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "a-webhook-secret-0001";

    fn problems(secret: &Value) -> Vec<String> {
        judge(&secret.to_string(), false).0
    }

    #[test]
    fn invisible_characters_are_named_by_their_field() {
        let inside = problems(&json!({ "openMessagingSecrets": [format!("{KEY}\n")] }));
        assert_eq!(
            inside,
            ["the field openMessagingSecrets has a line break: write it without"]
        );
        let around =
            problems(&json!({ "webhookSecrets": [KEY], "targetAuthorization": "Bearer t " }));
        assert_eq!(
            around,
            [
                "the field targetAuthorization has a blank before or after its text: write it without"
            ]
        );
        let certificate = json!({ "webhookSecrets": KEY, "targetCa": "-----BEGIN\n" });
        assert_eq!(problems(&certificate), Vec::<String>::new());
    }

    #[test]
    fn unusable_secret_is_named_and_never_shown() {
        assert_eq!(
            problems(&json!({})),
            ["it has neither openMessagingSecrets nor webhookSecrets: every webhook is refused"]
        );
        let (syntax, _) = judge(&format!("{KEY} }}"), true);
        assert_eq!(syntax.len(), 1, "{syntax:?}");
        assert!(!syntax[0].contains(KEY), "{syntax:?}");
        let (recovery, _) = judge(&json!({ "webhookSecrets": [KEY] }).to_string(), true);
        assert!(recovery[0].contains("genesysClientId"), "{recovery:?}");
    }
}
