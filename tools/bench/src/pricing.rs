//! Costs of a million events, and quotas under load: the tables of `COST.md` and `SCALE.md`.
//!
//! A model over `prices.json`, which has each price, count and quota with its source, and the texts
//! of the tables. Nothing here calls AWS.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::figures::rounded;

/// Values of the model by name. A design, a load and a change are sets of other values.
type Inputs = BTreeMap<String, f64>;

const GB: f64 = 1024.0 * 1024.0 * 1024.0;
const MILLION: f64 = 1_000_000.0;
const MONTH: f64 = 30.0 * 24.0 * 3600.0;

/// `prices.json`.
#[derive(Deserialize)]
struct Data {
    /// Each value with its source.
    inputs: BTreeMap<String, (f64, String)>,
    designs: Vec<Inputs>,
    /// The lines of a [`bill`].
    components: Vec<String>,
    busy: Inputs,
    raised: Inputs,
    /// Rows of tables: the first cells, and the values that are other there.
    rows: BTreeMap<String, Vec<(String, Inputs)>>,
    changes: Vec<(String, Inputs, String)>,
    /// Units per month of what is paid without an event.
    monthly: Vec<(String, Inputs)>,
    /// Names and units of the [`needs`].
    quotas: Vec<[String; 2]>,
    /// Titles and heads.
    tables: BTreeMap<String, (String, Vec<String>)>,
}

static DATA: LazyLock<Data> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../prices.json")).expect("prices.json is well formed")
});

fn defaults() -> Inputs {
    let value = |(name, (value, _)): (&String, &(f64, String))| (name.clone(), *value);
    DATA.inputs.iter().map(value).collect()
}

fn with(base: &Inputs, changes: &Inputs) -> Inputs {
    base.clone().into_iter().chain(changes.clone()).collect()
}

fn set<const N: usize>(base: &Inputs, changes: [(&str, f64); N]) -> Inputs {
    let changes = changes.map(|(name, value)| (name.to_owned(), value));
    with(base, &changes.into())
}

/// The receives of an event, from 1.
fn receives(v: &Inputs) -> impl Iterator<Item = f64> + use<> {
    let most = v["max_receives"];
    (1..=u8::MAX).map(f64::from).take_while(move |n| *n <= most)
}

/// Deliveries that are tried for one event, on average.
fn attempts(v: &Inputs) -> f64 {
    receives(v).map(|n| v["failing"].powf(n - 1.0)).sum()
}

/// The billed time of one ack and of one batch, in milliseconds: what they wait for, and their CPU
/// time on a share of a core. Begun milliseconds are billed.
fn billed_ms(v: &Inputs) -> (f64, f64) {
    let core = (v["memory_mb"] / v["core_mb"]).min(1.0);
    let ack = v["send_ms"] + v["ack_cpu_ms"] / core;
    let cpu = v["ten_cpu_ms"] / 10.0 * v["batch"] / core;
    let batch = v["in_line"] * (v["target_ms"] + 2.0 * v["write_ms"]) + cpu;
    (ack.ceil(), batch.ceil())
}

/// Mean use of the events table by one event over its life: write units; of these, those of the
/// index, which a write that enters or leaves it takes on top; read units; and bytes stored.
fn table_use(v: &Inputs) -> [f64; 4] {
    let [mut writes, mut index, mut reads, mut stored] = [0.0; 4];
    let record = |failed: f64| v["record_bytes"] + failed * v["failed_attempt_bytes"];
    let units = |bytes: f64| (bytes / v["write_bytes"]).ceil();
    for receive in receives(v) {
        let share = v["failing"].powf(receive - 1.0);
        let (fails, before) = (share * v["failing"], record(receive - 1.0));
        // Each receive but the first reads before it claims.
        let (claims, looks) = match v["claims_at_once"] {
            claims if receive < 2.0 => (claims, 1.0 - claims),
            _ => (1.0, 1.0),
        };
        let delivered = before + v["attempt_bytes"];
        reads += share * looks * (before / v["read_bytes"]).ceil();
        writes += share * claims * units(before) + (share - fails) * units(delivered);
        stored += (share - fails) * (delivered + v["stored_bytes"]);
        // With an event that failed in line: its claim, and its end there.
        let in_line = v["waits_in_index"] * if receive < 2.0 { fails } else { 2.0 * share };
        index += in_line;
        writes += in_line;
        if receive < v["max_receives"] {
            writes += fails * units(record(receive));
        } else {
            let dead = record(receive) + v["death_bytes"];
            let body = v["body_item_bytes"] + v["body_bytes"] * v["compressed"];
            let enters = share * claims + share;
            index += enters;
            writes += fails * (units(dead) + units(body)) + enters;
            stored += fails * (dead + body + 2.0 * v["stored_bytes"]);
        }
    }
    [writes, index, reads, stored]
}

