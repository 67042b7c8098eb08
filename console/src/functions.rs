//! Port to the relay: the two functions that an operator invokes.

use std::error::Error as StdError;

use futures_util::future::BoxFuture;
use genesys_relay::domain::request::Requester;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A function that an operator invokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Lists dead letters, replays them, and more.
    Replay,
    /// Holds events in the queue while the target is unavailable.
    Breaker,
}

/// Errors of an invocation.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The function refused the request or failed, and says why.
    #[error("{}", .0.message)]
    Refused(FunctionError),
    /// The request did not reach the function: nothing was done.
    #[error("the request did not reach the function; nothing was done")]
    NotAsked {
        /// Set if Lambda throttled the request, which can be sent again.
        is_throttled: bool,
        /// The error of the SDK.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No answer came, or an answer that could not be read: the request may have been carried out.
    #[error("the function did not answer")]
    Unanswered(#[source] Box<dyn StdError + Send + Sync>),
}

/// The error of a function, as Lambda returns it.
#[derive(Debug, Deserialize)]
pub struct FunctionError {
    /// `InvalidRequest`, `Busy`, `NotFound` and others.
    #[serde(default, rename = "errorType")]
    pub kind: String,
    /// The function's message.
    #[serde(default, rename = "errorMessage")]
    pub message: String,
}

impl InvokeError {
    /// Returns whether nothing was done and the same request can succeed soon: another run is in
    /// progress, or Lambda throttles.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Refused(error) => error.kind == "Busy",
            Self::NotAsked { is_throttled, .. } => *is_throttled,
            Self::Unanswered(_) => false,
        }
    }

    /// Returns whether an answer came that this console cannot read, as of a stack of another
    /// version. Asking again gives the same.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unanswered(source) if source.is::<serde_json::Error>())
    }
}

/// The functions of one stack.
pub trait Functions: Send + Sync + 'static {
    /// Invokes a function once, without retries, and waits up to 15 minutes for its answer.
    fn invoke(
        &self,
        function: Function,
        request: Value,
    ) -> BoxFuture<'_, Result<Value, InvokeError>>;
}

impl dyn Functions {
    /// Invokes a function and reads its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        function: Function,
        request: impl Serialize,
    ) -> Result<T, InvokeError> {
        let answer = self.invoke(function, json!(request)).await?;
        serde_json::from_value(answer).map_err(|error| InvokeError::Unanswered(error.into()))
    }
}

/// Adds the operator and the reason to a request.
pub(crate) fn signed(request: impl Serialize, requester: &Requester) -> Value {
    let mut request = json!(request);
    request["by"] = requester.by.as_str().into();
    if let Some(why) = &requester.why {
        request["why"] = why.as_str().into();
    }
    request
}
