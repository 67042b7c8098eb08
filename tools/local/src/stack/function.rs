//! The functions of a stack, by name.

use std::fmt;

use serde_json::Value;

/// A function of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// Takes webhooks.
    Ingest,
    /// Delivers to the target.
    Processor,
    /// Brings dead letters back.
    Replay,
    /// Fetches what Genesys Cloud failed to deliver.
    Recovery,
    /// Holds events back while the target is away.
    Breaker,
}

impl Function {
    /// All of them, in the order in which an event meets them.
    pub const ALL: [Self; 5] = [
        Self::Ingest,
        Self::Processor,
        Self::Replay,
        Self::Recovery,
        Self::Breaker,
    ];

    /// The output of the template that holds its deployed name.
    pub(super) fn output(self) -> &'static str {
        match self {
            Self::Ingest => "IngestFunctionName",
            Self::Processor => "ProcessorFunctionName",
            Self::Replay => "ReplayFunctionName",
            Self::Recovery => "RecoveryFunctionName",
            Self::Breaker => "BreakerFunctionName",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ingest => "ingest",
            Self::Processor => "processor",
            Self::Replay => "replay",
            Self::Recovery => "recovery",
            Self::Breaker => "breaker",
        })
    }
}

/// Error of a function: type and message, as JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the function failed: {0}")]
pub struct FunctionError(pub Value);
