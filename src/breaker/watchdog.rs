//! Enables the event source mappings again where the breaker itself has stopped running.

use jiff::Timestamp;

use crate::breaker::run::set_all;
use crate::breaker::status::log_change;
use crate::domain::circuit::{Circuit, Settings, State};
use crate::domain::request::Requester;
use crate::ports::event_source::EventSource;
use crate::ports::events_table::EventsTable;
use crate::ports::service::{Fault, ServiceError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// Enables the event source mappings if the breaker has not run for too long, or if its state
/// cannot be read.
///
/// A stopped breaker may be holding events back, or may have closed without reaching a mapping.
/// It resumes from the state that is saved here, in the name of `requester`. After an error, the next
/// schedule tries again.
pub async fn release_if_stale(
    table: &impl EventsTable,
    event_sources: &[impl EventSource],
    maximum_concurrency: u32,
    requester: &Requester,
    now: Timestamp,
) -> Result<(), ServiceError> {
    let (before, circuit) = match table.circuit().await {
        Ok(None) => return Ok(()),
        Ok(Some(before)) => {
            metrics::breaker_unprobed(&before, now);
            if !before.is_abandoned(now) {
                return Ok(());
            }
            let why = format!(
                "the breaker has not run since {}: events flow without it",
                before.last_run_at
            );
            let circuit = Circuit {
                why,
                last_run_at: before.last_run_at,
                ..Circuit::closed(now)
            };
            (Some(before), circuit)
        }
        // Written by a later version that is gone: no breaker runs.
        Err(
            error @ ServiceError {
                fault: Fault::Unreadable,
                ..
            },
        ) => {
            let why = format!(
                "the breaker's state could not be read and was replaced: {}",
                display_chain(&error)
            );
            (
                None,
                Circuit {
                    why,
                    ..Circuit::closed(now)
                },
            )
        }
        Err(error) => return Err(error),
    };
    let settings = Settings {
        enabled: true,
        maximum_concurrency,
    };
    set_all(event_sources, settings).await?;
    if before
        .as_ref()
        .is_some_and(|before| before.state == State::Closed)
    {
        return Ok(());
    }
    let circuit = Circuit {
        by: Some(requester.by.clone()),
        ..circuit
    };
    table.save_circuit(&circuit).await?;
    log_change(before.as_ref(), &circuit, requester);
    Ok(())
}
