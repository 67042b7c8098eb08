//! Answers of the target to deliveries.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use super::{request::ReceivedRequest, wire::Fault};

/// Answer of the target to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `None`: the connection breaks.
    pub status: Option<u16>,
    /// Fault instead of an answer of this status.
    pub fault: Option<Fault>,
    /// The value of `Retry-After`.
    pub retry_after: Option<String>,
    /// Delay before the answer.
    pub delay: Duration,
    /// It is then held until [`Target::release`](super::Target::release).
    pub is_held: bool,
    /// The body.
    pub body: String,
}

impl Answer {
    /// This status at once, with an empty body.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self {
            status: Some(code),
            fault: None,
            retry_after: None,
            delay: Duration::ZERO,
            is_held: false,
            body: String::new(),
        }
    }

    /// This status, with a body that repeats the headers of the request.
    #[must_use]
    pub fn repeating(code: u16, request: &ReceivedRequest) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        };
        Self {
            body: request.headers.iter().map(line).collect(),
            ..Self::status(code)
        }
    }

    /// This status, held until the target is told to release it.
    #[must_use]
    pub fn held(code: u16) -> Self {
        Self {
            is_held: true,
            ..Self::status(code)
        }
    }

    /// This fault at once.
    #[must_use]
    pub fn fault(fault: Fault) -> Self {
        Self {
            status: fault.status(),
            fault: Some(fault),
            ..Self::status(0)
        }
    }
}
