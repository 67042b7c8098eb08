//! A bill: every component of a design, in dollars per million events.

use super::model::{Design, Measured, Setup, Workload, assumed};
use super::prices::{
    FAIR_QUEUE, GB, HTTP_API, HTTP_API_BYTES, INVOCATIONS, LOGS_GB, READS, RECOVERY_GB_MONTH,
    SECRET_READS, SQS, SQS_BYTES, TABLE_GB_MONTH, TRACES, TRANSFER_GB,
};
use super::table_use::TableUse;

/// Lambda gives one core's time at so many MB ("Configure Lambda function memory").
const MB_PER_CORE: f64 = 1769.0;

/// Lambda's START, END and REPORT of an invocation in its text format, in bytes ("Viewing
/// CloudWatch logs for Lambda").
const PLATFORM_LOG_BYTES: f64 = 262.0;

/// A line of the access log in the template's format, in bytes.
const ACCESS_LOG_BYTES: f64 = 253.0;

/// A record lives 15 days of a month. DynamoDB deletes it within days of that, without a charge
/// ("Using time to live").
const STORED_MONTHS: f64 = 0.5;

const MILLION: f64 = 1_000_000.0;

/// One component.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line {
    /// Component that is paid for.
    pub(crate) component: &'static str,
    /// Dollars per million events.
    pub(crate) dollars: f64,
}

/// All components of a design, in the order of an event's life. Every design has every line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bill {
    /// The components.
    pub(crate) lines: Vec<Line>,
}

impl Bill {
    /// Dollars per million events for all of it.
    pub(crate) fn total(&self) -> f64 {
        self.lines.iter().map(|line| line.dollars).sum()
    }

    /// Dollars per million events for one component.
    #[cfg(test)]
    pub(crate) fn of_component(&self, component: &str) -> Option<f64> {
        self.lines
            .iter()
            .find(|line| line.component == component)
            .map(|line| line.dollars)
    }

    pub(super) fn of(design: &Design, workload: &Workload, setup: &Setup) -> Self {
        let event = Event::new(design, workload, setup);
        let table = TableUse::of(workload, setup);
        let api = if design.entrance.has_api() {
            (workload.body_bytes / HTTP_API_BYTES).ceil().max(1.0)
        } else {
            0.0
        };
        let acks = if design.entrance.has_function() {
            1.0
        } else {
            0.0
        };
        let gb_seconds = |invocations: f64, ms: f64| {
            let seconds =
                invocations * (ms + assumed::COLD_SHARE * design.measured.init_ms.ceil()) / 1000.0;
            seconds * setup.memory_mb / 1024.0
                * setup.architecture.dollars_per_gb_second()
                * MILLION
        };
        let logs = |bytes: f64| bytes * MILLION / GB * LOGS_GB;
        let events = if setup.logs.events {
            event.log_bytes(design, workload, acks)
        } else {
            0.0
        };
        let metrics = acks * design.measured.ack_metrics_bytes
            + event.batches * design.measured.batch_metrics_bytes;
        let always = event.failures * design.measured.failed_log_bytes + metrics;
        let platform = if setup.logs.platform {
            (acks + event.batches) * PLATFORM_LOG_BYTES
        } else {
            0.0
        };
        let access = if setup.logs.access && api > 0.0 {
            ACCESS_LOG_BYTES
        } else {
            0.0
        };
        let stored = table.stored_bytes * STORED_MONTHS * MILLION / GB;
        let delivery = workload.body_bytes + assumed::DELIVERY_OVERHEAD_BYTES;
        let answer = if acks + api > 0.0 {
            assumed::ANSWER_BYTES
        } else {
            0.0
        };
        let transfer = (event.attempts * delivery + answer) * MILLION / GB;
        let line = |component, dollars| Line { component, dollars };
        Self {
            lines: vec![
                line("HTTP API", api * HTTP_API),
                line("ingest: invocations", acks * INVOCATIONS),
                line("ingest: GB-seconds", gb_seconds(acks, event.ack_ms)),
                line("SQS: sends", event.sends * SQS),
                line("SQS: fair queue", FAIR_QUEUE),
                line("SQS: receives", event.receives * SQS),
                line("SQS: deletes, visibility", event.settles * SQS),
                line("processor: invocations", event.batches * INVOCATIONS),
                line(
                    "processor: GB-seconds",
                    gb_seconds(event.batches, event.batch_ms),
                ),
                line(
                    "DynamoDB: writes",
                    table.writes * setup.dollars_per_million_writes,
                ),
                line("DynamoDB: reads", table.reads * READS),
                line(
                    "DynamoDB: storage for 15 days, with recovery",
                    stored * (TABLE_GB_MONTH + RECOVERY_GB_MONTH),
                ),
                line("logs: our lines", logs(events + always)),
                line("logs: START, END, REPORT", logs(platform)),
                line("logs: access log", logs(access)),
                line("data transfer to the target", transfer * TRANSFER_GB),
                line(
                    "Secrets Manager: reads",
                    event.secret_reads(workload, setup, acks) * SECRET_READS,
                ),
                line(
                    "X-Ray",
                    if setup.traces {
                        event.traces(workload, acks) * TRACES
                    } else {
                        0.0
                    },
                ),
            ],
        }
    }
}

