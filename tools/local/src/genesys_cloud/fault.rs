//! Faults of calls.

use std::time::Duration;

use super::answer::{CloudAnswer, Refusal};

/// Fault of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFault {
    /// This is answered instead of the right thing.
    CloudAnswer(CloudAnswer),
    /// The right answer, but only after a while.
    Slow(Duration),
    /// The right answer, but the connection breaks after half of its body.
    CutShort,
    /// The connection breaks without an answer.
    Broken,
}

impl CallFault {
    /// 429 with these headers, `Retry-After` or `inin-ratelimit-reset` for instance.
    #[must_use]
    pub fn too_many_requests(headers: &[(&'static str, &str)]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self::CloudAnswer(CloudAnswer::from(Refusal::too_many_requests(None)).with_headers(headers))
    }

    /// 403, since the client has no such permission.
    #[must_use]
    pub fn missing_permission(permission: &str) -> Self {
        Self::CloudAnswer(Refusal::missing_permission(permission).into())
    }

    /// 500 or another one like it.
    #[must_use]
    pub fn server_error(status: u16) -> Self {
        Self::CloudAnswer(Refusal::server_error(status).into())
    }

    /// 200 with this as its body: no JSON, other JSON than is expected, nothing.
    #[must_use]
    pub fn body(body: impl Into<String>) -> Self {
        Self::CloudAnswer(CloudAnswer {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            cut_short: false,
        })
    }

    /// 200 with a body that is not JSON.
    #[must_use]
    pub fn malformed() -> Self {
        Self::body("<html>this is not JSON</html>")
    }
}
