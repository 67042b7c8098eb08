//! Holds events back while the target is away: it takes their way out of the queue shut, lets one through now and then,
//! and opens that way again when the target took one.
//!
//! What waits in the events queue uses up nothing: no receive, no attempt, no patience of the target. It owns two settings
//! of the event source mapping, `Enabled` and `MaximumConcurrency`, and sets both anew every minute.

mod request;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::attempts::{Attempts, minutes_before};
use crate::domain::circuit::{Circuit, LastProbe, MINUTES, Override, Policy, Probed, Settings, State};
use crate::ports::clock::Clock;
use crate::ports::event_source::{EventSource, EventSourceError, Prober};
use crate::ports::events_table::{EventsTable, LeaseName, RunLease, TableError};
use crate::ports::queue::Countable;
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

pub use self::request::Request;

/// A run's lease outlives it by this much, for clocks that differ.
const LEASE_PAST_DEADLINE: SignedDuration = SignedDuration::from_secs(5);

/// The use case, over its ports.
pub struct Breaker<Q, W, M, P, C> {
    /// The events queue.
    pub events: Q,
    /// What the attempts came to, and what the breaker is.
    pub table: W,
    /// The way out of the queue.
    pub event_source: M,
    /// The processor.
    pub prober: P,
    /// Tells which minute it is.
    pub clock: C,
    /// Until when events are held back.
    pub policy: Policy,
    /// Whether there is a breaker at all.
    pub is_on: bool,
}

/// Why a run did not come to an end. What the mapping is set to is what it was.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError {
    /// Another run is at work.
    #[error("{} of {} is at work since {}; try again later", .0.action, .0.by, .0.since)]
    Busy(RunLease),
    /// Nothing can be changed by hand where there is no breaker.
    #[error("the breaker is off: set the stack's parameter Breaker to \"on\" first")]
    Off,
    /// The events table failed.
    #[error("the breaker's run failed")]
    Table(#[from] TableError),
    /// The mapping could not be set, and will be by the next run.
    #[error("the breaker's run failed")]
    EventSource(#[from] EventSourceError),
}

/// What the breaker is, as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// `closed`, `open`, `closing`, `exhausting` or `off`.
    pub state: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: String,
    /// Who said so; nothing where it did by itself.
    pub by: Option<String>,
    /// Whether it stays so until somebody says otherwise.
    pub forced: bool,
    /// How many invocations at the same time it lets out of the queue while it closes.
    pub maximum_concurrency: Option<u32>,
    /// How often it has let an event through since it opened.
    pub probes: u32,
    /// What came of the last.
    pub last_probe: Option<ShownProbe>,
    /// When it last looked.
    pub last_run_at: Timestamp,
}

/// An event that was let through, as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownProbe {
    /// When.
    pub at: Timestamp,
    /// The event, if one was there to be let through.
    pub event_id: Option<String>,
    /// Whether the target took it.
    pub delivered: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// Names of the states, as answers have them.
const STATES: [&str; 5] = ["closed", "open", "closing", "exhausting", "off"];

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            state: String,
            since: Timestamp,
            why: String,
            by: Option<String>,
            forced: bool,
            maximum_concurrency: Option<u32>,
            probes: u32,
            last_probe: Option<ShownProbe>,
            last_run_at: Timestamp,
        }
        let Fields { state, since, why, by, forced, maximum_concurrency, probes, last_probe, last_run_at } =
            Fields::deserialize(deserializer)?;
        let known = STATES.into_iter().find(|known| *known == state);
        let state = known.ok_or_else(|| D::Error::custom(format!("unknown state of the breaker: {state:?}")))?;
        Ok(Self { state, since, why, by, forced, maximum_concurrency, probes, last_probe, last_run_at })
    }
}

