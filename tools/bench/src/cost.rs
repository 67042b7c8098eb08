//! What a million events cost: a pure calculator over list prices, and the tables of `COST.md`.
//!
//! Nothing here calls AWS. [`RUST`] and [`PYTHON`] hold what was measured, [`assumed`] what was not.

mod bill;
mod levers;
mod prices;
mod table;
mod table_use;
#[cfg(test)]
mod tests;

use self::bill::Bill;
use self::levers::{LEVERS, fixed};
use self::prices::{AS_OF, Architecture, WRITES};

pub(crate) use self::table::Table;
#[cfg(test)]
pub(crate) use self::table::marked;
pub(crate) use self::table_use::TableUse;

/// What one implementation was measured to need.
///
/// The values below are those of `results/results.md`, from one core of an x86-64 machine over loopback. When they change,
/// `COST.md` has to be printed anew, and a test says so.
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
    /// An ack's share of the metrics under load, in bytes. One by itself has a line of its own, 245 bytes (docs/reference/metrics.md).
    pub(crate) ack_metrics_bytes: f64,
    /// The metrics of a batch of ten, in bytes.
    pub(crate) batch_metrics_bytes: f64,
    /// The log line of a delivery, in bytes.
    pub(crate) delivered_log_bytes: f64,
    /// The log line of a failed attempt, in bytes.
    pub(crate) failed_log_bytes: f64,
}

/// This relay, in a run of 2026-11-24 on an AMD EPYC. The lines are those of this relay's handlers, counted.
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

/// Python: boto3, warmed; ten threads in the processor. It is given the same lines, so that only the language differs.
pub(crate) const PYTHON: Measured = Measured { ack_cpu_ms: 1.182, batch_of_ten_cpu_ms: 28.7, init_ms: 244.0, ..RUST };

/// What was not measured, because it needs AWS, a target or a customer. Change it to see what it moves.
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
    /// Body of the target's answer to a delivery that it fails, in bytes. The record keeps some of it.
    pub(crate) const FAILURE_BYTES: f64 = 200.0;
    /// What compression leaves of a body.
    pub(crate) const COMPRESSED: f64 = 0.4;
}

/// By what way events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// An HTTP API in front of the ingest function.
    Ingest,
    /// The ingest function under a URL of its own, without an API in front.
    FunctionUrl,
    /// An HTTP API that sends to the queue itself.
    Straight,
    /// A rule of EventBridge that sends to the queue. What the bus costs is the partner's (unverified).
    EventBridge,
}

impl Entrance {
    fn has_function(self) -> bool {
        matches!(self, Self::Ingest | Self::FunctionUrl)
    }

    fn has_api(self) -> bool {
        matches!(self, Self::Ingest | Self::Straight)
    }
}

/// A way of building the relay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Design {
    /// What the tables call it.
    pub(crate) name: &'static str,
    /// How events come in.
    pub(crate) entrance: Entrance,
    /// What its functions need.
    pub(crate) measured: Measured,
}

/// This relay.
pub(crate) const RELAY: Design = Design { name: "this relay", entrance: Entrance::Ingest, measured: RUST };

/// What is compared. Behind the queue all are the same but for the language.
pub(crate) const DESIGNS: [Design; 4] = [
    RELAY,
    Design { name: "API straight to SQS", entrance: Entrance::Straight, measured: RUST },
    Design { name: "EventBridge rule", entrance: Entrance::EventBridge, measured: RUST },
    Design { name: "Python functions", entrance: Entrance::Ingest, measured: PYTHON },
];

/// What comes in, and how the target takes it.
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
    /// Messages of a batch on average. With one event every now and then it is 1, whatever `BatchSize` says.
    pub(crate) batch: f64,
    /// Time of the target for one delivery, in milliseconds.
    pub(crate) target_ms: f64,
}

/// A stack that is hardly used: nothing fills a batch.
pub(crate) const QUIET: Workload =
    Workload { body_bytes: 2048.0, failing: 0.01, refused: 0.0, events_per_second: 10.0, batch: 1.0, target_ms: 100.0 };

/// A stack under load: every batch is full.
pub(crate) const BUSY: Workload = Workload { events_per_second: 800.0, batch: 10.0, ..QUIET };

/// How the stack is set up: the parameters of `template.yaml`, and what could be changed in it.
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
    /// What is logged.
    pub(crate) logs: Logs,
    /// `Tracing` is `Active`.
    pub(crate) traces: bool,
    /// Dollars per million write units.
    pub(crate) dollars_per_million_writes: f64,
    /// Whether the first receive of an event writes a claim; otherwise it reads, and two copies can be delivered at once.
    pub(crate) claims_at_once: bool,
}

/// Which lines are written for what goes well. Failures are always logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logs {
    /// One for each ack and each delivery (`LogLevel` info).
    pub(crate) events: bool,
    /// Lambda's own START, END and REPORT, as in its text format; the template leaves them out (`SystemLogLevel`).
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
    logs: Logs { events: true, platform: false, access: true },
    traces: false,
    dollars_per_million_writes: WRITES,
    claims_at_once: true,
};

