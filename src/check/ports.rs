//! Ports of the checks: the public URL and the operator's functions of a relay.

use std::future::Future;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

/// A request to the public URLs of a relay.
#[derive(Debug, Clone)]
pub enum WebRequest {
    /// A webhook, with this proof of its sender.
    Webhook {
        proof: Option<(HeaderName, HeaderValue)>,
        body: Vec<u8>,
    },
    /// The list of dead letters, without a signature of IAM.
    DeadLetters,
}

/// The public URLs of a relay.
pub trait Webhook: Send + Sync {
    /// Sends a request, and returns the status of the answer.
    ///
    /// # Errors
    /// The reason for which there was no answer, for a person to read.
    fn send(&self, request: WebRequest) -> impl Future<Output = Result<u16, String>> + Send;
}

/// The look and the replay function of a relay.
pub trait Relay: Send + Sync {
    /// Invokes the function that only looks.
    fn look(&self, request: Value) -> impl Future<Output = Result<Value, RelayError>> + Send;

    /// Invokes the function that acts.
    fn act(&self, request: Value) -> impl Future<Output = Result<Value, RelayError>> + Send;
}

/// A request that a function did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The caller may not invoke the function.
    #[error("{0}")]
    NotAllowed(String),
    /// The function answered with an error.
    #[error("{kind}: {message}")]
    Refused {
        /// `errorType` of the answer.
        kind: String,
        /// `errorMessage` of the answer.
        message: String,
    },
    /// There was no answer that can be read.
    #[error("{0}")]
    Unreachable(String),
}
