//! Waiting for a condition rather than for a time.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Longest wait for a condition: generous, since a test machine may be busy.
pub const LIMIT: Duration = Duration::from_mins(5);
/// Pauses between two probes. They grow, so that long waits cost little.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Asks `probe` again and again until it gives a value, and gives that.
pub async fn until<T, F>(what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("timed out after {} s waiting for: {what}", LIMIT.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 11 / 10).min(LONGEST_PAUSE);
    }
}
