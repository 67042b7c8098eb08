//! Port to the relay: the three functions that an operator invokes.

use std::error::Error as StdError;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

/// A function that an operator invokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// Answers requests that change nothing.
    Look,
    /// Replays dead letters, sends delivered events again, and more.
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
    /// IAM does not let the operator invoke the function: nothing was done.
    #[error("IAM does not let you invoke the function {function}; nothing was done")]
    Denied {
        /// Name of the function.
        function: String,
        /// The error of Lambda, which names the operator and the missing permission.
        source: Box<dyn StdError + Send + Sync>,
    },
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
            Self::Denied { .. } | Self::Unanswered(_) => false,
        }
    }

    /// The kind of a function's own error.
    pub(crate) fn kind(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => Some(&error.kind),
            Self::Denied { .. } | Self::NotAsked { .. } | Self::Unanswered(_) => None,
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

    /// Asks Lambda whether the operator may invoke a function, without invoking it.
    fn check(&self, function: Function) -> BoxFuture<'_, Result<(), InvokeError>>;
}