/// Dollars per million events by component.
fn bill(v: &Inputs) -> [f64; 19] {
    let (acks, batch, rate) = (v["has_ingest"], v["batch"], v["rate"]);
    let api = v["has_api"] * (v["body_bytes"] / v["http_api_bytes"]).ceil();
    let (attempts, [writes, _, reads, stored]) = (attempts(v), table_use(v));
    let delivered = 1.0 - v["failing"].powf(v["max_receives"]);
    let batches = attempts / batch;
    let (ack_ms, batch_ms) = billed_ms(v);
    let gb_seconds = |invocations: f64, ms: f64| {
        let seconds = invocations * (ms + v["cold_share"] * v["init_ms"].ceil()) / 1000.0;
        seconds * v["memory_mb"] / 1024.0 * v["gb_second"] * MILLION
    };
    let message = v["body_bytes"] + v["attributes_bytes"];
    let requests = |bytes: f64| (bytes / v["sqs_bytes"]).ceil() * v["sqs"];
    // A batch asks SQS to delete if something in it is done, and for another visibility if
    // something fails.
    let settles = 2.0 - v["failing"].powf(batch) - (1.0 - v["failing"]).powf(batch);
    let logs = |bytes: f64| bytes * MILLION / GB * v["logs_gb"];
    let successes = acks * v["ack_log_bytes"] + delivered * v["delivered_log_bytes"];
    let metrics = acks * v["ack_metrics_bytes"] + batches * v["batch_metrics_bytes"];
    let failures = (attempts - delivered) * v["failed_log_bytes"];
    let answer = (acks + api).min(1.0) * v["answer_bytes"];
    let transfer = attempts * (v["body_bytes"] + v["delivery_bytes"]) + answer;
    // Every environment reads the secret once while its copy lives.
    let secret_reads = |calls: f64, ms: f64| {
        let environments = (rate * calls * ms / 1000.0).max(1.0);
        (environments / (v["cache_seconds"] * rate)).min(calls)
    };
    // Of each function the first invocation in a second, and one in twenty after that ("Visualize
    // Lambda function invocations using AWS X-Ray").
    let traces = |calls: f64| (calls.min(1.0 / rate) * 0.95 + calls * 0.05) * v["traces"];
    [
        api * v["http_api"],
        acks * v["invocation"],
        gb_seconds(acks, ack_ms),
        requests(message),
        v["fair_queue"],
        batches * requests(batch * message),
        batches * settles * v["sqs"],
        batches * v["invocation"],
        gb_seconds(batches, batch_ms),
        writes * v["write"],
        reads * v["read"],
        stored * v["stored_months"] * MILLION / GB * v["stored_gb"],
        v["in_conversation"] * conversation_index(v),
        logs(v["event_lines"] * successes + failures + metrics),
        logs((acks + batches) * v["platform_log_bytes"]),
        logs(v["has_api"] * v["access_log_bytes"]),
        transfer * MILLION / GB * v["transfer_gb"],
        // The processor reads two.
        (secret_reads(acks, ack_ms) + 2.0 * secret_reads(batches, batch_ms)) * v["secret_read"],
        (traces(acks) + traces(batches)) * v["trace"],
    ]
}

/// Dollars per million events of conversations for their index. Its keys never change, so that only
/// the first write of a record is paid again.
fn conversation_index(v: &Inputs) -> f64 {
    let stored = v["in_conversation_bytes"] + v["stored_bytes"];
    v["write"] + stored * v["stored_months"] * MILLION / GB * v["index_gb"]
}

/// Dollars per million delivered events of the journal, and objects for each event: by a queue that
/// replay empties, and by an object that the processor writes for each batch.
fn journal(v: &Inputs) -> [(f64, f64); 2] {
    // A run receives ten messages at a time.
    const DRAINED: f64 = 10.0;
    let message = v["body_bytes"] + v["attributes_bytes"];
    let requests = |messages: f64| (messages * message / v["sqs_bytes"]).ceil() / messages;
    let gb_seconds = |ms: f64| ms * 1000.0 * v["memory_mb"] / 1024.0 * v["gb_second"];
    let months = v["journal_days"] / 30.0;
    let stored = message * v["compressed"] * months * MILLION / GB * v["archive_gb"];
    let of_a_run = (v["rate"] * v["drain_seconds"]).max(1.0);
    let objects = [
        1.0 / of_a_run.min((v["part_bytes"] / message).floor().max(1.0)),
        1.0 / v["batch"],
    ];
    // Sent, received and deleted.
    let queue = (requests(v["batch"]) + requests(DRAINED) + 1.0 / DRAINED) * v["sqs"]
        + gb_seconds(v["send_ms"] / v["batch"] + v["drain_ms"]);
    let waits = [queue, gb_seconds(v["put_ms"] / v["batch"])];
    [0, 1].map(|writer| {
        let puts = objects[writer] * v["put"];
        (waits[writer] + puts + stored, objects[writer])
    })
}

