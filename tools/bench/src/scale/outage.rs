//! Times of scaling up and of draining the backlog of an outage.

use super::model::{AS_SHIPPED, Load, Settings, TARGET_MS};
use super::quotas::{IN_FLIGHT, MOVED_PER_SECOND};
use crate::cost::Table;
use crate::figures::rounded;

/// A standard mapping begins with so many batches at a time, and adds so many a minute
/// ("Configuring scaling behavior for SQS event source mappings").
const FIRST_BATCHES: f64 = 5.0;
const MORE_BATCHES_PER_MINUTE: f64 = 300.0;

/// In its provisioned mode a mapping has at least two pollers with ten invocations each, and adds
/// so many invocations a minute ("AWS Lambda enhances event processing with provisioned mode for
/// SQS event-source mapping").
const FIRST_PROVISIONED: f64 = 20.0;
const MORE_PROVISIONED_PER_MINUTE: f64 = 1000.0;

/// Environments that Lambda adds to one function in 10 s, and requests a second that it adds
/// ("Lambda scaling behavior").
const MORE_REQUESTS_PER_SECOND: f64 = 10_000.0 / 10.0;

const HOUR: f64 = 3600.0;

/// Backlog of an hour in which the target fails every attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outage {
    /// Events that are dead at its end: at most so many.
    pub(crate) dead: f64,
    /// Events that are still in the queue at its end, waiting for a first or for another attempt:
    /// at least so many.
    pub(crate) kept: f64,
}

impl Outage {
    /// An hour of `load`, of which nothing succeeds.
    pub(crate) fn of(load: &Load, settings: &Settings) -> Self {
        let failing = Load {
            failing: 1.0,
            ..*load
        };
        let life = settings.seconds_in_flight(&failing);
        // Only so many can be on their way to their death at the same time, and only so many
        // attempts are made.
        let begun = load.events_per_second.min(IN_FLIGHT / life);
        let attempts =
            HOUR * settings.attempts_per_second(&failing) / f64::from(settings.max_receives);
        let dead = (begun * (HOUR - life).max(0.0)).min(attempts);
        Self {
            dead,
            kept: load.events_per_second * HOUR - dead,
        }
    }
}

/// Seconds until a backlog is gone while events go on coming; nothing if it never is.
pub(crate) fn drain_seconds(backlog: f64, capacity: f64, rate: f64) -> Option<f64> {
    (capacity > rate).then(|| backlog / (capacity - rate))
}

/// Time until deliveries keep up with a sudden load.
pub(super) fn ramps() -> Table {
    let head = [
        "events/s",
        "batches at a time",
        "acks at full rate after",
        "mapping: after",
        "waiting by then",
        "provisioned mode: after",
        "waiting by then",
    ];
    let mut table = Table::new(
        "A load that begins at once, with quotas that allow it (healthy target, 100 ms)",
        head,
    );
    for events_per_second in [10.0, 1000.0, 10_000.0, 50_000.0] {
        let load = Load {
            events_per_second,
            failing: 0.0,
            target_ms: TARGET_MS,
        };
        let needed = events_per_second / AS_SHIPPED.batch_size * AS_SHIPPED.batch_seconds(&load);
        let ramp = |first: f64, more_per_minute: f64| {
            let seconds = ((needed - first) / more_per_minute * 60.0).max(0.0);
            // Deliveries grow in a straight line from what the first batches carry to the rate.
            let missing = events_per_second * (1.0 - first / needed).max(0.0) / 2.0 * seconds;
            [format!("{} s", rounded(seconds)), rounded(missing)]
        };
        let acks = ((events_per_second - MORE_REQUESTS_PER_SECOND * 10.0)
            / MORE_REQUESTS_PER_SECOND)
            .max(0.0);
        let row = [
            rounded(events_per_second),
            rounded(needed),
            format!("{} s", rounded(acks)),
        ];
        let standard = ramp(FIRST_BATCHES, MORE_BATCHES_PER_MINUTE);
        let provisioned = ramp(FIRST_PROVISIONED, MORE_PROVISIONED_PER_MINUTE);
        table.push(row.into_iter().chain(standard).chain(provisioned));
    }
    table
}

/// Backlog of an hour of outage, and the time to drain it.
pub(super) fn hours() -> Table {
    let head = [
        "events/s",
        "during the outage the target",
        "`MaximumConcurrency`",
        "dead, at most",
        "still queued, at least",
        "what was queued is delivered after",
        "then all dead are replayed after",
    ];
    let mut table = Table::new(
        "An outage of one hour, and a target that then answers in 100 ms",
        head,
    );
    for events_per_second in [10.0, 100.0, 1000.0] {
        for (says, down_ms) in [("refuses at once", 100.0), ("hangs for 10 s", 10_000.0)] {
            for maximum_concurrency in [10.0, 100.0] {
                let settings = Settings {
                    maximum_concurrency,
                    ..AS_SHIPPED
                };
                let load = Load {
                    events_per_second,
                    failing: 0.0,
                    target_ms: down_ms,
                };
                let outage = Outage::of(&load, &settings);
                let capacity = settings.attempts_per_second(&Load {
                    target_ms: TARGET_MS,
                    ..load
                });
                let minutes = |seconds: Option<f64>| {
                    seconds.map_or_else(
                        || "never".to_owned(),
                        |seconds| format!("{} min", rounded(seconds / 60.0)),
                    )
                };
                // What failed just before the end still waits for its next attempt.
                let longest_wait = settings.backoff.longest_seconds(settings.max_receives - 1);
                let kept = drain_seconds(outage.kept, capacity, events_per_second)
                    .map(|seconds| seconds.max(longest_wait));
                let replayed = drain_seconds(outage.dead, capacity, events_per_second)
                    .map(|seconds| seconds.max(outage.dead / MOVED_PER_SECOND));
                table.push([
                    rounded(events_per_second),
                    says.to_owned(),
                    rounded(maximum_concurrency),
                    rounded(outage.dead),
                    rounded(outage.kept),
                    minutes(kept),
                    minutes(replayed),
                ]);
            }
        }
    }
    table
}
