//! The relay as this operator reaches it: one function answers, two others carry out changes, and IAM
//! may allow the first alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::functions::{Function, Functions, InvokeError};
use crate::lock::Lock;

/// Time limit of the question for a permission. Without an answer the function itself decides later.
const CHECK_TIME: Duration = Duration::from_secs(10);

/// The relay behind the functions of its stack.
pub(crate) struct Relay {
    functions: Arc<dyn Functions>,
    /// Name of the operator in the audit log.
    by: String,
    /// Functions that the operator may not invoke, each with the reason.
    denials: Lock<BTreeMap<Function, String>>,
}

impl Relay {
    /// Asks which changes IAM lets the operator make. `by` is the operator's name in the audit log.
    pub(crate) async fn connect(functions: Arc<dyn Functions>, by: String) -> Self {
        let denials = Lock::default();
        let relay = Self {
            functions,
            by,
            denials,
        };
        relay.check(Function::Replay).await;
        relay.check(Function::Breaker).await;
        relay
    }

    pub(crate) fn by(&self) -> &str {
        &self.by
    }

    /// Returns the reason for which the operator may not invoke a function, if that is known.
    pub(crate) fn denial(&self, function: Function) -> Option<String> {
        self.denials.lock().get(&function).cloned()
    }

    /// Sends a request that changes nothing.
    pub(crate) async fn look<T: DeserializeOwned>(
        &self,
        request: impl Serialize,
    ) -> Result<T, InvokeError> {
        self.send(Function::Look, json!(request)).await
    }

    /// Sends a request that changes something, with the reason.
    pub(crate) async fn act<T: DeserializeOwned>(
        &self,
        function: Function,
        request: impl Serialize,
        why: Option<&str>,
    ) -> Result<T, InvokeError> {
        let mut request = json!(request);
        if let Some(why) = why {
            request["why"] = why.into();
        }
        self.send(function, request).await
    }

    /// Sends a request with the operator's name.
    async fn send<T: DeserializeOwned>(
        &self,
        function: Function,
        mut request: Value,
    ) -> Result<T, InvokeError> {
        request["by"] = self.by.as_str().into();
        let answer = self.functions.invoke(function, request).await;
        if let Err(InvokeError::Denied { .. }) = answer {
            self.check(function).await;
        }
        serde_json::from_value(answer?).map_err(|error| InvokeError::Unanswered(error.into()))
    }

    /// Asks for the permission to invoke a function.
    async fn check(&self, function: Function) {
        let answer = timeout(CHECK_TIME, self.functions.check(function)).await;
        let denial = match answer {
            Ok(Err(InvokeError::Denied { function, source })) => Some(format!(
                "IAM does not let you invoke the function {function}. {source}"
            )),
            _ => None,
        };
        let mut denials = self.denials.lock();
        match denial {
            Some(denial) => drop(denials.insert(function, denial)),
            None => drop(denials.remove(&function)),
        }
    }
}
