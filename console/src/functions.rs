//! The port to the relay: the two functions that an operator invokes.

use std::error::Error as StdError;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

/// A function that an operator invokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Shows dead letters, and brings them back.
    Replay,
    /// Holds events back while the target is away.
    Breaker,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The function has looked at the request, and says why it did not carry it out.
    #[error("{}", .0.message)]
    Refused(FunctionError),
    /// The request has not reached the function: nothing was done.
    #[error("the function was not asked, and nothing was done")]
    NotAsked {
        /// Whether Lambda only has no room for it now.
        is_throttled: bool,
        /// What AWS says.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Nobody has answered, or in a way that nobody understands: what was asked may have been done.
    #[error("there is no answer of the function")]
    Unanswered(#[source] Box<dyn StdError + Send + Sync>),
}

/// The error of a function, as Lambda passes it on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionError {
    /// `InvalidRequest`, `Busy`, `NotFound` and others.
    #[serde(default, rename = "errorType")]
    pub kind: String,
    /// What the function says.
    #[serde(default, rename = "errorMessage")]
    pub message: String,
}

impl InvokeError {
    /// Whether nothing was done, and the same request may be carried out soon: somebody else is at work, or Lambda has no
    /// room.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.kind == "Busy",
            Self::NotAsked { is_throttled, .. } => *is_throttled,
            Self::Unanswered(_) => false,
        }
    }
}

/// The functions of one stack.
pub trait Functions: Send + Sync + 'static {
    /// Invokes one, and waits for its answer, which can take a quarter of an hour. It is never invoked twice.
    fn invoke(&self, function: Function, request: Value) -> BoxFuture<'_, Result<Value, InvokeError>>;
}
