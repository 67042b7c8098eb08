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
    Refused(Refusal),
    /// Nobody has answered, or in a way that nobody understands: what was asked may have been done.
    #[error("there is no answer of the function")]
    Unanswered(#[source] Box<dyn StdError + Send + Sync>),
}

/// The error of a function, as Lambda passes it on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// `InvalidRequest`, `Busy`, `NotFound` and others.
    #[serde(default, rename = "errorType")]
    pub kind: String,
    /// What the function says.
    #[serde(default, rename = "errorMessage")]
    pub message: String,
}

impl InvokeError {
    /// Whether somebody else is at work, and nothing was done.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.kind == "Busy")
    }
}

/// The functions of one stack.
pub trait Functions: Send + Sync + 'static {
    /// Invokes one, and waits for its answer, which can take a quarter of an hour. It is never invoked twice.
    fn invoke(&self, function: Function, request: Value) -> BoxFuture<'_, Result<Value, InvokeError>>;
}
