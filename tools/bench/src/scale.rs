//! Behaviour under load: a model from AWS's documented limits, and the tables of `SCALE.md`.
//!
//! Nothing here calls AWS. A simulation in the tests checks its retries and waits.

mod backoff;
mod model;
mod money;
mod outage;
mod quotas;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use self::backoff::Backoff;
use self::model::{AS_SHIPPED, Load, RAISED, Settings, TARGET_MS};
use self::quotas::{Quota, quotas};
use crate::cost::Table;
use crate::figures::rounded;

const RATES: [f64; 3] = [10.0, 1000.0, 50_000.0];
const SHARES: [f64; 3] = [0.0, 0.01, 0.7];

/// The quotas that a load exceeds, the one that binds first before all others; and the one it is
/// nearest to, if it fits.
pub(crate) fn binding(load: &Load, settings: &Settings) -> Vec<Quota> {
    let mut all = quotas(load, settings);
    all.sort_by(|one, other| other.utilisation().total_cmp(&one.utilisation()));
    let exceeded = all.iter().filter(|quota| quota.utilisation() > 1.0).count();
    all.truncate(exceeded.max(1));
    all
}

/// All tables of `SCALE.md`, as plain data.
pub(crate) fn tables() -> Vec<Table> {
    vec![
        rates(
            "What binds first, as shipped (target answers in 100 ms)",
            &AS_SHIPPED,
        ),
        rates(
            "What binds first with `MaximumConcurrency` 1000 and `ThrottlingRateLimit` 10000",
            &RAISED,
        ),
        capacities(),
        symptoms(),
        in_flight(),
        outage::ramps(),
        outage::hours(),
        money::by_load(),
    ]
}

/// The tables of `SCALE.md`, as they stand between its markers.
pub(crate) fn markdown() -> String {
    tables()
        .iter()
        .map(Table::markdown)
        .collect::<Vec<_>>()
        .join("\n")
}

fn percent(share: f64) -> String {
    format!("{} %", rounded(share * 100.0))
}

fn rates(title: &str, settings: &Settings) -> Table {
    let head = [
        "events/s",
        "failing",
        "binds first",
        "used",
        "also exceeded",
        "accepted/s",
        "deliveries/s: needed, possible",
        "after 10 minutes an event waits for",
        "dead letters/s",
    ];
    let mut table = Table::new(title, head);
    for events_per_second in RATES {
        for failing in SHARES {
            let load = Load {
                events_per_second,
                failing,
                target_ms: TARGET_MS,
            };
            let found = binding(&load, settings);
            let others = found
                .iter()
                .skip(1)
                .map(|quota| format!("{} {}", quota.name, percent(quota.utilisation())));
            // What the API turns away does not reach the queue.
            let gates = quotas(&load, settings)
                .into_iter()
                .filter(|quota| quota.turns_away);
            let accepted = gates
                .map(|quota| quota.limit)
                .fold(events_per_second, f64::min);
            let needed = accepted * load.attempts(settings.max_receives);
            let possible = settings.attempts_per_second(&load);
            table.push([
                rounded(events_per_second),
                percent(failing),
                found[0].name.to_owned(),
                percent(found[0].utilisation()),
                others.collect::<Vec<_>>().join(", "),
                rounded(accepted),
                format!("{}, {}", rounded(needed), rounded(possible)),
                format!("{} s", rounded(600.0 * (needed / possible - 1.0).max(0.0))),
                rounded(accepted * load.dying(settings.max_receives)),
            ]);
        }
    }
    table
}

/// Events per second that each quota allows by itself.
fn capacities() -> Table {
    let shares = [0.0, 0.01, 0.7, 1.0];
    let head = [
        "quota",
        "limit",
        "healthy",
        "1 % failing",
        "70 %",
        "all",
        "after raising the template's parameters, healthy",
    ];
    let mut table = Table::new(
        "Events per second at which each quota is full (target answers in 100 ms)",
        head,
    );
    let of = |failing, settings: &Settings| {
        quotas(
            &Load {
                events_per_second: 1.0,
                failing,
                target_ms: TARGET_MS,
            },
            settings,
        )
    };
    let columns = shares.map(|failing| of(failing, &AS_SHIPPED));
    let raised = of(0.0, &RAISED);
    // Every need grows with the rate, and nothing but the rate.
    let full = |quota: &Quota| {
        let rate = quota.limit / quota.need;
        if rate < 1e9 {
            rounded(rate)
        } else {
            "–".to_owned()
        }
    };
    for (index, quota) in columns[0].iter().enumerate() {
        let name = [
            quota.name.to_owned(),
            format!("{} {}", rounded(quota.limit), quota.unit),
        ];
        let rates = columns.iter().map(|quotas| full(&quotas[index]));
        table.push(name.into_iter().chain(rates).chain([full(&raised[index])]));
    }
    table
}

fn symptoms() -> Table {
    let mut table = Table::new(
        "What one sees, and what to raise",
        ["quota", "what one sees", "what to raise", "stands in"],
    );
    for quota in quotas(
        &Load {
            events_per_second: 1.0,
            failing: 0.0,
            target_ms: TARGET_MS,
        },
        &AS_SHIPPED,
    ) {
        table.push([quota.name, quota.symptom, quota.remedy, quota.document].map(str::to_owned));
    }
    table
}

/// Time in flight by the number of receives, and its share of the quota.
fn in_flight() -> Table {
    let head = [
        "`MaxReceiveCount`",
        "`BackoffBaseSeconds`",
        "until it dies",
        "at 70 % failing",
        "events/s at 70 %",
        "events/s, all failing",
    ];
    let mut table = Table::new(
        "Seconds in flight for one event, and the rate that fills 120,000",
        head,
    );
    for (max_receives, base_seconds) in [(4, 2), (7, 2), (10, 1), (10, 2), (10, 10), (25, 2)] {
        let settings = Settings {
            max_receives,
            backoff: Backoff {
                base_seconds,
                ..AS_SHIPPED.backoff
            },
            ..AS_SHIPPED
        };
        let seconds = |failing| {
            settings.seconds_in_flight(&Load {
                events_per_second: 1.0,
                failing,
                target_ms: TARGET_MS,
            })
        };
        let (all, most) = (seconds(1.0), seconds(0.7));
        let rate = |seconds: f64| rounded(quotas::IN_FLIGHT / seconds);
        table.push([
            format!("{max_receives}"),
            format!("{base_seconds}"),
            rounded(all),
            rounded(most),
            rate(most),
            rate(all),
        ]);
    }
    table
}
