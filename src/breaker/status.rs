//! The breaker's state as operators read it.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::circuit::{Circuit, LastProbe, State};
use crate::domain::request::Requester;
use crate::runtime::logging::AUDIT;

/// The state of the breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// `closed`, `open`, `closing`, `exhausting` or `off`.
    pub state: Cow<'static, str>,
    /// The time of the last change of state.
    pub since: Timestamp,
    /// The reason for the state.
    pub why: String,
    /// The operator who set it; absent where the breaker decided.
    pub by: Option<String>,
    /// True if the state stays until an operator changes it.
    pub forced: bool,
    /// Upper bound on concurrent invocations of the processor while it closes.
    pub maximum_concurrency: Option<u32>,
    /// Probes since it opened.
    pub probes: u32,
    pub last_probe: Option<ProbeStatus>,
    /// The time of the last complete run.
    pub last_run_at: Timestamp,
}

/// A probe and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// The time of the probe.
    pub at: Timestamp,
    /// The event, if there was one to attempt.
    pub event_id: Option<String>,
    /// True if the target accepted it.
    pub delivered: bool,
    pub error: Option<String>,
}

impl From<Circuit> for BreakerStatus {
    fn from(circuit: Circuit) -> Self {
        let (state, maximum_concurrency) = match circuit.state {
            State::Closed => ("closed", None),
            State::Open => ("open", Some(0)),
            State::Closing { concurrency } => ("closing", Some(concurrency)),
            State::Exhausting => ("exhausting", None),
            State::Off => ("off", None),
        };
        let probe = |LastProbe {
                         at,
                         event_id,
                         delivered,
                         error,
                     }| ProbeStatus {
            at,
            event_id,
            delivered,
            error,
        };
        Self {
            state: state.into(),
            since: circuit.since,
            why: circuit.why,
            by: circuit.by,
            forced: circuit.forced,
            maximum_concurrency,
            probes: circuit.probes,
            last_probe: circuit.last_probe.map(probe),
            last_run_at: circuit.last_run_at,
        }
    }
}

/// Logs a change of state by a request, and nothing where the state is as before.
pub(super) fn log_change(before: Option<&Circuit>, after: &Circuit, requester: &Requester) {
    if before.is_some_and(|before| before.state == after.state && before.forced == after.forced) {
        return;
    }
    let status = BreakerStatus::from(after.clone());
    tracing::warn!(
        target: AUDIT,
        audit = "breaker",
        was = before.map(|before| BreakerStatus::from(before.clone()).state.into_owned()),
        state = status.state.as_ref(),
        why = status.why,
        by = status.by,
        said_by = requester.said_by,
        caller = requester.caller,
        request_id = requester.request_id,
        forced = status.forced,
        maximum_concurrency = status.maximum_concurrency,
        "breaker"
    );
}
