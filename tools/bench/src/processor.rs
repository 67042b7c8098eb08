//! The processor beside the same work in Python with threads: how long a batch takes, against the
//! target's own time, and how much CPU.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use local::server::Server;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::figures::{Figures, Samples};
use crate::ingest::Effort;
use crate::lab::Lab;
use crate::process::{self, cpu_micros, peak_megabytes};
use crate::programs::{Function, Programs};

/// Those that are measured, in turn.
pub(crate) const PROGRAMS: [Function; 2] =
    [Function::Relay("processor"), Function::Python("processor")];

/// Sizes of batches.
pub(crate) const SIZES: [usize; 3] = [1, 10, 100];

/// Response time of the target.
const TARGET_TIME: Duration = Duration::from_millis(100);

/// Of so many records, how many the target refuses with 503.
pub(crate) const FAILING: [usize; 2] = [0, 30];

pub(crate) const WALL: &str = "wall ms";
pub(crate) const HELD: &str = "target ms";
pub(crate) const AGAINST_TARGET: &str = "wall ÷ target";
pub(crate) const CPU: &str = "CPU ms";
pub(crate) const PEAK: &str = "peak MB";

/// All of them, in the order of the table.
pub(crate) const FIGURES: [&str; 5] = [WALL, HELD, AGAINST_TARGET, CPU, PEAK];

/// Name of a row.
pub(crate) fn row(function: Function, size: usize, failing: usize) -> String {
    format!("{}, batch of {size}, {failing} % failing", function.name())
}

/// Measures every program with every size, in turn.
pub(crate) async fn measure(
    lab: &Lab,
    programs: &Programs,
    Effort { rounds, .. }: Effort,
) -> Result<Figures> {
    let mut figures = Figures::default();
    let target = Target::start(lab).await?;
    // Each of them has a dozen batches of every kind, which take forty seconds.
    let rounds = rounds.div_ceil(3);
    for round in 1..=rounds {
        eprintln!("processor and its peer: round {round} of {rounds}");
        for failing in FAILING {
            for size in SIZES {
                for function in PROGRAMS {
                    batches(
                        lab,
                        programs,
                        &target,
                        function,
                        size,
                        failing,
                        &mut figures,
                    )
                    .await?;
                }
            }
        }
    }
    Ok(figures)
}

/// Batches in a row, the first two of which only open connections.
async fn batches(
    lab: &Lab,
    programs: &Programs,
    target: &Target,
    function: Function,
    size: usize,
    failing: usize,
    figures: &mut Figures,
) -> Result<()> {
    const COUNTED: u32 = 10;
    let mut process = process::start(lab.launch(function, programs, &target.url())?).await?;
    process.init().await?;
    let mut walls = Vec::new();
    let mut cpu = 0.0;
    for batch in 0..2 + COUNTED {
        if batch == 2 {
            target
                .held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
            cpu = cpu_micros(process.pid())?;
        }
        let records: Vec<Value> = (0..size)
            .map(|number| record(is_failing(number, size, failing, batch)))
            .collect();
        let expected = records.iter().filter(|record| fails(record)).count();
        let answer = process
            .invoke(json!({ "Records": records }).to_string())
            .await?;
        let returned = answer
            .outcome
            .map_err(|error| anyhow::anyhow!("{}", String::from_utf8_lossy(&error)))?;
        let returned: Value = serde_json::from_slice(&returned)?;
        let kept = returned["batchItemFailures"].as_array().map_or(0, Vec::len);
        ensure!(
            kept == expected,
            "{} keeps {kept} records in place of {expected}",
            function.name()
        );
        if batch >= 2 {
            walls.push(answer.took.as_secs_f64() * 1e3);
        }
    }
    let cpu = (cpu_micros(process.pid())? - cpu) / 1e3 / f64::from(COUNTED);
    let held: Samples = target
        .held
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .copied()
        .collect();
    let held = held.quantile(0.5).context("the target got nothing")?;
    let wall = walls
        .into_iter()
        .collect::<Samples>()
        .quantile(0.5)
        .context("no batches")?;
    let row = row(function, size, failing);
    figures.add(&row, WALL, wall);
    figures.add(&row, HELD, held);
    figures.add(&row, AGAINST_TARGET, wall / held);
    figures.add(&row, CPU, cpu);
    figures.add(&row, PEAK, peak_megabytes(process.pid())?);
    Ok(())
}

/// True where the target refuses this record of this batch; of batches of one, whole batches fail.
fn is_failing(number: usize, size: usize, failing: usize, batch: u32) -> bool {
    let place = if size == 1 {
        batch as usize % 10 * 10
    } else {
        number * 100 / size
    };
    place < failing
}

/// Message of a first receive, as the event source mapping passes it.
pub(crate) fn record(fails: bool) -> Value {
    let now = Timestamp::now();
    let number = fastrand::u128(..);
    let text = |value: &str| json!({ "stringValue": value, "dataType": "String" });
    json!({
        "messageId": format!("{number:032x}"),
        "receiptHandle": format!("receipt-{number:032x}"),
        "body": json!({ "id": format!("{number:032x}"), "fails": fails, "text": "Hi Alice, your parcel has left the warehouse." }).to_string(),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": now.as_millisecond().to_string(),
        },
        "messageAttributes": {
            "event_id": text(&format!("{number:032x}")),
            "source": text("generic"),
            "received_at": text(&now.to_string()),
            "content_type": text("application/json"),
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:events",
        "awsRegion": "us-east-1",
    })
}

fn fails(record: &Value) -> bool {
    record["body"]
        .as_str()
        .is_some_and(|body| body.contains(r#""fails":true"#))
}

/// A target over HTTPS that takes its time, and knows how long that was.
pub(crate) struct Target {
    _server: Server,
    front: crate::https::Front,
    /// For each delivery: from when it was there to when its answer left, in milliseconds.
    held: Arc<Mutex<Vec<f64>>>,
}

impl Target {
    pub(crate) async fn start(lab: &Lab) -> Result<Self> {
        let held = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&held);
        let server = Server::start(move |request| answer(request, Arc::clone(&shared))).await?;
        let front = lab.authority.front(&server.url(), Duration::ZERO).await?;
        Ok(Self {
            _server: server,
            front,
            held,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/events", self.front.url())
    }
}

async fn answer(
    request: Request<Incoming>,
    held: Arc<Mutex<Vec<f64>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let began = Instant::now();
    sleep(TARGET_TIME).await;
    let mut response = Response::new(Full::from("{}"));
    let marker = br#""fails":true"#;
    if body.windows(marker.len()).any(|part| part == marker) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    held.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(began.elapsed().as_secs_f64() * 1e3);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_of_a_hundred_records_fail_whatever_the_size_of_a_batch() {
        for size in SIZES {
            let batches = if size == 1 { 2..12 } else { 2..3 };
            let records = batches.clone().len() * size;
            let failing = |failing| {
                let all = batches
                    .clone()
                    .flat_map(|batch| (0..size).map(move |number| (number, batch)));
                all.filter(|&(number, batch)| is_failing(number, size, failing, batch))
                    .count()
            };
            assert_eq!((failing(30) * 10, failing(0)), (records * 3, 0), "{size}");
        }
    }
}
