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
    /// Shows events and dead letters.
    Look,
    /// Fetches what Genesys Cloud failed to deliver.
    Recovery,
    /// Holds events back while the target is away.
    Breaker,
    /// Sends an event through the relay on a schedule, with `CanaryMinutes` only.
    Canary,
}

impl Function {
    /// Those of every stack, in the order in which an event meets them. Variables of look and replay differ in
    /// `LOOK_ONLY`, and together have that of replay, which is the later one.
    pub const ALL: [Self; 6] = [
        Self::Ingest,
        Self::Processor,
        Self::Look,
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
            Self::Look => "LookFunctionName",
            Self::Recovery => "RecoveryFunctionName",
            Self::Breaker => "BreakerFunctionName",
            Self::Canary => "CanaryFunctionName",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ingest => "ingest",
            Self::Processor => "processor",
            Self::Replay => "replay",
            Self::Look => "look",
            Self::Recovery => "recovery",
            Self::Breaker => "breaker",
            Self::Canary => "canary",
        })
    }
}

/// Error of a function: type and message, as JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the function failed: {0}")]
pub struct FunctionError(pub Value);
