//! The canary: takes the short walk on a schedule, and keeps what came of it.

use std::time::Duration;

use tokio::time::Instant;

use super::path::Path;
use super::{Check, CheckOutcome, Relay, Webhook};
use crate::domain::canary::CanaryRun;
use crate::domain::text::excerpt_of;
use crate::ports::clock::Clock;
use crate::ports::events_table::EventsTable;
use crate::ports::service::ServiceError;
use crate::runtime::metrics;

/// Upper bound on the text about a failed run that is kept: fifty of them are one small item.
const MAX_FAILED_BYTES: usize = 200;

/// Walks along the path, and saves the run. Without a path, for the given reason, the run failed.
///
/// The metric of a failed run is written whatever the table does: a run that cannot be saved is no
/// good one.
///
/// # Errors
/// The table failed.
pub async fn run<W: Webhook, R: Relay>(
    path: Result<&Path<W, R>, String>,
    table: &impl EventsTable,
    clock: &impl Clock,
) -> Result<Vec<Check>, ServiceError> {
    let (at, began) = (clock.now(), Instant::now());
    let (checks, failed) = match path {
        Ok(path) => {
            let checks = path.check_delivery().await;
            let failed = checks
                .iter()
                .find(|check| check.outcome != CheckOutcome::Ok);
            let failed = failed.map(|check| format!("{}: {}", check.name, check.evidence));
            (checks, failed)
        }
        Err(why) => (Vec::new(), Some(why)),
    };
    let run = CanaryRun {
        at,
        ok: failed.is_none(),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        failed: failed.map(|failed| excerpt_of(&failed, MAX_FAILED_BYTES)),
    };
    match &run.failed {
        None => tracing::info!(duration_ms = run.ms, "canary run succeeded"),
        Some(failed) => tracing::error!(error = failed, duration_ms = run.ms, "canary run failed"),
    }
    let is_good = run.ok;
    let saved = async {
        let mut runs = table.canary_runs().await?;
        let age = runs.add(run, clock.now());
        table.save_canary_runs(&runs).await?;
        Ok::<Duration, ServiceError>(age)
    };
    let saved = saved.await;
    metrics::CANARY_FAILED.is(!is_good || saved.is_err());
    metrics::CANARY_AGE.time(saved?);
    Ok(checks)
}
