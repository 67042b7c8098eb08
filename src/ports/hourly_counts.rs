//! The port to the counts that AWS keeps by itself, hour by hour.

use std::collections::BTreeMap;
use std::future::Future;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ports::service::ServiceError;

/// The counts of one hour. `None` where AWS has no value, which is not a 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HourCounts {
    /// Webhooks answered with 200: the relay's metric `Accepted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<u64>,
    /// Messages that the event queues took, retries by new messages included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Messages that were deleted from the event queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
}

/// A source of counts.
pub trait HourlyCounts: Send + Sync + 'static {
    /// The counts of the hours from one time to the other, by their beginning. Hours of which AWS has
    /// no value are absent.
    fn counts(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Future<Output = Result<BTreeMap<Timestamp, HourCounts>, ServiceError>> + Send;
}