/// Dollars per million events, by component.
pub(crate) fn bill(design: &Design, workload: &Workload, setup: &Setup) -> Bill {
    Bill::of(design, workload, setup)
}

/// The billed time of one ack and of one batch of this relay, in milliseconds.
pub(crate) fn billed_ms(workload: &Workload, setup: &Setup) -> (f64, f64) {
    bill::billed_ms(&RELAY.measured, workload, setup)
}

/// All tables of `COST.md`, as plain data.
pub(crate) fn tables() -> Vec<Table> {
    vec![
        by_component("A busy stack: full batches, 1 % of attempts fail, 2 KiB", &BUSY),
        by_component("A quiet stack: batches of one, 1 % of attempts fail, 2 KiB", &QUIET),
        by(
            "By size of the body (busy, 1 % of attempts fail)",
            "body, KiB",
            [1.0, 4.0, 16.0, 63.0, 64.0, 256.0, 1000.0]
                .map(|size| (format!("{size}"), Workload { body_bytes: size * 1024.0, ..BUSY })),
        ),
        by(
            "By share of attempts that fail (busy, 2 KiB)",
            "failing",
            [0.0, 0.01, 0.1, 0.3, 0.7, 1.0].map(|failing: f64| {
                let name = format!("{:.0} % ({:.1} % of events die)", failing * 100.0, failing.powi(10) * 100.0);
                (name, Workload { failing, ..BUSY })
            }),
        ),
        by(
            "By fullness of the batches (1 % of attempts fail, 2 KiB)",
            "messages per batch",
            [1.0, 2.0, 5.0, 10.0].map(|batch| (format!("{batch}"), Workload { batch, ..BUSY })),
        ),
        retries(),
        levers(),
        fixed(),
    ]
}

/// The tables of `COST.md`, as they stand between its markers.
pub(crate) fn markdown() -> String {
    let head = format!("List prices of us-east-1 as of {AS_OF}; dollars per million events unless said otherwise.\n");
    std::iter::once(head).chain(tables().iter().map(Table::markdown)).collect::<Vec<_>>().join("\n")
}

fn dollars(amount: f64) -> String {
    format!("{amount:.2}")
}

fn by_component(title: &str, workload: &Workload) -> Table {
    let bills = DESIGNS.map(|design| bill(&design, workload, &AS_SHIPPED));
    let mut table = Table::new(title, std::iter::once("component").chain(DESIGNS.map(|design| design.name)));
    for (index, line) in bills[0].lines.iter().enumerate() {
        let costs = bills.iter().map(|bill| dollars(bill.lines[index].dollars));
        table.push(std::iter::once(line.component.to_owned()).chain(costs));
    }
    table.push(std::iter::once("**all**".to_owned()).chain(bills.iter().map(|bill| dollars(bill.total()))));
    table
}

fn by<const ROWS: usize>(title: &str, what: &'static str, rows: [(String, Workload); ROWS]) -> Table {
    let mut table = Table::new(title, std::iter::once(what).chain(DESIGNS.map(|design| design.name)));
    for (name, workload) in rows {
        let totals = DESIGNS.map(|design| dollars(bill(&design, &workload, &AS_SHIPPED).total()));
        table.push(std::iter::once(name).chain(totals));
    }
    table
}

/// What one event takes of the table, by how many receives it uses up before it dies.
fn retries() -> Table {
    let head = ["receives", "requests that write", "write units", "read units", "dollars per million dead events"];
    let mut table = Table::new("What an event that is never delivered takes of the table (2 KiB)", head);
    for max_receives in [2, 4, 7, 10] {
        let setup = Setup { max_receives, ..AS_SHIPPED };
        let used = TableUse::of(&Workload { failing: 1.0, ..BUSY }, &setup);
        let cost = used.writes * setup.dollars_per_million_writes + used.reads * prices::READS;
        let requests = format!("{}", 2 * max_receives + 1);
        let (writes, reads) = (format!("{:.0}", used.writes), format!("{:.0}", used.reads));
        table.push([format!("{max_receives}"), requests, writes, reads, dollars(cost)]);
    }
    table
}

fn levers() -> Table {
    let head = ["change", "busy saves", "quiet saves", "what it costs beside"];
    let mut table = Table::new("What could be saved, one change at a time", head);
    for lever in LEVERS {
        let saves = |workload: &Workload| {
            let (design, changed, setup) = (lever.change)(RELAY, *workload, AS_SHIPPED);
            let saved = bill(&RELAY, workload, &AS_SHIPPED).total() - bill(&design, &changed, &setup).total();
            // No negative zero.
            dollars(if saved.abs() < 0.005 { 0.0 } else { saved })
        };
        table.push([lever.name.to_owned(), saves(&BUSY), saves(&QUIET), lever.price.to_owned()]);
    }
    table
}
