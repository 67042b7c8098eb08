//! Model of the costs: measured and assumed needs, designs, workloads and setups.

use super::prices::{Architecture, WRITES};

/// Measured needs of one implementation.
///
/// The values below are those of `results/results.md`, from one core of an x86-64 machine over
/// loopback. When they change, print `COST.md` again; a test checks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// CPU time of one ack on a full core, in milliseconds.
    pub(crate) ack_cpu_ms: f64,
    /// CPU time of a batch of ten deliveries on a full core, in milliseconds.
    pub(crate) batch_of_ten_cpu_ms: f64,
    /// Time of INIT, in milliseconds.
    pub(crate) init_ms: f64,
    /// The log line of an ack, in bytes.
    pub(crate) ack_log_bytes: f64,
    /// An ack's share of the metrics under load, in bytes. One by itself has a line of its own, 245
    /// bytes (docs/reference/metrics.md).
    pub(crate) ack_metrics_bytes: f64,
    /// The metrics of a batch of ten, in bytes.
    pub(crate) batch_metrics_bytes: f64,
    /// The log line of a delivery, in bytes.
    pub(crate) delivered_log_bytes: f64,
    /// The log line of a failed attempt, in bytes.
    pub(crate) failed_log_bytes: f64,
}

/// This relay, in a run of 2026-11-24 on an AMD EPYC. The lines are those of this relay's handlers,
/// counted.
pub(crate) const RUST: Measured = Measured {
    ack_cpu_ms: 0.289,
    batch_of_ten_cpu_ms: 3.15,
    init_ms: 4.95,
    ack_log_bytes: 176.0,
    ack_metrics_bytes: 9.0,
    batch_metrics_bytes: 635.0,
    delivered_log_bytes: 220.0,
    failed_log_bytes: 337.0,
};

/// Python: boto3, warmed; ten threads in the processor. It is given the same lines, so that only
/// the language differs.
pub(crate) const PYTHON: Measured = Measured {
    ack_cpu_ms: 1.182,
    batch_of_ten_cpu_ms: 28.7,
    init_ms: 244.0,
    ..RUST
};

/// Assumptions that cannot be measured without AWS, a target or a customer.
pub(crate) mod assumed {
    /// Time that SQS takes for a send from a function in its region, in milliseconds.
    pub(crate) const SEND_MS: f64 = 6.0;
    /// Time that DynamoDB takes for a write from a function in its region, in milliseconds.
    pub(crate) const WRITE_MS: f64 = 5.0;
    /// Share of invocations that begin with INIT.
    pub(crate) const COLD_SHARE: f64 = 0.001;
    /// Attributes of a message: ids, times, kept headers, in bytes.
    pub(crate) const ATTRIBUTES_BYTES: f64 = 330.0;
    /// Headers of a delivery, TLS counted and handshakes not, in bytes.
    pub(crate) const DELIVERY_OVERHEAD_BYTES: f64 = 800.0;
    /// Answer to the sender, in bytes.
    pub(crate) const ANSWER_BYTES: f64 = 350.0;
    /// Body of the target's answer to a delivery that it fails, in bytes. The record keeps some of
    /// it.
    pub(crate) const FAILURE_BYTES: f64 = 200.0;
    /// Share of a body that compression leaves.
    pub(crate) const COMPRESSED: f64 = 0.4;
}

/// Entrance of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// An HTTP API in front of the ingest function.
    Ingest,
    /// The ingest function under a URL of its own, without an API in front.
    FunctionUrl,
    /// An HTTP API that sends to the queue itself.
    Straight,
    /// A rule of EventBridge that sends to the queue. What the bus costs is the partner's
    /// (unverified).
    EventBridge,
}

impl Entrance {
    pub(super) fn has_function(self) -> bool {
        matches!(self, Self::Ingest | Self::FunctionUrl)
    }

    pub(super) fn has_api(self) -> bool {
        matches!(self, Self::Ingest | Self::Straight)
    }
}

/// Design of a relay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Design {
    /// Name in the tables.
    pub(crate) name: &'static str,
    pub(crate) entrance: Entrance,
    pub(crate) measured: Measured,
}

/// This relay.
pub(crate) const RELAY: Design = Design {
    name: "this relay",
    entrance: Entrance::Ingest,
    measured: RUST,
};

/// Designs that are compared. Behind the queue they differ in the language only.
pub(crate) const DESIGNS: [Design; 4] = [
    RELAY,
    Design {
        name: "API straight to SQS",
        entrance: Entrance::Straight,
        measured: RUST,
    },
    Design {
        name: "EventBridge rule",
        entrance: Entrance::EventBridge,
        measured: RUST,
    },
    Design {
        name: "Python functions",
        entrance: Entrance::Ingest,
        measured: PYTHON,
    },
];

/// Incoming events, and the answers of the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Workload {
    /// Size of a webhook's body, in bytes.
    pub(crate) body_bytes: f64,
    /// Share of attempts that fail and are tried again, 0 to 1; each attempt on its own.
    pub(crate) failing: f64,
    /// Share of events that the target refuses for good at their first attempt, 0 to 1.
    pub(crate) refused: f64,
    /// Events per second on average; what is paid by the minute is spread over them.
    pub(crate) events_per_second: f64,
    /// Messages of a batch on average. With one event every now and then it is 1, whatever
    /// `BatchSize` says.
    pub(crate) batch: f64,
    /// Time of the target for one delivery, in milliseconds.
    pub(crate) target_ms: f64,
}

/// Stack with few events: batches of one.
pub(crate) const QUIET: Workload = Workload {
    body_bytes: 2048.0,
    failing: 0.01,
    refused: 0.0,
    events_per_second: 10.0,
    batch: 1.0,
    target_ms: 100.0,
};

/// Stack under load: full batches.
pub(crate) const BUSY: Workload = Workload {
    events_per_second: 800.0,
    batch: 10.0,
    ..QUIET
};

/// Parameters of `template.yaml`, and possible changes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setup {
    /// `FunctionMemoryMB`.
    pub(crate) memory_mb: f64,
    /// `Architecture`.
    pub(crate) architecture: Architecture,
    /// `MaxReceiveCount`.
    pub(crate) max_receives: u32,
    /// `SecretsCacheSeconds`.
    pub(crate) secrets_cache_seconds: f64,
    pub(crate) logs: Logs,
    /// `Tracing` is `Active`.
    pub(crate) traces: bool,
    /// Dollars per million write units.
    pub(crate) dollars_per_million_writes: f64,
    /// The first receive of an event writes a claim; otherwise it reads, and two copies can be
    /// delivered at once.
    pub(crate) claims_at_once: bool,
}

/// Log lines of successes. Failures are always logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logs {
    /// One for each ack and each delivery (`LogLevel` info).
    pub(crate) events: bool,
    /// Lambda's own START, END and REPORT, as in its text format; the template leaves them out
    /// (`SystemLogLevel`).
    pub(crate) platform: bool,
    /// One for each request to the HTTP API.
    pub(crate) access: bool,
}

/// The template's defaults.
pub(crate) const AS_SHIPPED: Setup = Setup {
    memory_mb: 256.0,
    architecture: Architecture::Arm64,
    max_receives: 10,
    secrets_cache_seconds: 300.0,
    logs: Logs {
        events: true,
        platform: false,
        access: true,
    },
    traces: false,
    dollars_per_million_writes: WRITES,
    claims_at_once: true,
};
