//! Time limits of calls.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;

/// TCP and TLS to a service of the same region.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Two attempts fit into a call, with the pause between them.
pub(super) const ATTEMPTS: u32 = 2;

/// For calls that end after `call_timeout` at the latest.
pub(super) fn timeouts(call_timeout: Duration, attempts: u32) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(call_timeout / attempts)
        .operation_timeout(call_timeout)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attempts_together_fit_into_a_call() {
        let timeouts = timeouts(Duration::from_secs(8), ATTEMPTS);
        assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(8)));
        assert_eq!(
            timeouts
                .operation_attempt_timeout()
                .map(|each| each * ATTEMPTS),
            timeouts.operation_timeout()
        );
    }
}