/// The same with events in the ordered queue, which takes the group's id without a surcharge.
fn ordered(v: &Inputs) -> Inputs {
    let changes = [
        ("sqs", v["fifo"]),
        ("fair_queue", 0.0),
        ("waits_in_index", 1.0),
    ];
    set(v, changes)
}

/// Requests to SQS for an event: to send, receive and settle it.
fn queue_requests(v: &Inputs) -> f64 {
    let [_, _, _, send, _, receive, settle, ..] = bill(v);
    (send + receive + settle) / v["sqs"]
}

fn total(v: &Inputs) -> f64 {
    bill(v).iter().sum()
}

/// Messages of a batch on average: one, until all invocations that may run do. Lambda's pollers may
/// gather more, so that this is the least, and what follows from it the most that is paid.
fn fill(v: &Inputs) -> f64 {
    let rate = v["rate"] * attempts(v) / v["concurrency"];
    // A fuller batch takes a little longer, which fills the next one a little more.
    (0..20).fold(1.0, |batch, _| {
        (rate * batch_seconds(v, batch)).clamp(1.0, v["batch_size"])
    })
}

fn batch_seconds(v: &Inputs, batch: f64) -> f64 {
    billed_ms(&set(v, [("batch", batch)])).1 / 1000.0
}

/// Seconds for which an event is in flight in all: in the processor, and between its attempts, with
/// the mean jitter (`src/domain/retry.rs`).
fn seconds_in_flight(v: &Inputs) -> f64 {
    let wait = |attempt: f64| v["failing"].powf(attempt) * backoff(v, attempt);
    let waits: f64 = receives(v).skip(1).map(|receive| wait(receive - 1.0)).sum();
    attempts(v) * batch_seconds(v, fill(v)) + waits
}

fn backoff(v: &Inputs, attempt: f64) -> f64 {
    let least = (v["backoff_base"] * (attempt - 1.0).exp2()).min(v["backoff_cap"]);
    least + (least / 10.0).floor().max(1.0) / 2.0
}

/// Seconds for which an event holds up its conversation: until it is delivered, or its patience is
/// over.
fn seconds_in_line(v: &Inputs) -> f64 {
    let (mut seconds, mut left) = (0.0, v["patience"]);
    for attempt in receives(v) {
        seconds += v["failing"].powf(attempt - 1.0) * batch_seconds(v, 1.0);
        let wait = backoff(v, attempt).min(left);
        left -= wait;
        seconds += v["failing"].powf(attempt) * wait;
        if left <= 0.0 {
            return seconds + v["failing"].powf(attempt) * batch_seconds(v, 1.0);
        }
    }
    seconds
}

/// What a load needs of each quota, and the quota, in the order in which an event meets them.
fn needs(v: &Inputs) -> [(f64, f64); 11] {
    let rate = v["rate"];
    let batches = rate * attempts(v) / v["batch_size"] * batch_seconds(v, v["batch_size"]);
    let [writes, index_writes, ..] = table_use(v);
    [
        (rate, v["throttle"]),
        (rate, v["api_rate"]),
        (rate, v["executions"] * v["requests_per_execution"]),
        (rate * billed_ms(v).0 / 1000.0 + batches, v["executions"]),
        (batches, v["concurrency"]),
        (rate * seconds_in_flight(v), v["in_flight"]),
        (rate * writes, v["new_table_writes"]),
        (rate * writes, v["table_writes"]),
        (rate * index_writes, v["index_writes"]),
        (rate, v["ordered_sends"]),
        (rate * seconds_in_line(v), v["ordered_in_flight"]),
    ]
}

fn table(name: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let (title, head) = &DATA.tables[name];
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    let rule = "---|".repeat(head.len());
    format!("### {title}\n\n{}|{rule}\n{rows}", line(head))
}

fn row(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells).collect()
}

/// A table with the rows that `prices.json` has for it.
fn grid(name: &str, base: &Inputs, cells: impl Fn(&Inputs) -> Vec<String>) -> String {
    let row = |(first, changes): &(String, Inputs)| row(first, cells(&with(base, changes)));
    table(name, DATA.rows[name].iter().map(row))
}

fn dollars(amount: f64) -> String {
    // No negative zero.
    format!("{:.2}", if amount.abs() < 0.005 { 0.0 } else { amount })
}

