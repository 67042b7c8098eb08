//! Errors of the Platform API. None of them holds a credential.

use std::error::Error as StdError;
use std::fmt;

use http::{Response, StatusCode};
use serde::Deserialize;

use crate::domain::text::excerpt;
use crate::ports::delivery_log::DeliveryLogError;
use crate::ports::secrets::SecretsError;

/// Every answer of Genesys Cloud carries one; its support asks for it.
const CORRELATION_ID: &str = "inin-correlation-id";

/// Failure of a request without an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The answer took too long.
    #[error("Genesys Cloud did not answer in time")]
    TimedOut,
    /// There was no connection, or it broke.
    #[error("the connection to Genesys Cloud failed")]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
    /// The answer is too large.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Failure of a call. No variant carries a credential.
#[derive(Debug, thiserror::Error)]
pub enum GenesysError {
    /// The OAuth client cannot sign in.
    #[error(
        "Genesys Cloud refused to sign the OAuth client in: {0}. Check genesysClientId and genesysClientSecret in the \
         stack's secret, the region, and that the client's grant type is Client Credentials"
    )]
    Credentials(Refused),
    /// The stack's secret has no credentials.
    #[error("the stack's secret has no usable credentials for Genesys Cloud")]
    Secrets(#[from] SecretsError),
    /// The OAuth client lacks a permission.
    #[error("{refused}. Give a role of the OAuth client {}, in every division concerned",
        permission.map_or_else(|| "the permission that this call needs".to_owned(), |name| format!("the permission {name}")))]
    Forbidden {
        /// The missing permission, where it is documented.
        permission: Option<&'static str>,
        /// The answer.
        refused: Refused,
    },
    /// The object does not exist, or exists no longer.
    #[error("{0}")]
    NotFound(Refused),
    /// Genesys Cloud refuses the call for good.
    #[error("{0}")]
    Refused(Refused),
    /// Every try failed.
    #[error("Genesys Cloud: {what} failed {tries} times")]
    Unavailable {
        /// The call.
        what: String,
        /// Number of tries.
        tries: u32,
        /// Failure of the last try.
        #[source]
        last: Trouble,
    },
    /// The answer cannot be used.
    #[error("Genesys Cloud answered {what} with something that cannot be used: {problem}")]
    Unusable {
        /// The call.
        what: String,
        /// Fault of the answer.
        problem: String,
    },
    /// The call cannot end before the deadline.
    #[error("no time is left for {what}: {why}")]
    OutOfTime {
        /// The call.
        what: String,
        /// Cause of the delay.
        why: String,
    },
}

impl From<GenesysError> for DeliveryLogError {
    fn from(error: GenesysError) -> Self {
        match error {
            GenesysError::Credentials(_) | GenesysError::Secrets(_) => {
                Self::Credentials(error.into())
            }
            GenesysError::Forbidden { .. } => Self::Forbidden(error.into()),
            GenesysError::OutOfTime { .. } => Self::OutOfTime(error.into()),
            GenesysError::NotFound(_)
            | GenesysError::Refused(_)
            | GenesysError::Unavailable { .. }
            | GenesysError::Unusable { .. } => Self::Failed(error.into()),
        }
    }
}

/// A refusing answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    what: String,
    pub(super) status: StatusCode,
    /// Genesys Cloud's own words.
    says: String,
    correlation_id: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            status,
            says,
            correlation_id,
        } = self;
        write!(
            formatter,
            "{what} was answered with {} ({says}; correlation id {correlation_id})",
            status.as_u16()
        )
    }
}

/// A temporary failure.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Genesys Cloud is too busy or broken.
    #[error("{0}")]
    Answered(Refused),
    /// The answer is not JSON.
    #[error("the answer is not JSON: {0}")]
    NotJson(String),
}

impl Refused {
    /// Reads the error of the API (`ErrorBody`), or that of OAuth.
    pub(super) fn of(what: &str, response: &Response<Vec<u8>>) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct ErrorBody {
            code: Option<String>,
            message: Option<String>,
            error: Option<String>,
            error_description: Option<String>,
        }

        let body: ErrorBody = serde_json::from_slice(response.body()).unwrap_or_default();
        let words = [body.code, body.message, body.error, body.error_description]
            .into_iter()
            .flatten();
        let says = words.collect::<Vec<_>>().join(": ");
        let says = if says.is_empty() {
            "without a message".to_owned()
        } else {
            excerpt(&says)
        };
        Self {
            what: what.to_owned(),
            status: response.status(),
            says,
            correlation_id: correlation_id(response),
        }
    }
}

pub(super) fn correlation_id(response: &Response<Vec<u8>>) -> String {
    let id = response
        .headers()
        .get(CORRELATION_ID)
        .and_then(|id| id.to_str().ok());
    id.map_or_else(|| "none".to_owned(), excerpt)
}
