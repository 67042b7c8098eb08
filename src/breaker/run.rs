//! One run of the breaker: reads the state and the attempts, decides, saves the decision, and sets
//! the mapping.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::breaker::ports::{PortTypes, Ports};
use crate::breaker::request::Request;
use crate::breaker::status::{BreakerStatus, log_change};
use crate::domain::attempts::{Attempts, minutes_before};
use crate::domain::circuit::{Circuit, MINUTES, Policy, Probed, Settings, State};
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

/// A run that did not finish. The event source mapping is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError {
    /// Another run holds the lease.
    #[error("{0}; try again later")]
    Busy(RunLease),
    /// An operator cannot set a breaker that the stack does not have.
    #[error("the breaker is off: set the stack's parameter Breaker to \"on\" first")]
    Off,
    /// The table failed, or the mapping could not be read or set. The next run tries again.
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
        let found = self.ports.event_source.settings().await;
        let mapping = *found.as_ref().unwrap_or(&None);
        let minutes = match request.override_state {
            Some(_) => Vec::new(),
            None => self.attempts(now).await?,
        };
        let mut circuit = match request.override_state {
            Some(state) => before.overridden(state, &request.requester, self.policy, now),
            None => before.after(&minutes, mapping, self.policy, now),
        };
        if circuit.should_probe() && circuit.is_due(mapping, self.policy, now) {
            // Saved first, so that a run right after this one does not probe again.
            circuit.stepped_at = Some(now);
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
        log_change(Some(&before), &circuit);
        self.apply(&circuit, found?).await?;
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

    /// Reports events that wait while the mapping is enabled and the processor attempts none: it
    /// cannot start, or is not invoked, and so writes no logs itself.
    async fn check_processor(
        &self,
        circuit: Circuit,
        minutes: &[(Timestamp, Attempts)],
        mapping: Option<Settings>,
        now: Timestamp,
    ) -> Circuit {
        let circuit = circuit.with_deliveries(minutes);
        let depth = match self.ports.events.depth().await {
            Ok(depth) => depth,
            Err(error) => {
                tracing::warn!(
                    error = display_chain(&error),
                    "failed to count the events queue"
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

    /// Enables the mapping once, and does not touch it after that: without a breaker it belongs to
    /// the stack's owner.
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
        let circuit = before.off(now);
        // First: once the state is saved, the mapping is not checked again.
        self.ports
            .event_source
            .set(circuit.settings(self.policy))
            .await?;
        self.ports.table.save_circuit(&circuit).await?;
        log_change(Some(&before), &circuit);
        metrics::breaker(&circuit, now);
        Ok(circuit.into())
    }

    async fn attempts(&self, now: Timestamp) -> Result<Vec<(Timestamp, Attempts)>, ServiceError> {
        let minutes = minutes_before(now, MINUTES);
        let attempts = self.ports.table.attempts(&minutes).await?;
        Ok(minutes.into_iter().zip(attempts).collect())
    }

    /// Sets the mapping, unless it is as wanted.
    async fn apply(&self, circuit: &Circuit, found: Option<Settings>) -> Result<(), ServiceError> {
        let wanted = circuit.settings(self.policy);
        match found {
            Some(found) if found != wanted => self.ports.event_source.set(wanted).await,
            // As wanted, or changing: the next run checks again.
            Some(_) | None => Ok(()),
        }
    }
}