/// The tables of `COST.md`, as they stand between its markers.
pub(crate) fn costs() -> String {
    let quiet = defaults();
    let busy = with(&quiet, &DATA.busy);
    let bills = |v: &Inputs| -> Vec<[f64; 19]> {
        let designs = DATA.designs.iter();
        designs.map(|design| bill(&with(v, design))).collect()
    };
    let totals = |v: &Inputs| -> Vec<String> {
        let bills = bills(v).into_iter();
        bills.map(|bill| dollars(bill.iter().sum())).collect()
    };
    let components = |name: &str, v: &Inputs| {
        let (bills, names) = (bills(v), DATA.components.iter().enumerate());
        let of = |line: usize| bills.iter().map(move |bill| dollars(bill[line]));
        let rows = names.map(|(line, name)| row(name, of(line)));
        table(name, rows.chain([row("**all**", totals(v))]))
    };
    let retries = |v: &Inputs| {
        let [writes, _, reads, _] = table_use(v);
        let cost = writes * v["write"] + reads * v["read"];
        vec![rounded(writes), rounded(reads), dollars(cost)]
    };
    let changes = DATA.changes.iter().map(|(name, change, price)| {
        let saves = |v: &Inputs| dollars(total(v) - total(&with(v, change)));
        row(name, [saves(&busy), saves(&quiet), price.clone()])
    });
    // Messages are spread over the mapping's pollers, each of which gathers from its first one on.
    let loads = |v: &Inputs| {
        let per_poller = v["rate"] / v["pollers"];
        let batch = (1.0 + per_poller * v["window"]).clamp(fill(v), v["batch_size"]);
        let wait = v["window"].min((v["batch_size"] - 1.0) / per_poller);
        let cost = total(&set(v, [("batch", batch)]));
        let month = rounded(cost * v["rate"] * MONTH / MILLION);
        vec![rounded(batch), rounded(wait), dollars(cost), month]
    };
    let by_order = |v: &Inputs| {
        let (without, with) = (total(v), total(&ordered(v)));
        vec![rounded(queue_requests(v)), dollars(without), dollars(with)]
    };
    let by_writer = |v: &Inputs| -> Vec<String> {
        let cells = journal(v)
            .map(|(cost, objects)| [dollars(cost), rounded(objects * v["rate"] * 3600.0)]);
        cells.concat()
    };
    let monthly = DATA.monthly.iter().map(|(what, units)| {
        let cost = |(name, count): (&String, &f64)| match name.strip_suffix("_month") {
            Some(_) => quiet[name] * count,
            None => quiet[name] * count / MILLION,
        };
        row(what, [dollars(units.iter().map(cost).sum())])
    });
    let tables = [
        components("busy", &busy),
        components("quiet", &quiet),
        grid("sizes", &busy, totals),
        grid("failing", &busy, totals),
        grid("batches", &busy, totals),
        grid("retries", &set(&busy, [("failing", 1.0)]), retries),
        table("changes", changes),
        grid("loads", &quiet, loads),
        grid("order", &quiet, by_order),
        grid("journal", &quiet, by_writer),
        table("monthly", monthly),
    ];
    tables.join("\n")
}

/// The tables of `SCALE.md`, as they stand between its markers.
pub(crate) fn scale() -> String {
    let shipped = set(&defaults(), [("rate", 1.0)]);
    let raised = with(&shipped, &DATA.raised);
    // Every need grows with the rate alone.
    let full = |v: &Inputs, failing: f64, quota: usize| {
        let (need, limit) = needs(&set(v, [("failing", failing)]))[quota];
        rounded(limit / need)
    };
    let quotas = DATA.quotas.iter().enumerate();
    let capacities = quotas.map(|(index, [name, unit])| {
        let limit = rounded(needs(&shipped)[index].1);
        let rates = [0.0, 0.01, 0.7, 1.0].map(|failing| full(&shipped, failing, index));
        let cells = [unit.clone(), limit].into_iter().chain(rates);
        row(name, cells.chain([full(&raised, 0.0, index)]))
    });
    let in_flight = |v: &Inputs| {
        let seconds = |failing| seconds_in_flight(&set(v, [("failing", failing)]));
        let (all, most, quota) = (seconds(1.0), seconds(0.7), v["in_flight"]);
        [all, most, quota / most, quota / all].map(rounded).into()
    };
    let in_line = |v: &Inputs| {
        let seconds = seconds_in_line(v);
        vec![rounded(seconds), rounded(60.0 / seconds)]
    };
    let tables = [
        table("capacities", capacities),
        grid("in_flight", &shipped, in_flight),
        grid("in_line", &shipped, in_line),
    ];
    tables.join("\n")
}

#[cfg(test)]
mod tests;
