//! Load, settings, and the time of batches and events that follow from them.

use super::backoff::Backoff;
use crate::cost;

/// After so many, the size of a batch does not change any more.
const ROUNDS: usize = 20;

/// Time of the target for one delivery in the tables, in milliseconds.
pub(super) const TARGET_MS: f64 = 100.0;

/// Incoming events, and the answers of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Events per second.
    pub(crate) events_per_second: f64,
    /// Share of attempts that fail and are tried again, 0 to 1; each attempt on its own.
    pub(crate) failing: f64,
    /// Time of the target for one delivery, in milliseconds.
    pub(crate) target_ms: f64,
}

impl Load {
    /// Deliveries that are tried for one event, on average.
    pub(crate) fn attempts(&self, max_receives: u32) -> f64 {
        reached(self.failing, max_receives).sum()
    }

    /// Share of events that die: every receive fails.
    pub(crate) fn dying(&self, max_receives: u32) -> f64 {
        self.failing.powf(f64::from(max_receives))
    }

    pub(super) fn workload(&self, batch: f64) -> cost::Workload {
        cost::Workload {
            failing: self.failing,
            events_per_second: self.events_per_second,
            batch,
            target_ms: self.target_ms,
            ..cost::BUSY
        }
    }
}

/// Probability that an event comes to each of its receives, first to last.
fn reached(failing: f64, max_receives: u32) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(1.0), move |reached| Some(reached * failing))
        .zip(0..max_receives)
        .map(|(share, _)| share)
}

/// Parameters of `template.yaml` that matter under load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// `MaximumConcurrency`.
    pub(crate) maximum_concurrency: f64,
    /// `BatchSize`.
    pub(crate) batch_size: f64,
    /// `MaxReceiveCount`.
    pub(crate) max_receives: u32,
    /// `BackoffBaseSeconds` and `BackoffCapSeconds`.
    pub(crate) backoff: Backoff,
    /// `ThrottlingRateLimit`.
    pub(crate) throttling_rate: f64,
}

impl Settings {
    /// Time of one batch in the processor, in seconds.
    pub(crate) fn batch_seconds(&self, load: &Load) -> f64 {
        let (_, batch_ms) = cost::billed_ms(&load.workload(self.batch_size), &cost::AS_SHIPPED);
        batch_ms / 1000.0
    }

    /// Deliveries per second when all batches are full and all invocations run.
    pub(crate) fn attempts_per_second(&self, load: &Load) -> f64 {
        self.maximum_concurrency * self.batch_size / self.batch_seconds(load)
    }

    /// Time for which an event is in flight in all, in seconds: in the processor, and waiting for
    /// its next attempt.
    pub(crate) fn seconds_in_flight(&self, load: &Load) -> f64 {
        let usual = Self {
            batch_size: batch(load, self),
            ..*self
        };
        let work = load.attempts(self.max_receives) * usual.batch_seconds(load);
        let failed = reached(load.failing, self.max_receives).skip(1);
        work + failed
            .zip(1..)
            .map(|(share, attempt)| share * self.backoff.mean_seconds(attempt))
            .sum::<f64>()
    }
}

/// The template's defaults.
pub(crate) const AS_SHIPPED: Settings = Settings {
    maximum_concurrency: 10.0,
    batch_size: 10.0,
    max_receives: 10,
    backoff: Backoff {
        base_seconds: 2,
        cap_seconds: 900,
    },
    throttling_rate: 1000.0,
};

/// The template's maximum.
pub(crate) const RAISED: Settings = Settings {
    maximum_concurrency: 1000.0,
    throttling_rate: 10_000.0,
    ..AS_SHIPPED
};

/// Messages of a batch on average: one, until all invocations that may run do.
///
/// Lambda's pollers may gather more than that, so that this is the least, and what follows from it
/// the most that is paid.
pub(crate) fn batch(load: &Load, settings: &Settings) -> f64 {
    let rate = load.events_per_second * load.attempts(settings.max_receives);
    let fuller = |batch: f64| {
        let needed = rate
            * Settings {
                batch_size: batch,
                ..*settings
            }
            .batch_seconds(load);
        (needed / settings.maximum_concurrency).clamp(1.0, settings.batch_size)
    };
    // A fuller batch takes a little longer, which fills the next one a little more: that settles
    // soon.
    (0..ROUNDS).fold(1.0, |batch, _| fuller(batch))
}
