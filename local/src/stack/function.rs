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
}

impl Function {
    /// All of them, in the order in which an event meets them.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Processor, Self::Replay, Self::Recovery];

    /// The output of the template that holds its deployed name.
    pub(super) fn output(self) -> &'static str {
        match self {
            Self::Ingest => "IngestFunctionName",
            Self::Processor => "ProcessorFunctionName",
            Self::Replay => "ReplayFunctionName",
            Self::Recovery => "RecoveryFunctionName",
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
        })
    }
}

/// What a function answered instead of a result: its error's type and message, as JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the function failed: {0}")]
pub struct FunctionError(pub Value);
