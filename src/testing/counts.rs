//! Counts of AWS in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::lock;
use crate::ports::hourly_counts::{HourCounts, HourlyCounts};
use crate::ports::service::{Service, ServiceError};

/// Counts of AWS in memory, which can be made to fail.
#[derive(Clone, Default)]
pub struct FakeCounts {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hours: BTreeMap<Timestamp, HourCounts>,
    is_failing: bool,
}

impl FakeCounts {
    /// Sets the counts of an hour.
    pub fn set(&self, hour: Timestamp, counts: HourCounts) {
        lock(&self.state).hours.insert(hour, counts);
    }

    /// Makes every call fail from now on, or no longer.
    pub fn fail(&self, is_failing: bool) {
        lock(&self.state).is_failing = is_failing;
    }
}

impl HourlyCounts for FakeCounts {
    async fn counts(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<Timestamp, HourCounts>, ServiceError> {
        let state = lock(&self.state);
        if state.is_failing {
            return Err(Service::CloudWatch.unavailable("the counts were made to fail"));
        }
        Ok(state
            .hours
            .range(from..to)
            .map(|(hour, counts)| (*hour, *counts))
            .collect())
    }
}
