//! What goes wrong with a call of the Platform API, in words that say what to do. None of them holds a credential.

use std::error::Error as StdError;
use std::fmt;

use http::{Response, StatusCode};
use serde::Deserialize;

use crate::domain::text::excerpt;
use crate::ports::delivery_log::DeliveryLogError;
use crate::ports::secrets::SecretsError;

/// Every answer of Genesys Cloud carries one; its support asks for it.
const CORRELATION_ID: &str = "inin-correlation-id";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It took too long.
    #[error("there was no answer in time")]
    TimedOut,
    /// There was no connection, or it broke.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
    /// The answer is larger than any that was expected.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Why a call failed. No variant carries a credential.
#[derive(Debug, thiserror::Error)]
pub enum GenesysError {
    /// The OAuth client cannot sign in.
    #[error(
        "Genesys Cloud does not let the OAuth client in: {0}. Compare genesysClientId and genesysClientSecret in the \
         stack's secret, the region, and that the client's grant type is Client Credentials"
    )]
    Credentials(Refused),
    /// The stack's secret does not tell how to sign in.
    #[error("the stack's secret does not say how to sign in to Genesys Cloud")]
    Secrets(#[from] SecretsError),
    /// The client may not do this.
    #[error("{refused}. Give a role of the OAuth client {}, in every division that matters",
        permission.map_or_else(|| "what this call needs".to_owned(), |name| format!("the permission {name}")))]
    Forbidden {
        /// What is missing, where that is documented.
        permission: Option<&'static str>,
        /// What Genesys Cloud said.
        refused: Refused,
    },
    /// There is no such thing, or not any more.
    #[error("{0}")]
    NotFound(Refused),
    /// It will not do this however often it is asked.
    #[error("{0}")]
    Refused(Refused),
    /// It failed too often.
    #[error("{what} failed {tries} times")]
    Unavailable {
        /// The call.
        what: String,
        /// How often.
        tries: u32,
        /// How the last try failed.
        #[source]
        last: Trouble,
    },
    /// It said yes to something that cannot be read.
    #[error("{what} gave an answer that cannot be used: {problem}")]
    Unusable {
        /// The call.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Waiting for it would take longer than there is.
    #[error("there is no time left for {what}: {why}")]
    OutOfTime {
        /// The call.
        what: String,
        /// What it would have to wait for.
        why: String,
    },
}

impl From<GenesysError> for DeliveryLogError {
    fn from(error: GenesysError) -> Self {
        match error {
            GenesysError::Credentials(_) | GenesysError::Secrets(_) => Self::Credentials(error.into()),
            GenesysError::Forbidden { .. } => Self::Forbidden(error.into()),
            GenesysError::OutOfTime { .. } => Self::OutOfTime(error.into()),
            GenesysError::NotFound(_)
            | GenesysError::Refused(_)
            | GenesysError::Unavailable { .. }
            | GenesysError::Unusable { .. } => Self::Failed(error.into()),
        }
    }
}

/// An answer that says no.
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
        let Self { what, status, says, correlation_id } = self;
        write!(formatter, "{what} was answered with {} ({says}; correlation id {correlation_id})", status.as_u16())
    }
}

/// A failure that may pass.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Genesys Cloud is too busy or broken.
    #[error("{0}")]
    Answered(Refused),
    /// What it answered is not JSON.
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
        let words = [body.code, body.message, body.error, body.error_description].into_iter().flatten();
        let says = words.collect::<Vec<_>>().join(": ");
        let says = if says.is_empty() { "without a word".to_owned() } else { excerpt(&says) };
        Self { what: what.to_owned(), status: response.status(), says, correlation_id: correlation_id(response) }
    }
}

pub(super) fn correlation_id(response: &Response<Vec<u8>>) -> String {
    let id = response.headers().get(CORRELATION_ID).and_then(|id| id.to_str().ok());
    id.map_or_else(|| "none".to_owned(), excerpt)
}
