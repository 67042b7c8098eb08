//! Stand-ins of gateways that a key in a header opens.

use std::sync::{Arc, Mutex, PoisonError};

use crate::target::{Answer, Behaviour, ReceivedRequest};

/// A gateway, with the answers that it documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Azure API Management: "Scenario 3 - Receiving unauthorized errors (401) while invoking APIs"
    /// (API Management troubleshooting) has the header and both bodies.
    AzureApim,
    /// A REST API of Amazon API Gateway: "Test usage plans for REST APIs in API Gateway" (API
    /// Gateway Developer Guide) has the header and the 403.
    AwsApiGateway,
}

impl Gateway {
    /// Name of the header.
    pub fn header(self) -> &'static str {
        match self {
            Self::AzureApim => "Ocp-Apim-Subscription-Key",
            Self::AwsApiGateway => "x-api-key",
        }
    }

    fn refusal(self, is_missing: bool) -> Answer {
        let (status, body) = match self {
            Self::AzureApim if is_missing => (
                401,
                r#"{"statusCode":401,"message":"Access denied due to missing subscription key. Make sure to include subscription key when making requests to an API."}"#,
            ),
            Self::AzureApim => (
                401,
                r#"{"statusCode":401,"message":"Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."}"#,
            ),
            Self::AwsApiGateway => (403, r#"{"message":"Forbidden"}"#),
        };
        Answer {
            body: body.to_owned(),
            ..Answer::status(status)
        }
    }
}

/// The keys that a gateway accepts: two during a rotation, and one after it.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys(Arc<Mutex<Vec<String>>>);

impl ApiKeys {
    /// Accepts these keys only, from the next request on.
    pub fn accept_only(&self, keys: &[&str]) {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The API behind the gateway.
    pub fn api(&self, gateway: Gateway) -> Behaviour {
        let keys = Arc::clone(&self.0);
        Behaviour::script(move |request: &ReceivedRequest| {
            let Some(given) = request.headers.get(gateway.header()) else {
                return gateway.refusal(true);
            };
            let keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
            if keys.iter().any(|key| key.as_bytes() == given.as_bytes()) {
                Answer::status(200)
            } else {
                gateway.refusal(false)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;
    use crate::{clients, target::Target};

    #[tokio::test]
    async fn both_keys_of_a_rotation_open_and_then_the_new_one() -> Result<()> {
        for (gateway, refused) in [(Gateway::AzureApim, 401), (Gateway::AwsApiGateway, 403)] {
            let keys = ApiKeys::default();
            let target = Target::start(keys.api(gateway)).await?;
            let status = async |key: Option<&str>| -> Result<u16> {
                let mut request = clients::http().post(target.url());
                if let Some(key) = key {
                    request = request.header(gateway.header(), key);
                }
                Ok(request.send().await?.status().as_u16())
            };
            keys.accept_only(&["old", "new"]);
            assert_eq!(status(None).await?, refused);
            assert_eq!(status(Some("old")).await?, 200);
            assert_eq!(status(Some("new")).await?, 200);
            keys.accept_only(&["new"]);
            assert_eq!(status(Some("old")).await?, refused);
            assert_eq!(status(Some("new")).await?, 200);
        }
        Ok(())
    }
}
