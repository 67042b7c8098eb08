//! Checks of a deployment: each has a name, an outcome and the evidence for it.

pub mod canary;
pub mod path;
mod ports;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::ports::{Relay, RelayError, WebRequest, Webhook};

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The subject, in a few words. Unique in a report.
    pub name: String,
    pub outcome: CheckOutcome,
    /// The fact that shows the outcome, in a sentence.
    pub evidence: String,
    /// The time that the checked step took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// The page that helps, from `docs/` on, such as `operate/runbooks/target-down.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckOutcome {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "failed")]
    Failed,
    /// The subject does not exist here, or a step before it failed. The evidence says why.
    #[serde(rename = "not here")]
    NotHere,
    /// Permission is missing. The evidence names it.
    #[serde(rename = "not allowed")]
    NotAllowed,
}

impl CheckOutcome {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NotHere => "not here",
            Self::NotAllowed => "not allowed",
        }
    }
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Check {
    /// The subject is as it should be.
    pub fn ok(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(name.into(), CheckOutcome::Ok, evidence.into())
    }

    /// The subject is not as it should be; this page of `docs/` helps.
    pub fn failed(name: impl Into<String>, evidence: impl Into<String>, runbook: &str) -> Self {
        Self {
            runbook: Some(runbook.to_owned()),
            ..Self::new(name.into(), CheckOutcome::Failed, evidence.into())
        }
    }

    /// There is nothing to check.
    pub fn not_here(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name.into(), CheckOutcome::NotHere, why.into())
    }

    /// A check before this one failed, and this one would only fail with it.
    pub fn because_failed(name: impl Into<String>, failed: &str) -> Self {
        Self::not_here(name, format!("because {failed:?} failed"))
    }

    /// The caller lacks a permission.
    pub fn not_allowed(name: impl Into<String>, permission: impl Into<String>) -> Self {
        Self::new(name.into(), CheckOutcome::NotAllowed, permission.into())
    }

    /// Adds the time that the step took.
    #[must_use]
    pub fn took(self, latency: Duration) -> Self {
        Self {
            latency_ms: Some(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            ..self
        }
    }

    /// Returns whether it failed.
    pub fn is_failed(&self) -> bool {
        self.outcome == CheckOutcome::Failed
    }

    fn new(name: String, outcome: CheckOutcome, evidence: String) -> Self {
        Self {
            name,
            outcome,
            evidence,
            latency_ms: None,
            runbook: None,
        }
    }
}
