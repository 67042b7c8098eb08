//! One run of the breaker: reads the state and the attempts, decides, saves the decision, and sets
//! the mappings.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::breaker::ports::{PortTypes, Ports};
use crate::breaker::request::Request;
use crate::breaker::status::{BreakerStatus, log_change};
use crate::domain::attempts::{Attempts, minutes_before};
use crate::domain::circuit::{Circuit, MINUTES, Policy, Probed, Settings, State};
use crate::domain::queue_depth::QueueDepth;
use crate::ports::clock::Clock;
use crate::ports::event_source::{EventSource, Prober};
use crate::ports::events_table::{EventsTable, LeaseName, RunLease};
use crate::ports::queue::Countable;
use crate::ports::run_lease::{HeldLease, LEASE_PAST_DEADLINE};
use crate::ports::service::{Fault, ServiceError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Decides every minute whether events flow to the target.
pub struct Breaker<T: PortTypes> {
    /// Ports of the use case.
    pub ports: Ports<T>,
    /// The thresholds.
    pub policy: Policy,
    /// False where the stack has no breaker.
    pub is_on: bool,
}

/// A run that did not finish. An event source mapping that failed is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError {
    /// Another run holds the lease.
    #[error("{0}; try again later")]
    Busy(RunLease),
    /// An operator cannot set a breaker that the stack does not have.
    #[error("the breaker is off: set the stack's parameter Breaker to \"on\" first")]
    Off,
    /// The table failed, or a mapping could not be read or set. The next run tries again.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl<T: PortTypes> Breaker<T> {
    /// Runs the breaker once, by the schedule or with an operator's override.
    ///
    /// A decision is saved before it is carried out, and the next run carries it out again: a crash
    /// leaves nothing half done.
    pub async fn handle(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<BreakerStatus, BreakerError> {
        let lease = RunLease::new(
            Uuid::new_v4(),
            "breaker",
            &request.requester,
            self.ports.clock.now(),
            deadline + LEASE_PAST_DEADLINE,
        );
        let lease = HeldLease::acquire(&self.ports.table, LeaseName::Breaker, &lease)
            .await?
            .map_err(BreakerError::Busy)?;
        let outcome = self.run(request).await;
        lease.release().await;
        outcome
    }

    async fn run(&self, request: &Request) -> Result<BreakerStatus, BreakerError> {
        let now = self.ports.clock.now();
        let before = self.before(request, now).await?;
        if !self.is_on {
            return self.turn_off(request, before, now).await;
        }
        let found = self.found().await;
        let mapping = common(&found);
        // Not the time at which the run began: an invocation may have begun since.
        let seen_at = self.ports.clock.now();
        let minutes = match request.override_state {
            Some(_) => Vec::new(),
            None => self.attempts(now).await?,
        };
        let mut circuit = match request.override_state {
            Some(state) => before.overridden(state, &request.requester, self.policy, now),
            None => before.after(&minutes, mapping, self.policy, now),
        }
        .with_mapping(is_disabled(&found), self.policy, seen_at);
        let is_due = circuit.is_due(mapping, self.policy, now) && circuit.is_quiet(now);
        if circuit.should_probe() && is_due {
            // Saved first, so that a run right after this one does not probe again.
            circuit.stepped_at = Some(now);
            circuit.quiet_at = self.policy.ended_at(self.ports.clock.now());
            self.ports.table.save_circuit(&circuit).await?;
            let outcome = self
                .ports
                .prober
                .probe(circuit.delivered_at)
                .await
                .map_err(|error| display_chain(&*error));
            if let Err(error) = &outcome {
                tracing::error!(error, "failed to probe the target");
            }
            if matches!(
                outcome,
                Ok(Probed::Delivered { .. } | Probed::Failed { .. })
            ) {
                metrics::BREAKER_PROBES.add(1);
            }
            circuit = circuit.probed(outcome, now);
        }
        if circuit != before {
            self.ports.table.save_circuit(&circuit).await?;
        }
        log_change(Some(&before), &circuit, &request.requester);
        self.apply(&circuit, found, now).await?;
        if request.override_state.is_none() {
            circuit = self.check_processor(circuit, &minutes, mapping, now).await;
        }
        // Last: a breaker that decides and cannot act must look stopped to the alarms.
        circuit.last_run_at = now;
        self.ports.table.save_circuit(&circuit).await?;
        metrics::breaker(&circuit, now);
        Ok(circuit.into())
    }

    /// Reads the state to start from. A state that a later version wrote cannot be read; an
    /// override, or a breaker that is off, then replaces it.
    async fn before(&self, request: &Request, now: Timestamp) -> Result<Circuit, BreakerError> {
        match self.ports.table.circuit().await {
            Ok(Some(found)) => Ok(found),
            // At the first run the minutes before count too.
            Ok(None) => Ok(Circuit::closed(
                now - SignedDuration::from_mins(MINUTES.into()),
            )),
            Err(
                error @ ServiceError {
                    fault: Fault::Unreadable,
                    ..
                },
            ) if request.override_state.is_some() || !self.is_on => {
                tracing::warn!(
                    error = display_chain(&error),
                    "replaced the breaker's state, which could not be read"
                );
                Ok(Circuit::closed(now))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reports events that wait while the mappings are enabled and the processor attempts none: it
    /// cannot start, or is not invoked, and so writes no logs itself.
    async fn check_processor(
        &self,
        circuit: Circuit,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        now: Timestamp,
    ) -> Circuit {
        let circuit = circuit.with_deliveries(minutes);
        let depth = match self.depth().await {
            Ok(depth) => depth,
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to count the waiting events"
                );
                return circuit;
            }
        };
        let circuit = circuit.with_waiting(minutes, mapping, depth, now);
        let silent_since = circuit.silent_since(depth, now);
        if let Some(since) = silent_since {
            tracing::error!(
                %since,
                visible = depth.visible,
                in_flight = depth.in_flight,
                "events wait, the event source mapping is enabled, and the processor attempts none; check its errors and throttles"
            );
        }
        metrics::PROCESSOR_SILENT.is(silent_since.is_some());
        circuit
    }

    /// Enables the mappings once, and does not touch them after that: without a breaker they belong
    /// to the stack's owner.
    async fn turn_off(
        &self,
        request: &Request,
        before: Circuit,
        now: Timestamp,
    ) -> Result<BreakerStatus, BreakerError> {
        if request.override_state.is_some() {
            return Err(BreakerError::Off);
        }
        if before.state == State::Off {
            metrics::breaker(&before, now);
            return Ok(before.into());
        }
        let (found, seen_at) = (self.found().await, self.ports.clock.now());
        let circuit = before.with_mapping(is_disabled(&found), self.policy, seen_at);
        if !circuit.is_quiet(now) {
            // The next run turns it off.
            self.ports.table.save_circuit(&circuit).await?;
            metrics::breaker(&circuit, now);
            return Ok(circuit.into());
        }
        let circuit = circuit.off(now);
        // First: once the state is saved, the mappings are not checked again.
        set_all(&self.ports.event_sources, circuit.settings(self.policy)).await?;
        self.ports.table.save_circuit(&circuit).await?;
        log_change(Some(&before), &circuit, &request.requester);
        metrics::breaker(&circuit, now);
        Ok(circuit.into())
    }

    async fn attempts(&self, now: Timestamp) -> Result<Vec<(Timestamp, Attempts)>, ServiceError> {
        let minutes = minutes_before(now, MINUTES);
        let attempts = self.ports.table.attempts(&minutes).await?;
        Ok(minutes.into_iter().zip(attempts).collect())
    }

    /// Reads the settings of each mapping.
    async fn found(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for event_source in &self.ports.event_sources {
            found.push(event_source.settings().await);
        }
        found
    }

    /// Counts the waiting events of both queues.
    pub(super) async fn depth(&self) -> Result<QueueDepth, ServiceError> {
        let depth = self.ports.events.depth().await?;
        match &self.ports.ordered {
            Some(ordered) => Ok(depth.with_ordered(ordered.depth().await?)),
            None => Ok(depth),
        }
    }

    /// Sets each mapping that is not as wanted, or none where one must stay disabled until the last
    /// invocations have ended. A failure at one does not keep the other from being set.
    async fn apply(
        &self,
        circuit: &Circuit,
        found: Vec<Found>,
        now: Timestamp,
    ) -> Result<(), ServiceError> {
        let (wanted, mut outcome) = (circuit.settings(self.policy), Ok(()));
        // One that changes may be about to be disabled.
        let is_changing = found.iter().any(|found| matches!(found, Ok(None)));
        let is_quiet = match self.policy.processor_timeout {
            Some(_) => !is_changing && circuit.is_quiet(now),
            None => true,
        };
        if wanted.enabled && !is_quiet {
            tracing::info!(quiet_at = ?circuit.quiet_at, "an invocation may still run; a later run sets the event source mappings");
            return Ok(());
        }
        for (event_source, found) in self.ports.event_sources.iter().zip(found) {
            let set = match found {
                Ok(Some(found)) if found != wanted => event_source.set(wanted).await,
                // As wanted, or changing: the next run checks again.
                found => found.map(drop),
            };
            outcome = outcome.and(set);
        }
        outcome
    }
}

/// Settings of one mapping; `None` during a change.
type Found = Result<Option<Settings>, ServiceError>;

/// Returns whether all mappings are known to be disabled.
fn is_disabled(found: &[Found]) -> bool {
    let is_disabled = |found: &Found| matches!(found, Ok(Some(found)) if !found.enabled);
    found.iter().all(is_disabled)
}

/// Settings of the mappings; `None` where they differ, or where one changes or cannot be read.
fn common(found: &[Found]) -> Option<Settings> {
    let settings = found.first()?.as_ref().ok().copied().flatten()?;
    let is_same = |other: &Found| matches!(other, Ok(Some(other)) if *other == settings);
    found.iter().all(is_same).then_some(settings)
}

/// Sets every mapping. A failure at one does not keep the others from being set.
pub(super) async fn set_all(
    event_sources: &[impl EventSource],
    settings: Settings,
) -> Result<(), ServiceError> {
    let mut outcome = Ok(());
    for event_source in event_sources {
        outcome = outcome.and(event_source.set(settings).await);
    }
    outcome
}
