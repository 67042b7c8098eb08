//! Price of an event under load: idle invocations receive small batches.

use super::model::{AS_SHIPPED, Load, RAISED, Settings, TARGET_MS, batch};
use crate::cost::{self, Table};
use crate::figures::rounded;

/// Seconds of a month of 30 days.
const MONTH_SECONDS: f64 = 30.0 * 24.0 * 3600.0;

/// The price of an event by load, where a mapping that may do more makes smaller batches.
pub(super) fn by_load() -> Table {
    let head = [
        "events/s",
        "batch, as shipped",
        "dollars per million events",
        "dollars per month",
        "batch with `MaximumConcurrency` 1000",
        "dollars per million events",
        "dollars per month",
    ];
    let mut table = Table::new(
        "What the load does to the price (2 KiB, 1 % failing, at most)",
        head,
    );
    for events_per_second in [0.1, 1.0, 10.0, 100.0, 400.0, 800.0, 5000.0, 50_000.0] {
        let load = Load {
            events_per_second,
            failing: 0.01,
            target_ms: TARGET_MS,
        };
        let cells = |settings: &Settings| {
            let needed = events_per_second * load.attempts(settings.max_receives);
            if needed > settings.attempts_per_second(&load) {
                return ["–", "–", "–"].map(str::to_owned);
            }
            let batch = batch(&load, settings);
            let dollars =
                cost::bill(&cost::RELAY, &load.workload(batch), &cost::AS_SHIPPED).total();
            let month = dollars * events_per_second * MONTH_SECONDS / 1_000_000.0;
            [rounded(batch), format!("{dollars:.2}"), rounded(month)]
        };
        let row = [rounded(events_per_second)];
        table.push(
            row.into_iter()
                .chain(cells(&AS_SHIPPED))
                .chain(cells(&RAISED)),
        );
    }
    table
}
