//! Signing keys that the stack generates, in a secret of their own.
//!
//! CloudFormation cannot add a generated field to a secret that has values already: it would
//! overwrite them.

use serde_json::{Map, Value};

use super::{SecretFields, SecretStore, SecretsError, trimmed};

/// The secret, with the generated keys where it has no `targetSigningSecrets` of its own.
pub struct WithGeneratedKeys<S> {
    secret: S,
    generated: Option<S>,
}

impl<S> WithGeneratedKeys<S> {
    /// Adds the keys of `generated`: `{"targetSigningSecrets": "…"}`. An older stack has none.
    pub fn new(secret: S, generated: Option<S>) -> Self {
        Self { secret, generated }
    }
}

impl<S: SecretStore> SecretStore for WithGeneratedKeys<S> {
    /// Reads the generated keys only where they are used, over the connection of the first read.
    async fn read(&self) -> Result<String, SecretsError> {
        let secret = self.secret.read().await?;
        let Some(generated) = &self.generated else {
            return Ok(secret);
        };
        // The text is parsed again where it is used, and its errors are reported there.
        if !SecretFields::parse(&secret).is_ok_and(|own| own.target_signing_secrets.is_none()) {
            return Ok(secret);
        }
        let keys = SecretFields::parse(&generated.read().await?)?.target_signing_secrets;
        let mut fields: Map<String, Value> =
            serde_json::from_str(trimmed(&secret)).unwrap_or_default();
        fields.insert(
            "generatedSigningSecrets".to_owned(),
            keys.unwrap_or_default(),
        );
        Ok(Value::Object(fields).to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ports::secrets::{FromSecret as _, TargetSecrets};
    use crate::testing::FakeSecretStore;

    async fn read(secret: &Value, generated: Option<FakeSecretStore>) -> TargetSecrets {
        let store = WithGeneratedKeys::new(FakeSecretStore::holding(secret), generated);
        TargetSecrets::from_secret(&store.read().await.expect("read")).expect("secrets")
    }

    #[tokio::test]
    async fn generated_keys_sign_until_the_secret_has_its_own() {
        let generated =
            || FakeSecretStore::holding(&json!({ "targetSigningSecrets": "k".repeat(64) }));
        let both = read(&json!({ "targetAuthorization": "x" }), Some(generated())).await;
        assert_eq!(both.signing[0].len(), 48);
        assert_eq!(both.fields().collect::<Vec<_>>(), ["targetAuthorization"]);
        let own = json!({ "targetSigningSecrets": "a".repeat(32) });
        let own = read(&own, Some(generated())).await;
        assert_eq!(own.signing[0].len(), 24);
        assert_eq!(own.fields().collect::<Vec<_>>(), ["targetSigningSecrets"]);
        assert!(read(&json!({}), None).await.signing.is_empty());
    }

    #[tokio::test]
    async fn empty_list_of_keys_counts_as_none() {
        let generated = json!({ "targetSigningSecrets": "k".repeat(64) });
        let first = include_str!("../../../template.yaml")
            .lines()
            .find_map(|line| line.trim().strip_prefix("SecretStringTemplate: '{"))
            .and_then(|line| line.strip_suffix("}'"))
            .expect("the first value of the secret");
        let mut secrets = vec![serde_json::from_str(&format!("{{{first}}}")).expect("JSON")];
        secrets
            .extend(["", " \n", "[]", "[ ]"].map(|keys| json!({ "targetSigningSecrets": keys })));
        for secret in secrets {
            let store = FakeSecretStore::holding(&generated);
            let read = read(&secret, Some(store)).await;
            assert!(read.is_signing_generated, "{secret}");
            assert_eq!(read.signing.len(), 1, "{secret}");
        }
    }

    #[tokio::test]
    async fn keys_that_cannot_be_read_matter_only_where_they_are_used() {
        let broken = FakeSecretStore::holding(&json!({}));
        broken.fail();
        let of = |secret: &Value| {
            WithGeneratedKeys::new(FakeSecretStore::holding(secret), Some(broken.clone()))
        };
        assert!(
            of(&json!({})).read().await.is_err(),
            "nothing goes out unsigned"
        );
        let own = json!({ "targetSigningSecrets": "a".repeat(32) });
        let reads = broken.reads();
        assert!(of(&own).read().await.is_ok());
        assert_eq!(broken.reads(), reads, "they are not read");
        let no_keys = WithGeneratedKeys::new(
            FakeSecretStore::holding(&json!({})),
            Some(FakeSecretStore::holding(&json!({}))),
        );
        let read = no_keys.read().await.expect("read");
        let error = TargetSecrets::from_secret(&read).expect_err("no keys");
        assert!(
            error.to_string().contains("targetSigningSecrets"),
            "{error}"
        );
    }
}