impl From<Circuit> for Shown {
    fn from(circuit: Circuit) -> Self {
        let (state, maximum_concurrency) = match circuit.state {
            State::Closed => ("closed", None),
            State::Open => ("open", Some(0)),
            State::Closing { concurrency } => ("closing", Some(concurrency)),
            State::Exhausting => ("exhausting", None),
            State::Off => ("off", None),
        };
        let probe = |LastProbe { at, event_id, delivered, error }| ShownProbe { at, event_id, delivered, error };
        Self {
            state,
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

impl<Q: Countable, W: EventsTable, M: EventSource, P: Prober, C: Clock> Breaker<Q, W, M, P, C> {
    /// Does what a minute asks for, or what somebody asks for, and says what the breaker is then.
    ///
    /// What it decides it writes down before it acts, and the next run acts again: a run that dies leaves nothing half done.
    pub async fn handle(&self, request: &Request, deadline: Instant) -> Result<Shown, BreakerError> {
        let now = self.clock.now();
        let left = deadline.saturating_duration_since(Instant::now());
        let lease = RunLease {
            owner: Uuid::new_v4(),
            action: "breaker".to_owned(),
            by: request.requester.by.clone(),
            since: now,
            until: now + left + LEASE_PAST_DEADLINE,
        };
        let taken = self.table.acquire(LeaseName::Breaker, &lease, now).await;
        let outcome = match taken {
            Ok(Some(held)) => return Err(BreakerError::Busy(held)),
            Ok(None) => self.run(request).await,
            // It may be ours although the answer was lost.
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.table.release(LeaseName::Breaker, lease.owner).await {
            tracing::warn!(error = display_chain(&error), "the lease on the breaker stands until it runs out");
        }
        outcome
    }

    async fn run(&self, request: &Request) -> Result<Shown, BreakerError> {
        let now = self.clock.now();
        let before = self.before(request, now).await?;
        if !self.is_on {
            return self.stand_aside(request, before, now).await;
        }
        let found = self.event_source.settings().await;
        let mapping = *found.as_ref().unwrap_or(&None);
        let minutes = match request.wish {
            Some(_) => Vec::new(),
            None => self.attempts(now).await?,
        };
        let mut circuit = match request.wish {
            Some(wish) => before.wished(wish, &request.requester, self.policy, now),
            None => before.after(&minutes, mapping, self.policy, now),
        };
        if circuit.is_to_probe() && circuit.is_due(mapping, self.policy, now) {
            // First, so that a run that comes right after this one does not let a second event through.
            circuit.stepped_at = Some(now);
            self.table.save_circuit(&circuit).await?;
            let outcome = self.prober.probe(circuit.delivered_at).await.map_err(|error| display_chain(&*error));
            if let Err(error) = &outcome {
                tracing::error!(error, "no event could be let through to see whether the target is back");
            }
            if matches!(outcome, Ok(Probed::Delivered { .. } | Probed::Failed { .. })) {
                metrics::BREAKER_PROBES.add(1);
            }
            circuit = circuit.probed(outcome, now);
        }
        if circuit != before {
            self.table.save_circuit(&circuit).await?;
        }
        say(Some(&before), &circuit);
        self.apply(&circuit, found?).await?;
        if request.wish.is_none() {
            circuit = self.look_for_a_silent_processor(circuit, &minutes, mapping, now).await;
        }
        // Only now: one that decides and cannot act is as good as none, and alarms have to see that.
        circuit.last_run_at = now;
        self.table.save_circuit(&circuit).await?;
        metrics::breaker(&circuit, now);
        Ok(circuit.into())
    }

    /// The state to start from. Where a later version wrote it, and it cannot be read, a person's word counts all the same,
    /// and a breaker that is off lets go: as if it had been silent.
    async fn before(&self, request: &Request, now: Timestamp) -> Result<Circuit, BreakerError> {
        match self.table.circuit().await {
            Ok(Some(found)) => Ok(found),
            // Nothing is known against the minutes before its first run.
            Ok(None) => Ok(Circuit::closed(now - SignedDuration::from_mins(MINUTES.into()))),
            Err(error @ TableError::Unreadable(_)) if request.wish.is_some() || !self.is_on => {
                tracing::warn!(
                    error = display_chain(&error),
                    "replaced the state of the breaker, which cannot be read"
                );
                Ok(Circuit::closed(now))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says so when events wait, nothing keeps them from the processor, and it attempts none: it cannot start, or nobody
    /// invokes it, and it writes nothing that anyone could look at.
    async fn look_for_a_silent_processor(
        &self,
        circuit: Circuit,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        now: Timestamp,
    ) -> Circuit {
        let circuit = circuit.heard_of(minutes);
        let depth = match self.events.depth().await {
            Ok(depth) => depth,
            Err(error) => {
                tracing::warn!(error = display_chain(&error), "failed to count the events queue");
                return circuit;
            }
        };
        let circuit = circuit.waited(minutes, mapping, depth, now);
        let silent_since = circuit.is_silent_since(depth, now);
        if let Some(since) = silent_since {
            tracing::error!(
                %since,
                visible = depth.visible,
                in_flight = depth.in_flight,
                "events wait, the event source mapping is enabled, and the processor attempts none: see its errors and throttles"
            );
        }
        metrics::PROCESSOR_SILENT.is(silent_since.is_some());
        circuit
    }

    /// Lets go of what it holds back, and touches nothing after that: without a breaker the mapping is its owner's.
    async fn stand_aside(&self, request: &Request, before: Circuit, now: Timestamp) -> Result<Shown, BreakerError> {
        if request.wish.is_some() {
            return Err(BreakerError::Off);
        }
        if before.state == State::Off {
            metrics::breaker(&before, now);
            return Ok(before.into());
        }
        let circuit = before.off(now);
        // First: once that is written down, the mapping is not looked at again.
        self.event_source.set(circuit.settings(self.policy)).await?;
        self.table.save_circuit(&circuit).await?;
        say(Some(&before), &circuit);
        metrics::breaker(&circuit, now);
        Ok(circuit.into())
    }

    async fn attempts(&self, now: Timestamp) -> Result<Vec<(Timestamp, Attempts)>, TableError> {
        let minutes = minutes_before(now, MINUTES);
        let attempts = self.table.attempts(&minutes).await?;
        Ok(minutes.into_iter().zip(attempts).collect())
    }

    /// Sets the mapping, found like this, as it is to be.
    async fn apply(&self, circuit: &Circuit, found: Option<Settings>) -> Result<(), EventSourceError> {
        let wanted = circuit.settings(self.policy);
        match found {
            Some(found) if found != wanted => self.event_source.set(wanted).await,
            // It is as it should be, or is changing, and the next run looks again.
            Some(_) | None => Ok(()),
        }
    }
}

/// Lets events flow where the breaker does not look any more: it is broken, and nobody else would, whether it holds them back or
/// has closed and could not say so to the mapping.
///
/// For somebody else to call now and then, in the name of `by`. A breaker that comes back goes on from there.
pub async fn relieve(
    table: &impl EventsTable,
    event_source: &impl EventSource,
    maximum_concurrency: u32,
    by: &str,
    now: Timestamp,
) -> Result<(), BreakerError> {
    let (before, circuit) = match table.circuit().await {
        Ok(None) => return Ok(()),
        Ok(Some(before)) => {
            metrics::breaker_unprobed(&before, now);
            if !before.is_abandoned(now) {
                return Ok(());
            }
            let why = format!("the breaker has not looked since {}: events flow without it", before.last_run_at);
            let circuit = Circuit { why, last_run_at: before.last_run_at, ..Circuit::closed(now) };
            (Some(before), circuit)
        }
        // Of a later version, which is not there any more: nobody looks.
        Err(error @ TableError::Unreadable(_)) => {
            let why = format!("the state of the breaker cannot be read, and was replaced: {}", display_chain(&error));
            (None, Circuit { why, ..Circuit::closed(now) })
        }
        Err(error) => return Err(error.into()),
    };
    event_source.set(Settings { enabled: true, maximum_concurrency }).await?;
    if before.as_ref().is_some_and(|before| before.state == State::Closed) {
        return Ok(());
    }
    let circuit = Circuit { by: Some(by.to_owned()), ..circuit };
    table.save_circuit(&circuit).await?;
    say(before.as_ref(), &circuit);
    Ok(())
}

/// One line for each turn, and none for a minute in which nothing turned.
fn say(before: Option<&Circuit>, after: &Circuit) {
    if before.is_some_and(|before| before.state == after.state && before.forced == after.forced) {
        return;
    }
    let shown = Shown::from(after.clone());
    tracing::warn!(
        audit = "breaker",
        was = before.map(|before| Shown::from(before.clone()).state),
        state = shown.state,
        why = shown.why,
        by = shown.by,
        forced = shown.forced,
        maximum_concurrency = shown.maximum_concurrency,
        "breaker"
    );
}
