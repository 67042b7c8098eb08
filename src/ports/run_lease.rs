//! Leases of runs: acquired, and released at the end.

use jiff::Timestamp;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use crate::domain::request::Requester;
use crate::ports::events_table::{EventsTable, LeaseName, RunLease};
use crate::ports::service::ServiceError;
use crate::runtime::logging::display_chain;

/// A lease outlives its invocation by this much, for clocks that differ.
pub const LEASE_PAST_DEADLINE: Duration = Duration::from_secs(5);

/// The action of a slice of a statement, which holds the recovery's lease for a short time.
pub const STATEMENT: &str = "statement";

impl RunLease {
    /// The lease of a run until `end`.
    pub fn new(
        owner: Uuid,
        action: &str,
        requester: &Requester,
        since: Timestamp,
        end: Instant,
    ) -> Self {
        Self {
            owner,
            action: action.to_owned(),
            by: requester.by.clone(),
            since,
            until: since + end.saturating_duration_since(Instant::now()),
        }
    }
}

/// A lease that this run holds. One that is not released expires.
pub struct HeldLease<'a, W> {
    table: &'a W,
    what: LeaseName,
    owner: Uuid,
}

impl<'a, W: EventsTable> HeldLease<'a, W> {
    /// Acquires a lease, or returns that of the run that holds it.
    pub async fn acquire(
        table: &'a W,
        what: LeaseName,
        lease: &RunLease,
    ) -> Result<Result<Self, RunLease>, ServiceError> {
        let held = Self {
            table,
            what,
            owner: lease.owner,
        };
        match table.acquire(what, lease, lease.since).await {
            Ok(None) => Ok(Ok(held)),
            Ok(Some(other)) => Ok(Err(other)),
            Err(error) => {
                // The lease may be ours although the answer was lost.
                held.release().await;
                Err(error)
            }
        }
    }

    /// Releases the lease.
    pub async fn release(self) {
        let Self { table, what, owner } = self;
        if let Err(error) = table.release(what, owner).await {
            tracing::warn!(run = %owner, lease = ?what, error = display_chain(&error), "failed to release the lease; it expires");
        }
    }
}
