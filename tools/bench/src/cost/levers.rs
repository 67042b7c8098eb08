//! Possible savings, and the costs without any event.

use super::model::{Design, Entrance, Logs, Setup, Workload};
use super::prices::{
    ALARM_MONTH, Architecture, DASHBOARD_MONTH, INVOCATIONS, METRIC_MONTH, PROVISIONED_WRITE_HOUR,
    READS, SCHEDULES, SECRET_MONTH, SECRET_READS, SQS, WRITES,
};
use super::table::Table;

/// A change, and what it costs beside.
pub(crate) struct Lever {
    /// The change.
    pub(crate) name: &'static str,
    /// Its effect on the calculation.
    pub(crate) change: fn(Design, Workload, Setup) -> (Design, Workload, Setup),
    /// Its price.
    pub(crate) price: &'static str,
}

/// Share of the capacity bought in advance that is used, as auto scaling aims at by default.
const PROVISIONED_USE: f64 = 0.7;

/// Changes that were considered, the promise's own last.
pub(crate) const LEVERS: [Lever; 11] = [
    Lever {
        name: "Lambda's own START, END and REPORT again",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    logs: Logs {
                        platform: true,
                        ..setup.logs
                    },
                    ..setup
                },
            )
        },
        price: "none; it costs more, and brings duration and memory of each single invocation",
    },
    Lever {
        name: "`Tracing` Active",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    traces: true,
                    ..setup
                },
            )
        },
        price: "none; it costs more: 10.00 where less than one event comes in a second",
    },
    Lever {
        name: "no access log",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    logs: Logs {
                        access: false,
                        ..setup.logs
                    },
                    ..setup
                },
            )
        },
        price: "requests that never reach ingest leave no trace, and 429 rings no alarm",
    },
    Lever {
        name: "`LogLevel` warn",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    logs: Logs {
                        events: false,
                        ..setup.logs
                    },
                    ..setup
                },
            )
        },
        price: "what went well is in the table only",
    },
    Lever {
        name: "a batching window that fills batches to 10",
        change: |design, workload, setup| {
            (
                design,
                Workload {
                    batch: 10.0,
                    ..workload
                },
                setup,
            )
        },
        price: "every event waits for the window; at 10 events/s that is a second",
    },
    Lever {
        name: "128 MB",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    memory_mb: 128.0,
                    ..setup
                },
            )
        },
        price: "half the CPU: acks and cold starts take longer",
    },
    Lever {
        name: "x86_64 in place of arm64",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    architecture: Architecture::X86,
                    ..setup
                },
            )
        },
        price: "none; it costs more",
    },
    Lever {
        name: "write capacity bought in advance, 70 % used",
        change: |design, workload, setup| {
            let dollars_per_million_writes =
                PROVISIONED_WRITE_HOUR / 3600.0 * 1_000_000.0 / PROVISIONED_USE;
            (
                design,
                workload,
                Setup {
                    dollars_per_million_writes,
                    ..setup
                },
            )
        },
        price: "a peak above it is throttled; only for a load that is known and steady",
    },
    Lever {
        name: "a function URL in place of the HTTP API",
        change: |design, workload, setup| {
            (
                Design {
                    entrance: Entrance::FunctionUrl,
                    ..design
                },
                workload,
                setup,
            )
        },
        price: "throttling, routes and the access log; a new URL",
    },
    Lever {
        name: "HTTP API straight to SQS",
        change: |design, workload, setup| {
            (
                Design {
                    entrance: Entrance::Straight,
                    ..design
                },
                workload,
                setup,
            )
        },
        price: "**the check of the sender**: see below",
    },
    Lever {
        name: "no claim on the first receive, a read instead",
        change: |design, workload, setup| {
            (
                design,
                workload,
                Setup {
                    claims_at_once: false,
                    ..setup
                },
            )
        },
        price: "**the promise**: two copies can be delivered at once; see below",
    },
];

/// Alarms of a stack with the breaker, without recovery and EventBridge, which have four more.
pub(crate) const ALARMS: u8 = 18;

/// Seconds of a month of 30 days.
const MONTH_SECONDS: f64 = 30.0 * 24.0 * 3600.0;

/// With `MaximumConcurrency` a mapping keeps five pollers at an idle queue ("Configuring scaling
/// behavior for SQS event source mappings"), each with a long poll of 20 s.
pub(crate) fn idle_receives_per_month() -> f64 {
    5.0 * MONTH_SECONDS / 20.0
}

/// Monthly cost of a stack without events.
pub(crate) fn fixed() -> Table {
    let million = 1_000_000.0;
    let reconciles = MONTH_SECONDS / 300.0;
    // Each run counts what the queue and the index hold; it reads no secret.
    let reconcile = reconciles * (INVOCATIONS + SCHEDULES + 3.0 * SQS) / million;
    // Each run reads its own item and those of three minutes, writes its item, takes a lease and
    // gives it back, and counts the queue.
    let breaker = MONTH_SECONDS / 60.0
        * (INVOCATIONS + SCHEDULES + 4.0 * READS + 3.0 * WRITES + SQS)
        / million;
    let rows = [
        (
            "polling an empty queue: five long polls of 20 s".to_owned(),
            idle_receives_per_month() * SQS / million,
        ),
        ("the secret".to_owned(), SECRET_MONTH),
        ("reconcile, every 5 minutes".to_owned(), reconcile),
        ("breaker, every minute".to_owned(), breaker),
        (
            "ten metrics, as many as there are where nothing goes wrong".to_owned(),
            10.0 * METRIC_MONTH,
        ),
        (
            format!("{ALARMS} alarms; recovery and EventBridge have four more"),
            f64::from(ALARMS) * ALARM_MONTH,
        ),
        (
            "the dashboard, if the account has three others".to_owned(),
            DASHBOARD_MONTH,
        ),
        (
            "the secret read by two functions every 5 minutes, at most".to_owned(),
            2.0 * MONTH_SECONDS / 300.0 * SECRET_READS / million,
        ),
    ];
    let mut table = Table::new(
        "Paid without an event, dollars per month",
        ["what", "dollars"],
    );
    for (what, dollars) in rows {
        table.push([what, format!("{dollars:.2}")]);
    }
    table
}
