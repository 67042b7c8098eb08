//! The backoff of `src/domain/retry.rs`, as far as a mean needs it.

/// min(cap, base · 2ⁿ⁻¹) after attempt n, plus jitter of whole seconds between 0 and the larger of
/// 1 s and 10 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The delay after the first attempt, in seconds.
    pub(crate) base_seconds: u32,
    /// The longest delay, in seconds.
    pub(crate) cap_seconds: u32,
}

impl Backoff {
    /// The delay after attempt number `attempt` (from 1) without its jitter, in seconds.
    pub(crate) fn least_seconds(self, attempt: u32) -> u32 {
        let factor = 2_u32
            .checked_pow(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base_seconds
            .saturating_mul(factor)
            .min(self.cap_seconds)
    }

    /// The most that comes on top, in seconds.
    pub(crate) fn longest_jitter_seconds(self, attempt: u32) -> u32 {
        (self.least_seconds(attempt) / 10).max(1)
    }

    /// The longest delay after attempt number `attempt`, in seconds.
    pub(crate) fn longest_seconds(self, attempt: u32) -> f64 {
        f64::from(self.least_seconds(attempt) + self.longest_jitter_seconds(attempt))
    }

    /// The delay after attempt number `attempt` on average, in seconds.
    pub(crate) fn mean_seconds(self, attempt: u32) -> f64 {
        f64::from(self.least_seconds(attempt))
            + f64::from(self.longest_jitter_seconds(attempt)) / 2.0
    }
}
