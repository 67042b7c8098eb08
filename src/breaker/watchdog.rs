//! Enables the event source mapping again where the breaker itself has stopped running.

use jiff::Timestamp;

use crate::breaker::status::log_change;
use crate::domain::circuit::{Circuit, Settings, State};
use crate::ports::event_source::{EventSource, EventSourceError};
use crate::ports::events_table::{EventsTable, TableError};
use crate::runtime::logging::display_chain;
use crate::runtime::metrics;

/// The watchdog could not finish. The next schedule tries again.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The events table failed.
    #[error("the breaker's state could not be read or written")]
    Table(#[from] TableError),
    /// Lambda did not enable the mapping.
    #[error("the event source mapping could not be enabled")]
    EventSource(#[from] EventSourceError),
}

/// Enables the event source mapping if the breaker has not run for too long, or if its state cannot
/// be read.
///
/// A stopped breaker may be holding events back, or may have closed without reaching the mapping.
/// It resumes from the state that is saved here, in the name of `by`.
pub async fn release_if_stale(
    table: &impl EventsTable,
    event_source: &impl EventSource,
    maximum_concurrency: u32,
    by: &str,
    now: Timestamp,
) -> Result<(), WatchdogError> {
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
        Err(error @ TableError::Unreadable(_)) => {
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
        Err(error) => return Err(error.into()),
    };
    event_source
        .set(Settings {
            enabled: true,
            maximum_concurrency,
        })
        .await?;
    if before
        .as_ref()
        .is_some_and(|before| before.state == State::Closed)
    {
        return Ok(());
    }
    let circuit = Circuit {
        by: Some(by.to_owned()),
        ..circuit
    };
    table.save_circuit(&circuit).await?;
    log_change(before.as_ref(), &circuit);
    Ok(())
}