/// The billed time of one ack and of one batch, in milliseconds: what they wait for, and their CPU
/// time on a share of a core.
pub(super) fn billed_ms(measured: &Measured, workload: &Workload, setup: &Setup) -> (f64, f64) {
    let core = (setup.memory_mb / MB_PER_CORE).min(1.0);
    let ack = assumed::SEND_MS + measured.ack_cpu_ms / core;
    let cpu = measured.batch_of_ten_cpu_ms / 10.0 * workload.batch / core;
    // Billed is what is begun ("AWS Lambda Pricing": rounded up to the nearest 1 ms).
    (
        ack.ceil(),
        (workload.target_ms + 2.0 * assumed::WRITE_MS + cpu).ceil(),
    )
}

/// Mean numbers per event.
struct Event {
    /// Deliveries that are tried.
    attempts: f64,
    /// Of these, those that fail.
    failures: f64,
    /// Share of a batch.
    batches: f64,
    /// Requests to SQS that send, one for each 64 KiB.
    sends: f64,
    /// Requests to SQS that receive, one for each 64 KiB.
    receives: f64,
    /// Requests to SQS that delete or change the visibility.
    settles: f64,
    /// Billed time of an ack, in milliseconds.
    ack_ms: f64,
    /// Billed time of a batch, in milliseconds.
    batch_ms: f64,
}

impl Event {
    fn new(design: &Design, workload: &Workload, setup: &Setup) -> Self {
        let Workload {
            failing,
            refused,
            batch,
            ..
        } = *workload;
        let mut reached = 1.0 - refused;
        let (mut attempts, mut failures) = (refused, refused);
        for _ in 0..setup.max_receives {
            attempts += reached;
            reached *= failing;
            failures += reached;
        }
        let message = workload.body_bytes + assumed::ATTRIBUTES_BYTES;
        let batches = attempts / batch;
        // A batch asks SQS to delete if something in it is done, and for another visibility if
        // something fails.
        let deletes = 1.0 - failing.powf(batch);
        let changes = 1.0 - (1.0 - failing).powf(batch);
        let (ack_ms, batch_ms) = billed_ms(&design.measured, workload, setup);
        Self {
            attempts,
            failures,
            batches,
            sends: (1.0 + refused) * (message / SQS_BYTES).ceil(),
            receives: batches * (batch * message / SQS_BYTES).ceil(),
            settles: batches * (deletes + changes),
            ack_ms,
            batch_ms,
        }
    }

    fn log_bytes(&self, design: &Design, workload: &Workload, acks: f64) -> f64 {
        let delivered = self.attempts - self.failures;
        debug_assert!(delivered >= -1e-9, "{workload:?}");
        acks * design.measured.ack_log_bytes + delivered * design.measured.delivered_log_bytes
    }

    /// Of each function the first invocation in a second, and one in twenty after that ("Visualize
    /// Lambda function invocations using AWS X-Ray"). That of the processor is a trace of its own,
    /// linked with those of ingest.
    fn traces(&self, workload: &Workload, acks: f64) -> f64 {
        let of = |calls: f64| {
            let in_a_second = workload.events_per_second * calls;
            (in_a_second.min(1.0) + 0.05 * (in_a_second - 1.0).max(0.0))
                / workload.events_per_second
        };
        of(acks) + of(self.batches)
    }

    /// Every environment reads the secret once while its copy lives, if it is called at all.
    fn secret_reads(&self, workload: &Workload, setup: &Setup, acks: f64) -> f64 {
        let of = |calls: f64, ms: f64| {
            let environments = (workload.events_per_second * calls * ms / 1000.0).max(1.0);
            (environments / (setup.secrets_cache_seconds * workload.events_per_second)).min(calls)
        };
        of(acks, self.ack_ms) + of(self.batches, self.batch_ms)
    }
}
